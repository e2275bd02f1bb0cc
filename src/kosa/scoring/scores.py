"""The figures of a data set, as values."""

import json
import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class ClassScore:
    """The rows whose target is one class (of a soft target: the most probable class).

    rows: how many of positive weight.  weight: Σw over them.  cross_entropy: Σ w·loss / Σw and accuracy:
    Σ w·[predicted = target] / Σw over them; NaN where Σw is 0.
    """

    name: str
    rows: int
    weight: float
    cross_entropy: float
    accuracy: float


@dataclass(frozen=True)
class GroupScore:
    """The rows of one group, wherever they stand; the fields are those of ClassScore."""

    name: str
    rows: int
    weight: float
    cross_entropy: float
    accuracy: float


@dataclass(frozen=True)
class ConfusionScore:
    """The rows of one class (`label`) for which another was predicted.

    rows: how many of positive weight.  weight: Σw.  loss: Σ w·loss over them, in nats.  share: of the Σ w·loss
    of all rows.  cross_entropy: loss / weight.
    """

    label: str
    predicted: str
    rows: int
    weight: float
    loss: float
    share: float
    cross_entropy: float


@dataclass(frozen=True)
class TopScore:
    """accuracy: Σ w·[the target is among the k most probable classes] / Σw."""

    k: int
    accuracy: float


@dataclass(frozen=True)
class UnitScore:
    """The loss by another unit than rows.

    units: Σ w·units, or the total that was given.  cross_entropy: Σ w·loss / units, in nats a unit.  bits:
    cross_entropy / log 2.  perplexity: exp(cross_entropy).
    """

    unit: str
    units: float
    cross_entropy: float
    bits: float
    perplexity: float


@dataclass(frozen=True)
class Bin:
    """The rows of positive weight whose confidence c lies in low ≤ c < high (of the last bin: c ≤ 1).

    confidence: Σ w·c / Σw, accuracy: Σ w·[predicted = target] / Σw over them; NaN where there are none.
    """

    low: float
    high: float
    rows: int
    weight: float
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class LossBin:
    """The rows of positive weight whose loss lies in low ≤ loss < high, in nats; infinite ones lie in the last."""

    low: float
    high: float
    rows: int
    weight: float


@dataclass(frozen=True)
class Split:
    """A mean score in parts: total = miscalibration − discrimination + uncertainty.

    uncertainty: what a constant prediction, the data set's own frequencies, would score.  discrimination: by
    how much the predictions, recalibrated, beat that.  miscalibration: what the recalibration would gain.
    """

    total: float
    miscalibration: float
    discrimination: float
    uncertainty: float


@dataclass(frozen=True)
class TemperatureScore:
    """The temperature T for which softmax(z/T) would score best.

    cross_entropy: what it would be at T.  gain: how much less than at T = 1.  at_edge: the loss still falls at
    the end of the range that is looked at, 1/8 to 8.
    """

    temperature: float
    cross_entropy: float
    gain: float
    at_edge: bool


@dataclass(frozen=True)
class WorstRow:
    """A row of large loss: `row` counts from 0 over all files; `id` is the id column's value, else `row`."""

    row: int
    id: int | str | None
    label: str
    loss: float
    predicted: str | None
    probability: float


@dataclass(frozen=True)
class PairScore:
    """The rows of one class of the target, or of one group, under A and under B.

    rows: how many of positive weight.  weight: Σw over them.  difference: Σ w·(loss of A − loss of B) / Σw over
    them, in nats; negative where A is better.  contribution: the same sum over the Σw of all rows: the
    contributions of all classes sum to the difference of all rows.  wins: share of their weight where A's loss
    is the lower.
    """

    name: str
    rows: int
    weight: float
    difference: float
    contribution: float
    wins: float


@dataclass(frozen=True)
class Comparison:
    """Predictions A against predictions B for the same rows: d = loss of A − loss of B, in nats.

    name: what B is called.  rows, weight: as of a Score; every share here is of that weight Σw.
    difference: Σ w·d / Σw; negative where A is better. A row to which both give probability 0 has d = 0.
    standard_error, low, high, confidence, interval_over, clusters: of the difference, as of a Score's
        cross-entropy: a paired comparison, whose error is that of the differences.
    wins, ties, losses: share of the weight where A's loss is lower than, equal to, higher than B's.
    classes, groups: where A wins and loses.  score: the figures of B alone.
    """

    name: str
    rows: int
    weight: float
    difference: float
    standard_error: float
    low: float
    high: float
    confidence: float
    interval_over: str
    clusters: int
    wins: float
    ties: float
    losses: float
    classes: tuple[PairScore, ...]
    groups: tuple[PairScore, ...]
    score: "Figures"


