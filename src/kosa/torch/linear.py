"""The linear form: operators on raw tensors, and what autograd, functorch and the compiler see of them.

For a loss that is reduced, gradients are made with it, in three products, and the first backward gives them away.
Whatever else is asked for (a second backward, other upstream gradients, a further derivative) is computed anew.
"""

from typing import Any

import torch
from torch import Tensor

from kosa.dispatch import options_of
from kosa.loss import Options
from kosa.torch import dense, engines, plain
from kosa.torch.written import WrittenRows, outer

Flat = tuple[int, float, float | None, float, float, int | None, int, str]
# hidden, weight, bias, targets, class_weight, row_weight
Tensors = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor | None]


def flat(options: Options, workspace: int | None, shift: int, target: str) -> Flat:
    """The options as an operator takes them, and the caller's name of the targets."""
    return (
        int(options.ignore_index), dense.number(options, "label_smoothing"),
        None if options.softcap is None else dense.number(options, "softcap"), dense.number(options, "temperature"),
        dense.number(options, "z_loss"), workspace, shift, target,
    )  # fmt: skip


def _options(flat_options: Any) -> tuple[Options, int | None, int]:
    """The options of rows, the workspace and the shift: of what an operator takes, without its last."""
    ignore, smoothing, softcap, temperature, z_loss, workspace, shift = flat_options
    return options_of("logits", 1, ignore, smoothing, softcap, temperature, z_loss), workspace, shift


def linear_losses_kernel(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
    row_weight: Tensor | None, ignore_index: int, label_smoothing: float, softcap: float | None, temperature: float,
    z_loss: float, workspace: int | None, shift: int, target: str,
) -> Tensor:  # fmt: skip
    """Return the loss of each row, float64: one product."""
    rest = _options((ignore_index, label_smoothing, softcap, temperature, z_loss, workspace, shift))
    tensors = hidden, weight, bias, targets, class_weight, row_weight
    return engines.of(hidden).linear_losses(*tensors, *rest, target=target)


linear_losses_op = torch.library.custom_op("kosa::linear_losses", linear_losses_kernel, mutates_args=())


@linear_losses_op.register_fake
def _(hidden: Tensor, *rest: Any) -> Tensor:
    return hidden.new_empty(hidden.shape[:-1], dtype=torch.float64)


