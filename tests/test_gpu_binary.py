"""The Triton kernel of binary cross-entropy: losses and gradients against the definition, and the rules of elements."""

import numpy as np
import pytest
import torch
from gpu_engine import array_of, tensor_of
from hypothesis import given, settings
from oracle import DTYPES, check_binary
from strategies import binary_calls

from kosa import definition
from kosa.gpu import binary
from kosa.loss import Options

pytestmark = pytest.mark.gpu
NAN, INF = np.nan, np.inf


def losses_and_grad(
    device, targets, kind, predictions, *, pos_weight=None, sample_weight=None, scale=1.0, out=None, **options
):
    """Losses and gradient of arrays, as arrays; a caller's `out` is written to."""
    x = predictions if isinstance(predictions, torch.Tensor) else tensor_of(predictions, device)
    t = targets if isinstance(targets, torch.Tensor) else tensor_of(targets, device)
    losses = torch.full((x.numel(),), -7.0, dtype=torch.float64, device=device)
    out = torch.full_like(x, -7) if out is None else out
    weights = (
        None if w is None else tensor_of(np.asarray(w), device).expand(x.shape)
        for w in (pos_weight, sample_weight)
    )
    binary.run(x, t, *weights, Options(kind, **options), scale=scale, losses=losses, out=out)
    return array_of(losses).reshape(x.shape), array_of(out)


def check(device, targets, kind, predictions, **options):
    loss, grad = losses_and_grad(device, targets, kind, predictions, **options)
    check_binary(loss, grad, targets, kind, predictions, **options, reduction="none")
    return loss, grad


@given(call=binary_calls())
@settings(max_examples=120)
def test_any_combination_of_options_agrees_with_the_definition(device, call):
    targets, kind, predictions, options = call
    targets = targets.astype(targets.dtype.newbyteorder("="))
    for name in ("reduction", "denominator", "empty"):
        options.pop(name, None)
    check(device, targets, kind, predictions, **options)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("size", [511, 512, 513, 1025])  # the last element of a block, and one more
def test_blocks_meet_without_a_gap(device, dtype, size):
    rng = np.random.default_rng(size)
    x = rng.normal(0, 3, size).astype(DTYPES[dtype])
    loss, grad = check(device, rng.integers(0, 2, size), "logits", x)
    assert (loss > 0).all()
    assert (grad != 0).all()


@pytest.mark.parametrize("t", [0, 1])
def test_confident_elements_keep_their_relative_accuracy(device, t):
    z = np.array([0.5, 3.0, 10.0, 30.0, 69.0, 700.0]) * (1 if t else -1)
    loss, grad = losses_and_grad(device, np.full(z.shape, t), "logits", z)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-np.abs(z))), rtol=1e-14)
    np.testing.assert_allclose(np.abs(grad), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))), rtol=1e-14)


def test_extremes_of_logits(device):
    z = np.array([INF, -INF, INF, -INF, NAN, 1e4, -1e4, 1e30, 0.0])
    t = np.array([1.0, 0.0, 0.0, 1.0, 0.5, 0.0, 0.0, 1.0, 0.5])
    loss, grad = check(device, t, "logits", z)
    assert loss[:4].tolist() == [0, 0, INF, INF]
    assert np.isnan(loss[4])
    assert np.isnan(grad[4])
    assert grad[:4].tolist() == [0, 0, 1, -1]


def test_nan_is_nan_though_both_factors_are_zero(device):
    loss, grad = check(device, np.ones(2), "logits", np.array([NAN, 1.0]), pos_weight=np.zeros(2))
    assert np.isnan(loss).tolist() == np.isnan(grad).tolist() == [True, False]


def test_extremes_of_probabilities(device):
    y = np.array([0.0, 1.0, 0.0, 1.0, NAN, INF, -INF, 1.5, -0.5])
    t = np.array([0, 1, 1, 0, 1, 1, 0, 1, 0])
    loss, _ = check(device, t, "probs", y)
    assert loss[:4].tolist() == [0, 0, INF, INF]
    assert np.isnan(loss[4:7]).all()


