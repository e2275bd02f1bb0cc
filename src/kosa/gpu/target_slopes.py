"""The gradient with respect to targets that are distributions.

N rows, K classes. ∂E/∂t_k = w·(1 − ε)·class_weight_k·(−log y_k); from logits −log y = (m − z)/temperature + log1p(R).
A row of weight 0 has gradient 0, a row that is NaN is NaN. Tiles, strides and W as in `rows`.
"""

import triton
import triton.language as tl

from kosa.gpu.elementary import INF, capped, log, log1p, narrow, rate_of, widen
from kosa.gpu.lanes import float64, numbers_of_rows, rows_there, span_of, starts


@triton.jit
def write_minus_log(
    z_row, z_step, o_row, o_step, class_weight, here, k, m, u, factor, beta, softcap,
    KIND: tl.constexpr, CAPPED: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Write factor·class_weight·(−log y) of classes k."""
    z = widen(
        tl.load(z_row + k.to(tl.int64) * z_step, mask=here, other=1.0, eviction_policy="evict_first"), W
    )
    if KIND == 1:
        x = -log(z)
    elif KIND == 2:
        x = -z
    else:
        if CAPPED:
            z = capped(z, softcap.to(W))
        x = (m - z) * beta.to(W) + u
    f = tl.where(here, factor, 0.0)
    if class_weight is not None:
        f *= widen(tl.load(class_weight + k, mask=here, other=0.0), W)
    g = tl.where(f != 0.0, f * x, 0.0)
    tl.store(o_row + k.to(tl.int64) * o_step, narrow(g, o_row.dtype.element_ty), mask=here)


@triton.jit
def target_slopes_rows(
    z, z_outer, z_inside, z_step,
    class_weight, row_weight,
    scale_at, scale: tl.float64, beta: tl.float64, softcap: tl.float64,
    out, o_outer, o_inside, o_step,
    rows, inner, classes,
    KIND: tl.constexpr, CAPPED: tl.constexpr, WIDE: tl.constexpr, W: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill the gradient of scale·Σ row_weight·loss for ROWS rows. KIND: 0 logits, 1 probs, 2 log_probs."""
    n, ok = numbers_of_rows(tl.program_id(0), rows, ROWS, WIDE)
    beta, softcap, factor = (
        float64(beta),
        float64(softcap),
        float64(scale) + tl.full(n.shape, 0.0, tl.float64),
    )
    if scale_at is not None:
        factor *= tl.load(scale_at)
    if row_weight is not None:
        factor *= widen(tl.load(row_weight + n, mask=ok, other=0.0), tl.float64)
    z_row = starts(z, n, inner, z_outer, z_inside)
    o_row = starts(out, n, inner, o_outer, o_inside)
    m, u = tl.full(n.shape, 0.0, W), tl.full(n.shape, 0.0, W)
    if KIND == 0:
        m, r, _, _ = span_of(
            z_row, z_step, None, 1, None, rows_there(ok, ROWS), 0, classes, classes, rate_of(beta, W), softcap,
            beta, beta, False, CAPPED, False, W, ROWS, BLOCK, "evict_last",
        )  # fmt: skip
        u = log1p(tl.where((m < INF) & (r >= 0.0), r, float("nan")))
    m, u, factor = m[:, None], u[:, None], factor.to(W)[:, None]
    lanes = tl.arange(0, BLOCK)[None, :]
    here = ok[:, None]
    whole = classes // BLOCK * BLOCK
    for start in range(0, whole, BLOCK):
        write_minus_log(
            z_row, z_step, o_row, o_step, class_weight, here, start + lanes, m, u, factor, beta, softcap,
            KIND, CAPPED, W,
        )  # fmt: skip
    if whole < classes:
        k = whole + lanes
        write_minus_log(
            z_row, z_step, o_row, o_step, class_weight, here & (k < classes), k, m, u, factor, beta, softcap,
            KIND, CAPPED, W,
        )  # fmt: skip
