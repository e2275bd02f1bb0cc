"""`kosa.torch.linear_cross_entropy` against PyTorch's and against the formula: numbers, chunks, memory, errors."""

import warnings
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_oracle import FLOOR, close, compare, converted, derived, draw_targets, formula, keywords

import kosa.torch

pytestmark = pytest.mark.usefixtures("one_thread")
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
NAN = float("nan")


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def indices(*shape, classes, seed=1):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def written_out(x, w, target, *, linear_bias=None, weight=None, **options):
    """The loss by the formula, of all logits."""
    return formula(F.linear(x, w, linear_bias), target, class_weight=weight, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ["one row", "rows", "one head more", "many heads"])
def test_smoothing_weights_reductions_and_ignored_rows_together_are_pytorchs(case, dtype):
    rows, places = {
        "one row": ((), ()),
        "rows": ((5,), ()),
        "one head more": ((4,), (3,)),
        "many heads": ((2,), (2, 1, 2)),
    }[case]
    classes, features = 6, 3
    x = drawn(*rows, features, dtype=dtype).requires_grad_()
    w = drawn(classes, *places, features, dtype=dtype, seed=1).requires_grad_()
    bias = drawn(classes, *places, dtype=dtype, seed=2).requires_grad_()
    hard = indices(*rows, *places, classes=classes)
    soft = drawn(*rows, classes, *places, dtype=dtype, seed=4).softmax(len(rows)).requires_grad_()
    class_weight = torch.linspace(0.5, 2.0, classes, dtype=dtype)
    for target, smoothing, cw, b, reduction, ignore in product(
        (hard, soft),
        (0.0, 0.3),
        (None, class_weight),
        (bias,) if places else (None, bias),
        ("mean", "sum", "none"),
        (None, 1),
    ):
        if target is soft and ignore is not None:
            continue
        options = {
            "label_smoothing": smoothing, "weight": cw, "linear_bias": b, "reduction": reduction, "ignore_index": ignore,
        }  # fmt: skip
        compare(kosa.torch.linear_cross_entropy, F.linear_cross_entropy, (x, w, target), options)


