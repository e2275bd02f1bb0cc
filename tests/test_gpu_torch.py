"""kosa.torch and kosa's own functions with the Triton engine below them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gpu_engine import GPU, array_of, tensor_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_torch_opinfo import OURS, VARIANTS, database  # noqa: F401  (a fixture)
from torch_oracle import compare, draw_targets, formula, keywords

import kosa
import kosa.torch
from kosa.gpu.scaling import scale
from kosa.gpu.strides import plain

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("one_thread", "gpu_engine")]
NAN = float("nan")


def drawn(*shape, dtype=torch.float64, seed=0, device="cpu"):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).to(device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_sample_of_pytorchs_database_gives_its_result_and_gradients(
    database,  # noqa: F811
    name,
    variant,
    dtype,
    device,
):
    torch.manual_seed(0)
    samples = list(database[name, variant].sample_inputs(device, dtype, requires_grad=True))
    assert len(samples) >= 20
    # The linear form has more than a hundred, of which the interpreter takes half a second each.
    for sample in samples[:: 1 if GPU or len(samples) < 100 else 11]:
        compare(*OURS[name], (sample.input, *sample.args), sample.kwargs)


@settings(max_examples=25)
@given(st.data())
def test_every_option_with_every_other_is_the_formula_in_values_and_gradients(device, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    shape, axis = data.draw(st.sampled_from([((5,), 0), ((6, 7), 1), ((3, 70), 1), ((2, 5, 4), 1)]))
    soft = data.draw(st.booleans())
    rows = tuple(n for d, n in enumerate(shape) if d != axis)
    options = keywords(data.draw, rows, shape[axis], generator, soft)
    z = torch.randn(shape, generator=generator, dtype=torch.float64)
    targets = draw_targets(soft, rows, shape[axis], generator)

    leaf = z.clone().requires_grad_()
    want = formula(leaf.movedim(axis, -1), targets, **options)
    (slope,) = torch.autograd.grad(want.sum(), leaf)

    on_card = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    targets = (targets.movedim(-1, axis) if soft else targets).to(device)
    z = z.to(device).requires_grad_()
    loss = kosa.cross_entropy(targets, logits=z, axis=axis, **on_card)
    (got,) = torch.autograd.grad(loss.sum(), z)
    torch.testing.assert_close(loss.cpu(), want, rtol=1e-12, atol=1e-13, equal_nan=True)
    torch.testing.assert_close(got.cpu(), slope, rtol=1e-11, atol=1e-13)
    both = kosa.cross_entropy_with_grad(targets, logits=z.detach(), axis=axis, **on_card)
    torch.testing.assert_close(both.loss, loss.detach(), rtol=1e-15, atol=0, equal_nan=True)
    torch.testing.assert_close(both.grad, got, rtol=1e-14, atol=0)


def test_an_ignored_index_beyond_the_dtype_of_targets_is_no_class_of_it(device):
    z, y = drawn(3, 200, device=device).requires_grad_(), torch.tensor([156, 3, 5], device=device)
    w = drawn(200, 3, seed=1, device=device).requires_grad_()

    def found(y):
        losses = kosa.torch.cross_entropy(z, y), kosa.torch.linear_cross_entropy(z[:, :3], w, y)
        return *losses, *torch.autograd.grad(sum(losses), (z, w))

    for got, want in zip(found(y.to(torch.uint8)), found(y), strict=True):
        assert torch.equal(got, want)
    ones = torch.ones(3, 200, dtype=torch.uint8, device=device)
    binary = [kosa.binary_cross_entropy(t, logits=z, ignore_index=-255) for t in (ones, ones.long())]
    assert torch.equal(*binary)


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)  # forward mode loads it
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_derivatives_of_both_modes_and_orders_are_right(device, reduction):
    z, t = drawn(4, 5, device=device).requires_grad_(), torch.tensor([0, 4, -100, 2], device=device)
    h, w = (
        drawn(4, 3, seed=1, device=device).requires_grad_(),
        drawn(5, 3, seed=2, device=device).requires_grad_(),
    )

    def dense(z):
        return kosa.torch.cross_entropy(z, t, reduction=reduction, softcap=3.0)

    def linear(h, w):
        return kosa.torch.linear_cross_entropy(h, w, t, reduction=reduction)

    assert torch.autograd.gradcheck(dense, z, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(dense, z)
    assert torch.autograd.gradcheck(linear, (h, w), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(linear, (h, w))


def test_a_second_backward_and_other_upstream_gradients_are_right(device):
    z, t = drawn(4, 70, device=device).requires_grad_(), torch.arange(4, device=device)
    loss = kosa.torch.cross_entropy(z, t)
    (want,) = torch.autograd.grad(F.cross_entropy(z, t), z)
    (-2.5 * loss).backward(retain_graph=True)
    torch.testing.assert_close(z.grad, -2.5 * want)
    loss.backward()
    torch.testing.assert_close(z.grad, -1.5 * want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [0, 1, 1023, 1024 * 64 + 5])
def test_a_gradient_is_multiplied_by_what_comes_from_upstream_and_left_alone_by_1(device, dtype, size):
    x = drawn(size, dtype=dtype, device=device)
    before = x.clone()
    one = torch.ones((), dtype=torch.float64, device=device)
    assert scale(x, one) is x
    assert torch.equal(x, before)
    wide = torch.promote_types(dtype, torch.float32)
    assert torch.equal(scale(x, 0.3 * one), (before.to(wide) * (0.3 * one).to(wide)).to(dtype))


def test_a_gradient_that_a_hook_laid_out_anew_is_multiplied_where_it_lies(device):
    x = drawn(6, 5, device=device).t()
    before = x.clone()
    assert torch.equal(scale(x, torch.tensor(0.3, dtype=torch.float64, device=device)), 0.3 * before)
    assert x.stride() == (1, 5)


def test_signs_and_zeros_that_autograd_only_remembers_reach_the_kernels(device):
    number = torch.tensor(-2.5, dtype=torch.float64, device=device)
    upstream = torch.complex(torch.zeros_like(number), number).conj().imag
    assert upstream.is_neg()
    z, t = drawn(4, 7, device=device).requires_grad_(), torch.arange(4, device=device)
    w = drawn(9, 7, seed=1, device=device)
    (want,) = torch.autograd.grad(2.5 * F.cross_entropy(z, t), z)
    torch.testing.assert_close(torch.autograd.grad(kosa.torch.cross_entropy(z, t), z, upstream)[0], want)
    (want,) = torch.autograd.grad(2.5 * F.cross_entropy(z @ w.t(), t), z)
    torch.testing.assert_close(
        torch.autograd.grad(kosa.torch.linear_cross_entropy(z, w, t), z, upstream)[0], want
    )
    zeros = torch._efficientzerotensor((3,), dtype=torch.float64, device=device)
    assert plain(zeros).data_ptr() != 0
    assert plain(zeros).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_unsigned_targets_meet_no_operation_that_cuda_lacks(device, dtype, monkeypatch):
    where = torch.where

    def of_cuda(*args, **kwargs):
        assert all(
            x.dtype not in (torch.uint16, torch.uint32, torch.uint64) for x in args if hasattr(x, "dtype")
        )
        return where(*args, **kwargs)

    monkeypatch.setattr(torch, "where", of_cuda)
    z, t = drawn(4, 7, device=device).requires_grad_(), torch.tensor([0, 6, 255, 3], device=device)
    weight = torch.rand(7, dtype=torch.float64, device=device)
    results = []
    for targets in (t, t.to(dtype)):
        loss = kosa.torch.cross_entropy(z, targets, weight, ignore_index=255)
        (slope,) = torch.autograd.grad(loss, z, create_graph=True)
        results += [loss.detach(), *torch.autograd.grad((slope * slope).sum(), z)]
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])


@pytest.mark.parametrize("factor", [float("inf"), NAN])
def test_rows_that_do_not_count_stay_0_under_any_upstream_gradient(device, factor):
    z = drawn(3, 5, device=device).requires_grad_()
    loss = kosa.torch.cross_entropy(z, torch.tensor([1, -100, 2], device=device))
    (grad,) = torch.autograd.grad(loss, z, torch.tensor(factor, dtype=loss.dtype, device=device))
    assert torch.equal(grad[1], torch.zeros_like(grad[1]))
    assert not grad[[0, 2]].isfinite().any()


def test_an_index_out_of_range_is_nan_in_its_row_and_an_error_if_asked(device):
    z = drawn(3, 5, device=device)
    t = torch.tensor([1, 7, 2], device=device)
    h, w = drawn(3, 2, device=device), drawn(5, 2, device=device)
    calls = [
        lambda **k: kosa.torch.cross_entropy(z, t, reduction="none", **k),
        lambda **k: kosa.torch.linear_cross_entropy(h, w, t, reduction="none", **k),
        lambda **k: kosa.torch.linear_row_statistics(h, w, t, **k).loss,
        lambda **k: kosa.torch.CrossEntropyLoss(reduction="none", **k)(z, t),
        lambda **k: kosa.cross_entropy(t, logits=z, reduction="none", **k),
        lambda **k: kosa.row_statistics(t, logits=z, **k).loss,
        lambda **k: kosa.linear_cross_entropy(t, h, w, reduction="none", **k),
        lambda **k: kosa.linear_row_statistics(t, h, w, **k).loss,
    ]
    for i, call in enumerate(calls):
        assert call().isnan().tolist() == [False, True, False], i
        name = "target" if i < 4 else "targets"
        with pytest.raises(IndexError, match=rf"`{name}` must be class indices .* but the value at 1 is 7"):
            call(check=True)
    both = kosa.cross_entropy_with_grad(t, logits=z, reduction="none")
    assert both.grad.isnan().any(1).tolist() == [False, True, False]
    with pytest.raises(IndexError, match="the value at 1 is 7"):
        kosa.cross_entropy_with_grad(t, logits=z, check=True)


def test_a_target_that_is_not_binary_is_nan_and_an_error_if_asked(device):
    x, t = drawn(3, device=device), torch.tensor([0, 2, 1], device=device)
    assert kosa.binary_cross_entropy(t, logits=x, reduction="none").isnan().tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"integers must be 0, 1 .* but the value at 1 is 2"):
        kosa.binary_cross_entropy(t, logits=x, check=True)


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_binary_losses_and_statistics_are_those_of_arrays(device, kind, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3)).astype(dtype)
    x = x if kind == "logits" else (1 / (1 + np.exp(-x))).astype(dtype)
    t = rng.integers(0, 2, (4, 3))
    options = {"pos_weight": np.array([1.0, 2.0, 0.5]), "label_smoothing": 0.1}
    want = kosa.binary_cross_entropy_with_grad(t, **{kind: x}, **options)
    options["pos_weight"] = tensor_of(options["pos_weight"], device)
    got = kosa.binary_cross_entropy_with_grad(tensor_of(t, device), **{kind: tensor_of(x, device)}, **options)
    tolerance = 1e-13 if dtype == "float64" else 2e-6
    np.testing.assert_allclose(array_of(got.loss), want.loss, rtol=tolerance)
    np.testing.assert_allclose(array_of(got.grad), want.grad, rtol=tolerance, atol=tolerance / 100)

    rows = x / x.sum(1, keepdims=True) if kind == "probs" else x
    for targets in (None, np.array([0, 2, 1, 1]), rng.dirichlet(np.ones(3), 4)):
        want = kosa.row_statistics(targets, **{kind: rows})
        given = None if targets is None else tensor_of(targets, device)
        for figure, array in zip(
            kosa.row_statistics(given, **{kind: tensor_of(rows, device)}), want, strict=True
        ):
            assert (figure is None) == (array is None)
            if array is not None:
                np.testing.assert_allclose(array_of(figure), array, rtol=1e-12, atol=1e-15)


def test_a_gradient_goes_where_the_caller_says_and_nowhere_that_is_still_read(device):
    t = torch.tensor([0, 1, 2], device=device)
    memory = drawn(8, 5, device=device)
    z = memory[:3]
    want = kosa.cross_entropy_with_grad(t, logits=z)
    other = torch.empty_like(z).t().contiguous().t()
    assert kosa.cross_entropy_with_grad(t, logits=z, out=other).grad is other
    torch.testing.assert_close(other, want.grad, rtol=0, atol=0)
    for out, text in (
        (memory[2:5], "`out` overlaps `logits`"),
        (memory[4:5].expand(3, 5), "`out` has elements that share memory"),
        (memory.as_strided((3, 5), (2, 1), 20), "`out` has elements that share memory"),
        (memory[4:6], r"`out` must have the shape of `logits`, \(3, 5\), but has \(2, 5\)"),
    ):
        with pytest.raises(ValueError, match=text):
            kosa.cross_entropy_with_grad(t, logits=z, out=out)
    soft = drawn(3, 5, seed=3, device=device).softmax(1)
    with pytest.raises(ValueError, match="`out` overlaps `targets`"):
        kosa.cross_entropy_with_grad(soft, logits=z, out=soft)
    assert kosa.cross_entropy_with_grad(t, logits=z, out=z).grad is z
    torch.testing.assert_close(z, want.grad, rtol=0, atol=0)


@pytest.mark.parametrize("empty", ["nan", "zero"])
def test_the_mean_of_nothing_is_what_was_asked_and_its_gradients_are_0(device, empty):
    z = torch.full((2, 3), NAN, device=device, requires_grad=True)
    t = torch.full((2,), -100, device=device)
    loss = kosa.torch.cross_entropy(z, t, empty=empty)
    loss.backward()
    assert loss.isnan() if empty == "nan" else loss == 0
    assert torch.equal(z.grad, torch.zeros_like(z))
    both = kosa.cross_entropy_with_grad(t, logits=z.detach(), empty=empty)
    assert both.loss.isnan() if empty == "nan" else both.loss == 0
    assert torch.equal(both.grad, torch.zeros_like(z))
    ones = torch.zeros(2, dtype=torch.int64, device=device)
    assert torch.equal(
        kosa.cross_entropy_with_grad(ones, logits=z.detach(), denominator=0.0).grad, torch.zeros_like(z)
    )


def test_without_triton_a_tensor_on_a_gpu_is_a_clear_error(monkeypatch):
    import builtins
    import sys

    monkeypatch.delitem(sys.modules, "kosa.torch.card")
    monkeypatch.delattr(kosa.torch, "card")
    load = builtins.__import__

    def refuse(name, *args, **keywords):
        if name == "kosa.torch" and "card" in (args[2] or ()):
            raise ModuleNotFoundError("No module named 'triton'", name="triton")
        return load(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        kosa.torch.cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
