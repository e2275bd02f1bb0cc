"""Quantiles of Student's t, which NumPy does not have."""

import math
from statistics import NormalDist


def t_quantile(probability: float, degrees: float) -> float:
    """The x that a Student's t of so many degrees of freedom stays below with this probability; 1e-12 relative."""
    if probability < 0.5:
        return -t_quantile(1.0 - probability, degrees)
    if probability == 0.5:
        return 0.0
    upper = 1.0 - probability
    normal = NormalDist().inv_cdf(probability)
    if degrees > 10_000.0:
        return _from_normal(normal, degrees)
    low, high = 0.0, normal
    while _upper_tail(high, degrees) > upper:
        low, high = high, 2.0 * high
    for _ in range(200):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if _upper_tail(middle, degrees) > upper else (low, middle)
    return high


def _from_normal(z: float, degrees: float) -> float:
    """The expansion of the quantile in powers of 1/ν about the normal one (Abramowitz and Stegun 26.7.5)."""
    square, found = z * z, z
    polynomials = ((1, 1), (3, 16, 5), (-15, 17, 19, 3), (-945, -1920, 1482, 776, 79))
    for polynomial, divisor, power in zip(polynomials, (4, 96, 384, 92160), range(1, 5), strict=True):
        total = 0.0
        for coefficient in reversed(polynomial):
            total = total * square + coefficient
        found += z * total / (divisor * degrees**power)
    return found


def _upper_tail(x: float, degrees: float) -> float:
    """P(T > x) for x ≥ 0: half the regularised incomplete beta function I of ν/(ν + x²) at (ν/2, 1/2)."""
    square = x * x
    return 0.5 * _incomplete_beta(degrees / (degrees + square), square / (degrees + square), degrees / 2, 0.5)


def _incomplete_beta(x: float, rest: float, a: float, b: float) -> float:
    """I_x(a, b) with rest = 1 − x, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0.0:
        return 0.0
    if rest <= 0.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(rest, x, b, a)
    # With a of 1e8 and x near 1, log x of the rounded x would be off by a·1e-16.
    logarithm = math.log1p(-rest) if rest < 0.5 else math.log(x)
    front = math.exp(a * logarithm + b * math.log(rest) - _log_beta(a, b)) / a
    # Lentz's evaluation from the front; 1e-300 stands for a 0 that would be divided by.
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0) or 1e-300)
    value = d
    for m in range(1, 10_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / (1.0 + term * d or 1e-300)
            c = 1.0 + term / c or 1e-300
            value *= c * d
        if abs(c * d - 1.0) < 1e-16:
            break
    return front * value


def _log_beta(a: float, b: float) -> float:
    """log B(a, b); for large arguments the difference of two large logarithms would lose digits."""
    small, large = min(a, b), max(a, b)
    if large < 50.0:
        return math.lgamma(small) + math.lgamma(large) - math.lgamma(small + large)
    # Stirling's series for Γ(large)/Γ(large + small).
    total = large + small
    series = _stirling(large) - _stirling(total)
    return (
        math.lgamma(small)
        + series
        + (large - 0.5) * math.log1p(-small / total)
        + small
        - small * math.log(total)
    )


def _stirling(x: float) -> float:
    """log Γ(x) − (x − ½)·log x + x − ½·log 2π, to 1e-17 for x ≥ 50."""
    inverse = 1.0 / (x * x)
    return (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse / 1680))) / x
