"""The contestants: kosa, and the usual idiom of each other library, on the same problem.

Legend: logits (N, K) or (N, K, …), the class axis is always 1; targets are indices (N, …) or, if they have
the logits' shape, distributions. Each function prepares its library's arrays, untimed, and returns the call
to time.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from kosa.benchmark.harness import Answer, Contestant, Entry, Missing
from kosa.benchmark.limits import bare_copy, bare_read
from kosa.functional import cross_entropy, cross_entropy_with_grad


@dataclass(frozen=True)
class Problem:
    """The arrays of one case, and what a right answer is."""

    logits: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    gradient: bool = False
    threads: int = 1
    tile: "Problem | None" = None  # the rows repeat these: the mean loss is known without reading them all

    @property
    def soft(self) -> bool:
        return self.targets.shape == self.logits.shape

    @property
    def rows(self) -> list[int]:
        """Where along the first axis the gradient is compared: the ends and the middle."""
        return sorted({0, len(self.logits) // 2, len(self.logits) - 1})

    @cached_property
    def reference(self) -> Answer:
        return _reference(self) if self.tile is None else self.tile.reference

    def checks(self) -> tuple[Answer, list[int]]:
        """The float64 reference and the rows that its gradient is of."""
        return self.reference, self.rows


def _reference(problem: Problem) -> Answer:
    """Float64, a few rows at a time, so that it needs little memory beside the arrays."""
    logits, targets = problem.logits, problem.targets
    step = max(1, 4_000_000 * len(logits) // logits.size)
    total, count = 0.0, logits.size // logits.shape[1]
    for start in range(0, len(logits), step):
        z = logits[start : start + step].astype(np.float64)
        t = targets[start : start + step]
        total += float(_losses(z, t).sum())
    if not problem.gradient:
        return total / count, None
    z = logits[problem.rows].astype(np.float64)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    grad = e / e.sum(axis=1, keepdims=True)
    at = np.expand_dims(targets[problem.rows], 1)
    np.put_along_axis(grad, at, np.take_along_axis(grad, at, 1) - 1, 1)
    return total / count, grad / count


def _losses(z: npt.NDArray[Any], t: npt.NDArray[Any]) -> npt.NDArray[Any]:
    peak = z.max(axis=1, keepdims=True)
    lse = np.log(np.exp(z - peak).sum(axis=1, keepdims=True)) + peak
    if t.shape == z.shape:
        return np.asarray((t * (lse - z)).sum(axis=1))
    return np.asarray((lse - np.take_along_axis(z, np.expand_dims(t, 1), 1))[:, 0])


def limit(problem: Problem) -> Contestant:
    if problem.gradient:
        return bare_copy(problem.logits, problem.threads)
    arrays = [problem.logits, problem.targets] if problem.soft else [problem.logits]
    return bare_read(arrays, problem.threads)


def kosa(problem: Problem) -> Contestant:
    z, t = problem.logits, problem.targets
    if problem.gradient:
        return Contestant(
            lambda: cross_entropy_with_grad(t, logits=z, axis=1), lambda r: (float(r.loss), r.grad)
        )
    return Contestant(lambda: cross_entropy(t, logits=z, axis=1), lambda r: (float(r), None))


def kosa_out(problem: Problem) -> Contestant:
    z, t = problem.logits, problem.targets
    out = np.full_like(z, 1)
    return Contestant(
        lambda: cross_entropy_with_grad(t, logits=z, axis=1, out=out), lambda r: (float(r.loss), r.grad)
    )


def kosa_float32(problem: Problem) -> Contestant:
    """The same values widened beforehand: what a 16-bit type saves or costs."""
    z, t = problem.logits.astype(np.float32), problem.targets
    return Contestant(lambda: cross_entropy(t, logits=z, axis=1), lambda r: (float(r), None))


def numpy_batch(problem: Problem) -> Contestant:
    z, t = problem.logits, problem.targets
    at = np.expand_dims(t, 1)

    def value() -> Any:
        x = z.astype(np.float32) if z.dtype.itemsize == 2 else z
        shifted = x - x.max(axis=1, keepdims=True)
        lse = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        if problem.soft:
            return -(t * (shifted - lse)).sum(axis=1).mean()
        return (lse - np.take_along_axis(shifted, at, axis=1)).mean()

    def with_grad() -> Any:
        shifted = z - z.max(axis=1, keepdims=True)
        e = np.exp(shifted)
        total = e.sum(axis=1, keepdims=True)
        loss = (np.log(total) - np.take_along_axis(shifted, at, axis=1)).mean()
        grad = e / total
        np.put_along_axis(grad, at, np.take_along_axis(grad, at, axis=1) - 1, axis=1)
        grad /= total.size
        return loss, grad

    if problem.gradient:
        return Contestant(with_grad, lambda r: (float(r[0]), r[1]))
    return Contestant(value, lambda r: (float(r), None))


def scipy_log_softmax(problem: Problem) -> Contestant:
    try:
        from scipy.special import log_softmax
    except ModuleNotFoundError:
        raise Missing("not installed") from None
    z, t = problem.logits, problem.targets
    if z.dtype.itemsize == 2:
        raise Missing("no bfloat16")
    at = np.expand_dims(t, 1)

    def value() -> Any:
        log_probs = log_softmax(z, axis=1)
        if problem.soft:
            return -(t * log_probs).sum(axis=1).mean()
        return -np.take_along_axis(log_probs, at, axis=1).mean()

    def with_grad() -> Any:
        log_probs = log_softmax(z, axis=1)
        picked = np.take_along_axis(log_probs, at, axis=1)
        grad = np.exp(log_probs)
        np.put_along_axis(grad, at, np.exp(picked) - 1, axis=1)
        grad /= picked.size
        return -picked.mean(), grad

    if problem.gradient:
        return Contestant(with_grad, lambda r: (float(r[0]), r[1]))
    return Contestant(value, lambda r: (float(r), None))


def sklearn_log_loss(problem: Problem) -> Contestant:
    """From probabilities, for it takes nothing else; the softmax before it is not counted."""
    try:
        from sklearn.metrics import log_loss
    except ModuleNotFoundError:
        raise Missing("not installed") from None
    if problem.gradient or problem.soft or problem.logits.ndim != 2 or problem.logits.dtype.itemsize == 2:
        raise Missing("has no such function")
    z, t = problem.logits, problem.targets
    probs = np.exp(z - z.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    classes = np.arange(z.shape[1])
    return Contestant(lambda: log_loss(t, probs, labels=classes), lambda r: (float(r), None))


def _torch(problem: Problem, wrap: Callable[[Any, Any], Any]) -> Contestant:
    try:
        import torch
    except ModuleNotFoundError:
        raise Missing("not installed") from None
    torch.set_num_threads(problem.threads)
    tolerance = 1e-5
    if problem.logits.dtype.itemsize == 2:
        z = torch.from_numpy(problem.logits.view(np.int16)).view(torch.bfloat16)
        tolerance = 2.0**-7  # torch returns a bfloat16 loss: 8 bits
    else:
        z = torch.from_numpy(problem.logits)
    t = torch.from_numpy(problem.targets)
    function = wrap(torch, torch.nn.functional.cross_entropy)

    def with_grad() -> Any:
        z.grad = None
        loss = function(z, t)
        loss.backward()
        return loss.detach(), z.grad

    if problem.gradient:
        z.requires_grad_()
        return Contestant(with_grad, lambda r: (float(r[0]), r[1].numpy()))
    return Contestant(lambda: function(z, t), lambda r: (float(r), None), tolerance)


def torch_eager(problem: Problem) -> Contestant:
    return _torch(problem, lambda torch, function: function)


def torch_compile(problem: Problem) -> Contestant:
    def wrap(torch: Any, function: Any) -> Any:
        torch.compiler.reset()
        return torch.compile(function, dynamic=False)

    return _torch(problem, wrap)


def jax_jit(problem: Problem) -> Contestant:
    # The comparison is of CPUs; without this jax would take an accelerator where it finds one.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        import jax
        import jax.numpy as jnp
    except ModuleNotFoundError:
        raise Missing("not installed") from None
    soft = problem.soft
    z = jnp.asarray(problem.logits)
    t = jnp.asarray(problem.targets if soft else problem.targets.astype(np.int32))

    def loss(z: Any, t: Any) -> Any:
        z = z.astype(jnp.float32)
        if soft:
            return -(t * jax.nn.log_softmax(z, axis=1)).sum(axis=1).mean()
        picked = jnp.take_along_axis(z, jnp.expand_dims(t, 1), axis=1)
        return (jax.nn.logsumexp(z, axis=1, keepdims=True) - picked).mean()

    function = jax.jit(jax.value_and_grad(loss) if problem.gradient else loss)
    finished: Any = jax.block_until_ready

    def call() -> Any:
        return finished(function(z, t))

    if problem.gradient:
        return Contestant(call, lambda r: (float(r[0]), np.asarray(r[1])))
    return Contestant(call, lambda r: (float(r), None))


def kosa_torch(problem: Problem) -> Contestant:
    def wrap(torch: Any, function: Any) -> Any:
        from kosa.torch import cross_entropy as of_tensors

        return of_tensors

    return _torch(problem, wrap)


OTHERS = [
    Entry("NumPy", numpy_batch),
    Entry("SciPy", scipy_log_softmax),
    Entry("scikit-learn", sklearn_log_loss),
    Entry("torch eager", torch_eager),
    Entry("torch.compile", torch_compile),
    Entry("jax.jit", jax_jit),
]
VALUE = [Entry("limit", limit), Entry("kosa", kosa), *OTHERS]
GRADIENT = [Entry("limit", limit), Entry("kosa, out=", kosa_out), Entry("kosa", kosa), *OTHERS]
BFLOAT16 = [Entry("limit", limit), Entry("kosa", kosa), Entry("kosa, float32", kosa_float32), *OTHERS]
SMALL = [Entry("kosa", kosa), *OTHERS]
TORCH = [
    Entry("limit", limit),
    Entry("kosa", kosa_torch),
    Entry("torch eager", torch_eager),
    Entry("torch.compile", torch_compile),
]


def without(entries: Sequence[Entry], names: Sequence[str]) -> list[Entry]:
    """The entries; of those named, the table says that they were left out."""

    def left_out(problem: Any) -> Contestant:
        raise Missing("left out by --quick")

    return [Entry(entry.name, left_out) if entry.name in names else entry for entry in entries]
