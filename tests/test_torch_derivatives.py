"""What derivatives never do: leave out a part without a word. Options and weights that are constants, orders of modes."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

import kosa
import kosa.torch

pytestmark = pytest.mark.usefixtures("one_thread")
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
ROWS, CLASSES = torch.tensor([1.0, 0.0, 2.0]), BIAS.abs()


def leaves(*tensors):
    return tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in tensors)


LOSSES = {
    "dense": lambda x, y, **k: kosa.torch.cross_entropy(x @ W.T, y, **k),
    "own": lambda x, y, **k: kosa.cross_entropy(y, logits=x @ W.T, **k),
    "linear": lambda x, y, **k: kosa.torch.linear_cross_entropy(x, W, y, **k),
    "own linear": lambda x, y, **k: kosa.linear_cross_entropy(y, x, W, **k),
}


@pytest.mark.parametrize("name", ["temperature", "softcap", "label_smoothing", "z_loss", "denominator"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_an_option_that_is_a_tensor_has_no_derivative_and_says_so(loss, name):
    def of(option):
        return loss(X, Y, **{name: option})

    option = torch.tensor(0.5, dtype=torch.float64)
    assert of(option) == of(0.5)
    with torch.no_grad():
        assert of(option.clone().requires_grad_()) == of(0.5)
    with pytest.raises(ValueError, match=f"`{name}` is a tensor that may have a gradient"):
        of(option.clone().requires_grad_())
    with pytest.raises(ValueError, match=f"`{name}` is a tensor that may have a gradient"):
        torch.func.grad(of)(option)
    with pytest.raises(ValueError, match=f"`{name}` is a tensor that may have a tangent"):
        torch.func.jvp(of, (option,), (option,))


def test_an_option_that_is_a_tensor_is_read_at_each_call():
    option = torch.tensor(0.5)
    before = kosa.torch.cross_entropy(Z, Y, temperature=option)
    option.fill_(2.0)
    assert kosa.torch.cross_entropy(Z, Y, temperature=option) != before
    option.requires_grad_()
    with pytest.raises(ValueError, match="`temperature` is a tensor that may have a gradient"):
        kosa.torch.cross_entropy(Z, Y, temperature=option)
    with pytest.raises(ValueError, match="`label_smoothing` is a tensor that may have a gradient"):
        kosa.binary_cross_entropy(SOFT, logits=Z, label_smoothing=(option / 4))


CONSTANTS = {
    "class weights": (lambda w: kosa.torch.cross_entropy(Z, Y, w), BIAS.abs()),
    "of distributions": (lambda w: kosa.torch.cross_entropy(Z, SOFT, w), BIAS.abs()),
    "row weights": (lambda w: kosa.torch.cross_entropy(Z, Y, sample_weight=w), ROWS.double()),
    "rows without mean": (
        lambda w: kosa.torch.cross_entropy(Z, Y, sample_weight=w, reduction="none"), Z[:, 0].exp(),
    ),
    "gradient": (
        lambda w: torch.func.grad(lambda z: kosa.torch.cross_entropy(z, SOFT, sample_weight=w))(Z), Z[:, 0].exp(),
    ),
    "gradient of targets": (
        lambda w: torch.func.grad(lambda t: kosa.torch.cross_entropy(Z, t, sample_weight=w))(SOFT), Z[:, 0].exp(),
    ),
    "linear": (lambda w: kosa.torch.linear_cross_entropy(X, W, Y, sample_weight=w), Z[:, 0].exp()),
    "gradient of linear": (
        lambda w: torch.func.grad(lambda x: kosa.torch.linear_cross_entropy(x, W, Y, sample_weight=w))(X),
        Z[:, 0].exp(),
    ),
    "binary targets": (lambda t: kosa.binary_cross_entropy(t, logits=Z), SOFT),
    "binary weights": (lambda w: kosa.binary_cross_entropy(SOFT, logits=Z, sample_weight=w), SOFT),
    "positives": (lambda w: kosa.binary_cross_entropy(SOFT, logits=Z, pos_weight=w), BIAS.abs()),
    "gradient of binary": (
        lambda w: torch.func.grad(lambda z: kosa.binary_cross_entropy(SOFT, logits=z, pos_weight=w))(Z), BIAS.abs(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTANTS)
def test_tangents_of_what_is_constant_are_an_error_and_never_left_out(name):
    function, constant = CONSTANTS[name]
    with pytest.raises(ValueError, match=r"has a tangent, which is not computed: pass it with `.detach\(\)`"):
        torch.func.jvp(function, (constant,), (torch.ones_like(constant),))
    with (
        forward_ad.dual_level(),
        pytest.raises(ValueError, match=r"has a tangent, which is not computed: pass it with `.detach\(\)`"),
    ):
        function(forward_ad.make_dual(constant, torch.ones_like(constant)))
    assert function(constant).isfinite().all()


def test_constants_of_all_kinds_stand_beside_tangents():
    def both(scale):
        weights = (scale * ROWS).detach()
        mean = kosa.torch.cross_entropy(scale * Z, Y, CLASSES, sample_weight=weights)
        head = kosa.torch.linear_cross_entropy(scale * X, W, SOFT, weight=CLASSES, sample_weight=weights)
        return mean + head + kosa.binary_cross_entropy(SOFT, logits=scale * Z, pos_weight=CLASSES)

    one = torch.ones(()).double()
    torch.testing.assert_close(torch.func.jvp(both, (one,), (one,))[1], torch.func.grad(both)(one), **CLOSE)


class Forgets(torch.autograd.Function):
    """A function of somebody else that hands no gradient down."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, upstream):
        return None


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_function_above_that_hands_no_gradient_down_leaves_none(reduction):
    (z, t, x, w) = leaves(Z, SOFT, X, W)
    losses = (
        kosa.torch.cross_entropy(z, t, reduction=reduction),
        kosa.torch.linear_cross_entropy(x, w, t, reduction=reduction),
        kosa.binary_cross_entropy(SOFT, logits=z, reduction=reduction),
    )
    for loss in losses:
        Forgets.apply(loss).sum().backward(retain_graph=True)
    assert all(a.grad is None or (a.grad == 0).all() for a in (z, t, x, w))


