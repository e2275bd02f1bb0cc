"""Row losses of dense predictions: operators on raw tensors, and what autograd, functorch and the compiler see of them.

The operators know nothing of derivatives. The functions around them do, to any order and in both modes: first derivatives
by kernels, second ones by `plain`. torch.compile does not take a Function that has a jvp: while it traces, its stand-in
without one is used, and forward mode is refused (`applied`) rather than answered with zeros.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from kosa.cpu import engine
from kosa.loss import Options
from kosa.torch import arrays, plain

Flat = tuple[str, int, int, float, float | None, float, float]


def flat(options: Options) -> Flat:
    """The options of a row's loss as an operator takes them."""
    return (
        options.kind, options.axis, int(options.ignore_index), float(options.label_smoothing),
        None if options.softcap is None else float(options.softcap), float(options.temperature), float(options.z_loss),
    )  # fmt: skip


def on_axis(options: Options, axis: int) -> Options:
    """The options with this axis, counted from the front."""
    return Options(
        options.kind, axis, options.ignore_index, options.label_smoothing, options.softcap, options.temperature,
        options.z_loss, options.reduction, options.denominator, options.empty,
    )  # fmt: skip


def rows_of(x: Tensor, axis: int) -> tuple[int, ...]:
    """The shape of the rows: that of the predictions without their class axis."""
    return (*x.shape[:axis], *x.shape[axis + 1 :])


def row_losses_kernel(
    predictions: Tensor, targets: Tensor, class_weight: Tensor | None, row_weight: Tensor | None,
    kind: str, axis: int, ignore_index: int, label_smoothing: float, softcap: float | None, temperature: float,
    z_loss: float,
) -> Tensor:  # fmt: skip
    """Return the loss of each row, float64."""
    options = Options(kind, axis, ignore_index, label_smoothing, softcap, temperature, z_loss)  # type: ignore[arg-type]
    job = arrays.job(predictions, targets, class_weight, row_weight, options)
    shape = rows_of(predictions, axis)
    losses = np.zeros(shape)
    if losses.size:
        with np.errstate(all="ignore"):
            engine.run(job, 1.0, losses.reshape(-1), None)
    return torch.from_numpy(losses)


row_losses_op = torch.library.custom_op("kosa::row_losses", row_losses_kernel, mutates_args=())


@row_losses_op.register_fake
def _(
    predictions: Tensor, targets: Tensor, class_weight: Any, row_weight: Any, kind: str, axis: int, *rest: Any
) -> Tensor:
    return predictions.new_empty(rows_of(predictions, axis), dtype=torch.float64)


def row_gradients_kernel(
    upstream: Tensor, predictions: Tensor, targets: Tensor, class_weight: Tensor | None, row_weight: Tensor | None,
    kind: str, axis: int, ignore_index: int, label_smoothing: float, softcap: float | None, temperature: float,
    z_loss: float,
) -> Tensor:  # fmt: skip
    """Return ∂(Σ upstream·loss)/∂predictions."""
    options = Options(kind, axis, ignore_index, label_smoothing, softcap, temperature, z_loss)  # type: ignore[arg-type]
    weight = upstream if row_weight is None else upstream * row_weight
    out = arrays.memory(predictions.shape, predictions.dtype)
    if out.numel():
        job = arrays.job(predictions, targets, class_weight, weight, options, check=False)
        with np.errstate(all="ignore"):
            engine.run(job, 1.0, np.empty(weight.numel()), arrays.array(out))
    return out


row_gradients_op = torch.library.custom_op("kosa::row_gradients", row_gradients_kernel, mutates_args=())


@row_gradients_op.register_fake
def _(upstream: Tensor, predictions: Tensor, *rest: Any) -> Tensor:
    return torch.empty(predictions.shape, dtype=predictions.dtype, device=predictions.device)


