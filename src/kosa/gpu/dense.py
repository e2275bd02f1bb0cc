"""Launches the kernels of losses of dense predictions. Nothing here waits for the device."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kosa.gpu import plan as plans
from kosa.gpu.launch import launching
from kosa.gpu.probabilities import cross_entropy_probabilities
from kosa.gpu.rows import cross_entropy_joined, cross_entropy_rows, cross_entropy_slopes, cross_entropy_spans
from kosa.gpu.strides import walk
from kosa.gpu.target_slopes import target_slopes_rows
from kosa.loss import Options

_WIDE = 2**31 - 2**16  # rows from which 32 bits do not count those of the last program
_NOWHERE = (None, 0, 0, 0)


class Job(NamedTuple):
    """A call as kernels take it: tensors with their steps, and what all kernels are told besides."""

    z: tuple[Any, ...]
    indices: Tensor | None
    t: tuple[Any, ...]
    weights: tuple[Tensor | None, Tensor | None, Tensor | None]  # of classes, of rows, of the rows' lse
    scale: tuple[Tensor | None, float]
    options: Options
    smoothing: tuple[float, float]
    losses: Tensor
    out: tuple[Any, ...]
    rows: int
    inner: int
    classes: int


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
    lse_weight (rows): any float format. scale: a number, or a tensor of one on the device. out: shape and format of the
    predictions, which it may be. An index that is no class makes its row NaN, and nothing is read out of range.
    """
    axis = options.axis
    classes = predictions.shape[axis]
    rows = predictions.numel() // classes
    if rows == 0:
        return
    indexed = not targets.dtype.is_floating_point
    tensors, steps, inner = walk(
        [predictions, *([] if indexed else [targets]), *([] if out is None else [out])], axis
    )
    placed = [(tensor, *step) for tensor, step in zip(tensors, steps, strict=True)]
    smoothing = float(options.label_smoothing)
    job = Job(
        placed[0], as_index(targets, options.ignore_index) if indexed else None, _NOWHERE if indexed else placed[1],
        (vector(class_weight), vector(row_weight), vector(lse_weight)), scale_of(scale), options,
        (1.0 - smoothing, smoothing / classes), losses, _NOWHERE if out is None else placed[-1], rows, inner, classes,
    )  # fmt: skip
    with launching(predictions):
        (_logits if options.kind == "logits" else _probabilities)(job)
    if out is not None and tensors[-1] is not out:
        out.copy_(tensors[-1])


def _logits(job: Job) -> None:
    """Launch the kernels of logits: one, or three where there are too few rows for all processors."""
    z, options, smoothed = job.z[0], job.options, job.smoothing[1] != 0.0
    at = plans.plan(job.classes, z.element_size(), job.z[3] == 1)
    working = working_type(z)
    numbers = (
        1.0 / float(options.temperature),
        float(options.softcap or 0.0),
        float(options.z_loss),
        *job.smoothing,
    )
    ignore, grid = int(options.ignore_index), (job.inner, job.classes)
    common: dict[str, Any] = {
        "DENSE": job.indices is None or smoothed, "CAPPED": options.softcap is not None, "SMOOTHED": smoothed,
        "W": working, "num_warps": at.warps, "enable_fp_fusion": True,
    }  # fmt: skip
    ends = {"E": tl.float64 if at.rows == 1 else working}
    if at.spans < 2 or job.rows >= 2 * plans.processors(z.device):
        cross_entropy_rows[(triton.cdiv(job.rows, at.rows),)](
            *job.z, job.indices, ignore, *job.t, *job.weights, *job.scale, *numbers,
            job.losses, *job.out, job.rows, *grid,
            WIDE=job.rows >= _WIDE, ROWS=at.rows, BLOCK=at.block, SPAN=at.span, SPANS=at.spans, **ends, **common,
        )  # fmt: skip
        return
    spans = triton.cdiv(job.classes, at.span), job.rows
    wide = torch.float64 if working == tl.float64 else torch.float32
    states = torch.empty((job.rows, 4, at.spans), dtype=wide, device=z.device)
    slopes = None if job.out[0] is None else torch.empty((job.rows, 8), dtype=wide, device=z.device)
    cross_entropy_spans[spans](
        *job.z, job.indices, ignore, *job.t, *job.weights, *numbers, states, *grid,
        BLOCK=at.block, SPAN=at.span, SPANS=at.spans, **ends, **common,
    )  # fmt: skip
    cross_entropy_joined[(job.rows,)](
        *job.z, job.indices, ignore, *job.weights, *job.scale, *numbers, states, job.losses, slopes, *grid,
        SPAN=at.span, SPANS=at.spans, **ends, **common,
    )  # fmt: skip
    if slopes is not None:
        cross_entropy_slopes[spans](
            *job.z, job.indices, *job.t, job.weights[0], numbers[0], numbers[1], *job.smoothing, slopes, *job.out, *grid,
            BLOCK=at.block, SPAN=at.span, **common,
        )  # fmt: skip


