"""Binary cross-entropy against the definition and mpmath: formats, layouts, weights, extremes."""

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from oracle import DTYPES, assert_within, check_binary, half_ulp, layouts, same_bits
from strategies import binary_calls

import kosa
from kosa import definition

NAN, INF = np.nan, np.inf


def check(targets, kind, predictions, against=None, **options):
    """Hold loss and gradient against the definition, and the loss against the bits of the loss alone."""
    plain_targets, x = against if against is not None else (np.asarray(targets), np.asarray(predictions))
    x = np.array(x)
    alone = kosa.binary_cross_entropy(targets, **{kind: predictions}, **options)
    loss, grad = kosa.binary_cross_entropy_with_grad(targets, **{kind: predictions}, **options)
    same_bits(loss, alone)
    assert loss.dtype == (np.float64 if x.dtype.itemsize == 8 else np.float32)
    assert grad.dtype == np.asarray(predictions).dtype
    check_binary(loss, grad, plain_targets, kind, x, **options)


@given(call=binary_calls())
@settings(max_examples=300)
def test_any_combination_of_options_agrees_with_the_definition(call):
    targets, kind, predictions, options = call
    check(targets, kind, predictions, **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("t", [0, 1])
def test_confident_elements_keep_their_relative_accuracy(dtype, t):
    z = np.array([0.5, 3.0, 10.0, 30.0, 69.0]) * (1 if t else -1)
    targets = np.full(z.shape, t)
    loss, grad = kosa.binary_cross_entropy_with_grad(targets, logits=z.astype(dtype), reduction="none")
    relative = 1e-12 if dtype == "float64" else 2.0**-23
    for got, slope, value in zip(loss, grad, np.abs(z), strict=True):
        with mp.workdps(60):
            exact = mp.log1p(mp.exp(-mp.mpf(value)))
            p = 1 / (1 + mp.exp(mp.mpf(value)))
        assert float(got) == pytest.approx(float(exact), rel=relative, abs=0)
        assert float(slope) == pytest.approx(float(-p if t else p), rel=relative, abs=0)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits_do_not_overflow(dtype, size):
    size = min(size, 6e4) if dtype == "float16" else size
    z = np.array([size, -size], DTYPES[dtype])
    loss, grad = kosa.binary_cross_entropy_with_grad([1, 1], logits=z, reduction="none")
    assert loss.tolist() == [0, float(z[0])]
    assert grad.tolist() == [0, -1]
    loss, grad = kosa.binary_cross_entropy_with_grad([0.5, 0.5], logits=z, reduction="none")
    assert loss.tolist() == [float(z[0]) / 2] * 2
    assert grad.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_infinite_logits_are_certain(dtype):
    z = np.array([INF, -INF, INF, -INF], DTYPES[dtype])
    loss, grad = kosa.binary_cross_entropy_with_grad([1, 0, 0, 1], logits=z, reduction="none")
    assert loss.tolist() == [0, 0, INF, INF]
    assert grad.tolist() == [0, 0, 1, -1]


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_probabilities_zero_and_one_are_right_or_infinitely_wrong(dtype):
    p = np.array([1, 0, 0, 1], DTYPES[dtype])
    loss, grad = kosa.binary_cross_entropy_with_grad([1, 0, 1, 0], probs=p, reduction="none")
    assert loss.tolist() == [0, 0, INF, INF]
    assert grad.tolist() == [-1, 1, -INF, INF]


@pytest.mark.parametrize(
    ("kind", "bad"), [("logits", NAN), ("logits", -NAN), ("probs", NAN), ("probs", INF), ("probs", -INF)]
)
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("t", [0, 1, 0.5])
def test_what_is_no_prediction_spoils_its_own_element_alone(kind, bad, dtype, t):
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 0.9, 41).astype(DTYPES[dtype])
    sound = kosa.binary_cross_entropy_with_grad([t] * 41, **{kind: x}, reduction="none")
    x[1::2] = bad
    loss, grad = kosa.binary_cross_entropy_with_grad([t] * 41, **{kind: x}, reduction="none", pos_weight=1.0)
    assert np.isnan(loss[1::2]).all()
    assert np.isnan(grad[1::2].astype(float)).all()
    same_bits(loss[::2], sound.loss[::2])
    same_bits(grad[::2], sound.grad[::2])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_elements_ignored_or_of_weight_zero_are_zero_whatever_they_hold(bad, kind):
    x = np.array([0.25, bad, bad, 0.5])
    loss, grad = kosa.binary_cross_entropy_with_grad(
        [1, -100, 1, 0], **{kind: x}, sample_weight=[1.0, 5.0, 0.0, 2.0], reduction="none"
    )
    assert loss[1:3].tolist() == grad[1:3].tolist() == [0, 0]
    assert np.isfinite(loss).all()
    mean = kosa.binary_cross_entropy([1, -100, 1, 0], **{kind: x}, sample_weight=[1.0, 5.0, 0.0, 2.0])
    assert mean == pytest.approx(loss.sum() / 3, rel=1e-14)


