"""The loss of each row at several temperatures at once, with its slope and curvature.

N rows, K classes, M nodes β = 1/T = 2^(−3), 2^(−2), …, 2^3. With g_k = max z − z_k ≥ 0 and e_k = exp(−β·g_k):
    loss = τ·log Σ e + β·Σ t·g     slope (by β) = Σ t·g − τ·E[g]     curvature = τ·(E[g²] − E[g]²)
where E is the mean under e/Σ e and τ = Σ t, 1 for an index. One exponential serves all nodes, because doubling β squares
it: the error doubles too, six times at most, so 64 of its 1.5 ulp, 2e-14 relative.
"""

from typing import Any

import numpy as np

from kosa.cpu._bits import keep, larger
from kosa.cpu._compile import kernel, part, reduction
from kosa.cpu.elementary import exp, log1p

NODES = 7
LEAST = 0.125
_FAR = 1e150  # the gap of an impossible class: exp(−β·gap) is 0 and its square no overflow


@reduction
def highest(row: Any) -> tuple[float, float]:
    """The maximum, and how many entries are NaN or +inf."""
    m, bad = -np.inf, 0.0
    for k in range(row.size):
        m = larger(m, row[k])
        bad += keep(1.0, not row[k] < np.inf)
    return m, bad


@part
def powers(gap: Any, e: Any) -> None:
    """e ← exp(−LEAST·gap)."""
    for k in range(gap.size):
        e[k] = exp(-LEAST * gap[k])


@reduction
def moments(gap: Any, e: Any) -> tuple[float, float, float]:
    """Σ e, Σ e·g and Σ e·g²; e ← e²."""
    r, h, v = 0.0, 0.0, 0.0
    for k in range(gap.size):
        w = e[k]
        t = w * gap[k]
        r += w
        h += t
        v += t * gap[k]
        e[k] = w * w
    return r, h, v


@reduction
def dot(t: Any, gap: Any) -> tuple[float, float]:
    """Σ t, and Σ t·g with 0·∞ = 0."""
    mass, total = 0.0, 0.0
    for k in range(t.size):
        mass += t[k]
        total += keep(t[k] * gap[k], t[k] != 0.0)
    return mass, total


@kernel
def tempered_losses(
    z: Any, index: Any, t: Any, out: Any
) -> None:  # (N, K); (N,) or empty; (N, K) or empty; (N, 3·M)
    """Fill loss, slope and curvature of every node; NaN in a row with NaN or +inf, or that is all −inf."""
    classes = z.shape[1]
    gap, e = np.empty(classes), np.empty(classes)
    for n in range(z.shape[0]):
        row = z[n]
        m, bad = highest(row)
        if bad > 0.0 or m == -np.inf:
            out[n, :] = np.nan
            continue
        at = 0
        while row[at] != m:
            at += 1
        for k in range(classes):
            gap[k] = m - row[k]
        if t.size:
            mass, target_gap = dot(t[n], gap)
        else:
            mass, target_gap = 1.0, gap[index[n]]
        for k in range(classes):
            gap[k] = min(gap[k], _FAR)
        # The maximum itself is left out of the sums, so that log1p keeps the digits of a confident row.
        gap[at] = _FAR
        powers(gap, e)
        beta = LEAST
        for node in range(NODES):
            r, h, v = moments(gap, e)
            mean = h / (1.0 + r)
            out[n, 3 * node] = mass * log1p(r) + beta * target_gap
            out[n, 3 * node + 1] = target_gap - mass * mean
            out[n, 3 * node + 2] = mass * (v / (1.0 + r) - mean * mean)
            beta *= 2.0
