"""`kosa`'s own functions on tensors: the numbers of the same call on arrays, differentiable; tensors in, tensors out."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_oracle import draw_targets, keywords

import kosa

pytestmark = pytest.mark.usefixtures("one_thread")
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def as_array(value: Any) -> Any:
    """The same numbers for NumPy; bfloat16, which it lacks, by ml_dtypes."""
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.bfloat16:
        import ml_dtypes

        return value.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.detach().numpy()


def assert_same(tensor: torch.Tensor | None, array: Any) -> None:
    """The bits of the call on arrays; they come from the same kernels."""
    assert (tensor is None) == (array is None)
    if tensor is None:
        return
    assert isinstance(tensor, torch.Tensor)
    want = np.asarray(array)
    got = np.asarray(as_array(tensor))
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got.astype(float), want.astype(float))


def assert_reduced_alike(got: Any, want: Any, reduction: str) -> None:
    """The bits of the call on arrays, but for the order in which losses and weights of rows are summed."""
    if reduction == "none":
        assert_same(got.loss, want.loss)
        assert_same(got.grad, want.grad)
        return
    loss, array = as_array(got.loss), np.asarray(want.loss)
    assert loss.dtype == array.dtype
    ulp = np.finfo(array.dtype).eps
    np.testing.assert_allclose(loss, array, rtol=4 * ulp, atol=0)
    grad, array = as_array(got.grad), np.asarray(want.grad)
    assert grad.dtype == array.dtype
    ulp = torch.finfo(got.grad.dtype).eps  # of 1/Σ weights, which may be rounded the other way
    np.testing.assert_allclose(grad.astype(float), array.astype(float), rtol=2 * ulp, atol=0)


@settings(max_examples=40)
@given(st.data())
def test_the_dense_loss_is_that_of_arrays_in_value_gradient_and_statistics(data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    kind = data.draw(st.sampled_from(["logits", "logits", "probs", "log_probs"]))
    shape, axis = data.draw(
        st.sampled_from([((5,), 0), ((6, 7), -1), ((3, 70), 1), ((2, 5, 4), 1), ((4, 3), 0)])
    )
    dtype, soft = data.draw(st.sampled_from(DTYPES)), data.draw(st.booleans())
    rows = tuple(n for d, n in enumerate(shape) if d != axis % len(shape))
    options = keywords(data.draw, rows, shape[axis], generator, soft)
    if kind != "logits":
        for name in ("softcap", "temperature", "z_loss"):
            options.pop(name, None)
    z = torch.randn(shape, generator=generator)
    z = {"logits": z, "probs": z.softmax(axis), "log_probs": z.log_softmax(axis)}[kind].to(dtype)
    targets = draw_targets(soft, rows, shape[axis], generator)
    targets = targets.movedim(-1, axis).to(dtype) if soft else targets
    options["axis"] = axis
    of_arrays = {k: as_array(v) for k, v in options.items()}

    want = kosa.cross_entropy_with_grad(as_array(targets), **{kind: as_array(z)}, **of_arrays)
    got = kosa.cross_entropy_with_grad(targets, **{kind: z}, **options)
    assert_reduced_alike(got, want, options.get("reduction", "mean"))

    leaf = z.clone().requires_grad_()
    loss = kosa.cross_entropy(targets, **{kind: leaf}, **options)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    (slope,) = torch.autograd.grad(loss.sum(), leaf)
    loose = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2.0**-7}[
        dtype
    ]  # divided in another place
    torch.testing.assert_close(loss, got.loss, rtol=min(loose, 1e-6), atol=0, equal_nan=True)
    torch.testing.assert_close(slope, got.grad, rtol=loose, atol=loose / 1e3, equal_nan=True)

    rest = {k: v for k, v in options.items() if k not in ("reduction", "denominator", "empty")}
    want = kosa.row_statistics(
        as_array(targets), **{kind: as_array(z)}, **{k: as_array(v) for k, v in rest.items()}
    )
    for tensor, array in zip(kosa.row_statistics(targets, **{kind: z}, **rest), want, strict=True):
        assert_same(tensor, array)


def test_statistics_need_no_targets():
    stats = kosa.row_statistics(logits=drawn(3, 4))
    want = kosa.row_statistics(logits=as_array(drawn(3, 4)))
    for tensor, array in zip(stats, want, strict=True):
        assert_same(tensor, array)


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("targets", ["floats", "integers", "booleans"])
def test_the_binary_loss_is_that_of_arrays(kind, reduction, targets):
    x = drawn(4, 3) if kind == "logits" else drawn(4, 3).sigmoid()
    t = {
        "floats": drawn(4, 3, seed=1).sigmoid(),
        "integers": torch.tensor([[0, 1, -100], [1, 1, 0], [0, 0, 1], [-100, 0, 0]]),
        "booleans": drawn(4, 3, seed=2) > 0,
    }[targets]
    options = {
        "pos_weight": torch.tensor([1.0, 2.0, 0.5]),
        "sample_weight": torch.rand(4, 1),
        "label_smoothing": 0.1,
    }
    want = kosa.binary_cross_entropy_with_grad(
        t.numpy(), **{kind: x.numpy()}, **{k: as_array(v) for k, v in options.items()}, reduction=reduction
    )
    got = kosa.binary_cross_entropy_with_grad(t, **{kind: x}, **options, reduction=reduction)
    assert_reduced_alike(got, want, reduction)
    x.requires_grad_()
    loss = kosa.binary_cross_entropy(t, **{kind: x}, **options, reduction=reduction)
    torch.testing.assert_close(loss, got.loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), x)[0], got.grad, rtol=1e-13, atol=0)


def test_the_binary_loss_is_pytorchs():
    z, t, plus = drawn(4, 3).requires_grad_(), drawn(4, 3, seed=1).sigmoid(), torch.tensor([1.0, 2.0, 0.5])
    ours = kosa.binary_cross_entropy(t, logits=z, pos_weight=plus)
    theirs = F.binary_cross_entropy_with_logits(z, t, pos_weight=plus)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)))


@settings(max_examples=40)
@given(st.data())
def test_the_linear_loss_is_that_of_arrays(data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    rows = data.draw(st.sampled_from([(), (6,), (2, 9)]))
    classes, soft, dtype = (
        data.draw(st.sampled_from([5, 70])),
        data.draw(st.booleans()),
        data.draw(st.sampled_from(DTYPES[:2])),
    )
    options = keywords(data.draw, rows, classes, generator, soft)
    options["workspace"] = data.draw(st.sampled_from([0, 5000, None]))
    if rows:
        options["shift"] = data.draw(st.sampled_from([0, 1, 20]))
    hidden, weight, bias = (
        torch.randn(shape, generator=generator).to(dtype) for shape in ((*rows, 3), (classes, 3), (classes,))
    )
    bias = bias if data.draw(st.booleans()) else None
    targets = draw_targets(soft, rows, classes, generator)
    targets = targets.to(dtype) if soft else targets
    tensors = targets, hidden, weight, bias
    arrays, of_arrays = [as_array(x) for x in tensors], {k: as_array(v) for k, v in options.items()}
    got = kosa.linear_cross_entropy_with_grad(*tensors, **options)
    want = kosa.linear_cross_entropy_with_grad(*arrays, **of_arrays)
    rtol = 1e-12 if dtype == torch.float64 else 1e-5  # products of two libraries
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert as_array(a).dtype == b.dtype
            np.testing.assert_allclose(as_array(a), b, rtol=rtol, atol=rtol)
    loss = kosa.linear_cross_entropy(*tensors, **options)
    torch.testing.assert_close(loss, got.loss, rtol=rtol, atol=0, equal_nan=True)
    rest = {k: v for k, v in options.items() if k not in ("reduction", "denominator", "empty")}
    stats = kosa.linear_row_statistics(*tensors, **rest)
    want = kosa.linear_row_statistics(*arrays, **{k: as_array(v) for k, v in rest.items()})
    for name, a, b in zip(stats._fields, stats, want, strict=True):
        np.testing.assert_allclose(as_array(a), b, rtol=10 * rtol, atol=10 * rtol, err_msg=name)


def test_every_function_that_has_a_gradient_of_its_own_is_differentiable_too():
    z, hidden, weight = (
        drawn(4, 5).requires_grad_(),
        drawn(4, 3).requires_grad_(),
        drawn(5, 3).requires_grad_(),
    )
    y = torch.tensor([0, 1, 2, 3])
    (slope,) = torch.autograd.grad(kosa.cross_entropy(y, logits=z), z)
    torch.testing.assert_close(slope, torch.autograd.grad(F.cross_entropy(z, y), z)[0])
    slopes = torch.autograd.grad(kosa.linear_cross_entropy(y, hidden, weight), (hidden, weight))
    made = kosa.linear_cross_entropy_with_grad(y, hidden, weight)
    assert torch.equal(slopes[0], made.hidden)
    assert torch.equal(slopes[1], made.weight)
    assert not made.loss.requires_grad
    assert not kosa.cross_entropy_with_grad(y, logits=z).loss.requires_grad
    stats = kosa.linear_row_statistics(y, hidden, weight)
    assert [getattr(stats, name).requires_grad for name in ("loss", "lse", "entropy")] == [True, True, False]


def test_a_gradient_goes_where_it_is_told_to_go():
    z, y = drawn(4, 5), torch.tensor([0, 1, 2, 3])
    want = kosa.cross_entropy_with_grad(y, logits=z)
    out = torch.empty_like(z)
    got = kosa.cross_entropy_with_grad(y, logits=z, out=out)
    assert got.grad is out
    assert torch.equal(out, want.grad)
    own = z.clone()
    assert kosa.cross_entropy_with_grad(y, logits=own, out=own).grad is own
    assert torch.equal(own, want.grad)
    binary = kosa.binary_cross_entropy_with_grad(drawn(4, 5).sigmoid(), logits=z, out=out)
    assert binary.grad is out


def test_autograd_knows_that_a_gradient_was_written_over_what_it_saved():
    for call in (
        lambda z: kosa.cross_entropy_with_grad(torch.tensor([0, 1, 2, 3]), logits=z, out=z),
        lambda z: kosa.binary_cross_entropy_with_grad(drawn(4, 5).sigmoid(), logits=z, out=z),
    ):
        leaf = drawn(4, 5).requires_grad_()
        capped = leaf.tanh()  # whose derivative reads its own result
        slope = call(capped.detach()).grad
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(capped, leaf, slope)
    with torch.inference_mode():  # where nobody counts versions
        z = drawn(4, 5)
        assert kosa.cross_entropy_with_grad(torch.tensor([0, 1, 2, 3]), logits=z, out=z).grad is z


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        (
            torch.complex(torch.zeros(3, 4).double(), torch.zeros(3, 4).double()).conj().imag,
            ValueError,
            r"`out` .* a view .* that PyTorch negates when it is read",
        ),
        (np.zeros((3, 4)), TypeError, r"`out` must be a torch.Tensor, but is a numpy.ndarray"),
        (
            torch.zeros(3, 4),
            TypeError,
            r"`out` must have the dtype of `logits`, torch.float64, but has torch.float32",
        ),
        (
            torch.zeros(4, 3).double(),
            ValueError,
            r"`out` must have the shape of `logits`, \(3, 4\), but has \(4, 3\)",
        ),
        (
            torch.zeros(3, 4).double().requires_grad_(),
            ValueError,
            r"`out` requires a gradient, .*`out.detach\(\)`",
        ),
        (torch.zeros(1, 4).double().expand(3, 4), ValueError, r"`out` has elements that share memory"),
    ],
)
def test_what_a_gradient_is_written_to_is_checked(out, error, text):
    with pytest.raises(error, match=text):
        kosa.cross_entropy_with_grad(torch.tensor([0, 1, 2]), logits=drawn(3, 4), out=out)


def test_a_gradient_overlaps_nothing_that_is_still_read():
    memory = drawn(4, 4)
    with pytest.raises(ValueError, match=r"`out` overlaps `logits`"):
        kosa.cross_entropy_with_grad(torch.tensor([0, 1, 2]), logits=memory[:3], out=memory[1:])
    t = drawn(3, 4).softmax(1)
    with pytest.raises(ValueError, match=r"`out` overlaps `targets`"):
        kosa.cross_entropy_with_grad(t, logits=drawn(3, 4), out=t)


@pytest.mark.parametrize("tensor", ["targets", "hidden", "weight", "bias", "class_weight", "sample_weight"])
@pytest.mark.parametrize(
    "function", [kosa.linear_cross_entropy, kosa.linear_cross_entropy_with_grad, kosa.linear_row_statistics]
)
def test_frameworks_are_not_mixed(function, tensor):
    given = {
        "targets": np.zeros(3, int),
        "hidden": np.zeros((3, 2)),
        "weight": np.zeros((4, 2)),
        tensor: torch.zeros(3),
    }
    with pytest.raises(TypeError, match=r"must be a torch.Tensor as .* but is a numpy.ndarray"):
        function(**given)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"targets": torch.zeros(4, dtype=torch.long)},
            ValueError,
            r"`targets` of .* `hidden·weightᵀ` without",
        ),
        ({"targets": torch.zeros(3, dtype=torch.bool)}, TypeError, r"`targets` must be class indices"),
        ({"targets": torch.tensor([0, 7, 0])}, IndexError, r"`targets` must be .* the value at 1 is 7"),
        ({"weight": torch.zeros(4, 2).double()}, TypeError, r"`weight` must have the dtype of `hidden`"),
        ({"bias": torch.zeros(4).double()}, TypeError, r"`bias` must have the dtype of `hidden`"),
        ({"class_weight": torch.ones(3)}, ValueError, r"`class_weight` must have one weight a class"),
        ({"sample_weight": torch.ones(4)}, ValueError, r"`sample_weight` must have one weight a row"),
        (
            {"hidden": torch.zeros(2), "targets": torch.tensor(0), "shift": 1},
            ValueError,
            r"`shift` .* `hidden` is one row",
        ),
    ],
)
def test_wrong_arguments_of_the_linear_form_have_the_names_of_this_function(change, error, text):
    given = {
        "targets": torch.zeros(3, dtype=torch.long),
        "hidden": torch.zeros(3, 2),
        "weight": torch.zeros(4, 2),
    }
    with pytest.raises(error, match=text):
        kosa.linear_cross_entropy(**given | change)


@pytest.mark.parametrize(
    ("targets", "error", "text"),
    [
        (torch.tensor([0, 9, 1]), IndexError, r"`targets` must be .* the value at 1 is 9"),
        (torch.zeros(4, dtype=torch.long), ValueError, r"`targets` of .* `logits` without its class axis"),
    ],
)
def test_targets_are_called_as_this_function_calls_them(targets, error, text):
    for call in (kosa.cross_entropy, kosa.cross_entropy_with_grad, kosa.row_statistics):
        with pytest.raises(error, match=text):
            call(targets, logits=torch.zeros(3, 4))


def test_lists_and_numbers_go_with_tensors():
    z = drawn(2, 3)
    assert kosa.cross_entropy([0, 2], logits=z) == kosa.cross_entropy(torch.tensor([0, 2]), logits=z)
    weighted = kosa.cross_entropy([0, 2], logits=z, sample_weight=[1, 2.5], class_weight=[1, 2, 3])
    rows, classes = torch.tensor([1, 2.5]), torch.tensor([1, 2, 3])
    assert weighted == kosa.cross_entropy([0, 2], logits=z, sample_weight=rows, class_weight=classes)
    assert kosa.linear_cross_entropy([0, 2], z, drawn(4, 3)).isfinite()


def test_a_meta_tensor_has_no_numbers_for_gradients_and_statistics():
    z, y = drawn(3, 4).to("meta"), torch.tensor([0, 1, 2]).to("meta")
    for call in (kosa.cross_entropy_with_grad, kosa.row_statistics):
        with pytest.raises(TypeError, match="a tensor on the meta device holds no numbers"):
            call(y, logits=z)
    with pytest.raises(TypeError, match="a tensor on the meta device holds no numbers"):
        kosa.binary_cross_entropy_with_grad(z, logits=z)
    assert kosa.cross_entropy(y, logits=z).device.type == "meta"
