"""The Triton kernels of dense losses: values and gradients against the definition, in every combination of options."""

import numpy as np
import pytest
import torch
from gpu_dense import as_tensor, native, run, small_tiles
from gpu_engine import array_of
from hypothesis import given, settings
from oracle import DTYPES, INTEGERS, assert_within, draw, expected, same_bits, to_dtype
from strategies import calls

from kosa import definition
from kosa.gpu import dense
from kosa.loss import Options

pytestmark = pytest.mark.gpu
TILES = [15, 17, 110]  # around tiles, steps of four tiles, and spans


@pytest.fixture
def tiny_tiles(monkeypatch):
    """Few classes cross every edge of tiles."""
    small_tiles(monkeypatch, apart=False)


@pytest.fixture(params=[False, True], ids=["one program a row", "spans of a row apart"])
def tiny_tiles_both_ways(request, monkeypatch):
    """Few classes cross every edge of tiles and of spans."""
    small_tiles(monkeypatch, request.param)


def softcap_error(options):
    """What rounding capped logits in float32 may add to a loss of weight 1 (docs/gpu.md)."""
    return 2.0**-22 * (options.get("softcap") or 0.0) / options.get("temperature", 1.0)


def check(device, targets, kind, predictions, **options):
    """Hold losses and gradients against the definition, and the losses against those without a gradient."""
    targets = native(targets)
    want = expected(targets, kind, predictions, **options, reduction="none")
    loss, grad = run(device, targets, kind, predictions, **options)
    dtype = predictions.dtype
    floor = softcap_error(options) if dtype.itemsize < 8 else 0.0
    weight = np.abs(np.broadcast_to(np.asarray(options.get("sample_weight", 1.0)), want.loss.shape))
    weight = weight * np.max(options.get("class_weight", 1.0))
    assert_within(loss, want.loss, want.loss_tolerance + floor * weight, "loss")
    rounded = to_dtype(want.grad, dtype)
    infinite = np.isinf(rounded)
    tolerance = want.grad_tolerance * (1.0 + floor * 2.0**20)
    assert_within(grad, np.where(infinite, rounded, want.grad), tolerance, "grad")
    same_bits(run(device, targets, kind, predictions, **options, out=None)[0], loss)


@given(call=calls(elements=3000))
@settings(max_examples=20)
def test_any_combination_of_options_agrees_with_the_definition(device, call):
    targets, kind, predictions, options = call
    for name in ("reduction", "denominator", "empty"):
        options.pop(name, None)
    check(device, targets, kind, predictions, **options)


@pytest.mark.parametrize("classes", TILES)
@pytest.mark.parametrize("pair", [("float32", None), ("bfloat16", "float32"), ("float64", "float64")])
def test_every_edge_of_tiles_and_spans_agrees_with_the_definition(
    device, tiny_tiles_both_ways, classes, pair
):
    rng = np.random.default_rng(classes)
    for rows, options in [
        (1, {}),
        (3, {"label_smoothing": 0.1, "class_weight": rng.uniform(0.5, 2, classes)}),
    ]:
        targets, z = draw(rng, "logits", *pair, (rows, classes), -1, 4.0)
        check(device, targets, "logits", z, **options)


@pytest.mark.parametrize("kind", ["probs", "log_probs"])
@pytest.mark.parametrize("classes", [3, 17, 49])
@pytest.mark.parametrize("pair", [("float32", None), ("bfloat16", "float32")])
def test_probabilities_across_the_edges_of_tiles(device, tiny_tiles, kind, classes, pair):
    targets, y = draw(np.random.default_rng(classes), kind, *pair, (5, classes), -1, 2.0)
    check(device, targets, kind, y)
    check(device, targets, kind, y, label_smoothing=0.1)


@pytest.mark.parametrize("classes", [3, 4097, 40_000])
@pytest.mark.parametrize("pair", [("float32", None), ("bfloat16", "float32")])
def test_tiles_and_spans_of_real_size(device, classes, pair):
    targets, z = draw(np.random.default_rng(classes), "logits", *pair, (2, classes), -1, 4.0)
    check(device, targets, "logits", z)
    check(device, targets, "logits", z, softcap=5.0, temperature=2.0, z_loss=0.1, label_smoothing=0.1)


