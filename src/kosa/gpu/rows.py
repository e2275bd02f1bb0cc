"""Cross-entropy from logits: one family of kernels for rows of any length and layout.

N rows, K classes. W is the working type: float32, or float64 for 64-bit logits. A program takes ROWS rows (1 where rows
are long) and walks over their classes in tiles of ROWS × BLOCK. Each place of the tile is a lane that keeps a pair (m, R)
of its own (`elementary`), so a logit costs one exponential and nothing is rescaled that did not grow; the lanes of a row
are joined once, at the end of a span of SPAN classes, and the spans of a row at the row's end. The gradient reads the row
again, from the cache where the first reading left it; a row of one tile stays in registers.

What is None is compiled away: `index` or `t`, `class_weight`, `row_weight`, `lse_weight`, `out`, and `scale_at`, where
the scale of the gradient is read if it is not the number `scale`. Row n of a tensor begins at (n // inner)·outer +
(n % inner)·inside, its classes are `step` apart. Offsets have 64 bits.

Where there are too few rows to fill a card, spans go to programs of their own: `cross_entropy_spans`,
`cross_entropy_joined` and `cross_entropy_slopes` do in three launches what `cross_entropy_rows` does in one, and come to
the same bits.

NaN or +inf in a row, nothing but −inf, or an index that is no class: NaN in that row alone, and no memory is read out of
range. Ignored rows and rows of weight 0 are not read at all, and are 0.
"""

import triton
import triton.language as tl

from kosa.gpu.elementary import INF, capped, lowest, narrow, rate_of
from kosa.gpu.lanes import (
    end_of_rows,
    float64,
    gradient,
    joined_spans,
    logits_at,
    numbers_of_rows,
    only,
    rows_there,
    slopes_of_rows,
    span_of,
    starts,
    targets_at,
    what_rows_are,
    whole_tile,
    write_span,
    write_zeros,
)  # fmt: skip


@triton.jit
def cross_entropy_rows(
    z, z_outer, z_inside, z_step,  # logits, any float format
    index, ignore: tl.int64,  # (N,) integers
    t, t_outer, t_inside, t_step,  # a distribution a row, any float format
    class_weight, row_weight, lse_weight,  # (K,), (N,), (N,): what the gradient takes of each row's lse
    scale_at, scale: tl.float64, beta: tl.float64, softcap: tl.float64, z_loss: tl.float64,  # beta: 1/temperature
    t_scale: tl.float64, t_shift: tl.float64,  # what smoothing makes of targets
    losses,  # (N,) float64
    out, o_outer, o_inside, o_step,  # the gradient of scale·Σ losses + Σ lse_weight·lse; may be the logits
    rows, inner, classes,
    DENSE: tl.constexpr, CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, WIDE: tl.constexpr,
    W: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr,
    SPANS: tl.constexpr,  # 0: the row is one tile
):  # fmt: skip
    """Losses and gradients of ROWS rows."""
    scale, beta, softcap, z_loss = float64(scale), float64(beta), float64(softcap), float64(z_loss)
    t_scale, t_shift = float64(t_scale), float64(t_shift)
    n, ok = numbers_of_rows(tl.program_id(0), rows, ROWS, WIDE)
    z_row = starts(z, n, inner, z_outer, z_inside)
    t_row = None
    if t is not None:
        t_row = starts(t, n, inner, t_outer, t_inside)
    rate = rate_of(beta, W)
    live, counts, bad, weight, lse_w, target, z_hit, hit, t_hit = what_rows_are(
        n, ok, z_row, z_step, index, ignore, class_weight, row_weight, lse_weight, softcap, z_loss, t_scale, t_shift,
        classes, DENSE, CAPPED, SMOOTHED, W, E,
    )  # fmt: skip
    there = rows_there(ok, ROWS)
    end = classes
    if ROWS == 1:
        end = only(tl.where(live, classes, 0))  # a row that is not live is not read
    if SPANS == 0:
        k = tl.arange(0, BLOCK)[None, :]
        here = ok[:, None] & (k < classes)
        raw = logits_at(z_row + k.to(tl.int64) * z_step, here, softcap, False, W, "")
        z_tile = raw
        t_tile = raw
        if CAPPED:
            z_tile = tl.where(here, capped(raw, softcap.to(W)), -INF)
        if DENSE:
            t_tile = targets_at(t_row, t_step, class_weight, k, here, t_scale, t_shift, SMOOTHED, W)
        m, r, mass, spread = whole_tile(z_tile, t_tile, rate, DENSE)
    elif SPANS == 1:
        m, r, mass, spread = span_of(
            z_row, z_step, t_row, t_step, class_weight, there, 0, end, classes, rate, softcap, t_scale, t_shift,
            DENSE, CAPPED, SMOOTHED, W, ROWS, BLOCK, "evict_last" if out is not None else "evict_first",
        )  # fmt: skip
    else:
        which = tl.arange(0, SPANS)[None, :]
        ms = tl.full((ROWS, SPANS), lowest(W), W)
        rs = tl.full((ROWS, SPANS), -1.0, W)
        masses = tl.full((ROWS, SPANS), 0.0, W)
        spreads = tl.full((ROWS, SPANS), 0.0, W)
        for i in range(tl.cdiv(end, SPAN)):
            m, r, mass, spread = span_of(
                z_row, z_step, t_row, t_step, class_weight, there, i * SPAN, tl.minimum(i * SPAN + SPAN, classes),
                classes, rate, softcap, t_scale, t_shift, DENSE, CAPPED, SMOOTHED, W, ROWS, BLOCK,
                "evict_last" if out is not None else "evict_first",
            )  # fmt: skip
            here = which == i
            ms = tl.where(here, m[:, None], ms)
            rs = tl.where(here, r[:, None], rs)
            if DENSE:
                masses = tl.where(here, mass[:, None], masses)
                spreads = tl.where(here, spread[:, None], spreads)
        m, r, mass, spread = joined_spans(ms, rs, masses, spreads, rate, DENSE)
    loss, lse, r = end_of_rows(m, r, mass, spread, z_hit, hit, weight, counts, bad, beta, z_loss, E)
    tl.store(losses + n, loss.to(tl.float64), mask=ok)

    if out is not None:
        o_row = starts(out, n, inner, o_outer, o_inside)
        m, factor, s, total, rest, at_hit, confident = slopes_of_rows(
            m, r, mass, lse, z_hit, hit, t_hit, weight, lse_w, counts, bad, live, scale_at, scale, beta, z_loss, rate,
            W, E,
        )  # fmt: skip
        tl.debug_barrier()  # in place: no store before every warp has read the logit of the index
        if SPANS == 0:
            g = gradient(
                raw, t_tile, k, target, m, factor, s, total, rest, at_hit, confident, rate, softcap,
                DENSE, CAPPED, index is not None,
            )  # fmt: skip
            g = tl.where(live[:, None], g, 0.0)
            at = o_row + k.to(tl.int64) * o_step
            tl.store(at, narrow(g, out.dtype.element_ty), mask=here, eviction_policy="evict_first")
        else:
            write_span(
                z_row, z_step, t_row, t_step, o_row, o_step, class_weight, there, live, target, 0, end, classes,
                m, factor, s, total, rest, at_hit, confident, rate, softcap, t_scale, t_shift,
                DENSE, CAPPED, SMOOTHED, index is not None, W, ROWS, BLOCK,
            )  # fmt: skip
            if ROWS == 1:
                write_zeros(o_row, o_step, end, classes, classes, BLOCK)


