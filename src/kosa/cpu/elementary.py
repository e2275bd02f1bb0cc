"""exp, log, log1p and tanh as straight arithmetic, so that loops over them vectorise.

| function | types | largest error (tested) | range |
|---|---|---|---|
| exp | float32 | 1 ulp | x ≤ 88; 0 below −87.3 |
| exp | float64 | 1.5 ulp | x ≤ 709; 0 below −708 |
| log | float64 | 1 ulp | all x; log 0 = −inf, NaN below 0 |
| log1p | float64 | 2 ulp | −½ ≤ x < inf; 1e-15 relative below; log1p(−1) = −inf |
| tanh | float64 | 6 ulp | all x |
| sech2 = 1 − tanh² | float64 | 8 ulp | all x |
NaN gives NaN. Subnormal results of exp are flushed to 0.
"""

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import overload

from kosa.cpu._bits import choose, exponent_and_mantissa, keep, scale_by_power_of_two
from kosa.cpu._compile import IN_ORDER, part

_F = np.float32
_LOG2E_F, _SHIFT_F = _F(1.4426950408889634), _F(12582912.0)  # 1.5·2²³: adding it rounds to an integer
_LN2_HIGH_F, _LN2_LOW_F = _F(0.693359375), _F(-2.12194440e-4)  # nine bits, so that n·high is exact
_LOWEST_F = _F(-87.3)
# minimax polynomial of e^r over |r| ≤ ½ ln 2 (Remez): relative error 1.9e-9
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = (
    _F(c) for c in (1.0, 1.0000000363446397, 0.49999992075100985, 0.1666642007244514, 0.04166822618847284,
                    0.008374824030662809, 0.0013836835744798386)
)  # fmt: skip

_LOG2E, _SHIFT = 1.4426950408889634, 6755399441055744.0  # 1.5·2⁵²
_LN2_HIGH, _LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10  # the high part has 32 bits
_LOWEST = -708.0
# likewise for float64: relative error 3.1e-18
_D0, _D1, _D2, _D3, _D4, _D5, _D6, _D7, _D8, _D9, _D10, _D11 = (
    1.0, 1.0, 0.5000000000000018, 0.1666666666666617, 0.04166666666649263, 0.008333333333559434,
    0.0013888888951261041, 0.00019841269432470488, 2.48014864814364e-05, 2.755762262047198e-06,
    2.7632308174894487e-07, 2.4994303273814394e-08,
)  # fmt: skip
# log(1 + f) = f − f²/2 + s·(f²/2 + R(s²)), s = f/(2 + f): coefficients of R as in FreeBSD's msun/src/e_log.c
_L1, _L2, _L3, _L4, _L5, _L6, _L7 = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
    1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01,
)  # fmt: skip

# tanh x = x + x·(−x²/3 + 2x⁴/15 − …)
_T1, _T2, _T3, _T4, _T5, _T6, _T7 = (
    -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075, -929569 / 638512875
)  # fmt: skip


def exp(x: Any) -> Any:
    """e^x, in the type of x; inside kernels only."""


def _exp32(x: Any) -> Any:
    clamped = choose(x < _LOWEST_F, _LOWEST_F, x)
    shifted = clamped * _LOG2E_F + _SHIFT_F
    n = shifted - _SHIFT_F
    r = (clamped - n * _LN2_HIGH_F) - n * _LN2_LOW_F
    p = _E0 + r * (_E1 + r * (_E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * _E6)))))
    return keep(scale_by_power_of_two(p, shifted), not x < _LOWEST_F)


def _exp64(x: Any) -> Any:
    clamped = choose(x < _LOWEST, _LOWEST, x)
    shifted = clamped * _LOG2E + _SHIFT
    n = shifted - _SHIFT
    r = (clamped - n * _LN2_HIGH) - n * _LN2_LOW
    q = _D6 + r * (_D7 + r * (_D8 + r * (_D9 + r * (_D10 + r * _D11))))
    p = _D0 + (r + r * r * (_D2 + r * (_D3 + r * (_D4 + r * (_D5 + r * q)))))
    return keep(scale_by_power_of_two(p, shifted), not x < _LOWEST)


@overload(exp, jit_options={"fastmath": IN_ORDER, "error_model": "numpy"})
def _exp(x: Any) -> Any:
    return _exp32 if x == types.float32 else _exp64


@part
def log(x: float) -> float:
    """log x."""
    tiny = x < 2.2250738585072014e-308
    e, m = exponent_and_mantissa(
        choose(tiny, x * 18014398509481984.0, x)
    )  # 2⁵⁴ makes a subnormal number normal
    k = e - keep(54.0, tiny)
    f = m - 1.0
    s = f / (2.0 + f)
    w = s * s
    rest = w * (_L1 + w * (_L2 + w * (_L3 + w * (_L4 + w * (_L5 + w * (_L6 + w * _L7))))))
    half = 0.5 * f * f
    y = k * _LN2_HIGH - ((half - (s * (half + rest) + k * _LN2_LOW)) - f)
    y = choose(x > 0.0, y, choose(x == 0.0, -np.inf, np.nan))
    return choose(x == np.inf, np.inf, y)


@part
def log1p(x: float) -> float:
    """log(1 + x): the logarithm of the rounded sum, corrected by what the rounding lost."""
    u = 1.0 + x
    return choose(u == 0.0, -np.inf, log(u) + (x - (u - 1.0)) / u)


@part
def tanh(x: float) -> float:
    """tanh x; near 0, where 1 − e would cancel, by its series."""
    e = exp(-2.0 * abs(x))
    y = (1.0 - e) / (1.0 + e)
    s = choose(abs(x) < 0.1, x * x, 0.0)
    series = s * (_T1 + s * (_T2 + s * (_T3 + s * (_T4 + s * (_T5 + s * (_T6 + s * _T7))))))
    return choose(abs(x) < 0.1, x + x * series, choose(x < 0.0, -y, y))


@part
def sech2(x: float) -> float:
    """1 − tanh² x, without the cancellation."""
    e = exp(-2.0 * abs(x))
    return 4.0 * e / ((1.0 + e) * (1.0 + e))
