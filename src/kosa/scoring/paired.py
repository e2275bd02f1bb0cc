"""Differences of loss of two sets of predictions, row by row: their exact sums, and the comparison that these give."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.classes import Coded
from kosa.scoring.errors import InputError
from kosa.scoring.exact import ExactSums, Floats, Integers, rounded
from kosa.scoring.groups import Groups
from kosa.scoring.interval import t_quantile
from kosa.scoring.result import Score
from kosa.scoring.rows import Rows
from kosa.scoring.scores import Comparison, PairScore
from kosa.scoring.setup import Setup
from kosa.scoring.spread import standard_error
from kosa.scoring.tables import Tally

# Every part that merges by itself, in the order in which a file holds them.
PARTS = ("classes", "wins", "losses", "ties", "loss", "square", "cross", "weight_square", "groups")


class Paired:
    """The differences d of loss of the rows seen so far, loss of A less loss of B: exact sums of d and d². They merge."""

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

    def update(self, ours: Rows, theirs: Rows) -> None:
        """Add a batch of both sides, the same rows: their weights, groups and classes are ours."""
        self.rows += len(ours)
        used = None if ours.weight is None else np.flatnonzero(ours.weight > 0)
        label, weight = ours.label, ours.weight
        with np.errstate(invalid="ignore", over="ignore"):
            # Both infinite: whatever a clip would make of them, it makes the same of both.
            same = ours.loss == theirs.loss
            difference = np.where(same, 0.0, ours.loss - theirs.loss)
        if used is not None:
            label, difference, same = label[used], difference[used], same[used]
            weight = None if weight is None else weight[used]
        self._count(label, difference, same, weight, ours, used)

    def _count(
        self,
        label: Integers,
        difference: Floats,
        same: NDArray[np.bool_],
        weight: Floats | None,
        rows: Rows,
        used: Integers | None,
    ) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
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

    def merge(self, other: Self) -> None:
        """Add what another has seen of other rows."""
        self.rows += other.rows
        for name in PARTS:
            getattr(self, name).merge(getattr(other, name))

    def stored(self) -> dict[str, Any]:
        """What `restored` reads."""
        return {name: getattr(self, name).stored() for name in PARTS}

    @classmethod
    def restored(cls, values: dict[str, Any], setup: Setup, rows: int) -> "Paired":
        """Read back; ValueError, TypeError or LookupError where it does not fit together."""
        found = cls(setup)
        found.rows = rows
        if set(values) != set(PARTS):
            raise ValueError("a part that there is not, or one that is missing")
        for name, value in values.items():
            empty: Any = getattr(found, name)
            if isinstance(empty, Groups):
                setattr(found, name, Groups.restored(value, setup.weighted))
            elif isinstance(empty, Tally):
                setattr(found, name, Tally.restored(value, len(empty.rows), setup.weighted))
            else:
                setattr(found, name, ExactSums.restored(value, empty.groups))
        return found

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
        return _pairs(self.groups.names(), sums.rows, sums.loss, sums.correct, weight)


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