def target_gradients_kernel(
    upstream: Tensor, predictions: Tensor, targets: Tensor, class_weight: Tensor | None, row_weight: Tensor | None,
    kind: str, axis: int, ignore_index: int, label_smoothing: float, softcap: float | None, temperature: float,
    z_loss: float,
) -> Tensor:  # fmt: skip
    """Return ∂(Σ upstream·loss)/∂targets, of distributions."""
    options = Options(kind, axis, ignore_index, label_smoothing, softcap, temperature, z_loss)  # type: ignore[arg-type]
    weight = upstream if row_weight is None else upstream * row_weight
    out = arrays.memory(targets.shape, targets.dtype)
    if out.numel():
        job = arrays.job(predictions, targets, class_weight, weight, options)
        with np.errstate(all="ignore"):
            engine.target_slopes(job, 1.0, arrays.array(out))
    return out


target_gradients_op = torch.library.custom_op(
    "kosa::target_gradients", target_gradients_kernel, mutates_args=()
)


@target_gradients_op.register_fake
def _(upstream: Tensor, predictions: Tensor, targets: Tensor, *rest: Any) -> Tensor:
    return torch.empty(targets.shape, dtype=targets.dtype, device=targets.device)


def direct(*tensors: Tensor) -> bool:
    """Whether these are plain tensors that nobody traces or transforms: kernels may be called without the dispatcher.

    Through it an operator written in Python costs some hundred microseconds, many times what a small loss takes.
    """
    return (
        not torch.compiler.is_compiling()
        and all(type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta for x in tensors)
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        # autograd.grad(is_grads_batched=True) has a vmap of its own, of upstream gradients alone
        and not any(torch._C._functorch.is_legacy_batchedtensor(x) for x in tensors)
    )


def forward_mode() -> bool:
    """Whether tangents are about, of torch.func.jvp or of forward_ad.dual_level."""
    return forward_ad._current_level >= 0


def applied(eager: Any, traced: Any, operator: Any, *args: Any) -> Any:
    """Apply a Function: torch.compile traces only one that has no jvp, and none at all where no gradient is wanted."""
    if not torch.compiler.is_compiling():
        return eager.apply(*args)
    if forward_mode():
        raise RuntimeError(
            "torch.compile loses the tangents of kosa's functions: call torch.func.jvp outside of it"
        )
    wanted = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args)
    return traced.apply(*args) if wanted else operator(*args)


def front(x: Any, dim: int | None, size: int) -> Any:
    """The tensor with vmap's dimension first, repeated along it where it had none."""
    if not isinstance(x, Tensor):
        return x
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def over_rows(
    function: Any, tensors: int, info: Any, dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[Any, int]:
    """vmap of a function of so many tensors, class weights the last but one: its dimension is one more of rows."""
    size, per_class = info.batch_size, tensors - 2
    if dims[per_class] is not None:  # weights of classes of its own for each: one after the other
        one_by_one = [
            function(*(a if d is None else a.select(d, i) for a, d in zip(args, dims, strict=True)))
            for i in range(size)
        ]
        return torch.stack(one_by_one), 0
    given = [
        a if i == per_class else front(a, d, size)
        for i, (a, d) in enumerate(zip(args[:tensors], dims, strict=False))
    ]
    kind, axis, *rest = args[tensors:]
    return function(*given, kind, axis + 1, *rest), 0


class _Traced(torch.autograd.Function):
    """predictions, targets, class_weight, row_weight, options → losses, for torch.compile."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return row_losses_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.options = inputs[4:]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        saved, options = ctx.saved_tensors, ctx.options
        dx = row_gradients_op(upstream, *saved, *options) if ctx.needs_input_grad[0] else None
        dt = target_gradients_op(upstream, *saved, *options) if ctx.needs_input_grad[1] else None
        return dx, dt, *(None,) * 9


class RowLosses(torch.autograd.Function):
    """predictions, targets, class_weight, row_weight, options → losses."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return (row_losses_kernel if direct(args[0]) else row_losses_op)(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.save_for_forward(*inputs[:4])
        ctx.options = inputs[4:]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        saved, options = ctx.saved_tensors, ctx.options
        dx = RowGradients.apply(upstream, *saved, *options) if ctx.needs_input_grad[0] else None
        dt = TargetGradients.apply(upstream, *saved, *options) if ctx.needs_input_grad[1] else None
        return dx, dt, *(None,) * 9

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dt: Tensor | None, *_: Any) -> Tensor:
        saved, options = ctx.saved_tensors, ctx.options
        axis = options[1]
        ones = torch.ones(rows_of(saved[0], axis), dtype=torch.float64, device=saved[0].device)
        change = torch.zeros_like(ones)
        if dx is not None:
            change = change + dot(RowGradients.apply(ones, *saved, *options), dx, axis)
        if dt is not None:
            change = change + dot(TargetGradients.apply(ones, *saved, *options), dt, axis)
        return change

    @staticmethod
    def vmap(info: Any, dims: Any, *args: Any) -> Any:
        return over_rows(RowLosses.apply, 4, info, dims, args)


