"""The linear form on arrays against the definition on all logits: every keyword, chunks of every size, memory, errors."""

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kosa
from kosa import definition
from kosa.cpu import accumulate

# float64: sums of some products in another order; float32: as many roundings of its products; 16 bits are widened
# to float32 for the products, so their gradients differ by one rounding to 16 bits.
TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 2.0**-10, "bfloat16": 2.0**-7}
DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def expected(
    targets: Any, hidden: Any, weight: Any, bias: Any, shift: int = 0, **options: Any
) -> tuple[Any, ...]:
    """Loss and gradients by the definition in float64, from all logits."""
    wide = [np.asarray(x).astype(np.float64) for x in (hidden, weight, 0.0 if bias is None else bias)]
    z = wide[0] @ wide[1].T + wide[2]
    targets = (
        np.asarray(targets).astype(np.float64) if np.asarray(targets).dtype.kind not in "iu" else targets
    )
    rows, classes = z.shape[:-1], z.shape[-1]
    options = dict(options)
    keep = max(0, rows[-1] - shift) if shift else 0
    if shift:
        axis = len(rows) - 1
        cut = tuple(slice(None) for _ in range(axis))
        weights = np.broadcast_to(np.asarray(options.get("sample_weight", 1.0), float), rows)
        options["sample_weight"] = weights[(*cut, slice(0, keep))]
        targets, inside = targets[(*cut, slice(rows[-1] - keep, None))], z[(*cut, slice(0, keep))]
        loss, grad = definition.loss_with_grad(targets, logits=inside, **options)
        dz = np.zeros(z.shape)
        dz[(*cut, slice(0, keep))] = grad
        if options.get("reduction") == "none":
            padded = np.zeros(rows)
            padded[(*cut, slice(0, keep))] = loss
            loss = padded
    else:
        loss, dz = definition.loss_with_grad(targets, logits=z, **options)
    flat = dz.reshape(-1, classes)
    return (
        loss,
        dz @ wide[1],
        flat.T @ wide[0].reshape(-1, wide[0].shape[-1]),
        None if bias is None else flat.sum(0),
    )


@settings(max_examples=80)
@given(st.data())
def test_every_keyword_with_every_other_is_the_definition_in_any_workspace(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    choose = data.draw
    dtype = choose(st.sampled_from(sorted(DTYPES)))
    rows = choose(st.sampled_from([(), (1,), (37,), (3, 13), (2, 3, 5), (0,)]))
    classes, features = choose(st.sampled_from([(1, 2), (5, 3), (64, 1), (70, 4)]))
    hidden, weight, bias = (
        rng.normal(size=shape).astype(DTYPES[dtype])
        for shape in ((*rows, features), (classes, features), (classes,))
    )
    bias = bias if choose(st.booleans()) else None
    soft = choose(st.booleans())
    targets = rng.random((*rows, classes)).astype(DTYPES[dtype]) if soft else rng.integers(0, classes, rows)
    options: dict[str, Any] = {"reduction": choose(st.sampled_from(["mean", "sum", "none"]))}
    if options["reduction"] == "mean":
        options["denominator"] = choose(st.sampled_from([None, None, 7.5]))
        options["empty"] = choose(st.sampled_from(["nan", "zero"]))
    if choose(st.booleans()):
        options["class_weight"] = rng.uniform(0.2, 3.0, classes) * (rng.random(classes) < 0.8)
    if choose(st.booleans()):
        options["sample_weight"] = rng.uniform(0.2, 3.0, rows) * (rng.random(rows) < 0.8)
    options["label_smoothing"] = choose(st.sampled_from([0.0, 0.0, 0.1, 1.0]))
    options["softcap"] = choose(st.sampled_from([None, None, 2.0, 30.0]))
    options["temperature"] = choose(st.sampled_from([1.0, 1.0, 0.5]))
    options["z_loss"] = choose(st.sampled_from([0.0, 0.0, 0.1]))
    options["ignore_index"] = choose(st.sampled_from([-100, 0, 2]))
    shift = choose(st.sampled_from([0, 0, 1, 2, rows[-1], rows[-1] + 3])) if rows else 0
    workspace = choose(st.sampled_from([0, 1, 4000, 20_000, 100_000, None]))

    arguments = (targets, hidden, weight, bias)
    got = kosa.linear_cross_entropy_with_grad(*arguments, **options, shift=shift, workspace=workspace)
    want = expected(*arguments, shift=shift, **options)
    assert got.loss.dtype == (np.float64 if dtype == "float64" else np.float32)
    loose = min(TOLERANCE[dtype], 2e-5)
    np.testing.assert_allclose(got.loss, want[0], rtol=loose, atol=loose, err_msg="loss")
    alone = kosa.linear_cross_entropy(*arguments, **options, shift=shift, workspace=workspace)
    np.testing.assert_allclose(alone, got.loss, rtol=loose, atol=loose)
    for name, a, b, like in zip(got._fields[1:], got[1:], want[1:], arguments[1:], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.dtype, a.shape) == (like.dtype, like.shape)
            size = TOLERANCE[dtype] * max(1e-3, np.abs(b).max(initial=0.0))
            np.testing.assert_allclose(a.astype(float), b, rtol=TOLERANCE[dtype], atol=size, err_msg=name)

    for name in ("reduction", "denominator", "empty"):
        options.pop(name, None)
    stats = kosa.linear_row_statistics(*arguments, **options, shift=shift, workspace=workspace)
    wide = [np.asarray(x).astype(np.float64) for x in (hidden, weight, 0.0 if bias is None else bias)]
    z = wide[0] @ wide[1].T + wide[2]
    for option in ("class_weight", "sample_weight", "label_smoothing", "ignore_index"):
        options.pop(option, None)
    if z.size:
        figures = definition.statistics(logits=z, **options)
        for name in ("lse", "confidence", "entropy"):
            np.testing.assert_allclose(
                getattr(stats, name), getattr(figures, name), rtol=loose, atol=loose, err_msg=name
            )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"reduction": "none"}, {"shift": 1}])
