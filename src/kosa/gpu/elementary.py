"""Elementary functions in Triton, and the mergeable pair (m, R) of a row of logits.

W is the working type, float32 or float64. Errors are those of float32 on NVIDIA hardware, from the documented error of
its instructions (ex2.approx 2 ulp, division 2 ulp); float64 takes the library's exp and log (1 ulp each).

| function | largest error, float32 | range |
|---|---|---|
| exp(x) | 3 ulp | x ≤ 88; 0 below −87.3; NaN for NaN |
| decay(d, rate) = e^(−rate·|d|) | 2 ulp + 2·|d|·rate·2⁻²⁴, so 7e-6 at 1e-30 | 0 below 1e-38; NaN for NaN |
| log(x) | 2 ulp | x > 0, subnormal too; −inf at 0; NaN below; inf at inf |
| log1p(x) | 3 ulp | x ≥ 0; NaN for NaN |
| capped(z, c) = c·tanh(z/c) | 3 ulp | all z |
| cap_slope(z, c) = 1 − tanh²(z/c) | 8 ulp to |z| = 2c, and 2|z|/c·2⁻²³ beyond | all z |

The pair of a lane (a strand of a row's logits): m its largest logit, R = Σ e^(z − m) over all others. The sum over all is
1 + R, and log1p(R) keeps the digits of a confident row. A lane that has seen nothing but −inf is (LOWEST, −1): R = −1
says that not even the maximum is there. All rules below hold for it as they stand, without a special case: it adds
(R + 1)·e = 0, and a first logit z > m makes it (z, (R + 1)·e) = (z, 0). NaN and a second +inf make R NaN for good.
"""

import triton
import triton.language as tl
from triton import knobs

from kosa.gpu.float64 import log1p64, tanh64

LOWEST_F: tl.constexpr = tl.constexpr(-3.4028234663852886e38)
LOWEST_D: tl.constexpr = tl.constexpr(-1.7976931348623157e308)
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
INTERPRETED: tl.constexpr = tl.constexpr(knobs.runtime.interpret)
INF: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def widen(x, W: tl.constexpr):
    """x in the working type. By way of float32: the interpreter turns bfloat16 into float64 wrongly."""
    if x.dtype.primitive_bitwidth == 16:
        x = x.to(tl.float32)
    return x.to(W)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """x rounded to the nearest of `dtype`, ties to even. The interpreter would cut bfloat16 off."""
    if dtype == tl.bfloat16:
        x = x.to(tl.float32)
        if INTERPRETED:
            bits = x.to(tl.uint32, bitcast=True)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
            x = tl.where(x == x, rounded, bits).to(tl.float32, bitcast=True)
    if dtype == tl.float16:
        x = x.to(tl.float32)
    return x.to(dtype)


@triton.jit
def _exp32(x):
    """The product with log₂e is split, so that its rounding does not grow with x."""
    x = tl.where(x < -104.0, -104.0, x)
    high = x * LOG2E
    low = tl.fma(x, LOG2E, -high) + x * 1.925963033500762e-08
    e = tl.exp2(high)
    return tl.fma(e, low * 0.6931471805599453, e)


@triton.jit
def exp(x):
    """e^x."""
    if x.dtype == tl.float64:
        return tl.exp(x)
    else:
        return _exp32(x)


@triton.jit
def rate_of(beta, W: tl.constexpr):
    """The rate of `decay` that stands for e^(−beta·|d|); beta: float64."""
    if W == tl.float64:
        return beta
    else:
        return tl.minimum(beta * LOG2E, 3e38).to(tl.float32)  # an infinite rate would make 0·rate NaN


@triton.jit
def decay(d, rate):
    """e^(−beta·|d|), where rate = rate_of(beta)."""
    if d.dtype == tl.float64:
        return tl.exp(-(tl.abs(d) * rate))
    else:
        return tl.exp2(-(tl.abs(d) * rate))


@triton.jit
def _log_core(f):
    """log f for ½ < f < 2: 2·artanh(s), s = (f − 1)/(f + 1)."""
    s = (f - 1.0) / (f + 1.0)
    w = s * s
    p = 0.22222222 + w * 0.18181818
    p = 0.2857142857 + w * p
    p = 0.4 + w * p
    p = 0.6666666667 + w * p
    # f − 1 − s·(f − 1 − …) keeps the exact f − 1 as its leading term
    r = f - 1.0
    return r - s * (r - w * p)


