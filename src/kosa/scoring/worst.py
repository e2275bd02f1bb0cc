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
    """At most `most` rows, the worst first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.rows: list[Kept] = []

    def add(self, rows: Rows, used: Integers | None) -> None:
        """Look through a batch; `used` are the rows that count, None for all."""
        if not self._most:
            return
        loss = rows.loss if used is None else rows.loss[used]
        rank = np.where(np.isnan(loss), np.inf, loss)
        full = len(self.rows) == self._most
        candidates = np.flatnonzero(rank >= (-self.rows[-1].rank[0] if full else -np.inf))
        if len(candidates) > self._most:
            # Of equal losses the first rows are kept: which they are must not depend on the batches.
            values = rank[candidates]
            least = np.partition(values, -self._most)[-self._most]
            above = candidates[values > least]
            level = candidates[values == least][: self._most - len(above)]
            candidates = np.concatenate([above, level])
        if used is not None:
            candidates = used[candidates]
        self._set(self.rows + [_kept(rows, int(index)) for index in candidates])

    def merge(self, other: Self) -> None:
        self._set(self.rows + other.rows)

    def shift(self, offset: int) -> None:
        """Number all rows `offset` later."""
        self.rows = [replace(row, row=row.row + offset) for row in self.rows]

    def _set(self, rows: list[Kept]) -> None:
        self.rows = sorted(rows, key=lambda row: row.rank)[: self._most]


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