def test_rows_that_do_not_count_reach_no_gradient_whatever_they_hold(bad, options):
    rng = np.random.default_rng(0)
    hidden, weight, bias = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)), rng.normal(size=5)
    hidden[2] = bad
    hidden[4] = bad
    targets = rng.integers(0, 5, 6)
    targets[2 + options.get("shift", 0)] = -100
    rows = np.array([1.0, 1.0, 1.0, 2.0, 0.0, 1.0])
    got = kosa.linear_cross_entropy_with_grad(targets, hidden, weight, bias, sample_weight=rows, **options)
    assert np.isfinite(got.loss).all()
    assert (got.hidden[[2, 4]] == 0).all()
    for grad in got[1:]:
        assert np.isfinite(grad).all()
        assert (grad != 0).any()


def test_nan_spoils_its_own_row_and_a_mean_with_it():
    hidden, weight = np.eye(3), np.ones((4, 3))
    hidden[1, 1] = np.nan
    losses = kosa.linear_cross_entropy([0, 1, 2], hidden, weight, reduction="none")
    assert np.isnan(losses).tolist() == [False, True, False]
    assert np.isnan(kosa.linear_cross_entropy([0, 1, 2], hidden, weight))


@pytest.mark.parametrize("layout", ["Fortran", "strided", "swapped", "read-only", "backwards"])
def test_layouts_give_the_same_numbers(layout):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(8, 4)), rng.normal(size=(70, 4)), rng.normal(size=70)]
    targets = rng.integers(0, 70, 8)
    want = kosa.linear_cross_entropy_with_grad(targets, *arrays)

    def laid(a):
        if layout == "Fortran":
            return np.asfortranarray(a)
        if layout == "strided":
            wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]))
            wide[..., ::2] = a
            return wide[..., ::2]
        if layout == "swapped":
            return a.astype(a.dtype.newbyteorder("S"))
        if layout == "backwards":
            return a[::-1].copy()[::-1]
        a = a.copy()
        a.flags.writeable = False
        return a

    got = kosa.linear_cross_entropy_with_grad(targets, *map(laid, arrays))
    for a, b in zip(got, want, strict=True):  # products of other layouts sum in another order
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


