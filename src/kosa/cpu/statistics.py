"""What evaluation wants to know of each row, in float64: from logits, probabilities or log-probabilities.

N rows, K classes, e = exp(z − m), R = Σ e over all but the first maximum, p = e/(1 + R).
    lse = m + log1p(R)                     confidence = 1/(1 + R)
    entropy = log1p(R) + Σ e·(m − z)/(1 + R)              a sum of terms ≥ 0
    brier = Σ (p − t)², where p − t = (1 − t) − R/(1 + R) at the maximum
Probabilities y are taken as they are: lse = log Σ y, entropy = −Σ y log y. A row with NaN or +inf, or of logits that are
all −inf, is NaN in every figure; the argmax of a row with NaN is −1.
"""

import math
from typing import Any

import numpy as np

from kosa.cpu._bits import keep, larger
from kosa.cpu._compile import kernel, reduction
from kosa.cpu.elementary import exp, log, log1p
from kosa.cpu.rows import load

LOGITS, PROBS, LOG_PROBS = 0, 1, 2


@reduction
def first_maximum(row: Any) -> tuple[int, float, float, float]:
    """Return where the first maximum is, its value, and how many entries are NaN, and NaN or +inf."""
    m, nans, bad = -np.inf, 0.0, 0.0
    for k in range(row.size):
        m = larger(m, row[k])
        nans += keep(1.0, row[k] != row[k])
        bad += keep(1.0, not row[k] < np.inf)
    at = 0
    while at < row.size - 1 and row[at] != m:
        at += 1
    return at, m, nans, bad


@reduction
def sums_beside(z: Any, m: float) -> tuple[float, float]:
    """z ← e = exp(z − m); return Σ e and Σ e·(m − z)."""
    r, h = 0.0, 0.0
    for k in range(z.size):
        gap = m - z[k]
        e = exp(-gap)
        r += e
        h += keep(e * gap, e != 0.0)
        z[k] = e
    return r, h


@reduction
def sum_of_squares(x: Any) -> float:
    """Σ x²."""
    total = 0.0
    for k in range(x.size):
        total += x[k] * x[k]
    return total


@reduction
def squared_distance(p: Any, factor: float, t: Any) -> float:
    """Σ (factor·p − t)²."""
    total = 0.0
    for k in range(p.size):
        d = factor * p[k] - t[k]
        total += d * d
    return total


@reduction
def minus_sum_p_log_p(p: Any) -> float:
    """−Σ p log p, with 0·log 0 = 0."""
    total = 0.0
    for k in range(p.size):
        total += keep(-p[k] * log(p[k]), p[k] != 0.0)
    return total


@reduction
def sum_exp_gaps(x: Any, m: float) -> float:
    """Σ exp(x − m)."""
    total = 0.0
    for k in range(x.size):
        total += exp(x[k] - m)
    return total


@reduction
def entropy_of_logs(x: Any) -> float:
    """l ← p = exp l; return −Σ p·l."""
    total = 0.0
    for k in range(x.size):
        p = exp(x[k])
        total += keep(-p * x[k], p != 0.0)
        x[k] = p
    return total


@reduction
def plain_sum(x: Any) -> float:
    """Σ x."""
    total = 0.0
    for k in range(x.size):
        total += x[k]
    return total


@kernel
def row_statistics_rows(
    z: Any, z_steps: Any, kind: int, softcap: float, temperature: float,
    index: Any, ignore: int, t: Any, t_steps: Any,  # (N,) int64 or empty; distributions or empty
    inner: int, classes: int, first: int, last: int,
    scratch: Any, targets: Any,  # float64: K; K or empty
    lse: Any, argmax: Any, confidence: Any, entropy: Any, brier: Any, target_entropy: Any,  # (N,); argmax int64
) -> None:  # fmt: skip
    """Fill the six figures of rows first..last−1."""
    z_start, z_outer, z_inner, z_step = z_steps
    t_start, t_outer, t_inner, t_step = t_steps
    for n in range(first, last):
        o = n // inner
        i = n - o * inner
        row = scratch[:classes]
        load(z, z_start + o * z_outer + i * z_inner, z_step, softcap, temperature, row)
        at, m, nans, bad = first_maximum(row)
        spoiled = bad > 0.0 or (kind == LOGITS and m == -np.inf)
        target = index[n] if index.size else -1
        ignored = index.size > 0 and target == ignore
        at_target = row[target] if target >= 0 and not ignored else 0.0
        before, after = row[:at], row[at + 1 :]

        factor, beside = 1.0, 0.0  # p = factor·row; R/(1 + R) of logits
        if kind == LOGITS:
            r_before, h_before = sums_beside(before, m)
            r_after, h_after = sums_beside(after, m)
            r = r_before + r_after
            row[at] = 1.0
            factor, beside = 1.0 / (1.0 + r), r / (1.0 + r)
            lse[n] = m + log1p(r)
            confidence[n] = factor
            entropy[n] = log1p(r) + (h_before + h_after) * factor
        elif kind == PROBS:
            lse[n] = log(plain_sum(row))
            confidence[n] = m
            entropy[n] = minus_sum_p_log_p(row)
        else:
            lse[n] = m + log1p(sum_exp_gaps(before, m) + sum_exp_gaps(after, m)) if m != -np.inf else m
            entropy[n] = entropy_of_logs(row)
            confidence[n] = row[at]
        argmax[n] = -1 if nans > 0.0 else at

        if t.size:
            own = targets[:classes]
            load(t, t_start + o * t_outer + i * t_inner, t_step, 0.0, 1.0, own)
            peak = (1.0 - own[at]) - beside if kind == LOGITS else row[at] - own[at]
            brier[n] = (
                squared_distance(before, factor, own[:at])
                + squared_distance(after, factor, own[at + 1 :])
                + peak * peak
            )
            target_entropy[n] = minus_sum_p_log_p(own)
        elif index.size:
            others = (sum_of_squares(before) + sum_of_squares(after)) * factor * factor
            target_entropy[n] = 0.0
            if ignored:
                brier[n] = 0.0
            elif target == at:
                miss = (
                    beside if kind == LOGITS else (1.0 - row[at] if kind == PROBS else -math.expm1(at_target))
                )
                brier[n] = others + miss * miss
            else:
                p, p_top = factor * row[target], factor * row[at]
                brier[n] = max(others - p * p, 0.0) + p_top * p_top + (1.0 - p) * (1.0 - p)
        if spoiled:
            lse[n] = np.nan
            confidence[n] = np.nan
            entropy[n] = np.nan
            if brier.size and not ignored:
                brier[n] = np.nan
