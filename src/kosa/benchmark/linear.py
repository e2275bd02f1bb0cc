"""The linear form: hidden·weightᵀ and its cross-entropy, forward and backward, and the three bare products as its limit.

Legend: hidden (N, D), weight (K, D), targets (N,) indices; logits N×K.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kosa.benchmark.harness import Answer, Contestant, Entry, Missing

Floats = npt.NDArray[Any]


@dataclass(frozen=True)
class LinearProblem:
    """The arrays of one case; `narrow` for bfloat16, of which the arrays hold the values."""

    hidden: Floats
    weight: Floats
    targets: npt.NDArray[np.int64]
    narrow: bool = False
    threads: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of the two gradients."""
        return (self.hidden.nbytes + self.weight.nbytes) // (2 if self.narrow else 1)

    @property
    def tolerance(self) -> float:
        return 2.0**-7 if self.narrow else 1e-5

    @property
    def rows(self) -> list[int]:
        return sorted({0, len(self.hidden) // 2, len(self.hidden) - 1})

    @cached_property
    def reference(self) -> Answer:
        """Float64, a few rows at a time: the mean loss, and the gradient of hidden at three rows."""
        weight, total = self.weight.astype(np.float64), 0.0
        for start in range(0, len(self.hidden), 256):
            here = slice(start, start + 256)
            total += float(_losses(self.hidden[here].astype(np.float64) @ weight.T, self.targets[here]).sum())
        z = self.hidden[self.rows].astype(np.float64) @ weight.T
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(p)), self.targets[self.rows]] -= 1
        return total / len(self.hidden), p @ weight / len(self.hidden)

    def checks(self) -> tuple[Answer, list[int]]:
        """The reference and the rows that its gradient is of."""
        return self.reference, self.rows


def _losses(z: Floats, t: npt.NDArray[np.int64]) -> Floats:
    peak = z.max(axis=1)
    lse = np.log(np.exp(z - peak[:, None]).sum(axis=1)) + peak
    return np.asarray(lse - z[np.arange(len(z)), t])


def problem(rows: int, width: int, classes: int, narrow: bool = False) -> Callable[[bool], LinearProblem]:
    """Hidden states of a normal distribution, a weight whose logits have about the spread of a trained head's."""

    def build(small: bool) -> LinearProblem:
        rng = np.random.default_rng(0)
        n, d, k = (64, 32, 1000) if small else (rows, width, classes)
        hidden, weight = np.empty((n, d), np.float32), np.empty((k, d), np.float32)
        rng.standard_normal(out=hidden, dtype=np.float32)
        rng.standard_normal(out=weight, dtype=np.float32)
        weight *= 3 / np.sqrt(d)
        if narrow:  # the values that bfloat16 has
            for array in (hidden, weight):
                array.view(np.uint32)[...] &= np.uint32(0xFFFF0000)
        return LinearProblem(hidden, weight, rng.integers(k, size=n), narrow)

    return build


def _tensors(data: LinearProblem) -> tuple[Any, Any, Any, Any]:
    try:
        import torch
    except ModuleNotFoundError:
        raise Missing("not installed") from None
    torch.set_num_threads(data.threads)
    dtype = torch.bfloat16 if data.narrow else torch.float32
    hidden, weight = (torch.from_numpy(array).to(dtype, copy=True) for array in (data.hidden, data.weight))
    return torch, hidden, weight, torch.from_numpy(data.targets)


def products_torch(data: LinearProblem) -> Contestant:
    """The three products by torch, into buffers whose pages were touched before."""
    torch, hidden, weight, _ = _tensors(data)
    z = torch.ones(len(hidden), len(weight), dtype=hidden.dtype)
    dh, dw = torch.ones_like(hidden), torch.ones_like(weight)

    def call() -> None:
        torch.mm(hidden, weight.t(), out=z)
        torch.mm(z, weight, out=dh)
        torch.mm(z.t(), hidden, out=dw)

    return Contestant(call, None)


def products_numpy(data: LinearProblem) -> Contestant:
    """The three products by NumPy's BLAS, likewise."""
    if data.narrow:
        raise Missing("no bfloat16")
    hidden, weight = data.hidden, data.weight
    z = np.ones((len(hidden), len(weight)), np.float32)
    dh, dw = np.ones_like(hidden), np.ones_like(weight)

    def call() -> None:
        np.matmul(hidden, weight.T, out=z)
        np.matmul(z, weight, out=dh)
        np.matmul(z.T, hidden, out=dw)

    return Contestant(call, None)


def _trained(
    data: LinearProblem,
    choose: Callable[[Any], Callable[[Any, Any, Any], Any]],
    tolerance: float | None = None,
) -> Contestant:
    """Forward and backward of a loss of (hidden, weight, targets)."""
    torch, hidden, weight, targets = _tensors(data)
    hidden.requires_grad_()
    weight.requires_grad_()
    loss_of = choose(torch)

    def call() -> tuple[Any, Any]:
        loss = loss_of(hidden, weight, targets)
        return loss.detach(), torch.autograd.grad(loss, (hidden, weight))

    return Contestant(call, lambda r: (float(r[0]), r[1][0].float().numpy()), tolerance or data.tolerance)


def kosa(data: LinearProblem, workspace: int | None = None) -> Contestant:
    def choose(torch: Any) -> Any:
        from kosa.torch import linear_cross_entropy

        return lambda h, w, t: linear_cross_entropy(h, w, t, workspace=workspace)

    return _trained(data, choose)


def kosa_large(data: LinearProblem) -> Contestant:
    return kosa(data, 512 << 20)


def _two_steps(torch: Any) -> Any:
    functions = torch.nn.functional
    return lambda h, w, t: functions.cross_entropy(functions.linear(h, w), t)


def torch_eager(data: LinearProblem) -> Contestant:
    return _trained(data, _two_steps)


def torch_compile(data: LinearProblem) -> Contestant:
    def choose(torch: Any) -> Any:
        torch.compiler.reset()
        return torch.compile(_two_steps(torch), dynamic=False)

    return _trained(data, choose)


def torch_linear(data: LinearProblem) -> Contestant:
    return _trained(data, lambda torch: torch.nn.functional.linear_cross_entropy)


def torch_linear_options(data: LinearProblem) -> Contestant:
    def choose(torch: Any) -> Any:
        options = torch.nn.LinearCrossEntropyOptions()
        return lambda h, w, t: torch.nn.functional.linear_cross_entropy(h, w, t, options=options)

    # In bfloat16 it adds the chunks' losses up in bfloat16: 14.5 where 14.78 is right.
    return _trained(data, choose, 2.0**-5 if data.narrow else None)


LINEAR = [
    Entry("limit", products_torch),
    Entry("three products, NumPy", products_numpy),
    Entry("kosa", kosa),
    Entry("kosa, 512 MiB", kosa_large),
    Entry("torch eager", torch_eager),
    Entry("torch.compile", torch_compile),
    Entry("F.linear_cross_entropy", torch_linear),
    Entry("F.linear_cross_entropy, options", torch_linear_options),
]
