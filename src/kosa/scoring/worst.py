"""The rows of largest loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from kosa.scoring.exact import Integers
from kosa.scoring.rows import Rows
from kosa.scoring.scores import WorstRow

_NAMES = (int, str, type(None))  # exactly these: True is an int too


@dataclass(frozen=True)
class Kept:
    """A row among the worst, its classes by number; one that was `numbered` has its number for an id."""

    row: int
    numbered: bool
    given: int | str | None
    label: int
    loss: float
    predicted: int
    probability: float

    @property
    def rank(self) -> tuple[float, int]:
        """Sorts the worst first; NaN is as bad as infinity, and of equals the first row comes first."""
        return (-math.inf if math.isnan(self.loss) else -self.loss, self.row)

    @property
    def id(self) -> int | str | None:
        """What names the row."""
        return self.row if self.numbered else self.given

    def named(self, names: Sequence[str]) -> WorstRow:
        """With the classes' names; a row of NaN predicts none."""
        predicted = None if self.predicted < 0 else names[self.predicted]
        return WorstRow(self.row, self.id, names[self.label], self.loss, predicted, self.probability)

    def stored(self) -> list[Any]:
        """JSON values: floats as hexadecimal text, which is exact and knows infinity and NaN."""
        return [
            self.row,
            self.given,
            self.numbered,
            self.label,
            self.loss.hex(),
            self.predicted,
            self.probability.hex(),
        ]

    @classmethod
    def restored(cls, stored: list[Any], classes: int) -> "Kept":
        row, identity, numbered, label, loss, predicted, probability = stored
        if not all(type(value) is int for value in (row, label, predicted)) or type(numbered) is not bool:
            raise ValueError("a row that is none")
        if not (0 <= label < classes and -1 <= predicted < classes and row >= 0):
            raise ValueError("a row of no class")
        if type(identity) not in _NAMES or (numbered and identity is not None):
            raise ValueError("a row of no name")
        return cls(row, numbered, identity, label, float.fromhex(loss), predicted, float.fromhex(probability))


class Worst:
    """At most `most` rows, the worst first.

    Rows that came since the last sort wait until there are as many of them as are kept: to sort with every batch would
    take longer than all else where batches are small.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: list[Kept] = []
        self._sorted = True
        self._last: Kept | None = None  # of those kept at the last sort, if they were enough

    @property
    def rows(self) -> list[Kept]:
        """The rows, the worst first."""
        if not self._sorted:
            self._sort()
        return self._rows

    @rows.setter
    def rows(self, rows: list[Kept]) -> None:
        self._rows, self._sorted, self._last = rows, False, None

    def add(self, rows: Rows, used: Integers | None) -> None:
        """Look through a batch; `used` are the rows that count, None for all."""
        if not self._most:
            return
        loss = rows.loss if used is None else rows.loss[used]
        rank = np.where(np.isnan(loss), np.inf, loss)
        places = np.arange(len(rank))
        if self._last is not None:
            least = -self._last.rank[0]
            places = np.flatnonzero(rank >= least)
            # Of equal losses the first rows are kept; where all are equal, each batch would else bring its share.
            number = rows.first + (places if used is None else used[places])
            places = places[(rank[places] > least) | (number < self._last.row)]
        if len(places) > self._most:
            # Which of equal losses are kept must not depend on the batches.
            values = rank[places]
            least = np.partition(values, -self._most)[-self._most]
            above = places[values > least]
            level = places[values == least][: self._most - len(above)]
            places = np.concatenate([above, level])
        self._extend([_kept(rows, int(index)) for index in (places if used is None else used[places])])

    def merge(self, other: Self) -> None:
        self._extend(other._rows)

    def shift(self, offset: int) -> None:
        """Number all rows `offset` later."""
        self.rows = [replace(row, row=row.row + offset) for row in self.rows]

    def _sort(self) -> None:
        self._rows = sorted(self._rows, key=lambda row: row.rank)[: self._most]
        self._sorted = True
        self._last = self._rows[-1] if 0 < self._most == len(self._rows) else None

    def _extend(self, rows: list[Kept]) -> None:
        if not rows:
            return
        self._rows.extend(rows)
        self._sorted = False
        if len(self._rows) >= 2 * self._most:
            self._sort()


def _kept(rows: Rows, index: int) -> Kept:
    identity: Any = None if rows.ids is None else rows.ids[index]
    if hasattr(identity, "as_py"):
        identity = identity.as_py()
    elif isinstance(identity, np.generic):
        identity = identity.item()
    return Kept(
        row=rows.first + index,
        numbered=rows.ids is None,
        given=identity if type(identity) in _NAMES else str(identity),
        label=int(rows.label[index]),
        loss=float(rows.loss[index]),
        predicted=int(rows.predicted[index]),
        probability=float(rows.confidence[index]),
    )
