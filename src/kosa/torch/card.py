"""The Triton engine as tensors on a GPU see it: the functions of `host`, none of which waits for the device."""

from typing import Any

import torch
from torch import Tensor

from kosa.gpu import binary, dense, linear, scaling, statistics, strides
from kosa.loss import Options


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """As `host.scaled`."""
    return scaling.scale(gradient, strides.plain(upstream))


def run(
    predictions: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    *,
    scale: float | Tensor = 1.0,
    losses: Tensor,
    out: Tensor | None = None,
    fresh: bool = False,
    target: str = "targets",
) -> None:
    """As `host.run`; a row whose class index is out of range is NaN."""
    x, t, weights = plain(predictions), plain(targets), (plain(class_weight), plain(row_weight))
    dense.run(x, t, *weights, options, scale=plain(scale), losses=losses, out=out)


def target_slopes(
    predictions: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    *,
    out: Tensor,
) -> None:
    """As `host.target_slopes`."""
    weights = plain(class_weight), plain(row_weight)
    dense.target_slopes(plain(predictions), plain(targets), *weights, options, out=out)


def binary_losses(
    predictions: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None,
    weight: Tensor | None,
    options: Options,
    *,
    scale: float | Tensor = 1.0,
    losses: Tensor,
    out: Tensor | None = None,
) -> None:
    """As `host.binary_losses`; an element whose target is no target is NaN."""
    weights = plain(pos_weight), plain(weight)
    tensors = plain(predictions), plain(targets), *weights
    binary.run(*tensors, options, scale=plain(scale), losses=losses, out=out)


def row_statistics(
    predictions: Tensor,
    targets: Tensor | None,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
) -> tuple[Tensor | None, ...]:
    """As `host.row_statistics`."""
    x = plain(predictions)
    shape = (*x.shape[: options.axis], *x.shape[options.axis + 1 :])
    of_targets = (0, 5, 6)
    figures = [
        None
        if targets is None and i in of_targets
        else x.new_zeros(shape, dtype=torch.int64 if i == 2 else torch.float64)
        for i in range(7)
    ]
    flat = [None if figure is None else figure.view(-1) for figure in figures]
    statistics.run(x, plain(targets), plain(class_weight), plain(row_weight), options, flat)
    return tuple(figures)


def linear_losses(*tensors: Any, target: str) -> Tensor:
    """As `host.linear_losses`."""
    return linear.losses(*tensors)


def linear_gradients(*tensors: Any, target: str) -> tuple[Any, ...]:
    """As `host.linear_gradients`."""
    return linear.gradients(*tensors)


def linear_statistics(*tensors: Any, target: str) -> tuple[Tensor, ...]:
    """As `host.linear_statistics`."""
    return linear.statistics_of(*tensors)


def check_out(out: Tensor, x: Tensor, name: str, **others: Tensor) -> None:
    """As `host.check_out`, by what memory tensors span: one that lies between the elements of another overlaps it."""
    if out.shape != x.shape:
        raise ValueError(
            f"`out` must have the shape of `{name}`, {tuple(x.shape)}, but has {tuple(out.shape)}"
        )
    same = out.data_ptr() == x.data_ptr() and out.stride() == x.stride()
    start, stop = span(out)
    for other, tensor in others.items() if same else {name: x, **others}.items():
        first, last = span(tensor)
        if start < last and first < stop:
            raise ValueError(
                f"`out` overlaps `{other}`: pass a tensor of its own, or exactly the tensor of `{name}`"
            )
    reach = 1
    for step, size in sorted(
        (step, size) for step, size in zip(out.stride(), out.shape, strict=True) if size > 1
    ):
        if step < reach:
            raise ValueError("`out` has elements that share memory: pass a tensor of its own")
        reach = step * size


def span(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor's memory begins and ends."""
    start = tensor.data_ptr()
    if not tensor.numel():
        return start, start
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size()


def plain(value: Any) -> Any:
    """A tensor's numbers as kernels find them in memory; what is no tensor as it is."""
    return strides.plain(value) if isinstance(value, Tensor) else value