def _probabilities(job: Job) -> None:
    """Launch the kernel of probabilities and log-probabilities."""
    smoothed = job.smoothing[1] != 0.0
    at = plans.plan(job.classes, job.z[0].element_size(), job.z[3] == 1)
    working = working_type(job.z[0])
    cross_entropy_probabilities[(triton.cdiv(job.rows, at.rows),)](
        *job.z, job.indices, int(job.options.ignore_index), *job.t, *job.weights[:2], *job.scale, *job.smoothing,
        job.losses, *job.out, job.rows, job.inner, job.classes,
        DENSE=job.indices is None or smoothed, SMOOTHED=smoothed, LOGARITHMIC=job.options.kind == "log_probs",
        WIDE=job.rows >= _WIDE, W=working, E=tl.float64 if at.rows == 1 else working, ROWS=at.rows, BLOCK=at.block,
        num_warps=at.warps, enable_fp_fusion=True,
    )  # fmt: skip


def target_slopes(
    predictions: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    *,
    scale: float | Tensor = 1.0,
    out: Tensor,
) -> None:
    """Fill `out`, of the predictions' shape and any float format, with the gradient of scale·Σ losses with respect to
    targets that are distributions. It is linear in them, so `targets` themselves are not looked at.
    """
    axis = options.axis
    classes = predictions.shape[axis]
    rows = predictions.numel() // classes
    if rows == 0:
        return
    tensors, (z_steps, out_steps), inner = walk([predictions, out], axis)
    at = plans.plan(classes, predictions.element_size(), z_steps.step == 1)
    scale_at, number = scale_of(scale)
    with launching(predictions):
        target_slopes_rows[(triton.cdiv(rows, at.rows),)](
            tensors[0], *z_steps, vector(class_weight), vector(row_weight),
            scale_at, number * (1.0 - float(options.label_smoothing)),
            1.0 / float(options.temperature), float(options.softcap or 0.0),
            tensors[1], *out_steps, rows, inner, classes,
            KIND=("logits", "probs", "log_probs").index(options.kind), CAPPED=options.softcap is not None,
            WIDE=rows >= _WIDE, W=working_type(predictions, out), ROWS=at.rows, BLOCK=at.block,
            num_warps=at.warps, enable_fp_fusion=True,
        )  # fmt: skip
    if tensors[1] is not out:
        out.copy_(tensors[1])


def working_type(*tensors: Tensor) -> Any:
    """float64 where a tensor of 64 bits takes part, else float32."""
    return tl.float64 if any(tensor.element_size() == 8 for tensor in tensors) else tl.float32


def scale_of(scale: float | Tensor) -> tuple[Tensor | None, float]:
    """The scale as kernels take it: the tensor it is read from, or the number."""
    return (scale, 1.0) if isinstance(scale, Tensor) else (None, float(scale))


def as_index(targets: Tensor, ignore: int) -> Tensor:
    """Class indices one behind the other, in a format that kernels are compiled for."""
    if targets.dtype == torch.uint64:
        wide = targets.contiguous().view(torch.int64)
        beyond = 2**63 - 1 if ignore != 2**63 - 1 else -(2**63)  # no class, and not what is ignored
        return torch.where(wide < 0, beyond, wide).reshape(-1).contiguous()
    if targets.dtype not in (torch.int64, torch.int32):
        targets = targets.to(torch.int64)
    return targets.reshape(-1).contiguous()


def vector(weight: Tensor | None) -> Tensor | None:
    """Weights one behind the other."""
    return None if weight is None else weight.reshape(-1).contiguous()
