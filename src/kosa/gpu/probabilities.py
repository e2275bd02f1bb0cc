"""Cross-entropy from probabilities or log-probabilities, taken as they are.

N rows, K classes: E = −Σ t·log y, or −Σ t·l. Rows are read whole although an index needs one entry only: NaN or +inf
anywhere in a row makes it NaN. A term with t = 0 is 0; a target of probability 0 is +inf. The gradient is −t/y, or −t.
Arguments are those of `rows.cross_entropy_rows`, without what acts on logits. LOGARITHMIC: log-probabilities.
"""

import triton
import triton.language as tl

from kosa.gpu.elementary import INF, log, narrow, widen
from kosa.gpu.lanes import float64, numbers_of_rows, starts, targets_at, what_rows_are


@triton.jit
def terms(
    y_row, y_step, t_row, t_step, class_weight, read, k, t_scale, t_shift,
    DENSE: tl.constexpr, SMOOTHED: tl.constexpr, LOGARITHMIC: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """t·(−log y) of classes k, 0 where there are no targets; NaN where y is NaN or +inf."""
    y = widen(tl.load(y_row + k.to(tl.int64) * y_step, mask=read, other=1.0), W)
    if DENSE:
        t = targets_at(t_row, t_step, class_weight, k, read, t_scale, t_shift, SMOOTHED, W)
        x = tl.where(t != 0.0, t * (-y if LOGARITHMIC else -log(y)), 0.0)
    else:
        x = y * 0.0
    return tl.where(y < INF, tl.where(x == x, x, float("nan")) if DENSE else 0.0, float("nan"))


@triton.jit
def write_slopes(
    y_row, y_step, t_row, t_step, o_row, o_step, class_weight, here, live, target, k, s, s_hit, nothing, t_scale, t_shift,
    DENSE: tl.constexpr, SMOOTHED: tl.constexpr, LOGARITHMIC: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Write −s·t/y, or −s·t, of classes k; at the index −s_hit/y more. `nothing`: 0, or NaN for the whole row."""
    y = widen(tl.load(y_row + k.to(tl.int64) * y_step, mask=here, other=1.0), W)
    g = tl.where(k == target[:, None], s_hit, 0.0)
    if DENSE:
        g += s * targets_at(t_row, t_step, class_weight, k, here, t_scale, t_shift, SMOOTHED, W)
    if not LOGARITHMIC:
        g = tl.where(g != 0.0, g / y, 0.0)
    g = tl.where(nothing == 0.0, tl.where(live[:, None], 0.0 - g, 0.0), nothing)
    tl.store(o_row + k.to(tl.int64) * o_step, narrow(g, o_row.dtype.element_ty), mask=here)


@triton.jit
def cross_entropy_probabilities(
    y, y_outer, y_inside, y_step,
    index, ignore: tl.int64,
    t, t_outer, t_inside, t_step,
    class_weight, row_weight,
    scale_at, scale: tl.float64, t_scale: tl.float64, t_shift: tl.float64,
    losses, out, o_outer, o_inside, o_step,
    rows, inner, classes,
    DENSE: tl.constexpr, SMOOTHED: tl.constexpr, LOGARITHMIC: tl.constexpr, WIDE: tl.constexpr,
    W: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Losses and gradients of ROWS rows."""
    n, ok = numbers_of_rows(tl.program_id(0), rows, ROWS, WIDE)
    scale, t_scale, t_shift = float64(scale), float64(t_scale), float64(t_shift)
    y_row = starts(y, n, inner, y_outer, y_inside)
    t_row = None
    if t is not None:
        t_row = starts(t, n, inner, t_outer, t_inside)
    live, _, bad, weight, _, target, y_hit, hit, _ = what_rows_are(
        n, ok, y_row, y_step, index, ignore, class_weight, row_weight, None, t_scale, t_scale * 0.0, t_scale, t_shift,
        classes, DENSE, False, SMOOTHED, W, E,
    )  # fmt: skip
    lanes = tl.arange(0, BLOCK)[None, :]
    total = tl.full((ROWS, BLOCK), 0.0, W)
    whole = classes // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        total += terms(
            y_row, y_step, t_row, t_step, class_weight, ok[:, None], start + lanes, t_scale, t_shift,
            DENSE, SMOOTHED, LOGARITHMIC, W,
        )  # fmt: skip
    if whole < classes:
        k = whole + lanes
        total += terms(
            y_row, y_step, t_row, t_step, class_weight, ok[:, None] & (k < classes), k, t_scale, t_shift,
            DENSE, SMOOTHED, LOGARITHMIC, W,
        )  # fmt: skip
    loss = tl.sum(total, 1).to(E)
    of_hit = y_hit if LOGARITHMIC else log(y_hit)
    loss -= tl.where(hit != 0.0, hit * of_hit.to(E), 0.0)
    loss = tl.where(live, tl.where(bad, float("nan"), weight * loss), 0.0)
    tl.store(losses + n, loss.to(tl.float64), mask=ok)

    if out is not None:
        o_row = starts(out, n, inner, o_outer, o_inside)
        if scale_at is not None:
            scale = tl.load(scale_at)
        s = tl.where(live, scale.to(E) * weight, 0.0)
        s_hit = (s * hit).to(W)[:, None]
        nothing = tl.where(loss == loss, 0.0, float("nan")).to(W)[:, None]
        s = s.to(W)[:, None]
        here = ok[:, None]
        tl.debug_barrier()  # in place: no store before every warp has read the entry of the index
        for start in range(0, whole, BLOCK):
            write_slopes(
                y_row, y_step, t_row, t_step, o_row, o_step, class_weight, here, live, target, start + lanes, s, s_hit,
                nothing, t_scale, t_shift, DENSE, SMOOTHED, LOGARITHMIC, W,
            )  # fmt: skip
        if whole < classes:
            k = whole + lanes
            write_slopes(
                y_row, y_step, t_row, t_step, o_row, o_step, class_weight, here & (k < classes), live, target, k, s,
                s_hit, nothing, t_scale, t_shift, DENSE, SMOOTHED, LOGARITHMIC, W,
            )  # fmt: skip
