"""torch.compile: one graph, the numbers of eager mode, few recompilations, never a derivative that is silently zero."""

import pytest
import torch
from torch.autograd import forward_ad

import kosa
import kosa.torch
from kosa.torch import dense, linear

# Dynamo and Inductor use what PyTorch has deprecated, and look at .grad of what is no leaf.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]
FAST = "aot_eager"  # Dynamo's and autograd's tracing, all that sees Kosa's functions, without a C++ compiler


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


Z, X, W, BIAS = drawn(6, 7), drawn(6, 5, seed=1), drawn(7, 5, seed=2), drawn(7, seed=3)
Y, SOFT = torch.tensor([0, 3, -100, 6, 2, 2]), drawn(6, 7, seed=4).softmax(1)


@pytest.fixture(autouse=True)
def a_compiler_that_remembers_nothing():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def same_as_eager(function, *tensors, backend=FAST):
    """Bits of value and gradients, compiled as one graph and not."""
    found = []
    for call in (torch.compile(function, fullgraph=True, backend=backend), function):
        inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in tensors]
        results = call(*inputs)
        results = results if isinstance(results, tuple) else (results,)
        wanted = [x for x in inputs if x.requires_grad]
        total = sum((i + 1) * r.double().sum() for i, r in enumerate(results) if r.requires_grad)
        found.append([*results, *torch.autograd.grad(total, wanted, allow_unused=True)])
    for got, want in zip(*found, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            assert got.dtype == want.dtype
            torch.testing.assert_close(
                got, want, rtol=2.0**-21, atol=2.0**-21
            )  # what lies around may be fused


def test_a_step_of_training_by_the_default_compiler():
    def step(x, w, bias):
        hidden = (x * 2).tanh()
        loss = kosa.torch.linear_cross_entropy(hidden, w, Y, linear_bias=bias)
        auxiliary = kosa.torch.cross_entropy(torch.nn.functional.linear(hidden, w), SOFT, label_smoothing=0.1)
        return loss + auxiliary, kosa.torch.linear_row_statistics(hidden, w, Y).lse

    same_as_eager(step, X, W, BIAS, backend="inductor")


DENSE = {"softcap": 3.0, "label_smoothing": 0.1}
FUNCTIONS = {
    "dense": (lambda z: kosa.torch.cross_entropy(z, Y, z_loss=0.1), Z),
    "distributions": (
        lambda z, t: kosa.torch.cross_entropy(z, t, BIAS.abs(), reduction="none", **DENSE),
        Z,
        SOFT,
    ),
    "linear mean": (
        lambda x, w, b: kosa.torch.linear_cross_entropy(x, w, Y, linear_bias=b, shift=1),
        X,
        W,
        BIAS,
    ),
    "linear sum": (
        lambda x, w, t: kosa.torch.linear_cross_entropy(x, w, t, reduction="sum", **DENSE),
        X,
        W,
        SOFT,
    ),
    "linear none": (lambda x, w: kosa.torch.linear_cross_entropy(x, w, Y, reduction="none"), X, W),
    "statistics": (lambda x, w: tuple(kosa.torch.linear_row_statistics(x, w, Y)), X, W),
    "kosa's own": (lambda z: kosa.cross_entropy(Y, logits=z), Z),
    "kosa's own linear": (lambda x, w: kosa.linear_cross_entropy(Y, x, w, temperature=0.7), X, W),
    "kosa's own binary": (lambda z: kosa.binary_cross_entropy(SOFT, logits=z), Z),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_graph_gives_eagers_values_and_gradients(name):
    same_as_eager(*FUNCTIONS[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_where_no_gradient_is_wanted_there_is_one_graph_too(name):
    function, *tensors = FUNCTIONS[name]
    got, want = torch.compile(function, fullgraph=True, backend=FAST)(*tensors), function(*tensors)
    for a, b in zip(
        got if isinstance(got, tuple) else [got], want if isinstance(want, tuple) else [want], strict=True
    ):
        assert torch.equal(a, b)


def test_modules():
    for module, inputs in (
        (kosa.torch.CrossEntropyLoss(label_smoothing=0.1), (Z, Y)),
        (kosa.torch.LinearCrossEntropyLoss(5, 7, bias=True), (X, Y)),
    ):
        compiled = torch.compile(module, fullgraph=True, backend=FAST)
        assert torch.equal(compiled(*inputs), module(*inputs))


def test_new_sizes_recompile_once_and_then_no_more():
    count = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(
        lambda x, w, y: kosa.torch.linear_cross_entropy(x, w, y, softcap=3.0), fullgraph=True, backend=count
    )
    for rows in (4, 5, 9, 12, 30):
        x, y = drawn(rows, 5).requires_grad_(), torch.zeros(rows, dtype=torch.long)
        want = kosa.torch.linear_cross_entropy(x, W, y, softcap=3.0)
        torch.testing.assert_close(compiled(x, W, y), want)
    assert count.frame_count == 2  # the size of the first call, then any


OPTIONS = {
    "denominator": (3.0, 5.0, 7.0), "temperature": (0.5, 0.7, 2.0), "softcap": (2.0, 3.0, 4.0),
    "label_smoothing": (0.1, 0.2, 0.3), "z_loss": (0.1, 0.2, 0.3), "ignore_index": (-100, -7, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("loss", ["dense", "linear"])
def test_an_option_may_have_another_value_at_each_call(loss, name):
    y = Y.clamp(min=0)

    def step(z, value):
        if loss == "dense":
            return kosa.torch.cross_entropy(z, y, **{name: value})
        return kosa.torch.linear_cross_entropy(z[:, :5], W, y, **{name: value})

    compiled = torch.compile(step, fullgraph=True, backend=FAST)
    for value in OPTIONS[name]:
        assert torch.equal(compiled(Z, value), step(Z, value))


def test_a_denominator_that_changes_is_compiled_once_as_a_tensor():
    count = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(
        lambda z, d: kosa.torch.cross_entropy(z, Y, denominator=d), fullgraph=True, backend=count
    )
    for number in (3.0, 5.0, 6.0, 7.0, 9.0, 11.0):
        want = kosa.torch.cross_entropy(Z, Y, denominator=number)
        assert compiled(Z, torch.tensor(number)) == want
    assert count.frame_count <= 2


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", ["dense", "distributions", "linear", "binary"])
def test_a_backward_that_is_compiled_gives_eagers_gradients(name, reduction):
    function, *tensors = {
        "dense": (lambda z: kosa.torch.cross_entropy(z, Y, reduction=reduction), Z),
        "distributions": (lambda z, t: kosa.torch.cross_entropy(z, t, reduction=reduction), Z, SOFT),
        "linear": (lambda x, w: kosa.torch.linear_cross_entropy(x, w, Y, reduction=reduction), X, W),
        "binary": (lambda z: kosa.binary_cross_entropy(SOFT, logits=z, reduction=reduction), Z),
    }[name]

    def slopes():
        leaves = [x.clone().requires_grad_() for x in tensors]
        loss = function(*leaves).sum()
        (loss * 2).backward()
        return [x.grad for x in leaves]

    want = slopes()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend=FAST)):
        got = slopes()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=2.0**-21, atol=2.0**-24)


def test_errors_are_those_of_eager_mode():
    compiled = torch.compile(kosa.torch.linear_cross_entropy, backend=FAST)
    with pytest.raises(IndexError, match=r"`target` must .* the value at 1 is 9"):
        compiled(X, W, torch.tensor([0, 9, 0, 0, 0, 0]))


FORWARD = {
    "dense": (lambda z: kosa.torch.cross_entropy(z, Y), Z),
    "linear": (lambda x: kosa.torch.linear_cross_entropy(x, W, Y), X),
    "linear none": (lambda x: kosa.torch.linear_cross_entropy(x, W, Y, reduction="none"), X),
    "statistics": (lambda x: kosa.torch.linear_row_statistics(x, W, Y).loss, X),
    "binary": (lambda z: kosa.binary_cross_entropy(SOFT, logits=z), Z),
}


@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("name", FORWARD)
def test_forward_mode_under_the_compiler_is_right_or_an_error(name, fullgraph):
    function, x = FORWARD[name]

    def change(x):
        return torch.func.jvp(function, (x,), (x,))[1]

    compiled = torch.compile(change, fullgraph=fullgraph, backend=FAST)
    if fullgraph or name == "statistics":
        with pytest.raises(RuntimeError, match=r"forward mode|loses the tangents|Observed exception"):
            compiled(x)
    else:
        got = compiled(x)
        assert (got != 0).any()
        torch.testing.assert_close(got, change(x))


@pytest.mark.parametrize("name", FORWARD)
def test_a_dual_tensor_that_meets_a_compiled_function_is_an_error(name):
    function, x = FORWARD[name]
    compiled = torch.compile(function, fullgraph=True, backend=FAST)
    compiled(x)  # the graph without tangents must not be taken for one with them
    with (
        forward_ad.dual_level(),
        pytest.raises(RuntimeError, match=r"forward mode|loses the tangents|Observed exception"),
    ):
        compiled(forward_ad.make_dual(x, x))


@pytest.mark.parametrize("name", ["dense", "linear", "statistics"])
def test_torch_func_grad_under_the_compiler_is_right_or_an_error(name):
    function, x = FORWARD[name]
    slope = torch.func.grad(lambda x: function(x).sum())
    try:
        got = torch.compile(slope, fullgraph=True, backend=FAST)(x)
    except RuntimeError as error:  # as PyTorch says it of operators that have no derivative of their own
        assert "autograd" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(got, slope(x))


@pytest.mark.parametrize("name", FORWARD)
def test_a_second_derivative_inside_a_compiled_function_is_right_or_an_error(name):
    function, x = FORWARD[name]
    twice = torch.func.jacrev(torch.func.jacrev(lambda x: function(x).sum()))
    with pytest.raises(RuntimeError, match=r"Observed exception|differentiable once"):
        torch.compile(twice, fullgraph=True, backend=FAST)(x)
    if name != "statistics":  # the compiler leaves such a function to eager mode
        torch.testing.assert_close(torch.compile(twice, backend=FAST)(x), twice(x))


@pytest.mark.parametrize("operator", ["row_losses", "linear_gradients"])
def test_operators_trace_with_sizes_left_open(operator):
    if operator == "row_losses":
        args = (Z, Y, None, None, "logits", 1, -100, 0.1, None, 1.0, 0.0, "targets")
        result = torch.library.opcheck(dense.row_losses_op, args, test_utils="test_aot_dispatch_dynamic")
    else:
        options = (-100, 0.1, None, 1.0, 0.0, None, 0, "targets", True, True, False, False)
        args = (torch.ones(6).double(), None, X, W, None, Y, None, None, *options)
        result = torch.library.opcheck(
            linear.linear_gradients_op, args, test_utils="test_aot_dispatch_dynamic"
        )
    assert result == {"test_aot_dispatch_dynamic": "SUCCESS"}