@triton.jit
def _log32(x):
    """log x; a subnormal x is made normal first."""
    tiny = x < 1.1754943508222875e-38
    bits = tl.where(tiny, x * 8388608.0, x).to(tl.int32, bitcast=True)
    k = (bits - 0x3F3504F3) >> 23  # so that √½ ≤ f < √2
    f = (bits - (k << 23)).to(tl.float32, bitcast=True)
    y = tl.where(tiny, k - 23, k).to(tl.float32) * 0.6931471805599453 + _log_core(f)
    y = tl.where(x > 0.0, y, tl.where(x == 0.0, -INF, float("nan")))
    return tl.where(x == INF, INF, y)


@triton.jit
def log(x):
    """log x."""
    if x.dtype == tl.float64:
        return tl.log(x)
    else:
        return _log32(x)


@triton.jit
def _log1p32(x):
    """The logarithm of the rounded sum, corrected by what the rounding lost."""
    u = 1.0 + x
    lost = (x - (u - 1.0)) / u
    bits = u.to(tl.int32, bitcast=True)
    k = (bits - 0x3F3504F3) >> 23
    f = (bits - (k << 23)).to(tl.float32, bitcast=True)
    y = k.to(tl.float32) * 0.6931471805599453 + (_log_core(f) + lost)
    return tl.where(x < INF, y, x)


@triton.jit
def log1p(x):
    """log(1 + x) for x ≥ 0."""
    if x.dtype == tl.float64:
        return log1p64(x)
    else:
        return _log1p32(x)


@triton.jit
def _capped32(z, c):
    """For |z| ≤ c z less what the cap takes; beyond, c less what is left: what is rounded is the smaller part."""
    x = tl.abs(z) / c
    s = x * x
    near = x < 1.0
    s = tl.where(near, s, 0.0)
    # (1 − tanh(x)/x)/x² over 0 ≤ x ≤ 1, from its Chebyshev series: relative error 5e-9
    p = 0.0009235008457552297 - 0.0001427931878140377 * s
    p = p * s - 0.0032068033860997627
    p = p * s + 0.00869784759236608
    p = p * s - 0.021829548842935153
    p = p * s + 0.053963414754428146
    p = p * s - 0.13333310655545158
    p = p * s + 0.3333333315672233
    q = tl.exp2(x * -2.8853900817779268)
    y = c - c * (2.0 * q / (1.0 + q))
    y = tl.where(z < 0.0, -y, y)
    return tl.where(near, z - z * (s * p), tl.where(z == z, y, z))


@triton.jit
def capped(z, c):
    """c·tanh(z/c)."""
    if z.dtype == tl.float64:
        return c * tanh64(z / c)
    else:
        return _capped32(z, c)


@triton.jit
def cap_slope(z, c):
    """1 − tanh²(z/c), without the cancellation."""
    x = tl.abs(z) / c
    q = tl.exp(-2.0 * x) if z.dtype == tl.float64 else tl.exp2(x * -2.8853900817779268)
    return 4.0 * q / ((1.0 + q) * (1.0 + q))


@triton.jit
def tanh(x):
    """tanh x: as accurate as `capped`."""
    return capped(x, 1.0)


@triton.jit
def lowest(W: tl.constexpr):
    """The maximum of a lane that has none."""
    if W == tl.float64:
        return LOWEST_D
    else:
        return LOWEST_F


@triton.jit
def single(z):
    """(m, R) of lanes with one logit each."""
    least = lowest(z.dtype)
    return tl.maximum(z, least), tl.where(z < least, -1.0, z - z)


@triton.jit
def grown(m, r, z, rate):
    """(m, R) of lanes after one more logit each: one exponential, whichever is the larger."""
    e = decay(z - m, rate)
    r = tl.fma(r, tl.where(z > m, e, 1.0), e)
    return tl.maximum(m, z), r


@triton.jit
def merged(m1, r1, m2, r2, rate):
    """(m, R) of two lanes in one: the loser's maximum joins R."""
    e = decay(m1 - m2, rate)
    first = m1 >= m2
    r = tl.where(first, r1, r2) + (tl.where(first, r2, r1) + 1.0) * e
    return tl.maximum(m1, m2), r


@triton.jit
def joined(m, r, rate, axis: tl.constexpr):
    """(m, R) of all lanes along an axis: the losers' sums, and the maxima that tie with the largest."""
    top = tl.max(m, axis)
    over = tl.expand_dims(top, axis)
    e = decay(m - over, rate)
    wins = m == over
    rest = tl.sum(tl.where(wins, r, (r + 1.0) * e), axis)
    ties = tl.sum(tl.where(wins, 1.0, 0.0).to(m.dtype), axis)
    return top, rest + (ties - 1.0)
