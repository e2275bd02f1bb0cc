"""Tables of exact sums: rows and weight by group number, and by key, of groups that are not known beforehand."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from kosa.scoring.exact import ExactSums, Floats, Integers


class Tally:
    """How many rows, and what weight, each group 0..groups−1 has."""

    def __init__(self, groups: int, weighted: bool) -> None:
        self.rows: Integers = np.zeros(groups, dtype=np.int64)
        self._weight = ExactSums(groups) if weighted else None

    def add(self, group: Integers, weight: Floats | None) -> None:
        """Add rows to their groups."""
        from kosa.cpu import exact

        exact.count_into(np.ascontiguousarray(group, dtype=np.int64), self.rows)
        if self._weight is not None:
            assert weight is not None
            self._weight.add(weight, group)

    @property
    def weight(self) -> ExactSums:
        """Σw by group."""
        return ExactSums.of_counts(self.rows) if self._weight is None else self._weight

    def merge(self, other: Self) -> None:
        self.rows += other.rows
        if self._weight is not None and other._weight is not None:
            self._weight.merge(other._weight)

    def resize(self, groups: int) -> None:
        """Make room for more groups."""
        self.rows = np.concatenate([self.rows, np.zeros(groups - len(self.rows), dtype=np.int64)])
        if self._weight is not None:
            self._weight.resize(groups)

    def regrouped(self, group: Integers, groups: int) -> "Tally":
        """Groups of groups: the k-th of these is part of group[k]."""
        found = Tally(groups, self._weight is not None)
        np.add.at(found.rows, group, self.rows)
        if self._weight is not None:
            found._weight = self._weight.regrouped(group, groups)
        return found

    def stored(self) -> dict[str, Any]:
        index = np.flatnonzero(self.rows)
        return {
            "groups": len(self.rows),
            "index": index.astype(np.int64),
            "rows": self.rows[index],
            "weight": None if self._weight is None else self._weight.stored(),
        }

    @classmethod
    def restored(cls, stored: dict[str, Any]) -> "Tally":
        groups, index, rows = int(stored["groups"]), stored["index"], stored["rows"]
        tally = cls(groups, stored["weight"] is not None)
        if index.dtype != np.int64 or rows.dtype != np.int64 or index.shape != rows.shape or (rows < 1).any():
            raise ValueError("counts that do not fit their groups")
        if len(index) and (index[0] < 0 or index[-1] >= groups or (np.diff(index) <= 0).any()):
            raise ValueError("counts of no group")
        tally.rows[index] = rows
        if stored["weight"] is not None:
            tally._weight = ExactSums.restored(stored["weight"])
            if tally._weight.groups != groups:
                raise ValueError("weights that do not fit their groups")
        return tally


class KeyedSums:
    """Rows, weight, correct rows and Σ w·loss by key; keys (names, or numbers) are met as they come."""

    def __init__(self, weighted: bool) -> None:
        self.keys: dict[Any, int] = {}
        self.rows, self.correct = Tally(0, weighted), Tally(0, weighted)
        self.loss = ExactSums(0)

    def __len__(self) -> int:
        return len(self.keys)

    def place(self, keys: Sequence[Any]) -> Integers:
        """Where each key's sums are; new keys get a place."""
        places = self.keys
        found = np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.int64)
        if len(places) > self.loss.groups:
            self._resize(max(2 * self.loss.groups, len(places), 64))
        return found

    def add(self, place: Integers, loss: Floats, weight: Floats | None, correct: Integers | None) -> None:
        """Add rows' weighted losses at their places; `correct` are the indices of the rows that are."""
        self.rows.add(place, weight)
        self.loss.add(loss, place)
        if correct is not None:
            self.correct.add(place[correct], None if weight is None else weight[correct])

    def merge(self, other: Self) -> None:
        self._add_table(other, self.place(list(other.keys)))

    def fold(self, other: Self, place: Integers) -> None:
        """Add each of another's keys at a place of its own choice."""
        self._add_table(other, place)

    def _add_table(self, other: "KeyedSums", place: Integers) -> None:
        # Unused places at the end go with the first: they are empty.
        padded = np.zeros(other.loss.groups, dtype=np.int64)
        padded[: len(place)] = place
        groups = self.loss.groups
        if not groups:
            return
        self.rows.merge(other.rows.regrouped(padded, groups))
        self.correct.merge(other.correct.regrouped(padded, groups))
        self.loss.merge(other.loss.regrouped(padded, groups))

    def ordered(self, keys: Sequence[Any]) -> "KeyedSums":
        """The same sums, their keys in this order and no room to spare."""
        found = KeyedSums(self.rows._weight is not None)
        found.place(keys)
        found._resize(len(keys))
        found.merge(self)
        return found

    def _resize(self, groups: int) -> None:
        if groups >= self.loss.groups:
            for part in (self.rows, self.correct, self.loss):
                part.resize(groups)
            return
        places = np.arange(self.loss.groups).clip(max=max(groups - 1, 0))
        self.rows, self.correct = self.rows.regrouped(places, groups), self.correct.regrouped(places, groups)
        self.loss = self.loss.regrouped(places, groups)

    def stored(self) -> dict[str, Any]:
        return {part: getattr(self, part).stored() for part in ("rows", "correct", "loss")}

    @classmethod
    def restored(cls, keys: Sequence[Any], stored: dict[str, Any], weighted: bool) -> "KeyedSums":
        found = cls(weighted)
        found.keys = {key: place for place, key in enumerate(keys)}
        found.rows, found.correct = Tally.restored(stored["rows"]), Tally.restored(stored["correct"])
        found.loss = ExactSums.restored(stored["loss"])
        sizes = {len(found.rows.rows), len(found.correct.rows), found.loss.groups}
        if len(found.keys) != len(keys) or sizes != {len(keys)}:
            raise ValueError("a table that does not fit its keys")
        return found
