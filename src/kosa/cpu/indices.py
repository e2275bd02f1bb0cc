"""Class indices: checked before anything is written, and their weight summed for the mean."""

from typing import Any

import numpy as np

from kosa.cpu._compile import kernel
from kosa.cpu.layout import Array


@kernel
def scan_indices(
    index: Any, ignore: int, classes: int, class_weight: Any, row_weight: Any
) -> tuple[int, float]:
    """Return the position of the first index outside 0..K−1 (−1: none), and Σ class_weight·row_weight of the rest."""
    bad = 0
    count = 0
    for n in range(index.size):
        counts = index[n] != ignore
        bad += counts & ((index[n] < 0) | (index[n] >= classes))
        count += counts
    if bad:
        for n in range(index.size):
            if index[n] != ignore and (index[n] < 0 or index[n] >= classes):
                return n, 0.0
    total = float(count)
    if class_weight.size or row_weight.size:
        total = 0.0
        for n in range(index.size):
            if index[n] != ignore:
                w = class_weight[index[n]] if class_weight.size else 1.0
                total += w * row_weight[n] if row_weight.size else w
    return -1, total


def check(
    index: Array,
    ignore: int,
    classes: int,
    class_weight: Array,
    row_weight: Array,
    shape: tuple[int, ...],
    name: str = "targets",
) -> float:
    """Return the weight of the rows that count; IndexError names the first index that is no class."""
    bad, total = scan_indices(index, ignore, classes, class_weight, row_weight)
    if bad >= 0:
        raise out_of_range(bad, int(index[bad]), ignore, classes, shape, name)
    return float(total)


def out_of_range(
    at: int, value: int, ignore: int, classes: int, shape: tuple[int, ...], name: str = "targets"
) -> IndexError:
    """The error for the value at this place, counted in C order."""
    position = at if len(shape) == 1 else tuple(int(i) for i in np.unravel_index(at, shape))
    where = f" at {position}" if shape else ""
    return IndexError(
        f"`{name}` must be class indices in [0, {classes - 1}] or `ignore_index` ({ignore}), "
        f"but the value{where} is {value}"
    )
