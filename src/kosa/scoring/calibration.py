"""Fixed grids of confidence and of loss, and what is derived from them: bins, calibration error, splits.

Confidence: 8,400 equal steps of [0, 1] (which 5, 10, 15, 20, 25, 50, 100 and many more bins divide), the last
cut further by 1 − c, four cuts an octave down to 2⁻⁵⁴, because there the confident models have all their rows.
Loss: four cuts an octave from 2⁻⁴⁰ to 2¹⁴ nats, and one bin each for what is below, above, infinite and NaN.
A position follows from the bits of the number alone, so it is the same on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np

from kosa.scoring.errors import InputError
from kosa.scoring.exact import ExactSums, Floats, Integers
from kosa.scoring.scores import Bin, LossBin, Split
from kosa.scoring.tables import Tally

STEPS = 8400
_CUT = 50  # of 52 bits of a mantissa the upper two: four cuts an octave


def _key(value: float) -> int:
    return int(np.float64(value).view(np.int64)) >> _CUT


def _value(key: int) -> float:
    return float(np.int64(key << _CUT).view(np.float64))


_TOP = _key(1.0 / STEPS)
_BOTTOM = _key(2.0**-54)
_TAIL = _TOP - _BOTTOM + 1
CONFIDENCES = STEPS - 1 + _TAIL  # the last holds c = 1
UNKNOWN = CONFIDENCES  # NaN
_LEAST, _MOST = _key(2.0**-40), _key(2.0**14)
_BELOW, _ABOVE = 0, _MOST - _LEAST + 1
INFINITE, NAN = _ABOVE + 1, _ABOVE + 2
LOSSES = NAN + 1


def confidence_bins(confidence: Floats) -> Integers:
    """Where each confidence lies on the grid."""
    with np.errstate(invalid="ignore"):
        place = (confidence * STEPS).astype(np.int64)
    last = np.flatnonzero(~(confidence < (STEPS - 1) / STEPS))
    if len(last) or (len(place) and place.max() >= STEPS - 1):
        last = np.flatnonzero(~((confidence < (STEPS - 1) / STEPS) & (place < STEPS - 1)))
        chosen = confidence[last]
        gap = np.maximum(1.0 - chosen, 0.0)
        tail = STEPS - 1 + np.clip(_TOP - (gap.view(np.int64) >> _CUT), 0, _TAIL - 1)
        place[last] = np.where(np.isnan(chosen), UNKNOWN, tail)
    return np.maximum(place, 0)


def loss_bins(loss: Floats) -> Integers:
    """Where each loss lies on the grid."""
    place: Integers = np.clip((loss.view(np.int64) >> _CUT) - (_LEAST - 1), _BELOW, _ABOVE)
    if len(loss) and not math.isfinite(loss.sum()):
        place[loss == np.inf] = INFINITE
        place[np.isnan(loss)] = NAN
    return place


def _edges() -> Floats:
    """Where each step of confidence begins, and 1."""
    tail = [1.0 - _value(_TOP - step + 1) for step in range(1, _TAIL)]
    return np.array([step / STEPS for step in range(STEPS)] + tail + [1.0])


@dataclass(frozen=True)
class Reliability:
    """The rows by step of confidence: their number, Σw, Σ w·c, Σ w·hit and Σ w·(1 − hit)."""

    rows: Tally
    confidence: ExactSums
    hit: ExactSums

    def known(self) -> bool:
        """Whether every row has a confidence."""
        return not self.rows.rows[UNKNOWN] and not self.confidence.special() and not self.hit.special()

    def coarser(self, bins: int, equal_mass: bool) -> tuple[tuple[Bin, ...], float]:
        """So many bins of equal width, or of about equal weight; and the calibration error over them."""
        weights = self.rows.weight.values()[:CONFIDENCES]
        place, edges = _by_mass(weights, bins) if equal_mass else _by_width(bins)
        count = len(edges) - 1
        place = np.concatenate([place, [count]])  # what has no confidence comes last and is cut off
        rows = self.rows.regrouped(place, count + 1)
        confidence, hit = self.confidence.regrouped(place, count + 1), self.hit.regrouped(place, count + 1)
        gap = confidence.copy()
        gap.subtract(hit)
        weight = rows.weight.values()
        with np.errstate(invalid="ignore", divide="ignore"):
            columns = (
                array[:count].tolist() for array in (confidence.values() / weight, hit.values() / weight)
            )
            found = tuple(
                Bin(*entry)
                for entry in zip(
                    edges[:-1],
                    edges[1:],
                    rows.rows[:count].tolist(),
                    weight[:count].tolist(),
                    *columns,
                    strict=True,
                )
            )
        if not self.known():
            return found, math.nan
        return found, math.fsum(np.abs(gap.values()[:count])) / rows.weight.total()

    def recalibrated(self) -> tuple[Floats, Floats]:
        """Σ w·hit and Σ w·(1 − hit) over blocks of steps: the best monotone map of confidence gives each its ratio."""
        miss = self.rows.weight.copy()
        miss.subtract(self.hit)
        return monotone(self.hit.values()[:CONFIDENCES], miss.values()[:CONFIDENCES])


def check_width(bins: int) -> None:
    """Refuse numbers of bins whose edges are none of the grid's."""
    if STEPS % bins:
        near = [count for count in range(1, STEPS + 1) if STEPS % count == 0]
        below, above = (
            (max(n for n in near if n < bins), min(n for n in near if n > bins))
            if bins < STEPS
            else (STEPS, STEPS)
        )
        raise InputError(
            f"`bins` is {bins}, but bins of equal width must divide the grid of {STEPS} steps: {below} and {above} do"
        )


