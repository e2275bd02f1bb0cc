"""Dense cases on a GPU: logits (N, K) or (N, K, …), class indices, and the contestants' usual calls.

Each contestant is made from the problem once, untimed, and gives a function of (logits, targets): the loss, or the loss
and the gradient of the logits. It is called with one set of tensors after the other, together larger than the cache.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kosa.benchmark.harness import Missing

Call = Callable[..., Any]


@dataclass
class Dense:
    """The tensors of one case: sets of logits and targets, the first of which the answers are checked on."""

    shape: tuple[int, ...]
    dtype: Any
    gradient: bool
    sets: list[tuple[Any, ...]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes that must be moved: the logits read, and as many written if there is a gradient."""
        return math.prod(self.shape) * int(self.dtype.itemsize) * (2 if self.gradient else 1)

    flops = None
    outputs = 0  # bytes that no goal counts

    @property
    def tolerance(self) -> float:
        return 2.0**-7 if self.dtype.itemsize == 2 else 1e-5

    def reference(self) -> tuple[float, Any]:
        """Float64, a few rows at a time: the mean loss, and the gradient at three places along the first axis."""
        import torch

        z, t = self.sets[0]
        total = 0.0
        step = max(1, (1 << 24) * len(z) // z.numel())
        for start in range(0, len(z), step):
            wide = z[start : start + step].double()
            own = wide.gather(1, t[start : start + step].unsqueeze(1)).squeeze(1)
            total += float((wide.logsumexp(1) - own).sum())
        count = z.numel() // z.shape[1]
        if not self.gradient:
            return total / count, None
        rows = self.rows
        p = torch.softmax(z[rows].double(), 1)
        p.scatter_add_(1, t[rows].unsqueeze(1), torch.full_like(p[:, :1], -1))
        return total / count, (p / count).cpu().numpy()

    @property
    def rows(self) -> list[int]:
        return [0, self.shape[0] // 2, self.shape[0] - 1]

    def answer(self, value: Any) -> tuple[float, Any]:
        """Loss and gradient, as `reference` gives them, of what a contestant returned."""
        if not self.gradient:
            return float(value), None
        loss, grad = value
        return float(loss), grad[self.rows].double().cpu().numpy()


def dense(shape: tuple[int, ...], dtype: str, gradient: bool) -> Callable[..., Dense]:
    """Standard normal logits; as many sets as are three times the cache, one at least."""

    def build(device: str, cache: int, quick: bool) -> Dense:
        import torch

        size = (shape[0] if len(shape) == 2 else 2, min(shape[1], 1000), *(8 for _ in shape[2:]))
        size = (min(size[0], 64), *size[1:]) if quick else shape
        problem = Dense(size, getattr(torch, dtype), gradient)
        random = torch.Generator(device).manual_seed(0)
        own = problem.nbytes // (2 if gradient else 1)
        for _ in range(1 if quick else max(1, -(-3 * cache // own))):
            z = torch.randn(size, device=device, dtype=problem.dtype, generator=random)
            t = torch.randint(size[1], (size[0], *size[2:]), device=device, generator=random)
            problem.sets.append((z, t))
        return problem

    return build


def limit(problem: Dense) -> Call:
    """The bare copy of the logits, or their bare read: what every value costs that looks at all of them."""
    import torch

    if problem.gradient:
        out = torch.empty_like(problem.sets[0][0])
        return lambda z, t: out.copy_(z)
    # PyTorch's sum of float32 is at the memory's speed whatever the bits are; of 16-bit formats it is not everywhere.
    return lambda z, t: z.view(torch.float32).sum()


def kosa(problem: Dense) -> Call:
    from kosa.torch import cross_entropy

    return trained(problem, cross_entropy)


def kosa_out(problem: Dense) -> Call:
    """Loss and gradient by one call, into a tensor of the caller's."""
    import torch

    from kosa.functional import cross_entropy_with_grad

    out = torch.empty_like(problem.sets[0][0])
    return lambda z, t: cross_entropy_with_grad(t, logits=z, axis=1, out=out)


def torch_eager(problem: Dense) -> Call:
    import torch

    return trained(problem, torch.nn.functional.cross_entropy)


def torch_compile(problem: Dense) -> Call:
    import torch

    torch.compiler.reset()
    return trained(problem, torch.compile(torch.nn.functional.cross_entropy, dynamic=False))


def liger(problem: Dense) -> Call:
    """Liger-Kernel writes the gradient over the logits, so it gets logits of its own: random ones at the first call, by
    which it is checked; its time does not depend on what they hold.
    """
    two_axes(problem)
    try:
        from liger_kernel.transformers import LigerCrossEntropyLoss
    except ImportError as error:
        raise Missing(f"not installed: {error}") from None
    call = trained(problem, LigerCrossEntropyLoss())
    if not problem.gradient:
        return call
    own = itertools.cycle([(z.clone(), t) for z, t in problem.sets])
    return lambda z, t: call(*next(own))


def quack(problem: Dense) -> Call:
    two_axes(problem)
    try:
        from quack.cross_entropy import cross_entropy
    except ImportError as error:
        raise Missing(f"not installed: {error}") from None
    return trained(problem, cross_entropy)


def two_axes(problem: Dense) -> None:
    if len(problem.shape) != 2:
        raise Missing("takes N×K only")


def trained(problem: Any, loss_of: Call) -> Call:
    """The loss without a graph, or with the gradients of all that are floating but come as constants."""
    import torch

    if not problem.gradient:

        def value(*tensors: Any) -> Any:
            with torch.no_grad():
                return loss_of(*tensors)

        return value

    def both(*tensors: Any) -> Any:
        leaves = [x.detach().requires_grad_() for x in tensors if x.is_floating_point()]
        loss = loss_of(*leaves, *(x for x in tensors if not x.is_floating_point()))
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    return both
