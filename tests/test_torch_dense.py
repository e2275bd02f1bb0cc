"""`kosa.torch.cross_entropy` against PyTorch's and against the formula written out: numbers, layouts, errors."""

import warnings
import weakref
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint
from torch_oracle import FLOOR, close, compare, converted, derived, draw_targets, formula, keywords

import kosa.torch
from kosa import definition
from kosa.torch import arrays, host

pytestmark = pytest.mark.usefixtures("one_thread")
NAN = float("nan")
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
SHAPES = [(5,), (4, 5), (2, 5, 3), (2, 3, 2, 4), (3, 70), (2, 65, 2)]  # 64 | 65: two kernels


def logits(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def indices(shape, classes, seed=1):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def rows_of(shape):
    return shape[:1] + shape[2:] if len(shape) > 1 else ()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_smoothing_weights_reductions_and_ignored_rows_together_are_pytorchs(shape, dtype):
    classes = shape[min(1, len(shape) - 1)]
    z = logits(shape, dtype).requires_grad_()
    hard = indices(rows_of(shape), classes)
    soft = logits(shape, dtype, 2).softmax(min(1, len(shape) - 1)).requires_grad_()
    weight = torch.linspace(0.5, 2.0, classes, dtype=dtype)
    for target, smoothing, w, reduction, ignore in product(
        (hard, soft), (0.0, 0.3), (None, weight), ("mean", "sum", "none"), (-100, 1)
    ):
        if target is soft and ignore >= 0:
            continue
        options = {"label_smoothing": smoothing, "weight": w, "reduction": reduction, "ignore_index": ignore}
        compare(kosa.torch.cross_entropy, F.cross_entropy, (z, target), options)


@settings(max_examples=50)
@given(st.data())
def test_every_keyword_with_every_other_is_the_formula(data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    shape = data.draw(st.sampled_from(SHAPES))
    dtype = data.draw(st.sampled_from(DTYPES))
    axis = min(1, len(shape) - 1)
    rows, classes = rows_of(shape), shape[axis]
    soft = data.draw(st.booleans())
    options = keywords(data.draw, rows, classes, generator, soft)
    z = (4 * torch.randn(*rows, classes, generator=generator)).to(dtype).requires_grad_()
    target = draw_targets(soft, rows, classes, generator)
    target = target.to(dtype).requires_grad_() if target.is_floating_point() else target

    def ours(z, target, class_weight=None, **rest):
        target = target.movedim(-1, axis) if target.is_floating_point() else target
        return kosa.torch.cross_entropy(z.movedim(-1, axis), target, class_weight, **rest)

    results = [
        derived(f, [converted(z, to), converted(target, to)], options)
        for f, to in ((ours, dtype), (formula, dtype), (formula, torch.float64))
    ]
    for i, (got, reference, exact) in enumerate(zip(*results, strict=True)):
        if exact.isnan().all() and i == 0:
            assert got.isnan()
            continue
        close(got, reference, exact, FLOOR[dtype], f"gradient {i}" if i else "loss")


def test_float16_is_pytorchs():
    z, y = logits((3, 70), torch.float16).requires_grad_(), indices((3,), 70)
    compare(kosa.torch.cross_entropy, F.cross_entropy, (z, y), {"reduction": "none"})


def test_the_formula_of_these_tests_is_the_definition():
    z, t = logits((4, 5)), logits((4, 5), seed=3).softmax(1)
    for target, reduction in product((indices((4,), 5), t), ("mean", "sum", "none")):
        options = {
            "softcap": 2.0, "temperature": 0.7, "z_loss": 0.1, "label_smoothing": 0.2, "ignore_index": 0,
            "class_weight": torch.linspace(0.0, 2.0, 5), "sample_weight": torch.tensor([1.0, 0.0, 2.0, 3.0]),
            "reduction": reduction,
        }  # fmt: skip
        expected = definition.loss(target.numpy(), logits=z.numpy(), **options)
        np.testing.assert_allclose(formula(z, target, **options).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16, torch.uint64]
)
def test_indices_of_any_integer_dtype_are_the_same_indices(dtype):
    z, y = logits((6, 5)), indices((6,), 5)
    weight = torch.linspace(0.5, 2.0, 5)
    assert torch.equal(kosa.torch.cross_entropy(z, y.to(dtype)), kosa.torch.cross_entropy(z, y))
    ours = kosa.torch.cross_entropy(z, y.to(dtype), weight, ignore_index=3)
    assert torch.equal(ours, kosa.torch.cross_entropy(z, y, weight, ignore_index=3))


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int16, torch.uint8, torch.uint16, torch.uint32, torch.uint64], ids=str
)
@pytest.mark.parametrize("ignore", [-100, -1, 2**32 + 3])
def test_an_ignored_index_beyond_a_dtype_is_no_class_of_it(dtype, ignore):
    """PyTorch compares within the dtype: −100 is 156 in uint8, and a row of class 156 would not count."""
    wrapped = ignore % 2 ** torch.iinfo(dtype).bits
    z, w = logits((4, 300), seed=3).requires_grad_(), logits((300, 2), seed=4).requires_grad_()
    y = torch.tensor([wrapped if wrapped < min(300, torch.iinfo(dtype).max) else 7, 3, 5, 3])

    def found(y):
        dense = kosa.torch.cross_entropy(z, y, ignore_index=ignore)
        head = kosa.torch.linear_cross_entropy(z[:, :2], w, y, ignore_index=ignore)
        (slope,) = torch.autograd.grad(dense, z, create_graph=True)
        return dense, head, torch.autograd.grad(slope.square().sum(), z)[0]

    for got, want in zip(found(y.to(dtype)), found(y), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-14, atol=0)
    of_ones = torch.ones(3, dtype=torch.uint8), z[:3, 0]
    got = kosa.binary_cross_entropy(of_ones[0], logits=of_ones[1], ignore_index=-255)
    assert got == kosa.binary_cross_entropy(of_ones[0].long(), logits=of_ones[1], ignore_index=-255)


