"""Calls of the Triton kernels of dense losses, and tiles so small that few classes cross every edge."""

from typing import Any

import numpy as np
import pytest
import torch
from gpu_engine import array_of, tensor_of

from kosa.gpu import dense, plan
from kosa.loss import Options


def native(array: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def as_tensor(values: Any, device: str) -> torch.Tensor:
    return values if isinstance(values, torch.Tensor) else tensor_of(native(np.asarray(values)), device)


def run(
    device: str, targets: Any, kind: str, predictions: Any, *, axis: int = -1, class_weight: Any = None,
    sample_weight: Any = None, lse_weight: Any = None, out: Any = True, scale: Any = 1.0, **options: Any,
) -> tuple[Any, Any]:  # fmt: skip
    """Losses and gradient as arrays, of the rows' and the predictions' shape; what is not written stays −7."""
    x, t = as_tensor(predictions, device), as_tensor(targets, device)
    axis %= x.dim()
    rows = x.shape[:axis] + x.shape[axis + 1 :]
    losses = torch.full((rows.numel(),), -7.0, dtype=torch.float64, device=device)
    grad = torch.full_like(x, -7.0) if out is True else out
    weights = [None if w is None else as_tensor(w, device) for w in (class_weight, sample_weight, lse_weight)]
    dense.run(
        x, t, *weights[:2], Options(kind, axis, **options), scale=scale, lse_weight=weights[2], losses=losses, out=grad
    )  # fmt: skip
    return array_of(losses).reshape(rows), None if grad is None else array_of(grad)


def small_tiles(monkeypatch: pytest.MonkeyPatch, apart: bool) -> None:
    """Tiles of 4 × 2, 2 × up to 16, and beyond 16 classes 1 × 8, with spans of 48 classes, apart or not."""

    def plan_of(classes: int, item_bytes: int, together: bool) -> plan.Plan:
        if not together:
            return plan.Plan(4, 2, 48, 0 if classes <= 2 else 1, 1)
        if classes <= 16:
            return plan.Plan(2, 1 << (classes - 1).bit_length(), 48, 0, 1)
        return plan.Plan(1, 8, 48, 1 << (-(-classes // 48) - 1).bit_length(), 1)

    monkeypatch.setattr(plan, "plan", plan_of)
    monkeypatch.setattr(plan, "processors", lambda device: 10**6 if apart else 0)
