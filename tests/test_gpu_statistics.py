"""The Triton kernel of `row_statistics`: every figure against the definition, and the rules of what rows hold."""

import numpy as np
import pytest
import torch
from gpu_engine import array_of, tensor_of
from hypothesis import given, settings
from oracle import check_statistics, draw, same_bits
from strategies import calls

from kosa.gpu import statistics
from kosa.gpu.strides import walk
from kosa.loss import Options

pytestmark = pytest.mark.gpu
NAN, INF = np.nan, np.inf
# A program takes 512 classes at a time, and as many rows of fewer classes as make 512.
CLASSES = [1, 2, 10, 16, 17, 511, 513]


def figures_of(
    device, targets, kind, predictions, *, class_weight=None, sample_weight=None, axis=-1, **options
):
    """The figures of tensors, as arrays of the rows' shape; what is not to be filled holds −7."""
    x = predictions if isinstance(predictions, torch.Tensor) else tensor_of(predictions, device)
    t = targets if targets is None or isinstance(targets, torch.Tensor) else tensor_of(targets, device)
    axis %= x.dim()
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    figures = [
        torch.full(
            (shape.numel(),), -7, dtype=torch.int64 if name == "argmax" else torch.float64, device=device
        )
        for name in ("loss", "lse", "argmax", "confidence", "entropy", "brier", "target_entropy")
    ]
    if targets is None:
        figures[0] = figures[5] = figures[6] = None
    weights = (None if w is None else tensor_of(np.asarray(w), device) for w in (class_weight, sample_weight))
    statistics.run(x, t, *weights, Options(kind, axis, **options), figures)
    return [None if f is None else array_of(f).reshape(shape) for f in figures]


def check(device, targets, kind, predictions, **options):
    got = figures_of(device, targets, kind, predictions, **options)
    check_statistics(got, targets, kind, predictions, **options)
    return got


@given(call=calls(elements=3000))
@settings(max_examples=60)
def test_any_combination_of_options_agrees_with_the_definition(device, call):
    targets, kind, predictions, options = call
    if targets.dtype.byteorder == ">":
        targets = targets.astype(targets.dtype.newbyteorder("="))
    for name in ("reduction", "denominator", "empty"):
        options.pop(name, None)
    check(device, targets, kind, predictions, **options)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_every_figure_of_every_length_agrees_with_the_definition(device, classes, kind):
    for spread, pair in (
        (0.01, ("float32", None)),
        (20.0, ("bfloat16", None)),
        (2.0, ("float32", "float32")),
    ):
        targets, x = draw(np.random.default_rng(classes), kind, *pair, (5, classes), -1, spread)
        check(device, targets, kind, x)
    check(device, None, kind, x)


def test_a_row_of_many_classes_is_taken_in_longer_steps(device):
    targets, x = draw(np.random.default_rng(0), "logits", "float16", None, (2, 16385), -1, 3.0)
    check(device, targets, "logits", x)
    assert statistics.blocks(16384, True) != statistics.blocks(16385, True)


@pytest.mark.parametrize("gap", [5.0, 40.0, 300.0])
def test_confident_rows_keep_their_digits(device, gap):
    z = np.zeros((10, 10))
    np.fill_diagonal(z, gap)
    check(device, np.roll(np.arange(10), 1), "logits", z)
    rest = 9 * np.exp(-gap)
    for targets in (np.arange(10), np.eye(10)):
        got = check(device, targets, "logits", z)
        np.testing.assert_allclose(got[5], (rest / (1 + rest)) ** 2 * (1 + 1 / 9), rtol=1e-12)


