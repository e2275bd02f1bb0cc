"""The figures of `statistics.py` for many rows side by side: few classes, or each class in a column of its own.

N rows, K classes. LANES rows are widened into a K×LANES tile of float64, and every step runs across the lanes. The
accumulators of a lane lie in one array at fixed distances, and the number of lanes is a constant: so LLVM knows that
they do not overlap. With one array each it gave up telling them apart, and nothing vectorised.
Column k of the tile comes from x[starts[k] + row·step]: the classes may lie anywhere in memory. A lane's arithmetic
depends on K alone. Lanes beyond the last row compute on what the tile held before, and are not stored.
"""

import math
from typing import Any

import numpy as np

from kosa.cpu._bits import choose, keep, larger, prefer_wide_vectors, widen
from kosa.cpu._compile import kernel, part
from kosa.cpu.columns import transform_lanes
from kosa.cpu.elementary import exp, log, log1p
from kosa.cpu.statistics import LOGITS, PROBS

LANES = 128  # with 64 it took 1.9 ns an element at K = 100 instead of 1.5, with 32 2.1 (Xeon of 2023)
# Where each accumulator begins.
_M, _R, _H, _Q, _TIES, _LEFT = 0, LANES, 2 * LANES, 3 * LANES, 4 * LANES, 5 * LANES
_HIT, _OWN, _LSE = 6 * LANES, 7 * LANES, 8 * LANES
_TOP, _LOSS, _SPOILED = 9 * LANES, 10 * LANES, 11 * LANES
_SIZE = 12 * LANES


@part
def load_tile(x: Any, starts: Any, at: int, step: int, count: int, tile: Any) -> None:
    """tile[k, b] ← x of row b, class k."""
    prefer_wide_vectors()
    for k in range(starts.size):
        target = tile[k * LANES : k * LANES + count]
        if step == 1:
            source = x[starts[k] + at : starts[k] + at + count]
            for b in range(count):
                target[b] = widen(source[b], tile)
        else:
            place = starts[k] + at
            for b in range(count):
                target[b] = widen(x[place], tile)
                place += step


@part
def load_any(xs: Any, starts: Any, at: int, step: int, count: int, tile: Any) -> None:
    """`load_tile` from the one array of `xs` that is not empty: one for each format of floats."""
    if xs[0].size:
        load_tile(xs[0], starts, at, step, count, tile)
    elif xs[1].size:
        load_tile(xs[1], starts, at, step, count, tile)
    elif xs[2].size:
        load_tile(xs[2], starts, at, step, count, tile)
    else:
        load_tile(xs[3], starts, at, step, count, tile)


@part
def maxima(tile: Any, acc: Any) -> None:
    """M ← the largest entry."""
    prefer_wide_vectors()
    for b in range(LANES):
        acc[_M + b] = -np.inf
    for lo in range(0, tile.size, LANES):
        x = tile[lo : lo + LANES]
        for b in range(LANES):
            acc[_M + b] = larger(acc[_M + b], x[b])


