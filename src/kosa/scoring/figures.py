"""From a state to its figures."""

import math
from collections.abc import Collection, Mapping
from fractions import Fraction

import numpy as np

from kosa.scoring.calibration import INFINITE, Reliability, brier_sum, entropy_sum, histogram, split
from kosa.scoring.errors import InputError
from kosa.scoring.exact import SCALE, ExactSums, rounded
from kosa.scoring.interval import t_quantile
from kosa.scoring.result import Score
from kosa.scoring.scores import ClassScore, ConfusionScore, GroupScore, Split, TopScore, UnitScore
from kosa.scoring.spread import standard_error
from kosa.scoring.sums import Sums
from kosa.scoring.temperature import best
from kosa.scoring.tokens import KIND, without_predictions
from kosa.scoring.view import View

_MOST_CONFUSIONS = 20
_EPSILONS = {2.0**-23: "float32 epsilon", 2.0**-52: "float64 epsilon"}


def figures(state: Sums, view: View) -> Score:
    """All figures of a state."""
    setup, confidence = state.setup, view.confidence
    if not state.rows:
        raise InputError("no rows: there is nothing to score")
    weight = state.classes.weight.exact()
    if not weight:
        raise InputError(f"the weights of all {state.rows} rows are 0: a mean has no denominator")
    special = state.loss.special()
    loss = state.loss.exact()
    mean = special if special else rounded(loss / weight)
    total = rounded(weight)
    prior = _prior(state, weight)
    error, clusters = standard_error(state, loss, weight)
    reach = error * t_quantile(0.5 + confidence / 2, clusters - 1) if clusters > 1 else math.nan
    reliability = Reliability(state.confidences, state.confident, state.hits)
    found_bins, calibration_error = reliability.coarser(view.bins, view.equal_mass)
    loss_split, confidence_split = _splits(state, reliability, mean, prior, total)
    confusions, pairs = _confusions(state, loss)
    groups = _groups(state)
    found = Score(
        rows=state.rows,
        cross_entropy=mean,
        bits=mean / math.log(2.0),
        perplexity=_exp(mean),
        log_perplexity=mean,
        standard_error=error,
        low=mean - reach,
        high=mean + reach,
        confidence=confidence,
        interval_over="rows" if setup.group is None else setup.group,
        clusters=clusters,
        weight=total,
        accuracy=rounded(state.correct.weight.exact() / weight),
        top=_top(state, weight),
        brier=_mean(state.brier, weight),
        target_entropy=_mean(state.entropy, weight),
        kl_divergence=special if special else rounded((loss - state.entropy.exact()) / weight),
        prior_cross_entropy=prior,
        skill=1.0 - mean / prior if prior > 0.0 else math.nan,
        zero_probability_rows=int(state.losses.rows[INFINITE]),
        clip=max(state.clips, default=0.0),
        clip_name=_clip_name(state.clips),
        clipped_cross_entropy=math.nan
        if math.isnan(special)
        else rounded((loss + state.clip_change.exact()) / weight),
        predictions=setup.predictions,
        per=_per(state, special, loss, total, view.totals),
        calibration_error=calibration_error,
        bins=found_bins,
        loss_split=loss_split,
        confidence_split=confidence_split,
        temperature=best(state.tempered, total) if setup.temperature else None,
        histogram=histogram(state.losses),
        confusions=confusions,
        confused_pairs=pairs,
        classes=_classes(state),
        group=setup.group,
        groups=groups,
        group_count=-1 if state.groups.bucketed else len(groups),
        worst=tuple(row.named(setup.classes) for row in state.worst.rows),
    )
    return without_predictions(found) if setup.predictions == KIND else found


def _clip_name(clips: Collection[float]) -> str:
    """What the largest clip is, and before it the smaller ones with their values."""
    names = [f"{_EPSILONS.get(clip, 'clip')} ({clip:.3g})" for clip in sorted(clips)]
    return " or ".join(names).rpartition(" (")[0]


def _mean(sums: ExactSums, weight: Fraction) -> float:
    return sums.special() if sums.special() else rounded(sums.exact() / weight)