@triton.jit
def cross_entropy_spans(
    z, z_outer, z_inside, z_step,
    index, ignore: tl.int64,
    t, t_outer, t_inside, t_step,
    class_weight, row_weight, lse_weight,
    beta: tl.float64, softcap: tl.float64, z_loss: tl.float64, t_scale: tl.float64, t_shift: tl.float64,
    states,  # (N, 4, SPANS) of W: m, R, mass and spread of each span
    inner, classes,
    DENSE: tl.constexpr, CAPPED: tl.constexpr, SMOOTHED: tl.constexpr,
    W: tl.constexpr, E: tl.constexpr, BLOCK: tl.constexpr, SPAN: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """The state of one span of one row."""
    i = tl.program_id(0)
    n = tl.program_id(1) + tl.arange(0, 1)
    beta, softcap, z_loss = float64(beta), float64(softcap), float64(z_loss)
    t_scale, t_shift = float64(t_scale), float64(t_shift)
    z_row = starts(z, n, inner, z_outer, z_inside)
    t_row = None
    if t is not None:
        t_row = starts(t, n, inner, t_outer, t_inside)
    live, _, _, _, _, _, _, _, _ = what_rows_are(
        n, n >= 0, z_row, z_step, index, ignore, class_weight, row_weight, lse_weight, softcap, z_loss, t_scale, t_shift,
        classes, DENSE, CAPPED, SMOOTHED, W, E,
    )  # fmt: skip
    last = tl.where(only(live.to(tl.int32)) > 0, tl.minimum(i * SPAN + SPAN, classes), i * SPAN)
    m, r, mass, spread = span_of(
        z_row, z_step, t_row, t_step, class_weight, None, i * SPAN, last, classes,
        rate_of(beta, W), softcap, t_scale, t_shift, DENSE, CAPPED, SMOOTHED, W, 1, BLOCK, "",
    )  # fmt: skip
    at = states + n * (4 * SPANS) + i
    tl.store(at, m)
    tl.store(at + SPANS, r)
    if DENSE:
        tl.store(at + 2 * SPANS, mass)
        tl.store(at + 3 * SPANS, spread)


@triton.jit
def joined_states(
    states, n, classes, rate, DENSE: tl.constexpr, W: tl.constexpr, SPAN: tl.constexpr, SPANS: tl.constexpr
):
    """The state of one row from those of its spans."""
    i = tl.arange(0, SPANS)[None, :]
    there = i < tl.cdiv(classes, SPAN)
    at = states + n[:, None] * (4 * SPANS) + i
    ms = tl.load(at, mask=there, other=lowest(W))
    rs = tl.load(at + SPANS, mask=there, other=-1.0)
    masses, spreads = ms, rs
    if DENSE:
        masses = tl.load(at + 2 * SPANS, mask=there, other=0.0)
        spreads = tl.load(at + 3 * SPANS, mask=there, other=0.0)
    return joined_spans(ms, rs, masses, spreads, rate, DENSE)


@triton.jit
def cross_entropy_joined(
    z, z_outer, z_inside, z_step,
    index, ignore: tl.int64,
    class_weight, row_weight, lse_weight,
    scale_at, scale: tl.float64, beta: tl.float64, softcap: tl.float64, z_loss: tl.float64,
    t_scale: tl.float64, t_shift: tl.float64,
    states, losses,
    slopes,  # (N, 8) of W: what `slopes_of_rows` returns, and 1 for a row that is live, 2 for one that counts; or None
    inner, classes,
    DENSE: tl.constexpr, CAPPED: tl.constexpr, SMOOTHED: tl.constexpr,
    W: tl.constexpr, E: tl.constexpr, SPAN: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """The loss of one row from the states of its spans, and what its gradient is made of."""
    n = tl.program_id(0) + tl.arange(0, 1)
    scale, beta, softcap, z_loss = float64(scale), float64(beta), float64(softcap), float64(z_loss)
    t_scale, t_shift = float64(t_scale), float64(t_shift)
    rate = rate_of(beta, W)
    z_row = starts(z, n, inner, z_outer, z_inside)
    live, counts, bad, weight, lse_w, _, z_hit, hit, t_hit = what_rows_are(
        n, n >= 0, z_row, z_step, index, ignore, class_weight, row_weight, lse_weight, softcap, z_loss, t_scale, t_shift,
        classes, DENSE, CAPPED, SMOOTHED, W, E,
    )  # fmt: skip
    m, r, mass, spread = joined_states(states, n, classes, rate, DENSE, W, SPAN, SPANS)
    loss, lse, r = end_of_rows(m, r, mass, spread, z_hit, hit, weight, counts, bad, beta, z_loss, E)
    tl.store(losses + n, loss.to(tl.float64))
    if slopes is not None:
        m, factor, s, total, rest, at_hit, confident = slopes_of_rows(
            m, r, mass, lse, z_hit, hit, t_hit, weight, lse_w, counts, bad, live, scale_at, scale, beta, z_loss, rate,
            W, E,
        )  # fmt: skip
        at = (slopes + n * 8)[:, None]
        tl.store(at, m)
        tl.store(at + 1, factor)
        tl.store(at + 2, s)
        tl.store(at + 3, total)
        tl.store(at + 4, rest)
        tl.store(at + 5, at_hit)
        tl.store(at + 6, confident.to(W))
        tl.store(at + 7, (live.to(W) + counts.to(W))[:, None])


@triton.jit
def cross_entropy_slopes(
    z, z_outer, z_inside, z_step,
    index,
    t, t_outer, t_inside, t_step,
    class_weight, beta: tl.float64, softcap: tl.float64, t_scale: tl.float64, t_shift: tl.float64,
    slopes, out, o_outer, o_inside, o_step,
    inner, classes,
    DENSE: tl.constexpr, CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, W: tl.constexpr, BLOCK: tl.constexpr,
    SPAN: tl.constexpr,
):  # fmt: skip
    """The gradient of one span of one row."""
    i = tl.program_id(0)
    n = tl.program_id(1) + tl.arange(0, 1)
    z_row = starts(z, n, inner, z_outer, z_inside)
    t_row = None
    if t is not None:
        t_row = starts(t, n, inner, t_outer, t_inside)
    target = tl.full(n.shape, -1, tl.int64)
    at = (slopes + n * 8)[:, None]
    state = tl.load(slopes + n * 8 + 7)
    live = state > 0.0
    if index is not None:
        target = tl.where(state > 1.0, tl.load(index + n).to(tl.int64), -1)
    o_row = starts(out, n, inner, o_outer, o_inside)
    first, last = i * SPAN, tl.minimum(i * SPAN + SPAN, classes)
    end = tl.where(only(live.to(tl.int32)) > 0, last, first)
    write_span(
        z_row, z_step, t_row, t_step, o_row, o_step, class_weight, None, live, target, first, end, classes,
        tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4), tl.load(at + 5),
        tl.load(at + 6) != 0.0, rate_of(float64(beta), W), float64(softcap), float64(t_scale), float64(t_shift),
        DENSE, CAPPED, SMOOTHED, index is not None, W, 1, BLOCK,
    )  # fmt: skip
    write_zeros(o_row, o_step, end, last, classes, BLOCK)
