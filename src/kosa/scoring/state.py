"""What is kept of a data set while it streams by: exact sums, counts and the worst rows. States merge."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.errors import InputError
from kosa.scoring.exact import ExactSums, product, rounded
from kosa.scoring.result import ClassScore, Score, WorstRow

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """A batch of rows after their losses have been computed; one of weight 0 is only counted, whatever its values.

    first: number of the first row in the whole data set.  loss, clipped: (N,) nats, exact and with
    probabilities raised to the clip.  label: (N,) class of the target, of a soft target the most probable.
    predicted, confidence: (N,) most probable class (−1: NaN) and its probability.  weight: (N,) or None for
    1.  target_entropy: (N,) nats, or None for 0.  mass: (N, K) soft targets, or None where `label` says all.
    ids: N names, or None for row numbers.
    """

    first: int
    loss: Floats
    clipped: Floats
    label: Integers
    predicted: Integers
    confidence: Floats
    weight: Floats | None = None
    target_entropy: Floats | None = None
    mass: Floats | None = None
    ids: Any = None


@dataclass(frozen=True)
class _Kept:
    """A row among the worst, its classes by number."""

    row: int
    id: int | str | None
    label: int
    loss: float
    predicted: int
    probability: float

    @property
    def rank(self) -> tuple[float, int]:
        """Sorts the worst first; NaN is as bad as infinity, and of equals the first row comes first."""
        return (-math.inf if math.isnan(self.loss) else -self.loss, self.row)

    def named(self, names: Sequence[str]) -> WorstRow:
        """With the classes' names; a row of NaN predicts none."""
        predicted = None if self.predicted < 0 else names[self.predicted]
        return WorstRow(self.row, self.id, names[self.label], self.loss, predicted, self.probability)


