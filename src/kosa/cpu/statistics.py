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

from kosa.cpu._bits import choose, keep, larger, prefer_wide_vectors
from kosa.cpu._compile import kernel, part, reduction
from kosa.cpu.elementary import exp, log, log1p
from kosa.cpu.rows import load

LOGITS, PROBS, LOG_PROBS = 0, 1, 2
_BLOCK = 256


@part
def load_any(xs: Any, start: int, step: int, softcap: float, temperature: float, tile: Any) -> float:
    """`rows.load` from the one array of `xs` that is not empty: there is one for each format of floats.

    So what is done after it is compiled once, and rows of float32 and the same rows of float64 have the same bits.
    """
    if xs[0].size:
        return load(xs[0], start, step, softcap, temperature, tile)
    if xs[1].size:
        return load(xs[1], start, step, softcap, temperature, tile)
    if xs[2].size:
        return load(xs[2], start, step, softcap, temperature, tile)
    return load(xs[3], start, step, softcap, temperature, tile)


@reduction
def maximum(row: Any) -> float:
    """The largest entry."""
    prefer_wide_vectors()
    m = -np.inf
    for k in range(row.size):
        m = larger(m, row[k])
    return m


@part
def first_place(row: Any, m: float) -> int:
    """Where the first m stands, looked for in the first block whose maximum it is."""
    at = 0
    while at + _BLOCK < row.size and maximum(row[at : at + _BLOCK]) != m:
        at += _BLOCK
    while at < row.size - 1 and row[at] != m:
        at += 1
    return at


@reduction
def count_nans(row: Any) -> float:
    """How many entries are NaN."""
    nans = 0.0
    for k in range(row.size):
        nans += keep(1.0, row[k] != row[k])
    return nans


@reduction
def sums_of_logits(z: Any, m: float) -> tuple[float, float, float, float]:
    """Return Σ e, Σ e·(m − z) and Σ e² over z ≠ m, and how many z = m."""
    prefer_wide_vectors()
    r, h, q, ties = 0.0, 0.0, 0.0, 0.0
    for k in range(z.size):
        gap = m - z[k]
        peak = gap == 0.0
        e = choose(peak, 0.0, exp(-gap))
        r += e
        h += keep(e * gap, e != 0.0)
        q += e * e
        ties += keep(1.0, peak)
    return r, h, q, ties


@reduction
def sums_of_probs(y: Any, m: float) -> tuple[float, float, float, float]:
    """Return Σ y, −Σ y log y, Σ y² over y ≠ m, and how many y = m."""
    prefer_wide_vectors()
    s, h, q, ties = 0.0, 0.0, 0.0, 0.0
    for k in range(y.size):
        s += y[k]
        h += keep(-y[k] * log(y[k]), y[k] != 0.0)
        q += keep(y[k] * y[k], y[k] != m)
        ties += keep(1.0, y[k] == m)
    return s, h, q, ties


@reduction
def sums_without_entropy(y: Any, m: float) -> tuple[float, float, float, float]:
    """`sums_of_probs` with 0 for the second: its logarithms take most of the time."""
    prefer_wide_vectors()
    s, q, ties = 0.0, 0.0, 0.0
    for k in range(y.size):
        s += y[k]
        q += keep(y[k] * y[k], y[k] != m)
        ties += keep(1.0, y[k] == m)
    return s, 0.0, q, ties


@reduction
def sums_of_log_probs(x: Any, m: float) -> tuple[float, float, float, float]:
    """Return Σ exp(l − m) over l ≠ m, −Σ p·l, Σ p² over l ≠ m, and how many l = m."""
    prefer_wide_vectors()
    r, h, q, ties = 0.0, 0.0, 0.0, 0.0
    for k in range(x.size):
        p = exp(x[k])
        other = x[k] != m
        r += keep(exp(x[k] - m), other)
        h += keep(-p * x[k], p != 0.0)
        q += keep(p * p, other)
        ties += keep(1.0, x[k] == m)
    return r, h, q, ties


@part
def exponentials(x: Any, m: float) -> None:
    """x ← exp(x − m)."""
    prefer_wide_vectors()
    for k in range(x.size):
        x[k] = exp(x[k] - m)


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


