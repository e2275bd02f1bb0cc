"""What evaluation wants to know of each row, in float64 and in one reading (two for distributions, whose Brier score
needs the final probabilities).

N rows, K classes. A program takes BLOCK_N rows in steps of BLOCK_K classes; row n is (o, i) = (n // inner, n % inner), at
o·outer + i·inside, and its classes lie `step` apart. Each of the BLOCK_N·BLOCK_K lanes has sums of its own over
the classes that pass through it, all but the largest m of them (e = exp(z − m)):
    r = Σ e      h = Σ e·(m − z)      q = Σ e²      at = where m first stood
A larger z moves m, and the old m joins the sums: with e = exp(−|z − m|) and f = e where m moves, else 1,
    r ← f·r + e      h ← f·h + |z − m|·(r where m moves, else e)      q ← f²·q + e²
Every term is ≥ 0, and an element costs one exp. Lanes meet at the end of the row. So R = Σ r belongs to all classes but
the first maximum, as the CPU engine's does:
    lse = m + log1p(R)    confidence = 1/(1 + R)    entropy = log1p(R) + H/(1 + R)    p − 1 at the maximum = −R/(1 + R)
A lane that saw nothing has m = LOWEST and r = q = −1: not even a maximum is there, and every rule holds as it stands,
for r + 1 = 0 joins nothing. NaN makes q NaN and stays; so does a second +inf, and then the row is read once more for NaN.

A row with NaN or +inf, or of logits that are all −inf, is NaN in every figure; the argmax of a row with NaN is −1. An
index out of range reads nothing, and its loss and Brier score are NaN.
"""

import triton
import triton.language as tl

from kosa.gpu.elementary import widen
from kosa.gpu.float64 import expm1_64, log1p64, tanh64

LOGITS: tl.constexpr = tl.constexpr(0)
PROBS: tl.constexpr = tl.constexpr(1)
LOG_PROBS: tl.constexpr = tl.constexpr(2)
_INF: tl.constexpr = tl.constexpr(float("inf"))
_LOWEST: tl.constexpr = tl.constexpr(-1.7976931348623157e308)
_FAR: tl.constexpr = tl.constexpr(1e300)  # a distance at which exp is 0: 0·FAR = 0, and 0·∞ is not
_NOWHERE: tl.constexpr = tl.constexpr(2**31 - 1)


@triton.jit
def transformed(x, softcap, temperature, CAPPED: tl.constexpr, TEMPERED: tl.constexpr):
    """The logit that the loss is of, float64."""
    z = widen(x, tl.float64)
    if CAPPED:
        z = softcap * tanh64(z / softcap)
    if TEMPERED:
        z = z / temperature
    return z


@triton.jit
def minus_x_log_x(x):
    """−x·log x, 0 at 0."""
    return tl.where(x == 0.0, 0.0, -x * tl.log(x))


@triton.jit
def times(weight, x):
    """weight·x with 0·∞ = 0."""
    return tl.where(weight == 0.0, 0.0, weight * x)


