"""The linear form on a GPU, and the text's rows of probabilities: row by row, and in one batch.

Legend: hidden (N, D), weight (K, D), targets (N,) indices; t, y (N, K), one-hot and probabilities.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kosa.benchmark.gpu_dense import Call, trained
from kosa.benchmark.harness import Missing


@dataclass
class Linear:
    """hidden, weight and targets; one set, for they are larger than any cache."""

    shape: tuple[int, int, int]  # N, D, K
    gradient: bool
    sets: list[tuple[Any, ...]] = field(default_factory=list)
    tolerance = 2.0**-7
    nbytes = None

    @property
    def flops(self) -> int:
        """Of one product, or of three."""
        n, d, k = self.shape
        return 2 * n * d * k * (3 if self.gradient else 1)

    @property
    def outputs(self) -> int:
        """Bytes of both gradients, and of a float32 total of the weight's."""
        n, d, k = self.shape
        return 2 * d * (n + k) + 4 * d * k if self.gradient else 0

    @property
    def rows(self) -> list[int]:
        return [0, self.shape[0] // 2, self.shape[0] - 1]

    def reference(self) -> tuple[float, Any]:
        """By float32 products of what bfloat16 holds, a few rows at a time; the rest in float64."""
        import torch

        h, w, t = self.sets[0]
        wide = w.float()
        total = 0.0
        for start in range(0, len(h), 256):
            z = (h[start : start + 256].float() @ wide.T).double()
            total += float((z.logsumexp(1) - z.gather(1, t[start : start + 256, None])[:, 0]).sum())
        if not self.gradient:
            return total / len(h), None
        p = torch.softmax((h[self.rows].float() @ wide.T).double(), 1)
        p.scatter_add_(1, t[self.rows, None], torch.full_like(p[:, :1], -1))
        return total / len(h), (p.float() @ wide / len(h)).cpu().numpy()

    def answer(self, value: Any) -> tuple[float, Any]:
        if not self.gradient:
            return float(value), None
        return float(value[0]), value[1][self.rows].double().cpu().numpy()


def linear(rows: int, width: int, classes: int, gradient: bool) -> Callable[..., Linear]:
    """Hidden states of a normal distribution, a weight whose logits have about the spread of a trained head's."""

    def build(device: str, cache: int, quick: bool) -> Linear:
        import torch

        n, d, k = (64, 32, 1000) if quick else (rows, width, classes)
        random = torch.Generator(device).manual_seed(0)
        options: Any = {"device": device, "dtype": torch.bfloat16, "generator": random}
        h, w = torch.randn((n, d), **options), torch.randn((k, d), **options)
        w.mul_(3 / d**0.5)
        t = torch.randint(k, (n,), device=device, generator=random)
        return Linear((n, d, k), gradient, [(h, w, t)])

    return build


def products(problem: Linear) -> Call:
    """The bare product, or the three, into buffers."""
    import torch

    h, w, _ = problem.sets[0]
    z = torch.empty(len(h), len(w), dtype=h.dtype, device=h.device)
    dh, dw = torch.empty_like(h), torch.empty_like(w)

    def call(h: Any, w: Any, t: Any) -> None:
        torch.mm(h, w.t(), out=z)
        if problem.gradient:
            torch.mm(z, w, out=dh)
            torch.mm(z.t(), h, out=dw)

    return call


def kosa(problem: Linear) -> Call:
    from kosa.torch import linear_cross_entropy

    return trained(problem, linear_cross_entropy)


def _two_steps(h: Any, w: Any, t: Any) -> Any:
    from torch.nn import functional

    return functional.cross_entropy(functional.linear(h, w), t)


def torch_eager(problem: Linear) -> Call:
    return trained(problem, _two_steps)


def torch_compile(problem: Linear) -> Call:
    import torch

    torch.compiler.reset()
    return trained(problem, torch.compile(_two_steps, dynamic=False))


def _torch_linear() -> Any:
    import torch

    if not hasattr(torch.nn.functional, "linear_cross_entropy"):
        raise Missing(f"not in PyTorch {torch.__version__}")
    return torch.nn.functional.linear_cross_entropy


def torch_linear(problem: Linear) -> Call:
    return trained(problem, _torch_linear())


def torch_linear_options(problem: Linear) -> Call:
    import torch

    function, options = _torch_linear(), torch.nn.LinearCrossEntropyOptions()
    problem.tolerance = max(problem.tolerance, 2.0**-5)  # its sum of the chunks' losses is in bfloat16
    return trained(problem, lambda h, w, t: function(h, w, t, options=options))


def liger(problem: Linear) -> Call:
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError as error:
        raise Missing(f"not installed: {error}") from None
    loss = LigerFusedLinearCrossEntropyLoss()
    return trained(problem, lambda h, w, t: loss(w, h, t))


def quack(problem: Linear) -> Call:
    try:
        from quack.linear_cross_entropy import chunked_linear_cross_entropy
    except ImportError as error:
        raise Missing(f"not installed: {error}") from None
    return trained(problem, chunked_linear_cross_entropy)


def cut(problem: Linear) -> Call:
    """cut-cross-entropy as it comes: gradients below the resolution of bfloat16 are left out."""
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError as error:
        raise Missing(f"not installed: {error}") from None
    return trained(problem, linear_cross_entropy)


@dataclass
class Text:
    """One-hot rows t and probabilities y, float32, as in the text that defines cross-entropy by vectors."""

    sets: list[tuple[Any, ...]]
    gradient = False
    nbytes = None
    flops = None
    outputs = 0
    tolerance = 1e-5
    rows = ()

    def reference(self) -> tuple[float, Any]:
        t, y = (x.double() for x in self.sets[0])
        return -float((t * y.log()).sum(1).mean()), None

    def answer(self, value: Any) -> tuple[float, Any]:
        return float(value), None


def text(rows: int, classes: int) -> Callable[..., Text]:
    def build(device: str, cache: int, quick: bool) -> Text:
        import torch

        n = 50 if quick else rows
        random = torch.Generator(device).manual_seed(0)
        y = torch.softmax(3 * torch.randn(n, classes, device=device, generator=random), 1)
        t = torch.eye(classes, device=device)[torch.randint(classes, (n,), device=device, generator=random)]
        return Text([(t, y)])

    return build


def text_loop(problem: Text) -> Call:
    """−t·log y, a row at a time."""
    return lambda t, y: -sum(a @ b.log() for a, b in zip(t, y, strict=True)) / len(t)


def text_product(problem: Text) -> Call:
    """The diagonal of the whole N×N product."""
    return lambda t, y: -(t @ y.log().T).diagonal().mean()


def text_batch(problem: Text) -> Call:
    return lambda t, y: -(t * y.log()).sum(1).mean()


def text_kosa(problem: Text) -> Call:
    from kosa.functional import cross_entropy

    return lambda t, y: cross_entropy(t, probs=y)
