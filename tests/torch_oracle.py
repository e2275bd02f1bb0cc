"""What the tests hold `kosa.torch` against: PyTorch's own functions, in float64 and in the same dtype."""

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

# What one value may be off by beside PyTorch's own error in the dtype, in parts of the largest exact value:
# float64: sums of some hundred products, in another order; float32: 4 ulp, the contract of the loss; 16 bits: half an ulp
# of the result and as much for the logits of the linear form, which are rounded to 16 bits between two products.
FLOOR = {torch.float64: 1e-13, torch.float32: 2.0**-21, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}


def leaves(value: Any) -> list[Tensor]:
    """The tensors of arguments that want a gradient."""
    return [x for x in value if isinstance(x, Tensor) and x.requires_grad]


def converted(value: Any, dtype: torch.dtype) -> Any:
    """A fresh leaf with the same numbers in this dtype; other values as they are."""
    if not isinstance(value, Tensor):
        return value
    fresh = value.detach().to(dtype) if value.dtype.is_floating_point else value.detach()
    return fresh.clone().requires_grad_(value.requires_grad)


def derived(function: Callable[..., Tensor], args: Any, kwargs: Any) -> list[Tensor]:
    """The result, and the gradients of its sum weighted unevenly, of all that wants one."""
    result = function(*args, **kwargs)
    wanted = leaves([*args, *kwargs.values()])
    if not wanted:
        return [result.detach()]
    upstream = torch.linspace(0.5, 2.0, result.numel(), dtype=result.dtype, device=result.device).reshape(
        result.shape
    )
    return [result.detach(), *torch.autograd.grad(result, wanted, upstream)]


def compare(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], args: Any, kwargs: Any) -> None:
    """Same shapes and dtypes as PyTorch's, and no value further from the exact one than PyTorch's, but for the floor."""
    dtype = next(x.dtype for x in args if isinstance(x, Tensor) and x.dtype.is_floating_point)

    def call(function: Callable[..., Tensor], to: torch.dtype) -> list[Tensor]:
        return derived(
            function, [converted(x, to) for x in args], {k: converted(v, to) for k, v in kwargs.items()}
        )

    got, reference, exact = call(ours, dtype), call(theirs, dtype), call(theirs, torch.float64)
    assert len(got) == len(reference)
    for i, (a, b, e) in enumerate(zip(got, reference, exact, strict=True)):
        what = "result" if i == 0 else f"gradient {i} of {len(got) - 1}"
        assert a.dtype == b.dtype, f"{what}: {a.dtype}, PyTorch has {b.dtype}"
        close(a, b, e, FLOOR[dtype], what)


def close(got: Tensor, reference: Tensor, exact: Tensor, floor: float, what: str) -> None:
    """No value further from the exact one than the reference's worst, but for the floor; NaN and inf in their places."""
    assert got.shape == reference.shape == exact.shape, f"{what}: shape {got.shape}, not {exact.shape}"
    if not exact.numel():
        return
    got, reference, exact = got.double(), reference.double(), exact.double()
    finite = exact.isfinite()
    assert torch.equal(got[~finite].nan_to_num(), exact[~finite].nan_to_num()), f"{what}: {got} not {exact}"
    assert torch.equal(got.isnan(), exact.isnan()), f"{what}: {got}, not {exact}"
    if not finite.any():
        return
    size = exact[finite].abs().max()
    # The contract is of max(loss, 1); in PyTorch's a smaller loss, and the gradient p − 1, are differences that cancel.
    size = size.clamp(min=1.0 if what in ("result", "loss") else 0.01)
    error, theirs = ((x - exact)[finite].abs().max() for x in (got, reference))
    assert error <= theirs + floor * size, (
        f"{what}: off by {error:.3g}, PyTorch by {theirs:.3g}, of {size:.3g}"
    )


def formula(
    z: Tensor,
    targets: Tensor,
    *,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    denominator: float | None = None,
    empty: str = "nan",
    shift: int = 0,
) -> Tensor:
    """The loss of logits z, classes last, written out in PyTorch's operations and differentiated by them."""
    rows, classes = z.shape[:-1], z.shape[-1]
    soft = targets.is_floating_point()
    weight = torch.ones(rows, dtype=z.dtype) if sample_weight is None else sample_weight.to(z.dtype)
    if shift:
        at = len(rows) - 1
        keep = max(0, rows[-1] - shift)
        z, weight = z.narrow(at, 0, keep), weight.narrow(at, 0, keep)
        targets = targets.narrow(at, rows[-1] - keep, keep)
    each = torch.ones(classes, dtype=z.dtype) if class_weight is None else class_weight.to(z.dtype)
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    z = z / temperature
    lse = torch.logsumexp(z, -1)
    if soft:
        counts, t, total = torch.ones_like(lse, dtype=torch.bool), targets.to(z.dtype), weight.sum()
    else:
        counts = targets != ignore_index
        index = torch.where(counts, targets, 0).long()
        t = torch.nn.functional.one_hot(index, classes).to(z.dtype)
        total = torch.where(counts, weight * each[index], 0.0).sum()
    t = ((1 - label_smoothing) * t + label_smoothing / classes) * each
    losses = (t * (lse.unsqueeze(-1) - z)).sum(-1) + z_loss * lse**2
    losses = torch.where(counts, weight * losses, 0.0)
    if reduction == "none":
        return torch.nn.functional.pad(losses, (0, rows[-1] - keep)) if shift else losses
    if reduction == "sum":
        return losses.sum()
    divisor = float(total if denominator is None else denominator)
    if divisor == 0:
        return losses.sum() * 0 + (float("nan") if empty == "nan" else 0.0)
    return losses.sum() / divisor


KEYWORDS = st.fixed_dictionaries(
    {},
    optional={
        "class_weight": st.just(True),
        "sample_weight": st.just(True),
        "ignore_index": st.sampled_from([-1, 0, 2]),
        "label_smoothing": st.sampled_from([0.1, 1.0]),
        "softcap": st.sampled_from([2.0, 30.0]),
        "temperature": st.sampled_from([0.5, 3.0]),
        "z_loss": st.sampled_from([0.1, -0.01]),
        "reduction": st.sampled_from(["mean", "sum", "none", "none"]),
    },
)


def keywords(
    choose: Any, rows: tuple[int, ...], classes: int, generator: torch.Generator, soft: bool
) -> dict[str, Any]:
    """A choice of every keyword of the losses, weights of zero among them."""
    chosen = choose(KEYWORDS)
    if soft:
        chosen.pop("ignore_index", None)
    for name, shape in (("class_weight", (classes,)), ("sample_weight", rows)):
        if name in chosen:
            weight = torch.rand(shape, dtype=torch.float64, generator=generator) + 0.2
            chosen[name] = weight * (torch.rand(shape, generator=generator) < 0.8)
    if chosen.get("reduction", "mean") == "mean":
        chosen["denominator"] = choose(st.sampled_from([None, None, 7.5]))
        chosen["empty"] = choose(st.sampled_from(["nan", "zero"]))
    return chosen


def draw_targets(soft: bool, rows: tuple[int, ...], classes: int, generator: torch.Generator) -> Tensor:
    """Class indices, or distributions that need not sum to 1 and have zeros."""
    if not soft:
        return torch.randint(0, classes, rows, generator=generator)
    t = torch.rand((*rows, classes), dtype=torch.float64, generator=generator)
    return t * (torch.rand(t.shape, generator=generator) < 0.7)