def test_mixed_dtypes_of_predictions_and_distributions_give_pytorchs_dtype():
    double, single, half = DTYPES  # pairs that the tests of arrays compile kernels for too
    for a, b in ((single, double), (double, single), (half, single), (single, half)):
        z, t = logits((3, 4), a).requires_grad_(), logits((3, 4), b).softmax(1)
        ours, theirs = kosa.torch.cross_entropy(z, t), F.cross_entropy(z, t)
        assert ours.dtype == theirs.dtype
        assert torch.autograd.grad(ours, z)[0].dtype == a


def test_ignored_rows_with_nan_have_gradient_zero_and_spoil_nothing():
    """Named in docs/differences.md: PyTorch's gradient of such a row is NaN."""
    z = logits((4, 5))
    z[1] = NAN
    z[2, 3] = float("inf")
    z.requires_grad_()
    y = torch.tensor([0, -100, -100, 2])
    loss = kosa.torch.cross_entropy(z, y)
    loss.backward()
    assert torch.equal(z.grad[1:3], torch.zeros(2, 5, dtype=torch.float64))
    assert loss == kosa.torch.cross_entropy(z[[0, 3]], y[[0, 3]])
    assert F.cross_entropy(z, y).isfinite()
    (theirs,) = torch.autograd.grad(F.cross_entropy(z, y), z)
    assert theirs[1].isnan().any()


def test_a_row_of_weight_zero_counts_for_nothing_whatever_it_holds():
    z = logits((3, 5))
    z[1] = NAN
    z.requires_grad_()
    loss = kosa.torch.cross_entropy(z, torch.tensor([0, 1, 2]), sample_weight=torch.tensor([1.0, 0.0, 2.0]))
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(z.grad[1], torch.zeros(5, dtype=torch.float64))


def test_a_confident_row_keeps_its_digits():
    """Named in docs/differences.md: PyTorch's loss of 1e-13 is 0 in float32."""
    z = torch.tensor([[30.0, 0.0]], requires_grad=True)
    loss = kosa.torch.cross_entropy(z, torch.tensor([0]))
    (slope,) = torch.autograd.grad(loss, z)
    expected = np.log1p(np.exp(-30.0))
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=0)  # the contract of confident rows
    assert slope[0, 0].item() == pytest.approx(-expected, rel=1e-5, abs=0)
    assert F.cross_entropy(z, torch.tensor([0])) == 0


