"""Tables of exact sums: rows and weight by group number, and by name, of groups that are not known beforehand."""

from collections.abc import Iterable, Sequence
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

    def chosen(self, index: Integers) -> "Tally":
        """Some of the groups."""
        found = Tally(0, False)
        found.rows = self.rows[index]
        found._weight = None if self._weight is None else self._weight.chosen(index)
        return found

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
    def restored(cls, stored: dict[str, Any], groups: int, weighted: bool) -> "Tally":
        """The table of so many groups that was stored; ValueError where it cannot be."""
        index, rows = stored["index"], stored["rows"]
        if stored["groups"] != groups or (stored["weight"] is None) == weighted:
            raise ValueError("a table of another size")
        tally = cls(groups, weighted)
        if index.dtype != np.int64 or rows.dtype != np.int64 or index.shape != rows.shape or (rows < 1).any():
            raise ValueError("counts that do not fit their groups")
        if len(index) and (index[0] < 0 or index[-1] >= groups or (np.diff(index) <= 0).any()):
            raise ValueError("counts of no group")
        tally.rows[index] = rows
        if weighted:
            tally._weight = ExactSums.restored(stored["weight"], groups)
            if (tally._weight.signs() != np.sign(tally.rows)).any():
                raise ValueError("rows whose weight is not positive, or weight of no rows")
        return tally


class TableSums:
    """Rows, weight, correct rows and Σ w·loss by place; there may be room for more places than are used."""

    def __init__(self, weighted: bool) -> None:
        self.rows, self.correct = Tally(0, weighted), Tally(0, weighted)
        self.loss = ExactSums(0)

    def need(self, places: int) -> None:
        """Make room for so many places, and for more where there was too little."""
        room = self.loss.groups
        if places > room:
            for part in (self.rows, self.correct, self.loss):
                part.resize(max(2 * room, places, 64))

    def add(self, place: Integers, loss: Floats, weight: Floats | None, correct: Integers | None) -> None:
        """Add rows' weighted losses at their places; `correct` are the indices of the rows that are."""
        self.rows.add(place, weight)
        self.loss.add(loss, place)
        if correct is not None:
            self.correct.add(place[correct], None if weight is None else weight[correct])

    def fold(self, other: "TableSums", place: Integers) -> None:
        """Add each of another's first sums at a place of its own choice."""
        groups = self.loss.groups
        if not groups:
            return
        used = np.arange(len(place))
        for part in ("rows", "correct", "loss"):
            getattr(self, part).merge(getattr(other, part).chosen(used).regrouped(place, groups))

    def chosen(self, place: Integers) -> "TableSums":
        """The sums at some places."""
        found = TableSums(False)
        found.rows, found.correct = self.rows.chosen(place), self.correct.chosen(place)
        found.loss = self.loss.chosen(place)
        return found

    def stored(self) -> dict[str, Any]:
        return {part: getattr(self, part).stored() for part in ("rows", "correct", "loss")}

    @classmethod
    def restored(cls, keys: int, stored: dict[str, Any], weighted: bool) -> "TableSums":
        found = cls(weighted)
        found.rows = Tally.restored(stored["rows"], keys, weighted)
        found.correct = Tally.restored(stored["correct"], keys, weighted)
        found.loss = ExactSums.restored(stored["loss"], keys)
        if (found.correct.rows > found.rows.rows).any():
            raise ValueError("more correct rows than rows")
        return found


class KeyedSums:
    """Sums by name; names are met as they come."""

    def __init__(self, weighted: bool) -> None:
        self.keys: dict[Any, int] = {}
        self.sums = TableSums(weighted)

    def place(self, keys: Iterable[Any]) -> Integers:
        """Where each key's sums are; new keys get a place."""
        places = self.keys
        found = np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.int64)
        self.sums.need(len(places))
        return found

    def merge(self, other: Self) -> None:
        place = self.place(other.keys)
        self.sums.fold(other.sums, place)

    def ordered(self, keys: Iterable[Any]) -> TableSums:
        """The sums of some keys, in this order."""
        return self.sums.chosen(np.array([self.keys[key] for key in keys], dtype=np.int64))

    @classmethod
    def restored(cls, keys: Sequence[Any], stored: dict[str, Any], weighted: bool) -> "KeyedSums":
        found = cls(weighted)
        found.keys = {key: place for place, key in enumerate(keys)}
        if len(found.keys) != len(keys):
            raise ValueError("a table with the same key twice")
        found.sums = TableSums.restored(len(keys), stored, weighted)
        return found
