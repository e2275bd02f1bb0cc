"""What is kept of a data set while it streams by: exact sums and counts, tables, and the worst rows. They merge."""

from bisect import bisect_left
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.calibration import CONFIDENCES, LOSSES, confidence_bins, loss_bins
from kosa.scoring.coverage import Source, joined
from kosa.scoring.errors import InputError
from kosa.scoring.exact import ExactSums, Floats, Integers
from kosa.scoring.groups import Groups, check_group
from kosa.scoring.pairs import Confusions
from kosa.scoring.rows import Rows
from kosa.scoring.setup import Setup
from kosa.scoring.tables import Tally
from kosa.scoring.temperature import COLUMNS
from kosa.scoring.worst import Worst

_MOST_ROW = 1 << 62  # a row's number, and so a count, fits int64 with room to spare


class Sums:
    """All that the figures of the rows seen so far are made of, the same for any batches, order or merges."""

    def __init__(self, setup: Setup) -> None:
        classes, weighted = len(setup.classes), setup.weighted
        self.setup = setup
        self.rows = 0
        self.notes: dict[str, Any] = {}
        self.sources: tuple[Source, ...] = ()
        self._ranges: list[tuple[int, int]] = []
        self.worst = Worst(setup.worst)
        # Of each class of the target: its rows, those of them that are correct, Σ w·loss.
        self.classes, self.correct = Tally(classes, weighted), Tally(classes, weighted)
        self.loss = ExactSums(classes)
        # What soft targets move from the most probable class to the others: Σ w·(t_k − [k = label]).
        self.moved = ExactSums(classes)
        # What the clips change: Σ w·(clipped − loss), an infinite loss counting as 0. Each batch has the clip of its own
        # type, so that files of several types have one figure in any order.
        self.clip_change = ExactSums()
        self.clips: frozenset[float] = frozenset()
        self.entropy, self.brier = ExactSums(), ExactSums()
        # Of the loss and of the Brier score of the confidence: Σ w·among, Σ w·(c − hit)² + w·hit·(1 − hit).
        self.among, self.distance = ExactSums(), ExactSums()
        # Second moments: Σ(w·loss)²; with weights also Σ w·(w·loss) and Σ w².
        self.square, self.cross, self.weight_square = ExactSums(), ExactSums(), ExactSums()
        self.losses = Tally(LOSSES, weighted)
        # By step of confidence: rows, Σ w·c, Σ w·hit; one more step for NaN.
        self.confidences = Tally(CONFIDENCES + 1, weighted)
        self.confident, self.hits = ExactSums(CONFIDENCES + 1), ExactSums(CONFIDENCES + 1)
        self.confusions = Confusions(classes, weighted)
        # By how many classes come before the target's: only the first few are asked for.
        self.ranks = Tally(min(max(setup.top_k, default=0), classes) + 1, weighted)
        self.units = [ExactSums() for _ in setup.per]
        self.groups = Groups(weighted)
        self.tempered = ExactSums(COLUMNS if setup.temperature else 0)

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The numbers of the rows seen, as ranges [start, end)."""
        return tuple(self._ranges)

    def see(self, ranges: Any) -> None:
        """Remember rows by their numbers, as a file says them."""
        for start, end in ranges:
            if type(start) is not int or type(end) is not int:
                raise ValueError("no range of rows")
            self._see(start, end)

    def update(self, rows: Rows) -> None:
        """Add a batch, or change nothing: rows that do not fit are an InputError."""
        self.check(rows)
        if not len(rows):
            return
        self._see(rows.first, rows.first + len(rows))
        used = None if rows.weight is None or (rows.weight > 0).all() else np.flatnonzero(rows.weight > 0)
        self.rows += len(rows)
        if rows.clip:
            self.clips |= {rows.clip}
        self.worst.add(rows, used)
        self._count(rows if used is None else rows.chosen(used), used)

    def check(self, rows: Rows) -> None:
        """Refuse rows that do not fit."""
        setup = self.setup
        rows.check(len(setup.classes))
        if (rows.weight is not None) != setup.weighted:
            raise InputError(
                "`weight`: some batches have weights and others have none; give them to all or to none"
            )
        if setup.top_k and rows.rank is None:
            raise InputError("`top_k`: these rows have no rank of the target")
        if setup.temperature and rows.tempered is None:
            raise InputError("`temperature`: these rows have no losses at other temperatures")
        for unit in setup.per:
            if unit not in rows.units:
                raise InputError(f"`per`: these rows have no {unit!r}")
        if setup.group is not None:
            if rows.group is None:
                raise InputError(f"`group`: these rows have no {setup.group!r}")
            check_group(rows.group)

    def _count(self, rows: Rows, used: Integers | None) -> None:
        """Add rows that all have a positive weight."""
        right = rows.predicted == rows.label
        with np.errstate(over="ignore", invalid="ignore"):
            weighted = _times(rows.weight, rows.loss)
        self._count_losses(rows, weighted)
        self._count_classes(rows, weighted, right, used)
        self._count_confidence(rows, right)
        self._count_optional(rows)

    def _count_losses(self, rows: Rows, weighted: Floats) -> None:
        weight, loss = rows.weight, rows.loss
        self.losses.add(loss_bins(loss), weight)
        self.square.add_products(weighted, weighted)
        if weight is not None:
            self.cross.add_products(weight, weighted)
            self.weight_square.add_products(weight, weight)
        changed = np.flatnonzero((rows.clipped != loss) & ~np.isnan(loss))
        self.clip_change.add(_times(None if weight is None else weight[changed], rows.clipped[changed]))
        self.clip_change.add(-weighted[changed[np.isfinite(loss[changed])]])

    def _count_classes(
        self, rows: Rows, weighted: Floats, right: NDArray[np.bool_], used: Integers | None
    ) -> None:
        weight, label = rows.weight, rows.label
        correct = np.flatnonzero(right)
        self.classes.add(label, weight)
        self.correct.add(label[correct], None if weight is None else weight[correct])
        self.loss.add(weighted, label)
        wrong = np.flatnonzero(~right & (rows.predicted >= 0))
        self.confusions.add(
            label[wrong], rows.predicted[wrong], weighted[wrong], None if weight is None else weight[wrong]
        )
        if self.setup.group is not None and rows.group is not None:
            self.groups.add(rows.group, rows.first, used, weighted, weight, correct)

    def _count_optional(self, rows: Rows) -> None:
        weight = rows.weight
        if rows.target_entropy is not None:
            self.entropy.add(_times(weight, rows.target_entropy))
        if rows.mass is not None:
            self.moved.add_columns(rows.mass, weight)
            self.moved.add(-np.ones(len(rows)) if weight is None else -weight, rows.label)
        self.brier.add(np.array([np.nan]) if rows.brier is None else _times(weight, rows.brier))
        if rows.among is not None:
            self.among.add(_times(weight, rows.among))
        if self.setup.top_k and rows.rank is not None:
            self.ranks.add(np.minimum(rows.rank, len(self.ranks.rows) - 1), weight)
        for unit, sums in zip(self.setup.per, self.units, strict=True):
            sums.add(_times(weight, rows.units[unit]))
        if self.setup.temperature and rows.tempered is not None:
            self.tempered.add_columns(rows.tempered, weight)

    def _count_confidence(self, rows: Rows, right: NDArray[np.bool_]) -> None:
        weight, confidence = rows.weight, rows.confidence
        hit = right.astype(np.float64) if rows.hit is None else rows.hit
        step = confidence_bins(confidence)
        self.confidences.add(step, weight)
        self.confident.add(_times(weight, confidence), step)
        self.hits.add(_times(weight, hit), step)
        distance = (confidence - hit) ** 2
        if rows.hit is not None:
            distance += hit * (1.0 - hit)
        self.distance.add(_times(weight, distance))

    def _see(self, start: int, end: int) -> None:
        """Remember the numbers of rows; the same number twice is the same row twice."""
        if not 0 <= start < end <= _MOST_ROW:
            raise InputError(f"rows are numbered {start} to {end}, expected 0 to {_MOST_ROW}")
        at = bisect_left(self._ranges, (start, end))
        before = self._ranges[at - 1] if at else (-1, -1)
        after = self._ranges[at] if at < len(self._ranges) else (_MOST_ROW + 1, _MOST_ROW + 1)
        if before[1] > start or after[0] < end:
            first = start if before[1] > start else after[0]
            raise InputError(f"row {first} (from 0) is there twice: these rows have been counted already")
        low, high = at, at
        if before[1] == start:
            start, low = before[0], at - 1
        if after[0] == end:
            end, high = after[1], at + 1
        self._ranges[low:high] = [(start, end)]

    def cover(self, sources: tuple[Source, ...]) -> None:
        """Note which rows of which files these are."""
        self.sources = sources

    def require_equal(self, other: Self) -> None:
        """Refuse to merge what is of different data, naming the differences."""
        self.setup.require_equal(other.setup)

    def merge(self, other: Self) -> None:
        """Add what another state has seen."""
        self.require_equal(other)
        sources = joined(self.sources, other.sources)
        ranges = list(self._ranges)
        try:
            for start, end in other._ranges:
                self._see(start, end)
        except InputError:
            self._ranges = ranges
            raise
        self.rows += other.rows
        self.clips |= other.clips
        self.sources = sources
        for name in PARTS:
            getattr(self, name).merge(getattr(other, name))
        for mine, theirs in zip(self.units, other.units, strict=True):
            mine.merge(theirs)

    def shifted(self, offset: int) -> Self:
        """The same rows, numbered `offset` later."""
        found = type(self)(self.setup)
        found.merge(self)
        found.notes = dict(self.notes)
        found._ranges = [(start + offset, end + offset) for start, end in self._ranges]
        found.worst.shift(offset)
        found.groups.shift(offset)
        return found


# Every part of a state that merges by itself, in the order in which a file holds them.
PARTS = (
    "classes",
    "correct",
    "loss",
    "moved",
    "clip_change",
    "entropy",
    "brier",
    "among",
    "distance",
    "square",
    "cross",
    "weight_square",
    "losses",
    "confidences",
    "confident",
    "hits",
    "confusions",
    "ranks",
    "groups",
    "tempered",
    "worst",
)


def _times(weight: Floats | None, values: Floats) -> Floats:
    return values if weight is None else weight * values
