"""What the tests hold `kosa.torch` against: PyTorch's own functions, on the same numbers in float64 and in the same dtype."""

from collections.abc import Callable
from typing import Any

import torch
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
    upstream = torch.linspace(0.5, 2.0, result.numel(), dtype=result.dtype).reshape(result.shape)
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
    """No value further from the exact one than the reference's worst, but for the floor; NaN and inf in the same places."""
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
    error, theirs = ((x - exact)[finite].abs().max() for x in (got, reference))
    assert error <= theirs + floor * size, (
        f"{what}: off by {error:.3g}, PyTorch by {theirs:.3g}, of {size:.3g}"
    )
