"""Cross-entropy from probabilities or log-probabilities, taken as they are.

N rows, K classes. Everything is computed in float64: E = −Σ t log y, or −Σ t·l. Rows are read whole although an index
needs one entry only: NaN or +inf anywhere in a row makes it NaN. A term with t = 0 is 0; a target of probability 0
is +inf. Arguments are those of `rows.cross_entropy_rows`, without what acts on logits.
"""

from typing import Any

import numpy as np

from kosa.cpu._bits import keep
from kosa.cpu._compile import kernel, part, reduction
from kosa.cpu.elementary import log
from kosa.cpu.rows import TILE, load, load_targets, store


@reduction
def count_not_finite(tile: Any) -> float:
    """How many entries are NaN or +inf."""
    bad = 0.0
    for k in range(tile.size):
        bad += keep(1.0, not tile[k] < np.inf)
    return bad


@reduction
def sum_log(tile: Any, targets: Any) -> float:
    """Σ t·(−log y)."""
    total = 0.0
    for k in range(tile.size):
        total += keep(-targets[k] * log(tile[k]), targets[k] != 0.0)
    return total


@reduction
def sum_linear(tile: Any, targets: Any) -> float:
    """Σ t·(−l)."""
    total = 0.0
    for k in range(tile.size):
        total += keep(-targets[k] * tile[k], targets[k] != 0.0)
    return total


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
    scratch: Any, targets: Any,  # float64: TILE; TILE or empty
    losses: Any,
    out: Any, out_steps: Any,
) -> None:  # fmt: skip
    """Losses, and gradients where `out` is not empty, of rows first..last−1."""
    y_start, y_outer, y_inner, y_step = y_steps
    t_start, t_outer, t_inner, t_step = t_steps
    out_start, out_outer, out_inner, out_step = out_steps
    dense = t.size > 0
    for n in range(first, last):
        o = n // inner
        i = n - o * inner
        y_row = y_start + o * y_outer + i * y_inner
        t_row = t_start + o * t_outer + i * t_inner
        out_row = out_start + o * out_outer + i * out_inner
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
            bad = 0.0
            for lo in range(0, classes, TILE):
                size = min(TILE, classes - lo)
                tile = scratch[:size]
                load(y, y_row + lo * y_step, y_step, 0.0, 1.0, tile)
                bad += count_not_finite(tile)
                if dense:
                    weights = class_weight[lo : lo + size] if class_weight.size else class_weight
                    load_targets(t, t_row + lo * t_step, t_step, t_scale, t_shift, weights, targets[:size])
                    loss += sum_linear(tile, targets[:size]) if logarithmic else sum_log(tile, targets[:size])
                if lo <= target < lo + size and hit != 0.0:
                    loss -= hit * (tile[target - lo] if logarithmic else log(tile[target - lo]))
            loss = np.nan if bad > 0.0 else weight * loss
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
