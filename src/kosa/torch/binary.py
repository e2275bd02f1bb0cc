"""Binary cross-entropy of tensors: every element is a row.

E = w·[q·t·softplus(−z) + (1 − t)·softplus(z)] from logits, −w·[q·t·log y + (1 − t)·log(1 − y)] from probabilities, with q
the weight of positives and t the smoothed targets. Second derivatives: (q·t + 1 − t)·p·(1 − p) from logits, and
q·t/y² + (1 − t)/(1 − y)² from probabilities.
"""

from typing import Any

import torch
from torch import Tensor

from kosa.dispatch import options_of
from kosa.loss import Options
from kosa.torch import arrays, dense, engines, plain


def _options(kind: str, ignore_index: int, label_smoothing: float) -> Options:
    return options_of(kind, -1, ignore_index, label_smoothing)


def binary_losses_kernel(
    predictions: Tensor, targets: Tensor, pos_weight: Tensor | None, weight: Tensor | None, kind: str,
    ignore_index: int, label_smoothing: float,
) -> Tensor:  # fmt: skip
    """Return the loss of each element, float64. Weights have the predictions' shape."""
    options = _options(kind, ignore_index, label_smoothing)
    losses = predictions.new_empty(predictions.shape, dtype=torch.float64)
    weights = pos_weight, weight
    engines.of(predictions).binary_losses(predictions, targets, *weights, options, losses=losses.view(-1))
    return losses


binary_losses_op = torch.library.custom_op("kosa::binary_losses", binary_losses_kernel, mutates_args=())


@binary_losses_op.register_fake
def _(predictions: Tensor, *rest: Any) -> Tensor:
    return predictions.new_empty(predictions.shape, dtype=torch.float64)


def binary_gradients_kernel(
    upstream: Tensor, predictions: Tensor, targets: Tensor, pos_weight: Tensor | None, weight: Tensor | None,
    kind: str, ignore_index: int, label_smoothing: float,
) -> Tensor:  # fmt: skip
    """Return ∂(Σ upstream·loss)/∂predictions."""
    options = _options(kind, ignore_index, label_smoothing)
    scaled = arrays.weighted(upstream, weight)
    out = arrays.memory(predictions)
    losses = predictions.new_empty(predictions.numel(), dtype=torch.float64)
    weights = pos_weight, scaled
    engines.of(predictions).binary_losses(predictions, targets, *weights, options, losses=losses, out=out)
    return out


binary_gradients_op = torch.library.custom_op(
    "kosa::binary_gradients", binary_gradients_kernel, mutates_args=()
)


@binary_gradients_op.register_fake
def _(upstream: Tensor, predictions: Tensor, *rest: Any) -> Tensor:
    return torch.empty(predictions.shape, dtype=predictions.dtype, device=predictions.device)


def _curvature(
    predictions: Tensor, targets: Tensor, pos_weight: Tensor | None, weight: Tensor | None, kind: str,
    ignore_index: int, label_smoothing: float,
) -> Tensor:  # fmt: skip
    """∂²E/∂predictions², in PyTorch's own operations, which differentiate further."""
    x = predictions.to(torch.promote_types(predictions.dtype, torch.float32))
    live = torch.ones_like(targets, dtype=torch.bool)
    if not targets.dtype.is_floating_point and targets.dtype != torch.bool:
        live = plain.counts(targets, ignore_index)
    if weight is not None:
        live = live & (weight != 0)
    t = targets.to(x.dtype) * (1.0 - label_smoothing) + label_smoothing / 2
    positive = t if pos_weight is None else t * pos_weight.to(x.dtype)
    if kind == "logits":
        p = torch.sigmoid(torch.where(live, x, 0.0))
        value = (positive + (1 - t)) * p * (1 - p)
    else:
        y = torch.where(live, x, 0.5)
        up, down = torch.where(positive == 0, 1.0, y), torch.where(t == 1, 0.5, y)
        value = positive / (up * up) + (1 - t) / ((1 - down) * (1 - down))
    if weight is not None:
        value = value * weight.to(x.dtype)
    return torch.where(live, value, 0.0)


class _Traced(torch.autograd.Function):
    """predictions, targets, pos_weight, weight, options → losses, for torch.compile."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return binary_losses_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.options = inputs[4:]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return binary_gradients_op(upstream, *ctx.saved_tensors, *ctx.options), *(None,) * 6


class BinaryLosses(torch.autograd.Function):
    """predictions, targets, pos_weight, weight, options → losses."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return (binary_losses_kernel if dense.direct(*args[:4]) else binary_losses_op)(*args)

    setup_context = dense.keeps(4)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None) -> Any:
        if upstream is None:
            return dense.nothing(ctx)
        gradients = binary_gradients_op if torch.compiler.is_compiling() else BinaryGradients.apply
        return gradients(upstream, *ctx.saved_tensors, *ctx.options), *(None,) * 6

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *others: Any) -> Tensor:
        dense.constant(*others)
        ones = torch.ones(dx.shape, dtype=torch.float64, device=dx.device)
        return BinaryGradients.apply(ones, *ctx.saved_tensors, *ctx.options).to(torch.float64) * dx

    @staticmethod
    def vmap(info: Any, dims: Any, *args: Any) -> Any:
        given = (dense.front(a, d, info.batch_size) for a, d in zip(args, dims, strict=True))
        return BinaryLosses.apply(*given), 0


class BinaryGradients(torch.autograd.Function):
    """upstream, predictions, targets, pos_weight, weight, options → ∂(Σ upstream·loss)/∂predictions."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return (binary_gradients_kernel if dense.direct(*args[:5]) else binary_gradients_op)(*args)

    setup_context = dense.keeps(5)

    @staticmethod
    def backward(ctx: Any, v: Tensor | None) -> Any:
        if v is None:
            return dense.nothing(ctx)
        upstream, *saved = ctx.saved_tensors
        dg = dx = None
        if ctx.needs_input_grad[0]:
            dg = v * BinaryGradients.apply(torch.ones_like(upstream), *saved, *ctx.options)
        if ctx.needs_input_grad[1]:
            dx = v * upstream * _curvature(*saved, *ctx.options)
        return dg, dx, *(None,) * 6

    @staticmethod
    def jvp(ctx: Any, dg: Tensor | None, dx: Tensor | None, *others: Any) -> Tensor:
        dense.constant(*others)
        upstream, *saved = ctx.saved_tensors
        change = torch.zeros_like(saved[0])
        if dg is not None:
            change = change + BinaryGradients.apply(dg, *saved, *ctx.options)
        if dx is not None:
            change = change + (dx * upstream * _curvature(*saved, *ctx.options)).to(change.dtype)
        return change

    @staticmethod
    def vmap(info: Any, dims: Any, *args: Any) -> Any:
        given = (dense.front(a, d, info.batch_size) for a, d in zip(args, dims, strict=True))
        return BinaryGradients.apply(*given), 0


def losses(
    predictions: Tensor, targets: Tensor, pos_weight: Tensor | None, weight: Tensor | None, options: Options
) -> Tensor:
    """Return the loss of each element, float64, differentiable with respect to the predictions."""
    rest = options.kind, int(options.ignore_index), dense.number(options, "label_smoothing")
    args = predictions, targets, pos_weight, weight, *rest
    return dense.applied(BinaryLosses, _Traced, binary_losses_op, *args)
