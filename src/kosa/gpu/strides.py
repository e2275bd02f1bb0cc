"""Tensors of any layout as kernels walk them: rows in C order, as o·outer + i·inside, and classes `step` apart."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


def plain(tensor: Tensor) -> Tensor:
    """The numbers as kernels find them in memory: signs and zeros PyTorch may only remember."""
    tensor = tensor.detach().resolve_neg()
    return tensor.clone() if tensor._is_zerotensor() else tensor


class Steps(NamedTuple):
    """Where row n = o·inner + i and class k of a tensor lie: at o·outer + i·inside + k·step, in elements."""

    outer: int
    inside: int
    step: int


def walk(tensors: Sequence[Tensor], axis: int) -> tuple[list[Tensor], list[Steps], int]:
    """Return tensors of one shape with their steps, and the `inner` they share; copies where two steps do not do."""
    found = _steps(tensors, axis)
    if found is None:
        tensors = [tensor.contiguous() for tensor in tensors]
        found = _steps(tensors, axis)
        assert found is not None  # contiguous tensors have rows before the class axis and rows after it
    return list(tensors), *found


def _steps(tensors: Sequence[Tensor], axis: int) -> tuple[list[Steps], int] | None:
    """Merge the axes of the rows that lie behind one another in every tensor; None if more than two are left."""
    shape = tensors[0].shape
    if math.prod(shape) == 0:
        return [Steps(0, 0, tensor.stride(axis)) for tensor in tensors], 1
    if math.prod(shape) == shape[axis]:
        # A row alone is walked as the same row among others is: what the compiler knows of a step decides which thread
        # sums which classes, and so a row's bits.
        return [Steps(_of_one_row(tensor, axis), 0, tensor.stride(axis)) for tensor in tensors], 1
    sizes: list[int] = []
    strides: list[list[int]] = []
    for d in range(len(shape)):
        if d == axis or shape[d] == 1:
            continue
        own = [tensor.stride(d) for tensor in tensors]
        if sizes and all(before == step * shape[d] for before, step in zip(strides[-1], own, strict=True)):
            sizes[-1] *= shape[d]
            strides[-1] = own
        else:
            sizes.append(shape[d])
            strides.append(own)
    if len(sizes) > 2:
        return None
    if len(sizes) == 1 and axis and math.prod(shape[:axis]) == 1:  # one image alone, as one among others
        sizes, strides = [1, *sizes], [[tensor.stride(axis - 1) for tensor in tensors], *strides]
    outer = strides[0] if sizes else [0] * len(tensors)
    inside = strides[1] if len(sizes) == 2 else [0] * len(tensors)
    inner = sizes[1] if len(sizes) == 2 else 1
    steps = zip(outer, inside, (tensor.stride(axis) for tensor in tensors), strict=True)
    return [Steps(*three) for three in steps], inner


def _of_one_row(tensor: Tensor, axis: int) -> int:
    """Where another row would begin, if there were one."""
    if axis:
        return tensor.stride(axis - 1)
    return tensor.stride(-1) if tensor.dim() > 1 else tensor.shape[0] * tensor.stride(0)