FORWARD = {
    "dense": (lambda z: kosa.torch.cross_entropy(z, Y), lambda z: F.cross_entropy(z, Y), Z),
    "linear": (
        lambda x: kosa.torch.linear_cross_entropy(x, W, Y), lambda x: F.linear_cross_entropy(x, W, Y), X,
    ),
    "binary": (
        lambda z: kosa.binary_cross_entropy(SOFT, logits=z),
        lambda z: F.binary_cross_entropy_with_logits(z, SOFT), Z,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARD)
def test_forward_over_forward_is_an_error_and_every_other_order_of_modes_right(name):
    ours, theirs, x = FORWARD[name]
    forward, reverse = torch.func.jacfwd, torch.func.jacrev
    want = reverse(reverse(theirs))(x)
    for outer, inner in ((forward, reverse), (reverse, forward), (reverse, reverse)):
        torch.testing.assert_close(outer(inner(ours))(x), want, **CLOSE)
    with pytest.raises(RuntimeError, match="no forward derivative of a forward derivative"):
        forward(forward(ours))(x)
    with pytest.raises(RuntimeError, match="no forward derivative of a forward derivative"):
        torch.func.jvp(lambda x: torch.func.jvp(ours, (x,), (x,))[1], (x,), (x,))


FLAT = torch.stack([torch.zeros(4), torch.tensor([0.3, -1.0, 2.0, 0.5])]).double()
EVEN = torch.stack([torch.full((4,), 0.25), torch.tensor([0.1, 0.2, 0.3, 0.4])]).double()
ZEROS = {
    "dense": (lambda z: kosa.torch.cross_entropy(z, EVEN), lambda z: F.cross_entropy(z, EVEN), FLAT),
    "smoothed": (
        lambda z: kosa.torch.cross_entropy(z, Y[:2], label_smoothing=1.0),
        lambda z: F.cross_entropy(z, Y[:2], label_smoothing=1.0), FLAT,
    ),
    "linear": (
        lambda w: kosa.torch.linear_cross_entropy(X[:2], w, EVEN),
        lambda w: F.linear_cross_entropy(X[:2], w, EVEN), torch.zeros_like(W),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ZEROS)
def test_a_first_derivative_of_exactly_0_has_further_derivatives(name):
    ours, theirs, x = ZEROS[name]
    forward, reverse = torch.func.jacfwd, torch.func.jacrev
    torch.testing.assert_close(reverse(forward(ours))(x), reverse(reverse(theirs))(x), **CLOSE)

    def third(loss):
        return reverse(reverse(reverse(lambda x: (loss(x) + 1).square())))(x)

    torch.testing.assert_close(third(ours), third(theirs), **CLOSE)


def test_a_distribution_with_zeros_has_third_derivatives_with_probabilities():
    def slope(t):
        return torch.func.grad(lambda y: kosa.cross_entropy(t, probs=y, reduction="sum"))

    t, y = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[0.2, 0.8]]).double()
    got = torch.func.jacrev(lambda t: torch.func.jacrev(slope(t))(y))(t)
    assert got[0, 0, 0, 0, 0, 0] == pytest.approx(1 / 0.2**2)


def test_upstream_gradients_that_are_only_remembered_to_be_zeros_are_zeros():
    (z,), y = leaves(Z), Y
    nothing = torch._efficientzerotensor((3,), dtype=torch.float64)
    losses = kosa.torch.cross_entropy(z, y, reduction="none")
    assert not torch.autograd.grad(losses, z, nothing)[0].any()
    weighted = kosa.torch.cross_entropy(z, y, sample_weight=torch.rand(3), reduction="none")
    assert not torch.autograd.grad(weighted, z, nothing)[0].any()
    even = torch.full((1, 2), 0.5, dtype=torch.float64)
    curvature = torch.func.jacrev(torch.func.jacfwd(lambda z: kosa.torch.cross_entropy(z, even)))
    half = torch.tensor([[0.25, -0.25], [-0.25, 0.25]]).double()
    torch.testing.assert_close(curvature(torch.zeros(1, 2).double()).squeeze(), half)
