"""What comes from a caller, as NumPy arrays that fit together, or an error that says what does not."""

from typing import Any

import numpy as np

from kosa import loss
from kosa.cpu import indices
from kosa.cpu.engine import _NO_FLOATS, Job, side_by_side
from kosa.cpu.layout import Array, is_native
from kosa.loss import Options

_FLOATS = "float16, bfloat16, float32, float64"


def as_array(value: Any, name: str) -> Array:
    """Return a NumPy array: arrays as they are, Python's lists and numbers converted, anything else a TypeError."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"`{name}` is a masked array, whose mask would be lost: fill it, or ignore rows by `ignore_index`"
        )
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if isinstance(value, list | tuple | int | float):
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"`{name}` is no rectangular list: {error}") from None
        if array.dtype == object:
            raise TypeError(f"`{name}` must hold numbers, but is a list of other objects")
        return array
    came = "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(
        f"`{name}` must be a NumPy array, a list or a number, but is a {came}: convert it, for example with numpy.asarray"
    )


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether the kernels know this format. (A dtype's name takes NumPy longer to say than a small kernel runs.)"""
    return (dtype.kind == "f" and dtype.itemsize <= 8) or (dtype.kind == "V" and dtype.name == "bfloat16")


def kind_of(dtype: np.dtype[Any]) -> str:
    """The kind of a dtype: "f" for the formats that kernels know, NumPy's letter for others, "V" for other floats."""
    return "f" if is_float(dtype) else dtype.kind if dtype.kind != "f" else "V"


def native(array: Array) -> Array:
    """Return an array that libraries can read as it lies: copied if its bytes are swapped or its elements unaligned."""
    return array if is_native(array) else np.array(array, array.dtype.newbyteorder("="), order="C")


def is_number(dtype: np.dtype[Any]) -> bool:
    """Whether these are real numbers that convert to float64."""
    return dtype.kind in "iufb" or is_float(dtype)


def floats(value: Any, name: str) -> Array:
    """Return a floating array; a list of integers becomes float64."""
    array = as_array(value, name)
    dtype = array.dtype
    if not is_float(dtype):
        if dtype.kind in "iu" and not isinstance(value, np.ndarray | np.generic):
            return array.astype(np.float64)
        raise TypeError(f"`{name}` must be floating ({_FLOATS}), but is {dtype.name}")
    return array


def weights(value: Any, name: str, shape: tuple[int, ...], meaning: str) -> Array:
    """Return weights as a contiguous float64 vector; empty for None."""
    if value is None:
        return _NO_FLOATS
    if isinstance(value, str | dict):
        raise TypeError(
            f"`{name}` must be an array of shape {shape}, but is {value!r:.40}: compute the weights, for example with "
            "sklearn.utils.class_weight.compute_class_weight"
        )
    array = as_array(value, name)
    if not is_number(array.dtype):
        raise TypeError(f"`{name}` must hold numbers, but is {array.dtype.name}")
    loss.weight_shape(name, array.shape, shape, meaning)
    flat = np.ascontiguousarray(array, np.float64).reshape(-1).view()
    if not flat.flags.aligned:
        flat = flat.copy()
    flat.flags.writeable = False
    return flat


def index_vector(targets: Array, ignore: int, classes: int, name: str = "targets") -> Array:
    """Return class indices as a contiguous int64 vector."""
    if targets.dtype == np.uint64:  # must not wrap round to a class
        bad = (targets >= classes) & (targets != ignore)
        if bad.any():
            at = int(bad.argmax())
            raise indices.out_of_range(at, int(targets.reshape(-1)[at]), ignore, classes, targets.shape, name)
    flat = np.ascontiguousarray(targets, np.int64).reshape(-1).view()
    if not flat.flags.aligned:
        flat = flat.copy()
    flat.flags.writeable = False
    return flat