@settings(max_examples=60)
@given(st.data())
def test_every_keyword_with_every_other_is_the_formula_in_any_workspace(data):
    """float64 for tight bounds; 16 bits against the formula in 16 bits, whose every step rounds."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    rows = data.draw(st.sampled_from([(), (1,), (37,), (3, 13), (2, 3, 5)]))
    classes, features = data.draw(st.sampled_from([(1, 2), (5, 3), (70, 4)]))
    dtype = data.draw(st.sampled_from(DTYPES))
    soft = data.draw(st.booleans())
    options = keywords(data.draw, rows, classes, generator, soft)
    options["weight"] = options.pop("class_weight", None)
    if rows:
        options["shift"] = data.draw(st.sampled_from([0, 0, 1, 2, rows[-1], rows[-1] + 3]))
    workspace = data.draw(st.sampled_from([0, 1, 4096, 10_000, 40_000, None]))
    x, w, bias = (
        torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        for shape in ((*rows, features), (classes, features), (classes,))
    )
    options["linear_bias"] = bias if data.draw(st.booleans()) else None
    target = draw_targets(soft, rows, classes, generator)
    target = target.to(dtype).requires_grad_() if soft else target

    def call(function, to, **more):
        given = {k: v if k == "sample_weight" else converted(v, to) for k, v in options.items()}
        return derived(function, [converted(v, to) for v in (x, w, target)], given | more)

    got = call(kosa.torch.linear_cross_entropy, dtype, workspace=workspace)
    reference, exact = call(written_out, dtype), call(written_out, torch.float64)
    for i, (a, b, e) in enumerate(zip(got, reference, exact, strict=True)):
        if i == 0 and e.isnan().all():
            assert a.isnan()
            continue
        close(a, b, e, 4 * FLOOR[dtype], f"gradient {i}" if i else "loss")


@settings(max_examples=25)
@given(st.data())
def test_many_heads_take_every_keyword_too(data):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    places, soft = data.draw(st.sampled_from([(3,), (2, 1, 2)])), data.draw(st.booleans())
    rows = (4, *places)
    options = keywords(data.draw, rows, 5, generator, soft)
    options["weight"] = options.pop("class_weight", None)
    x, w, bias = (
        drawn(4, 2).requires_grad_(),
        drawn(5, *places, 2).requires_grad_(),
        drawn(5, *places).requires_grad_(),
    )
    target = draw_targets(soft, rows, 5, generator).requires_grad_(soft)

    def ours(x, w, bias, target):
        target = target.movedim(-1, 1) if soft else target
        return kosa.torch.linear_cross_entropy(x, w, target, linear_bias=bias, workspace=500, **options)

    def heads(x, w, bias, target):
        logits = torch.tensordot(x, w, ([1], [w.dim() - 1])) + bias
        rest = {k: v for k, v in options.items() if k != "weight"}
        return formula(logits.movedim(1, -1), target, class_weight=options["weight"], **rest)

    for i, (got, want) in enumerate(
        zip(*(derived(f, [x, w, bias, target], {}) for f in (ours, heads)), strict=True)
    ):
        if not (i == 0 and want.isnan().all() and got.isnan().all()):
            close(got, want, want, 4 * FLOOR[torch.float64], f"gradient {i}" if i else "loss")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8, torch.uint16, torch.uint64])
@pytest.mark.parametrize("shift", [0, 1])
def test_indices_of_any_integer_dtype_are_the_same_indices(dtype, shift):
    x, w, y = drawn(6, 3), drawn(5, 3), indices(6, classes=5)
    options = {"weight": torch.linspace(0.5, 2.0, 5), "shift": shift}
    ours = kosa.torch.linear_cross_entropy(x, w, y.to(dtype), **options)
    assert torch.equal(ours, kosa.torch.linear_cross_entropy(x, w, y, **options))


def test_input_may_have_any_number_of_axes_before_its_features():
    """Named in docs/differences.md: PyTorch takes one row or a matrix."""
    x, w, y = drawn(2, 4, 3), drawn(5, 3), indices(2, 4, classes=5)
    ours = kosa.torch.linear_cross_entropy(x, w, y, reduction="none")
    assert ours.shape == (2, 4)
    torch.testing.assert_close(
        ours.flatten(), F.linear_cross_entropy(x.flatten(0, 1), w, y.flatten(), reduction="none")
    )
    with pytest.raises(RuntimeError, match="dimensionality 1 or 2"):
        F.linear_cross_entropy(x, w, y)


@pytest.mark.parametrize(
    "options", [{}, {"reduction": "none"}, {"label_smoothing": 0.1}, {"shift": 1}, {"soft": True}]
)
def test_ignored_rows_with_nan_have_gradient_zero_and_spoil_nothing(options):
    """Named in docs/differences.md: PyTorch's gradient of the weight is NaN."""
    options = dict(options)
    soft = options.pop("soft", False)
    shift = options.get("shift", 0)
    x = drawn(6, 3)
    x[[1, 3]] = NAN
    x.requires_grad_()
    w, bias = drawn(5, 3, seed=1).requires_grad_(), drawn(5, seed=2).requires_grad_()
    rows = torch.ones(6)
    rows[[1, 3]] = 0.0
    target = drawn(6, 5).softmax(1).requires_grad_() if soft else indices(6, classes=5)
    if not soft:
        target[[1 + shift, 3 + shift]] = -100
    loss = kosa.torch.linear_cross_entropy(
        x, w, target, linear_bias=bias, sample_weight=rows if soft else None, **options
    )
    loss.sum().backward()
    assert loss.isfinite().all()
    if not options and not soft:
        assert torch.autograd.grad(F.linear_cross_entropy(x, w, target), w)[0].isnan().all()
    assert torch.equal(x.grad[[1, 3]], torch.zeros(2, 3, dtype=torch.float64))
    for leaf in (x, w, bias, *([target] if soft else [])):
        assert leaf.grad.isfinite().all()
        assert (leaf.grad != 0).any()


