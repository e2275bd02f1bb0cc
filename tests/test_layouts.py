"""Arrays of every layout give the numbers of the same values laid out plainly; inputs are left as they are."""

import numpy as np
import pytest
from oracle import DTYPES, check_grad, draw, layouts, same_bits

import kosa

NAMES = [
    "C", "Fortran", "sliced", "backwards", "backwards along classes", "backwards along rows", "every other class",
    "transposed", "axes swapped", "read-only", "unaligned", "memory-mapped", "byte-swapped", "byte-swapped Fortran",
]  # fmt: skip
SHAPES = [
    ((19, 7), -1),
    ((19, 70), 1),
    ((7, 19), 0),
    ((70, 5), 0),
    ((3, 9, 4, 5), 1),
    ((2, 66, 3, 4), 1),
    ((3, 4, 70), 1),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_predictions_of_any_layout(name, shape, axis, kind, tmp_path):
    targets, plain = draw(np.random.default_rng(0), kind, "float32", None, shape, axis, 3.0)
    array = layouts(plain, tmp_path)[name]
    before = array.copy()
    check_grad(targets, kind, array, (targets, plain), axis=axis)
    check_grad(targets, kind, array, (targets, plain), axis=axis, reduction="none", label_smoothing=0.1)
    same_bits(array, before)
    assert array.flags.writeable == (name != "read-only")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
def test_soft_targets_of_any_layout(name, shape, axis, tmp_path):
    plain, z = draw(np.random.default_rng(0), "logits", "float32", "float32", shape, axis, 3.0)
    array = layouts(plain, tmp_path)[name]
    before = array.copy()
    check_grad(array, "logits", z, (plain, z), axis=axis, reduction="none")
    check_grad(array, "logits", np.asfortranarray(z), (plain, z), axis=axis)
    same_bits(array, before)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("byte")])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_formats_of_any_layout(name, dtype, tmp_path):
    for shape, axis in (((19, 7), -1), ((5, 70), 1), ((2, 66, 3, 4), 1)):
        targets, plain = draw(np.random.default_rng(0), "logits", dtype, None, shape, axis, 3.0)
        check_grad(targets, "logits", layouts(plain, tmp_path)[name], (targets, plain), axis=axis)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("shape", [(19, 7), (19, 70)])
def test_other_formats_of_foreign_bytes(dtype, shape, tmp_path):
    targets, plain = draw(np.random.default_rng(0), "logits", dtype, None, shape, -1, 3.0)
    array = layouts(plain, tmp_path)["byte-swapped"]
    check_grad(targets, "logits", array, (targets, plain))
    assert kosa.cross_entropy_with_grad(targets, logits=array).grad.dtype == array.dtype


