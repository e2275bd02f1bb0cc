"""The table of numerics: confident rows, huge, infinite and missing values, empty batches and weights of zero."""

import mpmath as mp
import numpy as np
import pytest
from oracle import DTYPES, check_grad, draw, same_bits

import kosa
from kosa import definition

NAN, INF = np.nan, np.inf
FORMATS = list(DTYPES)
# Few classes go side by side, many along the row; 4097 and 8193 leave a tile with a single class.
CLASSES = [1, 2, 10, 64, 65, 513, 4097, 8193]
SEVERAL = [k for k in CLASSES if k > 1]


def each(targets, **options):
    """Loss of each row and gradient of their sum, in float64."""
    targets = targets if isinstance(targets, np.ndarray) else np.array(targets)
    loss, grad = kosa.cross_entropy_with_grad(targets, **options, reduction="none")
    return loss.astype(np.float64), grad.astype(np.float64)


def one_hot(index, classes, dtype):
    return (np.arange(classes) == np.asarray(index)[..., None]).astype(dtype)


def positions(classes):
    """First, last, and beside the borders of vectors, lanes, blocks and tiles."""
    edges = {0, 1, 7, 15, 16, 31, 63, 64, 511, 512, 4095, 4096, classes - 2, classes - 1, classes // 2}
    return sorted(k for k in edges if 0 <= k < classes)


def exact_row(z, target):
    """Loss and p_target − 1 of one row of logits, in high precision."""
    with mp.workdps(60):
        logits = [mp.mpf(float(v)) for v in z]
        gaps = [mp.exp(v - logits[target]) for k, v in enumerate(logits) if k != target]
        rest = mp.fsum(gaps)
        return float(mp.log1p(rest)), float(-rest / (1 + rest))


@pytest.mark.parametrize("classes", [2, 10, 64, 65, 300, 4097])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("dtype", "relative"), [("float32", 1e-5), ("float64", 1e-12)])
def test_confident_rows_keep_their_relative_accuracy(classes, soft, dtype, relative):
    gaps = np.array([1.0, 5.0, 12.0, 20.0, 34.5, 50.0, 69.0])  # e⁻⁶⁹ is 1e-30
    rng = np.random.default_rng(classes)
    z = rng.uniform(-0.5, 0.0, (gaps.size, classes))
    target = rng.integers(0, classes, gaps.size)
    z[np.arange(gaps.size), target] = gaps
    z = (z + rng.normal(size=(gaps.size, 1))).astype(dtype)
    loss, grad = each(one_hot(target, classes, dtype) if soft else target, logits=z)
    for n, k in enumerate(target):
        exact_loss, exact_slope = exact_row(z[n], k)
        assert loss[n] == pytest.approx(exact_loss, rel=relative, abs=0)
        assert grad[n, k] == pytest.approx(exact_slope, rel=relative, abs=0)


@pytest.mark.parametrize("gap", [80.0, 200.0, 700.0])
def test_confident_float64_rows_below_the_range_of_float32(gap):
    loss, grad = each([0], logits=[[gap, 0.0]])
    assert loss[0] == pytest.approx(float(mp.exp(-gap)), rel=1e-12, abs=0)
    assert grad[0, 0] == pytest.approx(-float(mp.exp(-gap)), rel=1e-12, abs=0)


@pytest.mark.parametrize("transform", [{"softcap": 100.0}, {"temperature": 0.5}])
@pytest.mark.parametrize("classes", [3, 70])
def test_confident_rows_keep_their_accuracy_through_softcap_and_temperature(transform, classes):
    z = np.zeros((1, classes), np.float32)
    z[0, 1] = 25.0
    loss, grad = each([1], logits=z, **transform)
    exact = definition.loss_with_grad(np.array([1]), logits=z, **transform)
    assert loss[0] == pytest.approx(float(exact.loss), rel=1e-5, abs=0)
    assert grad[0, 1] == pytest.approx(exact.grad[0, 1], rel=1e-5, abs=0)


@pytest.mark.parametrize("classes", [3, 70])
def test_a_confident_row_at_the_second_of_two_equal_maxima_is_not_confident(classes):
    z = np.full((1, classes), -50.0, np.float32)
    z[0, [0, -1]] = 9.0
    for target in (0, classes - 1):
        loss, grad = each([target], logits=z)
        assert loss[0] == pytest.approx(np.log(2.0), rel=1e-6)
        assert grad[0, [0, -1]].tolist() == ([-0.5, 0.5] if target == 0 else [0.5, -0.5])