@pytest.mark.parametrize("pair", [("float32", None), ("float32", "float32"), ("bfloat16", None)])
@pytest.mark.parametrize("spread", [1e-3, 1.0])
def test_predictions_spread_over_many_classes_keep_their_accuracy_at_the_maximum(device, pair, spread):
    targets, z = draw(np.random.default_rng(5), "logits", *pair, (3, 3000), -1, spread)
    check(device, targets, "logits", z)
    check(device, targets, "logits", z, label_smoothing=0.1)


@pytest.mark.parametrize("dtype", [d for d in INTEGERS if d[0] != ">"])
def test_class_indices_of_any_integer_type(device, dtype):
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (20, 30), -1, 3.0)
    check(device, targets.astype(dtype), "logits", z, ignore_index=2)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"temperature": 2.0, "softcap": 3.0}])
@pytest.mark.parametrize("targets", [None, "float32"])
def test_the_gradient_is_scaled_and_takes_a_part_of_each_lse(device, tiny_tiles_both_ways, options, targets):
    rng = np.random.default_rng(3)
    t, z = draw(rng, "logits", "float64", targets, (6, 60), -1, 3.0)
    weight, lse_weight = np.array([1.0, 0.0, 2.0, 0.0, 1.0, 0.5]), np.array([0.5, 0.0, 0.0, 3.0, -1.0, 1.0])
    if targets is None:
        t[4:] = -100, 59
    scale = torch.tensor(0.7, dtype=torch.float64, device=device) if options else 0.7
    loss, grad = run(
        device, t, "logits", z, sample_weight=weight, lse_weight=lse_weight, scale=scale, **options
    )
    want = definition.loss_with_grad(t, logits=z, sample_weight=weight, reduction="none", **options)
    capped = z if "softcap" not in options else 3.0 * np.tanh(z / 3.0)
    tempered = capped / options.get("temperature", 1.0)
    slope = 1.0 if "softcap" not in options else 1.0 - np.tanh(z / 3.0) ** 2
    of_lse = definition.softmax(tempered) * slope / options.get("temperature", 1.0)
    np.testing.assert_allclose(loss, want.loss, rtol=1e-12)
    np.testing.assert_allclose(grad, 0.7 * want.grad + lse_weight[:, None] * of_lse, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize(("dtype", "relative"), [("float32", 2e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("shape", [(5, 60), (5, 7), (2, 9, 4)])
def test_gradients_of_targets(device, tiny_tiles, kind, dtype, relative, shape):
    rng, axis = np.random.default_rng(0), 1
    t, x = draw(rng, kind, dtype, dtype, shape, axis, 2.0)
    rows = shape[:axis] + shape[axis + 1 :]
    weights = rng.uniform(0.5, 2, shape[axis]), rng.uniform(0.5, 2, rows) * (rng.random(rows) < 0.7)
    options = {"label_smoothing": 0.2, **({"softcap": 4.0, "temperature": 0.5} if kind == "logits" else {})}
    out = torch.full_like(as_tensor(t, device), -7.0)
    dense.target_slopes(
        as_tensor(x, device), as_tensor(t, device), *(as_tensor(w, device) for w in weights),
        Options(kind, axis, **options), scale=0.5, out=out,
    )  # fmt: skip
    wide = x.astype(np.float64)
    logs = {"probs": np.log, "log_probs": np.asarray}.get(
        kind, lambda z: np.moveaxis(definition.log_softmax(np.moveaxis(4.0 * np.tanh(z / 4.0) / 0.5, axis, -1)), -1, axis)
    )(wide)  # fmt: skip
    classes = [1] * len(shape)
    classes[axis] = shape[axis]
    want = -0.5 * 0.8 * weights[0].reshape(classes) * np.expand_dims(weights[1], axis) * logs
    np.testing.assert_allclose(array_of(out), want, rtol=relative, atol=relative)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_gradients_are_rounded_to_nearest_even(device, dtype):
    # −t of log-probabilities is exact before it is rounded: nothing hides how.
    rng = np.random.default_rng(0)
    _, logs = draw(rng, "log_probs", dtype, None, (60, 5), -1, 2.0)
    weight = np.concatenate([rng.uniform(0.5, 2, 40), 1 + np.arange(20) * 2.0**-12 + 2.0**-8])
    _, grad = run(device, np.zeros(60, int), "log_probs", logs, sample_weight=weight)
    want = (-weight).astype(np.float32).astype(DTYPES[dtype])
    same_bits(grad[:, 0].astype(DTYPES[dtype]), want)
