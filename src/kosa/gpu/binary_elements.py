"""Binary cross-entropy: every element is a row of its own, in float64 as on the CPU.

E = w·[w₊·t·(−log p) + (1 − t)·(−log(1 − p))]; from a logit −log p = softplus(−z), −log(1 − p) = softplus(z),
softplus(z) = max(z, 0) + log1p(exp(−|z|)). A term whose factor is 0 is 0; NaN gives NaN, and so does an infinite
"probability"; a logit of ±inf is p = 1 or 0 exactly. An integer target that is neither 0 nor 1 nor ignored gives NaN.

float64 costs an element two dozen operations and a division or two, about what a card with fast float64 computes while it
reads 4 bytes and writes 12; p − t of soft targets would cancel in float32.
"""

import triton
import triton.language as tl

from kosa.gpu.elementary import narrow, widen
from kosa.gpu.float64 import log1p64


@triton.jit
def product(factor, x):
    """factor·x, 0 where the factor is."""
    return tl.where(factor == 0.0, 0.0, factor * x)


@triton.jit
def entry(n, period):
    """n % period, or n: a remainder of 64 bits takes as long as all else in an element does."""
    if period is None:
        return n
    else:
        return n % period


@triton.jit
def binary_elements(
    x, targets,  # (N,) any float format; (N,) any float format or integers
    pos_weight, row_weight,  # any float format, or None; element n has entry n % period; None: entry n
    scale_at,  # float64, one number that `scale` is multiplied by, or None
    losses, out,  # (N,) float64 or None; (N,) or None: the gradient of scale·Σ losses
    size, ignore, pos_period, row_period,
    t_scale: tl.float64, t_shift: tl.float64, scale: tl.float64,
    LOGITS: tl.constexpr, INTEGERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Losses, gradients, or both, of BLOCK elements."""
    n = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = n < size
    z = widen(tl.load(x + n, mask=here, other=0.5), tl.float64)
    given = tl.load(targets + n, mask=here, other=0)
    counts, wrong = here, n < 0
    if INTEGERS:
        whole = given.to(tl.int64)
        counts = here & (whole != ignore)
        wrong = (whole != 0) & (whole != 1)
        t = whole.to(tl.float64) * t_scale + t_shift
    else:
        t = widen(given, tl.float64) * t_scale + t_shift
    plus, minus = t, 1.0 - t
    if pos_weight is not None:
        plus *= widen(tl.load(pos_weight + entry(n, pos_period), mask=here, other=0.0), tl.float64)
    weight = tl.full([BLOCK], 1.0, tl.float64)
    if row_weight is not None:
        weight = widen(tl.load(row_weight + entry(n, row_period), mask=here, other=0.0), tl.float64)
        counts = counts & (weight != 0.0)

    if LOGITS:
        e = tl.exp(-tl.abs(z))
        u = log1p64(e)
        loss = product(plus, tl.where(z < 0.0, -z, 0.0) + u) + product(minus, tl.where(z > 0.0, z, 0.0) + u)
        over = 1.0 / (1.0 + e)
        slope = minus * (tl.where(z > 0.0, 1.0, e) * over) - plus * (tl.where(z > 0.0, e, 1.0) * over)
        loss = tl.where(z == z, loss, z)
    else:
        loss = product(plus, -tl.log(z)) + product(minus, -log1p64(-z))
        slope = product(plus, -1.0 / z) + product(minus, 1.0 / (1.0 - z))
        loss = tl.where(tl.abs(z) < float("inf"), loss, float("nan"))
    loss = tl.where(wrong, float("nan"), loss)
    if losses is not None:
        tl.store(losses + n, tl.where(counts, weight * loss, 0.0), mask=here)
    if out is not None:
        slope = tl.where(loss == loss, slope, loss)
        if scale_at is not None:
            scale = scale * tl.load(scale_at)
        slope = tl.where(counts, scale * weight * slope, 0.0)
        tl.store(out + n, narrow(slope, out.dtype.element_ty), mask=here)
