"""Sums of 16-bit products in float32, and their rounding back, in as few passes over memory as there are products."""

from typing import Any

from kosa.cpu._bits import narrow, prefer_wide_vectors, widen
from kosa.cpu._compile import kernel
from kosa.cpu.layout import Array
from kosa.cpu.threads import for_each_chunk

_CHUNK = 1 << 20  # elements


@kernel
def add_part(part: Any, total: Any, first: bool, last: bool) -> None:  # bits; float32 of the same size
    """total ← part if it is the first, else total + part; if it is the last, part ← that sum instead."""
    prefer_wide_vectors()
    if first:
        for i in range(part.size):
            total[i] = widen(part[i], total)
    elif last:
        for i in range(part.size):
            part[i] = narrow(total[i] + widen(part[i], total), part)
    else:
        for i in range(part.size):
            total[i] += widen(part[i], total)


def accumulate(part: Array, total: Array, first: bool, last: bool) -> None:
    """As `add_part`, over the threads; flat arrays."""

    def work(chunk: int) -> None:
        here = slice(chunk * _CHUNK, (chunk + 1) * _CHUNK)
        add_part(part[here], total[here], first, last)

    for_each_chunk(-(-part.size // _CHUNK), lambda: work)