def test_targets_may_be_bool_integers_or_floats():
    z = np.random.default_rng(0).normal(size=6)
    t = np.array([0, 1, 1, 0, 1, 0])
    expected = kosa.binary_cross_entropy(t.astype(float), logits=z, reduction="none")
    for dtype in ("bool", "int8", "uint8", "int32", "uint64", ">i2", "float16", "float32"):
        same_bits(kosa.binary_cross_entropy(t.astype(dtype), logits=z, reduction="none"), expected)
    same_bits(
        kosa.binary_cross_entropy(t.astype(bool)[::-1], logits=z[::-1], reduction="none"),
        expected[::-1].copy(),
    )


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (2, 3), (1, 1)])
@pytest.mark.parametrize("name", ["pos_weight", "sample_weight"])
def test_weights_broadcast(shape, name):
    rng = np.random.default_rng(0)
    z, t, weight = rng.normal(size=(2, 3)), rng.random((2, 3)), rng.uniform(0.5, 2, shape)
    whole = np.broadcast_to(weight, (2, 3)).copy()
    same_bits(
        kosa.binary_cross_entropy(t, logits=z, **{name: weight}),
        kosa.binary_cross_entropy(t, logits=z, **{name: whole}),
    )
    check(t, "logits", z, **{name: whole})


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_arrays_of_any_layout(kind, dtype, tmp_path):
    rng = np.random.default_rng(0)
    plain = rng.uniform(0.05, 0.95, (6, 7, 5)).astype(DTYPES[dtype])
    t = rng.integers(0, 2, plain.shape)
    for name, array in layouts(plain, tmp_path).items():
        check(t, kind, array, (t, plain))
        swapped = layouts(t, tmp_path).get(name, t)
        check(swapped, kind, array, (t, plain), reduction="none")


@pytest.mark.parametrize("dtype", [*DTYPES, ">f2", ">f4", ">f8"])
def test_a_gradient_goes_where_it_is_told_and_may_replace_the_predictions(dtype):
    rng = np.random.default_rng(0)
    dtype = DTYPES[dtype] if dtype in DTYPES else np.dtype(dtype)
    z = rng.normal(size=(6, 8)).astype(dtype)
    t = rng.integers(0, 2, z.shape)
    expected = definition.binary_loss_with_grad(t, logits=z.astype(float)).grad
    off = 1e-3 * np.abs(expected).max() if dtype.itemsize > 2 else half_ulp(expected, dtype) * 1.001
    off = np.minimum(off, 1e-6 * np.abs(expected)) if dtype.itemsize > 2 else off
    assert_within(kosa.binary_cross_entropy_with_grad(t, logits=z).grad, expected, off, "fresh")
    strided = np.zeros((6, 16), dtype)[:, ::2]
    assert kosa.binary_cross_entropy_with_grad(t, logits=z, out=strided).grad is strided
    assert_within(strided, expected, off, "strided")
    z = np.asfortranarray(z)
    assert kosa.binary_cross_entropy_with_grad(t, logits=z, out=z).grad is z
    assert_within(z, expected, off, "in place")


@pytest.mark.parametrize("size", [65_537, 600_000])  # one thread's work, and several chunks
def test_many_elements(size):
    rng = np.random.default_rng(0)
    check(
        rng.integers(0, 2, size),
        "logits",
        rng.normal(0, 4, size).astype(np.float32),
        pos_weight=np.array(2.0),
    )


def test_a_mean_of_nothing_is_nan_or_zero_with_gradient_zero():
    for targets, options in (
        ([-100, -100], {}),
        ([1, 0], {"sample_weight": 0.0}),
        ([1, 0], {"denominator": 0}),
    ):
        loss, grad = kosa.binary_cross_entropy_with_grad(targets, logits=[NAN, 1.0], **options)
        assert np.isnan(loss)
        assert grad.tolist() == [0, 0]
        assert kosa.binary_cross_entropy(targets, logits=[NAN, 1.0], empty="zero", **options) == 0


def test_a_scalar_is_an_element():
    assert kosa.binary_cross_entropy(1, logits=0.0) == pytest.approx(np.log(2), rel=1e-15)
    loss, grad = kosa.binary_cross_entropy_with_grad(True, probs=0.25, reduction="none")
    assert loss == pytest.approx(np.log(4), rel=1e-15)
    assert grad == -4


def test_gradients_are_the_differences_of_the_loss():
    rng = np.random.default_rng(0)
    z, t, direction, step = rng.normal(size=40), rng.random(40), rng.normal(size=40), 1e-5
    options = {
        "pos_weight": rng.uniform(0.5, 2, 40),
        "sample_weight": rng.uniform(0.5, 2, 40),
        "label_smoothing": 0.2,
    }
    for kind, x in (("logits", z), ("probs", 1 / (1 + np.exp(-z)))):
        grad = kosa.binary_cross_entropy_with_grad(t, **{kind: x}, **options).grad
        ahead, behind = (
            kosa.binary_cross_entropy(t, **{kind: x + s * direction}, **options) for s in (step, -step)
        )
        assert np.sum(grad * direction) == pytest.approx((ahead - behind) / (2 * step), rel=1e-6)
