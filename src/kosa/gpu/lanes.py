"""What the kernels of dense losses are made of: rows of classes in tiles of ROWS × BLOCK, (ROWS,) figures of whole rows.

W is the working type, float32 or float64; E the type of what is computed once a row. Each place of a tile is a lane that
keeps a pair (m, R) (`elementary`) of the logits that pass it, and where targets are spread over the classes their mass
Σ t and their spread Σ t·(m − z). DENSE: there are such targets; CAPPED: logits have a softcap; SMOOTHED: targets are
smoothed. Masked logits are −inf and masked targets 0, which adds nothing.
"""

import triton
import triton.language as tl

from kosa.gpu.elementary import (
    INF,
    cap_slope,
    capped,
    decay,
    grown,
    joined,
    log1p,
    lowest,
    narrow,
    single,
    widen,
)  # fmt: skip


@triton.jit
def float64(x):
    """An argument as a float64 scalar; in the interpreter it is a Python float."""
    return tl.full((), x, tl.float64)


@triton.jit
def numbers_of_rows(first, rows, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Return the numbers of a program's rows, and which of them there are. WIDE: more than 32 bits can count."""
    if WIDE:
        first = first.to(tl.int64)
    n = first * ROWS + tl.arange(0, ROWS)
    return n, n < rows


@triton.jit
def starts(x, n, inner, outer, inside):
    """Where rows begin: (ROWS, 1) pointers."""
    at = (n // inner).to(tl.int64) * outer + (n % inner).to(tl.int64) * inside
    return (x + at)[:, None]


@triton.jit
def raw_at(at, mask, POLICY: tl.constexpr):
    """Logits as they lie; −inf where masked. A mask of None is worth having: see docs/gpu.md."""
    if mask is None:
        return tl.load(at, eviction_policy=POLICY)
    else:
        return tl.load(at, mask=mask, other=-INF, eviction_policy=POLICY)


@triton.jit
def ready(z, mask, softcap, CAPPED: tl.constexpr, W: tl.constexpr):
    """Logits in W, capped; −inf where masked."""
    z = widen(z, W)
    if CAPPED:
        z = capped(z, softcap.to(W))
        if mask is not None:
            z = tl.where(mask, z, -INF)
    return z


@triton.jit
def logits_at(at, mask, softcap, CAPPED: tl.constexpr, W: tl.constexpr, POLICY: tl.constexpr):
    """Logits in W, capped; −inf where masked."""
    return ready(raw_at(at, mask, POLICY), mask, softcap, CAPPED, W)


@triton.jit
def targets_at(
    t_row, t_step, class_weight, k, mask, t_scale, t_shift, SMOOTHED: tl.constexpr, W: tl.constexpr
):  # fmt: skip
    """class_weight·(t_scale·t + t_shift) in W, 0 where masked; t_shift alone where there is no distribution."""
    if t_row is not None:
        at = t_row + k.to(tl.int64) * t_step
        t = widen(tl.load(at) if mask is None else tl.load(at, mask=mask, other=0.0), W)
        if SMOOTHED:
            t = tl.fma(t, t_scale.to(W), t_shift.to(W))
    else:
        t = tl.where(k >= 0, t_shift.to(W), 0.0)
    if SMOOTHED and mask is not None:
        t = tl.where(mask, t, 0.0)
    if class_weight is not None:
        if mask is None:
            t *= widen(tl.load(class_weight + k), W)
        else:
            t *= widen(tl.load(class_weight + k, mask=mask, other=0.0), W)
    return t


@triton.jit
def what_rows_are(
    n, ok, z_row, z_step, index, ignore, class_weight, row_weight, lse_weight, softcap, z_loss, t_scale, t_shift, classes,
    DENSE: tl.constexpr, CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, W: tl.constexpr,
    E: tl.constexpr,
):  # fmt: skip
    """Of each row: is it read, does its loss count, is its index no class; weight, weight of its lse; target, logit
    there, units of target on it, and units that smoothing put there besides. Weights are in E, the type of a row's end.
    """
    weight = tl.full(n.shape, 1.0, E)
    lse_w = tl.full(n.shape, 0.0, E)
    if row_weight is not None:
        weight = widen(tl.load(row_weight + n, mask=ok, other=0.0), E)
    if lse_weight is not None:
        lse_w = widen(tl.load(lse_weight + n, mask=ok, other=0.0), E)
    counts = ok & (weight != 0.0)
    target = tl.full(n.shape, -1, tl.int64)
    z_hit = tl.full(n.shape, 0.0, W)
    hit, t_hit = tl.full(n.shape, 0.0, E), tl.full(n.shape, 0.0, E)
    bad = n < 0
    if index is not None:
        raw = tl.load(index + n, mask=ok, other=0)
        target = raw.to(tl.int64)
        is_class = (target >= 0) & (target < classes)
        ignored = target == ignore
        counts = counts & (ignored == 0)
        here = counts & is_class
        hit += t_scale.to(E)
        t_hit += t_shift.to(E)
        if class_weight is not None:
            of_class = widen(tl.load(class_weight + target, mask=here, other=1.0), E)
            hit *= of_class
            t_hit *= of_class
        if not DENSE:
            counts = counts & ((hit != 0.0) | (tl.full(n.shape, z_loss, tl.float64) != 0.0))
        if not SMOOTHED:
            t_hit *= 0.0
        here = (counts & is_class)[:, None]
        at = z_row + tl.where(here, target[:, None] * z_step, 0)
        z_hit = tl.reshape(logits_at(at, here, softcap, CAPPED, W, ""), z_hit.shape)
        bad = counts & (is_class == 0)
    live = counts | (ok & (lse_w != 0.0))
    hit = tl.where(counts, hit, 0.0)
    t_hit = tl.where(counts, t_hit, 0.0)
    target = tl.where(counts, target, -1)
    return live, counts, bad, weight, lse_w, target, z_hit, hit, t_hit


@triton.jit
def joined_lanes(m, r, mass, spread, rate, DENSE: tl.constexpr):
    """One pair a row of all its lanes; with the mass Σ t and the spread Σ t·(m − z) of its targets."""
    top, rest = joined(m, r, rate, 1)
    all_mass, all_spread = top * 0.0, top * 0.0
    if DENSE:
        all_mass = tl.sum(mass, 1)
        all_spread = tl.sum(spread + tl.where(mass == 0.0, 0.0, mass * (top[:, None] - m)), 1)
    return top, rest, all_mass, all_spread


@triton.jit
def whole_tile(z, t, rate, DENSE: tl.constexpr):
    """The state of rows that are one tile."""
    m, r = single(z)
    top, rest = joined(m, r, rate, 1)
    mass, spread = top * 0.0, top * 0.0
    if DENSE:
        mass = tl.sum(t, 1)
        spread = tl.sum(tl.where(t == 0.0, 0.0, t * (top[:, None] - z)), 1)
    return top, rest, mass, spread


@triton.jit
def one_more(m, r, mass, spread, z, t, rate, DENSE: tl.constexpr):
    """The state of lanes after one more logit each."""
    if DENSE:
        part = tl.where(z > m, mass, t)
        spread += tl.where(part == 0.0, 0.0, part * tl.abs(z - m))
        mass += t
    m, r = grown(m, r, z, rate)
    return m, r, mass, spread


@triton.jit
def both(rows, classes):
    """The mask of a tile; None: all rows are there."""
    if rows is None:
        return classes
    else:
        return rows & classes


@triton.jit
def span_of(
    z_row, z_step, t_row, t_step, class_weight, there, first, last, classes, rate, softcap, t_scale, t_shift,
    DENSE: tl.constexpr, CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """The state of rows after classes first..last−1. there: (ROWS, 1), which rows may be read; None: all.

    Only the end of a row ends within a tile, so the mask there asks for k < classes: of that number the compiler may know
    that it is a multiple of 16, which makes 16-byte loads.
    """
    lanes = tl.arange(0, BLOCK)[None, :]
    m = tl.full((ROWS, BLOCK), lowest(W), W)
    r = tl.full((ROWS, BLOCK), -1.0, W)
    mass = tl.full((ROWS, BLOCK), 0.0, W)
    spread = tl.full((ROWS, BLOCK), 0.0, W)
    t = mass
    whole = first + (last - first) // BLOCK * BLOCK
    begin = first
    if not DENSE:
        begin = first + (last - first) // (4 * BLOCK) * (4 * BLOCK)
        for start in range(first, begin, 4 * BLOCK):  # four loads are under way before the first is used
            k = (start + lanes).to(tl.int64)
            z0 = raw_at(z_row + k * z_step, there, POLICY)
            z1 = raw_at(z_row + (k + BLOCK) * z_step, there, POLICY)
            z2 = raw_at(z_row + (k + 2 * BLOCK) * z_step, there, POLICY)
            z3 = raw_at(z_row + (k + 3 * BLOCK) * z_step, there, POLICY)
            m, r = grown(m, r, ready(z0, there, softcap, CAPPED, W), rate)
            m, r = grown(m, r, ready(z1, there, softcap, CAPPED, W), rate)
            m, r = grown(m, r, ready(z2, there, softcap, CAPPED, W), rate)
            m, r = grown(m, r, ready(z3, there, softcap, CAPPED, W), rate)
    for start in range(begin, whole, BLOCK):
        k = start + lanes
        z = logits_at(z_row + k.to(tl.int64) * z_step, there, softcap, CAPPED, W, POLICY)
        if DENSE:
            t = targets_at(t_row, t_step, class_weight, k, there, t_scale, t_shift, SMOOTHED, W)
        m, r, mass, spread = one_more(m, r, mass, spread, z, t, rate, DENSE)
    if whole < last:
        k = whole + lanes
        rest = both(there, k < classes)
        z = logits_at(z_row + k.to(tl.int64) * z_step, rest, softcap, CAPPED, W, POLICY)
        if DENSE:
            t = targets_at(t_row, t_step, class_weight, k, rest, t_scale, t_shift, SMOOTHED, W)
        m, r, mass, spread = one_more(m, r, mass, spread, z, t, rate, DENSE)
    return joined_lanes(m, r, mass, spread, rate, DENSE)


@triton.jit
def sum_in_any_order(x, axis: tl.constexpr):
    """Σ x, float64, the same bits however a reduction goes about it: on a grid of 2⁻⁵⁰ of the largest term."""
    x = x.to(tl.float64)
    finite = tl.where(tl.abs(x) < INF, x, 0.0)
    largest = tl.max(tl.abs(finite), axis)
    unit = tl.where(largest > 0.0, largest, 1.0)
    steps = (finite / tl.expand_dims(unit, axis) * 1125899906842624.0).to(tl.int64)
    total = tl.sum(steps, axis).to(tl.float64) * (unit * 8.881784197001252e-16)
    return total + tl.sum(x - finite, axis)  # infinity and NaN stay


@triton.jit
def joined_spans(m, r, mass, spread, rate, DENSE: tl.constexpr):
    """One pair a row of all its spans: (1, SPANS) → (1,)."""
    top = tl.max(m, 1)
    over = top[:, None]
    wins = m == over
    e = decay(m - over, rate)
    rest = sum_in_any_order(tl.where(wins, r, (r + 1.0) * e), 1) + (tl.sum(wins.to(tl.float64), 1) - 1.0)
    all_mass, all_spread = top * 0.0, top * 0.0
    if DENSE:
        all_mass = sum_in_any_order(mass, 1).to(m.dtype)
        gap = tl.where(mass == 0.0, 0.0, mass * (over - m))
        all_spread = sum_in_any_order(spread + gap, 1).to(m.dtype)
    return top, rest.to(m.dtype), all_mass, all_spread


@triton.jit
def end_of_rows(m, r, mass, spread, z_hit, hit, weight, counts, bad, beta, z_loss, E: tl.constexpr):
    """Return loss, lse, and R: NaN in rows that are no distribution. In E, but for log1p, which W serves."""
    r = tl.where((m < INF) & (r >= 0.0), r, float("nan"))
    u = log1p(r).to(E)
    b = beta.to(E)
    gap = tl.where(z_hit == m, 0.0, m.to(E) - z_hit.to(E)) * b
    lse = m.to(E) * b + u
    mass = mass.to(E)
    loss = (
        tl.where(hit != 0.0, hit * (u + gap), 0.0) + tl.where(mass != 0.0, mass * u, 0.0) + spread.to(E) * b
    )
    z_loss = z_loss.to(E)
    loss += tl.where(z_loss != 0.0, z_loss * lse * lse, 0.0)
    loss = tl.where((u == u) & (bad == 0), loss, float("nan"))
    return tl.where(counts, weight * loss, 0.0), lse, r


@triton.jit
def slopes_of_rows(
    m, r, mass, lse, z_hit, hit, t_hit, weight, lse_w, counts, bad, live, scale_at, scale, beta, z_loss, rate,
    W: tl.constexpr, E: tl.constexpr,
):  # fmt: skip
    """What the gradient of a row's classes is made of, (ROWS, 1) in W: e·factor − s·t, at a maximum of more than a half
    (total − s·t) − rest, which does not cancel there, and `at_hit` at the index. Rows that are not live have m = 0 and 0.
    """
    if scale_at is not None:
        scale = tl.load(scale_at)
    b = beta.to(E)
    s = tl.where(counts, scale.to(E) * weight, 0.0) * b
    others = lse_w * b
    others += tl.where(counts, s * (mass.to(E) + 2.0 * z_loss.to(E) * lse), 0.0)
    r = r.to(E)
    total = tl.where(bad, float("nan"), s * hit + others)
    rest = total * (r / (1.0 + r))
    factor = total / (1.0 + r)
    usual = factor * decay(z_hit - m, rate).to(E) - s * (hit + t_hit)
    at_hit = tl.where(z_hit == m, (others - s * t_hit) - rest, usual)
    confident = live & (r < 1.0)
    return (
        tl.where(live, m, 0.0)[:, None],
        tl.where(live, factor, 0.0).to(W)[:, None],
        tl.where(live, s, 0.0).to(W)[:, None],
        tl.where(live, total, 0.0).to(W)[:, None],
        tl.where(live, rest, 0.0).to(W)[:, None],
        tl.where(live, at_hit, 0.0).to(W)[:, None],
        confident[:, None],
    )


@triton.jit
def gradient(
    raw, t, k, target, m, factor, s, total, rest, at_hit, confident, rate, softcap,
    DENSE: tl.constexpr, CAPPED: tl.constexpr, INDEXED: tl.constexpr,
):  # fmt: skip
    """The gradient with respect to the logits of a tile."""
    z = raw
    if CAPPED:
        z = capped(raw, softcap.to(raw.dtype))
    g = factor * decay(z - m, rate)
    if DENSE:
        g = tl.where((z == m) & confident, (total - s * t) - rest, g - s * t)
    if INDEXED:
        g = tl.where(k == target[:, None].to(k.dtype), at_hit, g)
    if CAPPED:
        g *= cap_slope(raw, softcap.to(raw.dtype))
    return g


@triton.jit
def write_tile(
    raw, t_row, t_step, o_row, o_step, class_weight, mask, live, target, k,
    m, factor, s, total, rest, at_hit, confident, rate, softcap, t_scale, t_shift,
    DENSE: tl.constexpr, CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, INDEXED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of classes k, whose logits are `raw`; 0 in rows that are not live, be they NaN."""
    t = raw
    if DENSE:
        t = targets_at(t_row, t_step, class_weight, k, mask, t_scale, t_shift, SMOOTHED, raw.dtype)
    g = gradient(
        raw, t, k, target, m, factor, s, total, rest, at_hit, confident, rate, softcap, DENSE, CAPPED, INDEXED
    )
    if ROWS > 1:
        g = tl.where(live[:, None], g, 0.0)
    at = o_row + k.to(tl.int64) * o_step
    g = narrow(g, o_row.dtype.element_ty)
    if mask is None:
        tl.store(at, g, eviction_policy="evict_first")
    else:
        tl.store(at, g, mask=mask, eviction_policy="evict_first")


@triton.jit
def write_span(
    z_row, z_step, t_row, t_step, o_row, o_step, class_weight, there, live, target, first, last, classes,
    m, factor, s, total, rest, at_hit, confident, rate, softcap, t_scale, t_shift,
    DENSE: tl.constexpr, CAPPED: tl.constexpr, SMOOTHED: tl.constexpr, INDEXED: tl.constexpr, W: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of classes first..last−1."""
    lanes = tl.arange(0, BLOCK)[None, :]
    whole = first + (last - first) // BLOCK * BLOCK
    begin = first
    if not DENSE:
        begin = first + (last - first) // (2 * BLOCK) * (2 * BLOCK)
        for start in range(first, begin, 2 * BLOCK):
            k = start + lanes
            z0 = logits_at(z_row + k.to(tl.int64) * z_step, there, softcap, False, W, "evict_first")
            z1 = logits_at(z_row + (k + BLOCK).to(tl.int64) * z_step, there, softcap, False, W, "evict_first")
            write_tile(
                z0, t_row, t_step, o_row, o_step, class_weight, there, live, target, k,
                m, factor, s, total, rest, at_hit, confident, rate, softcap, t_scale, t_shift,
                DENSE, CAPPED, SMOOTHED, INDEXED, ROWS,
            )  # fmt: skip
            write_tile(
                z1, t_row, t_step, o_row, o_step, class_weight, there, live, target, k + BLOCK,
                m, factor, s, total, rest, at_hit, confident, rate, softcap, t_scale, t_shift,
                DENSE, CAPPED, SMOOTHED, INDEXED, ROWS,
            )  # fmt: skip
    for start in range(begin, whole, BLOCK):
        k = start + lanes
        raw = logits_at(z_row + k.to(tl.int64) * z_step, there, softcap, False, W, "evict_first")
        write_tile(
            raw, t_row, t_step, o_row, o_step, class_weight, there, live, target, k,
            m, factor, s, total, rest, at_hit, confident, rate, softcap, t_scale, t_shift,
            DENSE, CAPPED, SMOOTHED, INDEXED, ROWS,
        )  # fmt: skip
    if whole < last:
        k = whole + lanes
        mask = both(there, k < classes)
        raw = logits_at(z_row + k.to(tl.int64) * z_step, mask, softcap, False, W, "evict_first")
        write_tile(
            raw, t_row, t_step, o_row, o_step, class_weight, mask, live, target, k,
            m, factor, s, total, rest, at_hit, confident, rate, softcap, t_scale, t_shift,
            DENSE, CAPPED, SMOOTHED, INDEXED, ROWS,
        )  # fmt: skip


@triton.jit
def write_zeros(o_row, o_step, first, last, classes, BLOCK: tl.constexpr):
    """Write 0 to classes first..last−1 of one row."""
    for start in range(first, last, BLOCK):
        k = start + tl.arange(0, BLOCK)[None, :]
        at = o_row + k.to(tl.int64) * o_step
        tl.store(at, tl.full((1, BLOCK), 0.0, o_row.dtype.element_ty), mask=k < classes)


@triton.jit
def only(x):
    """The one entry of a tensor, as a scalar."""
    return tl.sum(x, 0)


@triton.jit
def rows_there(ok, ROWS: tl.constexpr):
    """The mask of a program's rows, (ROWS, 1); None for a program of one row."""
    if ROWS == 1:
        return None
    else:
        return ok[:, None]
