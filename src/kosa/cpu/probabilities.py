"""Cross-entropy from probabilities or log-probabilities, taken as they are.

N rows, K classes. Everything is computed in float64: E = −Σ t log y, or −Σ t·l. Rows are read whole although an index
needs one entry only: NaN or +inf anywhere in a row makes it NaN. A term with t = 0 is 0; a target of probability 0
is +inf. Arguments are those of `rows.cross_entropy_rows`, without what acts on logits.
"""

from typing import Any

import numpy as np

from kosa.cpu._bits import choose, keep, prefer_wide_vectors, widen
from kosa.cpu._compile import kernel, part, reduction
from kosa.cpu.elementary import log
from kosa.cpu.rows import TILE, load, load_targets, store


@reduction
def total(x: Any) -> float:
    """Σ x."""
    s = 0.0
    for k in range(x.size):
        s += x[k]
    return s


@part
def terms(tile: Any, targets: Any, logarithmic: bool) -> None:
    """targets ← t·(−log y), or t·(−l), where t = 0 adds nothing; NaN where y is NaN or +inf."""
    prefer_wide_vectors()
    if logarithmic:
        for k in range(tile.size):
            targets[k] = keep(-targets[k] * tile[k], targets[k] != 0.0)
    else:
        for k in range(tile.size):
            targets[k] = keep(-targets[k] * log(tile[k]), targets[k] != 0.0)
    for k in range(tile.size):
        targets[k] = choose(tile[k] < np.inf, targets[k], np.nan)


@reduction
def count_not_finite(tile: Any) -> float:
    """How many entries are NaN or +inf."""
    bad = 0.0
    for k in range(tile.size):
        bad += keep(1.0, not tile[k] < np.inf)
    return bad


@part
def slopes_of_targets(tile: Any, targets: Any, scale: float, logarithmic: bool) -> None:
    """tile ← −scale·t/y, or −scale·t; 0 where t = 0."""
    if logarithmic:
        for k in range(tile.size):
            tile[k] = -scale * targets[k]
    else:
        for k in range(tile.size):
            tile[k] = keep(-scale * targets[k] / tile[k], targets[k] != 0.0)


@kernel
def cross_entropy_probabilities(
    y: Any, y_steps: Any,
    index: Any, ignore: int, index_weight: Any,
    t: Any, t_steps: Any, class_weight: Any,
    row_weight: Any,
    scale: float, t_scale: float, t_shift: float, logarithmic: bool,
    inner: int, classes: int, first: int, last: int,
    scratch: Any, targets: Any,  # float64: K·B or TILE; likewise, or empty
    losses: Any,
    out: Any, out_steps: Any,
) -> None:  # fmt: skip
    """Losses, and gradients where `out` is not empty, of rows first..last−1."""
    y_start, y_outer, y_inner, y_step = y_steps
    t_start, t_outer, t_inner, t_step = t_steps
    out_start, out_outer, out_inner, out_step = out_steps
    dense = t.size > 0
    # Short rows are taken many at a time, so that the logarithms vectorise across them.
    block = max(1, scratch.size // classes)
    sums = np.empty(block)
    joined = (
        block > 1 and inner == 1 and y_step == 1 and y_outer == classes
    )  # rows without a gap between them
    t_joined = block > 1 and inner == 1 and t_step == 1 and t_outer == classes and not class_weight.size
    for n in range(first, last):
        o = n // inner
        i = n - o * inner
        y_row = y_start + o * y_outer + i * y_inner
        t_row = t_start + o * t_outer + i * t_inner
        out_row = out_start + o * out_outer + i * out_inner
        b = (n - first) % block
        if b == 0:
            count = min(block, last - n)
            for lo in range(0, classes, TILE):
                size = min(TILE, classes - lo)
                tile = scratch[: count * size]
                t_tile = targets[: tile.size]
                if joined:
                    load(y, y_row, 1, 0.0, 1.0, tile)
                if dense and t_joined:
                    load_targets(t, t_row, 1, t_scale, t_shift, class_weight, t_tile)
                for c in range(count):
                    oc = (n + c) // inner
                    ic = n + c - oc * inner
                    if not joined:
                        at = y_start + oc * y_outer + ic * y_inner + lo * y_step
                        load(y, at, y_step, 0.0, 1.0, tile[c * size : c * size + size])
                    if dense and not t_joined:
                        weights = class_weight[lo : lo + size] if class_weight.size else class_weight
                        at = t_start + oc * t_outer + ic * t_inner + lo * t_step
                        load_targets(
                            t, at, t_step, t_scale, t_shift, weights, t_tile[c * size : c * size + size]
                        )
                if lo == 0:
                    sums[:count] = 0.0
                if dense:
                    # A multiple of 64 leaves no remainder of a loop, whose rounding would depend on a row's place.
                    padded = min(scratch.size, -(-tile.size // 64) * 64)
                    terms(scratch[:padded], targets[:padded], logarithmic)
                for c in range(count):
                    if dense:
                        sums[c] += total(t_tile[c * size : c * size + size])
                    elif count_not_finite(tile[c * size : c * size + size]) > 0.0:
                        sums[c] = np.nan
        weight = row_weight[n] if row_weight.size else 1.0
        target, hit, counts = -1, 0.0, weight != 0.0
        if index.size:
            target = index[n]
            if target == ignore:
                counts = False
                target = -1
            else:
                hit = index_weight[target] if index_weight.size else 1.0
                counts = counts and (hit != 0.0 or dense)
        loss = 0.0
        if counts:
            loss = sums[b]
            if hit != 0.0:
                y_hit = widen(y[y_row + target * y_step], scratch)
                loss -= hit * (y_hit if logarithmic else log(y_hit))
            loss *= weight
        losses[n] = loss

        if out.size:
            s = scale * weight if loss == loss else np.nan
            for lo in range(0, classes, TILE):
                size = min(TILE, classes - lo)
                tile = scratch[:size]
                hit_here = counts and lo <= target < lo + size
                at_hit = 1.0
                load(y, y_row + lo * y_step, y_step, 0.0, 1.0, tile)
                if hit_here and not logarithmic:
                    at_hit = tile[target - lo]
                if counts and dense:
                    weights = class_weight[lo : lo + size] if class_weight.size else class_weight
                    load_targets(t, t_row + lo * t_step, t_step, t_scale, t_shift, weights, targets[:size])
                    slopes_of_targets(tile, targets[:size], s, logarithmic)
                else:
                    tile[:] = 0.0
                if hit_here and hit != 0.0:
                    tile[target - lo] -= s * hit / at_hit
                if loss != loss:
                    tile[:] = np.nan
                store(tile, 1.0, out, out_row + lo * out_step, out_step, False)
