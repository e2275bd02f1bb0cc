"""`kosa.torch.cross_entropy` where PyTorch does unusual things: default devices, wrapped tensors, tracing, threads."""

import threading
import weakref

import pytest
import torch
from torch.utils._pytree import tree_map

import kosa
import kosa.torch
from kosa.loss import Options
from kosa.torch import host
from kosa.torch.reduction import total_weight

pytestmark = pytest.mark.usefixtures("one_thread")
NAN = float("nan")


def logits(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def indices(shape, classes, seed=1):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("upstream", [float("inf"), NAN])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_rows_that_do_not_count_have_gradient_zero_whatever_comes_from_upstream(reduction, upstream):
    z, y = logits((3, 4)).requires_grad_(), torch.tensor([1, -100, 2])
    loss = kosa.torch.cross_entropy(z, y, sample_weight=torch.tensor([1.0, 1.0, 0.0]), reduction=reduction)
    for _ in range(2):
        (slope,) = torch.autograd.grad(loss, z, torch.full_like(loss, upstream), retain_graph=True)
        assert torch.equal(slope[1:], torch.zeros(2, 4, dtype=torch.float64))
        assert not slope[0].isfinite().any()
    t = logits((3, 4)).softmax(1).requires_grad_()
    loss = kosa.torch.cross_entropy(z, t, sample_weight=torch.tensor([1.0, 0.0, 0.0]), reduction=reduction)
    for slope in torch.autograd.grad(loss, (z, t), torch.full_like(loss, upstream)):
        assert torch.equal(slope[1:], torch.zeros(2, 4, dtype=torch.float64))
    loss = kosa.binary_cross_entropy(
        t.detach(), logits=z, sample_weight=torch.tensor([[1.0], [0.0], [0.0]]), reduction=reduction
    )
    (slope,) = torch.autograd.grad(loss, z, torch.full_like(loss, upstream))
    assert torch.equal(slope[1:], torch.zeros(2, 4, dtype=torch.float64))


def test_tensors_of_a_cpu_are_computed_there_whatever_device_is_the_default():
    z = logits((2, 1 << 19), torch.float32).requires_grad_()  # 4 MiB: memory of NumPy
    y, row = torch.tensor([0, 7]), logits((3, 4))
    want = torch.autograd.grad(kosa.torch.cross_entropy(z, y), z)
    rows = (
        kosa.row_statistics(logits=row),
        kosa.cross_entropy([0, 1, 2], logits=row, sample_weight=[1, 2, 0.5]),
    )
    with torch.device("meta"):
        assert torch.equal(torch.autograd.grad(kosa.torch.cross_entropy(z, y), z)[0], want[0])
        assert torch.equal(kosa.row_statistics(logits=row).lse, rows[0].lse)
        assert kosa.cross_entropy([0, 1, 2], logits=row, sample_weight=[1, 2, 0.5]) == rows[1]
        assert kosa.binary_cross_entropy(row.sigmoid(), logits=row).is_cpu


class Counting(torch.Tensor):
    """A tensor that holds another, as those of distributed tensors do."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, strides=held.stride())

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        given = tree_map(lambda x: x.held if isinstance(x, cls) else x, (args, kwargs or {}))
        return tree_map(
            lambda x: cls(x) if isinstance(x, torch.Tensor) else x, function(*given[0], **given[1])
        )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_any_argument_may_be_a_tensor_that_holds_another(reduction):
    z, y, weight = logits((3, 4)).requires_grad_(), indices((3,), 4), torch.rand(4).double()

    def found(y, weight):
        loss = kosa.torch.cross_entropy(z, y, weight, reduction=reduction)
        both = kosa.binary_cross_entropy(
            z.detach().sigmoid(), logits=z, pos_weight=weight, reduction=reduction
        )
        return [getattr(x, "held", x) for x in (loss, *torch.autograd.grad(loss.sum() + both.sum(), z))]

    want = found(y, weight)
    for given in ((Counting(y), weight), (y, Counting(weight))):
        assert all(torch.equal(a, b) for a, b in zip(found(*given), want, strict=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_traced_loss_computes_with_what_it_is_given(reduction):
    y, z, other = indices((3,), 4), logits((3, 4)), logits((3, 4), seed=5)
    traced = torch.jit.trace(lambda z: kosa.torch.cross_entropy(z, y, reduction=reduction), (z,))
    assert torch.equal(traced(other), kosa.torch.cross_entropy(other, y, reduction=reduction))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_what_a_trace_would_not_record_is_an_error():
    z, y = logits((3, 4)), indices((3,), 4)
    for call in (
        lambda z: kosa.cross_entropy_with_grad(y, logits=z).grad,
        lambda z: kosa.binary_cross_entropy_with_grad(z.sigmoid(), logits=z).grad,
        lambda z: kosa.row_statistics(y, logits=z).lse,
    ):
        with pytest.raises(RuntimeError, match=r"torch.jit.trace .* does not see"):
            torch.jit.trace(call, (z,), check_trace=False)


def test_a_batch_of_no_class_weights_has_no_losses():
    z, y, none = logits((3, 4)), indices((3,), 4), torch.ones(0, 4).double()
    assert torch.vmap(lambda w: kosa.torch.cross_entropy(z, y, w))(none).shape == (0,)
    slope = torch.func.grad(lambda z, w: kosa.torch.cross_entropy(z, y, w))
    assert torch.vmap(slope, (None, 0))(z, none).shape == (0, 3, 4)


def test_an_ignored_index_may_be_a_tensor():
    z, y, one = logits((3, 4)), torch.tensor([0, 1, 2]), torch.tensor(1)
    want = kosa.torch.cross_entropy(z, y, ignore_index=1)
    assert kosa.torch.cross_entropy(z, y, ignore_index=one) == want
    assert kosa.cross_entropy_with_grad(y, logits=z, ignore_index=one).loss == want
    assert kosa.row_statistics(y, logits=z, ignore_index=one).loss[1] == 0
    ones = torch.ones(3, 4, dtype=torch.long)
    assert kosa.binary_cross_entropy_with_grad(ones, logits=z, ignore_index=one).loss.isnan()
    with pytest.raises(TypeError, match="only integer tensors"):
        kosa.torch.cross_entropy(z, y, ignore_index=torch.tensor(1.5))


def test_class_weights_that_want_a_gradient_are_taken_where_none_is_computed():
    z, y, weight = logits((3, 4)), indices((3,), 4), torch.rand(4).double().requires_grad_()
    with torch.no_grad():
        assert kosa.torch.cross_entropy(z, y, weight) == kosa.torch.cross_entropy(z, y, weight.detach())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_nested_tensors_are_told_how_to_become_dense(layout):
    nested = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(1, 3)], layout=layout)
    with pytest.raises(
        TypeError, match=r"`input` must be a dense tensor, but is nested: .*to_padded_tensor\(0.0\)"
    ):
        kosa.torch.cross_entropy(nested, torch.zeros(2, dtype=torch.long))


def test_modules_name_the_keywords_that_differ_from_their_defaults():
    assert repr(kosa.torch.CrossEntropyLoss()) == "CrossEntropyLoss()"
    assert (
        repr(kosa.torch.CrossEntropyLoss(softcap=3.0, check=True))
        == "CrossEntropyLoss(softcap=3.0, check=True)"
    )
    assert "z_loss=0.1, shift=1" in repr(kosa.torch.LinearCrossEntropyLoss(2, 4, z_loss=0.1, shift=1))


def test_threads_that_share_a_graph_do_not_share_its_gradient(monkeypatch):
    z, y = logits((3, 70), torch.float32).requires_grad_(), indices((3,), 70)
    m = z * 1
    loss = kosa.torch.cross_entropy(m, y)
    (want,) = torch.autograd.grad(kosa.torch.cross_entropy(m, y), m)
    found, scaled = [], host.scaled

    def slowly(gradient, upstream):
        other = threading.Thread(target=backward, args=(4.0,))
        monkeypatch.setattr(host, "scaled", scaled)
        other.start()  # another backward begins and ends while this one multiplies
        other.join(10)
        return scaled(gradient, upstream)

    def backward(factor):
        found.append((factor, torch.autograd.grad(factor * loss, m, retain_graph=True)[0]))

    monkeypatch.setattr(host, "scaled", slowly)
    backward(2.0)
    assert {factor for factor, _ in found} == {2.0, 4.0}
    for factor, got in found:
        torch.testing.assert_close(got, factor * want, rtol=2.0**-22, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_trace_of_a_loss_with_gradients_is_not_checked(reduction):
    """Named in docs/differences.md: PyTorch's check finds that two traces hold two objects of Python's."""
    z, other, y = logits((3, 4)).requires_grad_(), logits((3, 4), seed=5).requires_grad_(), indices((3,), 4)

    def loss(z):
        return kosa.torch.cross_entropy(z, y, reduction=reduction)

    with pytest.raises(torch.jit.TracingCheckError, match="Graphs differed across invocations"):
        torch.jit.trace(loss, (z,))
    traced = torch.jit.trace(loss, (z,), check_trace=False)
    got, want = (torch.autograd.grad(f(other).sum(), other)[0] for f in (traced, loss))
    assert torch.equal(got, want)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The TorchScript type system:UserWarning")
def test_modules_cannot_be_scripted():
    with pytest.raises(torch.jit.frontend.NotSupportedError, match="keyword-only"):
        torch.jit.script(kosa.torch.CrossEntropyLoss())


def test_the_storage_of_a_large_gradient_is_freed_with_it_and_not_resized():
    z = logits((2, 1 << 19), torch.float32).requires_grad_()
    kosa.torch.cross_entropy(z, torch.tensor([0, 7])).backward()
    with pytest.raises(RuntimeError, match="not resizable"):
        z.grad.untyped_storage().resize_(0)
    kept = weakref.ref(z.grad)
    z.grad = None
    assert kept() is None


def test_a_denominator_on_another_device_is_not_waited_for():
    divisor = torch.ones(1, device="meta")  # whose number nobody can ask for
    options = Options(denominator=divisor)
    total = total_weight(torch.zeros(3, 2), None, None, (3,), options)
    assert isinstance(total, torch.Tensor)
    assert (total.shape, total.dtype, total.device.type) == ((), torch.float64, "meta")
