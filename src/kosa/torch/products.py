"""The products of the linear form in PyTorch's libraries, and which library multiplies fastest here."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kosa.cpu.accumulate import accumulate, transpose
from kosa.cpu.layout import Array, bits
from kosa.cpu.linear import Rows
from kosa.torch.arrays import array, pages

_CLEARLY = 1.25  # how much faster another library must be: a near tie must not be decided by noise
_ROWS = 512  # of a 16-bit product
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
    # NumPy's arrays: PyTorch's would come from its global random numbers, in its default dtype, on its default device.
    drawn = np.random.default_rng(0)
    a, b = (torch.from_numpy(drawn.random((rows, 512), np.float32)) for rows in (256, 2048))
    b, out = b.t(), torch.from_numpy(np.empty((256, 2048), np.float32))
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
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: tuple[bool, bool, bool]
    ) -> None:
        self._hidden, self._weight, self._bias = hidden, weight, bias
        self._narrow = weight.dtype.itemsize == 2
        self._multiply: Multiply = _torch
        work = 2 * hidden.shape[0] * weight.numel()
        timed = work >= _WORTH and not torch.are_deterministic_algorithms_enabled()
        if weight.dtype == torch.float32 and timed:
            self._multiply = fastest(torch.get_num_threads())
        self._needs = needs
        self.reserve = 0
        self._dhidden: Tensor | None = None
        self._dweight: Tensor | None = None
        self._total: Array | None = None
        self._dbias = weight.new_zeros(weight.shape[:1], dtype=torch.float64) if needs[2] else None

    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return those that are needed, in the tensors' dtype."""
        dh, dw = self._dhidden, self._dweight
        if dh is None and self._needs[0]:
            dh = torch.zeros_like(self._hidden)
        if dw is None and self._needs[1]:
            dw = self._weight.new_zeros(self._weight.shape)
        return dh, dw, None if self._dbias is None else self._dbias.to(self._weight.dtype)

    def buffer(self, rows: int) -> Array:
        return array(pages((rows, self._weight.shape[0]), self._weight.dtype))

    def logits(self, rows: Rows, out: Array) -> None:
        hidden, z = self._rows(rows), _tensor(out, self._weight.dtype)
        if self._bias is None:
            self._multiply(hidden, self._weight.t(), z)
        else:
            torch.addmm(self._bias, hidden, self._weight.t(), out=z)

    def slopes(self, rows: Rows, dz: Array, first: bool, last: bool) -> None:
        z = _tensor(dz, self._weight.dtype)
        if self._needs[0] and self._dhidden is None:
            self._dhidden = pages(self._hidden.shape, self._hidden.dtype)
            if not isinstance(rows, slice):
                self._dhidden.zero_()
        if self._needs[1]:
            if self._dweight is None:
                self._dweight = pages(self._weight.shape, self._weight.dtype)
            if self._narrow:
                self._add_rounded(self._dweight, rows, z, first, last)
            elif first:
                torch.mm(z.t(), self._rows(rows), out=self._dweight)
            else:
                self._dweight.addmm_(z.t(), self._rows(rows))
        if self._dhidden is not None:
            self._hidden_gradient(self._dhidden, rows, z)
        if self._dbias is not None:
            self._dbias += z.sum(0, dtype=torch.promote_types(z.dtype, torch.float32))

    def _add_rounded(self, dweight: Tensor, rows: Rows, z: Tensor, first: bool, last: bool) -> None:
        """Add hiddenᵀ·z, (D, K), to a float32 total: oneDNN makes it in half the time of zᵀ·hidden."""
        hidden = self._rows(rows).t()
        width, classes = len(hidden), len(dweight)
        if self._dhidden is not None and isinstance(rows, slice):
            # The memory of a gradient that is not made yet serves meanwhile: here, and for the product below.
            hidden = self._dhidden[rows].view(hidden.shape).copy_(hidden)
        else:
            hidden = hidden.contiguous()
        if first and last:
            product = torch.mm(hidden, z, out=pages((width, classes), z.dtype))
            transpose(bits(array(product)), bits(array(dweight)))
            return
        if self._total is None:
            self._total = pages((width, classes), torch.float32).numpy()
        product = torch.mm(hidden, z, out=dweight.view(width, classes))
        accumulate(bits(array(product)).reshape(-1), self._total.reshape(-1), first)
        if last:
            transpose(self._total, bits(array(dweight)))

    def _hidden_gradient(self, dhidden: Tensor, rows: Rows, z: Tensor) -> None:
        if isinstance(rows, slice):
            # oneDNN multiplies 1024 rows of 16 bits by one thread (50 ms), 512 rows by all (15 ms).
            step = _ROWS if self._narrow else max(1, len(z))
            for part, out in zip(z.split(step), dhidden[rows].split(step), strict=True):
                self._multiply(part, self._weight, out)
        else:
            dhidden[torch.from_numpy(rows)] = z @ self._weight

    def _rows(self, rows: Rows) -> Tensor:
        return self._hidden[rows if isinstance(rows, slice) else torch.from_numpy(rows)]


def _tensor(values: Array, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(values).view(dtype)