@triton.jit
def row_statistics_rows(
    x, x_outer, x_inside, x_step,  # predictions, any float format
    index,  # (N,) integers, or None
    t, t_outer, t_inside, t_step,  # distributions, any float format, or None
    class_weight, row_weight,  # (K,) and (N,), any float format, or None
    loss, lse, argmax, confidence, entropy, brier, target_entropy,  # (N,) float64, argmax int64
    rows, inner, classes, ignore,
    softcap: tl.float64, temperature: tl.float64, z_loss: tl.float64,  # a plain float would be float32
    t_scale: tl.float64, t_shift: tl.float64,  # of smoothing
    KIND: tl.constexpr, CAPPED: tl.constexpr, TEMPERED: tl.constexpr, Z_LOSS: tl.constexpr, SMOOTHED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Fill the figures of BLOCK_N rows; those of targets only where there are targets."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = n < rows
    o = n // inner
    i = n - o * inner
    x_row = x + (o * x_outer + i * x_inside)
    with_targets: tl.constexpr = (index is not None) or (t is not None)
    spreads: tl.constexpr = SMOOTHED or (t is not None)  # targets on more classes than one

    m = tl.full([BLOCK_N, BLOCK_K], _LOWEST, tl.float64)
    r = tl.full([BLOCK_N, BLOCK_K], 0.0 if KIND == PROBS else -1.0, tl.float64)
    h = tl.zeros([BLOCK_N, BLOCK_K], tl.float64)
    q = tl.full([BLOCK_N, BLOCK_K], -1.0 if KIND == LOGITS else 0.0, tl.float64)
    at = tl.full([BLOCK_N, BLOCK_K], _NOWHERE, tl.int32)
    mass = tl.zeros([BLOCK_N, BLOCK_K], tl.float64)  # Σ t after weighting and smoothing
    spread = tl.zeros([BLOCK_N, BLOCK_K], tl.float64)  # Σ t·(m − z), or Σ t·(−log p)
    own_entropy = tl.zeros([BLOCK_N, BLOCK_K], tl.float64)
    for lo in range(0, classes, BLOCK_K):
        k = lo + tl.arange(0, BLOCK_K)
        inside = is_row[:, None] & (k < classes)[None, :]
        place = k.to(tl.int64)[None, :] * x_step
        z = tl.load(x_row[:, None] + place, mask=inside, other=0.0)
        z = transformed(z, softcap, temperature, CAPPED, TEMPERED)
        z = tl.where(inside, z, -_INF)
        higher = z > m
        top = tl.where(higher, z, m)
        if spreads:
            own = tl.zeros([BLOCK_N, BLOCK_K], tl.float64)
            if t is not None:
                t_place = (o * t_outer + i * t_inside)[:, None] + k.to(tl.int64)[None, :] * t_step
                own = tl.load(t + t_place, mask=inside, other=0.0)
                own = widen(own, tl.float64)
                own_entropy += minus_x_log_x(own)
            w = own * t_scale + t_shift
            if class_weight is not None:
                w *= widen(tl.load(class_weight + k, mask=k < classes, other=0.0), tl.float64)[None, :]
            w = tl.where(inside, w, 0.0)
            if KIND == LOGITS:
                spread += times(tl.where(higher, mass, 0.0), top - m)
                spread += times(w, tl.where(z == -_INF, _INF, top - z))
                mass += w
            elif KIND == PROBS:
                spread += times(w, -tl.log(z))
            else:
                spread += times(w, -z)
        if KIND == PROBS:
            y = tl.where(inside, z, 0.0)
            r += y
            h += minus_x_log_x(y)
            low = tl.where(higher, m, z)
            q += tl.where(low <= _LOWEST, 0.0, low * low)
        else:
            gap = tl.abs(z - m)
            e = tl.exp(-gap)
            f = tl.where(higher, e, 1.0)
            r = f * r + e
            if KIND == LOGITS:
                h = f * h + tl.minimum(gap, _FAR) * tl.where(higher, r, e)
                q = f * f * q + e * e
            else:
                low = tl.where(higher, m, z)
                p_low = tl.exp(low)
                h += times(p_low, -low)
                q += p_low * p_low
        at = tl.where(higher, k[None, :], at)
        m = top

    peak = tl.max(m, axis=1)
    first = tl.min(tl.where(m == peak[:, None], at, _NOWHERE), axis=1)
    won = at == first[:, None]  # its m is the row's; the others' join the sums
    gap = peak[:, None] - m
    e = tl.exp(-gap)
    gap = tl.minimum(gap, _FAR)
    if KIND == LOGITS:
        h = tl.where(won, h, e * h + gap * (e * (r + 1.0)))
        q = tl.where(won, q, e * e * (q + 1.0))
        spread += times(tl.where(won, 0.0, mass), gap)
    elif KIND == PROBS:
        q += tl.where(won | (m == _LOWEST), 0.0, m * m)
    else:
        p_lanes = tl.exp(m)
        h += times(p_lanes, -m)
        q += tl.where(won, 0.0, p_lanes * p_lanes)
    if KIND != PROBS:
        r = tl.where(won, r, e * (r + 1.0))
    r, h, q = tl.sum(r, axis=1), tl.sum(h, axis=1), tl.sum(q, axis=1)
    mass, spread = tl.sum(mass, axis=1), tl.sum(spread, axis=1)
    peak = tl.where(peak == _LOWEST, -_INF, peak)
    no_number = q != q
    spoiled = no_number | (peak == _INF)
    if KIND == LOGITS:
        doubtful = no_number & (peak == _INF)
        if tl.max(doubtful.to(tl.int32), axis=0) > 0:
            nans = tl.zeros([BLOCK_N, BLOCK_K], tl.int32)
            for lo in range(0, classes, BLOCK_K):
                k = lo + tl.arange(0, BLOCK_K)
                inside = is_row[:, None] & (k < classes)[None, :]
                z = tl.load(x_row[:, None] + k.to(tl.int64)[None, :] * x_step, mask=inside, other=0.0)
                nans += (z != z).to(tl.int32)
            no_number = no_number & ((peak != _INF) | (tl.sum(nans, axis=1) > 0))
    first = tl.where(first == _NOWHERE, 0, first)

    # p = factor·e of logits; 1 − p at the maximum
    factor, beside = tl.full([BLOCK_N], 1.0, tl.float64), 1.0 - peak
    top, u = peak, log1p64(r)
    if KIND == LOGITS:
        spoiled = spoiled | (peak == -_INF)
        factor = 1.0 / (1.0 + r)
        top, beside = factor, r * factor
        sum_log, h = peak + u, u + h * factor
    elif KIND == PROBS:
        sum_log = tl.log(r)
    else:
        top, beside = tl.exp(peak), -expm1_64(peak)
        sum_log = tl.where(peak == -_INF, peak, peak + u)
    tl.store(lse + n, tl.where(spoiled, float("nan"), sum_log), mask=is_row)
    tl.store(argmax + n, tl.where(no_number, -1, first).to(tl.int64), mask=is_row)
    tl.store(confidence + n, tl.where(spoiled, float("nan"), top), mask=is_row)
    if entropy is not None:
        tl.store(entropy + n, tl.where(spoiled, float("nan"), h), mask=is_row)

    if with_targets:
        total = spread
        if KIND == LOGITS:
            total += times(mass, u)
        weight = tl.full([BLOCK_N], 1.0, tl.float64)
        if row_weight is not None:
            weight = widen(tl.load(row_weight + n, mask=is_row, other=0.0), tl.float64)
        counts = weight != 0.0
        distant = tl.zeros([BLOCK_N], tl.float64)  # the Brier score
        if index is not None:
            target = tl.load(index + n, mask=is_row, other=0).to(tl.int64)
            ignored = target == ignore
            wrong = ((target < 0) | (target >= classes)) & (ignored == 0)
            target = tl.where(wrong | ignored, 0, target)
            z = tl.load(x_row + target * x_step, mask=is_row, other=0.0)
            z = transformed(z, softcap, temperature, CAPPED, TEMPERED)
            hit = tl.zeros([BLOCK_N], tl.float64) + t_scale
            if class_weight is not None:
                hit *= widen(tl.load(class_weight + target, mask=is_row, other=0.0), tl.float64)
            if KIND == LOGITS:
                total += times(hit, u + (peak - z))
                p = factor * tl.exp(z - peak)
            elif KIND == PROBS:
                total += times(hit, -tl.log(z))
                p = z
            else:
                total += times(hit, -z)
                p = tl.exp(z)
            counts = counts & (ignored == 0)
            others = q * factor * factor
            distant = tl.where(
                target == first,
                others + beside * beside,
                tl.maximum(others - p * p, 0.0) + top * top + (1.0 - p) * (1.0 - p),
            )
            distant = tl.where(ignored, 0.0, tl.where(spoiled | wrong, float("nan"), distant))
            if not SMOOTHED and not Z_LOSS:
                counts = counts & ((hit != 0.0) | wrong)
            total = tl.where(wrong, float("nan"), total)
            tl.store(target_entropy + n, tl.zeros([BLOCK_N], tl.float64), mask=is_row)
        else:
            sums = tl.zeros([BLOCK_N, BLOCK_K], tl.float64)
            for lo in range(0, classes, BLOCK_K):
                k = lo + tl.arange(0, BLOCK_K)
                inside = is_row[:, None] & (k < classes)[None, :]
                place = k.to(tl.int64)[None, :] * x_step
                z = tl.load(x_row[:, None] + place, mask=inside, other=0.0)
                z = transformed(z, softcap, temperature, CAPPED, TEMPERED)
                t_place = (o * t_outer + i * t_inside)[:, None] + k.to(tl.int64)[None, :] * t_step
                own = widen(tl.load(t + t_place, mask=inside, other=0.0), tl.float64)
                if KIND == LOGITS:
                    d = factor[:, None] * tl.exp(z - peak[:, None]) - own
                    d = tl.where(k[None, :] == first[:, None], (1.0 - own) - beside[:, None], d)
                elif KIND == PROBS:
                    d = z - own
                else:
                    d = tl.exp(z) - own
                sums += tl.where(inside, d * d, 0.0)
            distant = tl.where(spoiled, float("nan"), tl.sum(sums, axis=1))
            tl.store(target_entropy + n, tl.sum(own_entropy, axis=1), mask=is_row)
        if Z_LOSS:
            total += z_loss * sum_log * sum_log
        total = tl.where(spoiled, float("nan"), total)
        tl.store(loss + n, tl.where(counts, weight * total, 0.0), mask=is_row)
        tl.store(brier + n, distant, mask=is_row)