@pytest.mark.parametrize("name", [*NAMES[:9], "unaligned", "memory-mapped", "byte-swapped"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("kind", ["logits", "log_probs"])
def test_a_gradient_goes_where_it_is_told(name, shape, axis, kind, tmp_path):
    targets, plain = draw(np.random.default_rng(0), kind, "float32", None, shape, axis, 3.0)
    out = layouts(np.full(shape, 7, np.float32), tmp_path)[name]
    around = out.base.copy() if name in ("sliced", "every other class") else None
    predictions = plain.astype(out.dtype)
    check_grad(targets, kind, predictions, (targets, plain), out=out, axis=axis)
    if around is not None:  # what lies between the elements of `out` is nobody's business
        out[...] = 7
        same_bits(out.base, around)


@pytest.mark.parametrize(
    "name", [*NAMES[:9], "unaligned", "memory-mapped", "byte-swapped", "byte-swapped Fortran"]
)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("options", [{}, {"softcap": 4.0, "label_smoothing": 0.1, "z_loss": 0.1}])
def test_a_gradient_may_replace_the_logits(name, shape, axis, options, tmp_path):
    targets, plain = draw(np.random.default_rng(0), "logits", "float32", None, shape, axis, 3.0)
    logits = layouts(plain, tmp_path)[name]
    fresh = kosa.cross_entropy_with_grad(targets, logits=logits, axis=axis, **options)
    loss, grad = kosa.cross_entropy_with_grad(targets, logits=logits, axis=axis, out=logits, **options)
    assert grad is logits
    same_bits(loss, fresh.loss)
    same_bits(np.array(grad), np.array(fresh.grad))


@pytest.mark.parametrize("kind", ["probs", "log_probs"])
@pytest.mark.parametrize("shape", [(9, 3), (3, 5000)])
@pytest.mark.parametrize("soft", [None, "float32"])
def test_a_gradient_may_replace_probabilities(kind, shape, soft):
    targets, y = draw(np.random.default_rng(0), kind, "float32", soft, shape, -1, 3.0)
    fresh = kosa.cross_entropy_with_grad(targets, **{kind: y})
    loss, grad = kosa.cross_entropy_with_grad(targets, **{kind: y}, out=y)
    assert grad is y
    same_bits(loss, fresh.loss)
    same_bits(grad, fresh.grad)


@pytest.mark.parametrize("classes", [5, 70])
def test_arrays_whose_rows_are_one_row(classes):
    rng = np.random.default_rng(0)
    targets, z = draw(rng, "logits", "float32", None, (1, classes), -1, 3.0)
    many = np.broadcast_to(z, (21, classes))
    indices = rng.integers(0, classes, 21)
    check_grad(indices, "logits", many, (indices, many.copy()))
    check_grad(np.broadcast_to(targets, 21), "logits", many, (np.repeat(targets, 21), many.copy()))
    soft = np.broadcast_to(np.full(classes, 1 / classes, np.float32), (21, classes))
    check_grad(soft, "logits", many, (soft.copy(), many.copy()))
    constant = np.broadcast_to(np.float32(2), (21, classes))
    check_grad(indices, "logits", constant, (indices, constant.copy()))


@pytest.mark.parametrize("step", [2, 3, -1, -2])
@pytest.mark.parametrize("targets", ["int64", "int32", "uint8"])
def test_strided_class_indices(step, targets):
    indices, z = draw(np.random.default_rng(0), "logits", "float32", None, (300, 5), -1, 3.0)
    indices = indices.astype(targets)
    picked, rows = indices[::step], np.ascontiguousarray(z[::step])
    check_grad(picked, "logits", rows, (picked.copy(), rows))
    grid = np.asfortranarray(indices.reshape(30, 10))
    check_grad(grid, "logits", z.reshape(30, 10, 5), (np.ascontiguousarray(grid), z.reshape(30, 10, 5)))


@pytest.mark.parametrize("weight", ["float32", "float16", "int64", "bool", "bfloat16", ">f8"])
def test_weights_of_any_format_and_layout(weight):
    rng = np.random.default_rng(0)
    targets, z = draw(rng, "logits", "float32", None, (3, 4, 6), -1, 3.0)
    dtype = DTYPES.get(weight, np.dtype(weight) if weight != "bfloat16" else None)
    rows, classes = (rng.integers(0, 4, n).astype(dtype) for n in ((4, 3), 12))
    options = {"sample_weight": rows.T, "class_weight": classes[::-2]}
    plain = {name: np.ascontiguousarray(w).astype(np.float64) for name, w in options.items()}
    same_bits(
        kosa.cross_entropy_with_grad(targets, logits=z, **options).grad,
        kosa.cross_entropy_with_grad(targets, logits=z, **plain).grad,
    )
    check_grad(targets, "logits", z, **plain)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -3, -4, np.int64(1)])