def linear_gradients_kernel(
    upstream: Tensor, lse_upstream: Tensor | None, hidden: Tensor, weight: Tensor, bias: Tensor | None,
    targets: Tensor, class_weight: Tensor | None, row_weight: Tensor | None, ignore_index: int,
    label_smoothing: float, softcap: float | None, temperature: float, z_loss: float, workspace: int | None,
    shift: int, target: str,
    needs_hidden: bool, needs_weight: bool, needs_bias: bool, needs_targets: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return losses, and the gradients of Σ upstream·loss + lse_upstream·lse (empty tensors for those not needed).

    upstream: one number, by which the losses are not multiplied; or one a row, by which they are.
    """
    rows, *rest = _options((ignore_index, label_smoothing, softcap, temperature, z_loss, workspace, shift))
    tensors = hidden, weight, bias, targets, class_weight, row_weight
    needs = needs_hidden, needs_weight, needs_bias, needs_targets
    results = engines.of(hidden).linear_gradients(
        upstream, lse_upstream, *tensors, rows, needs, *rest, target=target
    )
    losses, dh, dw, db, dt = (weight.new_empty(0) if result is None else result for result in results)
    return losses, dh, dw, db, dt if needs_targets else targets.new_empty(0)


linear_gradients_op = torch.library.custom_op(
    "kosa::linear_gradients", linear_gradients_kernel, mutates_args=()
)


@linear_gradients_op.register_fake
def _(
    upstream: Tensor,
    lse_upstream: Any,
    hidden: Tensor,
    weight: Tensor,
    bias: Any,
    targets: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    def like(x: Tensor, needed: bool) -> Tensor:
        return torch.empty(x.shape if needed else (0,), dtype=x.dtype, device=x.device)

    grads = [
        like(weight if x is None else x, n)
        for x, n in zip((hidden, weight, bias, targets), rest[-4:], strict=True)
    ]
    return hidden.new_empty(hidden.shape[:-1], dtype=torch.float64), *grads


def linear_statistics_kernel(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
    row_weight: Tensor | None, ignore_index: int, label_smoothing: float, softcap: float | None, temperature: float,
    z_loss: float, workspace: int | None, shift: int, target: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the figures of `kosa.row_statistics`: one product."""
    rest = _options((ignore_index, label_smoothing, softcap, temperature, z_loss, workspace, shift))
    tensors = hidden, weight, bias, targets, class_weight, row_weight
    a, b, c, d, e, f, g = engines.of(hidden).linear_statistics(*tensors, *rest, target=target)
    return a, b, c, d, e, f, g


linear_statistics_op = torch.library.custom_op(
    "kosa::linear_statistics", linear_statistics_kernel, mutates_args=()
)


@linear_statistics_op.register_fake
def _(hidden: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    kinds = [torch.int64 if i == 2 else torch.float64 for i in range(7)]
    return tuple(hidden.new_empty(hidden.shape[:-1], dtype=kind) for kind in kinds)


def _gradients(ctx: Any, saved: Any, upstream: Tensor, of_lse: Tensor | None = None) -> list[Tensor | None]:
    """Those of hidden, weight, bias and targets that autograd asks for, by the raw operator."""
    needs = ctx.needs_input_grad[:4]
    grads = linear_gradients_op(upstream, of_lse, *saved, *ctx.options, *needs)[1:]
    return [grad if need else None for grad, need in zip(grads, needs, strict=True)]


class _Reduced(torch.autograd.Function):
    """hidden, weight, bias, targets, class_weight, row_weight, scale, options → scale·Σ losses, gradients at hand."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *tensors, scale = args[:7]
        needs = ctx.needs_input_grad[:4]
        gradients = linear_gradients_kernel if dense.direct(*tensors) else linear_gradients_op
        losses, *made = gradients(scale, None, *tensors, *args[7:], *needs)
        # Saved as tensors, not kept in ctx: so a checkpoint around the loss drops them, and hooks may move them away.
        ctx.save_for_backward(*args[:7], *made)
        ctx.options = args[7:]
        ctx.at_hand = iter((True,))  # the next of which one thread gets, of however many
        return losses.sum() * scale

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        *saved, scale, dh, dw, db, dt = ctx.saved_tensors
        needs = ctx.needs_input_grad[:4]
        if torch.is_grad_enabled():  # somebody may differentiate once more
            rows = (upstream * scale).expand(saved[0].shape[:-1])
            gradients = LinearGradients.apply(rows, *saved, *ctx.options, *needs)
        elif (not dense.direct(upstream) or dense.harmless(upstream)) and next(ctx.at_hand, False):
            gradients = [
                _times(grad, upstream) if need else None
                for grad, need in zip((dh, dw, db, dt), needs, strict=True)
            ]
        else:
            gradients = _gradients(ctx, saved, upstream * scale)
        return *(g if need else None for g, need in zip(gradients, needs, strict=True)), *(None,) * 11


def _times(gradient: Tensor, upstream: Tensor) -> Tensor:
    """upstream·gradient, in the gradient's memory unless the upstream gradients are a batch or traced."""
    if dense.direct(upstream):
        return dense.scaled(gradient, upstream)
    return (gradient * upstream).to(gradient.dtype)


class _TracedReduced(torch.autograd.Function):
    """The same for torch.compile, which frees buffers by itself and takes no second derivative."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        losses, *gradients = linear_gradients_op(args[6], None, *args[:6], *args[7:])
        return losses.sum() * args[6], *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])
        ctx.needs = inputs[-4:]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> Any:
        grads = (
            (grad * upstream).to(grad.dtype) if need else None
            for grad, need in zip(ctx.saved_tensors, ctx.needs, strict=True)
        )
        return *grads, *(None,) * 15


class _TracedLosses(torch.autograd.Function):
    """hidden, weight, bias, targets, class_weight, row_weight, options → losses, for torch.compile."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return linear_losses_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:6])
        ctx.options = inputs[6:]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return *_gradients(ctx, ctx.saved_tensors, upstream), *(None,) * 10


class LinearLosses(torch.autograd.Function):
    """hidden, weight, bias, targets, class_weight, row_weight, options → losses: one product, and three backward."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return (linear_losses_kernel if dense.direct(*args[:6]) else linear_losses_op)(*args)

    setup_context = dense.keeps(6)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None) -> Any:
        if upstream is None:
            return dense.nothing(ctx)
        needs = ctx.needs_input_grad[:4]
        grads = LinearGradients.apply(upstream, *ctx.saved_tensors, *ctx.options, *needs)
        return *(grad if need else None for grad, need in zip(grads, needs, strict=True)), *(None,) * 10

    @staticmethod
    def jvp(ctx: Any, dh: Any, dw: Any, db: Any, dt: Any, *others: Any) -> Tensor:
        dense.constant(*others)
        rows = WrittenRows(ctx.saved_tensors, ctx.options)
        ones = torch.ones(rows.shape, dtype=torch.float64, device=rows.z.device)
        change = torch.zeros_like(ones)
        dz = rows.direction(dh, dw, db)
        if dz is not None:
            change = change + dense.dot(rows.slopes(ones), dz, rows.axis)
        if dt is not None:
            change = change + dense.dot(rows.target_slopes(ones), rows.ahead(dt), rows.axis)
        return rows.padded(change, 0)

    @staticmethod
    def vmap(info: Any, dims: Any, *args: Any) -> Any:
        return _over_rows(LinearLosses.apply, info, dims, args)


class LinearGradients(torch.autograd.Function):
    """upstream, hidden, weight, bias, targets, class_weight, row_weight, options, needs → the four gradients."""

    @staticmethod
    def forward(upstream: Tensor, *args: Any) -> tuple[Tensor, ...]:
        if upstream.dim() == 0:
            upstream = upstream.expand(args[0].shape[:-1])
        return linear_gradients_op(upstream, None, *args)[1:]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:7])
        ctx.save_for_forward(*inputs[:7])
        ctx.options, ctx.needs = inputs[7:15], inputs[15:]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(out for out, need in zip(output, ctx.needs, strict=True) if not need))

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        upstream, *saved = ctx.saved_tensors
        rows = WrittenRows(saved, ctx.options)
        g = rows.narrowed(upstream, 0)
        ah, aw, ab, at = (c if need else None for c, need in zip(cotangents, ctx.needs, strict=True))
        v = rows.direction(ah, aw, ab)
        u = None if at is None else rows.ahead(at)
        ones = torch.ones_like(g)
        dg = torch.zeros_like(g)
        dz = torch.zeros_like(rows.z)
        dt = None
        if v is not None:
            dg = dg + dense.dot(rows.slopes(ones), v, rows.axis)
            dz = dz + plain.hessian_product(v * g.unsqueeze(-1), *rows.dense)
            if ctx.needs_input_grad[4]:
                dt = rows.behind(plain.target_product(v * g.unsqueeze(-1), *rows.dense))
        if u is not None:
            dg = dg + dense.dot(rows.target_slopes(ones), u, rows.axis)
            dz = dz + plain.prediction_product(u * g.unsqueeze(-1), *rows.dense)
        dh, dw, db = rows.through(dz)
        if v is not None:
            slopes = rows.slopes(g)
            if aw is not None:
                dh = dh + slopes @ aw
            if ah is not None:
                dw = dw + outer(slopes, rows.narrowed(ah, 1))
        grads = rows.padded(dg, 0), rows.padded(dh, 1), dw, None if saved[2] is None else db, dt
        return *(grad if need else None for grad, need in zip(grads, ctx.needs_input_grad, strict=False)), *(
            None,
        ) * 14

    @staticmethod
    def jvp(ctx: Any, dg: Any, dh: Any, dw: Any, db: Any, dt: Any, *others: Any) -> Any:
        dense.constant(*others)
        upstream, *saved = ctx.saved_tensors
        rows = WrittenRows(saved, ctx.options)
        g = rows.narrowed(upstream, 0)
        slopes = rows.slopes(g)
        change = torch.zeros_like(slopes)
        of_targets = torch.zeros_like(rows.targets) if ctx.needs[3] else None
        v = rows.direction(dh, dw, db)
        if dg is not None:
            dg = rows.narrowed(dg, 0)
            change = change + rows.slopes(dg)
            if of_targets is not None:
                of_targets = of_targets + rows.target_slopes(dg)
        if v is not None:
            change = change + plain.hessian_product(v * g.unsqueeze(-1), *rows.dense)
            if of_targets is not None:
                of_targets = of_targets + plain.target_product(v * g.unsqueeze(-1), *rows.dense)
        if dt is not None:
            change = change + plain.prediction_product(rows.ahead(dt) * g.unsqueeze(-1), *rows.dense)
        out_h, out_w, out_b = rows.through(change)
        if dw is not None:
            out_h = out_h + slopes @ dw
        if dh is not None:
            out_w = out_w + outer(slopes, rows.narrowed(dh, 1))
        outs = rows.padded(out_h, 1), out_w, out_b, None if of_targets is None else rows.behind(of_targets)
        return tuple(out if need else None for out, need in zip(outs, ctx.needs, strict=True))

    @staticmethod
    def vmap(info: Any, dims: Any, *args: Any) -> Any:
        return _one_by_one(LinearGradients.apply, info, dims, args)


def _over_rows(function: Any, info: Any, dims: Any, args: tuple[Any, ...]) -> Any:
    """vmap of a function of hidden, weight, bias, targets, class_weight, row_weight, options: one more axis of rows."""
    shared = (1, 2, 4)
    if any(dims[i] is not None for i in shared):
        return _one_by_one(function, info, dims, args)
    given = [
        a if i in shared else dense.front(a, d, info.batch_size)
        for i, (a, d) in enumerate(zip(args, dims, strict=True))
    ]
    results = function(*given)
    return results, 0 if isinstance(results, Tensor) else (0,) * len(results)


def _one_by_one(function: Any, info: Any, dims: Any, args: tuple[Any, ...]) -> Any:
    """vmap where each has a weight of its own, or gets a gradient of its own for a shared one."""
    size = info.batch_size
    results = [
        function(*(dense.entry(a, d, i) for a, d in zip(args, dims, strict=True))) for i in range(size or 1)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results)[:size], 0
    return tuple(torch.stack(each)[:size] for each in zip(*results, strict=True)), (0,) * len(results[0])


@linear_gradients_op.register_vmap
def _(info: Any, dims: Any, *args: Any) -> Any:
    return _one_by_one(linear_gradients_op, info, dims, args)


class _Once(torch.autograd.Function):
    """A gradient, and what it depends on → the gradient: to differentiate it is an error, where it would be zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *_: Any) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(
            "the statistics are differentiable once: take further derivatives of linear_cross_entropy(reduction='none')"
        )


class _Statistics(torch.autograd.Function):
    """hidden, weight, bias, targets, class_weight, row_weight, options → the figures; loss and lse have gradients."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return linear_statistics_op(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_backward(*inputs[:6])
        ctx.options = inputs[6:]

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor, of_lse: Tensor, *_: Any) -> Any:
        saved = ctx.saved_tensors
        with torch.no_grad():
            # One number would be a scale, which multiplies the gradient of lse too.
            grads = _gradients(ctx, saved, torch.atleast_1d(of_loss), of_lse)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            sources = of_loss, of_lse, *saved
            grads = [None if grad is None else _Once.apply(grad, *sources) for grad in grads]
        return *grads, *(None,) * 10

    @staticmethod
    def vmap(info: Any, dims: Any, *args: Any) -> Any:
        return _over_rows(_Statistics.apply, info, dims, args)


def losses(tensors: Tensors, options: Options, workspace: int | None, shift: int, target: str) -> Tensor:
    """Return the loss of each row, float64."""
    args = *tensors, *flat(options, workspace, shift, target)
    return dense.applied(LinearLosses, _TracedLosses, linear_losses_op, *args)


def scaled_sum(
    tensors: Tensors, options: Options, workspace: int | None, shift: int, target: str, scale: Tensor
) -> Tensor:
    """Return scale·Σ losses, float64."""
    rest = flat(options, workspace, shift, target)
    needs = [x is not None and x.requires_grad and torch.is_grad_enabled() for x in tensors[:4]]
    # In float16 a gradient made before its upstream scale (a GradScaler's) is known would be lost below 6e-8.
    if any(needs) and not dense.forward_mode() and tensors[0].dtype != torch.float16:
        if torch.compiler.is_compiling():
            dense.check_traced()
            return _TracedReduced.apply(*tensors, scale, *rest, *needs)[0]
        if not torch._C._are_functorch_transforms_active():
            return _Reduced.apply(*tensors, scale, *rest)
    return losses(tensors, options, workspace, shift, target).sum() * scale


def gradients(
    tensors: Tensors, options: Options, workspace: int | None, shift: int, target: str, scale: Tensor
) -> tuple[Tensor, ...]:
    """Return the loss of each row, and the gradients of scale·Σ losses with respect to hidden, weight and bias."""
    compute: Any = linear_gradients_kernel if dense.direct(*tensors) else linear_gradients_op
    needs = True, True, tensors[2] is not None, False
    return compute(scale, None, *tensors, *flat(options, workspace, shift, target), *needs)[:4]


def statistics(
    tensors: Tensors, options: Options, workspace: int | None, shift: int, target: str
) -> tuple[Tensor, ...]:
    """Return the figures of each row."""
    if dense.forward_mode():
        raise RuntimeError(
            "the statistics have no forward mode: take jvp of linear_cross_entropy(reduction='none')"
        )
    engines.check(tensors[3], tensors[1].shape[0], options, target)
    args = *tensors, *flat(options, workspace, shift, target)
    return dense.applied(_Statistics, _Statistics, linear_statistics_op, *args)
