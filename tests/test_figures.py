"""Each figure of a score against scikit-learn, SciPy, NumPy or mpmath, to 1e-12 relative."""

import math

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.isotonic
import sklearn.metrics
from scoring_data import K, N, data, mean

import kosa
from kosa.scoring import InputError, Score
from kosa.scoring.calibration import loss_bins
from kosa.scoring.interval import t_quantile

RTOL = 1e-12


@pytest.fixture(scope="module", params=["plain", "weighted"])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray, Score]:
    labels, logits, weights = data(1)
    options = {"top_k": [1, 2, 4, K], "temperature": True, "batch_size": 700}
    if request.param == "plain":
        return labels, logits, np.ones(N), kosa.score(labels, logits=logits, **options)
    return labels, logits, weights, kosa.score(labels, logits=logits, weight=weights, **options)


def test_brier_score(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, score = case
    probs = scipy.special.softmax(logits, axis=1)
    expected = mean(((probs - np.eye(K)[labels]) ** 2).sum(axis=1), weights)
    assert score.brier == pytest.approx(expected, rel=RTOL)
    theirs = sklearn.metrics.brier_score_loss(labels, probs, sample_weight=weights, labels=range(K))
    assert score.brier == pytest.approx(theirs, rel=RTOL)


def test_top_k(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, score = case
    assert [top.k for top in score.top] == [1, 2, 4, K]
    for top in score.top[:-1]:
        theirs = sklearn.metrics.top_k_accuracy_score(
            labels, logits, k=top.k, sample_weight=weights, labels=range(K)
        )
        assert top.accuracy == pytest.approx(theirs, rel=RTOL)
    assert score.top[0].accuracy == score.accuracy
    assert score.top[-1].accuracy == 1.0


def test_of_level_classes_the_first_comes_first() -> None:
    probs = np.full((3, 4), 0.25)
    score = kosa.score([0, 1, 3], probs=probs, top_k=[1, 2, 3])
    assert [top.accuracy for top in score.top] == pytest.approx([1 / 3, 2 / 3, 2 / 3], rel=RTOL)
    assert score.top[0].accuracy == score.accuracy


def test_interval_is_students(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    _, _, weights, score = case
    count = np.count_nonzero(weights)
    assert (score.interval_over, score.clusters, score.confidence) == ("rows", count, 0.95)
    reach = scipy.stats.t.ppf(0.975, count - 1) * score.standard_error
    assert score.high - score.cross_entropy == pytest.approx(reach, rel=1e-11)
    assert score.cross_entropy - score.low == pytest.approx(reach, rel=1e-11)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4.5, 30, 99, 101, 1e4, 10001, 1e8])
def test_quantiles_of_students_t(degrees: float) -> None:
    for probability in (0.5001, 0.6, 0.9, 0.975, 0.9999, 1 - 1e-9):
        expected = scipy.stats.t.ppf(probability, degrees)
        # 1 − p has lost digits of p near 1, and so has SciPy's p.
        tolerance = 1e-11 + 1e-16 / (1 - probability)
        assert t_quantile(probability, degrees) == pytest.approx(expected, rel=tolerance)
        assert t_quantile(1 - probability, degrees) == pytest.approx(-expected, rel=tolerance)
    assert t_quantile(0.5, degrees) == 0.0


def test_best_temperature(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, score = case

    def loss(temperature: float) -> float:
        logs = scipy.special.log_softmax(logits / temperature, axis=1)
        return mean(-logs[np.arange(N), labels], weights)

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.2, 8.0), method="bounded", options={"xatol": 1e-9})
    found = score.temperature
    assert found is not None
    assert found.temperature == pytest.approx(best.x, rel=3e-4)
    assert found.cross_entropy == pytest.approx(best.fun, rel=1e-5)
    assert found.gain == pytest.approx(loss(1.0) - best.fun, abs=1e-5)
    assert not found.at_edge


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs", "binary", "soft"])
def test_temperature_of_every_kind(kind: str) -> None:
    labels, logits, _ = data(4, scale=3.0)
    targets: np.ndarray = labels
    if kind == "binary":
        labels = labels % 2
        values = {"probs": scipy.special.expit(logits[:, 1])}
        logits, targets = np.stack([np.zeros(N), logits[:, 1]], axis=1), labels
    elif kind == "soft":
        values = {"logits": logits}
        targets = np.random.default_rng(4).dirichlet(np.ones(K), N)
    else:
        logs = scipy.special.log_softmax(logits, axis=1)
        values = {kind: {"logits": logits, "probs": np.exp(logs), "log_probs": logs}[kind]}
    mass = targets if targets.ndim == 2 else np.eye(logits.shape[1])[targets]

    def loss(temperature: float) -> float:
        return -(mass * scipy.special.log_softmax(logits / temperature, axis=1)).sum() / N

    score = kosa.score(targets, temperature=True, **values)
    found = score.temperature
    assert found is not None
    if found.at_edge:
        assert found.temperature == 8.0
        assert loss(8.0) < loss(7.9)
    else:
        best = scipy.optimize.minimize_scalar(
            loss, bounds=(0.2, 8.0), method="bounded", options={"xatol": 1e-9}
        )
        assert found.temperature == pytest.approx(best.x, rel=3e-4)
    assert found.cross_entropy == pytest.approx(loss(found.temperature), rel=1e-5)
    assert found.gain == pytest.approx(score.cross_entropy - found.cross_entropy, rel=1e-9)


