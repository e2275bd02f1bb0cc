"""A against B: two sets of predictions for the same rows, compared row by row."""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kosa.scoring.batch import Batch
from kosa.scoring.errors import InputError, listing
from kosa.scoring.pairstate import PairState
from kosa.scoring.result import Score
from kosa.scoring.rows import Rows
from kosa.scoring.scorer import Scorer
from kosa.scoring.tokenreaders import TokenIds

_SLACK = 1e-6  # by which soft targets may differ: one file may hold them as float32


@dataclass(frozen=True)
class Evaluated:
    """A batch of one side, evaluated: where its rows come from, their ids, and the classes' names."""

    batch: Batch
    rows: Rows
    classes: tuple[str, ...]


def in_step(
    left: Iterator[Batch], right: Iterator[Batch], whole: bool = True
) -> Iterator[tuple[Batch, Batch]]:
    """The batches of two sources, cut so that each pair has the same rows; holds one batch of each.

    whole: whether these are all rows; else they are of the same rows of both files, and can differ only in the numbers of
    tokens of documents.
    """
    ours, theirs = _next(left), _next(right)
    while ours is not None and theirs is not None:
        count = min(len(ours.predictions), len(theirs.predictions))
        yield ours.part(0, count), theirs.part(0, count)
        ours = ours.part(count) if count < len(ours.predictions) else _next(left)
        theirs = theirs.part(count) if count < len(theirs.predictions) else _next(right)
    rest = ours or theirs
    if rest is not None:
        ended = "A" if ours is None else "B"
        rows = f"{rest.first} rows" if whole else "fewer tokens in these documents"
        raise unpaired(rest.place.row(0), f"{ended} has {rows}")


def unpaired(row: str, ended: str) -> InputError:
    """That one side has more rows than the other."""
    return InputError(
        f"{row} has no counterpart: {ended} and the other more; `against` compares the same rows in the same order"
    )


def _next(batches: Iterator[Batch]) -> Batch | None:
    return next((batch for batch in batches if len(batch.predictions)), None)


class PairScorer:
    """A scorer of two sets of predictions: as `Scorer` is of one, with a batch of each for the same rows."""

    def __init__(self, ours: Scorer, theirs: Scorer, name: str) -> None:
        self._ours, self._theirs, self._name = ours, theirs, name
        self.state: PairState | None = None

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self.state.rows if self.state else 0

    def start(self, left: Batch, right: Batch) -> None:
        """Learn the classes from the first batches, and add nothing."""
        self._ours.start(left)
        self._theirs.start(_counting_as(right, left))
        assert self._ours.state is not None
        assert self._theirs.state is not None
        self.state = PairState(self._ours.state.setup, self._theirs.state.setup, self._name)

    def fresh(self) -> "PairScorer":
        """One that knows what this one has learnt, and has seen nothing."""
        found = copy(self)
        found._ours, found._theirs = self._ours.fresh(), self._theirs.fresh()
        if self.state is not None:
            found.state = PairState(self.state.ours.setup, self.state.theirs.setup, self._name)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """As of a Scorer: without the state's tables."""
        return self.__dict__ | {"state": None}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.__dict__ |= kept
        ours, theirs = self._ours.state, self._theirs.state
        if ours is not None and theirs is not None:
            self.state = PairState(ours.setup, theirs.setup, self._name)

    def update(self, left: Batch, right: Batch) -> None:
        """Add a batch of both; rows that are not the same on both sides are an InputError that names the first."""
        if self.state is None:
            self.start(left, right)
        assert self.state is not None
        if right.weights is not None:
            _require_same_padding(left, right)
        right = _counting_as(right, left)
        ours = Evaluated(left, self._ours.evaluate(left), self.state.ours.setup.classes)
        theirs = Evaluated(right, self._theirs.evaluate(right), self.state.theirs.setup.classes)
        _require_same_ids(left, right)
        _require_same_targets(ours, theirs)
        self.state.update(ours.rows, theirs.rows)

    def result(self, **view: Any) -> Score:
        """The figures of all batches; see `State.result`."""
        if self.state is None:
            raise InputError("no rows: there is nothing to score")
        return self.state.result(**view)


def _counting_as(right: Batch, left: Batch) -> Batch:
    """Weights, groups and units are A's: they say how rows count, not what was predicted."""
    return replace(right, weights=left.weights, group=left.group, units=left.units)


def _require_same_padding(ours: Batch, theirs: Batch) -> None:
    """A token of A that B holds for padding would be compared with nothing."""
    bad = theirs.weights == 0 if theirs.weights is not None else np.zeros(0, dtype=bool)
    if ours.weights is not None:
        bad = bad & (ours.weights > 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(
            f"{ours.place.row(row)} holds a token, but {theirs.place.row(row)} is padding; `against` compares "
            "the same rows in the same order"
        )


def _require_same_ids(ours: Batch, theirs: Batch) -> None:
    """Compare the ids, where both sides have them."""
    if ours.ids is None or theirs.ids is None:
        return
    if isinstance(ours.ids, TokenIds) and isinstance(theirs.ids, TokenIds) and ours.ids.same(theirs.ids):
        return
    here, there = _list(ours.ids), _list(theirs.ids)
    # NaN is the only one that is not itself.
    differ = (
        mine != other and (mine == mine or other == other) for mine, other in zip(here, there, strict=True)
    )
    row = next((at for at, differs in enumerate(differ) if differs), None)
    if row is None:
        return
    raise InputError(
        f"{ours.place.row(row)} has the id {here[row]!r}, but {theirs.place.row(row)} {there[row]!r}; `against` "
        "compares the same rows in the same order"
    )


def _list(ids: Any) -> list[Any]:
    if isinstance(ids, TokenIds):
        return [ids[at] for at in range(len(ids))]
    found: list[Any] = ids.tolist()
    return found


def _require_same_targets(ours: Evaluated, theirs: Evaluated) -> None:
    """Compare the targets by the classes' names: B's classes may stand in another order."""
    label, mass = theirs.rows.label, theirs.rows.mass
    if ours.classes != theirs.classes:
        number = {name: at for at, name in enumerate(ours.classes)}
        if number.keys() != set(theirs.classes):
            raise InputError(
                f"A has the classes {listing(ours.classes)} and B {listing(theirs.classes)}; `classes` gives "
                "both the same names"
            )
        label = np.array([number[name] for name in theirs.classes], dtype=np.int64)[label]
        if mass is not None:
            mass = mass[:, [theirs.classes.index(name) for name in ours.classes]]
    if (ours.rows.mass is None) != (mass is None):
        # Soft targets on one side only: they may still say labels.
        one_hot = np.eye(len(ours.classes))
        mine = one_hot[ours.rows.label] if ours.rows.mass is None else ours.rows.mass
        other = one_hot[label] if mass is None else mass
        bad = (np.abs(mine - other) > _SLACK).any(axis=1)
    elif ours.rows.mass is not None and mass is not None:
        bad = (np.abs(ours.rows.mass - mass) > _SLACK).any(axis=1)
    else:
        bad = ours.rows.label != label
    if ours.rows.weight is not None:
        bad &= ours.rows.weight > 0
    if bad.any():
        row = int(np.argmax(bad))
        here, there = ours.classes[int(ours.rows.label[row])], ours.classes[int(label[row])]
        raise InputError(
            f"{ours.batch.place.row(row)} has the target {here!r}, but {theirs.batch.place.row(row)} "
            f"{there!r}; `against` compares the same rows in the same order"
        )