def _by_width(bins: int) -> tuple[Integers, list[float]]:
    check_width(bins)
    steps = np.minimum(np.arange(CONFIDENCES), STEPS - 1)
    return steps * bins // STEPS, [number / bins for number in range(bins + 1)]


def _by_mass(weights: Floats, bins: int) -> tuple[Integers, list[float]]:
    """Each step belongs to the bin where its middle lies on the scale of weight from 0 to Σw."""
    before = np.cumsum(weights) - weights
    total = float(weights.sum())
    share = (before + weights / 2) / (total or 1.0)
    place = np.clip((share * bins).astype(np.int64), 0, bins - 1)
    filled = np.flatnonzero(weights > 0)
    # Only bins that hold something are shown; one ends where the next begins.
    used = np.unique(place[filled])
    place = np.searchsorted(used, place, side="right") - 1
    place = np.maximum(place, 0)
    grid = _edges()
    starts = [int(filled[np.flatnonzero(place[filled] == number)[0]]) for number in range(len(used))]
    end = int(filled[-1]) + 1 if len(filled) else CONFIDENCES
    return place, [float(grid[start]) for start in starts] + [float(grid[end])]


def monotone(hit: Floats, miss: Floats) -> tuple[Floats, Floats]:
    """Pool neighbours until hit/(hit + miss) never falls (Ayer et al., 1955); groups of nothing are left out."""
    hits: list[float] = []
    misses: list[float] = []
    for h, m in zip(hit.tolist(), miss.tolist(), strict=True):
        if not h + m > 0:
            continue
        while hits and hits[-1] * m >= h * misses[-1]:
            h += hits.pop()
            m += misses.pop()
        hits.append(h)
        misses.append(m)
    return np.array(hits), np.array(misses)


def entropy_sum(hit: Floats, miss: Floats) -> float:
    """Σ over blocks of −hit·log(hit/both) − miss·log(miss/both), with 0·log 0 = 0."""
    terms: list[float] = []
    for part, other in ((hit, miss), (miss, hit)):
        some = part > 0
        # log1p keeps its digits where a block is nearly all hits.
        terms += (part[some] * np.log1p(other[some] / part[some])).tolist()
    return math.fsum(terms)


def split(total: float, recalibrated: float, constant: float) -> Split:
    """A mean score, what it is after recalibration, and that of a constant prediction, as three parts."""
    return Split(total, total - recalibrated, constant - recalibrated, constant)


def brier_sum(hit: Floats, miss: Floats) -> float:
    """Σ over blocks of hit·miss/(hit + miss): the Brier score of predicting each block's own ratio."""
    return math.fsum((hit * miss / (hit + miss)).tolist())


def histogram(losses: Tally) -> tuple[LossBin, ...]:
    """The bins of losses that hold rows."""
    weights = losses.weight.values()
    lows = [0.0] + [_value(key) for key in range(_LEAST, _MOST + 1)] + [math.inf, math.nan]
    highs = [*lows[1 : _ABOVE + 1], math.inf, math.inf, math.nan]
    return tuple(
        LossBin(lows[at], highs[at], int(losses.rows[at]), float(weights[at]))
        for at in np.flatnonzero(losses.rows).tolist()
    )