def test_temperature_at_the_nodes_is_exact() -> None:
    from kosa.scoring.temperature import NODES, tempered

    random = np.random.default_rng(5)
    logits = 30.0 * random.standard_normal((50, 9))
    logits[0, 3], logits[1] = -np.inf, [800.0] + [0.0] * 8
    labels = random.integers(4, 9, 50)
    found = tempered("logits", logits, labels, None).reshape(50, NODES, 3)
    with mpmath.workdps(40):
        for row in range(50):
            z = [mpmath.mpf(float(value)) for value in logits[row]]
            for node in range(NODES):
                beta = mpmath.mpf(2) ** (node - 3)
                e = [mpmath.exp(beta * value) for value in z]
                moments = [
                    sum(w * value**power for w, value in zip(e, z, strict=True) if w) / sum(e)
                    for power in (1, 2)
                ]
                own = z[labels[row]]
                loss = mpmath.log(sum(e)) - beta * own
                assert found[row, node, 0] == pytest.approx(float(loss), rel=RTOL)
                assert found[row, node, 1] == pytest.approx(float(moments[0] - own), rel=1e-11, abs=1e-11)
                spread = float(moments[1] - moments[0] ** 2)
                assert found[row, node, 2] == pytest.approx(spread, rel=1e-9, abs=1e-9)


def test_no_temperature_unless_asked() -> None:
    assert kosa.score([0], probs=[[0.5, 0.5]]).temperature is None


def test_by_unit() -> None:
    labels, logits, weights = data(6)
    counts = np.random.default_rng(6).integers(0, 9, N)
    losses = -scipy.special.log_softmax(logits, axis=1)[np.arange(N), labels]
    score = kosa.score(
        labels,
        logits=logits,
        weight=weights,
        per={"bytes": counts, "words": 12_345, "tokens": None},
        batch_size=300,
    )
    expected = {
        "bytes": math.fsum(weights * counts),
        "words": 12_345.0,
        "tokens": math.fsum(weights),
    }
    assert {unit.unit for unit in score.per} == set(expected)
    for unit in score.per:
        each = math.fsum(weights * losses) / expected[unit.unit]
        assert unit.units == pytest.approx(expected[unit.unit], rel=RTOL)
        assert unit.cross_entropy == pytest.approx(each, rel=RTOL)
        assert unit.bits == pytest.approx(each / math.log(2), rel=RTOL)
        assert unit.perplexity == pytest.approx(math.exp(each), rel=RTOL)
    assert kosa.score(labels, logits=logits, per="tokens").per[0].cross_entropy == pytest.approx(
        math.fsum(losses) / N, rel=RTOL
    )


def test_units_that_are_none_are_refused() -> None:
    probs = [[0.5, 0.5]] * 2
    for per, reason in (
        ({"bytes": [1.0, -1.0]}, r"row 1 \(from 0\): -1.0 bytes; expected 0 to 1e\+100"),
        ({"bytes": [1.0, math.nan]}, r"row 1 \(from 0\): nan bytes; expected 0"),
        ({"bytes": 0}, r"`per`: 0\.0 bytes; expected a positive number"),
        (3, "`per` is 3; expected a unit's name"),
    ):
        with pytest.raises(InputError, match=reason):
            kosa.score([0, 1], probs=probs, per=per)
    assert math.isnan(kosa.score([0, 1], probs=probs, per={"bytes": [0, 0]}).per[0].cross_entropy)