def test_nan_in_the_weight_spoils_all_rows_and_in_a_row_that_row_alone():
    x, w, y = drawn(3, 2), drawn(4, 2), torch.tensor([0, 1, 2])
    x[1] = NAN
    assert kosa.torch.linear_cross_entropy(x, w, y, reduction="none").isnan().tolist() == [False, True, False]
    w[3] = NAN
    assert kosa.torch.linear_cross_entropy(x, w, y, reduction="none").isnan().all()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("rows", "features"), [(0, 3), (4, 0), (0, 0)])
def test_no_rows_and_no_features_are_pytorchs(rows, features, reduction):
    x, w = torch.zeros(rows, features, requires_grad=True), torch.ones(5, features, requires_grad=True)
    y = torch.zeros(rows, dtype=torch.long)
    ours = kosa.torch.linear_cross_entropy(x, w, y, reduction=reduction)
    torch.testing.assert_close(ours, F.linear_cross_entropy(x, w, y, reduction=reduction), equal_nan=True)
    ours.sum().backward()
    assert torch.equal(x.grad, torch.zeros(rows, features))
    assert torch.equal(w.grad, torch.zeros(5, features))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_layouts_give_the_same_numbers(dtype):
    x, w, bias = (drawn(*shape, dtype=dtype, seed=len(shape)) for shape in ((6, 4), (7, 4), (7,)))
    y = indices(6, classes=7)
    wide = torch.full((6, 8), 7.0, dtype=dtype)
    wide[:, ::2] = x
    laid = [
        (x.t().contiguous().t(), w.t().contiguous().t(), bias), (wide[:, ::2], w, bias),
        (torch._neg_view(-x), torch._neg_view(-w), torch._neg_view(-bias)), (x, w, bias.repeat(2)[:7]),
    ]  # fmt: skip
    if dtype != torch.bfloat16:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch's about writing to read-only memory
            fixed = [a.numpy().copy() for a in (x, w, bias)]
            for array in fixed:
                array.flags.writeable = False
            laid.append(tuple(torch.from_numpy(array) for array in fixed))
    want = derived(
        lambda *a: kosa.torch.linear_cross_entropy(a[0], a[1], y, linear_bias=a[2]),
        [t.clone().requires_grad_() for t in (x, w, bias)],
        {},
    )
    for tensors in laid:
        leaves = [t.detach().requires_grad_() for t in tensors]
        got = derived(lambda *a: kosa.torch.linear_cross_entropy(a[0], a[1], y, linear_bias=a[2]), leaves, {})
        for a, b in zip(got, want, strict=True):  # products of other layouts sum in another order
            torch.testing.assert_close(a, b, rtol=4 * FLOOR[dtype], atol=FLOOR[dtype])


