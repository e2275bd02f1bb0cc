"""Binary cross-entropy: every element is a row of its own.

E = −[w₊·t·log p + (1 − t)·log(1 − p)] in float64; from a logit −log p = softplus(−z), −log(1 − p) = softplus(z),
softplus(z) = max(z, 0) + log1p(exp(−|z|)). A term whose factor is 0 is 0; NaN gives NaN, and so does an infinite
"probability"; a logit of ±inf is p = 1 or 0 exactly.
"""

from typing import Any

import numpy as np

from kosa.cpu._bits import choose, keep, narrow, prefer_wide_vectors, widen
from kosa.cpu._compile import kernel, part
from kosa.cpu.elementary import exp, log, log1p

_TILE = 256  # a tile is computed whole, the last one too: the remainder of a loop might round differently


@part
def element_losses(z: Any, plus: Any, minus: Any, logits: bool, loss: Any, slope: Any) -> None:
    """loss ← plus·(−log p) + minus·(−log(1 − p)) and slope ← its derivative by z, which is the logit or p itself."""
    prefer_wide_vectors()
    if logits:
        for b in range(_TILE):
            e = exp(-abs(z[b]))
            slope[b] = e
            loss[b] = log1p(e)
        for b in range(_TILE):
            positive, negative = keep(z[b], z[b] > 0.0), keep(-z[b], z[b] < 0.0)
            u = loss[b]
            loss[b] = keep(plus[b] * (negative + u), plus[b] != 0.0) + keep(
                minus[b] * (positive + u), minus[b] != 0.0
            )
            e = slope[b]
            p = choose(z[b] > 0.0, 1.0, e) / (1.0 + e)
            q = choose(z[b] > 0.0, e, 1.0) / (1.0 + e)
            slope[b] = minus[b] * p - plus[b] * q
        for b in range(_TILE):
            loss[b] = choose(z[b] != z[b], np.nan, loss[b])
    else:
        for b in range(_TILE):
            loss[b] = keep(-plus[b] * log(z[b]), plus[b] != 0.0) - keep(
                minus[b] * log1p(-z[b]), minus[b] != 0.0
            )
        for b in range(_TILE):
            slope[b] = keep(-plus[b] / z[b], plus[b] != 0.0) + keep(minus[b] / (1.0 - z[b]), minus[b] != 0.0)
        for b in range(_TILE):
            loss[b] = choose(abs(z[b]) < np.inf, loss[b], np.nan)


@kernel
def binary_cross_entropy_elements(
    x: Any, logits: bool,  # (N,) any float format
    targets: Any, integers: bool,  # (N,) any float format, or int8: 0, 1, and −1 for an ignored element
    pos_weight: Any, sample_weight: Any,  # (N,) float64 or empty
    t_scale: float, t_shift: float, scale: float,
    first: int, last: int,
    losses: Any, out: Any,  # (N,) float64; (N,) or empty
) -> None:  # fmt: skip
    """Losses, and gradients where `out` is not empty, of elements first..last−1."""
    tiles = np.zeros((5, _TILE))
    z, plus, minus, loss, slope = tiles[0], tiles[1], tiles[2], tiles[3], tiles[4]
    for lo in range(first, last, _TILE):
        count = min(_TILE, last - lo)
        for b in range(count):
            z[b] = widen(x[lo + b], z)
            t = widen(targets[lo + b], z) * t_scale + t_shift
            plus[b] = t * pos_weight[lo + b] if pos_weight.size else t
            minus[b] = 1.0 - t
        element_losses(z, plus, minus, logits, loss, slope)
        for b in range(count):
            n = lo + b
            weight = sample_weight[n] if sample_weight.size else 1.0
            counts = weight != 0.0 and not (integers and widen(targets[n], z) < 0.0)
            losses[n] = weight * loss[b] if counts else 0.0
            if out.size:
                d = slope[b] if loss[b] == loss[b] else np.nan
                out[n] = narrow(scale * weight * d if counts else 0.0, out)
