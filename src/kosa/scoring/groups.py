"""Sums by group: a table that grows with the data up to a bound."""

from typing import Any, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.classes import Coded
from kosa.scoring.errors import InputTypeError
from kosa.scoring.exact import Floats, Integers
from kosa.scoring.tables import KeyedSums, TableSums

MOST_GROUPS = 1 << 16


class Groups:
    """Sums by the name of a group.

    Beyond 65,536 names the groups fall into as many buckets by a hash of their names. Rows of one group
    always share a bucket, so an error that treats buckets as independent is as valid as one of groups; which
    bucket a group is in depends on its name alone, so the figures still do not depend on order or batches.
    """

    def __init__(self, weighted: bool) -> None:
        self._weighted = weighted
        self._sums = KeyedSums(weighted)
        self._first: dict[str, int] = {}  # the number of each group's first row
        self.bucketed = False

    def add(
        self,
        group: "NDArray[Any] | Coded",
        first: int,
        used: Integers | None,
        loss: Floats,
        weight: Floats | None,
        correct: Integers,
    ) -> None:
        """Add rows; `used` are their numbers from `first` on, None for all."""
        names, codes = _coded(group)
        present = np.full(len(names), -1, dtype=np.int64)
        # Of several values assigned to one place the last stays: so the order is turned round.
        present[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
        kept = np.flatnonzero(present >= 0)
        numbers = (present[kept] if used is None else used[present[kept]]) + first
        here = [names[at] for at in kept.tolist()]
        places = np.zeros(len(names), dtype=np.int64)
        places[kept] = self._place(here, numbers.tolist())
        self._sums.sums.add(places[codes], loss, weight, correct)

    def _place(self, names: list[str], numbers: list[int]) -> Integers:
        if not self.bucketed:
            for name, number in zip(names, numbers, strict=True):
                self._first[name] = min(number, self._first.get(name, number))
            if len(self._first) <= MOST_GROUPS:
                return self._sums.place(names)
            self._to_buckets()
        return _buckets(names)

    def _to_buckets(self) -> None:
        if self.bucketed:
            return
        old, self._sums = self._sums, KeyedSums(self._weighted)
        self._sums.place(range(MOST_GROUPS))
        self._sums.sums.fold(old.sums, _buckets(list(old.keys)))
        self._first, self.bucketed = {}, True

    def merge(self, other: Self) -> None:
        union = len(self._first.keys() | other._first.keys())
        if self.bucketed or other.bucketed or union > MOST_GROUPS:
            self._to_buckets()
            if other.bucketed:
                self._sums.merge(other._sums)
            else:
                self._sums.sums.fold(other._sums.sums, _buckets(list(other._sums.keys)))
            return
        for name, number in other._first.items():
            self._first[name] = min(number, self._first.get(name, number))
        self._sums.merge(other._sums)

    def shift(self, offset: int) -> None:
        """Number all rows `offset` later."""
        self._first = {name: number + offset for name, number in self._first.items()}

    def names(self) -> list[str]:
        """The groups in order of their first rows; none where only buckets are kept."""
        return sorted(self._first, key=lambda name: (self._first[name], name))

    def sums(self) -> TableSums:
        """The groups' sums in the order of `names`, or the buckets'."""
        return self._sums.ordered(range(MOST_GROUPS) if self.bucketed else self.names())

    def stored(self) -> dict[str, Any]:
        names = self.names()
        return {
            "bucketed": self.bucketed,
            "names": names,
            "first": np.array([self._first[name] for name in names], dtype=np.int64),
            "sums": self.sums().stored(),
        }

    @classmethod
    def restored(cls, stored: dict[str, Any], weighted: bool) -> "Groups":
        found = cls(weighted)
        names, first = stored["names"], stored["first"]
        found.bucketed = stored["bucketed"]
        if type(found.bucketed) is not bool or not all(type(name) is str for name in names):
            raise ValueError("no names of groups")
        if first.dtype != np.int64 or first.shape != (len(names),) or (found.bucketed and names):
            raise ValueError("groups without their first rows")
        found._first = dict(zip(names, first.tolist(), strict=True))
        keys = range(MOST_GROUPS) if found.bucketed else names
        found._sums = KeyedSums.restored(keys, stored["sums"], weighted)
        return found


def _buckets(names: list[str]) -> Integers:
    return np.array(
        [crc32(name.encode("utf-8", "surrogatepass")) % MOST_GROUPS for name in names], dtype=np.int64
    )


def check_group(group: "NDArray[Any] | Coded") -> None:
    """Refuse what names no groups."""
    if not isinstance(group, Coded) and (group.ndim != 1 or group.dtype.kind not in "iub"):
        raise InputTypeError(f"`group` holds {group.dtype.name}, expected one string or integer a row")


def _coded(group: "NDArray[Any] | Coded") -> tuple[list[str], Integers]:
    """Distinct names, and for each row which."""
    if isinstance(group, Coded):
        return list(group.values), np.asarray(group.codes, dtype=np.int64)
    values, codes = np.unique(group, return_inverse=True)
    return [str(value) for value in values.tolist()], codes.astype(np.int64)


def squares(sums: TableSums) -> tuple[int, int, int, int]:
    """Σ S², Σ S·W, Σ W² and the count of the groups of positive weight, S = Σ w·loss and W = Σw of each.

    Exact integers, in units of 1/SCALE².
    """
    loss, up = sums.loss.short_integers()
    weight, across = sums.rows.weight.short_integers()
    pairs = [(s, w) for s, w in zip(loss, weight, strict=True) if w]
    return (
        sum(s * s for s, _ in pairs) << (2 * up),
        sum(s * w for s, w in pairs) << (up + across),
        sum(w * w for _, w in pairs) << (2 * across),
        len(pairs),
    )
