"""Calibration: bins, the calibration error, and the split of the loss, against scikit-learn and NumPy."""

import math

import mpmath
import numpy as np
import pytest
import scipy.special
import sklearn.isotonic
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_data import N, data, mean

import kosa
from kosa.scoring import InputError, Score
from kosa.scoring.calibration import STEPS, confidence_bins, monotone

RTOL = 1e-12


@pytest.fixture(scope="module", params=["plain", "weighted"])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray, Score]:
    labels, logits, weights = data(1)
    if request.param == "plain":
        return labels, logits, np.ones(N), kosa.score(labels, logits=logits)
    return labels, logits, weights, kosa.score(labels, logits=logits, weight=weights)


def test_expected_calibration_error(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, _ = case
    probs = scipy.special.softmax(logits, axis=1)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    for bins in (1, 10, 15, 100):
        score = kosa.score(labels, logits=logits, weight=weights, bins=bins)
        place = np.minimum((confidence * bins).astype(int), bins - 1)
        total = 0.0
        assert len(score.bins) == bins
        for number, entry in enumerate(score.bins):
            here = (place == number) & (weights > 0)
            assert (entry.low, entry.high) == (number / bins, (number + 1) / bins)
            assert entry.rows == np.count_nonzero(here)
            assert entry.weight == pytest.approx(math.fsum(weights[here]), rel=RTOL)
            if here.any():
                found = mean(confidence[here], weights[here]), mean(right[here], weights[here])
                assert (entry.confidence, entry.accuracy) == pytest.approx(found, rel=RTOL)
                total += entry.weight * abs(found[0] - found[1])
        assert score.calibration_error == pytest.approx(total / math.fsum(weights), rel=1e-11)


def test_bins_of_equal_mass() -> None:
    labels, logits, _ = data(2)
    score = kosa.score(labels, logits=logits, bins=8, equal_mass=True)
    # A step of the fine grid is never cut, and none holds more than a few of these rows.
    assert all(abs(entry.rows - N / 8) < 5 for entry in score.bins)
    assert sum(entry.rows for entry in score.bins) == N
    for left, right in zip(score.bins, score.bins[1:], strict=False):
        assert left.high == right.low
    for entry in score.bins:
        assert entry.low <= entry.confidence <= entry.high
    error = sum(entry.rows * abs(entry.confidence - entry.accuracy) for entry in score.bins) / N
    assert score.calibration_error == pytest.approx(error, rel=RTOL)


def test_equal_mass_separates_what_confident_models_say() -> None:
    random = np.random.default_rng(3)
    miss = 10.0 ** random.uniform(-14, -4, 1000)
    score = kosa.score(np.ones(1000, dtype=int), probs=1.0 - miss, bins=5, equal_mass=True)
    assert len(score.bins) == 5
    assert all(150 < entry.rows < 250 for entry in score.bins)


def test_bins_must_divide_the_grid() -> None:
    with pytest.raises(
        InputError, match=r"`bins` is 11, but bins of equal width must divide .*: 10 and 12 do"
    ):
        kosa.score([0], probs=[[1.0, 0.0]], bins=11)
    assert len(kosa.score([0], probs=[[1.0, 0.0]], bins=11, equal_mass=True).bins) == 1
    with pytest.raises(InputError, match="`bins` is 0, expected 1 or more"):
        kosa.score([0], probs=[[1.0, 0.0]], bins=0)
    with pytest.raises(InputError, match=r"`confidence` is 1\.0, expected a number between 0 and 1"):
        kosa.score([0], probs=[[1.0, 0.0]], confidence=1.0)


def test_split_of_the_loss(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    """Recalibrated by isotonic regression of "the first guess is right" on the confidence, the rest in proportion."""
    labels, logits, weights, score = case
    probs = scipy.special.softmax(logits, axis=1)
    first, used = probs.argmax(axis=1), weights > 0
    confidence, right = probs.max(axis=1), first == labels
    # The fine grid is what a state keeps: the regression is on its steps.
    step = confidence_bins(confidence)
    steps = [(step == number) & used for number in np.unique(step[used])]
    fit = sklearn.isotonic.isotonic_regression(
        [mean(right[here], weights[here]) for here in steps],
        sample_weight=[math.fsum(weights[here]) for here in steps],
    )
    q = np.zeros(N)
    for here, value in zip(steps, fit, strict=True):
        q[here] = value
    own = probs[np.arange(N), labels]
    with np.errstate(divide="ignore"):
        after = np.where(right, -np.log(q), -np.log(1 - q) - np.log(own / (1 - confidence)))
    recalibrated = mean(after[used], weights[used])
    split = score.loss_split
    assert split.total == score.cross_entropy
    assert split.uncertainty == score.prior_cross_entropy
    assert split.total - split.miscalibration == pytest.approx(recalibrated, rel=RTOL)
    assert split.miscalibration - split.discrimination + split.uncertainty == pytest.approx(
        split.total, rel=RTOL
    )
    assert split.miscalibration > 0.1  # these predictions are overconfident
    brier = score.confidence_split
    assert brier.total == pytest.approx(mean((confidence - right) ** 2, weights), rel=RTOL)
    assert brier.total - brier.miscalibration == pytest.approx(mean((q - right) ** 2, weights), rel=RTOL)
    rate = mean(right, weights)
    assert brier.uncertainty == pytest.approx(rate * (1 - rate), rel=RTOL)
    assert brier.miscalibration - brier.discrimination + brier.uncertainty == pytest.approx(brier.total)


@pytest.mark.parametrize("kind", ["logits", "log_probs"])
def test_split_keeps_its_digits_where_rows_are_confident_and_wrong(kind: str) -> None:
    # 1 − confidence rounds to 0 from a gap of 37 on, and has no right digit long before.
    gaps = [1.0, 12.0, 25.0, 36.0, 60.0, 300.0]
    logits = np.array([[gap, 0.5, 0.0] for gap in gaps])
    values = logits if kind == "logits" else scipy.special.log_softmax(logits, axis=1)
    labels = [1, 1, 2, 1, 2, 1]
    with mpmath.workdps(200):
        among = mpmath.mpf(0)
        for row, label in zip(logits.tolist(), labels, strict=True):
            e = [mpmath.exp(z) for z in row]
            among -= mpmath.log(e[label] / (e[1] + e[2]))
    score = kosa.score(labels, **{kind: values})
    # No row is right: the recalibrated forecast is certain of that, and only the loss among the others is left.
    assert (score.loss_split.total - score.loss_split.miscalibration) * 6 == pytest.approx(
        float(among), rel=1e-9 if kind == "log_probs" else 1e-11
    )


def test_predictions_that_are_recalibrated_have_no_miscalibration() -> None:
    # 3 of 4 right where 0.75 is said, 1 of 2 where 0.5 is.
    probs = [[0.75, 0.25]] * 4 + [[0.5, 0.5]] * 2
    score = kosa.score([0, 0, 0, 1, 0, 1], probs=probs)
    for split in (score.loss_split, score.confidence_split):
        assert split.miscalibration == pytest.approx(0.0, abs=1e-15)
    assert score.calibration_error == pytest.approx(0.0, abs=1e-15)
    assert score.confidence_split.discrimination == pytest.approx(2 / 9 - 5 / 24, rel=RTOL)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_pooled_neighbours_are_isotonic_regression(counts: list[tuple[int, int]]) -> None:
    filled = [(h, m) for h, m in counts if h + m]
    hit, miss = monotone(*np.array(counts, dtype=float).T)
    assert (hit.sum(), miss.sum()) == (sum(h for h, _ in counts), sum(m for _, m in counts))
    if not filled:
        return
    theirs = sklearn.isotonic.isotonic_regression(
        [h / (h + m) for h, m in filled], sample_weight=[h + m for h, m in filled]
    )
    rates = hit / (hit + miss)
    assert (np.diff(rates) > 0).all()
    # Each pooled block holds whole groups, so its rate stands as often as it has groups.
    assert sorted(set(np.round(theirs, 9))) == pytest.approx(sorted(set(np.round(rates, 9))), abs=1e-8)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(0.0, 1.0))
def test_every_confidence_has_its_step(confidence: float) -> None:
    step = int(confidence_bins(np.array([confidence]))[0])
    if step < STEPS - 1:
        assert step <= confidence * STEPS < step + 1
    else:
        assert confidence * STEPS >= STEPS - 1
    higher = int(confidence_bins(np.array([min(1.0, np.nextafter(confidence, 2.0))]))[0])
    # Between the last two numbers below 1 lie more than one of the finest steps.
    assert 0 <= higher - step <= 4
