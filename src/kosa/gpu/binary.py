"""Launches the kernel of binary cross-entropy."""

import torch
import triton
from torch import Tensor

from kosa.gpu.binary_elements import binary_elements
from kosa.gpu.dense import as_index
from kosa.gpu.launch import launching
from kosa.loss import Options

_BLOCK = 512  # 4 elements a thread of 4 warps: 8 take 160 registers, and half as many warps are under way


def run(
    predictions: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    *,
    scale: float | Tensor = 1.0,
    losses: Tensor | None,
    out: Tensor | None = None,
) -> None:
    """Fill `losses` (float64, one an element in C order, or None) and `out` (like predictions, any strides; or None)
    with the gradient of scale·Σ losses; `scale` may be a 0-d float64 tensor on the device.

    Targets: bool, 0/1 integers or floats of predictions' shape; weights of that shape, or broadcast to it by `expand`.
    """
    size = predictions.numel()
    if size == 0:
        return
    boolean = targets.dtype == torch.bool  # which nothing marks as ignored
    t = targets.view(torch.uint8) if boolean else targets
    if t.dtype == torch.uint64:
        t = as_index(t, options.ignore_index)
    plus, plus_period = _periodic(pos_weight, size)
    weight, weight_period = _periodic(row_weight, size)
    written = out
    if out is not None and not out.is_contiguous():
        written = torch.empty(out.shape, dtype=out.dtype, device=out.device)
    known = isinstance(scale, Tensor)
    smoothing = float(options.label_smoothing)
    with launching(predictions):
        binary_elements[(triton.cdiv(size, _BLOCK),)](
            predictions.contiguous(), t.contiguous(), plus, weight, scale if known else None, losses, written,
            size, -1 if boolean else int(options.ignore_index), plus_period, weight_period,
            1.0 - smoothing, smoothing / 2, 1.0 if known else float(scale),
            LOGITS=options.kind == "logits", INTEGERS=not targets.dtype.is_floating_point, BLOCK=_BLOCK,
            num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    if out is not None and written is not None and written is not out:
        out.copy_(written)


def _periodic(weight: Tensor | None, size: int) -> tuple[Tensor | None, int | None]:
    """A weight's own entries and how many there are, None for one an element: the axes that were expanded in front are
    not written out.
    """
    if weight is None:
        return None, None
    while weight.dim() and (weight.stride(0) == 0 or weight.shape[0] == 1):
        weight = weight[0]
    return weight.contiguous(), weight.numel() if weight.numel() < size else None