def test_nan_in_a_class_weight_spoils_the_rows_that_use_it():
    z, weight = logits((3, 4)), torch.tensor([1.0, NAN, 1.0, 1.0])
    losses = kosa.torch.cross_entropy(z, torch.tensor([0, 1, 2]), weight, reduction="none")
    assert losses.isnan().tolist() == [False, True, False]
    assert kosa.torch.cross_entropy(z, torch.tensor([0, 1, 2]), weight).isnan()
    smoothed = kosa.torch.cross_entropy(
        z, torch.tensor([0, 1, 2]), weight, reduction="none", label_smoothing=0.1
    )
    assert smoothed.isnan().all()


def test_infinite_class_weights_warn_of_nothing():
    z, weight = (
        logits((3, 4), torch.float32).requires_grad_(),
        torch.tensor([1.0, float("inf"), 1e300, 1.0]).double(),
    )
    for reduction in ("sum", "none"):
        loss = kosa.torch.cross_entropy(
            z, torch.tensor([0, 1, 2]), weight, label_smoothing=1.0, reduction=reduction
        )
        loss.sum().backward()
        assert not loss.isfinite().any()


def test_a_mean_of_nothing_is_nan_or_zero_with_gradient_zero():
    """Named in docs/differences.md: PyTorch's gradient is NaN where weights are 0."""
    for target, weight in (
        (torch.tensor([-100, -100]), None),
        (torch.tensor([1, 1]), torch.tensor([1.0, 0.0]).double()),
    ):
        z = logits((2, 2)).requires_grad_()
        (theirs,) = torch.autograd.grad(F.cross_entropy(z, target, weight), z)
        assert theirs.isnan().all() == (weight is not None)
        loss = kosa.torch.cross_entropy(z, target, weight)
        loss.backward()
        assert loss.isnan()
        assert torch.equal(z.grad, torch.zeros(2, 2, dtype=torch.float64))
        assert kosa.torch.cross_entropy(z, target, weight, empty="zero") == 0


