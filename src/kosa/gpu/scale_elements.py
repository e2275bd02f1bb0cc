"""A contiguous tensor times a number that only the device knows."""

import triton
import triton.language as tl

from kosa.gpu.elementary import narrow, widen


@triton.jit
def scale_elements(
    x,  # (n,), any float format
    factor,  # one number
    n,
    W: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """x ← factor·x; nothing is read or written where the factor is 1."""
    by = tl.load(factor).to(W)
    if by != 1.0:
        first = tl.program_id(0).to(tl.int64) * BLOCK * TILES
        for i in range(TILES):
            at = first + i * BLOCK + tl.arange(0, BLOCK)
            value = widen(tl.load(x + at, mask=at < n), W)
            # A row that does not count stays 0 under an infinite factor.
            value = tl.where(value == 0.0, value, value * by)
            tl.store(x + at, narrow(value, x.dtype.element_ty), mask=at < n)
