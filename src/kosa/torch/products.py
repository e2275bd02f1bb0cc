"""The products of the linear form in PyTorch's libraries, and which library multiplies fastest here."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kosa.cpu.layout import Array
from kosa.cpu.linear import WORKSPACE, Rows
from kosa.torch.arrays import array

_BLOCK = 4096  # classes of a block of the weight gradient of 16-bit inputs
_CLEARLY = 1.25  # how much faster another library must be: a near tie must not be decided by noise
_WORTH = 1 << 36  # operations of a call (a third of a second here) from which measuring the libraries pays

Multiply = Callable[[Tensor, Tensor, Tensor], Any]


def _torch(a: Tensor, b: Tensor, out: Tensor) -> None:
    torch.mm(a, b, out=out)


def _numpy(a: Tensor, b: Tensor, out: Tensor) -> None:
    np.matmul(a.numpy(), b.numpy(), out=out.numpy())


@lru_cache
def fastest(threads: int) -> Multiply:
    """Return the multiplication of float32 matrices that is clearly fastest on this machine: measured once a process.

    PyTorch's library is slow on some processors that are not of its maker's: 138 GFLOP/s where NumPy's reached 200.
    """
    a, b = torch.rand(256, 512), torch.rand(2048, 512).t()
    out = torch.empty(256, 2048)
    seconds = {}
    for multiply in (_torch, _numpy):
        multiply(a, b, out)
        runs = []
        for _ in range(5):
            start = time.perf_counter()
            multiply(a, b, out)
            runs.append(time.perf_counter() - start)
        seconds[multiply] = min(runs)
    return _numpy if seconds[_torch] > _CLEARLY * seconds[_numpy] else _torch


class TorchProducts:
    """Products of CPU tensors of one dtype. Weight gradients of 16-bit tensors are accumulated in float32."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, bool, bool], workspace: int | None,
        multiply: Multiply | None = None,
    ) -> None:  # fmt: skip
        self._hidden, self._weight, self._bias = hidden, weight, bias
        self._narrow = weight.dtype.itemsize == 2
        self._multiply = multiply or _torch
        work = 2 * hidden.shape[0] * weight.numel()
        if multiply is None and weight.dtype == torch.float32 and work >= _WORTH:
            self._multiply = fastest(torch.get_num_threads())
        self.reserve = 0
        if self._narrow and needs[1]:
            self._classes = max(
                1, min(_BLOCK, (workspace or WORKSPACE) // 8 // (2 * max(1, weight.shape[1])))
            )
            self.reserve = self._classes * weight.shape[1] * 2
        wide = torch.promote_types(weight.dtype, torch.float32)
        self._dhidden = torch.zeros_like(hidden) if needs[0] else None
        self._dweight = torch.zeros(weight.shape, dtype=wide) if needs[1] else None
        self._dbias = torch.zeros(weight.shape[:1], dtype=torch.float64) if needs[2] else None

    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return those that are needed, in the tensors' dtype."""
        dtype = self._weight.dtype
        grads = self._dhidden, self._dweight, self._dbias
        return tuple(None if grad is None else grad.to(dtype) for grad in grads)  # type: ignore[return-value]

    def buffer(self, rows: int) -> Array:
        return array(torch.empty(rows, self._weight.shape[0], dtype=self._weight.dtype))

    def logits(self, rows: Rows, out: Array) -> None:
        hidden, z = self._rows(rows), _tensor(out, self._weight.dtype)
        if self._bias is None:
            self._multiply(hidden, self._weight.t(), z)
        else:
            torch.addmm(self._bias, hidden, self._weight.t(), out=z)

    def slopes(self, rows: Rows, dz: Array) -> None:
        z = _tensor(dz, self._weight.dtype)
        if self._dhidden is not None:
            if isinstance(rows, slice):
                self._multiply(z, self._weight, self._dhidden[rows])
            else:
                self._dhidden[torch.from_numpy(rows)] = z @ self._weight
        if self._dweight is not None:
            hidden = self._rows(rows)
            if self._narrow:
                for k in range(0, len(self._weight), self._classes):
                    block = slice(k, k + self._classes)
                    self._dweight[block] += z[:, block].t() @ hidden
            else:
                self._dweight.addmm_(z.t(), hidden)
        if self._dbias is not None:
            self._dbias += z.sum(0, dtype=torch.promote_types(z.dtype, torch.float32))

    def _rows(self, rows: Rows) -> Tensor:
        return self._hidden[rows if isinstance(rows, slice) else torch.from_numpy(rows)]


def _tensor(values: Array, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(values).view(dtype)
