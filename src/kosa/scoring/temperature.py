"""The temperature that would minimise the loss, from sums that merge.

The state keeps Σ w·loss, Σ w·slope and Σ w·curvature at seven temperatures, 8, 4, …, 1/8. Between two of them the
loss, as a function of log β = −log T, is the polynomial of degree five that has their values, slopes and curvatures
(Hermite's). On random data of 2 to 100 classes the best temperature so found is right to 3e-4 relative, the loss there
to 1e-5 relative; at the seven temperatures, T = 1 among them, it is exact.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.exact import ExactSums, Floats, Integers
from kosa.scoring.scores import TemperatureScore

NODES = 7
COLUMNS = 3 * NODES  # loss, slope and curvature of each
_LEAST = -3.0 * math.log(2.0)  # log β of the first node
_STEP = math.log(2.0)
_BLOCK = 1 << 17  # numbers widened at a time: 1 MiB, which stays in a core's cache


def tempered(kind: str, predictions: NDArray[Any], index: Integers | None, mass: Floats | None) -> Floats:
    """Loss, slope and curvature by β of each row at the seven temperatures, (N, 21); (N,) predictions are binary."""
    from kosa.cpu.temperature import tempered_losses
    from kosa.cpu.threads import for_each_chunk

    count = len(predictions)
    classes = predictions.shape[1] if predictions.ndim > 1 else 2
    found = np.empty((count, COLUMNS))
    step = max(1, _BLOCK // classes)
    none_index, none_mass = np.empty(0, dtype=np.int64), np.empty((0, 0))

    def run(chunk: int) -> None:
        part = slice(chunk * step, (chunk + 1) * step)
        tempered_losses(
            _logarithms(kind, predictions[part]),
            none_index if index is None or mass is not None else np.ascontiguousarray(index[part]),
            none_mass if mass is None else np.ascontiguousarray(mass[part]),
            found[part],
        )

    for_each_chunk(-(-count // step), lambda: run)
    return found


def _logarithms(kind: str, predictions: NDArray[Any]) -> Floats:
    """What a temperature divides: logits, or logarithms of probabilities."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = predictions.astype(np.float64)
        if values.ndim == 1:
            if kind == "logits":
                return np.stack([np.zeros(len(values)), values], axis=1)
            if kind == "probs":
                return np.stack([np.log1p(-values), np.log(values)], axis=1)
            other = np.where(values > -np.log(2.0), np.log(-np.expm1(values)), np.log1p(-np.exp(values)))
            return np.stack([other, values], axis=1)
        return np.ascontiguousarray(np.log(values) if kind == "probs" else values)


_LEVEL = 1e-14  # relative; what rounding leaves of a difference of equal losses


def best(sums: ExactSums, weight: float) -> TemperatureScore:
    """The temperature of least loss; `weight` is what the mean divides by."""
    values = sums.values().reshape(NODES, 3) / weight
    loss, slope, curvature = values.T
    one = float(loss[NODES // 2])
    if not np.isfinite(values).all():
        return TemperatureScore(math.nan, math.nan, math.nan, False)
    beta = np.exp2(np.arange(NODES) - 3.0)
    first = beta * slope
    second = first + beta * beta * curvature
    if not (first[0] < 0 < first[-1]):
        # Falling to the last temperature, or not falling at all: the loss is convex in β.
        at = 0 if first[0] >= 0 else NODES - 1
        if not loss[at] < one - _LEVEL * abs(one):
            # It does not depend on the temperature: predictions that are all the same.
            return TemperatureScore(1.0, one, 0.0, False)
        return TemperatureScore(1.0 / float(beta[at]), float(loss[at]), one - float(loss[at]), True)
    at = int(np.flatnonzero(first > 0)[0]) - 1
    ends = [(loss[end], _STEP * first[end], _STEP**2 * second[end]) for end in (at, at + 1)]
    polynomial = _hermite(*ends)
    x = _root(polynomial.deriv())
    least = float(polynomial(x))
    return TemperatureScore(math.exp(-(_LEAST + _STEP * (at + x))), least, one - least, False)


def _hermite(left: tuple[float, ...], right: tuple[float, ...]) -> np.polynomial.Polynomial:
    """The polynomial on [0, 1] with these values, slopes and curvatures at its ends."""
    a, b, c = left[0], left[1], left[2] / 2
    value, slope, curve = right[0] - a - b - c, right[1] - b - 2 * c, right[2] - 2 * c
    return np.polynomial.Polynomial(
        [
            a,
            b,
            c,
            10 * value - 4 * slope + curve / 2,
            -15 * value + 7 * slope - curve,
            6 * value - 3 * slope + curve / 2,
        ]
    )


def _root(slope: np.polynomial.Polynomial) -> float:
    """Where a slope that is at most 0 at 0 and above 0 at 1 crosses 0."""
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if slope(middle) <= 0 else (low, middle)
    return high