@pytest.mark.parametrize("contiguous", [True, False])
def test_groups_and_the_interval_over_them(contiguous: bool) -> None:
    labels, logits, weights = data(7)
    group = np.arange(N) // 37 if contiguous else np.random.default_rng(7).integers(0, 50, N)
    losses = -scipy.special.log_softmax(logits, axis=1)[np.arange(N), labels]
    right = logits.argmax(axis=1) == labels
    score = kosa.score(labels, logits=logits, weight=weights, group=group, batch_size=301, confidence=0.9)
    whole, total = mean(losses, weights), math.fsum(weights)
    names = dict.fromkeys(str(name) for name in group[weights > 0])
    assert [entry.name for entry in score.groups] == list(names)
    spread = 0.0
    for entry in score.groups:
        here = (group == int(entry.name)) & (weights > 0)
        assert entry.rows == np.count_nonzero(here)
        assert entry.weight == pytest.approx(math.fsum(weights[here]), rel=RTOL)
        assert entry.cross_entropy == pytest.approx(mean(losses[here], weights[here]), rel=RTOL)
        assert entry.accuracy == pytest.approx(mean(right[here], weights[here]), rel=RTOL)
        spread += math.fsum(weights[here] * (losses[here] - whole)) ** 2
    count = len(names)
    error = math.sqrt(count / (count - 1) * spread) / total
    assert (score.interval_over, score.clusters, score.group, score.group_count) == (
        "group", count, "group", count,
    )  # fmt: skip
    assert score.standard_error == pytest.approx(error, rel=RTOL)
    reach = scipy.stats.t.ppf(0.95, count - 1) * error
    assert (score.low, score.high) == pytest.approx((whole - reach, whole + reach), rel=RTOL)


def test_groups_of_one_row_are_rows() -> None:
    labels, logits, _ = data(8)
    rows = kosa.score(labels, logits=logits)
    groups = kosa.score(labels, logits=logits, group=np.array([f"row {n}" for n in range(N)]))
    assert groups.standard_error == rows.standard_error
    assert (groups.low, groups.high) == (rows.low, rows.high)


def test_groups_are_strings_or_integers() -> None:
    with pytest.raises(TypeError, match="`group` holds float64, expected one string or integer a row"):
        kosa.score([0, 1], probs=[[0.5, 0.5]] * 2, group=np.array([0.5, 1.0]))


