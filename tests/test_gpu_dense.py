"""The Triton kernels of dense losses: values and gradients against the definition, in every combination of options."""

import numpy as np
import pytest
import torch
from gpu_engine import array_of, tensor_of
from hypothesis import given, settings
from oracle import assert_within, draw, expected, to_dtype
from strategies import calls

from kosa.gpu import dense, plan
from kosa.loss import Options

pytestmark = pytest.mark.gpu
# Tiles of 2·8 to 1·16 lanes and spans of 3 tiles, so that few classes cross every edge that thousands cross otherwise.
TILES = [1, 2, 9, 16, 17, 47, 48, 49, 97, 150]


def native(array):
    return array.astype(array.dtype.newbyteorder("=")) if array.dtype.byteorder == ">" else array


def run(
    device,
    targets,
    kind,
    predictions,
    *,
    axis=-1,
    class_weight=None,
    sample_weight=None,
    out=True,
    scale=1.0,
    **options,
):
    """Losses and gradient as arrays, of the rows' and the predictions' shape."""
    x, t = (
        a if isinstance(a, torch.Tensor) else tensor_of(native(a), device) for a in (predictions, targets)
    )
    rows = x.shape[: axis % x.dim()] + x.shape[axis % x.dim() + 1 :]
    losses = torch.full((rows.numel(),), -7.0, dtype=torch.float64, device=device)
    grad = torch.full_like(x, -7.0) if out is True else out
    weights = (None if w is None else tensor_of(np.asarray(w), device) for w in (class_weight, sample_weight))
    options = Options(kind, axis % x.dim(), **options)
    dense.run(x, t, *weights, options, scale=scale, losses=losses, out=grad)
    return array_of(losses).reshape(rows), None if grad is None else array_of(grad)


def softcap_error(options):
    """A capped logit is rounded in float32: two of them, and what the rest are off by on average."""
    return 2.0**-22 * (options.get("softcap") or 0.0) / options.get("temperature", 1.0)


def check(device, targets, kind, predictions, **options):
    targets = native(targets)
    want = expected(targets, kind, predictions, **options, reduction="none")
    loss, grad = run(device, targets, kind, predictions, **options)
    dtype = predictions.dtype
    floor = softcap_error(options) if dtype.itemsize < 8 else 0.0
    weight = np.abs(np.broadcast_to(np.asarray(options.get("sample_weight", 1.0)), want.loss.shape))
    mass = np.max(options.get("class_weight", 1.0)) * np.maximum(
        1.0, np.abs(targets).sum(options.get("axis", -1)) if targets.dtype.kind in "fV" else 1.0
    )
    assert_within(loss, want.loss, want.loss_tolerance + floor * weight * mass, "loss")
    rounded = to_dtype(want.grad, dtype)
    infinite = np.isinf(rounded)
    tolerance = want.grad_tolerance * (1.0 + floor * 2.0**20)
    assert_within(grad, np.where(infinite, rounded, want.grad), tolerance, "grad")
    alone, _ = run(device, targets, kind, predictions, **options, out=None)
    assert np.array_equal(alone, loss, equal_nan=True)


@pytest.fixture(params=["one program a row", "spans of a row apart"])
def tiny_tiles(request, monkeypatch):
    """Tiles and spans so small that few classes cross their edges."""

    def plan_of(classes, item_bytes, together):
        if not together:
            return plan.Plan(4, 2, 48, 0 if classes <= 2 else 1, 1)
        if classes <= 16:
            return plan.Plan(2, max(1, 1 << (classes - 1).bit_length()), 48, 0, 1)
        return plan.Plan(1, 16, 48, max(1, 1 << (-(-classes // 48) - 1).bit_length()), 1)

    monkeypatch.setattr(plan, "plan", plan_of)
    monkeypatch.setattr(plan, "processors", lambda device: 10**6 if request.param[0] == "s" else 0)


@given(call=calls(elements=3000))
@settings(max_examples=40)
def test_any_combination_of_options_agrees_with_the_definition(device, call):
    targets, kind, predictions, options = call
    for name in ("reduction", "denominator", "empty"):
        options.pop(name, None)
    check(device, targets, kind, predictions, **options)


@pytest.mark.parametrize("classes", TILES)
@pytest.mark.parametrize("pair", [("float32", None), ("bfloat16", "float32"), ("float64", "float64")])
def test_every_edge_of_tiles_and_spans_agrees_with_the_definition(device, tiny_tiles, classes, pair):
    rng = np.random.default_rng(classes)
    for rows, options in [
        (1, {}),
        (5, {"label_smoothing": 0.1, "class_weight": rng.uniform(0.5, 2, classes)}),
    ]:
        targets, z = draw(rng, "logits", *pair, (rows, classes), -1, 4.0)
        check(device, targets, "logits", z, **options)
