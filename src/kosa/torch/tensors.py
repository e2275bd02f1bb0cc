"""`kosa`'s own functions on tensors: the same keywords and defaults as on arrays; tensors come out."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from kosa import loss as _loss
from kosa.cpu import arguments, engine, figures
from kosa.dispatch import options_of
from kosa.loss import Options
from kosa.torch import arrays
from kosa.torch import binary as _binary
from kosa.torch import dense as _dense
from kosa.torch import linear as _linear
from kosa.torch.functional import Names, linear_loss, prepared
from kosa.torch.reduction import dense_loss, reduced, total_weight

_NAMES = Names("hidden", "weight", "bias", "targets", "class_weight")


def _dtype_of_loss(predictions: Tensor) -> torch.dtype:
    """float32 for predictions of up to 32 bits, else float64."""
    return torch.float64 if predictions.dtype == torch.float64 else torch.float32


def _tensor(values: Any, like: Tensor) -> Tensor:
    """The array as a tensor; bits as the 16-bit floats they are."""
    tensor = torch.from_numpy(np.asarray(values))
    return tensor.view(like.dtype) if values.dtype == np.uint16 else tensor


def _checked(
    targets: Any, predictions: Any, class_weight: Any, sample_weight: Any, options: Options
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Options]:
    """Return tensors that fit together, and the options with their axis counted from the front."""
    x = arrays.floating(predictions, options.kind)
    axis = _loss.class_axis(options.axis, tuple(x.shape), options.kind)
    t = arrays.targets_of(targets, x, axis, options.kind)
    return (
        x, t,
        arrays.weights_of(class_weight, "class_weight", (x.shape[axis],), "class", x),
        arrays.weights_of(sample_weight, "sample_weight", _dense.rows_of(x, axis), "row", x),
        options_of(
            options.kind, axis, options.ignore_index, options.label_smoothing, options.softcap, options.temperature,
            options.z_loss, options.reduction, options.denominator, options.empty,
        ),
    )  # fmt: skip


def dense(
    targets: Any,
    predictions: Any,
    class_weight: Any,
    sample_weight: Any,
    options: Options,
    with_grad: bool,
    out: Any,
) -> Any:
    """`kosa.cross_entropy`, differentiable; `kosa.cross_entropy_with_grad`, which is not."""
    x, t, of_classes, of_rows, on_axis = _checked(targets, predictions, class_weight, sample_weight, options)
    if not with_grad:
        return dense_loss((x, t, of_classes, of_rows), on_axis).to(_dtype_of_loss(x)), None
    return _dense_with_grad(x, t, of_classes, of_rows, on_axis, out)


@torch.compiler.disable  # of kernels, into which it would look: they are no graph of tensors
def _dense_with_grad(
    x: Tensor, t: Tensor, of_classes: Tensor | None, of_rows: Tensor | None, options: Options, out: Any
) -> tuple[Tensor, Tensor]:
    grad = _written(out, x, options.kind, targets=t, class_weight=of_classes, sample_weight=of_rows)
    job = arrays.job(x, t, of_classes, of_rows, options)
    result = engine.cross_entropy(job, True, arrays.array(grad))
    return _tensor(result.loss, x), grad


def _written(out: Any, x: Tensor, name: str, **others: Tensor | None) -> Tensor:
    """Return where the gradient goes: the caller's tensor, checked, or a new one."""
    if out is None:
        return torch.empty_like(x, requires_grad=False)
    if not isinstance(out, Tensor):
        raise TypeError(
            f"`out` must be a torch.Tensor, but is a {type(out).__module__}.{type(out).__qualname__}"
        )
    if out.dtype != x.dtype:
        raise TypeError(f"`out` must have the dtype of `{name}`, {x.dtype}, but has {out.dtype}")
    if out.requires_grad:
        raise ValueError("`out` requires a gradient, and would be overwritten: pass `out.detach()`")
    shared = {key: arrays.array(value) for key, value in others.items() if value is not None}
    arguments.check_out(arrays.array(out), arrays.array(x), name, **shared)
    return out


@torch.compiler.disable
def row_statistics(
    targets: Any, predictions: Any, class_weight: Any, sample_weight: Any, options: Options
) -> Any:
    """`kosa.row_statistics`, of tensors; without gradients."""
    given = targets
    if targets is None:
        x = arrays.floating(predictions, options.kind)
        axis = _loss.class_axis(options.axis, tuple(x.shape), options.kind)
        targets = torch.full(_dense.rows_of(x, axis), options.ignore_index, device=x.device)
    x, t, of_classes, of_rows, on_axis = _checked(targets, predictions, class_weight, sample_weight, options)
    job = arrays.job(x, t, of_classes, of_rows, on_axis)
    values = figures.row_statistics(job, given is not None)
    return tuple(None if value is None else _tensor(value, x) for value in values)


