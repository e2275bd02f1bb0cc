"""Second derivatives of the row losses in PyTorch's own operations, which differentiate further to any order.

For one row, with z′ the logits after softcap and temperature, f = dz′/dz, p = softmax(z′), t′ the targets after smoothing
and class weights, S = Σ t′, w the row's weight:
    E = w·(S·lse − t′·z′ + z_loss·lse²)         u = ∂E/∂z′ / w = (S + 2·z_loss·lse)·p − t′
    H·v = w·[f∘(S + 2·z_loss·lse)·p∘(v̄ − p·v̄) + f∘2·z_loss·p·(p·v̄) + v∘u∘f′],  v̄ = f∘v
Everything here is N×K: who asks for second derivatives pays what PyTorch's own formula costs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kosa.loss import Options

Tensors = Sequence[Any]  # predictions, targets, class_weight or None, row_weight or None


class Parts(NamedTuple):
    """What the derivatives are made of; all but `live` and `weight` of the predictions' shape or with K = 1."""

    live: Tensor  # whether a row counts
    weight: Tensor  # w, 0 where it does not
    factor: Tensor  # dt′/dt
    targets: Tensor  # t′
    slope: Tensor  # f
    bend: Tensor  # f′
    lse: Tensor
    p: Tensor


def counts(targets: Tensor, ignore_index: int) -> Tensor:
    """Whether each class index is another than `ignore_index`, which PyTorch would wrap into the dtype of the targets."""
    held = torch.iinfo(targets.dtype)
    if not held.min <= ignore_index <= held.max:
        return torch.ones_like(targets, dtype=torch.bool)
    return targets != ignore_index


def parts(tensors: Tensors, options: Options) -> Parts:
    """Compute them in the predictions' precision, float32 at least."""
    predictions, targets, class_weight, row_weight = tensors
    axis, classes = options.axis, predictions.shape[options.axis]
    wide = torch.promote_types(predictions.dtype, torch.float32)
    z = predictions.to(wide)
    rows = z.select(axis, 0)
    weight = torch.ones_like(rows) if row_weight is None else row_weight.to(wide).expand_as(rows)
    live = weight != 0
    if targets.dtype.is_floating_point:
        t = targets.to(wide)
    else:
        counted = counts(targets, options.ignore_index)
        live = live & counted
        index = torch.where(counted, targets.long(), 0).unsqueeze(axis)
        t = torch.zeros_like(z).scatter(axis, index, 1.0)
    weight = torch.where(live, weight, 0.0)
    factor = torch.full((), 1.0 - options.label_smoothing, dtype=wide, device=z.device)
    t = t * factor + options.label_smoothing / classes
    if class_weight is not None:
        shape = [classes if d == axis else 1 for d in range(z.dim())]
        each = class_weight.to(wide).reshape(shape)
        factor, t = factor * each, t * each
    one = torch.ones((), dtype=wide, device=z.device)
    slope, bend = one / options.temperature, torch.zeros_like(one)
    if options.softcap is not None:
        tanh = torch.tanh(z / options.softcap)
        slope = (1 - tanh * tanh) / options.temperature
        bend = -2.0 / options.softcap * tanh * slope
        z = options.softcap * tanh
    z = z / options.temperature
    # A row that does not count may hold anything: it is computed as zeros, and its weight is 0.
    z = torch.where(live.unsqueeze(axis), z, 0.0)
    return Parts(
        live, weight, factor, t, slope, bend, torch.logsumexp(z, axis, keepdim=True), torch.softmax(z, axis)
    )


def hessian_product(v: Tensor, tensors: Tensors, options: Options) -> Tensor:
    """Return ∂²E/∂z²·v a row, in the predictions' dtype: H is symmetric, so this serves both modes."""
    axis, predictions = options.axis, tensors[0]
    q = parts(tensors, options)
    w, v = q.weight.unsqueeze(axis), v.to(q.p.dtype)
    live = q.live.unsqueeze(axis)
    if options.kind == "log_probs":
        return torch.zeros_like(predictions)
    if options.kind == "probs":
        y = predictions.to(q.p.dtype)
        y = torch.where(live & ((q.targets != 0) | (y != 0)), y, 1.0)
        return torch.where(live, w * q.targets / (y * y) * v, 0.0).to(predictions.dtype)
    total = q.targets.sum(axis, keepdim=True) + 2.0 * options.z_loss * q.lse
    inner = q.slope * v
    along = (q.p * inner).sum(axis, keepdim=True)
    product = q.slope * q.p * (total * (inner - along) + 2.0 * options.z_loss * along)
    product = product + v * (total * q.p - q.targets) * q.bend
    return torch.where(live, w * product, 0.0).to(predictions.dtype)


def target_product(v: Tensor, tensors: Tensors, options: Options) -> Tensor:
    """Return ∂²E/∂t∂z·v a row: how the gradient with respect to targets changes as predictions move along v."""
    axis = options.axis
    predictions, targets = tensors[:2]
    q = parts(tensors, options)
    w, v, live = q.weight.unsqueeze(axis), v.to(q.p.dtype), q.live.unsqueeze(axis)
    if options.kind == "logits":
        inner = q.slope * v
        change = (q.p * inner).sum(axis, keepdim=True) - inner
    elif options.kind == "probs":
        change = -v / torch.where(live, predictions.to(q.p.dtype), 1.0)
    else:
        change = -v
    return torch.where(live, w * q.factor * change, 0.0).to(targets.dtype)


def prediction_product(v: Tensor, tensors: Tensors, options: Options) -> Tensor:
    """Return ∂²E/∂z∂t·v a row, the transpose of `target_product`."""
    axis, predictions = options.axis, tensors[0]
    q = parts(tensors, options)
    w, v, live = q.weight.unsqueeze(axis), q.factor * v.to(q.p.dtype), q.live.unsqueeze(axis)
    if options.kind == "logits":
        change = q.slope * (q.p * v.sum(axis, keepdim=True) - v)
    elif options.kind == "probs":
        change = -v / torch.where(live, predictions.to(q.p.dtype), 1.0)
    else:
        change = -v
    return torch.where(live, w * change, 0.0).to(predictions.dtype)