@kernel
def row_statistics_rows(
    xs: Any, x_steps: Any, kind: int, softcap: float, temperature: float,  # (4,) of which one is not empty
    index: Any, ignore: int, ts: Any, t_steps: Any,  # (N,) int64 or empty; distributions, like xs, or all empty
    dense: bool, inner: int, classes: int, first: int, last: int,
    scratch: Any, targets: Any,  # float64: K; K or empty
    loss: Any, lse: Any, argmax: Any, confidence: Any, entropy: Any,  # (N,), argmax int64; loss, entropy may be empty
    brier: Any, target_entropy: Any,  # (N,) or empty
) -> None:  # fmt: skip
    """Fill the figures of rows first..last−1; losses of class indices only."""
    prefer_wide_vectors()
    x_start, x_outer, x_inner, x_step = x_steps
    t_start, t_outer, t_inner, t_step = t_steps
    for n in range(first, last):
        o = n // inner
        i = n - o * inner
        row = scratch[:classes]
        m = load_any(xs, x_start + o * x_outer + i * x_inner, x_step, softcap, temperature, row)
        if kind == LOGITS:
            s, h, q, ties = sums_of_logits(row, m)
        elif kind == PROBS:
            s, h, q, ties = sums_of_probs(row, m) if entropy.size else sums_without_entropy(row, m)
        else:
            s, h, q, ties = sums_of_log_probs(row, m)
        # Q is NaN if an entry is; of logits also if m is infinite.
        spoiled = q != q or m == np.inf or (kind == LOGITS and m == -np.inf)
        at = -1 if spoiled and count_nans(row) > 0.0 else first_place(row, m)
        target = index[n] if index.size else -1
        ignored = index.size > 0 and target == ignore
        at_target = row[target] if index.size > 0 and not ignored else 0.0

        factor, beside = 1.0, 0.0  # p = factor·e of logits; 1 − p at the maximum
        if kind == LOGITS:
            r = s + (ties - 1.0)
            factor, beside = 1.0 / (1.0 + r), r / (1.0 + r)
            lse[n] = m + log1p(r)
            confidence[n] = factor
            h = log1p(r) + h * factor
            own_loss, p = log1p(r) + (m - at_target), factor * exp(at_target - m)
        elif kind == PROBS:
            beside = 1.0 - m
            lse[n] = log(s)
            confidence[n] = m
            own_loss, p = -log(at_target), at_target
        else:
            beside = -math.expm1(m)
            lse[n] = m + log1p(s + (ties - 1.0)) if m != -np.inf else m
            confidence[n] = exp(m)
            own_loss, p = -at_target, exp(at_target)
        if entropy.size:
            entropy[n] = h
        argmax[n] = at
        top = confidence[n]

        if dense:
            own = targets[:classes]
            load_any(ts, t_start + o * t_outer + i * t_inner, t_step, 0.0, 1.0, own)
            target_entropy[n] = minus_sum_p_log_p(own)
        if dense and not spoiled:
            if kind != PROBS:
                exponentials(row, m if kind == LOGITS else 0.0)
            peak = (1.0 - own[at]) - beside if kind == LOGITS else row[at] - own[at]
            brier[n] = (
                squared_distance(row[:at], factor, own[:at])
                + squared_distance(row[at + 1 :], factor, own[at + 1 :])
                + peak * peak
            )
        elif index.size:
            others = (q + (ties - 1.0) * (1.0 if kind == LOGITS else top * top)) * factor * factor
            if ignored:
                brier[n] = 0.0
            elif target == at:
                brier[n] = others + beside * beside
            else:
                brier[n] = max(others - p * p, 0.0) + top * top + (1.0 - p) * (1.0 - p)
            if loss.size:
                loss[n] = 0.0 if ignored else own_loss
            target_entropy[n] = 0.0
        if spoiled:
            lse[n] = np.nan
            confidence[n] = np.nan
            if entropy.size:
                entropy[n] = np.nan
            if brier.size and not ignored:
                brier[n] = np.nan
            if loss.size and not ignored:
                loss[n] = np.nan
