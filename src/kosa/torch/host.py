"""The CPU engine as tensors see it. Nobody else makes arrays of tensors to compute with.

`losses` are float64, one a row, flat in C order. A class index out of range is an IndexError, in which the targets are
called `target`. `card` has the same functions for tensors on a GPU.
"""

import math

import numpy as np
import torch
from torch import Tensor

from kosa.cpu import arguments, engine, figures, indices
from kosa.cpu import linear as projection
from kosa.cpu.figures import Statistics
from kosa.loss import Options
from kosa.torch import arrays
from kosa.torch.products import TorchProducts

Needs = tuple[bool, bool, bool, bool]  # of hidden, weight, bias, targets


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
    """Fill `losses`, and `out` with ∂(scale·Σ losses)/∂predictions. fresh: `out` is memory that nobody touched."""
    job = arrays.job(predictions, targets, class_weight, row_weight, options, target)
    if predictions.numel():
        grad = None if out is None else arrays.array(out)
        engine.run(job, float(scale), arrays.array(losses), grad, fresh=fresh)


def target_slopes(
    predictions: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    *,
    out: Tensor,
) -> None:
    """Fill `out` with ∂(Σ losses)/∂targets, of distributions."""
    job = arrays.job(predictions, targets, class_weight, row_weight, options)
    if predictions.numel():
        engine.target_slopes(job, 1.0, arrays.array(out))


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
    """Fill `losses`, of elements, and `out` with ∂(scale·Σ losses)/∂predictions. Weights have the predictions' shape."""
    x, t = arrays.array(predictions), arrays.array(targets)
    if not targets.dtype.is_floating_point:
        t = arguments.binary_targets(t, x.shape, options.kind, options.ignore_index)
    vectors = arrays.vector(pos_weight), arrays.vector(weight)
    grad = None if out is None else arrays.array(out)
    engine.binary_losses(x, t, *vectors, options, float(scale), arrays.array(losses), grad)


def row_statistics(
    predictions: Tensor,
    targets: Tensor | None,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
) -> tuple[Tensor | None, ...]:
    """Return the figures of `kosa.row_statistics`; those of targets are None without."""
    given = targets is not None
    if targets is None:
        rows = (*predictions.shape[: options.axis], *predictions.shape[options.axis + 1 :])
        targets = torch.full(rows, options.ignore_index, device="cpu")
    job = arrays.job(predictions, targets, class_weight, row_weight, options)
    values = figures.row_statistics(job, given)
    return tuple(None if value is None else torch.from_numpy(np.asarray(value)) for value in values)


def check_index(targets: Tensor, classes: int, options: Options, target: str) -> None:
    """Raise IndexError for the first class index that is out of range."""
    t = arguments.index_vector(arrays.array(targets), options.ignore_index, classes, target)
    none = arrays.vector(None)
    indices.check(t, options.ignore_index, classes, none, none, tuple(targets.shape), target)


def check_binary(targets: Tensor, options: Options) -> None:
    """Raise ValueError for the first integer that is no binary target."""
    arguments.binary_targets(arrays.array(targets), tuple(targets.shape), options.kind, options.ignore_index)


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """Multiply a gradient in place by a tensor of one number."""
    return gradient if upstream == 1 else gradient.mul_(upstream)


def check_out(out: Tensor, x: Tensor, name: str, **others: Tensor) -> None:
    """Check that a gradient can be written to `out` without destroying what is still to be read."""
    shared = {key: arrays.array(value) for key, value in others.items()}
    arguments.check_out(arrays.array(out), arrays.array(x), name, **shared)


def linear_losses(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
    row_weight: Tensor | None, options: Options, workspace: int | None, shift: int, *, target: str,
) -> Tensor:  # fmt: skip
    """Return the loss of each row, float64: one product."""
    work = _work(hidden, weight, targets, class_weight, row_weight, None, options, shift, target)
    losses = np.zeros(hidden.shape[:-1])
    products = TorchProducts(_matrix(hidden), weight.detach(), bias, (False, False, False))
    projection.run(work, products, 1.0, losses.reshape(-1), workspace=workspace)
    return torch.from_numpy(losses)


def linear_gradients(
    upstream: Tensor, lse_upstream: Tensor | None, hidden: Tensor, weight: Tensor, bias: Tensor | None,
    targets: Tensor, class_weight: Tensor | None, row_weight: Tensor | None, options: Options, needs: Needs,
    workspace: int | None, shift: int, *, target: str,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Return losses, and the gradients of Σ upstream·loss + lse_upstream·lse that are needed.

    upstream: one number, by which the losses are not multiplied; or one a row, by which they are.
    """
    scale, of_rows = 1.0, row_weight
    if upstream.dim() == 0:
        scale = float(upstream)
    else:
        of_rows = arrays.weighted(upstream, row_weight)
    work = _work(hidden, weight, targets, class_weight, of_rows, lse_upstream, options, shift, target)
    losses = np.zeros(hidden.shape[:-1])
    *of_products, needs_targets = needs
    products = TorchProducts(_matrix(hidden), weight.detach(), bias, (needs[0], needs[1], needs[2]))
    dt = targets.new_zeros(targets.shape) if needs_targets else None
    projection.run(
        work, products, scale, losses.reshape(-1), workspace=workspace, slopes=any(of_products),
        target_slopes=None if dt is None else arrays.array(dt).reshape(-1, weight.shape[0]),
    )  # fmt: skip
    dh, dw, db = products.gradients()
    return torch.from_numpy(losses), None if dh is None else dh.reshape(hidden.shape), dw, db, dt


def linear_statistics(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
    row_weight: Tensor | None, options: Options, workspace: int | None, shift: int, *, target: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return the figures of `kosa.row_statistics`: one product."""
    work = _work(hidden, weight, targets, class_weight, row_weight, None, options, shift, target)
    shape = hidden.shape[:-1]
    values = Statistics(*(np.zeros(shape, np.int64 if i == 2 else np.float64) for i in range(7)))
    products = TorchProducts(_matrix(hidden), weight.detach(), bias, (False, False, False))
    projection.statistics(
        work, products, Statistics(*(value.reshape(-1) for value in values)), workspace=workspace
    )
    return tuple(torch.from_numpy(value) for value in values)


def _work(
    hidden: Tensor, weight: Tensor, targets: Tensor, class_weight: Tensor | None, row_weight: Tensor | None,
    lse_weight: Tensor | None, options: Options, shift: int, target: str,
) -> projection.LinearJob:  # fmt: skip
    t, classes = arrays.array(targets), weight.shape[0]
    indexed = not targets.dtype.is_floating_point
    t = (
        arguments.index_vector(t, options.ignore_index, classes, target)
        if indexed
        else t.reshape(-1, classes)
    )
    of_classes, of_rows, of_lse = (arrays.vector(x) for x in (class_weight, row_weight, lse_weight))
    rows = tuple(hidden.shape[:-1])
    return projection.job(t, indexed, rows, classes, of_classes, of_rows, options, shift, of_lse, target)


def _matrix(hidden: Tensor) -> Tensor:
    return hidden.detach().reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1])
