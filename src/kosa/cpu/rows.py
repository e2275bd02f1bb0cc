"""Cross-entropy from logits, a row at a time: for rows long enough to vectorise along their classes.

N rows, K classes. W is the working type (float32; float64 for 64-bit input or where softcap or temperature act).
A row is taken in tiles of TILE classes: a tile is read from memory once, widened to W, and stays in L1 while it is
worked on. Each tile has its own maximum m and sum r = Σ exp(z − m); tiles merge by rescaling to the larger maximum, so
a row of any length works within a core's own cache.

NaN or +inf in a row, or nothing but −inf: that row is NaN. K = 0 never gets here. No rows: nothing is done.
"""

from typing import Any

import numpy as np

from kosa.cpu._bits import (
    LINE,
    finish_streaming,
    item_bytes,
    keep,
    larger,
    narrow,
    offset_in_line,
    prefer_wide_vectors,
    prefetch,
    stream_line,
    widen,
)
from kosa.cpu._compile import kernel, part, reduction
from kosa.cpu.elementary import exp, log1p, sech2, tanh

TILE = 4096  # 16 KiB of float32: a third of the smallest L1 in use
_BLOCK = 256  # classes summed in W before their total goes to float64
_SHARE = 64 * _BLOCK // TILE  # of the 64 lines of a page, those asked for at each block


@part
def load(z: Any, start: int, step: int, softcap: float, temperature: float, tile: Any) -> Any:
    """Fill `tile` with transformed logits and return their maximum."""
    prefer_wide_vectors()
    highest = tile.dtype.type(-np.inf)
    if softcap == 0.0 and temperature == 1.0:
        if step == 1:
            row = z[start : start + tile.size]
            for k in range(tile.size):
                value = widen(row[k], tile)
                tile[k] = value
                highest = larger(highest, value)
            return highest
        for k in range(tile.size):
            tile[k] = widen(z[start + k * step], tile)
    elif softcap == 0.0:
        for k in range(tile.size):
            tile[k] = widen(z[start + k * step], tile) / temperature
    else:
        for k in range(tile.size):
            tile[k] = softcap * tanh(np.float64(widen(z[start + k * step], tile)) / softcap) / temperature
    for k in range(tile.size):
        highest = larger(highest, tile[k])
    return highest


@part
def load_targets(
    t: Any, start: int, step: int, scale: float, shift: float, class_weight: Any, tile: Any
) -> None:
    """Fill `tile` with class_weight·(scale·t + shift), the targets after smoothing and weighting."""
    prefer_wide_vectors()
    if step == 1 and scale == 1.0 and shift == 0.0:
        row = t[start : start + tile.size]
        for k in range(tile.size):
            tile[k] = widen(row[k], tile)
    else:
        for k in range(tile.size):
            tile[k] = np.float64(widen(t[start + k * step], tile)) * scale + shift
    if class_weight.size:
        for k in range(tile.size):
            tile[k] *= class_weight[k]


@reduction
def sum_exp(tile: Any, m: Any) -> float:
    """Replace z by exp(z − m) and return its sum."""
    prefer_wide_vectors()
    s = tile.dtype.type(0)
    for k in range(tile.size):
        e = exp(tile[k] - m)
        s += e
        tile[k] = e
    return np.float64(s)


@reduction
def sum_beside_ones(tile: Any) -> tuple[float, float]:
    """Return Σ e over e ≠ 1, and how many e = 1: nothing is added to 1."""
    prefer_wide_vectors()
    one = tile.dtype.type(1)
    s = tile.dtype.type(0)
    c = tile.dtype.type(0)
    for k in range(tile.size):
        e = tile[k]
        s += keep(e, e != one)
        c += keep(one, e == one)
    return np.float64(s), np.float64(c)


@part
def prefetch_block(x: Any, start: int, block: int) -> None:
    """Ask for the share of x[start : start + TILE] that goes with this block of the tile before it.

    Memory is at full speed only while some fifty lines are under way. The hardware runs about twenty lines ahead, and
    not across a page: so the tile to come is asked for in all its pages at once, a few lines before each block.
    """
    page, line = 4096 // item_bytes(x), LINE // item_bytes(x)
    for i in range(block * _SHARE, block * _SHARE + _SHARE):
        for head in range(start, start + TILE, page):
            prefetch(x, head + i * line)