class RowGradients(torch.autograd.Function):
    """upstream, predictions, targets, class_weight, row_weight, options → ∂(Σ upstream·loss)/∂predictions."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return (row_gradients_kernel if direct(*args[:2]) else row_gradients_op)(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.save_for_forward(*inputs[:5])
        ctx.options = inputs[5:]

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        (upstream, *saved), flat_options = ctx.saved_tensors, ctx.options
        options, axis = Options(*flat_options), flat_options[1]
        needs = ctx.needs_input_grad
        dg = dx = dt = None
        scaled = v * upstream.unsqueeze(axis)
        if needs[0]:
            dg = dot(RowGradients.apply(torch.ones_like(upstream), *saved, *flat_options), v, axis)
        if needs[1]:
            dx = plain.hessian_product(scaled, saved, options)
        if needs[2]:
            dt = plain.target_product(scaled, saved, options)
        return dg, dx, dt, *(None,) * 9

    @staticmethod
    def jvp(ctx: Any, dg: Tensor | None, dx: Tensor | None, dt: Tensor | None, *_: Any) -> Tensor:
        (upstream, *saved), flat_options = ctx.saved_tensors, ctx.options
        options, axis = Options(*flat_options), flat_options[1]
        change = torch.zeros_like(saved[0])
        if dg is not None:
            change = change + RowGradients.apply(dg, *saved, *flat_options)
        if dx is not None:
            change = change + plain.hessian_product(dx * upstream.unsqueeze(axis), saved, options)
        if dt is not None:
            change = change + plain.prediction_product(dt * upstream.unsqueeze(axis), saved, options)
        return change

    @staticmethod
    def vmap(info: Any, dims: Any, *args: Any) -> Any:
        return over_rows(RowGradients.apply, 5, info, dims, args)


class TargetGradients(torch.autograd.Function):
    """upstream, predictions, targets, class_weight, row_weight, options → ∂(Σ upstream·loss)/∂targets."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return (target_gradients_kernel if direct(*args[:2]) else target_gradients_op)(*args)

    setup_context = RowGradients.setup_context

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        (upstream, *saved), flat_options = ctx.saved_tensors, ctx.options
        options, axis = Options(*flat_options), flat_options[1]
        dg = dx = None
        if ctx.needs_input_grad[0]:
            dg = dot(TargetGradients.apply(torch.ones_like(upstream), *saved, *flat_options), v, axis)
        if ctx.needs_input_grad[1]:
            dx = plain.prediction_product(v * upstream.unsqueeze(axis), saved, options)
        return dg, dx, *(None,) * 10

    @staticmethod
    def jvp(ctx: Any, dg: Tensor | None, dx: Tensor | None, *_: Any) -> Tensor:
        (upstream, *saved), flat_options = ctx.saved_tensors, ctx.options
        options, axis = Options(*flat_options), flat_options[1]
        change = torch.zeros_like(saved[1])
        if dg is not None:
            change = change + TargetGradients.apply(dg, *saved, *flat_options)
        if dx is not None:
            change = change + plain.target_product(dx * upstream.unsqueeze(axis), saved, options)
        return change

    @staticmethod
    def vmap(info: Any, dims: Any, *args: Any) -> Any:
        return over_rows(TargetGradients.apply, 5, info, dims, args)


def dot(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Σ_k a·b in float64; a zero of a times anything is 0, so that a class of probability 0 takes no part."""
    product = torch.where(a == 0, 0.0, a * b)
    return product.sum(axis, dtype=torch.float64)


def row_losses(
    predictions: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
) -> Tensor:
    """Return the loss of each row, float64, differentiable with respect to predictions and distributions."""
    args = predictions, targets, class_weight, row_weight, *flat(options)
    return applied(RowLosses, _Traced, row_losses_op, *args)