def test_elements_that_do_not_count_have_nothing_whatever_they_hold(device):
    x = np.array([NAN, INF, 1.0, NAN])
    loss, grad = check(
        device,
        np.array([-100, 7, 1, 1]),
        "logits",
        x,
        ignore_index=7,
        sample_weight=np.array([0.0, 2.0, 3.0, 0.0]),
    )
    assert loss[[0, 1, 3]].tolist() == grad[[0, 1, 3]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_an_integer_that_is_no_target_makes_its_element_nan(device, dtype):
    loss, grad = losses_and_grad(
        device, np.array([0, 2, 1, 255], np.int64).astype(dtype), "logits", np.zeros(4, np.float32)
    )
    assert np.isnan(loss).tolist() == np.isnan(grad).tolist() == [False, True, False, True]


def test_unsigned_integers_are_not_taken_for_negative_ones(device):
    t = np.array([2**64 - 100, 0, 1], np.uint64)
    loss, grad = losses_and_grad(device, t, "logits", np.zeros(3))
    assert np.isnan(loss).tolist() == np.isnan(grad).tolist() == [True, False, False]


def test_the_scale_may_be_a_tensor_on_the_device(device):
    x, t = np.linspace(-2, 2, 9), np.linspace(0, 1, 9)
    loss, grad = losses_and_grad(device, t, "logits", x, scale=0.25)
    scale = torch.tensor(0.25, dtype=torch.float64, device=device)
    again, same = losses_and_grad(device, t, "logits", x, scale=scale)
    assert np.array_equal(same, grad)
    assert np.array_equal(again, loss)
    np.testing.assert_allclose(
        grad, definition.binary_loss_with_grad(t, logits=x, reduction="sum").grad / 4, atol=1e-15
    )


@pytest.mark.parametrize("shape", [(5,), (1, 1), (3, 1), (1, 5), (4, 3, 5), (4, 1, 1), ()])
def test_weights_broadcast_without_being_written_out(device, shape):
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(4, 3, 5)), rng.random((4, 3, 5))
    weights = {"pos_weight": rng.random(shape), "sample_weight": rng.random(shape)}
    check(device, t, "logits", x, **weights)
    if shape in ((5,), (1, 5), ()):
        own, period = binary._periodic(
            tensor_of(np.asarray(weights["pos_weight"]), device).expand(4, 3, 5), 60
        )
        assert period == own.numel() == max(1, np.prod(shape))


def test_a_gradient_goes_where_it_is_told_and_may_replace_the_predictions(device):
    rng = np.random.default_rng(0)
    z, t = rng.normal(size=(6, 8)).astype(np.float32), rng.integers(0, 2, (6, 8))
    loss, grad = check(device, t, "logits", z)
    strided = torch.full((6, 16), -7.0, device=device)
    losses_and_grad(device, t, "logits", z, out=strided[:, ::2])
    assert np.array_equal(array_of(strided[:, ::2]), grad)
    assert (strided[:, 1::2] == -7).all()
    across = tensor_of(np.ascontiguousarray(z.T), device).T
    again, _ = losses_and_grad(device, t, "logits", across, out=across)
    assert np.array_equal(array_of(across), grad)
    assert np.array_equal(again, loss)


def test_losses_or_gradients_alone(device):
    x = tensor_of(np.linspace(-2, 2, 9), device)
    t = torch.ones_like(x)
    loss, grad = losses_and_grad(device, t, "logits", x)
    out, losses = torch.empty_like(x), torch.empty_like(x)
    binary.run(x, t, None, None, Options("logits"), losses=None, out=out)
    binary.run(x, t, None, None, Options("logits"), losses=losses)
    assert np.array_equal(array_of(out), grad)
    assert np.array_equal(array_of(losses), loss)