def linear(
    targets: Any, hidden: Any, weight: Any, bias: Any, weights: tuple[Any, Any], options: Options,
    workspace: int | None, shift: int, with_grad: bool,
) -> tuple[Any, Any, Any, Any]:  # fmt: skip
    """`kosa.linear_cross_entropy`, differentiable; `kosa.linear_cross_entropy_with_grad`, which is not."""
    x, w, b = _of_linear(hidden, weight, bias)
    if not with_grad:
        tensors = prepared(x, w, targets, b, *weights, workspace, shift, _NAMES)
        return (
            linear_loss(tensors, options, workspace, shift, _NAMES.target).to(_dtype_of_loss(x)),
            None,
            None,
            None,
        )
    h, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    b = None if b is None else b.detach().requires_grad_()
    with torch.enable_grad():
        tensors = prepared(h, w, targets, b, *weights, workspace, shift, _NAMES)
        loss = linear_loss(tensors, options, workspace, shift, _NAMES.target)
        dh, dw, *db = torch.autograd.grad(loss.sum(), [h, w] if b is None else [h, w, b])
    return loss.detach().to(_dtype_of_loss(x)), dh, dw, db[0] if db else None


def _of_linear(hidden: Any, weight: Any, bias: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    x, w = arrays.floating(hidden, "hidden"), arrays.floating(weight, "weight")
    b = None if bias is None else arrays.floating(bias, "bias")
    _loss.linear_shapes(tuple(x.shape), tuple(w.shape), None if b is None else tuple(b.shape))
    for name, tensor in (("weight", w), ("bias", b)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"`{name}` is on {tensor.device}, but `hidden` is on {x.device}: move it there")
        if tensor is not None and tensor.dtype != x.dtype and arrays.autocast(x) is None:
            raise TypeError(f"`{name}` must have the dtype of `hidden`, {x.dtype}, but has {tensor.dtype}")
    return x, w, b


def linear_row_statistics(
    targets: Any, hidden: Any, weight: Any, bias: Any, weights: tuple[Any, Any], options: Options,
    workspace: int | None, shift: int,
) -> Any:  # fmt: skip
    """`kosa.linear_row_statistics`, of tensors: `loss` and `lse` are differentiable."""
    x, w, b = _of_linear(hidden, weight, bias)
    tensors = prepared(x, w, targets, b, *weights, workspace, shift, _NAMES)
    return _linear.statistics(tensors, options, workspace, shift, _NAMES.target)


def binary(
    targets: Any,
    predictions: Any,
    pos_weight: Any,
    sample_weight: Any,
    options: Options,
    with_grad: bool,
    out: Any,
) -> Any:
    """`kosa.binary_cross_entropy`, differentiable; `kosa.binary_cross_entropy_with_grad`, which is not."""
    x = arrays.floating(predictions, options.kind)
    t = arrays.tensor_like(targets, "targets", x)
    if t.shape != x.shape:
        raise ValueError(
            f"`targets` must have the shape of `{options.kind}`, {tuple(x.shape)}, but have {tuple(t.shape)}"
        )
    if arrays.kind_of(t.dtype) == "V":
        raise TypeError(f"`targets` must be bool, integers 0 and 1, or floating, but are {t.dtype}")
    if t.requires_grad:
        raise ValueError("`targets` require a gradient, which is not computed: pass `targets.detach()`")
    plus, weight = (
        _element_weights(pos_weight, "pos_weight", x),
        _element_weights(sample_weight, "sample_weight", x),
    )
    if with_grad:
        return _binary_with_grad(x, t, plus, weight, options, out)
    losses = _binary.losses(x, t, plus, weight, options)
    total: Any = 1.0
    if options.reduction == "mean":
        indices_or_floats = t.to(torch.float32) if t.dtype == torch.bool else t
        total = total_weight(indices_or_floats, None, weight, losses.shape, options)
    return reduced(losses, total, options).to(_dtype_of_loss(x)), None


@torch.compiler.disable
def _binary_with_grad(
    x: Tensor, t: Tensor, plus: Tensor | None, weight: Tensor | None, options: Options, out: Any
) -> tuple[Tensor, Tensor]:
    grad = _written(out, x, options.kind, targets=t)
    of_targets = arrays.array(t)
    if not t.dtype.is_floating_point:
        of_targets = arguments.binary_targets(of_targets, tuple(x.shape), options.kind, options.ignore_index)
    vectors = arrays.vector(plus), arrays.vector(weight)
    result = engine.binary_cross_entropy(arrays.array(x), of_targets, *vectors, options, arrays.array(grad))
    return _tensor(result.loss, x), grad


def _element_weights(value: Any, name: str, predictions: Tensor) -> Tensor | None:
    """Return weights of the predictions' shape, or None."""
    if value is None:
        return None
    weights = arrays.tensor_like(value, name, predictions)
    try:
        weights = weights.expand(predictions.shape)
    except RuntimeError:
        raise ValueError(
            f"`{name}` must broadcast to the predictions' shape {tuple(predictions.shape)}, but has "
            f"{tuple(weights.shape)}"
        ) from None
    return arrays.weights_of(weights, name, tuple(predictions.shape), "element", predictions)