def test_no_argument_is_written_to_and_every_run_gives_the_same_bits():
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 300, 200),
        *(rng.normal(size=s).astype(np.float32) for s in ((200, 16), (300, 16), (300,))),
    ]
    before = [a.copy() for a in arrays]
    runs = [kosa.linear_cross_entropy_with_grad(*arrays, workspace=100_000) for _ in range(3)]
    for run in runs[1:]:
        for a, b in zip(runs[0], run, strict=True):
            assert a.tobytes() == b.tobytes()
    for a, b in zip(arrays, before, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("with_grad", [False, True])
def test_memory_stays_within_the_workspace_beyond_inputs_and_gradients(dtype, with_grad):
    """2000×8192 logits are 64 MiB of float32."""
    rows, classes, features, workspace = 2000, 8192, 16, 8 << 20
    hidden, weight = (np.zeros((n, features), DTYPES[dtype]) for n in (rows, classes))
    targets = np.zeros(rows, int)
    function = kosa.linear_cross_entropy_with_grad if with_grad else kosa.linear_cross_entropy
    function(targets[:20], hidden[:20], weight, workspace=workspace)  # compiled, and the threads are up
    tracemalloc.start()
    try:
        function(targets, hidden, weight, workspace=workspace)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    gradients = (hidden.nbytes + weight.nbytes) * with_grad
    wider = 4 * (hidden.size + weight.size) * (dtype != "float32") * with_grad  # accumulated in float32
    assert peak <= workspace + gradients + wider + 64 * rows + (1 << 19)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"targets": [0, 9, 1]}, IndexError, r"in \[0, 3\] .* but the value at 1 is 9"),
        ({"targets": [0, 1]}, ValueError, r"without its class axis, \(3,\), but have \(2,\)"),
        ({"targets": np.ones((3, 4), int)}, TypeError, r"one-hot targets must be floating"),
        ({"targets": np.ones((4, 3))}, ValueError, r"distributions, of the shape of `hidden·weightᵀ`, \(3, 4\)"),
        ({"weight": np.zeros((4, 3))}, ValueError, r"`weight` \(K, D\), but they are \(3, 2\) and \(4, 3\)"),
        ({"weight": np.zeros((0, 2))}, ValueError, r"`weight` has no classes: shape \(0, 2\)"),
        ({"weight": np.zeros((4, 2), np.float32)}, TypeError, r"`weight` must have the dtype of `hidden`, float64"),
        ({"weight": np.zeros((4, 2), int)}, TypeError, r"`weight` must be floating"),
        ({"bias": np.zeros(3)}, ValueError, r"`bias` must have one entry a class, shape \(4,\), but has shape \(3,\)"),
        ({"hidden": np.zeros(())}, ValueError, r"`hidden` must be \(..., D\)"),
        ({"class_weight": np.ones(3)}, ValueError, r"`class_weight` must have one weight a class, shape \(4,\)"),
        ({"sample_weight": np.ones(4)}, ValueError, r"`sample_weight` must have one weight a row, shape \(3,\)"),
        ({"workspace": -1}, ValueError, r"`workspace` must not be negative, but is -1"),
        ({"workspace": 1.5}, TypeError, r"`workspace` must be an integer, but is 1.5"),
        ({"shift": -1}, ValueError, r"`shift` must not be negative, but is -1"),
        ({"shift": True}, TypeError, r"`shift` must be an integer, but is True"),
        ({"hidden": np.zeros(2), "targets": 0, "shift": 1}, ValueError, r"`shift` moves .*, but `hidden` is one row"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "function", [kosa.linear_cross_entropy, kosa.linear_cross_entropy_with_grad, kosa.linear_row_statistics]
)
def test_wrong_arguments_are_named(function, change, error, text):
    given = {"targets": [0, 1, 2], "hidden": np.zeros((3, 2)), "weight": np.zeros((4, 2))} | change
    with pytest.raises(error, match=text):
        function(**given)


def test_rows_that_shift_leaves_without_a_distribution_have_no_loss_and_no_score():
    rng = np.random.default_rng(0)
    hidden, weight = rng.normal(size=(2, 3, 4)), rng.normal(size=(5, 4))
    targets = rng.dirichlet(np.ones(5), size=(2, 3))
    for sample_weight in (None, rng.random((2, 3))):
        stats = kosa.linear_row_statistics(targets, hidden, weight, shift=1, sample_weight=sample_weight)
        for figure in (stats.loss, stats.brier, stats.target_entropy):
            assert (figure[:, -1] == 0).all()
            assert (figure[:, :-1] > 0).all()
        np.testing.assert_allclose(stats.lse, np.log(np.exp(hidden @ weight.T).sum(-1)), rtol=1e-12)


@pytest.mark.parametrize("shape", [(70, 130), (64, 1), (1, 64), (65, 3), (16400, 130), (0, 3), (3, 0)])
def test_sums_of_products_are_rounded_once_and_transposed(shape):
    """Shapes within, beside and beyond a tile of 64, and of more than one chunk."""
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16) for _ in range(3)]
    total, out = np.full(shape, np.nan, np.float32), np.full(shape[::-1], 7, np.uint16)
    for i, part in enumerate(parts):
        accumulate.accumulate(part.view(np.uint16).reshape(-1), total.reshape(-1), i == 0)
    a, b, c = (part.astype(np.float32) for part in parts)
    assert np.array_equal(total, a + b + c)
    accumulate.transpose(total, out)
    assert np.array_equal(out, (a + b + c).T.astype(ml_dtypes.bfloat16).view(np.uint16))
    accumulate.transpose(parts[0].view(np.uint16), out)
    assert np.array_equal(out, parts[0].T.view(np.uint16))