@pytest.mark.parametrize("shape", [(0, 5), (3, 5, 0), (0, 5, 2)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows_are_pytorchs_no_rows(shape, reduction):
    z = torch.zeros(shape, requires_grad=True)
    target = torch.zeros(rows_of(shape), dtype=torch.long)
    ours = kosa.torch.cross_entropy(z, target, reduction=reduction)
    theirs = F.cross_entropy(z, target, reduction=reduction)
    assert ours.shape == theirs.shape
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
    ours.sum().backward()
    assert z.grad.shape == shape


def layouts(z):
    """The same numbers, differently laid out."""
    wide = torch.full((z.shape[0], 2 * z.shape[1], *z.shape[2:]), 7.0, dtype=z.dtype)
    wide[:, ::2] = z
    yield "every other class", wide[:, ::2]
    yield "transposed", z.transpose(0, -1).contiguous().transpose(0, -1)
    if z.dim() == 4:
        yield "channels last", z.to(memory_format=torch.channels_last)
    yield "expanded", z[:1].expand_as(z)
    yield "negated lazily", torch._neg_view(z)
    padded = torch.full([n + 3 for n in z.shape], 7.0, dtype=z.dtype)
    inner = padded[tuple(slice(1, n + 1) for n in z.shape)]
    inner.copy_(z)
    yield "sliced", inner
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch's about what Kosa does not do: writing there
        fixed = z.numpy().copy() if z.dtype != torch.bfloat16 else None
        if fixed is not None:
            fixed.flags.writeable = False
            yield "read-only", torch.from_numpy(fixed)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("shape", [(6, 5), (3, 70), (2, 5, 3, 4)])
def test_layouts_change_neither_bits_nor_gradients(shape, dtype):
    z = logits(shape, dtype)
    soft = logits(shape, dtype, 5).softmax(1)
    for (name, laid), target in product(
        layouts(z), (indices(rows_of(shape), shape[1]), soft, soft[:1].expand_as(soft))
    ):
        plain = laid.resolve_neg().contiguous().clone().requires_grad_()
        leaf = laid.detach().requires_grad_()
        expected = kosa.torch.cross_entropy(plain, target)
        got = kosa.torch.cross_entropy(leaf, target)
        assert torch.equal(got, expected), name
        (grad,), (want,) = torch.autograd.grad(got, leaf), torch.autograd.grad(expected, plain)
        torch.testing.assert_close(grad, want, rtol=FLOOR[dtype], atol=FLOOR[dtype] / 8, msg=name)


def counted(monkeypatch):
    """What the engine is asked for, from here on."""
    calls = []
    run, slopes = host.run, host.target_slopes
    monkeypatch.setattr(
        host,
        "run",
        lambda *a, **k: calls.append("loss" if k.get("out") is None else "gradient") or run(*a, **k),
    )
    monkeypatch.setattr(host, "target_slopes", lambda *a, **k: calls.append("of targets") or slopes(*a, **k))
    return calls


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_of_what_wants_none_are_none_and_not_computed(monkeypatch, reduction):
    calls = counted(monkeypatch)
    for of_logits, of_targets in ((True, False), (False, True), (True, True)):
        calls.clear()
        z = logits((3, 4)).requires_grad_(of_logits)
        t = logits((3, 4)).softmax(1).requires_grad_(of_targets)
        kosa.torch.cross_entropy(z, t, reduction=reduction).sum().backward()
        assert (z.grad is not None, t.grad is not None) == (of_logits, of_targets)
        assert calls.count("gradient") == of_logits
        assert calls.count("of targets") == of_targets
    calls.clear()
    assert not kosa.torch.cross_entropy(logits((3, 4)), indices((3,), 4)).requires_grad
    with torch.no_grad():
        assert not kosa.torch.cross_entropy(z, t).requires_grad
    assert calls == ["loss"] * 2


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "function", [kosa.torch.cross_entropy, lambda z, y, **k: kosa.cross_entropy(y, logits=z, **k)]
)
def test_logits_are_read_once_for_loss_and_gradient_and_again_for_another_backward(
    monkeypatch, function, reduction
):
    calls = counted(monkeypatch)
    z, y = logits((3, 70), torch.float32).requires_grad_(), indices((3,), 70)
    loss = function(z, y, reduction=reduction)
    (first,) = torch.autograd.grad(loss, z, retain_graph=True)
    assert calls == ["gradient"]
    kept = first.clone()
    first.zero_()  # given away: nobody else may hold it
    (second,) = torch.autograd.grad(3 * loss, z)
    assert calls == ["gradient"] * 2
    torch.testing.assert_close(second, 3 * kept, rtol=2.0**-22, atol=0)  # rounded after one product, not two


def test_an_upstream_gradient_multiplies_the_gradient_in_its_own_memory():
    z, y = logits((3, 70), torch.float32).requires_grad_(), indices((3,), 70)
    (want,) = torch.autograd.grad(kosa.torch.cross_entropy(z, y), z)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        loss = kosa.torch.cross_entropy(z, y)
    (made,) = [x for x in kept if x.shape == z.shape and x.data_ptr() != z.data_ptr()]
    (got,) = torch.autograd.grad(-0.5 * loss, z)
    assert got.data_ptr() == made.data_ptr()
    assert torch.equal(got, -0.5 * want)


def test_a_checkpoint_around_the_loss_keeps_no_gradient_until_it_computes_the_loss_again(monkeypatch):
    made = []

    def memory(like):
        array = np.empty(like.shape, np.float32)
        made.append(weakref.ref(array))
        return torch.from_numpy(array)

    monkeypatch.setattr(arrays, "memory", memory)
    z, y = logits((3, 70), torch.float32).requires_grad_(), indices((3,), 70)
    loss = checkpoint(lambda z: kosa.torch.cross_entropy(z, y), z, use_reentrant=False)
    assert [array() for array in made] == [None]
    loss.backward()
    assert len(made) == 2
    (want,) = torch.autograd.grad(kosa.torch.cross_entropy(z, y), z)
    assert torch.equal(z.grad, want)


def test_no_argument_is_written_to():
    z, t = logits((3, 70), torch.float32).requires_grad_(), logits((3, 70), torch.float32).softmax(1)
    weight, rows = torch.rand(70), torch.rand(3)
    given = [z, t, weight, rows]
    before = [x.detach().clone() for x in given]
    versions = [x._version for x in given]
    kosa.torch.cross_entropy(z, t, weight, sample_weight=rows, softcap=3.0, label_smoothing=0.1).backward()
    assert [x._version for x in given] == versions
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_bits_are_the_same_in_every_run_and_for_any_number_of_threads():
    import kosa.cpu.threads

    z, y = logits((500, 300), torch.float32).requires_grad_(), indices((500,), 300)
    before = kosa.cpu.threads.num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 2):
            kosa.set_num_threads(threads)
            loss = kosa.torch.cross_entropy(z, y)
            found.append((loss, *torch.autograd.grad(loss, z)))
    finally:
        kosa.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_autocast_is_pytorchs(dtype, soft):
    z = logits((4, 5), dtype).requires_grad_()
    target = logits((4, 5), dtype).softmax(1) if soft else indices((4,), 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = kosa.torch.cross_entropy(z, target), F.cross_entropy(z, target)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=2.0**-21, atol=0)  # both compute in float32 or better
    (a,), (b,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    torch.testing.assert_close(a, b, rtol=FLOOR[dtype], atol=FLOOR[dtype])


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated:UserWarning")
def test_deprecated_arguments_act_as_in_pytorch():
    z, y = logits((3, 4)), indices((3,), 4)
    for size_average, reduce in product((None, True, False), (None, True, False)):
        ours = kosa.torch.cross_entropy(z, y, None, size_average, -100, reduce)
        torch.testing.assert_close(ours, F.cross_entropy(z, y, None, size_average, -100, reduce))


def test_a_meta_tensor_gives_a_meta_tensor():
    z = torch.empty(4, 5, device="meta", requires_grad=True)
    loss = kosa.torch.cross_entropy(z, torch.empty(4, dtype=torch.long, device="meta"))
    loss.backward()
    assert (loss.device.type, loss.shape, z.grad.shape) == ("meta", (), (4, 5))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"target": torch.tensor([0, 9, 1])}, IndexError, r"`target` must .* in \[0, 3\] .* but the value at 1 is 9"),
        ({"target": torch.tensor([0, -1, 1])}, IndexError, r"`target` must .* but the value at 1 is -1"),
        ({"target": torch.zeros(4, dtype=torch.long)}, ValueError, r"`target` of .* `input` .*, \(3,\), but have \(4,\)"),
        ({"target": torch.zeros(4, 3)}, ValueError, r"`target` are distributions, .* \(3, 4\), but have \(4, 3\)"),
        ({"target": torch.ones(3, 4, dtype=torch.long)}, TypeError, r"one-hot .* `target` of .*`target.argmax\(1\)`"),
        ({"target": torch.ones(3, dtype=torch.bool)}, TypeError, r"`target` must be .* but are torch.bool"),
        ({"target": np.zeros(3, int)}, TypeError, r"`target` must be a torch.Tensor .*, but is a numpy.ndarray"),
        ({"target": torch.zeros(3, dtype=torch.long, device="meta")}, ValueError, r"`target` is on meta, .* are on cpu"),
        ({"target": torch.zeros(3, 4), "ignore_index": 1}, ValueError, r"`ignore_index` marks class indices"),
        ({"target": torch.tensor([0, 2**63, 1], dtype=torch.uint64)}, IndexError, r"`target` must .* at 1 is 9223"),
        ({"input": torch.zeros(3, 4, dtype=torch.long)}, TypeError, r"`input` must be floating .* torch.int64"),
        ({"input": torch.zeros(3, 4, dtype=torch.complex64)}, TypeError, r"`input` must be floating"),
        ({"input": torch.zeros(3, 4).to_sparse()}, TypeError, r"`input` must be a dense tensor"),
        ({"input": torch.zeros(())}, ValueError, r"`input` must have an axis of classes, but is a scalar"),
        ({"input": torch.zeros(3, 0)}, ValueError, r"`input` has no classes"),
        ({"input": np.zeros((3, 4))}, TypeError, r"`input` must be a torch.Tensor"),
        ({"weight": torch.ones(3)}, ValueError, r"`weight` must have one weight a class, shape \(4,\)"),
        ({"weight": "balanced"}, TypeError, r"`weight` must be a tensor of shape \(4,\), but is 'balanced'"),
        ({"weight": torch.ones(4, requires_grad=True)}, ValueError, r"`weight` requires a gradient, .*detach"),
        ({"sample_weight": torch.ones(4)}, ValueError, r"`sample_weight` must have one weight a row, shape \(3,\)"),
        ({"reduction": "avg"}, ValueError, r'`reduction` must be "mean", "sum" or "none"'),
        ({"label_smoothing": 1.5}, ValueError, r"`label_smoothing` must be in \[0, 1\]"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(change, error, text):
    """Named in docs/differences.md: PyTorch's class weights may want a gradient, and get one."""
    given = {"input": torch.zeros(3, 4), "target": torch.zeros(3, dtype=torch.long)} | change
    with pytest.raises(error, match=text):
        kosa.torch.cross_entropy(**given)