@pytest.mark.parametrize("classes", SEVERAL)
@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_huge_logits_do_not_overflow(classes, size, dtype):
    rng = np.random.default_rng(0)
    z = (rng.normal(size=(5, classes)) * size).astype(DTYPES[dtype])
    targets = rng.integers(0, classes, 5)
    check_grad(targets, "logits", z, reduction="none")
    check_grad(one_hot(targets, classes, np.float32), "logits", z, reduction="none")
    losses, grad = each(z.astype(float).argmax(-1), logits=z)
    assert np.isfinite(losses).all()
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("classes", [k for k in CLASSES if k >= 10])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_masked_classes_have_probability_and_gradient_zero(classes, soft, dtype):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(6, classes)).astype(DTYPES[dtype])
    masked = rng.random((6, classes)) < 0.5
    masked[:, 3] = False
    masked[0] = True
    masked[0, 3] = False
    target = np.full(6, 3)
    z[masked] = -INF
    t = one_hot(target, classes, np.float32) if soft else target
    check_grad(t, "logits", z, reduction="none")
    loss, grad = each(t, logits=z)
    assert loss[0] == 0
    assert (grad[masked] == 0).all()


@pytest.mark.parametrize("classes", SEVERAL)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_target_on_a_masked_class_is_infinitely_wrong_with_gradient_p_minus_t(classes, soft, dtype):
    z = np.random.default_rng(0).normal(size=(3, classes)).astype(dtype)
    target = np.array([0, classes // 2, classes - 1])
    z[np.arange(3), target] = -INF
    loss, grad = each(one_hot(target, classes, dtype) if soft else target, logits=z)
    assert (loss == INF).all()
    assert (grad[np.arange(3), target] == -1).all()
    expected = definition.softmax(z) - one_hot(target, classes, float)
    assert np.abs(grad - expected).max() <= 2.0**-20


@pytest.mark.parametrize("tiles", [(0,), (1,), (0, 1), (1, 2), (2,)])
@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.1}, {"soft": "elsewhere"}, {"soft": "everywhere"}, {"soft": "masked"}],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_tiles_of_masked_classes(tiles, options, dtype):
    classes, options = 3 * 4096 - 5, dict(options)
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4, classes)).astype(dtype)
    masked = np.zeros(classes, bool)
    for tile in tiles:
        masked[4096 * tile : 4096 * (tile + 1)] = True
    z[:, masked] = -INF
    kind = options.pop("soft", None)
    targets = rng.choice(np.flatnonzero(~masked), 4)
    targets[0] = np.flatnonzero(masked)[7]
    if kind is not None:
        where = {"elsewhere": ~masked, "masked": masked, "everywhere": masked | True}[kind]
        targets = (rng.random((4, classes)) * where).astype(dtype)
    check_grad(targets, "logits", z, reduction="none", **options)


@pytest.mark.parametrize(
    "bad", ["all -inf", "inf", "-nan", "nan", "nan with a payload", "signalling nan", "inf and -inf"]
)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(
    ("dtype", "soft"), [*((dtype, False) for dtype in FORMATS), ("float32", True), ("float64", True)]
)
def test_what_is_no_logit_spoils_its_own_row_alone(bad, classes, dtype, soft):
    dtype = DTYPES[dtype]
    at = positions(classes)
    rows = 2 * len(at) + 1  # every other row is sound, and stays exact
    rng = np.random.default_rng(0)
    z = rng.normal(size=(rows, classes)).astype(dtype)
    sound = z.copy()
    bits = z.view(f"u{dtype.itemsize}")
    nan = np.array(NAN, dtype).view(bits.dtype)
    sign = np.array(1 << (8 * dtype.itemsize - 1), bits.dtype)
    infinity = np.array(INF, dtype).view(bits.dtype)
    for i, k in enumerate(at):
        row = 2 * i + 1
        if bad == "all -inf":
            z[row] = -INF
        elif bad == "inf":
            z[row, k] = INF
        elif bad == "inf and -inf":
            z[row] = -INF
            z[row, k] = INF
        elif bad == "-nan":
            bits[row, k] = nan | sign
        elif bad == "nan":
            bits[row, k] = nan & ~sign
        elif bad == "nan with a payload":
            bits[row, k] = ~np.array(0, bits.dtype)
        else:
            bits[row, k] = infinity + np.array(1, bits.dtype)
    targets = rng.integers(0, classes, rows)
    t = one_hot(targets, classes, np.float32 if dtype.itemsize < 8 else float) if soft else targets
    loss, grad = kosa.cross_entropy_with_grad(t, logits=z, reduction="none")
    alone = kosa.cross_entropy_with_grad(t, logits=sound, reduction="none")
    assert np.isnan(loss[1::2]).all()
    assert np.isnan(grad[1::2].astype(float)).all()
    same_bits(loss[::2], alone.loss[::2])
    same_bits(grad[::2], alone.grad[::2])
    same_bits(kosa.cross_entropy(t, logits=z, reduction="none"), loss)
    assert np.isnan(kosa.cross_entropy(t, logits=z))
    stats = kosa.row_statistics(t, logits=z)
    for name in ("loss", "lse", "confidence", "entropy", "brier"):
        assert np.isnan(getattr(stats, name)[1::2]).all()
        assert np.isfinite(getattr(stats, name)[::2]).all()
    assert ((stats.argmax[1::2] == -1) == ("nan" in bad)).all()


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["probs", "log_probs"])
@pytest.mark.parametrize("soft", [False, True])
def test_what_is_no_probability_spoils_its_own_row_alone(bad, classes, kind, soft):
    at = positions(classes)
    targets, y = draw(np.random.default_rng(0), kind, "float32", None, (2 * len(at) + 1, classes), -1, 1.0)
    t = one_hot(targets, classes, np.float32) if soft else targets
    alone = kosa.cross_entropy_with_grad(t, **{kind: y}, reduction="none")
    y = y.copy()
    for i, k in enumerate(at):
        y[2 * i + 1, k] = bad
    loss, grad = kosa.cross_entropy_with_grad(t, **{kind: y}, reduction="none")
    assert np.isnan(loss[1::2]).all()
    assert np.isnan(grad[1::2]).all()
    same_bits(loss[::2], alone.loss[::2])
    same_bits(grad[::2], alone.grad[::2])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "class_weight": True}])
