"""The cases of the benchmark: their arrays, their contestants, and the goals that Kosa set itself."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kosa.benchmark import contestants, linear
from kosa.benchmark.contestants import Problem
from kosa.benchmark.harness import Contestant, Entry, Missing
from kosa.functional import cross_entropy


@dataclass(frozen=True)
class Goal:
    """`subject` against `rival`: at most `limit` times its time, or at least `limit` times as fast."""

    case: str
    subject: str
    rival: str | None  # None: the time itself, in seconds
    at_most: float | None = None
    at_least: float | None = None


@dataclass(frozen=True)
class Case:
    """One case. `build(quick)` makes the arrays; `gib` is what all contestants need at once, at full size."""

    name: str
    title: str
    build: Callable[[bool], Any]
    entries: Sequence[Entry]
    main: str = "kosa"  # the entry that the others are compared with
    gib: float = 0.1


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    z = np.empty(shape, np.float32)
    rng.standard_normal(out=z, dtype=np.float32)
    return z


def _rows(shape: tuple[int, ...], quick: tuple[int, ...], **options: Any) -> Callable[[bool], Problem]:
    def build(small: bool) -> Problem:
        rng = np.random.default_rng(0)
        size = quick if small else shape
        z = _normal(rng, size)
        return Problem(z, rng.integers(size[1], size=(size[0], *size[2:])), **options)

    return build


def _bfloat16(small: bool) -> Problem:
    try:
        import ml_dtypes
    except ModuleNotFoundError:
        raise Missing("needs ml_dtypes") from None
    problem = _rows((4096, 32000), (64, 1000))(small)
    return Problem(problem.logits.astype(ml_dtypes.bfloat16), problem.targets)


def _soft(small: bool) -> Problem:
    problem = _rows((4096, 32000), (64, 1000))(small)
    t = np.empty_like(problem.logits)
    np.random.default_rng(1).random(out=t, dtype=np.float32)
    t /= t.sum(axis=1, keepdims=True)
    return Problem(problem.logits, t)


@dataclass(frozen=True)
class Text:
    """One-hot targets and probabilities, as in the text that defines cross-entropy by vectors."""

    targets: npt.NDArray[np.float64]  # (N, K)
    probs: npt.NDArray[np.float64]  # (N, K)
    classes: npt.NDArray[np.int64]  # (N,)
    threads: int = 1

    def checks(self) -> tuple[tuple[float, None], list[int]]:
        picked = self.probs[np.arange(len(self.classes)), self.classes]
        return (-float(np.log(picked).mean()), None), []


def _text(small: bool) -> Text:
    rng = np.random.default_rng(0)
    rows = 500 if small else 10_000
    e = np.exp(3 * rng.standard_normal((rows, 10)))
    classes = rng.integers(10, size=rows)
    return Text(np.eye(10)[classes], e / e.sum(axis=1, keepdims=True), classes)


def _scalar(call: Callable[[], Any]) -> Contestant:
    return Contestant(call, lambda r: (float(r), None))


def _python_loop(data: Text) -> Contestant:
    targets, probs = data.targets.tolist(), data.probs.tolist()

    def call() -> float:
        total = 0.0
        for t, y in zip(targets, probs, strict=True):
            total -= sum(tk * math.log(yk) for tk, yk in zip(t, y, strict=True))
        return total / len(targets)

    return _scalar(call)


def _dot_loop(data: Text) -> Contestant:
    def call() -> float:
        total = 0.0
        for t, y in zip(data.targets, data.probs, strict=True):
            total -= t @ np.log(y)
        return total / len(data.targets)

    return _scalar(call)


def _whole_product(data: Text) -> Contestant:
    return _scalar(lambda: -np.diag(data.targets @ np.log(data.probs).T).mean())


def _one_batch(data: Text) -> Contestant:
    return _scalar(lambda: -(data.targets * np.log(data.probs)).sum(axis=1).mean())


def _kosa_text(data: Text) -> Contestant:
    return _scalar(lambda: cross_entropy(data.targets, probs=data.probs))


_TEXT = [
    Entry("Python loop over rows and classes", _python_loop),
    Entry("loop of vector products −t·log y", _dot_loop),
    Entry("diagonal of the N×N product −T·(log Y)ᵀ", _whole_product),
    Entry("one batch, NumPy", _one_batch),
    Entry("kosa", _kosa_text),
]

CASES = [
    Case(
        "value",
        "value, float32, 4096×32000",
        _rows((4096, 32000), (64, 1000)),
        contestants.VALUE,
        gib=10,
    ),
    Case(
        "gradient",
        "value + gradient, float32, 4096×32000",
        _rows((4096, 32000), (64, 1000), gradient=True),
        contestants.GRADIENT,
        main="kosa, out=",
        gib=8,
    ),
    Case("bfloat16", "value, bfloat16, 4096×32000", _bfloat16, contestants.BFLOAT16, gib=6),
    Case(
        "few-classes",
        "value, float32, 1,000,000×10",
        _rows((1_000_000, 10), (5000, 10)),
        contestants.VALUE,
        gib=2,
    ),
    Case(
        "segmentation",
        "value + gradient, float32, 8×21×512×512, axis=1",
        _rows((8, 21, 512, 512), (2, 21, 32, 32), gradient=True),
        contestants.GRADIENT,
        main="kosa, out=",
        gib=3,
    ),
    Case("soft", "value, soft targets, float32, 4096×32000", _soft, contestants.VALUE, gib=8),
    Case(
        "torch",
        "kosa.torch, forward + backward, float32, 4096×32000",
        _rows((4096, 32000), (64, 1000), gradient=True),
        contestants.TORCH,
        gib=5,
    ),
    Case(
        "linear",
        "linear, forward + backward, float32, N=2048 D=768 K=32000",
        linear.problem(2048, 768, 32000),
        linear.LINEAR,
        gib=3,
    ),
    Case(
        "linear-bfloat16",
        "linear, forward + backward, bfloat16, N=2048 D=768 K=32000",
        linear.problem(2048, 768, 32000, narrow=True),
        linear.LINEAR,
        gib=3,
    ),
    Case("small", "one call, float32, 8×10", _rows((8, 10), (8, 10)), contestants.SMALL),
    Case("text", "−t·log y row by row and in one batch, float64, 10,000×10", _text, _TEXT, gib=2),
]

GOALS = [
    Goal("value", "kosa", "limit", at_most=1.6),
    Goal("value", "kosa", "torch eager", at_least=8),
    Goal("value", "kosa", "jax.jit", at_least=1.8),
    Goal("gradient", "kosa, out=", "limit", at_most=1.5),
    Goal("gradient", "kosa, out=", "torch eager", at_least=10),
    Goal("gradient", "kosa, out=", "torch.compile", at_least=4),
    Goal("gradient", "kosa, out=", "jax.jit", at_least=4),
    Goal("bfloat16", "kosa", "kosa, float32", at_most=1),
    Goal("bfloat16", "kosa", "torch eager", at_least=4),
    Goal("few-classes", "kosa", "torch eager", at_least=7),
    Goal("segmentation", "kosa, out=", "torch eager", at_least=4),
    Goal("soft", "kosa", "limit", at_most=1.8),
    Goal("torch", "kosa", "torch eager", at_least=6),
    Goal("torch", "kosa", "torch.compile", at_least=2.5),
    Goal("linear", "kosa", "three products, NumPy", at_most=1.3),
    Goal("linear", "kosa", "torch eager", at_least=1.4),
    Goal("linear", "kosa", "F.linear_cross_entropy", at_least=1.4),
    Goal("linear", "kosa", "F.linear_cross_entropy, options", at_least=1.4),
    Goal("linear", "kosa, 512 MiB", "torch eager", at_least=2),
    Goal("linear", "kosa, 512 MiB", "F.linear_cross_entropy", at_least=2),
    Goal("linear", "kosa, 512 MiB", "F.linear_cross_entropy, options", at_least=2),
    Goal("linear-bfloat16", "kosa", "limit", at_most=1.3),
    Goal("linear-bfloat16", "kosa", "torch eager", at_least=1.2),
    Goal("linear-bfloat16", "kosa", "F.linear_cross_entropy, options", at_least=8),
    Goal("small", "kosa", None, at_most=15e-6),
]
