"""Binary cross-entropy: every element is a row of its own.

E = −[w₊·t·log p + (1 − t)·log(1 − p)] in float64; from a logit −log p = softplus(−z), −log(1 − p) = softplus(z),
softplus(z) = max(z, 0) + log1p(exp(−|z|)). A term whose factor is 0 is 0; NaN gives NaN, and so does an infinite
"probability"; a logit of ±inf is p = 1 or 0 exactly.
"""

from typing import Any

import numpy as np

from kosa.cpu._bits import choose, keep, narrow, widen
from kosa.cpu._compile import kernel
from kosa.cpu.elementary import exp, log, log1p


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
    like = losses
    for n in range(first, last):
        z = widen(x[n], like)
        t = widen(targets[n], like)
        weight = sample_weight[n] if sample_weight.size else 1.0
        plus = (t * t_scale + t_shift) * (pos_weight[n] if pos_weight.size else 1.0)
        minus = 1.0 - (t * t_scale + t_shift)
        counts = weight != 0.0 and not (integers and t < 0.0)
        if logits:
            e = exp(-abs(z))
            u = log1p(e)
            loss = keep(plus * (keep(-z, z < 0.0) + u), plus != 0.0) + keep(
                minus * (keep(z, z > 0.0) + u), minus != 0.0
            )
            loss = choose(z != z, np.nan, loss)
            p = choose(z > 0.0, 1.0, e) / (1.0 + e)
            q = choose(z > 0.0, e, 1.0) / (1.0 + e)
            slope = minus * p - plus * q
        else:
            loss = keep(-plus * log(z), plus != 0.0) - keep(minus * log1p(-z), minus != 0.0)
            loss = choose(abs(z) < np.inf, loss, np.nan)
            slope = keep(-plus / z, plus != 0.0) + keep(minus / (1.0 - z), minus != 0.0)
        losses[n] = choose(counts, weight * loss, 0.0)
        if out.size:
            slope = choose(loss == loss, slope, np.nan)
            out[n] = narrow(choose(counts, scale * weight * slope, 0.0), out)