def test_rows_that_are_ignored_or_weigh_nothing_are_zero_whatever_they_hold(bad, classes, kind, options):
    rng = np.random.default_rng(0)
    options = dict(options)
    if options.pop("class_weight", False):
        options["class_weight"] = rng.uniform(0.5, 2, classes)
    targets, y = draw(rng, kind, "float32", None, (7, classes), -1, 1.0)
    y[1:6:2] = bad
    targets[[1, 5]] = -100
    weight = np.array([1.0, 2.0, 1.0, 0.0, 3.0, 0.0, 1.0])
    loss, grad = each(targets, **{kind: y}, sample_weight=weight, **options)
    assert (loss[1:6:2] == 0).all()
    assert (grad[1:6:2] == 0).all()
    assert np.isfinite(loss).all()
    assert (loss[::2] > 0).all() == (classes > 1)
    soft = one_hot(np.maximum(targets, 0), classes, np.float32)
    y[[1, 5]] = y[0]
    loss, grad = each(soft, **{kind: y}, sample_weight=weight, **options)
    assert loss[3] == 0
    assert (grad[3] == 0).all()
    assert np.isfinite(loss).all()


@pytest.mark.parametrize("classes", [3, 100])
def test_a_target_class_of_weight_zero_counts_only_where_something_else_does(classes):
    class_weight = np.ones(classes)
    class_weight[1] = 0
    z = np.random.default_rng(0).normal(size=(3, classes))
    z[1] = NAN
    loss, grad = each([0, 1, 2], logits=z, class_weight=class_weight)
    assert loss[1] == 0
    assert (grad[1] == 0).all()
    for option in ({"label_smoothing": 0.1}, {"z_loss": 0.1}):
        assert np.isnan(each([0, 1, 2], logits=z, class_weight=class_weight, **option)[0][1])


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_an_ignored_class_may_be_a_class(kind):
    targets, y = draw(np.random.default_rng(0), kind, "float64", None, (40, 5), -1, 1.0)
    check_grad(targets, kind, y, ignore_index=0)
    loss, _ = each(targets, **{kind: y}, ignore_index=0)
    assert ((loss == 0) == (targets == 0)).all()
    mean = kosa.cross_entropy(targets, **{kind: y}, ignore_index=0)
    assert mean == pytest.approx(loss.sum() / np.count_nonzero(targets), rel=1e-14)


@pytest.mark.parametrize("classes", [2, 70, 5000])
@pytest.mark.parametrize("soft", [False, True])
def test_probability_zero_at_the_target_is_infinitely_wrong(classes, soft):
    y = np.zeros((2, classes), np.float32)
    y[:, 0] = 1
    targets = np.array([0, classes - 1])
    t = one_hot(targets, classes, np.float32) if soft else targets
    loss, grad = each(t, probs=y)
    assert loss.tolist() == [0, INF]
    assert grad[0, 0] == -1
    assert grad[1, -1] == -INF
    assert np.count_nonzero(grad) == 2
    with np.errstate(divide="ignore"):
        logs = np.log(y)
    loss, grad = each(t, log_probs=logs)
    assert loss.tolist() == [0, INF]
    assert grad[[0, 1], targets].tolist() == [-1, -1]
    assert np.count_nonzero(grad) == 2


