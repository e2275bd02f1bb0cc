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
from kosa.cpu.statistics import LOG_PROBS, LOGITS, PROBS

LANES = 128  # with 64 it took 1.9 ns an element at K = 100 instead of 1.5, with 32 2.1 (Xeon of 2023)
# Where each accumulator begins.
_M, _AT, _R, _H, _Q = 0, LANES, 2 * LANES, 3 * LANES, 4 * LANES
_HIT, _OWN, _LSE = 5 * LANES, 6 * LANES, 7 * LANES
_TOP, _LOSS, _SPOILED = 8 * LANES, 9 * LANES, 10 * LANES
_SIZE = 11 * LANES


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
    """M ← the largest entry that is no NaN, AT ← the first class that has it."""
    prefer_wide_vectors()
    for b in range(LANES):
        acc[_M + b] = -np.inf
        acc[_AT + b] = 0.0
    k = 0.0
    for lo in range(0, tile.size, LANES):
        x = tile[lo : lo + LANES]
        for b in range(LANES):
            higher = x[b] > acc[_M + b]
            acc[_M + b] = choose(higher, x[b], acc[_M + b])
            acc[_AT + b] = choose(higher, k, acc[_AT + b])
        k += 1.0


@part
def sums_of_logits(tile: Any, acc: Any) -> None:
    """R ← Σ e, H ← Σ e·(m − z), Q ← Σ e² over all but the first maximum."""
    prefer_wide_vectors()
    for b in range(3 * LANES):
        acc[_R + b] = 0.0
    k = 0.0
    for lo in range(0, tile.size, LANES):
        z = tile[lo : lo + LANES]
        for b in range(LANES):
            gap = acc[_M + b] - z[b]
            e = keep(exp(-gap), acc[_AT + b] != k)
            acc[_R + b] += e
            acc[_H + b] += keep(e * gap, e != 0.0)
            acc[_Q + b] += e * e
        k += 1.0


@part
def sums_of_probs(tile: Any, acc: Any) -> None:
    """R ← Σ y, H ← −Σ y log y; Q ← Σ y² over all but the first maximum."""
    prefer_wide_vectors()
    for b in range(3 * LANES):
        acc[_R + b] = 0.0
    k = 0.0
    for lo in range(0, tile.size, LANES):
        y = tile[lo : lo + LANES]
        for b in range(LANES):
            acc[_R + b] += y[b]
            acc[_H + b] += keep(-y[b] * log(y[b]), y[b] != 0.0)
            acc[_Q + b] += keep(y[b] * y[b], acc[_AT + b] != k)
        k += 1.0


@part
def sums_without_entropy(logits: bool, tile: Any, acc: Any) -> None:
    """`sums_of_logits` or `sums_of_probs` with H ← 0: it takes a fifth of the time, and logarithms most of it."""
    prefer_wide_vectors()
    for b in range(3 * LANES):
        acc[_R + b] = 0.0
    k = 0.0
    if logits:
        for lo in range(0, tile.size, LANES):
            z = tile[lo : lo + LANES]
            for b in range(LANES):
                e = keep(exp(z[b] - acc[_M + b]), acc[_AT + b] != k)
                acc[_R + b] += e
                acc[_Q + b] += e * e
            k += 1.0
        return
    for lo in range(0, tile.size, LANES):
        y = tile[lo : lo + LANES]
        for b in range(LANES):
            acc[_R + b] += y[b]
            acc[_Q + b] += keep(y[b] * y[b], acc[_AT + b] != k)
        k += 1.0


@part
def sums_of_log_probs(tile: Any, acc: Any) -> None:
    """H ← −Σ p·l; over all but the first maximum R ← Σ exp(l − m), Q ← Σ p²."""
    prefer_wide_vectors()
    for b in range(3 * LANES):
        acc[_R + b] = 0.0
    k = 0.0
    for lo in range(0, tile.size, LANES):
        x = tile[lo : lo + LANES]
        for b in range(LANES):
            p = exp(x[b])
            other = acc[_AT + b] != k
            acc[_R + b] += keep(exp(x[b] - acc[_M + b]), other)
            acc[_H + b] += keep(-p * x[b], p != 0.0)
            acc[_Q + b] += keep(p * p, other)
        k += 1.0


@part
def figures_of_logits(acc: Any) -> None:
    """LSE, TOP ← p at the maximum, H ← entropy, Q ← Σ p² beside it, R ← R/(1 + R), HIT ← p and LOSS at the target."""
    prefer_wide_vectors()
    for b in range(LANES):
        r = acc[_R + b]
        u = log1p(r)
        top = 1.0 / (1.0 + r)
        acc[_LSE + b] = acc[_M + b] + u
        acc[_TOP + b] = top
        acc[_H + b] = u + acc[_H + b] * top
        acc[_Q + b] *= top * top
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
        acc[_R + b] = 1.0 - top
        acc[_LOSS + b] = -log(acc[_HIT + b])


@part
def figures_of_log_probs(acc: Any) -> None:
    """As `figures_of_probs`."""
    prefer_wide_vectors()
    for b in range(LANES):
        m = acc[_M + b]
        top = exp(m)
        acc[_LSE + b] = m + keep(log1p(acc[_R + b]), m != -np.inf)
        acc[_TOP + b] = top
        acc[_LOSS + b] = -acc[_HIT + b]
        acc[_HIT + b] = exp(acc[_HIT + b])
    for b in range(LANES):
        acc[_R + b] = -math.expm1(acc[_M + b])


@part
def brier_scores(acc: Any) -> None:
    """Q ← Σ (p − t)², where AT names the maximum and OWN the target."""
    prefer_wide_vectors()
    for b in range(LANES):
        p, top = acc[_HIT + b], acc[_TOP + b]
        others = acc[_Q + b]
        right = others + acc[_R + b] * acc[_R + b]
        wrong = larger(others - p * p, 0.0) + top * top + (1.0 - p) * (1.0 - p)
        acc[_Q + b] = choose(acc[_AT + b] == acc[_OWN + b], right, wrong)


@part
def find_spoiled(kind: int, acc: Any) -> float:
    """SPOILED ← NaN for a lane that has no figures, else 0; return whether there is one."""
    prefer_wide_vectors()
    telling = _H if kind == LOG_PROBS else _R  # the sum that is NaN where an entry is
    lowest = -np.inf if kind == LOGITS else np.inf
    some = 0.0
    for b in range(LANES):
        m, sum_ = acc[_M + b], acc[telling + b]
        out = choose(m == np.inf, 1.0, choose(m == lowest, 1.0, 0.0))
        out = choose(sum_ != sum_, 1.0, out)
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
        if kind != LOG_PROBS and not entropy.size:
            sums_without_entropy(kind == LOGITS, tile, acc)
        elif kind == LOGITS:
            sums_of_logits(tile, acc)
        elif kind == PROBS:
            sums_of_probs(tile, acc)
        else:
            sums_of_log_probs(tile, acc)
        ignored = 0
        for b in range(count if index.size else 0):
            target = index[n + b]
            if target == ignore:
                ignored += 1
                target = 0
            acc[_HIT + b] = tile[target * LANES + b]
            acc[_OWN + b] = target
        spoiled = find_spoiled(kind, acc)
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
            argmax[n + b] = int(acc[_AT + b])
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
