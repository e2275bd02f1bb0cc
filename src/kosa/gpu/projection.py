"""Kernels that evaluate hidden·weightᵀ + bias without writing a logit: tiles of the product are reduced on the chip.

N rows, K classes, D features, S splits of the classes, F figures. Of what was seen of a row, m is the largest logit z,
with e = exp((z − m)/temperature) over all logits but one that is m:
    R = Σ e      gaps = Σ e·(m − z)      squares = Σ e²      spread = Σ class_weight·(m − z)      mass = Σ class_weight
Nothing seen, or nothing but −inf, is m = LOWEST and R = squares = −1 (`elementary` says why). Logits are float32, the
accumulators of the product, and so are the figures; splits merge in float64. NaN makes R NaN and stays; +inf shows in m.
"""

import triton
import triton.language as tl

from kosa.gpu.elementary import LOWEST_F, capped, decay, log1p, rate_of, widen

_INF: tl.constexpr = tl.constexpr(float("inf"))


# What differs from batch to batch is never a constant: these kernels take seconds to compile.
@triton.jit(do_not_specialize=["rows", "splits", "group"])
def project(
    hidden, weight, bias,  # (N, D); (K, D); (K,) or None
    targets, class_weight,  # (N,) int64; (K,), or None for 1 each
    figures, places,  # (F, S, N) float32: m, R, the target's logit, and by flags
    # spread and mass, gaps and squares; (S, N) int32: where m first stood
    rows, classes, features, hidden_step, weight_step, splits, group,
    softcap, inverse_temperature: tl.float64,
    CAPPED: tl.constexpr, SPREAD: tl.constexpr, STATISTICS: tl.constexpr,  # those asked for
    PRECISION: tl.constexpr,  # of float32 products
    WHOLE: tl.constexpr,  # whether D is a multiple of BLOCK_D
    INTERPRETED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Fill the figures of BLOCK_N rows over one split of the classes.

    Programs that run at the same time share rows and classes alike: `group` blocks of rows go through all splits before
    the next ones do, so that what is read of both matrices at a time stays in L2.
    """
    program = tl.program_id(0)
    first_block = program // (group * splits) * group
    size = tl.minimum(tl.cdiv(rows, BLOCK_N) - first_block, group)
    within = program % (group * splits)
    split = (within // size).to(tl.int64)
    tiles = tl.cdiv(classes, BLOCK_K)
    n = (first_block + within % size).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = n < rows
    target = tl.load(targets + n, mask=is_row, other=-1).to(tl.int32)  # whether it is a class, `finish` sees
    rate = rate_of(inverse_temperature, tl.float32)
    # Rows and classes beyond the last are read as the last, and left out later: so the loop needs no mask.
    d = tl.arange(0, BLOCK_D)
    h_start = hidden + tl.minimum(n, rows - 1)[:, None] * hidden_step + d[None, :]

    m = tl.full([BLOCK_N], LOWEST_F, tl.float32)
    r = tl.full([BLOCK_N], -1.0, tl.float32)
    hit = tl.zeros([BLOCK_N], tl.float32)
    spread = tl.zeros([BLOCK_N], tl.float32)
    mass = tl.zeros([BLOCK_N], tl.float32)
    gaps = tl.zeros([BLOCK_N], tl.float32)
    squares = tl.full([BLOCK_N], -1.0, tl.float32)
    place = tl.zeros([BLOCK_N], tl.int32)
    for tile in range((split * tiles // splits).to(tl.int32), ((split + 1) * tiles // splits).to(tl.int32)):
        k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
        is_class = k < classes
        w_start = weight + tl.minimum(k, classes - 1).to(tl.int64)[:, None] * weight_step + d[None, :]
        z = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        for lo in range(0, features, BLOCK_D):
            if WHOLE:
                h = tl.load(h_start + lo)
                w = tl.load(w_start + lo)
            else:
                h = tl.load(h_start + lo, mask=(d < features - lo)[None, :], other=0.0)
                w = tl.load(w_start + lo, mask=(d < features - lo)[None, :], other=0.0)
            if INTERPRETED:  # its product of bfloat16 is wrong
                h = widen(h, tl.float32)
                w = widen(w, tl.float32)
            z = tl.dot(h, tl.trans(w), z, input_precision=PRECISION)
        if bias is not None:
            z += widen(tl.load(bias + tl.minimum(k, classes - 1)), tl.float32)[None, :]
        if CAPPED:
            z = capped(z, softcap)
        z = tl.where(is_class[None, :], z, -_INF)

        hit += tl.sum(tl.where(k[None, :] == target[:, None], z, 0.0), 1)
        if INTERPRETED:  # its maximum of NaN warns
            high = tl.maximum(tl.max(tl.where(z == z, z, LOWEST_F), 1), LOWEST_F)
        else:
            high = tl.maximum(tl.max(z, 1), LOWEST_F)
        gap = high[:, None] - z
        is_high = z == high[:, None]
        e = tl.where(is_high, 0.0, decay(gap, rate))
        ties = tl.sum(tl.where(is_high, 1.0, 0.0), 1) - 1.0
        beside = tl.sum(e, 1) + ties

        kept = m >= high
        top = tl.maximum(m, high)
        apart = tl.where(m == high, 0.0, top - tl.minimum(m, high))
        scale = decay(apart, rate)
        lost = tl.where(kept, beside, r) + 1.0
        if SPREAD:
            if class_weight is None:
                c = tl.where(is_class, 1.0, 0.0)
            else:
                c = tl.load(class_weight + k, mask=is_class, other=0.0).to(tl.float32)
            own = tl.sum(tl.where(c[None, :] == 0.0, 0.0, c[None, :] * gap), 1)
            own_mass = tl.sum(c, 0)
            spread += mass * tl.where(m == LOWEST_F, 0.0, top - m)
            spread += own + own_mass * tl.where(high == LOWEST_F, 0.0, top - high)
            mass += own_mass
        if STATISTICS:
            own_gaps = tl.sum(tl.where(e == 0.0, 0.0, e * gap), 1)
            lost_gaps = (tl.where(kept, own_gaps, gaps) + apart * lost) * scale
            gaps = tl.where(kept, gaps, own_gaps) + tl.where(scale == 0.0, 0.0, lost_gaps)
            own_squares = tl.sum(e * e, 1) + ties
            lost_squares = tl.where(kept, own_squares, squares) + 1.0
            squares = tl.where(kept, squares, own_squares) + lost_squares * scale * scale
            place = tl.where(kept, place, tl.min(tl.where(is_high, k[None, :], classes), 1))
        r = tl.where(kept, r, beside) + lost * scale
        m = top

    at = split * rows + n
    plane = splits.to(tl.int64) * rows
    tl.store(figures + at, m, mask=is_row)
    tl.store(figures + plane + at, r, mask=is_row)
    tl.store(figures + 2 * plane + at, hit, mask=is_row)
    if SPREAD:
        tl.store(figures + 3 * plane + at, spread, mask=is_row)
        tl.store(figures + 4 * plane + at, mass, mask=is_row)
    if STATISTICS:
        last = figures + (3 + 2 * SPREAD) * plane + at
        tl.store(last, gaps, mask=is_row)
        tl.store(last + plane, squares, mask=is_row)
        tl.store(places + at, place, mask=is_row)


@triton.jit(do_not_specialize=["rows", "splits"])
def finish(
    figures, places,  # as `project` leaves them
    targets, class_weight, row_weight,  # (N,) int64; (K,) and (N,), or None
    loss, lse, argmax, confidence, entropy, brier, target_entropy,  # (N,) float64, argmax int64; all but loss may be None
    rows, classes, splits, ignore,
    inverse_temperature: tl.float64, z_loss: tl.float64, smoothing: tl.float64,  # a plain float would be float32
    SPREAD: tl.constexpr, STATISTICS: tl.constexpr, Z_LOSS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr,  # all splits at once
):  # fmt: skip
    """Merge the splits of BLOCK_N rows, and fill what is wanted of them."""
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row = n < rows
    s = tl.arange(0, BLOCK_S)
    inside = is_row[:, None] & (s < splits)[None, :]
    at = s.to(tl.int64)[None, :] * rows + n[:, None]
    plane = splits.to(tl.int64) * rows
    m = tl.load(figures + at, mask=inside, other=LOWEST_F)
    r = tl.load(figures + plane + at, mask=inside, other=-1.0).to(tl.float64)
    hit = tl.sum(tl.load(figures + 2 * plane + at, mask=inside, other=0.0).to(tl.float64), 1)
    high = tl.max(m, 1)
    won = s[None, :] == tl.min(tl.where(m == high[:, None], s[None, :], BLOCK_S), 1)[:, None]
    high = high.to(tl.float64)
    apart = tl.where(won, 0.0, (high[:, None] - m.to(tl.float64)) * inverse_temperature)
    # m of two splits may both be infinite, and that row is NaN below
    e = tl.exp(-tl.where(apart == apart, apart, 0.0))
    r_row = tl.sum(tl.where(won, r, (r + 1.0) * e), 1)
    spoiled = (r_row != r_row) | (r_row == -1.0) | (high == _INF)
    u = log1p(tl.where(spoiled, 0.0, r_row))
    sum_log = tl.where(spoiled, float("nan"), high * inverse_temperature + u)

    weight = tl.full([BLOCK_N], 1.0, tl.float64)
    if row_weight is not None:
        weight = tl.load(row_weight + n, mask=is_row, other=0.0).to(tl.float64)
    target = tl.load(targets + n, mask=is_row, other=ignore)
    ignored = target == ignore
    wrong = ((target < 0) | (target >= classes)) & (ignored == 0)
    units = tl.full([BLOCK_N], 1.0, tl.float64)
    if class_weight is not None:
        a_class = tl.where(ignored | wrong, 0, target)
        units = tl.load(class_weight + a_class, mask=is_row, other=0.0).to(tl.float64)
    counts = (weight != 0.0) & (ignored == 0)
    if not SPREAD and not Z_LOSS:
        counts = counts & ((units != 0.0) | wrong)
    units = units * (1.0 - smoothing)
    total = tl.where(units == 0.0, 0.0, units * (u + (high - hit) * inverse_temperature))
    if SPREAD:
        share = smoothing / classes
        spread = tl.load(figures + 3 * plane + at, mask=inside, other=0.0).to(tl.float64)
        mass = tl.load(figures + 4 * plane + at, mask=inside, other=0.0).to(tl.float64)
        further = tl.where((mass == 0.0) | won, 0.0, mass * apart)
        total += share * tl.sum(spread * inverse_temperature + further, 1)
        all_mass = tl.sum(mass, 1)
        total += share * tl.where(all_mass == 0.0, 0.0, all_mass * u)
    if Z_LOSS:
        total += z_loss * sum_log * sum_log
    total = tl.where(spoiled | wrong, float("nan"), total)
    tl.store(loss + n, tl.where(counts, weight * total, 0.0), mask=is_row)

    if STATISTICS:
        last = figures + (3 + 2 * SPREAD) * plane + at
        gaps = tl.load(last, mask=inside, other=0.0).to(tl.float64) * inverse_temperature
        squares = tl.load(last + plane, mask=inside, other=-1.0).to(tl.float64)
        place = tl.load(places + at, mask=inside, other=0)
        further = tl.where(e == 0.0, 0.0, (gaps + apart * (r + 1.0)) * e)
        gaps_row = tl.sum(tl.where(won, gaps, further), 1)
        squares_row = tl.sum(tl.where(won, squares, (squares + 1.0) * e * e), 1)
        place_row = tl.sum(tl.where(won, place, 0), 1)
        top = 1.0 / (1.0 + r_row)
        beside = r_row * top
        p = tl.where(target == place_row, top, top * tl.exp((hit - high) * inverse_temperature))
        others = squares_row * top * top
        missed = tl.maximum(others - p * p, 0.0) + top * top + (1.0 - p) * (1.0 - p)
        distant = tl.where(target == place_row, others + beside * beside, missed)
        distant = tl.where(ignored, 0.0, tl.where(spoiled | wrong, float("nan"), distant))
        tl.store(lse + n, sum_log, mask=is_row)
        tl.store(argmax + n, tl.where(r_row != r_row, -1, place_row).to(tl.int64), mask=is_row)
        tl.store(confidence + n, tl.where(spoiled, float("nan"), top), mask=is_row)
        tl.store(entropy + n, tl.where(spoiled, float("nan"), u + gaps_row * top), mask=is_row)
        tl.store(brier + n, distant, mask=is_row)
        tl.store(target_entropy + n, tl.zeros([BLOCK_N], tl.float64), mask=is_row)
