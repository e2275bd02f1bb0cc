"""Strided arrays as kernels see them: a flat span of memory and four numbers."""

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Strided(NamedTuple):
    """Element (row, class) is at flat[start + (row // inner)·outer + (row % inner)·inside + class·step]."""

    flat: Array
    steps: tuple[int, int, int, int]  # start, outer_step, inner_step, class_step


def bits(array: Array) -> Array:
    """Return 16-bit floats as the integers whose type tells kernels the format; others as they are."""
    if array.dtype.itemsize != 2:
        return array
    return array.view(np.int16 if array.dtype.kind == "f" else np.uint16)


def is_native(array: Array) -> bool:
    """Whether kernels can read the memory of this array as it lies."""
    return array.dtype.isnative and array.flags.aligned


def strided(axis: int, *arrays: Array) -> tuple[int, list[Strided]] | None:
    """Return (inner, one Strided an array) for arrays of one shape whose classes lie along `axis`.

    None where the rows of some array do not lie on a grid of two steps; such arrays must be copied.
    """
    shape = arrays[0].shape
    if axis == len(shape) - 1:
        steps_in_order = (0, shape[-1], 0, 1)
        spans = [Strided(a.reshape(-1), steps_in_order) for a in arrays if a.flags.c_contiguous]
        if len(spans) == len(arrays):
            return 1, spans
    sizes = [n for d, n in enumerate(shape) if d != axis]
    steps = [[_step(a, d) for d in range(a.ndim) if d != axis] for a in arrays]
    if any(s is None for each in steps for s in each) or any(_step(a, axis) is None for a in arrays):
        return None
    # Merge neighbouring axes wherever every array can walk them as one.
    merged: list[tuple[int, list[Any]]] = []
    for d, n in enumerate(sizes):
        here = [each[d] for each in steps]
        if n == 1 and len(sizes) > 1:
            continue
        if merged and all(outer == inner * n for outer, inner in zip(merged[-1][1], here, strict=True)):
            merged[-1] = (merged[-1][0] * n, here)
        else:
            merged.append((n, here))
    if len(merged) > 2:
        return None
    none = (1, [0] * len(arrays))
    (_, outer), (inner, inside) = merged if len(merged) == 2 else (*merged, none) if merged else (none, none)
    return inner, [_span(a, outer[i], inside[i], _step(a, axis) or 0) for i, a in enumerate(arrays)]


def _step(array: Array, d: int) -> int | None:
    """The stride along axis d in elements; None if it is no whole number of them."""
    step, rest = divmod(array.strides[d], array.itemsize)
    return None if rest else step


def _span(array: Array, outer: int, inner: int, step: int) -> Strided:
    lowest = array[tuple(slice(None, None, -1) if s < 0 else slice(None) for s in array.strides)]
    start = (
        sum((n - 1) * -s for n, s in zip(array.shape, array.strides, strict=True) if s < 0 and n)
        // array.itemsize
    )
    length = (
        1 + sum((n - 1) * abs(s) for n, s in zip(array.shape, array.strides, strict=True)) // array.itemsize
    )
    if array.size == 0:
        length = 0
    flat = np.lib.stride_tricks.as_strided(
        lowest, (length,), (array.itemsize,), writeable=array.flags.writeable
    )
    return Strided(flat, (start, outer, inner, step))
