"""`kosa`'s own functions on tensors: the same keywords and defaults as on arrays; tensors come out."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kosa import loss as _loss
from kosa.dispatch import options_of
from kosa.loss import Options
from kosa.torch import arrays, engines
from kosa.torch import binary as _binary
from kosa.torch import dense as _dense
from kosa.torch import linear as _linear
from kosa.torch.functional import Names, linear_loss, linear_loss_and_gradients, prepared
from kosa.torch.reduction import dense_loss, reduced, scale_of, total_weight

_NAMES = Names("hidden", "weight", "bias", "targets", "class_weight")


def _dtype_of_loss(predictions: Tensor) -> torch.dtype:
    """float32 for predictions of up to 32 bits, else float64."""
    return torch.float64 if predictions.dtype == torch.float64 else torch.float32


def _checked(
    targets: Any, predictions: Any, class_weight: Any, sample_weight: Any, options: Options
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Options]:
    """Return tensors that fit together, and the options with their axis counted from the front."""
    x = arrays.floating(predictions, options.kind)
    axis = _loss.class_axis(options.axis, tuple(x.shape), options.kind)
    t = arrays.targets_of(targets, x, axis, options.kind)
    engines.check(t, x.shape[axis], options, "targets")
    return (
        x, t,
        arrays.weights_of(class_weight, "class_weight", (x.shape[axis],), "class", x),
        arrays.weights_of(sample_weight, "sample_weight", _dense.rows_of(x, axis), "row", x),
        options_of(
            options.kind, axis, options.ignore_index, options.label_smoothing, options.softcap, options.temperature,
            options.z_loss, options.reduction, options.denominator, options.empty, options.check,
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


def _seen() -> None:
    """Raise where a trace would record memory without what kernels write there."""
    if torch._C._is_tracing():
        raise RuntimeError(
            "torch.jit.trace records operators, and does not see the kernels of this function: trace a loss without its "
            "gradient, or use torch.compile"
        )


@torch.compiler.disable  # of kernels, into which it would look: they are no graph of tensors
def _dense_with_grad(
    x: Tensor, t: Tensor, of_classes: Tensor | None, of_rows: Tensor | None, options: Options, out: Any
) -> tuple[Tensor, Tensor]:
    _seen()
    grad = _written(out, x, options.kind, targets=t, class_weight=of_classes, sample_weight=of_rows)
    rows = _dense.rows_of(x, options.axis)
    total: Tensor | float = 1.0
    if options.reduction == "mean":
        total = total_weight(t, of_classes, of_rows, rows, options)
    losses = x.new_empty(rows, dtype=torch.float64)
    run = partial(engines.of(x).run, x, t, of_classes, of_rows, options, fresh=out is None)
    return _with_grad(run, losses, total, options, x, grad)


def _with_grad(
    run: Any, losses: Tensor, total: Tensor | float, options: Options, x: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss, and `grad`, which `run` fills."""
    scale, nothing = scale_of(total, options, x.device)
    run(scale=scale, losses=losses.view(-1), out=grad)
    if nothing is not None and isinstance(total, float):
        grad.zero_()  # a denominator of 0 says nothing of what rows hold, and 0·NaN is NaN
    return reduced(losses, total, options).to(_dtype_of_loss(x)), grad


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
    if out.device != x.device:
        raise ValueError(f"`out` is on {out.device}, but `{name}` is on {x.device}: pass a tensor there")
    if out.is_neg():
        raise ValueError(
            "`out` is a view of numbers that PyTorch negates when it is read: pass a tensor of its own"
        )
    shared = {key: value for key, value in others.items() if value is not None}
    engines.of(x).check_out(out, x, name, **shared)
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)  # kernels write where autograd does not see it
    return out


@torch.compiler.disable
def row_statistics(
    targets: Any, predictions: Any, class_weight: Any, sample_weight: Any, options: Options
) -> Any:
    """`kosa.row_statistics`, of tensors; without gradients."""
    _seen()
    if targets is None:
        x = arrays.floating(predictions, options.kind)
        axis = _loss.class_axis(options.axis, tuple(x.shape), options.kind)
        rows = torch.full(_dense.rows_of(x, axis), options.ignore_index, device=x.device)
        x, _, *rest = _checked(rows, x, class_weight, sample_weight, options)
        return engines.of(x).row_statistics(x, None, *rest)
    tensors = _checked(targets, predictions, class_weight, sample_weight, options)
    return engines.of(tensors[0]).row_statistics(*tensors)


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
    with torch.no_grad():
        tensors = prepared(x, w, targets, b, *weights, workspace, shift, _NAMES)
        loss, (dh, dw, db) = linear_loss_and_gradients(tensors, options, workspace, shift, _NAMES.target)
    # Under autocast they were computed in its dtype.
    of_bias = None if b is None else db.to(b.dtype)
    return loss.to(_dtype_of_loss(x)), dh.to(x.dtype), dw.to(w.dtype), of_bias


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
    engines.check_binary(t, options)
    plus, weight = (
        _element_weights(pos_weight, "pos_weight", x),
        _element_weights(sample_weight, "sample_weight", x),
    )
    total: Tensor | float = 1.0
    if options.reduction == "mean":
        indices_or_floats = t.to(torch.float32) if t.dtype == torch.bool else t
        total = total_weight(indices_or_floats, None, weight, x.shape, options)
    if with_grad:
        return _binary_with_grad(x, t, plus, weight, options, total, out)
    losses = _binary.losses(x, t, plus, weight, options)
    return reduced(losses, total, options).to(_dtype_of_loss(x)), None


@torch.compiler.disable
def _binary_with_grad(
    x: Tensor,
    t: Tensor,
    plus: Tensor | None,
    weight: Tensor | None,
    options: Options,
    total: Tensor | float,
    out: Any,
) -> tuple[Tensor, Tensor]:
    _seen()
    grad = _written(out, x, options.kind, targets=t)
    losses = x.new_empty(x.shape, dtype=torch.float64)
    run = partial(engines.of(x).binary_losses, x, t, plus, weight, options)
    return _with_grad(run, losses, total, options, x, grad)


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
