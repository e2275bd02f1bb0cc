"""A against B: two sets of predictions for the same rows, compared row by row."""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.batch import Batch
from kosa.scoring.classes import Coded
from kosa.scoring.comparison import Comparison, PairScore
from kosa.scoring.errors import InputError, listing
from kosa.scoring.exact import ExactSums, Floats, Integers, rounded
from kosa.scoring.figures import standard_error
from kosa.scoring.groups import Groups
from kosa.scoring.interval import t_quantile
from kosa.scoring.result import Score
from kosa.scoring.rows import Rows
from kosa.scoring.scorer import Scorer
from kosa.scoring.setup import Setup
from kosa.scoring.tables import Tally
from kosa.scoring.tokenreaders import TokenIds

_SLACK = 1e-6  # by which soft targets may differ: one file may hold them as float32


@dataclass(frozen=True)
class Evaluated:
    """A batch of one side, evaluated: where its rows come from, their ids, and the classes' names."""

    batch: Batch
    rows: Rows
    classes: tuple[str, ...]


def in_step(left: Iterator[Batch], right: Iterator[Batch]) -> Iterator[tuple[Batch, Batch]]:
    """The batches of two sources, cut so that each pair has the same rows; holds one batch of each."""
    ours, theirs = _next(left), _next(right)
    while ours is not None and theirs is not None:
        count = min(len(ours.predictions), len(theirs.predictions))
        yield part(ours, 0, count), part(theirs, 0, count)
        ours = part(ours, count) if count < len(ours.predictions) else _next(left)
        theirs = part(theirs, count) if count < len(theirs.predictions) else _next(right)
    rest = ours or theirs
    if rest is not None:
        ended = "A" if ours is None else "B"
        raise InputError(
            f"{rest.place.row(0)} has no counterpart: {ended} has {rest.first} rows and the other more; "
            "`against` compares the same rows in the same order"
        )


def _next(batches: Iterator[Batch]) -> Batch | None:
    return next((batch for batch in batches if len(batch.predictions)), None)


def part(batch: Batch, start: int, stop: int | None = None) -> Batch:
    """Some consecutive rows of a batch."""
    if start == 0 and (stop is None or stop == len(batch.predictions)):
        return batch
    rows = slice(start, stop)
    targets, group = batch.targets, batch.group
    return replace(
        batch,
        predictions=batch.predictions[rows],
        targets=_coded(targets, rows) if isinstance(targets, Coded) else targets[rows],
        weights=None if batch.weights is None else batch.weights[rows],
        ids=None if batch.ids is None else batch.ids[rows],
        group=_coded(group, rows) if isinstance(group, Coded) else None if group is None else group[rows],
        units={unit: count[rows] for unit, count in batch.units.items()},
        place=batch.place.after(start),
        first=batch.first + start,
    )


def _coded(column: Coded, rows: slice) -> Coded:
    return replace(column, codes=column.codes[rows])


def compare(
    ours: Generator[Batch, None, None],
    theirs: Generator[Batch, None, None],
    a: Scorer,
    b: Scorer,
    name: str,
    view: Mapping[str, Any],
    progress: Callable[[int, float], object] | None,
) -> Score:
    """The figures of A, which hold its comparison with B; the batches of both are read in step."""
    paired: Paired | None = None
    with closing(ours), closing(theirs):
        for left, right in in_step(ours, theirs):
            if right.weights is not None:
                _require_same_padding(left, right)
            # Weights, groups and units are A's: they say how rows count, not what was predicted.
            right = replace(right, weights=left.weights, group=left.group, units=left.units)
            rows, others = a.evaluate(left), b.evaluate(right)
            assert a.state is not None
            assert b.state is not None
            a.state.update(rows)
            b.state.update(others)
            if paired is None:
                paired = Paired(a.state.setup)
            paired.update(
                Evaluated(left, rows, a.state.setup.classes), Evaluated(right, others, b.state.setup.classes)
            )
            if progress is not None:
                progress(a.rows, left.fraction)
    found = a.result(**view)
    assert paired is not None
    return replace(found, against=paired.result(name, b.result(**view), view["confidence"]))