def test_expanded_tensors_are_read_as_they_lie():
    x, w, y = drawn(1, 3).requires_grad_(), drawn(1, 3, seed=1).requires_grad_(), indices(6, classes=5)
    ours = kosa.torch.linear_cross_entropy(x.expand(6, 3), w.expand(5, 3), y)
    theirs = F.linear_cross_entropy(x.expand(6, 3), w.expand(5, 3), y)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(torch.autograd.grad(ours, (x, w)), torch.autograd.grad(theirs, (x, w)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_argument_is_written_to(reduction):
    given = [
        drawn(40, 8, dtype=torch.float32),
        drawn(90, 8, dtype=torch.float32),
        drawn(90, dtype=torch.float32),
    ]
    given += [drawn(40, 90, dtype=torch.float32).softmax(1), torch.rand(90), torch.rand(40)]
    before = [x.clone() for x in given]
    versions = [x._version for x in given]
    for tensor in given[:4]:
        tensor.requires_grad_()
    x, w, bias, t, class_weight, rows = given
    loss = kosa.torch.linear_cross_entropy(
        x,
        w,
        t,
        linear_bias=bias,
        weight=class_weight,
        sample_weight=rows,
        reduction=reduction,
        workspace=10_000,
    )
    loss.sum().backward(retain_graph=True)
    (3 * loss).sum().backward()
    assert [x._version for x in given] == versions
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_bits_are_the_same_in_every_run(dtype):
    x, w = drawn(64, 32, dtype=dtype).requires_grad_(), drawn(500, 32, dtype=dtype).requires_grad_()
    y = indices(64, classes=500)
    runs = [derived(kosa.torch.linear_cross_entropy, (x, w, y), {"workspace": 100_000}) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize(
    "dtypes",
    [(torch.float32,) * 3, (torch.float64,) * 3, (torch.bfloat16, torch.float32, torch.float32)],
    ids=str,
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_autocast_is_that_of_the_two_functions(dtypes, reduction):
    leaves = [
        drawn(*s, dtype=d).requires_grad_() for s, d in zip(((6, 3), (5, 3), (5,)), dtypes, strict=True)
    ]
    y = indices(6, classes=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x, w, bias = leaves
        ours = kosa.torch.linear_cross_entropy(x, w, y, linear_bias=bias, reduction=reduction)
        named = kosa.linear_cross_entropy(y, x, w, bias, reduction=reduction)
        theirs = F.cross_entropy(F.linear(x, w, bias), y, reduction=reduction)
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=2.0**-20, atol=2.0**-20)  # the same bfloat16 logits
    assert torch.equal(ours.to(named.dtype), named)
    for a, b in zip(
        torch.autograd.grad(ours.sum(), leaves), torch.autograd.grad(theirs.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(
            a, b, rtol=2.0**-7, atol=2.0**-7
        )  # gradients of logits are rounded to bfloat16 in both


def test_gradients_of_float16_are_made_at_the_scale_that_comes_from_above():
    """One part in 65536 of a mean over rows and classes is below what float16 holds: GradScaler is for that."""
    x = drawn(512, 32, dtype=torch.float16).requires_grad_()
    w = (drawn(3000, 32, seed=1) / 6).to(torch.float16).requires_grad_()
    y, scale = indices(512, classes=3000), 2.0**14

    def scaled(function):
        return lambda *a: function(*a).double() * scale

    results = [
        derived(scaled(f), [converted(v, to) for v in (x, w, y)], {})
        for f, to in (
            (kosa.torch.linear_cross_entropy, torch.float16),
            (F.linear_cross_entropy, torch.float16),
            (F.linear_cross_entropy, torch.float64),
        )
    ]
    for got, reference, exact in list(zip(*results, strict=True))[1:]:
        ours, theirs = ((v.double() - exact).norm() / exact.norm() for v in (got, reference))
        assert ours <= 1.1 * theirs  # root mean squares, of the same roundings in another order


def test_a_meta_tensor_gives_a_meta_tensor():
    x, w = torch.empty(4, 3, device="meta", requires_grad=True), torch.empty(5, 3, device="meta")
    y = torch.empty(4, dtype=torch.long, device="meta")
    for reduction, shape in (("mean", ()), ("none", (4,))):
        loss = kosa.torch.linear_cross_entropy(x, w, y, reduction=reduction)
        loss.sum().backward()
        assert (loss.device.type, loss.shape, x.grad.shape) == ("meta", shape, (4, 3))


@pytest.mark.parametrize("soft", [False, True])
def test_statistics_are_those_of_all_logits(soft):
    x, w, bias = (
        drawn(3, 13, 4).requires_grad_(),
        drawn(70, 4, seed=1).requires_grad_(),
        drawn(70, seed=2).requires_grad_(),
    )
    target = drawn(3, 13, 70).softmax(-1) if soft else indices(3, 13, classes=70)
    if not soft:
        target[0, 3] = -100
    options = {"softcap": 2.0, "temperature": 0.7, "label_smoothing": 0.1}
    got = kosa.torch.linear_row_statistics(x, w, target, linear_bias=bias, workspace=20_000, **options)
    z = 2.0 * torch.tanh(F.linear(x, w, bias) / 2.0) / 0.7
    p = z.softmax(-1)
    expected = formula(F.linear(x, w, bias), target, reduction="none", **options), z.logsumexp(-1)
    for ours, theirs in zip(got[:2], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)  # the contract of float64
        for a, b in zip(
            torch.autograd.grad(
                (ours * torch.linspace(0.5, 2.0, 39).reshape(3, 13)).sum(), (x, w, bias), retain_graph=True
            ),
            torch.autograd.grad(
                (theirs * torch.linspace(0.5, 2.0, 39).reshape(3, 13)).sum(), (x, w, bias), retain_graph=True
            ),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)
    assert torch.equal(got.argmax, z.argmax(-1))
    torch.testing.assert_close(got.entropy, -(p * p.log()).sum(-1), rtol=1e-11, atol=0)
    assert not got.argmax.requires_grad
    assert not got.entropy.requires_grad


def test_minus_the_loss_of_statistics_is_the_log_probability_of_the_token_chosen():
    x, w, y = drawn(5, 3), drawn(7, 3), indices(5, classes=7)
    chosen = F.linear(x, w).log_softmax(-1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(-kosa.torch.linear_row_statistics(x, w, y).loss, chosen)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"target": torch.tensor([0, 9, 1])}, IndexError, r"`target` .* \[0, 3\] .* value at 1 is 9"),
        ({"target": torch.tensor([0, -1, 1]), "weight": torch.ones(4)}, IndexError, r"but the value at 1 is -1"),
        ({"target": torch.zeros(4, dtype=torch.long)}, ValueError, r"without its class axis, \(3,\), but have \(4,\)"),
        ({"target": torch.ones(3, 4, dtype=torch.long)}, TypeError, r"one-hot targets must be floating"),
        ({"target": np.zeros(3, int)}, TypeError, r"`target` must be a torch.Tensor .*numpy.ndarray"),
        ({"linear_weight": torch.zeros(4, 2, device="meta")}, ValueError, r"`linear_weight` is on meta, .* on cpu"),
        ({"linear_weight": torch.zeros(4, 2).double()}, TypeError, r"dtype of `input`, .*float32, but has .*float64"),
        ({"linear_weight": np.zeros((4, 2))}, TypeError, r"`linear_weight` must be a torch.Tensor"),
        ({"linear_weight": torch.zeros(0, 2)}, ValueError, r"`linear_weight` has no classes: shape \(0, 2\)"),
        ({"linear_weight": torch.zeros(4, 3)}, ValueError, r"they are \(3, 2\) and \(4, 3\)"),
        ({"linear_weight": torch.zeros(4, 2).to_sparse()}, TypeError, r"`linear_weight` must be a dense tensor"),
        ({"sample_weight": torch.ones(3).to_sparse()}, TypeError, r"`sample_weight` must be a dense tensor"),
        ({"linear_bias": torch.zeros(3)}, ValueError, r"`linear_bias` must have shape \(4,\), but has shape \(3,\)"),
        ({"linear_bias": np.zeros(4)}, TypeError, r"`linear_bias` must be a torch.Tensor"),
        ({"linear_bias": [0.0] * 4}, TypeError, r"`linear_bias` must have the dtype of `input`"),
        ({"input": torch.zeros(3, 2, dtype=torch.long)}, TypeError, r"`input` must be floating"),
        ({"weight": torch.ones(3)}, ValueError, r"`weight` must have one weight a class, shape \(4,\)"),
        ({"sample_weight": torch.ones(4)}, ValueError, r"`sample_weight` must have one weight a row, shape \(3,\)"),
        ({"workspace": -1}, ValueError, r"`workspace` must not be negative, but is -1"),
        ({"workspace": 1.5}, TypeError, r"`workspace` must be an integer, but is 1.5"),
        ({"shift": -1}, ValueError, r"`shift` must not be negative, but is -1"),
        ({"reduction": "avg"}, ValueError, r'`reduction` must be "mean", "sum" or "none"'),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(change, error, text):
    given = {
        "input": torch.zeros(3, 2),
        "linear_weight": torch.zeros(4, 2),
        "target": torch.zeros(3, dtype=torch.long),
    }
    with pytest.raises(error, match=text):
        kosa.torch.linear_cross_entropy(**(given | change))


def test_a_class_out_of_range_is_named_by_the_position_that_was_given():
    y = torch.tensor([[0, 1, 2], [1, 9, 0]])
    with pytest.raises(IndexError, match=r"at \(1, 1\) is 9"):
        kosa.torch.linear_cross_entropy(drawn(2, 3, 2), drawn(4, 2), y, shift=1)


def test_many_heads_have_no_sequence_to_shift():
    with pytest.raises(ValueError, match=r"`shift` .* K-dimensional `linear_weight` leaves no room"):
        kosa.torch.linear_cross_entropy(drawn(2, 3), drawn(4, 2, 3), indices(2, 2, classes=4), shift=1)
    with pytest.raises(ValueError, match=r"`linear_weight` must be \(C, D\), but has shape \(4, 2, 3\)"):
        kosa.torch.linear_row_statistics(drawn(2, 3), drawn(4, 2, 3), indices(2, 2, classes=4))


def test_statistics_ignore_no_index_of_probabilities():
    with pytest.raises(
        ValueError, match=r"`ignore_index` marks class indices, but `target` holds probabilities"
    ):
        kosa.torch.linear_row_statistics(drawn(2, 3), drawn(4, 3), torch.ones(2, 4), ignore_index=1)


def test_statistics_of_rows_that_shift_leaves_without_a_distribution():
    hidden, weight = drawn(2, 3, 4).requires_grad_(), drawn(5, 4, seed=1)
    target = drawn(2, 3, 5, seed=2).softmax(-1)
    stats = kosa.torch.linear_row_statistics(hidden, weight, target, shift=1)
    assert (stats.loss[:, -1] == 0).all()
    z = F.linear(hidden, weight)
    expected = z.logsumexp(-1).sum() - (target[:, 1:] * z[:, :-1].log_softmax(-1)).sum()
    (grad,) = torch.autograd.grad(stats.loss.sum() + stats.lse.sum(), hidden)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, hidden)[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("many", ["hidden", "weight", "bias"])
@pytest.mark.parametrize("soft", [False, True])
def test_statistics_under_vmap_are_those_of_each(many, soft):
    """A further axis of rows where weight and bias are shared; else one after the other."""
    tensors = [drawn(4, 3), drawn(5, 3, seed=1), drawn(5, seed=2)]
    place = ["hidden", "weight", "bias"].index(many)
    tensors[place] = torch.stack([tensors[place], 2 * tensors[place], -tensors[place]])
    dims = tuple(0 if i == place else None for i in range(3))
    target = drawn(4, 5).softmax(-1) if soft else indices(4, classes=5)

    def each(x, w, b):
        return kosa.torch.linear_row_statistics(x, w, target, linear_bias=b, shift=1)

    def total(x, w, b):
        stats = each(x, w, b)
        return (stats.loss * torch.arange(1.0, 5.0)).sum() + stats.lse.square().sum()

    def apart(function):
        picked = ([t[i] if d == 0 else t for t, d in zip(tensors, dims, strict=True)] for i in range(3))
        return [torch.stack(several) for several in zip(*(function(*t) for t in picked), strict=True)]

    gradients = torch.func.grad(total, (0, 1, 2))
    for function in (each, gradients):
        for ours, theirs in zip(torch.vmap(function, dims)(*tensors), apart(function), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
