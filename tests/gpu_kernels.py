"""Kernels that tests launch."""

import numpy as np
import torch
import triton
import triton.language as tl

from kosa.gpu import float64
from kosa.gpu.launch import launching


@triton.jit
def _apply(x, y, size, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < size, other=0.0)
    tl.store(y + at, FUNCTION(value), mask=at < size)


def applied(function: str, values: np.ndarray, device: str) -> np.ndarray:
    """The function of `kosa.gpu.float64`, of each value."""
    x = torch.from_numpy(values).to(device)
    y = torch.empty_like(x)
    with launching(x):
        _apply[(triton.cdiv(x.numel(), 256),)](
            x, y, x.numel(), FUNCTION=getattr(float64, function), BLOCK=256
        )
    return y.cpu().numpy()