class Paired:
    """The differences of loss of the rows seen so far, loss of A less loss of B: exact sums of d and of d²."""

    def __init__(self, setup: Setup) -> None:
        classes, weighted = len(setup.classes), setup.weighted
        self.setup = setup
        self.rows = 0
        # Named as the parts of a State, so that the standard error is one function for both.
        self.classes, self.wins = Tally(classes, weighted), Tally(classes, weighted)
        self.losses, self.ties = Tally(1, weighted), Tally(1, weighted)
        self.loss = ExactSums(classes)
        self.square, self.cross, self.weight_square = ExactSums(), ExactSums(), ExactSums()
        self.groups = Groups(weighted)

    def update(self, ours: Evaluated, theirs: Evaluated) -> None:
        """Add a batch of both sides; rows that are not the same on both are an InputError that names the first."""
        _require_same_ids(ours.batch, theirs.batch)
        _require_same_targets(ours, theirs)
        rows = ours.rows
        self.rows += len(rows)
        used = None if rows.weight is None else np.flatnonzero(rows.weight > 0)
        label, weight = rows.label, rows.weight
        with np.errstate(invalid="ignore"):
            # Both infinite: whatever a clip would make of them, it makes the same of both.
            same = rows.loss == theirs.rows.loss
            difference = np.where(same, 0.0, rows.loss - theirs.rows.loss)
        if used is not None:
            label, difference, same = label[used], difference[used], same[used]
            weight = None if weight is None else weight[used]
        self._count(label, difference, same, weight, rows, used)

    def _count(
        self,
        label: Integers,
        difference: Floats,
        same: NDArray[np.bool_],
        weight: Floats | None,
        rows: Rows,
        used: Integers | None,
    ) -> None:
        weighted = difference if weight is None else weight * difference
        won = np.flatnonzero(difference < 0)
        self.classes.add(label, weight)
        _add(self.wins, won, label, weight)
        nowhere = np.zeros(len(label), dtype=np.int64)
        _add(self.losses, np.flatnonzero(difference > 0), nowhere, weight)
        _add(self.ties, np.flatnonzero(same), nowhere, weight)
        self.loss.add(weighted, label)
        self.square.add_products(weighted, weighted)
        if weight is not None:
            self.cross.add_products(weight, weighted)
            self.weight_square.add_products(weight, weight)
        if self.setup.group is not None and rows.group is not None:
            group = rows.group
            if used is not None:
                group = replace(group, codes=group.codes[used]) if isinstance(group, Coded) else group[used]
            self.groups.add(group, rows.first, used, weighted, weight, won)

    def result(self, name: str, theirs: Score, confidence: float) -> Comparison:
        """The comparison; `name` is B's, `theirs` its figures."""
        weight = self.classes.weight.exact()
        if not weight:
            raise InputError(f"the weights of all {self.rows} rows are 0: a mean has no denominator")
        total = self.loss.exact()
        mean = self.loss.special() or rounded(total / weight)
        error, clusters = standard_error(self, total, weight)
        reach = error * t_quantile(0.5 + confidence / 2, clusters - 1) if clusters > 1 else math.nan
        return Comparison(
            name=name,
            rows=self.rows,
            weight=rounded(weight),
            difference=mean,
            standard_error=error,
            low=mean - reach,
            high=mean + reach,
            confidence=confidence,
            interval_over="rows" if self.setup.group is None else self.setup.group,
            clusters=clusters,
            wins=rounded(self.wins.weight.exact() / weight),
            ties=rounded(self.ties.weight.exact() / weight),
            losses=rounded(self.losses.weight.exact() / weight),
            classes=_pairs(self.setup.classes, self.classes, self.loss, self.wins, rounded(weight)),
            groups=self._group_pairs(rounded(weight)),
            score=theirs,
        )

    def _group_pairs(self, weight: float) -> tuple[PairScore, ...]:
        if self.setup.group is None or self.groups.bucketed:
            return ()
        sums = self.groups.sums()
        return _pairs(list(sums.keys), sums.rows, sums.loss, sums.correct, weight)


def _add(tally: Tally, chosen: Integers, group: Integers, weight: Floats | None) -> None:
    tally.add(group[chosen], None if weight is None else weight[chosen])


def _pairs(
    names: Sequence[str], rows: Tally, loss: ExactSums, wins: Tally, whole: float
) -> tuple[PairScore, ...]:
    weight, sums, won = rows.weight.values(), loss.values(), wins.weight.values()
    with np.errstate(invalid="ignore", divide="ignore"):
        columns = (rows.rows, weight, sums / weight, sums / whole, won / weight)
    return tuple(
        PairScore(*entry) for entry in zip(names, *(column.tolist() for column in columns), strict=True)
    )


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
    if here == there:
        return
    row = next(at for at, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1])
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
