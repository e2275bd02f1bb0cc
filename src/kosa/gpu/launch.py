"""What every launch of a kernel is wrapped in."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
import triton
from torch import Tensor


@contextlib.contextmanager
def launching(tensor: Tensor) -> Iterator[None]:
    """Launch on the tensor's GPU, whichever is current. Triton's interpreter computes with NumPy, whose warnings of
    overflow and NaN say nothing about kernels that are written for them.
    """
    if tensor.device.type == "cuda":
        with torch.cuda.device(tensor.device):
            yield
    elif triton.knobs.runtime.interpret:
        with np.errstate(all="ignore"):
            yield
    else:
        yield