@pytest.mark.parametrize("classes", [3, 64, 1300])
def test_ties_name_the_first_class(device, classes):
    z = np.zeros((3, classes))
    z[1, [1, -1]] = 2.0
    z[2, -2:] = 2.0
    assert check(device, np.array([1, 1, 1]), "logits", z)[2].tolist() == [0, 1, classes - 2]
    assert check(device, None, "log_probs", z - 9)[2].tolist() == [0, 1, classes - 2]
    assert check(device, None, "probs", np.exp(z - 9))[2].tolist() == [0, 1, classes - 2]


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
@pytest.mark.parametrize("classes", [1, 3, 600])
def test_rows_with_nan_or_infinity_are_nan_and_only_they(device, kind, classes):
    targets, x = draw(np.random.default_rng(0), kind, "float32", None, (7, classes), -1, 1.0)
    x[1, 0] = x[2, -1] = x[3, classes // 2] = x[6, -1] = NAN
    x[4, classes // 2] = x[6, 0] = INF
    if classes == 1:
        x[6] = NAN
    got = check(device, targets, kind, x)
    assert got[2][[1, 2, 3, 6]].tolist() == [-1] * 4
    assert got[2][4] == classes // 2
    for figure in (0, 1, 3, 4, 5):
        assert np.isnan(got[figure]).tolist() == [False, True, True, True, True, False, True]
    assert (got[6] == 0).all()


@pytest.mark.parametrize("kind", ["logits", "probs", "log_probs"])
def test_many_infinities_are_not_taken_for_nan(device, kind):
    x = np.zeros((4, 700))
    x[0, [5, 6, 650]] = x[1, [600, 699]] = x[2, [3, 4]] = x[3, [515, 3]] = INF
    x[2, 698] = x[3, 1] = NAN
    assert check(device, np.zeros(4, int), kind, x)[2].tolist() == [5, 600, -1, -1]


@pytest.mark.parametrize("kind", ["logits", "log_probs"])
def test_masked_classes_add_nothing(device, kind):
    targets, x = draw(np.random.default_rng(0), kind, "float64", None, (4, 1100), -1, 1.0)
    x[:, ::2] = -INF
    x[1] = -INF
    x[1, 600] = -2.0
    x[2, :1050] = -INF  # the first steps find nothing
    check(device, targets, kind, x)
    check(device, np.array([0, 1, 600, 1099]), kind, x, class_weight=np.arange(1100.0))
    soft = np.zeros(x.shape)
    soft[np.arange(4), [1, 600, 1099, 0]] = 1.0
    check(device, soft, kind, x)
    check(device, soft, kind, x, label_smoothing=0.1)


def test_logits_that_are_all_masked_are_nan_and_log_probabilities_are_not(device):
    x = np.full((2, 4), -INF)
    got = figures_of(device, np.array([0, -100]), "logits", x)
    assert np.isnan([got[f][0] for f in (0, 1, 3, 4, 5)]).all()
    assert got[2].tolist() == [0, 0]
    assert got[0][1] == got[5][1] == 0
    check(device, np.array([0, -100]), "log_probs", x)


@pytest.mark.parametrize("shift", [-2000.0, -709.0, 0.0, 5.0])
def test_the_log_sum_of_log_probabilities_of_any_size(device, shift):
    x = np.random.default_rng(0).normal(size=(3, 70)) + shift
    check(device, None, "log_probs", x)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits_do_not_overflow(device, size):
    z = np.array([[size, -size, 0.0], [size, size, -size], [-size, -size, -size]])
    check(device, np.array([0, 1, 2]), "logits", z)
    check(device, np.array([1, 2, 0]), "logits", z)
    check(device, np.full((3, 3), 1 / 3), "logits", z)


def test_an_index_out_of_range_makes_its_row_nan_and_reads_nothing(device):
    z = np.random.default_rng(0).normal(size=(5, 3))
    index = np.array([0, 3, -1, 2**40, -100])
    weight = np.array([1.0, 1.0, 0.0])
    loss, lse, _, _, _, brier, _ = figures_of(device, index, "logits", z, class_weight=weight)
    assert np.isnan(loss).tolist() == np.isnan(brier).tolist() == [False, True, True, True, False]
    assert np.isfinite(lse).all()
    assert loss[4] == brier[4] == 0


def test_rows_that_do_not_count_have_no_loss_whatever_they_hold(device):
    z = np.random.default_rng(0).normal(size=(4, 3))
    z[[1, 3]] = NAN
    got = check(device, np.array([0, -100, 1, 2]), "logits", z, sample_weight=np.array([1.0, 1.0, 0.0, 0.0]))
    assert got[0][1:].tolist() == [0, 0, 0]
    assert got[5][1] == 0
    got = check(device, np.array([0, 1, 1, 2]), "logits", z, class_weight=np.array([1.0, 0.0, 2.0]))
    assert got[0][1:3].tolist() == [0, 0]  # a class of weight 0
    assert np.isnan(got[0][3])


def layouts_of(x):
    """The same values, walked in every way: two steps of rows, one, a copy, backwards, classes apart."""
    padded = torch.full([n + 3 for n in x.shape], 7.0, dtype=x.dtype, device=x.device)
    inner = padded[tuple(slice(1, n + 1) for n in x.shape)]
    inner.copy_(x)
    yield inner
    for order in ((0, 1, 2, 3), (3, 0, 1, 2), (2, 3, 1, 0), (1, 2, 0, 3)):
        back = [order.index(d) for d in range(4)]
        yield x.permute(order).contiguous().permute(back)


@pytest.mark.parametrize("axis", [0, 1, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_any_layout_gives_the_figures_of_the_plain_one(device, axis, soft):
    dtype = "float32" if soft else None
    targets, x = draw(np.random.default_rng(0), "logits", "float32", dtype, (3, 4, 5, 6), axis, 2.0)
    t, plain = tensor_of(targets, device), tensor_of(x, device)
    for moved in layouts_of(plain):
        own = next(layouts_of(t)) if soft else t
        got = figures_of(device, own, "logits", moved, axis=axis)
        check_statistics(got, targets, "logits", x, axis=axis)


def test_axes_that_lie_behind_one_another_are_walked_as_one_and_nothing_is_copied():
    x = torch.zeros(3, 4, 5, 6)
    for axis, inner, steps in ((3, 1, (6, 0, 1)), (1, 30, (120, 1, 30)), (0, 1, (1, 0, 120))):
        (same,), (own,), found = walk([x], axis)
        assert same is x
        assert (found, tuple(own)) == (inner, steps)
    for layout in layouts_of(torch.arange(360.0).reshape(3, 4, 5, 6)):
        for axis in range(4):
            (tensor,), ((outer, inside, step),), inner = walk([layout], axis)
            rows = layout.movedim(axis, -1).reshape(-1, layout.shape[axis])
            for n in (0, 1, 7, len(rows) - 1):
                at = tensor.storage_offset() + n // inner * outer + n % inner * inside
                flat = torch.as_strided(tensor, (layout.shape[axis],), (step,), at)
                assert torch.equal(flat, rows[n])


@pytest.mark.parametrize("strides", [(2**30, 1), (1, 2**30)])
def test_places_beyond_32_bits_are_reached(device, strides):
    # 4 GiB of which a few pages are ever touched.
    far = torch.from_numpy(np.empty(2**31 + 4096, np.float16)) if device == "cpu" else None
    far = torch.empty(2**31 + 4096, dtype=torch.float16, device=device) if far is None else far
    shape = (3, 600) if strides[0] > 1 else (600, 3)
    targets, x = draw(np.random.default_rng(0), "logits", "float16", None, shape, -1, 3.0)
    z = torch.as_strided(far, shape, strides)
    z.copy_(tensor_of(x, device))
    check_statistics(figures_of(device, targets, "logits", z), targets, "logits", x)


def test_a_row_has_the_same_bits_in_any_batch_and_place(device):
    targets, x = draw(np.random.default_rng(0), "logits", "float32", "float32", (70, 21), -1, 3.0)
    whole = figures_of(device, targets, "logits", x, temperature=1.5)
    for rows in (slice(0, 1), slice(3, 40), slice(69, 70)):
        for figure, part in zip(
            whole, figures_of(device, targets[rows], "logits", x[rows], temperature=1.5), strict=True
        ):
            same_bits(part, figure[rows])


def test_no_rows_and_figures_that_are_not_wanted(device):
    assert [f.size for f in figures_of(device, np.empty(0, np.int64), "logits", np.empty((0, 3)))] == [0] * 7
    x = tensor_of(np.array([[0.2, 0.8]]), device)
    lse, argmax, confidence = (
        torch.zeros(1, dtype=d, device=device) for d in (torch.float64, torch.int64, torch.float64)
    )
    statistics.run(
        x, None, None, None, Options("probs", 1), (None, lse, argmax, confidence, None, None, None)
    )
    assert (float(lse), int(argmax), float(confidence)) == (0.0, 1, 0.8)


@pytest.mark.parametrize(
    ("function", "exact", "where", "ulps"),
    [
        (
            "log1p64",
            np.log1p,
            np.logspace(-300, 300, 4000),
            3,
        ),
        ("expm1_64", np.expm1, np.concatenate([s * np.logspace(-300, 2.8, 4000) for s in (1, -1)]), 4),
        ("tanh64", np.tanh, np.concatenate([s * np.logspace(-300, 2, 4000) for s in (1, -1)]), 6),
    ],
)
def test_functions_keep_their_stated_errors(device, function, exact, where, ulps):
    from gpu_kernels import applied

    x = np.concatenate([where, [0.0, -0.0, INF, NAN], [-INF] if function != "log1p64" else []])
    with np.errstate(all="ignore"):
        want = exact(x)
    got = applied(function, x, device)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    assert same[len(where) :].all()
    got, want = got[: len(where)], want[: len(where)]
    assert (np.abs(got - want) <= ulps * np.spacing(np.abs(want))).all()
