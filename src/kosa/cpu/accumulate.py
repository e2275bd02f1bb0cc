"""Sums of 16-bit products in float32, and the sum's transpose in 16 bits."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kosa.cpu._bits import narrow, prefer_wide_vectors, widen
from kosa.cpu._compile import kernel, part
from kosa.cpu.layout import Array
from kosa.cpu.threads import for_each_chunk

_CHUNK = 1 << 20  # elements
_TILE = 64  # rows and columns


@kernel
def add_part(product: Any, total: Any, first: bool) -> None:  # bits; float32 of the same size
    """total ← product if it is the first, else total + product."""
    prefer_wide_vectors()
    if first:
        for i in range(product.size):
            total[i] = widen(product[i], total)
    else:
        for i in range(product.size):
            total[i] += widen(product[i], total)


# The two loops over a tile are functions of their own, on one-dimensional slices: in one function, or on
# two-dimensional slices, LLVM vectorises neither (60 to 80 ms of CPU for 768×32000, instead of 33).
@part
def _read(source: Any, d: int, k: int, rows: int, columns: int, tile: Any, working: Any) -> None:
    for i in range(rows):
        here, there = source[d + i, k : k + columns], tile[i, :columns]
        for j in range(columns):
            there[j] = narrow(widen(here[j], working), tile)


@part
def _write(tile: Any, rows: int, columns: int, out: Any, k: int, d: int) -> None:
    for j in range(columns):
        here, there = tile[:rows, j], out[k + j, d : d + rows]
        for i in range(rows):
            there[i] = here[i]


@kernel
def transpose_columns(source: Any, out: Any, first: int, last: int, tile: Any, working: Any) -> None:
    """out[first:last] ← source[:, first:last]ᵀ, rounded.  source (D, K) float32 or bits; out (K, D), tile bits."""
    prefer_wide_vectors()
    width = tile.shape[0]
    for k in range(first, last, width):
        columns = min(width, last - k)
        for d in range(0, source.shape[0], width):
            rows = min(width, source.shape[0] - d)
            _read(source, d, k, rows, columns, tile, working)
            _write(tile, rows, columns, out, k, d)


def accumulate(product: Array, total: Array, first: bool) -> None:
    """As `add_part`, over the threads; flat arrays."""

    def work(chunk: int) -> None:
        here = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        add_part(product[here], total[here], first)

    for_each_chunk(-(-product.size // _CHUNK), lambda: work)


def transpose(source: Array, out: Array) -> None:
    """As `transpose_columns`, over the threads."""
    classes, width = out.shape
    step = _TILE * max(1, _CHUNK // (_TILE * max(1, width)))
    working = np.empty(0, np.float32)

    def worker() -> Callable[[int], None]:
        tile = np.empty((_TILE, _TILE), out.dtype)

        def work(chunk: int) -> None:
            first = chunk * step
            transpose_columns(source, out, first, min(classes, first + step), tile, working)

        return work

    for_each_chunk(-(-classes // step), worker)
