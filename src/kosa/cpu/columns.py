"""Cross-entropy from logits, many rows side by side: for few classes, and for a class axis that is not the last.

N rows, K classes, B rows a block. A row of few classes is too short to vectorise along, so a block of rows is laid out
as a K×B tile of the working type W (transposed from rows, or copied where rows already lie side by side, as in
N×C×H×W) and every step runs across its B lanes. A lane's arithmetic is the same whichever lane it is. Lanes beyond the
last row compute on what the tile held before, and are not stored.

Semantics, options and arguments are those of `rows.cross_entropy_rows`.
"""

from typing import Any

import numpy as np

from kosa.cpu._bits import choose, keep, larger, narrow, prefer_wide_vectors, widen
from kosa.cpu._compile import kernel, part
from kosa.cpu.elementary import exp, log1p, sech2, tanh

_BLOCK = 16  # classes summed in W before their total goes to float64


@part
def load_lanes(
    x: Any, start: int, lane_step: int, class_step: int, classes: int, count: int, tile: Any
) -> None:
    """tile[k, b] ← x of row b, class k."""
    prefer_wide_vectors()
    lanes = tile.size // classes
    if lane_step == 1:
        for k in range(classes):
            source = x[start + k * class_step : start + k * class_step + count]
            target = tile[k * lanes : k * lanes + count]
            for b in range(count):
                target[b] = widen(source[b], tile)
    else:
        for k in range(classes):
            target = tile[k * lanes : k * lanes + count]
            at = start + k * class_step
            for b in range(count):
                target[b] = widen(x[at], tile)
                at += lane_step


@part
def store_lanes(
    tile: Any, classes: int, count: int, out: Any, start: int, lane_step: int, class_step: int
) -> None:
    """Write the first `count` lanes of the tile in the format of `out`."""
    prefer_wide_vectors()
    lanes = tile.size // classes
    if lane_step == 1:
        for k in range(classes):
            source = tile[k * lanes : k * lanes + count]
            target = out[start + k * class_step : start + k * class_step + count]
            for b in range(count):
                target[b] = narrow(source[b], out)
    else:
        for k in range(classes):
            source = tile[k * lanes : k * lanes + count]
            at = start + k * class_step
            for b in range(count):
                out[at] = narrow(source[b], out)
                at += lane_step


@part
def transform_lanes(softcap: float, temperature: float, tile: Any) -> None:
    """z ← softcap·tanh(z/softcap)/temperature."""
    if softcap == 0.0:
        for k in range(tile.size):
            tile[k] = tile[k] / temperature
    else:
        for k in range(tile.size):
            tile[k] = softcap * tanh(np.float64(tile[k]) / softcap) / temperature


@part
def maxima(tile: Any, reference: Any, highest: Any) -> None:
    """The largest logit of each lane, and what to subtract: the same, or 0 where it is −inf."""
    prefer_wide_vectors()
    lanes = reference.size
    one = tile.dtype.type(-np.inf)
    reference[:] = one
    for lo in range(0, tile.size, lanes):
        z = tile[lo : lo + lanes]
        for b in range(lanes):
            reference[b] = larger(reference[b], z[b])
    for b in range(lanes):
        highest[b] = np.float64(reference[b])
        reference[b] = keep(reference[b], reference[b] != one)


@part
def sum_exp_lanes(tile: Any, reference: Any, partial: Any, ones: Any, r: Any) -> None:
    """z ← exp(z − m); r ← its sum less 1, the term of the maximum, which is not taken from a sum it outweighs."""
    prefer_wide_vectors()
    lanes = reference.size
    one = tile.dtype.type(1)
    r[:] = 0.0
    for lo in range(0, tile.size, _BLOCK * lanes):
        partial[:] = 0
        for at in range(lo, min(lo + _BLOCK * lanes, tile.size), lanes):
            block = tile[at : at + lanes]
            for b in range(lanes):
                e = exp(block[b] - reference[b])
                partial[b] += e
                block[b] = e
        for b in range(lanes):
            r[b] += np.float64(partial[b])
    confident = 0.0
    for b in range(lanes):
        confident = larger(confident, keep(1.0, r[b] < 1.5))
        r[b] -= 1.0
    if confident == 0.0:
        return
    partial[:] = 0
    ones[:] = -1
    for at in range(0, tile.size, lanes):
        block = tile[at : at + lanes]
        for b in range(lanes):
            partial[b] += keep(block[b], block[b] != one)
            ones[b] += keep(one, block[b] == one)
    for b in range(lanes):
        r[b] = choose(r[b] < 0.5, np.float64(partial[b]) + np.float64(ones[b]), r[b])


