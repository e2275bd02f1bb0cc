"""Launches the kernel of `row_statistics`: how many rows a program takes, and what of a row at a time."""

from collections.abc import Sequence

import triton
from torch import Tensor

from kosa.gpu.dense import as_index
from kosa.gpu.launch import launching
from kosa.gpu.statistics_rows import row_statistics_rows
from kosa.gpu.strides import walk
from kosa.loss import Options

_KINDS = ("logits", "probs", "log_probs")
_LANES = 512  # 4 a thread of 4 warps: 72 registers on sm_90, 140 with targets on many classes
_LONG = 16384  # classes: a row of more is given 8 warps, which halves the time of few rows


def run(
    predictions: Tensor,
    targets: Tensor | None,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    figures: Sequence[Tensor | None],
) -> None:
    """Fill loss, lse, argmax, confidence, entropy, brier and target_entropy: vectors of one entry a row, float64
    (argmax int64). Those of targets may be None where there are none, and entropy where it is not wanted.

    `options.axis` counts from the front. Targets: integers of the rows' shape, or floats of the predictions' shape.
    """
    axis = options.axis
    classes = predictions.shape[axis]
    rows = predictions.numel() // classes
    if rows == 0:
        return
    indexed = targets is not None and not targets.dtype.is_floating_point
    dense = targets if targets is not None and not indexed else None
    tensors = [predictions] if dense is None else [predictions, dense]
    (x, *others), (x_steps, *t_steps), inner = walk(tensors, axis)
    block_n, block_k, warps = blocks(classes, x_steps.step == 1)
    smoothing = float(options.label_smoothing)
    with launching(x):
        row_statistics_rows[(triton.cdiv(rows, block_n),)](
            x, *x_steps,
            as_index(targets, options.ignore_index) if targets is not None and indexed else None,
            *((others[0], *t_steps[0]) if others else (None, 0, 0, 0)),
            class_weight if class_weight is None else class_weight.contiguous(),
            row_weight if row_weight is None else row_weight.reshape(-1).contiguous(),
            *figures,
            rows, inner, classes, int(options.ignore_index),
            float(options.softcap or 0.0), float(options.temperature), float(options.z_loss),
            1.0 - smoothing, smoothing / classes,
            KIND=_KINDS.index(options.kind), CAPPED=options.softcap is not None, TEMPERED=options.temperature != 1.0,
            Z_LOSS=options.z_loss != 0.0, SMOOTHED=smoothing != 0.0,
            BLOCK_N=block_n, BLOCK_K=block_k, num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip


def blocks(classes: int, together: bool) -> tuple[int, int, int]:
    """Rows and classes that a program takes at a time, and its warps: by the length of a row alone, so that its bits
    depend on nothing else. `together`: whether a row's classes lie side by side; else rows do, or nothing does.
    """
    if not together:
        return 128, 4, 4
    if classes > _LONG:
        return 1, 2 * _LANES, 8
    across = min(triton.next_power_of_2(classes), _LANES)
    return _LANES // across, across, 4
