"""Launches the kernels of losses of dense predictions."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kosa.gpu import plan as plans
from kosa.gpu.launch import launching
from kosa.gpu.rows import cross_entropy_rows
from kosa.gpu.strides import walk
from kosa.loss import Options


def run(
    predictions: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    *,
    scale: float | Tensor = 1.0,
    lse_weight: Tensor | None = None,
    losses: Tensor,
    out: Tensor | None = None,
) -> None:
    """Fill `losses`, float64, one a row in C order, and `out` with the gradient of scale·Σ losses + Σ lse_weight·lse.

    targets: integers of the rows' shape, or floats of the predictions' shape. class_weight (K,), row_weight and
    lse_weight (rows): any float format. scale: a number, or a tensor of one on the device, which the host does not wait
    for. out: shape and format of the predictions, which it may be.
    """
    axis = options.axis
    classes = predictions.shape[axis]
    rows = predictions.numel() // classes
    if rows == 0:
        return
    indexed = not targets.dtype.is_floating_point
    tensors = [predictions] if indexed else [predictions, targets]
    if out is not None:
        tensors.append(out)
    tensors, steps, inner = walk(tensors, axis)
    z, z_steps = tensors[0], steps[0]
    t, t_steps = (None, (0, 0, 0)) if indexed else (tensors[1], steps[1])
    written, out_steps = (None, (0, 0, 0)) if out is None else (tensors[-1], steps[-1])
    index = as_index(targets, options.ignore_index) if indexed else None
    working = tl.float64 if z.element_size() == 8 else tl.float32
    smoothing = float(options.label_smoothing)
    at = plans.plan(classes, z.element_size(), z_steps.step == 1)
    with launching(z):
        cross_entropy_rows[(triton.cdiv(rows, at.rows),)](
            z, *z_steps, index, int(options.ignore_index), t, *t_steps,
            vector(class_weight), vector(row_weight), vector(lse_weight),
            *((scale, 1.0) if isinstance(scale, Tensor) else (None, float(scale))),
            1.0 / float(options.temperature), float(options.softcap or 0.0), float(options.z_loss),
            1.0 - smoothing, smoothing / classes,
            losses, written, *out_steps, rows, inner, classes,
            DENSE=not indexed or smoothing != 0.0, CAPPED=options.softcap is not None, SMOOTHED=smoothing != 0.0,
            UNSIGNED=False, WIDE=rows >= 2**31 - 2**16, W=working, E=tl.float64 if at.rows == 1 else working,
            ROWS=at.rows, BLOCK=at.block, SPAN=at.span, SPANS=at.spans, num_warps=at.warps, enable_fp_fusion=True,
        )  # fmt: skip
    if out is not None and written is not None and written is not out:
        out.copy_(written)


def as_index(targets: Tensor, ignore: int) -> Tensor:
    """Class indices one behind the other, in a format that kernels are compiled for."""
    if targets.dtype == torch.uint64:
        wide = targets.contiguous().view(torch.int64)
        beyond = 2**63 - 1 if ignore != 2**63 - 1 else -(2**63)
        return torch.where(wide < 0, beyond, wide).reshape(-1)
    if targets.dtype not in (torch.int64, torch.int32):
        targets = targets.to(torch.int64)
    return targets.reshape(-1)


def vector(weight: Tensor | None) -> Tensor | None:
    """Weights one behind the other."""
    return None if weight is None else weight.reshape(-1)
