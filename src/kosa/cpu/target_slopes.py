"""The gradient with respect to targets that are distributions, a row at a time.

N rows, K classes. ∂E/∂t_k = w·(1 − ε)·class_weight_k·(−log y_k), where −log y = (m − z) + log1p(r) from logits, with m
the maximum and r = Σ exp(z − m) but for one occurrence of it. A row of weight 0 has gradient 0, a row that is NaN is NaN.
"""

from typing import Any

import numpy as np

from kosa.cpu._bits import keep, narrow
from kosa.cpu._compile import kernel, part, reduction
from kosa.cpu.elementary import exp, log, log1p
from kosa.cpu.rows import load

LOGITS, PROBS, LOG_PROBS = 0, 1, 2


@reduction
def sum_beside_maximum(row: Any, m: float) -> float:
    """Σ exp(z − m) without one occurrence of z = m; −1 for a row of nothing but −inf."""
    rest, ones = 0.0, 0.0
    for k in range(row.size):
        rest += keep(exp(row[k] - m), row[k] != m)
        ones += keep(1.0, row[k] == m)
    return rest + (ones - 1.0)


@part
def minus_log_probabilities(row: Any, kind: int, m: float) -> None:
    """row ← −log y."""
    if kind == PROBS:
        for k in range(row.size):
            row[k] = -log(row[k])
    elif kind == LOG_PROBS:
        for k in range(row.size):
            row[k] = -row[k]
    else:
        u = log1p(sum_beside_maximum(row, m)) if abs(m) != np.inf else np.nan
        for k in range(row.size):
            row[k] = (m - row[k]) + u


@kernel
def target_slopes(
    z: Any, z_steps: Any, kind: int, softcap: float, temperature: float,
    class_weight: Any, row_weight: Any, scale: float,  # (K,) float64 or empty; (N,) or empty
    inner: int, classes: int, first: int, last: int,
    scratch: Any,  # float64: K
    out: Any, out_steps: Any,
) -> None:  # fmt: skip
    """Fill the gradient of scale·Σ row_weight·loss for rows first..last−1."""
    z_start, z_outer, z_inner, z_step = z_steps
    out_start, out_outer, out_inner, out_step = out_steps
    row = scratch[:classes]
    for n in range(first, last):
        o = n // inner
        i = n - o * inner
        factor = scale * row_weight[n] if row_weight.size else scale
        if factor == 0.0:
            row[:] = 0.0
        else:
            m = load(z, z_start + o * z_outer + i * z_inner, z_step, softcap, temperature, row)
            minus_log_probabilities(row, kind, m)
        at = out_start + o * out_outer + i * out_inner
        for k in range(classes):
            f = factor * class_weight[k] if class_weight.size else factor
            out[at + k * out_step] = narrow(keep(f * row[k], f != 0.0), out)