class State:
    """The figures of the rows seen so far. Their result is the same bits for any batches, order or merges."""

    def __init__(self, classes: int, *, weighted: bool = False, worst: int = 5, clip: float = 0.0) -> None:
        self.classes = classes
        self.weighted = weighted
        self.clip = clip
        self.rows = 0
        self._worst_kept = worst
        self._worst: list[_Kept] = []
        self._zero_rows = 0
        self._counts = np.zeros(classes, dtype=np.int64)
        # Per class of the target: Σw, Σw·loss, Σw·[predicted = target].
        self._weight, self._loss, self._correct = (ExactSums(classes) for _ in range(3))
        # What soft targets move from the most probable class to the others: Σ w·(t_k − [k = label]).
        self._moved = ExactSums(classes)
        self._entropy = ExactSums()
        # What the clip changes: Σ w·(clipped − loss), an infinite loss counting as 0.
        self._clip_change = ExactSums()
        # Second moments: Σ(w·loss)²; with weights also Σ w·(w·loss) and Σ w².
        self._square, self._cross, self._weight_square = ExactSums(), ExactSums(), ExactSums()

    def update(self, rows: Rows) -> None:
        """Add a batch."""
        count = len(rows.loss)
        if (rows.weight is not None) != self.weighted:
            raise InputError(
                "`weight`: some batches have weights and others have none; give them to all or to none"
            )
        weight = np.ones(count) if rows.weight is None else rows.weight
        used = weight > 0
        label = rows.label
        self.rows += count
        self._counts += np.bincount(label[used], minlength=self.classes)
        with np.errstate(over="ignore", invalid="ignore"):
            weighted = rows.loss if rows.weight is None else np.where(used, weight * rows.loss, 0.0)
        self._loss.add(weighted, label)
        correct = used & (rows.predicted == label)
        if rows.weight is None:
            self._weight.add_counts(np.bincount(label, minlength=self.classes))
            self._correct.add_counts(np.bincount(label[correct], minlength=self.classes))
        else:
            self._weight.add(weight, label)
            self._correct.add(weight[correct], label[correct])
            _add_product(self._cross, weight, weighted)
            _add_product(self._weight_square, weight, weight)
        _add_product(self._square, weighted, weighted)
        if rows.target_entropy is not None:
            self._entropy.add(np.where(used, weight * rows.target_entropy, 0.0))
        if rows.mass is not None:
            self._moved.add_columns(np.where(used[:, None], weight[:, None] * rows.mass, 0.0))
            self._moved.add(-weight, label)
        self._zero_rows += int(np.count_nonzero(used & (rows.loss == np.inf)))
        changed = np.flatnonzero(used & (rows.clipped != rows.loss) & ~np.isnan(rows.loss))
        self._clip_change.add(weight[changed] * rows.clipped[changed])
        finite = changed[np.isfinite(rows.loss[changed])]
        self._clip_change.add(-weighted[finite])
        self._keep_worst(rows, used)

    def merge(self, other: Self) -> None:
        """Add what another state has seen."""
        mine = (self.classes, self.weighted, self.clip, self._worst_kept)
        theirs = (other.classes, other.weighted, other.clip, other._worst_kept)
        if mine != theirs:
            raise InputError(
                "states of different data do not merge: (classes, weighted, clip, worst) are "
                f"{mine} here and {theirs} there"
            )
        self.rows += other.rows
        self._zero_rows += other._zero_rows
        self._counts += other._counts
        for name in (
            "weight",
            "loss",
            "correct",
            "moved",
            "entropy",
            "clip_change",
            "square",
            "cross",
            "weight_square",
        ):
            getattr(self, f"_{name}").merge(getattr(other, f"_{name}"))
        self._set_worst(self._worst + other._worst)

    def _keep_worst(self, rows: Rows, used: NDArray[np.bool_]) -> None:
        if not self._worst_kept:
            return
        rank = np.where(used, np.where(np.isnan(rows.loss), np.inf, rows.loss), -1.0)
        full = len(self._worst) == self._worst_kept
        candidates = np.flatnonzero(rank >= (-self._worst[-1].rank[0] if full else 0.0))
        if len(candidates) > self._worst_kept:
            # Of equal losses the first rows are kept: which they are must not depend on the batches.
            values = rank[candidates]
            least = np.partition(values, -self._worst_kept)[-self._worst_kept]
            above = candidates[values > least]
            level = candidates[values == least][: self._worst_kept - len(above)]
            candidates = np.concatenate([above, level])
        self._set_worst(self._worst + [_kept(rows, int(index)) for index in candidates])

    def _set_worst(self, rows: list[_Kept]) -> None:
        self._worst = sorted(rows, key=lambda row: row.rank)[: self._worst_kept]

    def result(self, names: Sequence[str], kind: str, clip_name: str) -> Score:
        """The figures. `names` are the classes'."""
        weight = self._weight.exact()
        if not self.rows:
            raise InputError("no rows: there is nothing to score")
        if not weight:
            raise InputError(f"the weights of all {self.rows} rows are 0: a mean has no denominator")
        special = self._loss.special()
        loss = self._loss.exact()
        mean = special if special else rounded(loss / weight)
        entropy = rounded(self._entropy.exact() / weight)
        prior = self._prior_cross_entropy(rounded(weight))
        return Score(
            rows=self.rows,
            cross_entropy=mean,
            bits=mean / math.log(2.0),
            perplexity=_exp(mean),
            log_perplexity=mean,
            standard_error=self._standard_error(),
            weight=rounded(weight),
            accuracy=rounded(self._correct.exact() / weight),
            target_entropy=entropy,
            kl_divergence=special if special else rounded((loss - self._entropy.exact()) / weight),
            prior_cross_entropy=prior,
            skill=1.0 - mean / prior if prior > 0.0 else math.nan,
            zero_probability_rows=self._zero_rows,
            clip=self.clip,
            clip_name=clip_name,
            clipped_cross_entropy=math.nan
            if math.isnan(special)
            else rounded((loss + self._clip_change.exact()) / weight),
            predictions=kind,
            classes=self._class_scores(names),
            worst=tuple(row.named(names) for row in self._worst),
        )

    def _class_scores(self, names: Sequence[str]) -> tuple[ClassScore, ...]:
        weight, loss, correct = self._weight.values(), self._loss.values(), self._correct.values()
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, accuracy = loss / weight, correct / weight
        columns = (array.tolist() for array in (self._counts, weight, mean, accuracy))
        return tuple(ClassScore(*row) for row in zip(names, *columns, strict=True))

    def _prior_cross_entropy(self, weight: float) -> float:
        """−Σ_k q_k log q_k·ΣT/Σw of the classes' frequencies q = T/ΣT, T_k = Σ w·t_k."""
        total = ExactSums(self.classes)
        total.merge(self._weight)
        total.merge(self._moved)
        mass = total.values()
        share = mass[mass > 0] / total.total()
        return abs(math.fsum((-mass[mass > 0] * np.log(share)).tolist())) / weight

    def _standard_error(self) -> float:
        """√(n/(n−1)·Σ w²(loss − mean)²) / Σw over the n rows of positive weight, from exact moments."""
        count = int(self._counts.sum())
        if count < 2 or self._loss.special() or self._square.special():
            return math.nan
        loss, weight = self._loss.exact(), self._weight.exact()
        mean = loss / weight
        cross, weight_square = (
            (self._cross, self._weight_square) if self.weighted else (self._loss, self._weight)
        )
        spread = self._square.exact() - 2 * mean * cross.exact() + mean * mean * weight_square.exact()
        # Squares below 1e-300 lose digits, which can leave a spread of nothing a little below 0.
        return math.sqrt(max(0.0, rounded(spread * count / (count - 1) / weight**2)))


def _add_product(sums: ExactSums, left: Floats, right: Floats) -> None:
    value, error = product(left, right)
    sums.add(value)
    sums.add(error)


def _kept(rows: Rows, index: int) -> _Kept:
    row = rows.first + index
    identity = row if rows.ids is None else rows.ids[index]
    if hasattr(identity, "as_py"):
        identity = identity.as_py()
    elif isinstance(identity, np.generic):
        identity = identity.item()
    return _Kept(
        row=row,
        id=identity if isinstance(identity, int | str | None) else str(identity),
        label=int(rows.label[index]),
        loss=float(rows.loss[index]),
        predicted=int(rows.predicted[index]),
        probability=float(rows.confidence[index]),
    )


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
