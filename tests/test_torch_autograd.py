"""Autograd by other doors: gradcheck to second order, torch.func, graphs kept, checkpoints, threads, modules, opcheck."""

import copy
import io
import pickle
import threading
import warnings
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import kosa
import kosa.torch
from kosa.torch import binary, dense, linear

pytestmark = pytest.mark.usefixtures("one_thread")
EVERYTHING = {
    "label_smoothing": 0.1, "softcap": 2.0, "z_loss": 0.1, "temperature": 0.7,
    "weight": torch.tensor([1.0, 0.5, 0.0, 2.0]), "sample_weight": torch.tensor([1.0, 0.0, 2.0]),
}  # fmt: skip
CLOSE = {"rtol": 1e-12, "atol": 1e-14}  # float64: sums of a dozen products, in another order


@pytest.fixture(autouse=True, scope="module")
def forward_mode_is_loaded():
    """PyTorch's own decompositions for forward mode use what it has deprecated, once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.ones(1),), (torch.ones(1),))


def drawn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


Z, X, W, BIAS = drawn(3, 4), drawn(3, 2, seed=1), drawn(4, 2, seed=2), drawn(4, seed=3)
Y, SOFT = torch.tensor([1, 0, 3]), drawn(3, 4, seed=4).softmax(1)


def leaves(*tensors):
    return tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in tensors)


@pytest.mark.parametrize("target", [Y, SOFT], ids=["indices", "distributions"])
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_derivatives_of_the_dense_loss_to_second_order_in_both_modes(target, options, reduction):
    def loss(z, t):
        return kosa.torch.cross_entropy(z, t, reduction=reduction, **options)

    inputs = leaves(Z, target)
    assert gradcheck(
        loss, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert gradgradcheck(loss, inputs, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("target", [Y, SOFT], ids=["indices", "distributions"])
@pytest.mark.parametrize("options", [{"shift": 1}, EVERYTHING], ids=["shift", "everything"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_derivatives_of_the_linear_loss_to_second_order_in_both_modes(target, options, reduction):
    def loss(x, w, bias, t):
        return kosa.torch.linear_cross_entropy(x, w, t, linear_bias=bias, reduction=reduction, **options)

    inputs = leaves(X, W, BIAS, target)
    forward = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert gradcheck(loss, inputs, check_batched_grad=True, fast_mode=reduction == "mean", **forward)
    assert gradgradcheck(loss, inputs, check_fwd_over_rev=True, check_batched_grad=True, fast_mode=True)


@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_derivatives_of_the_binary_loss_to_second_order_in_both_modes(kind):
    def loss(x):
        return kosa.binary_cross_entropy(SOFT, **{kind: x}, pos_weight=BIAS.abs(), label_smoothing=0.1)

    (x,) = leaves(Z if kind == "logits" else Z.sigmoid())
    assert gradcheck(loss, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(loss, x, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("kind", ["probs", "log_probs"])
@pytest.mark.parametrize("target", [Y, SOFT], ids=["indices", "distributions"])
def test_derivatives_of_probabilities_to_second_order_in_both_modes(kind, target):
    def loss(y, t):
        return kosa.cross_entropy(
            t, **{kind: y}, label_smoothing=0.1, sample_weight=EVERYTHING["sample_weight"]
        )

    inputs = leaves(Z.softmax(1) if kind == "probs" else Z.log_softmax(1), target)
    assert gradcheck(loss, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(loss, inputs, check_fwd_over_rev=True)


PAIRS = [
    (lambda z: kosa.torch.cross_entropy(z, Y), lambda z: F.cross_entropy(z, Y), Z),
    (
        lambda z: kosa.torch.cross_entropy(z, SOFT, reduction="none"),
        lambda z: F.cross_entropy(z, SOFT, reduction="none"), Z,
    ),
    (lambda x: kosa.torch.linear_cross_entropy(x, W, Y), lambda x: F.linear_cross_entropy(x, W, Y), X),
    (lambda w: kosa.torch.linear_cross_entropy(X, w, Y), lambda w: F.linear_cross_entropy(X, w, Y), W),
    (
        lambda w: kosa.torch.linear_cross_entropy(X, w, SOFT, linear_bias=BIAS, reduction="none"),
        lambda w: F.linear_cross_entropy(X, w, SOFT, linear_bias=BIAS, reduction="none"), W,
    ),
]  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS, ids=["dense", "dense none", "linear", "of weight", "of weight none"])
def test_torch_func_gives_what_it_gives_of_pytorchs(pair):
    ours, theirs, x = pair
    for transform in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        torch.testing.assert_close(transform(ours)(x), transform(theirs)(x), **CLOSE)
    tangent = drawn(*x.shape, seed=9)
    for f in (ours, lambda x: torch.func.grad(lambda x: ours(x).sum())(x)):
        value, change = torch.func.jvp(f, (x,), (tangent,))
        assert (change != 0).any()
        torch.testing.assert_close(value, f(x), **CLOSE)
    torch.testing.assert_close(
        torch.func.jvp(ours, (x,), (tangent,))[1], torch.func.jvp(theirs, (x,), (tangent,))[1], **CLOSE
    )
    with forward_ad.dual_level():
        got, want = (
            forward_ad.unpack_dual(f(forward_ad.make_dual(x, tangent))).tangent for f in (ours, theirs)
        )
    torch.testing.assert_close(got, want, **CLOSE)


@pytest.mark.parametrize("shared", [True, False], ids=["weight shared", "a weight each"])
def test_gradients_of_each_row_by_vmap(shared):
    dense_ones = kosa.torch.cross_entropy, F.cross_entropy
    got, want = (torch.func.vmap(torch.func.grad(f))(Z, Y) for f in dense_ones)
    torch.testing.assert_close(got, want, **CLOSE)
    w = W if shared else torch.stack([W, 2 * W, -W])
    dims = (0, None if shared else 0, 0)
    got, want = (
        torch.func.vmap(torch.func.grad(f, (0, 1)), dims)(X, w, Y)
        for f in (kosa.torch.linear_cross_entropy, F.linear_cross_entropy)
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_statistics_are_differentiable_once_and_say_so():
    def loss(x):
        return kosa.torch.linear_row_statistics(x, W, Y).loss.sum()

    want = torch.func.grad(lambda x: F.linear_cross_entropy(x, W, Y, reduction="sum"))(X)
    torch.testing.assert_close(torch.func.grad(loss)(X), want, **CLOSE)
    (x,) = leaves(X)
    (slope,) = torch.autograd.grad(loss(x) + x.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="the statistics are differentiable once"):
        slope.sum().backward()
    with pytest.raises(RuntimeError, match="the statistics have no forward mode"):
        torch.func.jvp(loss, (X,), (X,))


GRAPHS = {
    "linear": (
        lambda x, w, bias, **k: kosa.torch.linear_cross_entropy(x, w, Y, linear_bias=bias, **k),
        X,
        W,
        BIAS,
    ),
    "dense": (lambda z, **k: kosa.torch.cross_entropy(z, Y, **k), Z),
    "of distributions": (lambda z, t, **k: kosa.torch.cross_entropy(z, t, **k), Z, SOFT),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_is_kept_gives_the_same_gradients_again(name, reduction):
    function, *tensors = GRAPHS[name]
    inputs = leaves(*tensors)
    loss = function(*inputs, reduction=reduction).sum()
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first:
        g.zero_()  # the first backward gave its buffers away: nobody else may hold them
    again = torch.autograd.grad(3 * loss, inputs, retain_graph=True)
    last = torch.autograd.grad(loss, inputs)
    for a, b, c in zip(kept, again, last, strict=True):
        torch.testing.assert_close(3 * a, b, **CLOSE)
        torch.testing.assert_close(a, c, **CLOSE)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_upstream_gradients_may_come_as_a_batch_before_any_other(dtype):
    """In float16 the gradient waits for its upstream factor: there nothing is at hand."""
    z, factors = Z.to(dtype).requires_grad_(), torch.tensor([1.0, -2.0, 0.5])
    loss = kosa.torch.cross_entropy(z, Y)
    (got,) = torch.autograd.grad(loss, z, factors.to(dtype), is_grads_batched=True, retain_graph=True)
    (one,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(got, factors.to(dtype).view(3, 1, 1) * one)


def test_gradients_accumulate_over_uneven_batches_by_denominator():
    x, w = drawn(7, 2, seed=5), W.clone().requires_grad_()
    y = torch.tensor([0, 1, 2, 3, 0, -100, 2])
    (want,) = torch.autograd.grad(F.linear_cross_entropy(x, w, y), w)
    for batch in (slice(0, 2), slice(2, 7)):
        kosa.torch.linear_cross_entropy(x[batch], w, y[batch], denominator=6).backward()
    torch.testing.assert_close(w.grad, want, **CLOSE)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_row_may_have_an_upstream_gradient_of_its_own(reduction):
    x, w = leaves(X, W)
    upstream = (
        torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
        if reduction == "none"
        else torch.tensor(-0.3).double()
    )
    ours, theirs = (
        torch.autograd.grad(f(x, w, Y, reduction=reduction), (x, w), upstream)
        for f in (kosa.torch.linear_cross_entropy, F.linear_cross_entropy)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize(("reentrant", "reduction"), list(product([True, False], ["mean", "none"])))
def test_checkpoints_compute_the_same_gradients(reentrant, reduction):
    def loss(x, w):
        return kosa.torch.linear_cross_entropy(x.tanh(), w, Y, reduction=reduction).sum()

    x, w = leaves(X, W)
    want = torch.autograd.grad(loss(x, w), (x, w))
    checkpoint(loss, x, w, use_reentrant=reentrant).backward()
    assert torch.equal(x.grad, want[0])
    assert torch.equal(w.grad, want[1])
    (z,) = leaves(Z)
    checkpoint(kosa.torch.cross_entropy, z, Y, use_reentrant=reentrant).backward()
    assert torch.equal(z.grad, torch.func.grad(lambda z: kosa.torch.cross_entropy(z, Y))(Z))


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_was_changed_between_forward_and_backward_is_an_error(which, reduction):
    given = [X.clone().requires_grad_() * 1, W.clone().requires_grad_() * 1, Y.clone()]
    loss = kosa.torch.linear_cross_entropy(*given, reduction=reduction).sum()
    with torch.no_grad():
        given[which].mul_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    given = [Z.clone().requires_grad_() * 1, Y.clone()]
    loss, theirs = kosa.torch.cross_entropy(*given), F.cross_entropy(*given)
    with torch.no_grad():
        given[which % 2].mul_(1)
    if which % 2 == 0:
        theirs.backward()  # PyTorch saves log-probabilities, as many numbers again, and not the logits
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_backward_may_run_in_another_thread():
    x, w = leaves(X, W)
    want = torch.autograd.grad(kosa.torch.linear_cross_entropy(x, w, Y), (x, w))
    losses = [
        kosa.torch.linear_cross_entropy(x, w, Y),
        kosa.torch.linear_cross_entropy(x, w, Y, reduction="none").mean(),
    ]
    threads = [threading.Thread(target=loss.backward) for loss in losses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(x.grad, 2 * want[0], **CLOSE)
    torch.testing.assert_close(w.grad, 2 * want[1], **CLOSE)


MODULES = [
    (kosa.torch.CrossEntropyLoss, torch.nn.CrossEntropyLoss, (), {"weight": torch.rand(4).double()}, (Z, Y)),
    (kosa.torch.LinearCrossEntropyLoss, torch.nn.LinearCrossEntropyLoss, (2, 4), {"bias": True}, (X, Y)),
    (
        kosa.torch.LinearCrossEntropyLoss, torch.nn.LinearCrossEntropyLoss, (2, 4),
        {"out_features": (3, 1), "weight": torch.rand(4).double()}, (X, torch.tensor([[[1], [0], [3]]] * 3)),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs", "sizes", "options", "inputs"), MODULES)
def test_modules_are_pytorchs_modules(ours, theirs, sizes, options, inputs):
    a = ours(*sizes, **options, label_smoothing=0.1).double()
    b = theirs(*sizes, **options, label_smoothing=0.1).double()
    assert isinstance(a, theirs)
    assert list(a.state_dict()) == list(b.state_dict())
    a.load_state_dict(b.state_dict())
    b.load_state_dict(a.state_dict())
    want = b(*inputs)
    torch.testing.assert_close(a(*inputs), want, **CLOSE)
    stored = io.BytesIO()
    torch.save(a, stored)
    stored.seek(0)
    for copied in (copy.deepcopy(a), pickle.loads(pickle.dumps(a)), torch.load(stored, weights_only=False)):
        assert torch.equal(copied(*inputs), a(*inputs))


def test_modules_pass_the_further_keywords_on():
    rows = torch.tensor([1.0, 0.0, 2.0])
    keywords = {"softcap": 2.0, "temperature": 0.7, "z_loss": 0.1, "denominator": 5.0, "empty": "zero"}
    got = kosa.torch.CrossEntropyLoss(**keywords)(Z, Y, sample_weight=rows)
    assert torch.equal(got, kosa.torch.cross_entropy(Z, Y, sample_weight=rows, **keywords))
    keywords |= {"workspace": 1000, "shift": 1}
    module = kosa.torch.LinearCrossEntropyLoss(2, 4, dtype=torch.float64, **keywords)
    want = kosa.torch.linear_cross_entropy(X, module.linear.weight, Y, sample_weight=rows, **keywords)
    assert torch.equal(module(X, Y, sample_weight=rows), want)


LOGITS = ("logits", 1, -100, 0.1, 2.0, 0.7, 0.1, "targets")
LINEAR = (-100, 0.1, 2.0, 0.7, 0.1, 1000, 0, "targets")
ROWS, CLASSES, UPSTREAM = torch.rand(3).double(), torch.rand(4).double(), drawn(3, seed=6)
OPERATORS = {
    "row_losses": (dense.row_losses_op, (Z, Y, CLASSES, ROWS, *LOGITS)),
    "row_gradients": (dense.row_gradients_op, (UPSTREAM, Z, SOFT, None, ROWS, *LOGITS)),
    "target_gradients": (dense.target_gradients_op, (UPSTREAM, Z, SOFT, CLASSES, None, *LOGITS)),
    "linear_losses": (linear.linear_losses_op, (X, W, BIAS, Y, CLASSES, ROWS, *LINEAR)),
    "linear_gradients": (
        linear.linear_gradients_op,
        (UPSTREAM, None, X, W, BIAS, SOFT, CLASSES, None, *LINEAR, True, True, False, True),
    ),
    "linear_statistics": (linear.linear_statistics_op, (X, W, None, Y, None, ROWS, *LINEAR)),
    "binary_losses": (binary.binary_losses_op, (Z, SOFT, None, SOFT, "logits", -100, 0.1)),
    "binary_gradients": (binary.binary_gradients_op, (SOFT, Z, SOFT, SOFT, None, "logits", -100, 0.1)),
}


def test_no_operator_is_left_out():
    known = {
        name.split("::")[1].split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("kosa::")
    }
    assert known == set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_what_they_tell_pytorch_they_are(name):
    operator, args = OPERATORS[name]
    tests = (
        "test_schema",
        "test_autograd_registration",
        "test_faketensor",
    )  # the fourth compiles: test_torch_compile
    results = torch.library.opcheck(operator, args, test_utils=tests)
    assert set(results.values()) == {"SUCCESS"}