@part
def sums_of_logits(tile: Any, acc: Any) -> None:
    """Over z ≠ m: R ← Σ e, H ← Σ e·(m − z), Q ← Σ e². TIES ← how many z = m; LEFT ← K less the first one's class."""
    prefer_wide_vectors()
    for b in range(LANES, _HIT):
        acc[b] = 0.0
    left = np.float64(tile.size // LANES)
    for lo in range(0, tile.size, LANES):
        z = tile[lo : lo + LANES]
        for b in range(LANES):
            gap = acc[_M + b] - z[b]
            peak = gap == 0.0
            e = choose(peak, 0.0, exp(-gap))
            acc[_R + b] += e
            acc[_H + b] += keep(e * gap, e != 0.0)
            acc[_Q + b] += e * e
            acc[_TIES + b] += keep(1.0, peak)
            acc[_LEFT + b] = larger(acc[_LEFT + b], keep(left, peak))
        left -= 1.0


@part
def sums_of_probs(tile: Any, acc: Any) -> None:
    """R ← Σ y, H ← −Σ y log y; Q ← Σ y² over y ≠ m. TIES and LEFT as for logits."""
    prefer_wide_vectors()
    for b in range(LANES, _HIT):
        acc[b] = 0.0
    left = np.float64(tile.size // LANES)
    for lo in range(0, tile.size, LANES):
        y = tile[lo : lo + LANES]
        for b in range(LANES):
            peak = y[b] == acc[_M + b]
            acc[_R + b] += y[b]
            acc[_H + b] += keep(-y[b] * log(y[b]), y[b] != 0.0)
            acc[_Q + b] += keep(y[b] * y[b], y[b] != acc[_M + b])
            acc[_TIES + b] += keep(1.0, peak)
            acc[_LEFT + b] = larger(acc[_LEFT + b], keep(left, peak))
        left -= 1.0


@part
def sums_without_entropy(tile: Any, acc: Any) -> None:
    """`sums_of_probs` with H ← 0: its logarithms take most of the time."""
    prefer_wide_vectors()
    for b in range(LANES, _HIT):
        acc[b] = 0.0
    left = np.float64(tile.size // LANES)
    for lo in range(0, tile.size, LANES):
        y = tile[lo : lo + LANES]
        for b in range(LANES):
            peak = y[b] == acc[_M + b]
            acc[_R + b] += y[b]
            acc[_Q + b] += keep(y[b] * y[b], y[b] != acc[_M + b])
            acc[_TIES + b] += keep(1.0, peak)
            acc[_LEFT + b] = larger(acc[_LEFT + b], keep(left, peak))
        left -= 1.0


@part
def sums_of_log_probs(tile: Any, acc: Any) -> None:
    """Over l ≠ m: R ← Σ exp(l − m), Q ← Σ p². H ← −Σ p·l over all. TIES and LEFT as for logits."""
    prefer_wide_vectors()
    for b in range(LANES, _HIT):
        acc[b] = 0.0
    left = np.float64(tile.size // LANES)
    for lo in range(0, tile.size, LANES):
        x = tile[lo : lo + LANES]
        for b in range(LANES):
            p = exp(x[b])
            peak, other = x[b] == acc[_M + b], x[b] != acc[_M + b]
            acc[_R + b] += keep(exp(x[b] - acc[_M + b]), other)
            acc[_H + b] += keep(-p * x[b], p != 0.0)
            acc[_Q + b] += keep(p * p, other)
            acc[_TIES + b] += keep(1.0, peak)
            acc[_LEFT + b] = larger(acc[_LEFT + b], keep(left, peak))
        left -= 1.0


@part
def figures_of_logits(acc: Any) -> None:
    """LSE, TOP ← p at the maximum, H ← entropy, Q ← Σ p² beside it, R ← R/(1 + R), HIT ← p and LOSS at the target."""
    prefer_wide_vectors()
    for b in range(LANES):
        r = acc[_R + b] + (acc[_TIES + b] - 1.0)
        u = log1p(r)
        top = 1.0 / (1.0 + r)
        acc[_LSE + b] = acc[_M + b] + u
        acc[_TOP + b] = top
        acc[_H + b] = u + acc[_H + b] * top
        acc[_Q + b] = (acc[_Q + b] + (acc[_TIES + b] - 1.0)) * top * top
        acc[_R + b] = r * top
        gap = acc[_M + b] - acc[_HIT + b]
        acc[_LOSS + b] = u + gap
        acc[_HIT + b] = exp(-gap) * top


@part
def figures_of_probs(acc: Any) -> None:
    """As `figures_of_logits`; R ← 1 − p at the maximum."""
    prefer_wide_vectors()
    for b in range(LANES):
        top = acc[_M + b]
        acc[_LSE + b] = log(acc[_R + b])
        acc[_TOP + b] = top
        acc[_Q + b] += (acc[_TIES + b] - 1.0) * top * top
        acc[_R + b] = 1.0 - top
        acc[_LOSS + b] = -log(acc[_HIT + b])


@part
def figures_of_log_probs(acc: Any) -> None:
    """As `figures_of_probs`."""
    prefer_wide_vectors()
    for b in range(LANES):
        m = acc[_M + b]
        top = exp(m)
        acc[_LSE + b] = m + keep(log1p(acc[_R + b] + (acc[_TIES + b] - 1.0)), m != -np.inf)
        acc[_TOP + b] = top
        acc[_Q + b] += (acc[_TIES + b] - 1.0) * top * top
        acc[_LOSS + b] = -acc[_HIT + b]
        acc[_HIT + b] = exp(acc[_HIT + b])
    for b in range(LANES):
        acc[_R + b] = -math.expm1(acc[_M + b])


@part
def brier_scores(acc: Any) -> None:
    """Q ← Σ (p − t)², where LEFT names the maximum and OWN the target."""
    prefer_wide_vectors()
    for b in range(LANES):
        p, top = acc[_HIT + b], acc[_TOP + b]
        others = acc[_Q + b]
        right = others + acc[_R + b] * acc[_R + b]
        wrong = larger(others - p * p, 0.0) + top * top + (1.0 - p) * (1.0 - p)
        acc[_Q + b] = choose(acc[_LEFT + b] == acc[_OWN + b], right, wrong)


@part
def find_spoiled(logits: bool, acc: Any) -> float:
    """SPOILED ← NaN for a lane without figures, else 0; return whether there is one. (Q is NaN only if an entry is.)"""
    prefer_wide_vectors()
    some = 0.0
    for b in range(LANES):
        m, q = acc[_M + b], acc[_Q + b]
        out = choose(logits, choose(abs(m) == np.inf, 1.0, 0.0), choose(m == np.inf, 1.0, 0.0))
        out = choose(q != q, 1.0, out)
        some = larger(some, out)
        acc[_SPOILED + b] = choose(out == 0.0, 0.0, np.nan)
    return some


@part
def first_place(tile: Any, b: int, m: float) -> int:
    """The class of lane b's first maximum m; −1 if an entry is NaN."""
    found = -1
    for at in range(tile.size - LANES + b, -1, -LANES):
        if tile[at] != tile[at]:
            return -1
        if tile[at] == m:
            found = at // LANES
    return found


@part
def put(acc: Any, where: int, out: Any) -> None:
    """Write an accumulator of the first lanes; NaN where a lane is spoiled."""
    for b in range(out.size):
        out[b] = acc[where + b] + acc[_SPOILED + b]


@kernel
def row_statistics_across(
    xs: Any, starts: Any, outer: int, inside: int,  # (4,) of which one is not empty; (K,) int64; steps between rows
    kind: int, softcap: float, temperature: float,
    index: Any, ignore: int,  # (N,) int64 or empty
    inner: int, first: int, last: int,
    tile: Any,  # float64: K·LANES
    loss: Any, lse: Any, argmax: Any, confidence: Any, entropy: Any, brier: Any,  # (N,); some may be empty
) -> None:  # fmt: skip
    """Fill the figures of rows first..last−1."""
    prefer_wide_vectors()
    classes = starts.size
    acc = np.zeros(_SIZE)
    n = first
    while n < last:
        count = min(LANES, last - n)
        at, step = n * outer, outer
        if inner != 1:
            o = n // inner
            i = n - o * inner
            count = min(count, inner - i)
            at, step = o * outer + i * inside, inside
        load_any(xs, starts, at, step, count, tile)
        if softcap != 0.0 or temperature != 1.0:
            transform_lanes(softcap, temperature, tile)
        maxima(tile, acc)
        if kind == LOGITS:
            sums_of_logits(tile, acc)
        elif kind == PROBS and entropy.size:
            sums_of_probs(tile, acc)
        elif kind == PROBS:
            sums_without_entropy(tile, acc)
        else:
            sums_of_log_probs(tile, acc)
        ignored = 0
        for b in range(count if index.size else 0):
            target = index[n + b]
            if target == ignore:
                ignored += 1
                target = 0
            acc[_HIT + b] = tile[target * LANES + b]
            acc[_OWN + b] = classes - target
        spoiled = find_spoiled(kind == LOGITS, acc)
        if kind == LOGITS:
            figures_of_logits(acc)
        elif kind == PROBS:
            figures_of_probs(acc)
        else:
            figures_of_log_probs(acc)
        put(acc, _LSE, lse[n : n + count])
        put(acc, _TOP, confidence[n : n + count])
        put(acc, _H, entropy[n : min(n + count, entropy.size)])
        for b in range(count):
            argmax[n + b] = classes - int(acc[_LEFT + b])
        if spoiled != 0.0:
            for b in range(count):
                if acc[_SPOILED + b] != 0.0:
                    argmax[n + b] = first_place(tile, b, acc[_M + b])
        if index.size:
            brier_scores(acc)
            put(acc, _Q, brier[n : n + count])
            put(acc, _LOSS, loss[n : min(n + count, loss.size)])
        if ignored:
            for b in range(count):
                if index[n + b] == ignore:
                    brier[n + b] = 0.0
                    loss[n + b : min(n + b + 1, loss.size)] = 0.0
        n += count
