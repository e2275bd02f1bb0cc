"""Where tests of the Triton engine run: on the GPU if there is one, else on the CPU through Triton's interpreter.

What the interpreter cannot show is listed in docs/gpu.md.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch

GPU = torch.cuda.is_available()


def choose() -> None:
    """Where there is no GPU, make Triton interpret; it asks only while it is imported, so this goes before that.

    Compiling for a GPU that is not there, as tests/test_gpu_compile.py does, takes a process without the variable.
    """
    if not GPU:
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> str:
    """The device of the tensors that a test of the Triton engine makes."""
    return "cuda" if GPU else "cpu"


@pytest.fixture
def gpu_engine(monkeypatch, device):
    """Sends every tensor through the Triton engine, those on the CPU too; returns the device to make them on."""
    from kosa.torch import engines

    monkeypatch.setattr(engines, "on_gpu", lambda tensor: True)
    return device


def tensor_of(array: np.ndarray, device: str) -> torch.Tensor:
    """The array as a tensor; ml_dtypes' bfloat16 as PyTorch's."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16).to(device)
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="))).to(device)


def array_of(tensor: torch.Tensor) -> Any:
    """The tensor as an array; bfloat16 as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