@dataclass(frozen=True, eq=False)
class Figures:
    """The figures of a data set of predictions. n = rows, w = a row's weight (1 without weights), unit nats.

    rows: all rows read; those of weight 0 count here and nowhere else.
    cross_entropy: Σ w·loss / Σw, exact: infinite if one target has probability 0.
    bits: cross_entropy / log 2, over the same Σw.
    perplexity: exp(cross_entropy); infinite where that overflows float64.
    log_perplexity: its logarithm, which never does: cross_entropy.
    standard_error: of the mean loss m over clusters g, which are rows, or groups where `group` names them:
        √( G/(G−1) · Σ_g (Σ_{n in g} w(loss − m))² ) / Σw over the G clusters of positive weight, the
        linearised error of a ratio of sums; over unweighted rows s/√n. NaN for G < 2 or an infinite loss.
    low, high: m ∓ t·standard_error, t the quantile of Student's t with G − 1 degrees of freedom.
    confidence: how often such an interval holds the mean that it estimates.
    interval_over: "rows", or the column of the groups.
    clusters: G. Of more than 65,536 groups each cluster holds several.
    weight: Σw.
    accuracy: Σ w·[most probable class = target's] / Σw; the first of equally probable classes counts.
    top: the same with the target among the k most probable classes.
    brier: Σ w·Σ_k (p_k − t_k)² / Σw over all K classes (for two classes twice the score of one of them).
    target_entropy: Σ w·(−Σ_k t_k log t_k) / Σw: what the best possible predictions would score; 0 for labels.
    kl_divergence: cross_entropy − target_entropy, over the same Σw.
    prior_cross_entropy: what predicting this data set's own class frequencies q for every row would score:
        Σ w·(−Σ_k t_k log q_k) / Σw, with q_k = Σ w·t_k / ΣΣ w·t_j.
    skill: 1 − cross_entropy / prior_cross_entropy: 0 is no better than the frequencies, 1 is perfect; NaN
        where the data set has one class only.
    zero_probability_rows: rows of infinite loss: probability 0 at (a class of) the target.
    clip, clip_name: the clip: the machine epsilon of the predictions' float type (float32's for narrower
        ones). Each file or batch has that of its own type; where there are several, the largest, and all names.
    clipped_cross_entropy: Σ w·loss / Σw with each probability below its clip raised to it; finite where the
        exact figure is not. (scikit-learn's log_loss lowers those above 1 − clip too: up to clip a row more.)
    predictions: what they were said to be: logits, probs or log_probs.
    per: the loss by other units, each with its own denominator.
    calibration_error: Σ_b W_b·|confidence_b − accuracy_b| / Σw over `bins`: the expected calibration error.
    bins: the reliability diagram, of equal width or equal mass.
    loss_split: the cross-entropy in parts; the recalibration is the best monotone map of the confidence.
    confidence_split: likewise of the Brier score of the confidence c, Σ w·(c − [predicted = target])² / Σw.
    temperature: the best temperature, where it was asked for.
    histogram: of the losses; bins without rows are left out.
    confusions: the pairs of classes that cost the most, at most 20.
    confused_pairs: how many pairs were confused; −1: more than 262,144, of which none is kept.
    classes: one entry per class.
    group: the column of the groups.  groups: one entry per group, in order of their first rows.
    group_count: how many; −1: more than 65,536, of which none is kept.
    worst: the rows of largest loss, worst first.
    against: the comparison with other predictions for the same rows, where there was one.
    """

    rows: int
    cross_entropy: float
    bits: float
    perplexity: float
    log_perplexity: float
    standard_error: float
    low: float
    high: float
    confidence: float
    interval_over: str
    clusters: int
    weight: float
    accuracy: float
    top: tuple[TopScore, ...]
    brier: float
    target_entropy: float
    kl_divergence: float
    prior_cross_entropy: float
    skill: float
    zero_probability_rows: int
    clip: float
    clip_name: str
    clipped_cross_entropy: float
    predictions: str
    per: tuple[UnitScore, ...]
    calibration_error: float
    bins: tuple[Bin, ...]
    loss_split: Split
    confidence_split: Split
    temperature: TemperatureScore | None
    histogram: tuple[LossBin, ...]
    confusions: tuple[ConfusionScore, ...]
    confused_pairs: int
    classes: tuple[ClassScore, ...]
    group: str | None
    groups: tuple[GroupScore, ...]
    group_count: int
    worst: tuple[WorstRow, ...]
    against: Comparison | None = None

    def __eq__(self, other: object) -> bool:
        """The same figures; NaN equals NaN."""
        return isinstance(other, Figures) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        """The figures in the order above, ready for JSON: strings "inf", "-inf" and "nan" for such."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def to_json(self, *, ascii_only: bool = False) -> str:
        """`to_dict` as JSON text, valid for any parser; `float("inf")` reads its strings back."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=ascii_only, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