def _prior(state: Sums, weight: Fraction) -> float:
    """−Σ_k q_k log q_k·ΣT/Σw of the classes' frequencies q = T/ΣT, T_k = Σ w·t_k."""
    sums = state.classes.weight.copy()
    sums.merge(state.moved)
    mass, whole = sums.values(), sums.total()
    some = mass > 0
    logarithms = np.log(mass[some] / whole)
    most = int(np.argmax(mass))
    if mass[most] > whole / 2:
        # The logarithm of a share near 1 has the digits of what is left of it.
        rest = sums.exact() - sums.chosen(np.array([most])).exact()
        logarithms[np.count_nonzero(some[:most])] = math.log1p(-rounded(rest / sums.exact()))
    return abs(math.fsum((-mass[some] * logarithms).tolist())) / rounded(weight)


def _top(state: Sums, weight: Fraction) -> tuple[TopScore, ...]:
    if not state.setup.top_k:
        return ()
    by_rank = state.ranks.weight.integers()
    return tuple(TopScore(k, rounded(Fraction(sum(by_rank[:k]), SCALE) / weight)) for k in state.setup.top_k)


def _per(
    state: Sums, special: float, loss: Fraction, total: float, totals: Mapping[str, float | None]
) -> tuple[UnitScore, ...]:
    counted = {unit: sums.total() for unit, sums in zip(state.setup.per, state.units, strict=True)}
    for unit, number in totals.items():
        counted[unit] = total if number is None else float(number)
    return tuple(_unit(unit, units, special, loss) for unit, units in counted.items())


def _unit(unit: str, units: float, special: float, loss: Fraction) -> UnitScore:
    if not 0.0 < units < math.inf:
        return UnitScore(unit, units, math.nan, math.nan, math.nan)
    each = special if special else rounded(loss / Fraction(units))
    return UnitScore(unit, units, each, each / math.log(2.0), _exp(each))


def _splits(
    state: Sums, reliability: Reliability, mean: float, prior: float, weight: float
) -> tuple[Split, Split]:
    distance = state.distance.total() / weight
    if not reliability.known():
        return split(mean, math.nan, prior), split(distance, math.nan, math.nan)
    hit, miss = reliability.recalibrated()
    recalibrated = (entropy_sum(hit, miss) + state.among.total()) / weight
    hits, misses = np.array([math.fsum(hit)]), np.array([math.fsum(miss)])
    return (
        split(mean, recalibrated, prior),
        split(distance, brier_sum(hit, miss) / weight, brier_sum(hits, misses) / weight),
    )


def _classes(state: Sums) -> tuple[ClassScore, ...]:
    weight, loss, correct = state.classes.weight.values(), state.loss.values(), state.correct.weight.values()
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, accuracy = loss / weight, correct / weight
    columns = (array.tolist() for array in (state.classes.rows, weight, mean, accuracy))
    return tuple(ClassScore(*row) for row in zip(state.setup.classes, *columns, strict=True))


def _groups(state: Sums) -> tuple[GroupScore, ...]:
    if state.setup.group is None or state.groups.bucketed:
        return ()
    sums = state.groups.sums()
    weight = sums.rows.weight.values()
    columns = (sums.rows.rows, weight, sums.loss.values() / weight, sums.correct.weight.values() / weight)
    return tuple(
        GroupScore(*row)
        for row in zip(state.groups.names(), *(column.tolist() for column in columns), strict=True)
    )


def _confusions(state: Sums, loss: Fraction) -> tuple[tuple[ConfusionScore, ...], int]:
    """The pairs of largest loss, and how many there are."""
    table = state.confusions.sums()
    if table is None:
        return (), -1
    pairs, sums = table
    names = state.setup.classes
    losses, weight = sums.loss.values(), sums.rows.weight.values()
    whole = state.loss.total() if state.loss.special() else rounded(loss)
    # NaN counts as the largest; of equals the first pair comes first.
    order = np.argsort(-np.where(np.isnan(losses), np.inf, losses), kind="stable")[:_MOST_CONFUSIONS]
    found = []
    for at in order.tolist():
        label, predicted = divmod(int(pairs[at]), len(names))
        part, mass = float(losses[at]), float(weight[at])
        share = part / whole if math.isfinite(part) and whole > 0.0 else math.nan
        found.append(
            ConfusionScore(
                names[label], names[predicted], int(sums.rows.rows[at]), mass, part, share, part / mass
            )
        )
    return tuple(found), len(pairs)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