def test_zero_times_the_logarithm_of_zero_is_zero():
    assert kosa.cross_entropy([0.0, 1.0], probs=[0.0, 1.0]) == 0
    assert kosa.cross_entropy([0.0, 1.0], log_probs=[-INF, 0.0]) == 0
    assert kosa.cross_entropy([0.0, 1.0], logits=[-INF, 3.0]) == 0
    assert kosa.cross_entropy(1, logits=[-INF, 3.0]) == 0


@pytest.mark.parametrize("kind", ["probs", "log_probs", "logits"])
@pytest.mark.parametrize("classes", [3, 100])
def test_smoothing_over_a_class_of_probability_zero_is_infinite(kind, classes):
    y = np.ones((1, classes))
    y[0, 2] = {"probs": 0.0}.get(kind, -INF)
    assert kosa.cross_entropy([0], **{kind: y}, label_smoothing=0.1) == INF
    assert np.isfinite(kosa.cross_entropy([0], **{kind: y}))


@pytest.mark.parametrize("classes", [4, 100])
def test_the_softcap_comes_before_infinite_logits_are_judged(classes):
    z = np.zeros((2, classes), np.float32)
    z[0, 1], z[1, 1] = INF, -INF
    loss, grad = each([1, 1], logits=z, softcap=3.0)
    expected = [np.log1p((classes - 1) * np.exp(-3.0)), 3 + np.log(classes - 1 + np.exp(-3.0))]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert (grad[:, 1] == 0).all()
    assert (grad[:, 0] != 0).all()


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", [(0, 3), (0, 100), (2, 0, 5)])
def test_a_batch_without_rows(kind, dtype, shape):
    y, t = np.zeros(shape, DTYPES[dtype]), np.zeros(shape[:-1], int)
    wide = np.float64 if dtype == "float64" else np.float32
    loss, grad = kosa.cross_entropy_with_grad(t, **{kind: y})
    assert np.isnan(loss)
    assert loss.dtype == wide
    assert grad.shape == shape
    assert kosa.cross_entropy(t, **{kind: y}, empty="zero") == 0
    assert kosa.cross_entropy(t, **{kind: y}, reduction="sum") == 0
    assert kosa.cross_entropy(t, **{kind: y}, denominator=3.0) == 0
    none = kosa.cross_entropy(t, **{kind: y}, reduction="none")
    assert none.shape == shape[:-1]
    assert none.dtype == wide
    for figure in kosa.row_statistics(t, **{kind: y}):
        assert figure.shape == shape[:-1]


@pytest.mark.parametrize("classes", [3, 100])
@pytest.mark.parametrize(
    "options",
    [{"sample_weight": [0.0, 0.0]}, {"class_weight": 0}, {"targets": [-100, -100]}, {"denominator": 0.0}],
)
def test_a_mean_of_nothing_is_nan_or_zero_with_gradient_zero(classes, options):
    options = dict(options)
    targets = options.pop("targets", [1, 2])
    if "class_weight" in options:
        options["class_weight"] = np.zeros(classes)
    z = np.random.default_rng(0).normal(size=(2, classes))
    loss, grad = kosa.cross_entropy_with_grad(targets, logits=z, **options)
    assert np.isnan(loss)
    assert (grad == 0).all()
    loss, grad = kosa.cross_entropy_with_grad(targets, logits=z, **options, empty="zero")
    assert loss == 0
    assert (grad == 0).all()


@pytest.mark.parametrize("dtype", FORMATS)
def test_one_class_is_certain(dtype):
    z = np.array([[3.0], [-7.0]], DTYPES[dtype])
    loss, grad = each([0, 0], logits=z)
    assert loss.tolist() == [0, 0]
    assert grad.tolist() == [[0], [0]]
    loss, _ = each([0, 0], logits=z, z_loss=0.5)
    assert loss.tolist() == [4.5, 24.5]


@pytest.mark.parametrize("classes", [3, 100])
def test_subnormal_and_smallest_numbers_are_numbers(classes):
    z = np.full((1, classes), 1e-42, np.float32)
    assert kosa.cross_entropy([0], logits=z) == pytest.approx(np.log(classes), rel=4e-7)
    y = np.full((1, classes), 5e-324)
    assert kosa.cross_entropy([0], probs=y) == pytest.approx(744.4400719213812, rel=1e-14)


def test_a_loss_beyond_float32_is_infinite_without_a_warning():
    z = np.array([[3e38, -3e38]], np.float32)
    assert kosa.cross_entropy([1], logits=z) == INF
    assert kosa.cross_entropy([0], logits=z) == 0
