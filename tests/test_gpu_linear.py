"""The linear form on the Triton engine: the numbers of all its ways."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_oracle import FLOOR, close, draw_targets, formula, keywords

from kosa import definition
from kosa.gpu import evaluation, linear
from kosa.loss import Options

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("one_thread")]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NAN, INF = float("nan"), float("inf")
SCALARS = ("ignore_index", "label_smoothing", "softcap", "temperature", "z_loss")


def drawn(*shape, dtype=torch.float32, seed=0, device="cpu"):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).to(device)


def indices(*shape, classes, seed=1, device="cpu"):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed)).to(device)


def options_of(given):
    return Options("logits", -1, **{name: given[name] for name in SCALARS if name in given})


def expected(dtype, upstream, x, w, bias, target, **given):
    """Losses and the four gradients of their sum weighted by `upstream`, in this dtype."""
    tensors = [
        t if t is None or not t.is_floating_point() else t.cpu().to(dtype) for t in (x, w, bias, target)
    ]
    leaves = [t.requires_grad_() for t in tensors if t is not None and t.is_floating_point()]
    x, w, bias, target = (t if t is None else t.cpu() for t in tensors)
    losses = formula(F.linear(x, w, bias), target, **given, reduction="none")
    return losses.detach(), *torch.autograd.grad(losses, leaves, upstream.to(losses.dtype))


@settings(max_examples=40)
@given(st.data())
def test_every_option_with_every_other_is_the_formula_in_any_workspace(device, data):
    """Against the same dtype by the formula, whose every step rounds; float64 for tight bounds.

    37 rows and 70 classes cross a tile of the interpreter's product (16×32) twice, 33 features its step of 16.
    """
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    rows = data.draw(st.sampled_from([(), (1,), (37,), (3, 13), (2, 3, 5)]))
    classes, features = data.draw(st.sampled_from([(1, 2), (5, 3), (70, 16), (33, 33)]))
    dtype = data.draw(st.sampled_from(DTYPES))
    soft = data.draw(st.booleans())
    given = keywords(data.draw, rows, classes, generator, soft)
    for name in ("reduction", "denominator", "empty"):
        given.pop(name, None)
    if rows:
        given["shift"] = data.draw(st.sampled_from([0, 0, 1, 2, rows[-1], rows[-1] + 3]))
    workspace = data.draw(st.sampled_from([2000, 10_000, None]))
    x, w, bias = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((*rows, features), (classes, features), (classes,))
    )
    bias = bias if data.draw(st.booleans()) else None
    target = draw_targets(soft, rows, classes, generator)
    target = target.to(dtype) if soft else target
    upstream = torch.linspace(0.5, 2.0, max(1, len(x.reshape(-1, features))), dtype=torch.float64).reshape(
        rows
    )
    tensors = [t if t is None else t.to(device) for t in (x, w, bias, target)]
    weights = [
        w if w is None else w.to(device) for w in (given.get("class_weight"), given.get("sample_weight"))
    ]
    rest = {"workspace": workspace, "shift": given.get("shift", 0)}
    needs = (True, True, bias is not None, soft)

    alone = linear.losses(*tensors, *weights, options_of(given), **rest)
    _, *grads = linear.gradients(
        upstream.to(device), None, *tensors, *weights, options_of(given), needs, **rest
    )
    got = [alone, *(grad for grad in grads if grad is not None)]
    reference, exact = (expected(to, upstream, x, w, bias, target, **given) for to in (dtype, torch.float64))
    for i, (a, b, e) in enumerate(zip(got, reference, exact, strict=True)):
        assert a.dtype == (torch.float64 if i == 0 else dtype)
        close(a.cpu(), b, e, 4 * FLOOR[dtype], f"gradient {i}" if i else "loss")


@settings(max_examples=30)
@given(st.data())
def test_statistics_are_those_of_the_written_logits(device, data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    rows, features = data.draw(st.sampled_from([(3, 13), (37,)])), 20
    classes = data.draw(st.sampled_from([1, 5, 70]))
    dtype = data.draw(st.sampled_from(DTYPES))
    soft = data.draw(st.booleans())
    given = keywords(data.draw, rows, classes, generator, soft)
    for name in ("reduction", "denominator", "empty"):
        given.pop(name, None)
    x, w = (
        torch.randn(shape, generator=generator).to(dtype)
        for shape in ((*rows, features), (classes, features))
    )
    target = draw_targets(soft, rows, classes, generator)
    weights = [
        w if w is None else w.to(device) for w in (given.get("class_weight"), given.get("sample_weight"))
    ]
    workspace = data.draw(st.sampled_from([2000, 10_000, None]))
    got = linear.statistics_of(
        x.to(device), w.to(device), None, target.to(device), *weights, options_of(given), workspace
    )

    def figures(z):
        arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        return definition.statistics(target.numpy(), logits=z.numpy(), **arrays)

    reference, exact = figures(F.linear(x, w).double()), figures(F.linear(x.double(), w.double()))
    for name, a, b, e in zip(exact._fields, got, reference, exact, strict=True):
        a, b, e = a.cpu(), *(torch.from_numpy(np.asarray(figure)) for figure in (b, e))
        if name == "argmax":
            z = F.linear(x.double(), w.double())
            lead = z.max(-1).values - z.gather(-1, a.unsqueeze(-1)).squeeze(-1)
            assert lead.max() <= 4 * FLOOR[dtype] * z.abs().max()
        else:
            close(a, b, e, 4 * FLOOR[dtype], "loss" if name == "loss" else name)


@pytest.mark.parametrize("splits", [1, 2, 5])
@pytest.mark.parametrize("plain", [True, False])
def test_tiles_of_a_split_and_splits_merge_to_the_same_figures(device, monkeypatch, splits, plain):
    """150 classes are five of the interpreter's tiles; logits far apart and near each other, and masked classes."""
    monkeypatch.setattr(evaluation, "grid", lambda *_: evaluation.Grid(3, splits, 2))
    if device == "cuda":
        monkeypatch.setattr(evaluation, "tiles", lambda *_: evaluation.Tiles(16, 32, 16, 4, 1))
    x, w, bias = drawn(37, 5).mul(3.0), drawn(150, 5, seed=1), drawn(150, seed=2)
    x[::2] *= 0.1
    bias[[3, 77]] = -INF
    bias[32:64] = -INF
    y, row_weight = indices(37, classes=32), torch.linspace(0.0, 2.0, 37)
    y[5] = -100
    class_weight = torch.linspace(0.0, 2.0, 150).masked_fill(bias == -INF, 0.0)
    given = {} if plain else {"label_smoothing": 0.2, "temperature": 0.7, "z_loss": 0.01}
    weights = {} if plain else {"class_weight": class_weight, "sample_weight": row_weight}
    tensors = [t.to(device) for t in (x, w, bias, y)]
    figures = linear.statistics_of(
        *tensors, *(weights[name].to(device) if weights else None for name in ("class_weight", "sample_weight")),
        Options(**given), 20_000,
    )  # fmt: skip
    z = F.linear(x.double(), w.double(), bias.double()).numpy()
    want = definition.statistics(
        y.numpy(), logits=z, **given, **{k: v.double().numpy() for k, v in weights.items()}
    )
    for name, figure, exact in zip(want._fields, figures, want, strict=True):
        np.testing.assert_allclose(figure.cpu(), exact, rtol=5e-6, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("workspace", [0, None])
def test_statistics_of_rows_that_shift_leaves_without_a_target(device, workspace, soft):
    x, w = drawn(2, 9, 5, device=device), drawn(40, 5, seed=1, device=device)
    target = (
        drawn(2, 9, 40, seed=2).softmax(-1).to(device) if soft else indices(2, 9, classes=40, device=device)
    )
    got = linear.statistics_of(x, w, None, target, None, None, Options(), workspace, 2)
    z = F.linear(x, w).cpu().double()
    own, ahead = (
        definition.statistics(target[:, part].cpu().numpy(), logits=z[:, to].numpy())
        for part, to in ((slice(None), slice(None)), (slice(2, None), slice(None, -2)))
    )
    for name, figure, a, b in zip(own._fields, got, own, ahead, strict=True):
        figure = figure.cpu().numpy()
        if name in ("loss", "brier", "target_entropy"):
            np.testing.assert_allclose(figure[:, :-2], b, rtol=1e-5, atol=1e-6)
            assert not figure[:, -2:].any()
        else:
            np.testing.assert_allclose(figure, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_unwritten_logits_keep_their_accumulators_digits(device, dtype):
    """Products of 16-bit numbers of few digits are exact in float32: so are the losses, never rounded to 16 bits."""
    x, w = (
        drawn(*shape, seed=i).mul(8).round().div(8).to(dtype) for i, shape in enumerate([(17, 20), (70, 20)])
    )
    y = indices(17, classes=70)
    got = linear.losses(x.to(device), w.to(device), None, y.to(device), None, None, Options(), 0)
    exact = F.cross_entropy(F.linear(x.double(), w.double()), y, reduction="none")
    np.testing.assert_allclose(got.cpu(), exact, rtol=4 * 2**-23)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_confident_rows_keep_relative_accuracy_to_1e_30(device, temperature):
    gaps = torch.tensor([1.0, 5.0, 20.0, 60.0, 69.0]) * temperature
    x, w = torch.stack([gaps, torch.zeros(5)], 1), torch.zeros(100, 2)
    w[77, 0] = 1.0
    y = torch.full((5,), 77)
    options = Options(temperature=temperature)
    got = linear.losses(x.to(device), w.to(device), None, y.to(device), None, None, options, 0)
    exact = torch.log1p(99 * torch.exp(-gaps.double() / temperature))
    np.testing.assert_allclose(got.cpu(), exact, rtol=1e-5)
    assert got[-1] < 1e-27


@pytest.mark.parametrize("workspace", [0, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masked_classes_infinite_and_missing_numbers(device, workspace, dtype):
    """A bias of −inf masks a class: a whole tile of classes here, in the first of two splits or the last."""
    for masked in (slice(0, 33), slice(40, 70), slice(0, 70)):
        x, w, bias = drawn(6, 4, dtype=dtype), drawn(70, 4, dtype=dtype, seed=1), torch.zeros(70, dtype=dtype)
        bias[masked] = -INF
        x[4] = NAN
        y = torch.tensor([0, 35, 69, 36, 1, -100])
        tensors = [t.to(device) for t in (x, w, bias, y)]
        losses = linear.losses(*tensors, None, None, Options(), workspace).cpu()
        z = F.linear(x.double(), w.double(), bias.double())
        exact = F.cross_entropy(z, y, reduction="none")
        exact[5] = 0.0
        torch.testing.assert_close(losses, exact, rtol=2**-5, atol=1e-6, equal_nan=True)
        figures = linear.statistics_of(*tensors, None, None, Options(), workspace)
        want = definition.statistics(y.numpy(), logits=z.numpy())
        for name, a, b in zip(want._fields, figures, want, strict=True):
            if name == "argmax" and dtype == torch.bfloat16:
                continue
            np.testing.assert_allclose(a.cpu(), b, rtol=2**-5, atol=1e-5, equal_nan=True, err_msg=name)


@pytest.mark.parametrize("workspace", [0, None])
def test_the_argmax_is_the_first_of_equals_also_across_splits_and_where_it_is_infinite(device, workspace):
    x = torch.ones(3, 1)
    x[2] = NAN
    w = torch.zeros(200, 1)
    w[[45, 46, 150]] = 3.0
    args = (None, torch.zeros(3, dtype=torch.long), None, None, Options(), workspace)
    args = [a.to(device) if isinstance(a, torch.Tensor) else a for a in args]
    assert linear.statistics_of(x.to(device), w.to(device), *args)[2].tolist() == [45, 45, -1]
    w[[99, 180]] = INF
    infinite = linear.statistics_of(x.to(device), w.to(device), *args)
    assert infinite[2].tolist() == [99, 99, -1]
    assert all(figure.isnan().all() for i, figure in enumerate(infinite[:6]) if i != 2)


@pytest.mark.parametrize("workspace", [0, None])
def test_a_class_out_of_range_is_nan_in_that_row_alone_and_reads_nothing(device, workspace):
    x, w = drawn(6, 4, device=device), drawn(40, 4, seed=1, device=device)
    y = torch.tensor([0, 40, 3, -1, 2**40, -(2**40)], device=device)
    weight = torch.linspace(0.0, 2.0, 40, device=device)
    for class_weight, options in (
        (None, Options()),
        (weight, Options()),
        (weight, Options(label_smoothing=0.1)),
    ):
        losses = linear.losses(x, w, None, y, class_weight, None, options, workspace)
        assert losses.isnan().tolist() == [False, True, False, True, True, True]
        figures = linear.statistics_of(x, w, None, y, class_weight, None, options, workspace)
        assert figures[5].isnan().tolist() == [False, True, False, True, True, True]
        assert figures[1].isfinite().all()
    unsigned = torch.tensor([0, 1, 2, 3, 4, 2**64 - 100], dtype=torch.uint64, device=device)
    assert linear.losses(x, w, None, unsigned, None, None, Options(), workspace).isnan().tolist() == [
        False
    ] * 5 + [True]


@pytest.mark.parametrize("way", ["ignored", "row weight", "class weight", "distribution"])
@pytest.mark.parametrize("workspace", [0, None])
def test_rows_that_do_not_count_reach_no_gradient_whatever_they_hold(device, workspace, way):
    x, w, bias = drawn(6, 3), drawn(5, 3, seed=1), drawn(5, seed=2)
    x[[1, 3]] = NAN
    y, class_weight, row_weight = torch.tensor([0, 4, 2, 4, 1, 3]), None, None
    target = drawn(6, 5, seed=3).softmax(1) if way == "distribution" else y
    if way == "ignored":
        y[[1, 3]] = -100
    elif way == "class weight":
        class_weight = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0])
    else:
        row_weight = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    tensors = [t if t is None else t.to(device) for t in (x, w, bias, target, class_weight, row_weight)]
    needs = (True, True, True, way == "distribution")
    one = torch.ones((), dtype=torch.float64, device=device)
    losses, *grads = linear.gradients(one, None, *tensors, Options(), needs, workspace)
    assert not losses[[1, 3]].any()
    assert not grads[0][[1, 3]].any()
    for tensor in (losses, *(g for g in grads if g is not None)):
        assert tensor.isfinite().all()
        assert tensor.any()
    w[2] = INF  # a weight spoils the rows that count, and no other
    tensors[1] = w.to(device)
    assert not linear.gradients(one, None, *tensors, Options(), needs, workspace)[1][[1, 3]].any()


@pytest.mark.parametrize("soft", [False, True])
def test_one_upstream_number_scales_gradients_and_lse_has_its_own(device, soft):
    x, w, bias = (
        drawn(9, 4, dtype=torch.float64),
        drawn(7, 4, dtype=torch.float64, seed=1),
        drawn(7, dtype=torch.float64),
    )
    target = drawn(9, 7, seed=3, dtype=torch.float64).softmax(1) if soft else indices(9, classes=7)
    if not soft:
        target[2] = -100  # has no loss, yet its lse has a gradient
    of_lse = torch.linspace(-1.0, 1.0, 9, dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in (x, w, bias)]
    z = F.linear(*leaves)
    total = 0.25 * formula(z, target, reduction="sum") + (of_lse * torch.logsumexp(z, 1)).sum()
    want = torch.autograd.grad(total, leaves)
    tensors = [t.to(device) for t in (x, w, bias, target)]
    scale = torch.tensor(0.25, dtype=torch.float64, device=device)
    losses, *grads = linear.gradients(
        scale, of_lse.to(device), *tensors, None, None, Options(), (True, True, True, False), 300
    )
    torch.testing.assert_close(losses.cpu(), formula(F.linear(x, w, bias), target, reduction="none"))
    for grad, exact in zip(grads[:3], want, strict=True):
        torch.testing.assert_close(grad.cpu(), exact)
    assert grads[3] is None


def test_a_single_row_has_an_upstream_gradient_a_row_beside_that_of_its_lse(device):
    x, w, target = drawn(4, dtype=torch.float64), drawn(7, 4, dtype=torch.float64, seed=1), torch.tensor(2)
    leaves = [t.clone().requires_grad_() for t in (x, w)]
    z = F.linear(*leaves)
    lse = z.logsumexp(-1)
    want = torch.autograd.grad(0.25 * (lse - z[2]) + 3.0 * lse, leaves)
    upstream, of_lse = torch.tensor([0.25], device=device).double(), torch.tensor(3.0, device=device)
    tensors = [t.to(device) for t in (x, w, target)]
    _, dh, dw, *_ = linear.gradients(
        upstream,
        of_lse,
        tensors[0],
        tensors[1],
        None,
        tensors[2],
        None,
        None,
        Options(),
        (True, True, False, False),
    )
    torch.testing.assert_close((dh.cpu(), dw.cpu()), want)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("shift", "workspace"), [(1, 300), (2, None), (5, 300)])
def test_rows_without_a_target_by_shift_have_the_gradient_of_their_lse(device, shift, workspace, soft):
    x, w, bias = (drawn(*shape, dtype=torch.float64) for shape in ((3, 4, 4), (7, 4), (7,)))
    target = drawn(3, 4, 7, seed=3, dtype=torch.float64).softmax(-1) if soft else indices(3, 4, classes=7)
    upstream, of_lse = torch.arange(1.0, 13.0).view(3, 4).double(), torch.linspace(-1.0, 2.0, 12).view(3, 4)
    leaves = [t.clone().requires_grad_() for t in (x, w, bias, *([target] if soft else []))]
    z = F.linear(*leaves[:3])
    losses = formula(z, leaves[3] if soft else target, shift=shift, reduction="none")
    total = (upstream * losses).sum() + (of_lse * z.logsumexp(-1)).sum()
    want = torch.autograd.grad(total, leaves)
    tensors = [t.to(device) for t in (upstream, of_lse, x, w, bias, target)]
    needs = (True, True, True, soft)
    _, *grads = linear.gradients(*tensors, None, None, Options(), needs, workspace, shift)
    for grad, exact in zip(grads, want, strict=False):
        torch.testing.assert_close(grad.cpu(), exact)


@pytest.mark.parametrize("workspace", [0, None])
def test_layouts_give_the_same_numbers(device, workspace):
    x, w, bias = (
        drawn(6, 4, device=device),
        drawn(40, 4, seed=1, device=device),
        drawn(40, seed=2, device=device),
    )
    y = indices(6, classes=40, device=device)
    wide = torch.full((6, 8), 7.0, device=device)
    wide[:, ::2] = x
    negated = [torch._neg_view(-t) for t in (x, w, bias)]
    laid = [
        (x.t().contiguous().t(), w.t().contiguous().t(), bias, y), (wide[:, ::2], w, bias, y.repeat_interleave(2)[::2]),
        (*negated, y.to(torch.uint8)), (x, w.repeat(2, 1)[:40], bias.repeat_interleave(2)[::2], y),
    ]  # fmt: skip
    one, needs = torch.ones((), dtype=torch.float64, device=device), (True, True, True, False)

    def results(x, w, bias, y):
        args = (x, w, bias, y, None, None, Options())
        alone, (losses, *grads) = (
            linear.losses(*args, workspace),
            linear.gradients(one, None, *args, needs, workspace),
        )
        return [alone, losses, *grads[:3]]

    want = results(x, w, bias, y)
    for tensors in laid:
        for a, b in zip(results(*tensors), want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    row = x[:1].expand(6, 4)
    torch.testing.assert_close(results(row, w, bias, y), results(row.contiguous(), w, bias, y))


@pytest.mark.parametrize(("rows", "features"), [(0, 3), (4, 0), (0, 0)])
@pytest.mark.parametrize("workspace", [0, None])
def test_no_rows_and_no_features(device, workspace, rows, features):
    x, w = torch.ones(rows, features, device=device), torch.ones(5, features, device=device)
    y = torch.zeros(rows, dtype=torch.long, device=device)
    one = torch.ones((), dtype=torch.float64, device=device)
    args = (x, w, None, y, None, None, Options())
    losses, dh, dw, *_ = linear.gradients(one, None, *args, (True, True, False, False), workspace)
    for tensor in (losses, linear.losses(*args, workspace)):
        torch.testing.assert_close(tensor.cpu(), torch.full((rows,), float(np.log(5.0)), dtype=torch.float64))
    assert torch.equal(dh, torch.zeros_like(x))
    assert torch.equal(dw, torch.zeros_like(w))
    assert len(linear.statistics_of(*args, workspace)[0]) == rows


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
def test_gradients_of_16_bits_are_summed_in_float32_over_chunks(device, dtype, monkeypatch):
    """A gradient of equal parts by 37 chunks: their sum in 16 bits would be off by more than its own rounding."""
    if device == "cpu":

        def added(total, a, b, beta):
            total.copy_(torch.addmm(total, a.float(), b.float(), beta=beta))

        monkeypatch.setattr(linear, "adds_wide", lambda device, dtype: True)
        monkeypatch.setattr(linear, "add_wide", added)
    x, w = torch.full((37, 3), 0.7, dtype=dtype), drawn(5, 3, dtype=dtype)
    y = torch.zeros(37, dtype=torch.long)
    one = torch.ones((), dtype=torch.float64, device=device)
    args = (
        x.to(device),
        w.to(device),
        w[:, 0].to(device),
        y.to(device),
        None,
        None,
        Options(),
        (False, True, True, False),
    )
    _, _, dw, db, _ = linear.gradients(one, None, *args, 0)
    _, _, each_w, each_b, _ = linear.gradients(
        one, None, *(a[:1] if i in (0, 3) else a for i, a in enumerate(args))
    )
    assert torch.equal(db, (37 * each_b.double()).to(dtype))
    rounding = {torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    np.testing.assert_allclose(dw.double().cpu(), 37 * each_w.double().cpu(), rtol=2.01 * rounding)
