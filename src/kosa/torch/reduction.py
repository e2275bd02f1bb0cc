"""From row losses to the loss: the weight of the rows that count, and the three reductions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kosa.loss import Options
from kosa.torch import dense, plain


def total_weight(
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    rows: Sequence[int],
    options: Options,
) -> Tensor | float:
    """Return what "mean" divides by: Σ class_weight[target]·row_weight of the rows that count, or their number."""
    if options.denominator is not None:
        divisor = dense.value_of(options, "denominator")
        # A tensor in a graph, which then holds for any number; or on a GPU, for which the host does not wait.
        if isinstance(divisor, Tensor) and (torch.compiler.is_compiling() or not divisor.is_cpu):
            return divisor.to(torch.float64).reshape(())
        return float(divisor)
    if targets.dtype.is_floating_point:
        return float(math.prod(rows)) if row_weight is None else row_weight.sum(dtype=torch.float64)
    counts = plain.counts(targets, options.ignore_index)
    if class_weight is None and row_weight is None:
        count = counts.sum()
        return float(count) if count.is_cpu and dense.direct(targets) else count.to(torch.float64)
    weight = torch.ones(targets.shape, dtype=torch.float64, device=targets.device)
    if class_weight is not None:
        inside = torch.where(counts, targets.long(), 0).clamp(0, len(class_weight) - 1)
        weight = class_weight.to(torch.float64)[inside]
    if row_weight is not None:
        weight = weight * row_weight
    return torch.where(counts, weight, 0.0).sum()


def dense_loss(tensors: dense.Tensors, options: Options, target: str = "targets") -> Tensor:
    """Return the loss of predictions, float64; `target` is the caller's name of the targets."""
    if options.reduction == "none":
        return dense.row_losses(tensors, options, target)
    predictions, targets, class_weight, row_weight = tensors
    total: Tensor | float = 1.0
    if options.reduction == "mean":
        rows = dense.rows_of(predictions, options.axis)
        total = total_weight(targets, class_weight, row_weight, rows, options)
    scale, nothing = scale_of(total, options, predictions.device)
    loss = dense.scaled_sum(tensors, options, target, scale)
    return loss if nothing is None else mean(loss, nothing, options)


def reduced(losses: Tensor, total: Tensor | float, options: Options) -> Tensor:
    """Return the loss, float64. Where the divisor is 0 gradients are 0."""
    if options.reduction == "none":
        return losses
    if options.reduction == "sum":
        return losses.sum()
    if isinstance(total, float) and total != 0.0:
        return losses.sum() / total
    scale, nothing = scale_of(total, options, losses.device)
    return losses.sum() * scale if nothing is None else mean(losses.sum() * scale, nothing, options)


def scale_of(total: Tensor | float, options: Options, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return 1 / total and whether total is 0 (None: surely not); the scale is then 0."""
    if isinstance(total, float) and total != 0.0:
        return torch.full((), 1.0 / total, dtype=torch.float64, device=device), None
    divisor = torch.as_tensor(total, dtype=torch.float64, device=device)
    nothing = divisor == 0
    return torch.where(nothing, 0.0, torch.where(nothing, 1.0, divisor).reciprocal()), nothing


def mean(loss: Tensor, nothing: Tensor, options: Options) -> Tensor:
    """The loss, or what `empty` says where there is nothing to take the mean of."""
    return torch.where(nothing, float("nan") if options.empty == "nan" else 0.0, loss)
