"""The figures of `kosa.score` against independent float64 computations, to 1e-12 relative."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

import kosa
from kosa.scoring import Score

RTOL = 1e-12  # what every reported figure promises
N, K = 1003, 7  # rows that no batch divides, classes that no vector divides


def data(seed: int, dtype: object = np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, logits and weights."""
    random = np.random.default_rng(seed)
    logits = (3 * random.standard_normal((N, K))).astype(dtype)
    return random.integers(0, K, N), logits, random.exponential(size=N)


def log_probs(logits: np.ndarray) -> np.ndarray:
    return scipy.special.log_softmax(logits.astype(np.float64), axis=1)


def fmean(values: np.ndarray, weights: np.ndarray) -> float:
    return math.fsum(values * weights) / math.fsum(weights)


@pytest.fixture(scope="module", params=["plain", "weighted"])
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray, Score]:
    labels, logits, weights = data(1)
    if request.param == "plain":
        return labels, logits, np.ones(N), kosa.score(labels, logits=logits)
    weights[::10] = 0.0
    return labels, logits, weights, kosa.score(labels, logits=logits, weight=weights)


def test_mean_and_what_follows_from_it(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, score = case
    expected = fmean(-log_probs(logits)[np.arange(N), labels], weights)
    assert score.rows == N
    assert score.weight == pytest.approx(math.fsum(weights), rel=RTOL)
    assert score.cross_entropy == pytest.approx(expected, rel=RTOL)
    assert score.bits == pytest.approx(expected / math.log(2), rel=RTOL)
    assert score.perplexity == pytest.approx(math.exp(expected), rel=RTOL)
    assert score.log_perplexity == score.cross_entropy
    assert score.predictions == "logits"


def test_agreement_with_scikit_learn(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, score = case
    probs = scipy.special.softmax(logits.astype(np.float64), axis=1)
    expected = sklearn.metrics.log_loss(labels, probs, sample_weight=weights, labels=range(K))
    assert score.cross_entropy == pytest.approx(expected, rel=RTOL)
    accuracy = sklearn.metrics.accuracy_score(labels, np.argmax(logits, axis=1), sample_weight=weights)
    assert score.accuracy == pytest.approx(accuracy, rel=RTOL)


def test_standard_error(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, score = case
    losses = -log_probs(logits)[np.arange(N), labels]
    used = weights > 0
    count = np.count_nonzero(used)
    spread = math.fsum(weights**2 * (losses - fmean(losses, weights)) ** 2)
    expected = math.sqrt(count / (count - 1) * spread) / math.fsum(weights)
    assert score.standard_error == pytest.approx(expected, rel=RTOL)
    if (weights == 1).all():
        assert score.standard_error == pytest.approx(scipy.stats.sem(losses), rel=RTOL)


def test_standard_error_of_losses_that_hardly_differ() -> None:
    # The textbook formula Σx² − (Σx)²/n in float64 has no right digit here: the spread is 1e-9 of the mean.
    values = 20.0 + 1e-8 * np.random.default_rng(2).standard_normal(500)
    score = kosa.score(np.ones(500), log_probs=-values)
    losses = [float(loss) for loss in values]
    assert score.standard_error == pytest.approx(scipy.stats.sem(np.array(losses) - 20.0), rel=1e-9)


def test_standard_error_of_the_smallest_losses_is_no_error() -> None:
    # Their squares are subnormal numbers or 0.
    for loss in (1e-160, 1e-200, 5e-324):
        score = kosa.score([1, 1, 1], log_probs=np.full(3, -loss))
        assert score.cross_entropy == pytest.approx(loss, rel=RTOL)
        assert 0.0 <= score.standard_error <= loss


def test_class_prior_and_skill(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, _, weights, score = case
    frequency = np.bincount(labels, weights=weights, minlength=K) / weights.sum()
    expected = fmean(-np.log(frequency)[labels], weights)
    assert score.prior_cross_entropy == pytest.approx(expected, rel=RTOL)
    assert score.skill == pytest.approx(1 - score.cross_entropy / expected, rel=RTOL)
    assert score.target_entropy == 0.0
    assert score.kl_divergence == score.cross_entropy


def test_classes(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, score = case
    losses, right = -log_probs(logits)[np.arange(N), labels], np.argmax(logits, axis=1) == labels
    assert [entry.name for entry in score.classes] == [str(number) for number in range(K)]
    for number, entry in enumerate(score.classes):
        here = labels == number
        assert entry.rows == np.count_nonzero(here & (weights > 0))
        assert entry.weight == pytest.approx(math.fsum(weights[here]), rel=RTOL)
        assert entry.cross_entropy == pytest.approx(fmean(losses[here], weights[here]), rel=RTOL)
        assert entry.accuracy == pytest.approx(fmean(right[here], weights[here]), rel=RTOL)


def test_worst_rows(case: tuple[np.ndarray, np.ndarray, np.ndarray, Score]) -> None:
    labels, logits, weights, score = case
    logs = log_probs(logits)
    losses = np.where(weights > 0, -logs[np.arange(N), labels], -1)
    order = np.argsort(-losses, kind="stable")[:5]
    assert [row.row for row in score.worst] == order.tolist()
    for row in score.worst:
        assert row.id == row.row
        assert row.label == str(labels[row.row])
        assert row.loss == pytest.approx(losses[row.row], rel=RTOL)
        assert row.predicted == str(np.argmax(logits[row.row]))
        assert row.probability == pytest.approx(math.exp(logs[row.row].max()), rel=RTOL)


@pytest.mark.parametrize("kept", [0, 1, 8, 2000])
def test_as_many_worst_rows_as_asked(kept: int) -> None:
    labels, logits, _ = data(3)
    names = np.array([f"row {number}" for number in range(N)])
    score = kosa.score(labels, logits=logits, id=names, worst=kept, batch_size=100)
    losses = -log_probs(logits)[np.arange(N), labels]
    order = np.argsort(-losses, kind="stable")[:kept]
    assert [row.id for row in score.worst] == names[order].tolist()


def test_of_equal_losses_the_first_rows_are_the_worst() -> None:
    labels = np.zeros(300, dtype=int)
    for size in (1, 7, 300):
        score = kosa.score(labels, probs=np.tile([0.5, 0.5], (300, 1)), batch_size=size)
        assert [row.row for row in score.worst] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_float_type_is_widened_before_it_is_computed_with(dtype: object) -> None:
    labels, logits, _ = data(4, dtype)
    expected = math.fsum(-log_probs(logits)[np.arange(N), labels]) / N
    assert kosa.score(labels, logits=logits).cross_entropy == pytest.approx(expected, rel=RTOL)


def test_the_three_kinds_say_the_same() -> None:
    labels, logits, weights = data(5, np.float64)
    logs = log_probs(logits)
    scores = [
        kosa.score(labels, weight=weights, **{kind: values})
        for kind, values in {"logits": logits, "log_probs": logs, "probs": np.exp(logs)}.items()
    ]
    for other in scores[1:]:
        for name in ("cross_entropy", "standard_error", "accuracy", "skill", "clipped_cross_entropy"):
            # exp and log of the values themselves cost some 1e-15 each.
            assert getattr(other, name) == pytest.approx(getattr(scores[0], name), rel=1e-11)


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_soft_targets(kind: str) -> None:
    _, logits, weights = data(6, np.float64)
    targets = np.random.default_rng(6).dirichlet(np.full(K, 0.3), N)
    targets[:50] = np.eye(K)[3]
    logs = log_probs(logits)
    values = {"logits": logits, "probs": np.exp(logs), "log_probs": logs}[kind]
    score = kosa.score(targets, weight=weights, batch_size=64, **{kind: values})
    losses = -(targets * logs).sum(axis=1)
    entropy = scipy.special.entr(targets).sum(axis=1)
    mass = (weights[:, None] * targets).sum(axis=0)
    prior = -(mass * np.log(mass / mass.sum())).sum() / weights.sum()
    assert score.cross_entropy == pytest.approx(fmean(losses, weights), rel=1e-11)
    assert score.target_entropy == pytest.approx(fmean(entropy, weights), rel=RTOL)
    assert score.kl_divergence == pytest.approx(fmean(losses - entropy, weights), rel=1e-11)
    assert score.prior_cross_entropy == pytest.approx(prior, rel=RTOL)
    label = np.argmax(targets, axis=1)
    assert score.accuracy == pytest.approx(fmean(np.argmax(logs, axis=1) == label, weights), rel=RTOL)
    assert [entry.rows for entry in score.classes] == np.bincount(label, minlength=K).tolist()


def binary_reference(one: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p of both classes from logits, in float64."""
    losses = targets * np.logaddexp(0, -one) + (1 - targets) * np.logaddexp(0, one)
    return losses, (one > 0) == (targets > 0.5)


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize("soft", [False, True])
def test_binary(kind: str, soft: bool) -> None:
    random = np.random.default_rng(7)
    logits, weights = 4 * random.standard_normal(N), random.exponential(size=N)
    targets = random.random(N) if soft else random.integers(0, 2, N)
    values = {
        "logits": logits,
        "probs": scipy.special.expit(logits),
        "log_probs": scipy.special.log_expit(logits),
    }[kind]
    score = kosa.score(targets, weight=weights, **{kind: values})
    losses, right = binary_reference(logits, targets)
    entropy = scipy.special.entr(targets) + scipy.special.entr(1 - targets)
    mass = fmean(targets, weights)
    assert score.cross_entropy == pytest.approx(fmean(losses, weights), rel=1e-11)
    assert score.accuracy == pytest.approx(fmean(right, weights), rel=RTOL)
    assert score.target_entropy == pytest.approx(fmean(entropy, weights) if soft else 0.0, rel=RTOL)
    prior = float(scipy.special.entr(mass) + scipy.special.entr(1 - mass))
    assert score.prior_cross_entropy == pytest.approx(prior, rel=RTOL)
    assert [entry.name for entry in score.classes] == ["0", "1"]
    assert score.worst[0].loss == pytest.approx(losses.max(), rel=1e-11)


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_confident_binary_predictions_keep_their_relative_accuracy(kind: str) -> None:
    small = np.array([1e-30, 1e-17, 1e-9])  # p of the class that is not the target's
    values = {
        "logits": np.log(small),
        "probs": small,
        "log_probs": np.log(small),
    }[kind]
    score = kosa.score(np.zeros(3, dtype=int), worst=3, **{kind: values})
    expected = [1e-9, 1e-17, 1e-30]
    assert [row.loss for row in score.worst] == pytest.approx(
        expected, rel=1e-8 if kind == "logits" else 1e-12
    )


def test_probability_zero_is_infinite_counted_and_clipped() -> None:
    probs = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]], dtype=np.float32)
    score = kosa.score([0, 0, 1], probs=probs)
    eps = float(np.finfo(np.float32).eps)
    assert score.cross_entropy == math.inf
    assert score.perplexity == math.inf
    assert math.isnan(score.standard_error)
    assert score.skill == -math.inf
    assert score.zero_probability_rows == 2
    assert (score.clip, score.clip_name) == (eps, "float32 epsilon")
    assert score.clipped_cross_entropy == pytest.approx((math.log(2) - 2 * math.log(eps)) / 3, rel=RTOL)
    assert [row.row for row in score.worst] == [0, 2, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_clipped_figure_is_scikit_learns(dtype: type) -> None:
    labels, logits, weights = data(8, np.float64)
    probs = scipy.special.softmax(12 * logits, axis=1).astype(dtype)
    score = kosa.score(labels, probs=probs, weight=weights)
    clip = float(np.finfo(dtype).eps)
    clipped = -np.log(np.maximum(probs.astype(np.float64)[np.arange(N), labels], clip))
    assert score.clip == clip
    assert np.any(clipped == -np.log(clip))
    assert score.clipped_cross_entropy == pytest.approx(fmean(clipped, weights), rel=RTOL)
    # scikit-learn also clips at 1 − eps, which moves a loss by eps at most.
    theirs = sklearn.metrics.log_loss(labels, probs, sample_weight=weights, labels=range(K))
    assert score.clipped_cross_entropy == pytest.approx(theirs, rel=10 * clip)


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_clipped_figure_of_soft_and_binary_targets(kind: str) -> None:
    targets = np.array([[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]])
    logs = np.array([[-1e-30, -70.0], [-np.log(2), -np.log(2)], [-80.0, -1e-35]])
    values = {"logits": logs, "probs": np.exp(logs), "log_probs": logs}[kind]
    least = math.log(np.finfo(np.float64).eps)
    expected = -(targets * np.maximum(logs, least)).sum() / 3
    soft = kosa.score(targets, **{kind: values})
    assert soft.cross_entropy == pytest.approx(-(targets * logs).sum() / 3, rel=RTOL)
    assert soft.clipped_cross_entropy == pytest.approx(expected, rel=RTOL)
    one = {"logits": logs[:, 1] - logs[:, 0], "probs": np.exp(logs[:, 1]), "log_probs": logs[:, 1]}[kind]
    binary = kosa.score(targets[:, 1], **{kind: one})
    assert binary.clipped_cross_entropy == pytest.approx(expected, rel=RTOL)


def test_an_impossible_class_that_is_no_target_is_no_matter() -> None:
    score = kosa.score([1, 1], logits=[[-np.inf, 0.0, 0.0], [-np.inf, 1.0, 1.0]])
    assert score.cross_entropy == pytest.approx(math.log(2), rel=RTOL)
    assert score.zero_probability_rows == 0


def test_perplexity_overflows_and_its_logarithm_does_not() -> None:
    score = kosa.score([0, 0], logits=[[0.0, 2000.0], [0.0, 1000.0]])
    assert score.cross_entropy == 1500.0
    assert score.perplexity == math.inf
    assert score.log_perplexity == 1500.0
    assert "inf (exp 1,500 overflows)" in str(score)
    found = json.loads(score.to_json())
    assert (found["perplexity"], found["log_perplexity"]) == ("inf", 1500.0)


def test_one_class_and_one_row_have_no_skill_and_no_error() -> None:
    score = kosa.score([1], logits=[[0.0, 1.0]])
    assert math.isnan(score.skill)
    assert math.isnan(score.standard_error)
    assert math.isnan(score.classes[0].cross_entropy)
    assert score.classes[0].rows == 0


def test_rows_of_weight_zero_count_as_rows_only() -> None:
    labels, logits, weights = data(9)
    keep = np.arange(N) % 3 > 0
    logits[::6, 2] = np.nan
    logits[np.arange(3, N, 6), labels[3::6]] = -np.inf
    score = kosa.score(labels, logits=logits, weight=np.where(keep, weights, 0.0))
    alone = kosa.score(labels[keep], logits=logits[keep], weight=weights[keep], worst=0)
    assert score.rows == N
    for name in (
        "cross_entropy",
        "standard_error",
        "weight",
        "accuracy",
        "skill",
        "zero_probability_rows",
        "clipped_cross_entropy",
        "classes",
    ):
        assert getattr(score, name) == getattr(alone, name)
    assert all(keep[row.row] for row in score.worst)


def test_forced_nan_makes_the_figures_nan_and_is_shown() -> None:
    score = kosa.score([0, 1], logits=[[np.nan, 1.0], [0.0, 0.0]], force=True)
    assert math.isnan(score.cross_entropy)
    assert math.isnan(score.clipped_cross_entropy)
    assert score.classes[1].cross_entropy == pytest.approx(math.log(2), rel=RTOL)
    assert score.worst[0].row == 0
    assert score.worst[0].predicted is None
    assert score.accuracy == 0.0


def test_many_axes_are_rows() -> None:
    random = np.random.default_rng(10)
    logits, labels = random.standard_normal((4, 5, 3)), random.integers(0, 3, (4, 5))
    score = kosa.score(labels, logits=logits, weight=np.ones((4, 5)))
    assert score.rows == 20
    assert score.cross_entropy == kosa.score(labels.ravel(), logits=logits.reshape(20, 3)).cross_entropy
