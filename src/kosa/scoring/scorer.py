"""From batches to a state."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from kosa.scoring import tokens
from kosa.scoring.batch import Batch
from kosa.scoring.classes import Classes
from kosa.scoring.errors import InputError, InputTypeError
from kosa.scoring.evaluate import evaluate
from kosa.scoring.kinds import Suspicion
from kosa.scoring.result import Score
from kosa.scoring.rows import Rows
from kosa.scoring.setup import Setup
from kosa.scoring.state import State


class Scorer:
    """Checks batches against each other, evaluates them, and keeps their state."""

    def __init__(
        self,
        kind: str,
        classes: Sequence[str] | None,
        *,
        force: bool,
        worst: int,
        top_k: Sequence[int] = (),
        group: str | None = None,
        per: Sequence[str] = (),
        temperature: bool = False,
    ) -> None:
        self._kind = kind
        self._given = classes
        self._force = force
        self._kept: dict[str, Any] = {
            "worst": worst,
            "top_k": tuple(top_k),
            "group": group,
            "per": tuple(per),
            "temperature": temperature,
        }
        self._suspicion = Suspicion()
        self.state: State | None = None
        self._width = 0

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self.state.rows if self.state else 0

    def update(self, batch: Batch) -> None:
        """Add a batch."""
        rows = self.evaluate(batch)
        assert self.state is not None
        self.state.update(rows)

    def evaluate(self, batch: Batch) -> Rows:
        """The losses of a batch that fits those before; the state stays as it is."""
        shape = batch.predictions.shape
        width = shape[1] if len(shape) > 1 else 0
        if self.state is None:
            self._start(batch, width)
        elif width != self._width:
            raise InputError(
                f"{batch.place.row(0)}: {width or 1} predictions in a row, {self._width or 1} in those before"
            )
        assert self.state is not None
        if self._kind == "logits" and width and not self._force:
            self._suspicion.look(batch.predictions, batch.place)
        setup = self.state.setup
        return evaluate(
            self._kind,
            batch,
            self._classes,
            self._force,
            top_k=bool(setup.top_k),
            temperature=setup.temperature,
        )

    def start(self, batch: Batch) -> None:
        """Learn the classes from the first batch, and add nothing."""
        self._start(batch, batch.predictions.shape[1] if batch.predictions.ndim > 1 else 0)

    def fresh(self) -> "Scorer":
        """One that knows what this one has learnt, and has seen nothing."""
        found = copy(self)
        found._suspicion = Suspicion()
        found.state = None if self.state is None else State(self.state.setup)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Without the state's tables, which may be large and are empty where a scorer is sent: their setup says all."""
        return self.__dict__ | {"state": None if self.state is None else self.state.setup}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__ |= kept | {"state": None if kept["state"] is None else State(kept["state"])}

    def _start(self, batch: Batch, width: int) -> None:
        """Learn the classes from the first batch."""
        self._width = width
        if self._kind == tokens.KIND:
            self._classes = Classes(tokens.CLASSES)
        else:
            self._classes = Classes.choose(width or 2, self._given, batch.carried, binary=not width)
        self.state = State(
            Setup(
                self._classes.names,
                self._kind,
                weighted=batch.weights is not None,
                **self._kept,
            )
        )

    def result(
        self,
        *,
        confidence: float = 0.95,
        bins: int = 15,
        equal_mass: bool = False,
        totals: Mapping[str, float | None] | None = None,
    ) -> Score:
        """The figures of all batches; see `State.result`."""
        if self.state is None:
            raise InputError("no rows: there is nothing to score")
        return self.state.result(confidence=confidence, bins=bins, equal_mass=equal_mass, totals=totals)


@dataclass(frozen=True)
class Units:
    """What perplexity is wanted per: units counted by columns (or keys, or arrays), and units whose total is known.

    A total of None: every row is one.
    """

    counted: Mapping[str, Any]
    totals: Mapping[str, float | None]

    @classmethod
    def of(cls, per: Any) -> "Units":
        """From what the user said: a name, or a mapping from names to None, a total, a column or an array."""
        if per is None:
            return cls({}, {})
        said = {per: None} if isinstance(per, str) else per
        if not isinstance(said, Mapping) or not all(isinstance(unit, str) and unit for unit in said):
            raise InputTypeError(
                f"`per` is {per!r}; expected a unit's name, or units with their columns or totals, as in "
                '{"bytes": "n_bytes"}'
            )
        totals = {
            unit: None if count is None else _total(unit, count)
            for unit, count in said.items()
            if count is None or (np.ndim(count) == 0 and not isinstance(count, str))
        }
        return cls({unit: count for unit, count in said.items() if unit not in totals}, totals)


def _total(unit: str, count: Any) -> float:
    try:
        if not isinstance(count, bool):
            return float(count)
    except (TypeError, ValueError):
        pass
    raise InputTypeError(
        f"`per`: {count!r} {unit}; expected a column, an array of counts, or the total number"
    )


def top_k_of(said: Any) -> tuple[int, ...]:
    """The k of the top-k accuracies, in order."""
    values = () if said is None else tuple(said) if isinstance(said, list | tuple) else (said,)
    for k in values:
        if isinstance(k, bool) or not isinstance(k, int | np.integer):
            raise InputTypeError(f"`top_k` is {said!r}, expected a whole number, or several")
        if k < 1:
            raise InputError(f"`top_k` is {k}, expected 1 or more")
    return tuple(sorted({int(k) for k in values}))