def test_confusions(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, score = case
    losses = -scipy.special.log_softmax(logits, axis=1)[np.arange(N), labels]
    first = logits.argmax(axis=1)
    table = sklearn.metrics.confusion_matrix(labels, first, sample_weight=weights, labels=range(K))
    expected = {}
    for label in range(K):
        for predicted in range(K):
            here = (labels == label) & (first == predicted) & (weights > 0)
            if label != predicted and here.any():
                expected[str(label), str(predicted)] = math.fsum((weights * losses)[here])
    assert score.confused_pairs == len(expected)
    largest = sorted(expected, key=lambda pair: -expected[pair])[:20]
    assert [(entry.label, entry.predicted) for entry in score.confusions] == largest
    for entry in score.confusions:
        part = expected[entry.label, entry.predicted]
        assert entry.weight == pytest.approx(table[int(entry.label), int(entry.predicted)], rel=RTOL)
        assert entry.loss == pytest.approx(part, rel=RTOL)
        assert entry.cross_entropy == pytest.approx(part / entry.weight, rel=RTOL)
        assert entry.share == pytest.approx(part / math.fsum(weights * losses), rel=RTOL)


def test_histogram_of_losses(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, score = case
    losses = -scipy.special.log_softmax(logits, axis=1)[np.arange(N), labels]
    assert sum(entry.rows for entry in score.histogram) == np.count_nonzero(weights)
    for entry in score.histogram:
        here = (losses >= entry.low) & (losses < entry.high) & (weights > 0)
        assert entry.rows == np.count_nonzero(here)
        assert entry.weight == pytest.approx(math.fsum(weights[here]), rel=RTOL)
        assert entry.high <= 1.26 * entry.low


def test_ends_of_the_histogram() -> None:
    log_probs = np.array([0.0, -1e-300, -5e4, -np.inf])
    score = kosa.score([1, 1, 1, 1], log_probs=log_probs)
    assert [(entry.low, entry.high, entry.rows) for entry in score.histogram] == [
        (0.0, 2.0**-40, 2),
        (2.0**14, math.inf, 1),
        (math.inf, math.inf, 1),
    ]
    assert loss_bins(np.array([np.nan, np.inf])).tolist() == [219, 218]


def test_soft_targets_have_every_figure() -> None:
    random = np.random.default_rng(9)
    targets, logits = random.dirichlet(np.full(K, 0.3), N), 2.0 * random.standard_normal((N, K))
    targets[:9] = np.eye(K)[2]
    probs = scipy.special.softmax(logits, axis=1)
    score = kosa.score(targets, logits=logits, top_k=2)
    first, confidence = probs.argmax(axis=1), probs.max(axis=1)
    hit = targets[np.arange(N), first]
    assert score.brier == pytest.approx(((probs - targets) ** 2).sum(axis=1).mean(), rel=RTOL)
    expected = (hit * (confidence - 1) ** 2 + (1 - hit) * confidence**2).mean()
    assert score.confidence_split.total == pytest.approx(expected, rel=RTOL)
    place = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs((confidence - hit)[place == number].sum()) for number in range(15)]
    assert score.calibration_error == pytest.approx(sum(gaps) / N, rel=RTOL)
    order = np.argsort(-logits, axis=1)[:, :2]
    assert score.top[0].accuracy == (order == targets.argmax(axis=1)[:, None]).any(axis=1).mean()
    recalibrated = score.loss_split.total - score.loss_split.miscalibration
    assert score.target_entropy < recalibrated < score.cross_entropy


def test_binary_predictions_have_every_figure() -> None:
    random = np.random.default_rng(10)
    one, labels = random.random(N), random.integers(0, 2, N)
    score = kosa.score(labels, probs=one, top_k=[1, 2], bins=10)
    both = kosa.score(labels, probs=np.stack([1 - one, one], axis=1), top_k=[1, 2], bins=10)
    for name in ("brier", "calibration_error", "accuracy", "cross_entropy", "prior_cross_entropy"):
        assert getattr(score, name) == pytest.approx(getattr(both, name), rel=1e-11)
    assert score.brier == pytest.approx(2 * sklearn.metrics.brier_score_loss(labels, one), rel=RTOL)
    assert score.confidence_split.total == pytest.approx(score.brier / 2, rel=RTOL)
    assert [top.accuracy for top in score.top] == [score.accuracy, 1.0]
    assert score.loss_split.miscalibration == pytest.approx(both.loss_split.miscalibration, rel=1e-10)
    assert score.loss_split.miscalibration > 0.1


def test_infinite_and_unknown_losses_leave_figures_that_say_so() -> None:
    score = kosa.score([0, 1, 0], probs=[[0.0, 1.0], [0.5, 0.5], [0.9, 0.1]], temperature=True)
    assert score.loss_split.total == math.inf
    assert math.isnan(score.temperature.temperature)
    assert math.isfinite(score.brier)
    assert math.isfinite(score.calibration_error)
    forced = kosa.score([0, 1], logits=[[np.nan, 1.0], [0.0, 0.0]], force=True, top_k=1, temperature=True)
    for value in (forced.brier, forced.calibration_error, forced.confidence_split.total):
        assert math.isnan(value)
    assert forced.top[0].accuracy == 0.0
    assert forced.confused_pairs == 1


@pytest.mark.parametrize("top_k", [0, [1, 0], -3])
def test_no_fewer_than_one_class_is_first(top_k: object) -> None:
    with pytest.raises(InputError, match=r"`top_k` is -?[03], expected 1 or more"):
        kosa.score([0], probs=[[1.0, 0.0]], top_k=top_k)
    with pytest.raises(TypeError, match=r"`top_k` is \[1\.5\], expected a whole number"):
        kosa.score([0], probs=[[1.0, 0.0]], top_k=[1.5])
