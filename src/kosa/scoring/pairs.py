"""Sums by confused pair of classes: a table that grows with the data up to a bound."""

from typing import Any, Self

import numpy as np

from kosa.scoring.exact import Floats, Integers
from kosa.scoring.tables import TableSums

MOST_PAIRS = 1 << 18
_MOST_PLACES = 1 << 22  # 16 MiB: up to 2,048 classes

_NONE: Integers = np.empty(0, dtype=np.int64)


class Confusions:
    """Sums by pair (class of the target, another class that was predicted); beyond 262,144 pairs none.

    A pair's number is label·K + predicted. No pair is a Python object: half a million of them took longer than the
    reading of their rows.
    """

    def __init__(self, classes: int, weighted: bool) -> None:
        self._classes = classes
        self._sums: TableSums | None = TableSums(weighted)
        # Pairs in order, and where the sums of each are; where it is of bearable size a table finds a pair's place.
        self._pairs, self._at = _NONE, _NONE
        few = classes * classes <= _MOST_PLACES
        self._table = np.full(classes * classes, -1, dtype=np.int32) if few else None

    def add(self, label: Integers, predicted: Integers, loss: Floats, weight: Floats | None) -> None:
        """Add rows that are not correct."""
        if self._sums is None or not len(label):
            return
        pair = label * self._classes + predicted
        if self._table is None:
            distinct, codes = np.unique(pair, return_inverse=True)
            place = self._place(distinct)[codes]
        else:
            place = self._table[pair].astype(np.int64)
            if place.min() < 0:
                self._place(np.unique(pair[place < 0]))
                place = self._table[pair].astype(np.int64)
        self._sums.add(place, loss, weight, None)
        self._forget_too_many()

    def _place(self, pairs: Integers) -> Integers:
        """Where the sums of pairs are, which are in order; new ones get a place."""
        assert self._sums is not None
        place = self._find(pairs)
        new = pairs[place < 0]
        if len(new):
            count = len(self._pairs)
            at = np.arange(count, count + len(new))
            before = np.searchsorted(self._pairs, new)
            self._pairs, self._at = np.insert(self._pairs, before, new), np.insert(self._at, before, at)
            if self._table is not None:
                self._table[new] = at
            self._sums.need(len(self._pairs))
            place[place < 0] = at
        return place

    def _find(self, pairs: Integers) -> Integers:
        """The places of pairs; −1: none yet."""
        if self._table is not None:
            return self._table[pairs].astype(np.int64)
        if not len(self._pairs):
            return np.full(len(pairs), -1)
        near = np.searchsorted(self._pairs, pairs).clip(max=len(self._pairs) - 1)
        return np.where(self._pairs[near] == pairs, self._at[near], -1)

    def merge(self, other: Self) -> None:
        if self._sums is None or other._sums is None:
            self._forget()
            return
        place = self._place(other._pairs)
        self._sums.fold(other._sums.chosen(other._at), place)
        self._forget_too_many()

    def _forget_too_many(self) -> None:
        if len(self._pairs) > MOST_PAIRS:
            self._forget()

    def _forget(self) -> None:
        self._sums = self._table = None
        self._pairs = self._at = _NONE

    def sums(self) -> tuple[Integers, TableSums] | None:
        """The pairs in order, and their sums; None of too many."""
        return None if self._sums is None else (self._pairs, self._sums.chosen(self._at))

    def stored(self) -> dict[str, Any]:
        found = self.sums()
        if found is None:
            return {"pairs": None, "sums": None}
        return {"pairs": found[0], "sums": found[1].stored()}

    @classmethod
    def restored(cls, stored: dict[str, Any], classes: int, weighted: bool) -> "Confusions":
        found = cls(classes, weighted)
        pairs = stored["pairs"]
        if pairs is None:
            found._forget()
            return found
        if (
            pairs.dtype != np.int64
            or pairs.ndim != 1
            or len(pairs) > MOST_PAIRS
            or (pairs < 0).any()
            or (pairs >= classes * classes).any()
            or (np.diff(pairs) <= 0).any()
        ):
            raise ValueError("pairs of classes that there are not")
        sums = TableSums.restored(len(pairs), stored["sums"], weighted)
        found._place(pairs)
        found._sums = sums
        return found