@part
def sum_exp_tile(tile: Any, m: Any, z: Any, z_next: int, t: Any, t_next: int) -> float:
    """Replace z by exp(z − m) and return its sum less 1, the term of the maximum; −1 for a tile of nothing but −inf.

    Blocks are summed in W, their totals in float64. Meanwhile the next tile is on its way (−1: none is).
    """
    prefer_wide_vectors()
    total = 0.0
    for lo in range(0, tile.size, _BLOCK):
        if z_next >= 0:
            prefetch_block(z, z_next, lo // _BLOCK)
        if t_next >= 0:
            prefetch_block(t, t_next, lo // _BLOCK)
        total += sum_exp(tile[lo : min(lo + _BLOCK, tile.size)], m)
    if total < 1.5:
        # The maximum outweighs all others: their sum must not be taken as what is left of 1 + sum.
        total, rest = 0.0, 0.0
        for lo in range(0, tile.size, _BLOCK):
            s, ones = sum_beside_ones(tile[lo : min(lo + _BLOCK, tile.size)])
            rest += s
            total += ones
        return rest + (total - 1.0)
    return total - 1.0


@reduction
def sum_targets(tile: Any, targets: Any, m: Any) -> tuple[float, float]:
    """Return Σ t·(m − z), where 0·∞ = 0, and Σ t."""
    prefer_wide_vectors()
    total, mass = 0.0, 0.0
    for lo in range(0, tile.size, _BLOCK):
        z = tile[lo : min(lo + _BLOCK, tile.size)]
        t = targets[lo : min(lo + _BLOCK, tile.size)]
        s = tile.dtype.type(0)
        c = tile.dtype.type(0)
        for k in range(z.size):
            s += keep(t[k] * (m - z[k]), t[k] != 0)
            c += t[k]
        total += np.float64(s)
        mass += np.float64(c)
    return total, mass


@part
def row_loss(
    m: float, r: float, z_hit: float, hit: float, mass: float, spread: float, z_loss: float
) -> float:
    """The loss of a row: `hit` units of target on logit z_hit, `mass` more units at Σ t·(m − z) = spread."""
    u = log1p(r)
    loss = keep(hit * (u + (m - z_hit)), hit != 0.0) + keep(mass * u, mass != 0.0) + spread
    lse = m + u
    return loss + keep(z_loss * lse * lse, z_loss != 0.0) + 0.0 * r  # 0·r: a row that is NaN stays so


@part
def scale_by(tile: Any, factor: float) -> None:
    """tile ← factor·tile."""
    f = tile.dtype.type(factor)
    for k in range(tile.size):
        tile[k] *= f


@part
def slopes_dense(
    tile: Any, targets: Any, factor: float, total: float, rest: float, scale: float, at_peak: bool
) -> None:
    """tile ← factor·tile − scale·t; at a maximum of p > ½ scale·((total − t) − rest), which does not cancel there."""
    prefer_wide_vectors()
    f, c, d, s = (
        tile.dtype.type(factor), tile.dtype.type(total), tile.dtype.type(rest), tile.dtype.type(scale)
    )  # fmt: skip
    one = tile.dtype.type(1) if at_peak else tile.dtype.type(-1)
    for k in range(tile.size):
        e, t = tile[k], targets[k]
        usual = f * e - s * t
        peak = s * ((c - t) - d)
        tile[k] = keep(usual, e != one) + keep(peak, e == one)


@part
def chain(z: Any, start: int, step: int, softcap: float, temperature: float, tile: Any) -> None:
    """tile ← tile·∂(transformed logit)/∂(logit)."""
    for k in range(tile.size):
        x = np.float64(widen(z[start + k * step], tile))
        slope = sech2(x / softcap) / temperature if softcap != 0.0 else 1.0 / temperature
        tile[k] *= slope


@part
def store(tile: Any, scale: float, out: Any, start: int, step: int, stream: bool) -> None:
    """Write scale·tile in the format of `out`; past the caches if `stream`."""
    prefer_wide_vectors()
    f = tile.dtype.type(scale)
    if step != 1:
        for k in range(tile.size):
            out[start + k * step] = narrow(f * tile[k], out)
        return
    head, tail = 0, 0
    if stream and out.itemsize == tile.itemsize:
        line = LINE // out.itemsize
        head = min(tile.size, (LINE - offset_in_line(out, start)) % LINE // out.itemsize)
        tail = head + (tile.size - head) // line * line
        for k in range(head, tail, line):
            stream_line(out, start + k, tile, k, f)
    row = out[start : start + head]
    for k in range(row.size):
        row[k] = narrow(f * tile[k], row)
    row, rest = out[start + tail : start + tile.size], tile[tail:]
    for k in range(row.size):
        row[k] = narrow(f * rest[k], row)


@kernel
def cross_entropy_rows(
    z: Any, z_steps: Any,  # logits, any float format
    index: Any, ignore: int, index_weight: Any,  # (N,) int64 or empty; (K,) float64 or empty
    t: Any, t_steps: Any, class_weight: Any,  # a distribution a row, any float format, or empty; (K,) or empty
    row_weight: Any, lse_weight: Any,  # (N,) float64 or empty: what each row's loss and log-partition count in gradients
    numbers: Any,  # scale of gradients, z_loss, softcap (0: none), temperature, scale and shift of t
    inner: int, classes: int, first: int, last: int,
    scratch: Any, targets: Any, peaks: Any,  # W: K or TILE; W: likewise; float64: the maximum of each tile
    losses: Any,  # (N,) float64
    out: Any, out_steps: Any, stream: bool,  # the gradient, or empty; whether to write it past the caches
) -> None:  # fmt: skip
    """Losses, and gradients where `out` is not empty, of rows first..last−1.

    The gradient is that of scale·Σ (row_weight·loss + lse_weight·lse).
    """
    prefer_wide_vectors()
    scale, z_loss, softcap, temperature, t_scale, t_shift = numbers
    z_start, z_outer, z_inner, z_step = z_steps
    t_start, t_outer, t_inner, t_step = t_steps
    out_start, out_outer, out_inner, out_step = out_steps
    with_grad = out.size > 0
    distributions = t.size > 0
    transformed = softcap != 0.0 or temperature != 1.0
    for n in range(first, last):
        i, o = 0, n
        if inner != 1:
            o = n // inner
            i = n - o * inner
        z_row = z_start + o * z_outer + i * z_inner
        t_row = t_start + o * t_outer + i * t_inner
        out_row = out_start + o * out_outer + i * out_inner
        weight = row_weight[n] if row_weight.size else 1.0
        lse_w = lse_weight[n] if lse_weight.size else 0.0
        target, hit, counts = -1, 0.0, weight != 0.0
        if index.size:
            target = index[n]
            if target == ignore:
                counts = False
            else:
                hit = index_weight[target] if index_weight.size else 1.0
                counts = counts and (hit != 0.0 or distributions or z_loss != 0.0)
        dense = distributions and counts
        if not counts and lse_w != 0.0:
            target, hit, weight = -1, 0.0, 0.0
        elif not counts:
            losses[n] = 0.0
            if with_grad:
                for lo in range(0, classes, TILE):
                    tile = scratch[: min(TILE, classes - lo)]
                    tile[:] = 0
                    store(tile, 1.0, out, out_row + lo * out_step, out_step, False)
            continue

        m, r = -np.inf, 0.0  # maximum so far, Σ exp(z − m) without one occurrence of m
        mass, spread, z_hit, t_hit = 0.0, 0.0, 0.0, 0.0
        for lo in range(0, classes, TILE):
            size = min(TILE, classes - lo)
            base = lo if with_grad else 0
            tile = scratch[base : base + size]
            highest = load(z, z_row + lo * z_step, z_step, softcap, temperature, tile)
            if lo <= target < lo + size:
                z_hit = np.float64(tile[target - lo])
            reference = tile.dtype.type(0) if highest == -np.inf else highest
            m_tile = np.float64(highest)
            if dense:
                t_tile = targets[base : base + size]
                weights = class_weight[lo : lo + size] if class_weight.size else class_weight
                load_targets(t, t_row + lo * t_step, t_step, t_scale, t_shift, weights, t_tile)
                if lo <= target < lo + size:
                    t_hit = np.float64(t_tile[target - lo])
                d, a = sum_targets(tile, t_tile, reference)
                if m_tile > m:
                    spread += d + keep(mass * (m_tile - m), mass != 0.0 and m != -np.inf)
                else:
                    spread += d + keep(a * (m - np.float64(reference)), a != 0.0 and m != -np.inf)
                mass += a
            z_next = z_row + lo + size if z_step == 1 else -1
            t_next = t_row + lo + size if dense and t_step == 1 and t_outer != 0 else -1
            beside = sum_exp_tile(tile, reference, z, z_next, t, t_next)
            peaks[lo // TILE] = m_tile
            if m_tile > m:
                r = (r + 1.0) * exp(m - m_tile) + beside if m != -np.inf else r + beside
                m = m_tile
            elif highest == -np.inf:
                r += beside + 1.0
            else:
                r += (beside + 1.0) * exp(m_tile - m)
        if m == np.inf or m == -np.inf:
            r = np.nan
        losses[n] = weight * row_loss(m, r, z_hit, hit, mass, spread, z_loss) if counts else 0.0

        if with_grad:
            s_row, extra = scale, lse_w
            if counts:
                s_row = scale * weight
                extra = lse_w / weight
                if z_loss != 0.0:
                    extra += 2.0 * z_loss * (m + log1p(r))
            total = hit + mass + extra
            rest = total * r / (1.0 + r)
            for lo in range(0, classes, TILE):
                size = min(TILE, classes - lo)
                tile = scratch[lo : lo + size]
                m_tile = peaks[lo // TILE]
                factor = s_row * total / (1.0 + r) * (exp(m_tile - m) if m_tile != -np.inf else 1.0)
                hit_here = lo <= target < lo + size
                in_tile = (
                    dense or transformed
                )  # whether the gradient is finished in the tile, or while it is stored
                if dense:
                    slopes_dense(
                        tile, targets[lo : lo + size], factor, total, rest, s_row, m_tile == m and r < 1.0
                    )
                elif transformed:
                    scale_by(tile, factor)
                if in_tile:
                    factor = 1.0
                at_target = 0.0
                if hit_here:
                    at_target = factor * tile[target - lo] - s_row * hit
                    if z_hit == m:
                        at_target = s_row * ((mass + extra - t_hit) - rest)
                    if in_tile:
                        tile[target - lo] = at_target
                if transformed:
                    chain(z, z_row + lo * z_step, z_step, softcap, temperature, tile)
                store(tile, factor, out, out_row + lo * out_step, out_step, stream)
                if hit_here and not in_tile:
                    out[out_row + target * out_step] = narrow(tile.dtype.type(at_target), out)
    if stream:
        finish_streaming()
