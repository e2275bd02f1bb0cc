"""Derivatives of the linear form that the mean's first backward does not take: of statistics, batched, second ones."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint
from torch_oracle import formula

import kosa
import kosa.torch
from kosa.torch import linear

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("workspace", [0, None])
@pytest.mark.parametrize("of_lse", ["all rows", "the last of a sequence", "some rows", "none"])
@pytest.mark.parametrize("shift", [0, 1, 2, 5])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_lse_of_statistics_together_have_the_gradients_of_the_formula(
    weighted, shift, of_lse, workspace
):
    hidden, weight = drawn(2, 4, 3).requires_grad_(), drawn(5, 3, seed=1).requires_grad_()
    target = drawn(2, 4, 5, seed=2).softmax(-1).requires_grad_()
    rows = torch.tensor([[1.0, 0.0, 2.0, 0.5], [0.3, 1.0, 0.0, 1.0]]) if weighted else None
    upstream = torch.arange(1.0, 9.0).view(2, 4)
    along = {
        "all rows": torch.linspace(-1.0, 2.0, 8).view(2, 4),
        "the last of a sequence": torch.tensor([[0.0, 0, 0, 1], [0, 0, 0, 2]]),
        "some rows": torch.tensor([[0.0, 1, 0, 2], [3, 0, 0, 0]]),
        "none": torch.zeros(2, 4),
    }[of_lse]

    stats = kosa.torch.linear_row_statistics(
        hidden, weight, target, shift=shift, sample_weight=rows, workspace=workspace
    )
    z = F.linear(hidden, weight)
    losses = formula(z, target, shift=shift, sample_weight=rows, reduction="none")
    leaves = hidden, weight, target
    ours, theirs = (
        torch.autograd.grad((loss * upstream).sum() + (lse * along).sum(), leaves)
        for loss, lse in ((stats.loss, stats.lse), (losses, z.logsumexp(-1)))
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("of_loss", [0.0, 2.0])
@pytest.mark.parametrize("row_weight", [None, torch.tensor(0.5)])
def test_loss_and_lse_of_a_single_row_have_upstream_gradients_of_their_own(of_loss, row_weight):
    hidden, weight = drawn(3).requires_grad_(), drawn(5, 3, seed=1).requires_grad_()
    stats = kosa.torch.linear_row_statistics(hidden, weight, torch.tensor(2), sample_weight=row_weight)
    lse = F.linear(hidden, weight).logsumexp(-1)
    loss = (lse - weight[2] @ hidden) * (1.0 if row_weight is None else row_weight)
    ours = torch.autograd.grad(of_loss * stats.loss + 3.0 * stats.lse, (hidden, weight))
    theirs = torch.autograd.grad(of_loss * loss + 3.0 * lse, (hidden, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


LEAVES = drawn(4, 3), drawn(5, 3, seed=1), drawn(5, seed=2)
Y = torch.tensor([0, -100, 4, 2])


def leaves():
    return [x.clone().requires_grad_() for x in LEAVES]


def loss_of(h, w, b, reduction="mean"):
    return kosa.torch.linear_cross_entropy(h, w, Y, linear_bias=b, reduction=reduction)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("before", [False, True])
def test_upstream_gradients_may_be_batched(reduction, before):
    given = leaves()
    loss = loss_of(*given, reduction)
    if before:  # it takes the gradients that were made with the loss
        torch.autograd.grad(loss.sum(), given, retain_graph=True)
    upstream = drawn(3, *loss.shape, seed=5)
    batched = torch.autograd.grad(loss, given, upstream, is_grads_batched=True, retain_graph=True)
    for i in range(3):
        for a, b in zip(
            batched, torch.autograd.grad(loss_of(*given, reduction), given, upstream[i]), strict=True
        ):
            torch.testing.assert_close(a[i], b, rtol=1e-13, atol=1e-15)


def test_a_checkpoint_around_the_loss_keeps_none_of_its_gradients(monkeypatch):
    made = []

    def noted(*args, kernel=linear.linear_gradients_kernel):
        results = kernel(*args)
        made.extend(weakref.ref(x) for x in results)
        return results

    given = leaves()
    expected = torch.autograd.grad(loss_of(*given), given)
    monkeypatch.setattr(linear, "linear_gradients_kernel", noted)
    loss = checkpoint(loss_of, *given, use_reentrant=False)
    assert len(made) == 5
    assert [x() for x in made] == [None] * 5
    for a, b in zip(torch.autograd.grad(loss, given), expected, strict=True):
        assert torch.equal(a, b)
    assert len(made) == 10


def test_threads_that_go_backward_at_once_get_gradients_of_their_own():
    h, w = (torch.randn(n, 64, generator=torch.Generator().manual_seed(n)) for n in (500, 2000))
    w.requires_grad_()
    target = torch.arange(500)
    for _ in range(5):
        loss = kosa.torch.linear_cross_entropy(h, w, target)
        (expected,) = torch.autograd.grad(kosa.torch.linear_cross_entropy(h, w, target), w)
        together = threading.Barrier(3)

        def backward(factor, loss=loss, together=together):
            together.wait()
            return torch.autograd.grad(factor * loss, w, retain_graph=True)[0] / factor

        with ThreadPoolExecutor(3) as pool:
            for grad in pool.map(backward, (1.0, 2.0, 4.0)):
                torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("upstream", [torch.inf, torch.nan])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("way", ["ignored", "weighted"])
def test_rows_that_do_not_count_have_gradient_zero_whatever_comes_from_above(way, reduction, upstream):
    h, w, _ = leaves()
    if way == "ignored":
        target, rows = Y, None
    else:
        target, rows = Y.clamp(0), torch.tensor([1.0, 0.0, 2.0, 1.0])
    loss = kosa.torch.linear_cross_entropy(h, w, target, sample_weight=rows, reduction=reduction)
    for again in (True, False):
        (grad,) = torch.autograd.grad(loss, h, torch.full_like(loss, upstream), retain_graph=again)
        assert torch.equal(grad[1], torch.zeros(3, dtype=torch.float64))
        assert not grad[[0, 2, 3]].isfinite().any()


def test_what_an_ignored_row_holds_reaches_no_second_derivative():
    h, w, b = leaves()
    with torch.no_grad():
        h[1] = torch.nan

    def second(h, loss):
        a, b_, c = torch.autograd.grad(loss, (h, w, b), create_graph=True)
        return torch.autograd.grad((a * a).sum() + (b_ * b_).sum() + (c * c).sum(), (h, w, b))

    ours = second(h, loss_of(h, w, b))
    clean = h.detach().nan_to_num(0.0).requires_grad_()
    theirs = second(clean, formula(F.linear(clean, w, b), Y))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-11, atol=1e-13)

    def f(h, w):
        return kosa.torch.linear_cross_entropy(h, w, Y)

    held, clean = h.detach(), clean.detach()
    for mode in (torch.func.hessian, lambda g, i: torch.func.jacrev(torch.func.jacrev(g, i), i)):
        for i in (0, 1):
            got, want = (mode(f, i)(x, w.detach()) for x in (held, clean))
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    tangents = torch.ones_like(held), torch.ones_like(w.detach())
    got, want = (torch.func.jvp(f, (x, w.detach()), tangents)[1] for x in (held, clean))
    torch.testing.assert_close(got, want, rtol=1e-13, atol=0)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shift", [3, 4, 9])
def test_a_shift_beyond_the_sequence_has_zero_derivatives_of_every_order(shift, soft):
    h, w, _ = LEAVES
    h, target = h[:3], drawn(3, 5, seed=4).softmax(-1) if soft else Y[:3]

    def f(h, w, t=target):
        return kosa.torch.linear_cross_entropy(h, w, t, shift=shift, reduction="sum")

    value, tangent = torch.func.jvp(f, (h, w), (h, w))
    assert (value.item(), tangent.item()) == (0.0, 0.0)
    assert not torch.func.hessian(f)(h, w).any()
    assert not torch.func.jacrev(torch.func.jacfwd(f, 1), 1)(h, w).any()
    if soft:
        assert not torch.func.jvp(torch.func.grad(f, (0, 1, 2)), (h, w, target), (h, w, target))[1][2].any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_and_its_gradients_together_are_there_in_inference_mode(reduction):
    h, w, b = leaves()
    loss = kosa.linear_cross_entropy(Y, h, w, b, reduction=reduction)
    expected = torch.autograd.grad(loss.sum(), (h, w, b))
    with torch.inference_mode():
        y = Y.clone()
        inside = kosa.linear_cross_entropy_with_grad(y, h, w, b, reduction=reduction)
    for together in (inside, kosa.linear_cross_entropy_with_grad(y, h, w, b, reduction=reduction)):
        assert torch.equal(together.loss, loss)
        assert not together.loss.requires_grad
        for a, e in zip(together[1:], expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-14, atol=1e-16)


def test_a_denominator_of_zero_gives_gradients_of_zero_whatever_rows_hold():
    h, w, _ = (x.clone() for x in LEAVES)
    h[0] = torch.nan
    loss, *grads, of_bias = kosa.linear_cross_entropy_with_grad(Y, h, w, denominator=0.0)
    assert loss.isnan()
    assert of_bias is None
    assert not any(grad.any() for grad in grads)


@pytest.mark.parametrize("many", ["hidden", "weight", "both"])
def test_a_batch_of_none_gives_empty_losses_and_gradients(many):
    h, w, b = LEAVES
    h, w = (
        x.new_zeros((0, *x.shape)) if many in (name, "both") else x
        for x, name in ((h, "hidden"), (w, "weight"))
    )
    dims = (None if many == "weight" else 0, None if many == "hidden" else 0)

    def f(h, w):  # without the mean's product with a scale, which PyTorch's own vmap cannot do for none
        return kosa.torch.linear_cross_entropy(h, w, Y, linear_bias=b, reduction="none")

    assert torch.vmap(f, dims)(h, w).shape == (0, 4)
    grads = torch.vmap(torch.func.grad(lambda h, w: f(h, w).sum(), (0, 1)), dims)(h, w)
    assert [grad.shape for grad in grads] == [(0, 4, 3), (0, 5, 3)]