@part
def sum_targets_lanes(tile: Any, targets: Any, reference: Any, mass: Any, spread: Any) -> None:
    """mass ← Σ t, spread ← Σ t·(m − z), where 0·∞ = 0."""
    prefer_wide_vectors()
    lanes = reference.size
    mass[:] = 0.0
    spread[:] = 0.0
    for lo in range(0, tile.size, lanes):
        z, t = tile[lo : lo + lanes], targets[lo : lo + lanes]
        for b in range(lanes):
            spread[b] += np.float64(keep(t[b] * (reference[b] - z[b]), t[b] != 0))
            mass[b] += np.float64(t[b])


@part
def look_up(
    index: Any, ignore: int, index_weight: Any, row_weight: Any, n: int, count: int, z_loss: float,
    tile: Any, targets: Any, weight: Any, live: Any, hit: Any, z_hit: Any, t_hit: Any,
) -> int:  # fmt: skip
    """Look up each lane's weight, its target's weight and logit, and whether it counts; return how many do not."""
    lanes = weight.size
    dropped = 0
    if row_weight.size:
        weight[:count] = row_weight[n : n + count]
    if not index.size:
        for b in range(count):
            live[b] = weight[b] != 0.0
            dropped += not live[b]
        return dropped
    for b in range(count):
        target = index[n + b]
        counts = target != ignore
        target = target if counts else 0
        at = target * lanes + b
        one = index_weight[target] if index_weight.size else 1.0
        hit[b] = keep(one, counts)
        z_hit[b] = tile[at]
        if targets.size:
            t_hit[b] = targets[at]
        else:
            counts = counts and (one != 0.0 or z_loss != 0.0)
        live[b] = counts and weight[b] != 0.0
        dropped += not live[b]
    return dropped


@part
def lane_losses(
    highest: Any,
    r: Any,
    z_hit: Any,
    hit: Any,
    mass: Any,
    spread: Any,
    z_loss: float,
    dense: bool,
    u: Any,
    loss: Any,
) -> None:
    """u ← log1p(r), loss as `rows.row_loss`. A loop takes few arrays: with more, LLVM gives up telling them apart."""
    prefer_wide_vectors()
    lanes = r.size
    for b in range(lanes):
        r[b] = choose(abs(highest[b]) == np.inf, np.nan, r[b])
    for b in range(lanes):
        u[b] = log1p(r[b])
    for b in range(lanes):
        loss[b] = keep(hit[b] * (u[b] + (highest[b] - z_hit[b])), hit[b] != 0.0) + 0.0 * u[b]
    if dense:
        for b in range(lanes):
            loss[b] += keep(mass[b] * u[b], mass[b] != 0.0) + spread[b]
    if z_loss != 0.0:
        for b in range(lanes):
            lse = highest[b] + u[b]
            loss[b] += z_loss * lse * lse


@part
def slopes_lanes(tile: Any, factor: Any) -> None:
    """e ← factor·e."""
    prefer_wide_vectors()
    lanes = factor.size
    for lo in range(0, tile.size, lanes):
        block = tile[lo : lo + lanes]
        for b in range(lanes):
            block[b] *= factor[b]


@part
def slopes_dense_lanes(
    tile: Any, targets: Any, factor: Any, total: Any, rest: Any, scale: Any, peak_at: Any
) -> None:
    """e ← factor·e − scale·t; where e = peak_at scale·((total − t) − rest), which does not cancel there."""
    prefer_wide_vectors()
    lanes = factor.size
    for lo in range(0, tile.size, lanes):
        block, targets_block = tile[lo : lo + lanes], targets[lo : lo + lanes]
        for b in range(lanes):
            e, t = block[b], targets_block[b]
            usual = factor[b] * e - scale[b] * t
            peak = scale[b] * ((total[b] - t) - rest[b])
            block[b] = keep(usual, e != peak_at[b]) + keep(peak, e == peak_at[b])