@pytest.mark.parametrize("soft", [None, "float32"])
def test_classes_along_any_axis(axis, soft):
    targets, z = draw(np.random.default_rng(0), "logits", "float32", soft, (4, 3, 5, 6), int(axis) % 4, 3.0)
    check_grad(targets, "logits", z, axis=axis)
    last = np.moveaxis(z, axis, -1)
    moved = targets if soft is None else np.moveaxis(targets, axis, -1)
    check_grad(moved, "logits", last, (moved, np.ascontiguousarray(last)))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1), (0, 2, 3, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_axes_stored_in_any_order(order, axis):
    shape = [3, 4, 5, 6]
    shape[axis] = 67  # beyond what goes side by side by itself
    stored = np.random.default_rng(0).normal(size=[shape[d] for d in order]).astype(np.float32)
    z = stored.transpose(np.argsort(order))
    targets = np.random.default_rng(1).integers(0, 67, [n for d, n in enumerate(shape) if d != axis])
    check_grad(targets, "logits", z, (targets, np.ascontiguousarray(z)), axis=axis)
    check_grad(targets, "logits", z, (targets, np.ascontiguousarray(z)), out=np.empty_like(z), axis=axis)


def test_axes_of_length_one_anywhere():
    for shape, axis in (
        ((1, 5, 1, 1), 1),
        ((1, 1, 70), 2),
        ((3, 1, 70), 2),
        ((3, 70, 1), 1),
        ((1, 1), 0),
        ((5, 1), 0),
    ):
        targets, z = draw(np.random.default_rng(0), "logits", "float32", None, shape, axis, 3.0)
        check_grad(targets, "logits", z, axis=axis)
        check_grad(targets, "logits", np.asfortranarray(z), (targets, z), axis=axis)


def test_fields_of_records_are_arrays():
    records = np.zeros(
        (40, 6), np.dtype([("z", np.float32), ("id", np.int16)])
    )  # 6 bytes a step: no whole number
    targets, z = draw(np.random.default_rng(0), "logits", "float32", None, (40, 6), -1, 3.0)
    records["z"] = z
    check_grad(targets, "logits", records["z"], (targets, z))
    out = records["z"]
    grad = kosa.cross_entropy_with_grad(targets, logits=z).grad
    kosa.cross_entropy_with_grad(targets, logits=out, out=out)
    same_bits(np.ascontiguousarray(records["z"]), grad)
    assert (records["id"] == 0).all()


def test_irregular_arrays_larger_than_a_piece_of_the_copy():
    # Over 2²⁰ elements whose rows lie on no grid of two steps are copied piece by piece.
    whole = np.random.default_rng(0).normal(size=(26, 43, 27, 40)).astype(np.float32)
    z = whole[:25, 1:, 1:26, :39]
    targets = np.random.default_rng(1).integers(0, 39, z.shape[:-1])
    out = whole.copy()[:25, 1:, 1:26, :39]
    plain = kosa.cross_entropy_with_grad(targets, logits=z.copy(), reduction="none")
    loss, grad = kosa.cross_entropy_with_grad(targets, logits=z, reduction="none", out=out)
    same_bits(loss, plain.loss)
    same_bits(grad, plain.grad)
    swapped = z.astype(">f4")
    same_bits(kosa.cross_entropy(targets, logits=swapped, reduction="none"), plain.loss)
    along_classes = np.moveaxis(whole, -1, 0)[:39, :25, 1:, 1:26]
    same_bits(kosa.cross_entropy(targets, logits=along_classes, axis=0, reduction="none"), plain.loss)


@pytest.mark.parametrize("function", [kosa.cross_entropy_with_grad, kosa.binary_cross_entropy_with_grad])
def test_no_input_is_written_to(function):
    rng = np.random.default_rng(0)
    shape = (30, 5)
    z = rng.normal(size=shape).astype(np.float32)
    t = rng.random(shape).astype(np.float32)
    weight = rng.random(30 if function is kosa.cross_entropy_with_grad else shape)
    copies = z.copy(), t.copy(), weight.copy()
    function(t, logits=z, sample_weight=weight, label_smoothing=0.1)
    for array, copy in zip((z, t, weight), copies, strict=True):
        same_bits(array, copy)
        assert array.flags.writeable


def test_subclasses_of_arrays_give_plain_arrays():
    z = np.random.default_rng(0).normal(size=(3, 4))
    tagged = np.array([0, 1, 2]).view(Tagged)
    loss, grad = kosa.cross_entropy_with_grad(tagged, logits=z.view(Tagged), reduction="none")
    assert type(loss) is type(grad) is np.ndarray
    same_bits(grad, kosa.cross_entropy_with_grad([0, 1, 2], logits=z, reduction="none").grad)


class Tagged(np.ndarray):
    """An array of some other library."""


def test_bfloat16_of_foreign_bytes():
    targets, plain = draw(np.random.default_rng(0), "logits", "bfloat16", None, (9, 7), -1, 3.0)
    foreign = plain.dtype.newbyteorder("S")
    swapped = plain.view(np.uint16).byteswap().view(foreign)
    same_bits(swapped.astype(plain.dtype), plain)  # that is how such arrays are read
    check_grad(targets, "logits", swapped, (targets, plain))