def job(
    targets: Any,
    predictions: Any,
    class_weight: Any,
    sample_weight: Any,
    options: Options,
    needed: bool = True,
) -> Job:
    """Check targets (None only if not `needed`), predictions and weights against each other."""
    name = options.kind
    x = floats(predictions, name)
    axis = loss.class_axis(options.axis, x.shape, name)
    if targets is None and not needed:
        return Job(x, axis, _NO_FLOATS, True, _NO_FLOATS, _NO_FLOATS, options, side_by_side(x, axis))
    t = as_array(targets, "targets")
    indexed = loss.targets_are_indices(t.shape, t.dtype, kind_of(t.dtype), x.shape, axis, name)
    if indexed:
        t = index_vector(t, options.ignore_index, x.shape[axis])
    rows = x.shape[:axis] + x.shape[axis + 1 :]
    return Job(
        x, axis, t, indexed,
        weights(class_weight, "class_weight", (x.shape[axis],), "class"),
        weights(sample_weight, "sample_weight", rows, "row"),
        options, side_by_side(x, axis),
    )  # fmt: skip


def binary_targets(targets: Any, shape: tuple[int, ...], name: str, ignore_index: int) -> Array:
    """Return targets as floats, or as int8: 0, 1, and −1 for an ignored element."""
    t = as_array(targets, "targets")
    if t.shape != shape:
        raise ValueError(f"`targets` must have the shape of `{name}`, {shape}, but have {t.shape}")
    if t.dtype.kind == "b":
        return t.view(np.int8)
    if t.dtype.kind in "iu":
        ignored = t == ignore_index
        wrong = ~(ignored | (t == 0) | (t == 1))
        if wrong.any():
            bad = np.unravel_index(int(wrong.argmax()), shape)
            where = f" at {bad[0] if len(bad) == 1 else tuple(map(int, bad))}" if bad else ""
            raise ValueError(
                f"`targets` of integers must be 0, 1 or `ignore_index` ({ignore_index}), but the value{where} is {t[bad]}"
            )
        return np.where(ignored, -1, t).astype(np.int8)
    if not is_float(t.dtype):
        raise TypeError(f"`targets` must be bool, integers 0 and 1, or floating, but are {t.dtype.name}")
    return t


def broadcast_weights(value: Any, name: str, shape: tuple[int, ...]) -> Array:
    """Return one weight an element as a float64 vector; empty for None."""
    if value is None:
        return _NO_FLOATS
    array = as_array(value, name)
    if not is_number(array.dtype):
        raise TypeError(f"`{name}` must hold numbers, but is {array.dtype.name}")
    try:
        array = np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"`{name}` must broadcast to the predictions' shape {shape}, but has {array.shape}"
        ) from None
    return weights(array, name, shape, "element")


def check_out(out: Any, predictions: Array, name: str, **others: Any) -> None:
    """Check that a gradient can be written to `out` without destroying what is still to be read."""
    if not isinstance(out, np.ndarray):
        raise TypeError(
            f"`out` must be a NumPy array, but is a {type(out).__module__}.{type(out).__qualname__}"
        )
    if out.dtype != predictions.dtype:
        raise TypeError(f"`out` must have the dtype of `{name}`, {predictions.dtype}, but has {out.dtype}")
    if out.shape != predictions.shape:
        raise ValueError(f"`out` must have the shape of `{name}`, {predictions.shape}, but has {out.shape}")
    if not out.flags.writeable:
        raise ValueError("`out` must be writable, but is read-only")
    same = out.ctypes.data == predictions.ctypes.data and out.strides == predictions.strides
    if not same:
        others = {name: predictions, **others}
    for other, array in others.items():
        if isinstance(array, np.ndarray) and np.may_share_memory(out, array) and np.shares_memory(out, array):
            raise ValueError(
                f"`out` overlaps `{other}`: pass an array of its own, or exactly the array of `{name}`"
            )
    if _overlaps_itself(out):
        raise ValueError("`out` has elements that share memory: pass an array of its own")


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements lie in one place, as in broadcast arrays and sliding windows."""
    if array.flags.c_contiguous or array.size < 2:
        return False
    reach = array.itemsize
    for step, size in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if step < reach:
            return True
        reach = step * size
    return False
