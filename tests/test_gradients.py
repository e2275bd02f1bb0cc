"""Gradients of every combination of options, formats and shapes against the definition, and against differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from oracle import CLASSES, PAIRS, ROWS, check_grad, draw, same_bits
from strategies import calls

import kosa

SOME_ROWS = {k: [n for n in ROWS if n * k <= 70_000] for k in CLASSES}


@given(call=calls())
@settings(max_examples=250)
def test_any_combination_of_options_agrees_with_the_definition(call):
    targets, kind, predictions, options = call
    check_grad(targets, kind, predictions, **options)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(
    "pair", [("float32", None), ("float32", "float32"), ("float64", None), ("bfloat16", None)]
)
def test_every_edge_of_rows_and_classes_agrees_with_the_definition(classes, pair):
    rng = np.random.default_rng(classes)
    for rows in SOME_ROWS[classes]:
        targets, z = draw(rng, "logits", *pair, (rows, classes), -1, 4.0)
        check_grad(targets, "logits", z)
        check_grad(targets, "logits", z, reduction="none", label_smoothing=0.1)


@pytest.mark.parametrize("kind", ["probs", "log_probs"])
@pytest.mark.parametrize("classes", [1, 3, 4095, 4096, 4097, 8193])  # around a tile
@pytest.mark.parametrize("pair", PAIRS[:6])
def test_gradients_of_probabilities_of_every_length_agree_with_the_definition(kind, classes, pair):
    targets, y = draw(np.random.default_rng(classes), kind, *pair, (5, classes), -1, 2.0)
    check_grad(targets, kind, y, reduction="sum")


@pytest.mark.parametrize(
    ("rows", "classes"), [(30_000, 10), (700, 513), (60, 8193), (6000, 65)]
)  # ≥ 2 chunks each
@pytest.mark.parametrize("pair", [("float32", None), ("float32", "float32")])
def test_rows_shared_over_threads_agree_with_the_definition(rows, classes, pair):
    targets, z = draw(np.random.default_rng(rows), "logits", *pair, (rows, classes), -1, 4.0)
    check_grad(targets, "logits", z, sample_weight=np.random.default_rng(1).random(rows))


def test_a_gradient_larger_than_the_caches_is_written_whole():
    # 64 MiB is where stores begin to go past the caches; 8209 is odd, so lines begin anywhere in a row.
    rows, classes = 2053, 8209
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (rows, classes), -1, 4.0)
    grad = kosa.cross_entropy_with_grad(targets, logits=z, reduction="sum").grad
    some = slice(0, None, 97)
    same_bits(grad[some], kosa.cross_entropy_with_grad(targets[some], logits=z[some], reduction="sum").grad)
    check_grad(targets[some], "logits", z[some], reduction="sum")
    sums = grad.sum(axis=1, dtype=np.float64)
    assert np.abs(sums).max() < 2.0**-20


@pytest.mark.parametrize("classes", [3, 70])
@pytest.mark.parametrize("targets", [None, "float64"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.2, "z_loss": 0.3},
        {"softcap": 2.0, "temperature": 0.7, "z_loss": 0.1},
        {"reduction": "sum"},
        {"denominator": 3.0},
    ],
)
def test_gradients_are_the_differences_of_the_loss(classes, targets, options):
    rng = np.random.default_rng(classes)
    t, z = draw(rng, "logits", "float64", targets, (4, classes), -1, 1.0)
    options = {
        "class_weight": rng.uniform(0.5, 2, classes),
        "sample_weight": rng.uniform(0.5, 2, 4),
        **options,
    }
    grad = kosa.cross_entropy_with_grad(t, logits=z, **options).grad
    direction, step = rng.normal(size=z.shape), 1e-5
    ahead, behind = (kosa.cross_entropy(t, logits=z + s * direction, **options) for s in (step, -step))
    assert np.sum(grad * direction) == pytest.approx((ahead - behind) / (2 * step), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("classes", [5, 100])
def test_16_bit_gradients_are_rounded_to_nearest_even(dtype, classes):
    # −t of log-probabilities is exact before it is rounded: nothing hides how.
    rng = np.random.default_rng(0)
    _, l = draw(rng, "log_probs", dtype, None, (300, classes), -1, 2.0)  # noqa: E741
    weight = np.concatenate([rng.uniform(0.5, 2, 280), 1 + np.arange(20) * 2.0**-12 + 2.0**-8])
    grad = kosa.cross_entropy_with_grad(
        np.zeros(300, int), log_probs=l, sample_weight=weight, reduction="sum"
    ).grad
    same_bits(grad[:, 0], (-weight).astype(np.float32).astype(l.dtype))


@pytest.mark.parametrize("classes", [10, 64, 65, 513, 4097, 8193])
@pytest.mark.parametrize(
    "pair", [("float32", "float32"), ("bfloat16", "float32"), ("float32", None), ("float64", "float64")]
)
@pytest.mark.parametrize("spread", [1e-3, 1.0])
def test_predictions_spread_over_many_classes_keep_their_accuracy_at_the_maximum(classes, pair, spread):
    targets, z = draw(np.random.default_rng(classes), "logits", *pair, (7, classes), -1, spread)
    check_grad(targets, "logits", z, reduction="none")
    check_grad(targets, "logits", z, reduction="none", label_smoothing=0.1)


@pytest.mark.parametrize("classes", [2, 100])
def test_ties_of_the_maximum_share_the_gradient(classes):
    z = np.zeros((2, classes), np.float32)
    grad = kosa.cross_entropy_with_grad([0, 1], logits=z, reduction="sum").grad
    expected = np.full((2, classes), 1 / classes)
    expected[[0, 1], [0, 1]] -= 1
    assert np.abs(grad - expected).max() <= 2.0**-24


def test_the_gradient_of_none_is_that_of_the_sum():
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (9, 12), -1, 3.0)
    none = kosa.cross_entropy_with_grad(targets, logits=z, reduction="none")
    total = kosa.cross_entropy_with_grad(targets, logits=z, reduction="sum")
    same_bits(none.grad, total.grad)
    assert none.loss.shape == (9,)


def test_the_result_has_names():
    result = kosa.cross_entropy_with_grad([1], logits=[[0.0, 1.0]])
    assert result._fields == ("loss", "grad")
    assert type(result.grad) is np.ndarray