@kernel
def cross_entropy_columns(
    z: Any, z_steps: Any,
    index: Any, ignore: int, index_weight: Any,
    t: Any, t_steps: Any, class_weight: Any,
    row_weight: Any,
    numbers: Any,
    inner: int, classes: int, first: int, last: int,
    scratch: Any, targets: Any, peaks: Any,  # W: K·B; W: K·B or empty; unused
    losses: Any,
    out: Any, out_steps: Any, stream: bool,  # `stream` is not used: a tile is stored in too short pieces
) -> None:  # fmt: skip
    """Losses, and gradients where `out` is not empty, of rows first..last−1."""
    prefer_wide_vectors()
    scale, z_loss, softcap, temperature, t_scale, t_shift = numbers
    z_start, z_outer, z_inner, z_step = z_steps
    t_start, t_outer, t_inner, t_step = t_steps
    out_start, out_outer, out_inner, out_step = out_steps
    with_grad = out.size > 0
    dense = t.size > 0
    zero = scratch.dtype.type(0)
    lanes = scratch.size // classes
    small = np.zeros((7, lanes), scratch.dtype)
    reference, partial, ones, factor, total_w, rest_w, scale_w = (
        small[0], small[1], small[2], small[3], small[4], small[5], small[6]
    )  # fmt: skip
    wide = np.zeros((11, lanes))
    highest, r, mass, spread, z_hit, hit, weight, t_hit, loss, u, others = (
        wide[0], wide[1], wide[2], wide[3], wide[4], wide[5], wide[6], wide[7], wide[8], wide[9], wide[10]
    )  # fmt: skip
    weight[:] = 1.0
    live = np.ones(lanes, np.bool_)
    n = first
    while n < last:
        i, o = 0, n
        count = min(lanes, last - n)
        if inner != 1:
            o = n // inner
            i = n - o * inner
            count = min(count, inner - i)
        z_lane, t_lane, out_lane = (
            (z_outer, t_outer, out_outer) if inner == 1 else (z_inner, t_inner, out_inner)
        )  # fmt: skip
        z_block = z_start + o * z_outer + i * z_inner
        t_block = t_start + o * t_outer + i * t_inner
        out_block = out_start + o * out_outer + i * out_inner
        load_lanes(z, z_block, z_lane, z_step, classes, count, scratch)
        if softcap != 0.0 or temperature != 1.0:
            transform_lanes(softcap, temperature, scratch)
        if dense:
            load_lanes(t, t_block, t_lane, t_step, classes, count, targets)
            for k in range(classes):
                w = class_weight[k] if class_weight.size else 1.0
                if w != 1.0 or t_scale != 1.0 or t_shift != 0.0:
                    for at in range(k * lanes, k * lanes + lanes):
                        targets[at] = (np.float64(targets[at]) * t_scale + t_shift) * w
        dropped = look_up(
            index, ignore, index_weight, row_weight, n, count, z_loss, scratch, targets, weight, live, hit, z_hit, t_hit
        )  # fmt: skip
        maxima(scratch, reference, highest)
        if dense:
            sum_targets_lanes(scratch, targets, reference, mass, spread)
        sum_exp_lanes(scratch, reference, partial, ones, r)
        lane_losses(highest, r, z_hit, hit, mass, spread, z_loss, dense, u, loss)
        if dropped or row_weight.size:
            for b in range(count):
                loss[b] = choose(live[b], weight[b] * loss[b], 0.0)
        losses[n : n + count] = loss[:count]

        if with_grad:
            for b in range(lanes):
                others[b] = mass[b] + keep(2.0 * z_loss * (highest[b] + u[b]), z_loss != 0.0)
            for b in range(lanes):
                factor[b] = scale * weight[b] * (hit[b] + others[b]) / (1.0 + r[b])
            if dense:
                for b in range(lanes):
                    total_w[b] = hit[b] + others[b]
                    scale_w[b] = scale * weight[b]
                for b in range(lanes):
                    rest_w[b] = (hit[b] + others[b]) * (r[b] / (1.0 + r[b]))
                    ones[b] = choose(r[b] < 1.0, 1.0, -1.0)  # e = 1 at a maximum of p > ½
                slopes_dense_lanes(scratch, targets, factor, total_w, rest_w, scale_w, ones)
            else:
                slopes_lanes(scratch, factor)
            if index.size:
                for b in range(count):
                    if live[b]:
                        at = index[n + b] * lanes + b
                        s = scale * weight[b]
                        rest = (hit[b] + others[b]) * (r[b] / (1.0 + r[b]))
                        peak = s * ((others[b] - t_hit[b]) - rest)
                        usual = scratch[at] - s * hit[b]
                        scratch[at] = peak if z_hit[b] == highest[b] else usual
            if softcap != 0.0 or temperature != 1.0:
                for b in range(count):
                    for k in range(classes):
                        x = np.float64(widen(z[z_block + b * z_lane + k * z_step], scratch))
                        slope = sech2(x / softcap) / temperature if softcap != 0.0 else 1.0 / temperature
                        scratch[k * lanes + b] *= slope
            if dropped:
                for b in range(count):
                    if not live[b]:
                        for k in range(classes):
                            scratch[k * lanes + b] = zero
            store_lanes(scratch, classes, count, out, out_block, out_lane, out_step)
        n += count
