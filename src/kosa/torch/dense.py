"""Row losses of dense predictions: operators on raw tensors, and what autograd, functorch and the compiler see of them.

The operators know nothing of derivatives. The functions around them do, to any order and in both modes: first derivatives
by kernels, second ones by `plain`. torch.compile does not take a Function that has a jvp: while it traces, its stand-in
without one is used, and forward mode is refused (`applied`) rather than answered with zeros.

For a loss that is reduced, the gradient of the predictions is made with it, at one reading, and the first backward gives
it away. Whatever else is asked for (a second backward, a further derivative) is computed anew.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch._functorch import eager_transforms
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad

from kosa.dispatch import options_of
from kosa.loss import Options
from kosa.torch import arrays, engines, plain

Flat = tuple[str, int, int, float, float | None, float, float, str]


def flat(options: Options, target: str = "targets") -> Flat:
    """The options of a row's loss as an operator takes them, and the caller's name of the targets."""
    return (
        options.kind, options.axis, int(options.ignore_index), number(options, "label_smoothing"),
        None if options.softcap is None else number(options, "softcap"), number(options, "temperature"),
        number(options, "z_loss"), target,
    )  # fmt: skip


def number(options: Options, name: str) -> float:
    """An option as a number."""
    return float(value_of(options, name))


def value_of(options: Options, name: str) -> Any:
    """An option; where it is a tensor whose derivative is wanted, an error, as that would be lost."""
    value = getattr(options, name)
    if isinstance(value, Tensor):
        wanted_of = "tangent" if forward_mode() else "gradient" if wanted(value) else None
        if wanted_of is not None:
            raise ValueError(
                f"`{name}` is a tensor that may have a {wanted_of}, which is not computed: apply it to the logits, the "
                f"targets or the loss outside of the function, or pass `{name}.item()`"
            )
    return value


def constant(*tangents: Any) -> None:
    """Refuse tangents of what is taken as constant, where derivatives would be wrong without a word."""
    if any(tangent is not None for tangent in tangents):
        raise ValueError(
            "weights, and targets of the binary loss, are constants, but one of them has a tangent, which is not "
            "computed: pass it with `.detach()`"
        )


def rows_of(x: Tensor, axis: int) -> tuple[int, ...]:
    """The shape of the rows: that of the predictions without their class axis."""
    return (*x.shape[:axis], *x.shape[axis + 1 :])


def row_losses_kernel(
    predictions: Tensor, targets: Tensor, class_weight: Tensor | None, row_weight: Tensor | None,
    kind: str, axis: int, ignore_index: int, label_smoothing: float, softcap: float | None, temperature: float,
    z_loss: float, target: str,
) -> Tensor:  # fmt: skip
    """Return the loss of each row, float64."""
    options = options_of(kind, axis, ignore_index, label_smoothing, softcap, temperature, z_loss)
    losses = predictions.new_empty(rows_of(predictions, axis), dtype=torch.float64)
    tensors = predictions, targets, class_weight, row_weight
    engines.of(predictions).run(*tensors, options, losses=losses.view(-1), target=target)
    return losses


row_losses_op = torch.library.custom_op("kosa::row_losses", row_losses_kernel, mutates_args=())


@row_losses_op.register_fake
def _(
    predictions: Tensor, targets: Tensor, class_weight: Any, row_weight: Any, kind: str, axis: int, *rest: Any
) -> Tensor:
    return predictions.new_empty(rows_of(predictions, axis), dtype=torch.float64)


def row_gradients_kernel(
    upstream: Tensor, predictions: Tensor, targets: Tensor, class_weight: Tensor | None, row_weight: Tensor | None,
    kind: str, axis: int, ignore_index: int, label_smoothing: float, softcap: float | None, temperature: float,
    z_loss: float, target: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return losses, and ∂(Σ upstream·loss)/∂predictions.

    upstream: one number, by which the losses are not multiplied; or one a row, by which they are.
    """
    options = options_of(kind, axis, ignore_index, label_smoothing, softcap, temperature, z_loss)
    scale: float | Tensor = upstream
    weight = row_weight
    if upstream.dim():
        scale, weight = 1.0, arrays.weighted(upstream, row_weight)
    losses = predictions.new_empty(rows_of(predictions, axis), dtype=torch.float64)
    out = arrays.memory(predictions)
    engines.of(predictions).run(
        predictions, targets, class_weight, weight, options,
        scale=scale, losses=losses.view(-1), out=out, fresh=True, target=target,
    )  # fmt: skip
    return losses, out


row_gradients_op = torch.library.custom_op("kosa::row_gradients", row_gradients_kernel, mutates_args=())


@row_gradients_op.register_fake
def _(
    upstream: Tensor, predictions: Tensor, targets: Tensor, class_weight: Any, row_weight: Any, kind: str, axis: int,
    *rest: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    losses = predictions.new_empty(rows_of(predictions, axis), dtype=torch.float64)
    return losses, predictions.new_empty(predictions.shape)


def target_gradients_kernel(
    upstream: Tensor, predictions: Tensor, targets: Tensor, class_weight: Tensor | None, row_weight: Tensor | None,
    kind: str, axis: int, ignore_index: int, label_smoothing: float, softcap: float | None, temperature: float,
    z_loss: float, target: str,
) -> Tensor:  # fmt: skip
    """Return ∂(Σ upstream·loss)/∂targets, of distributions."""
    options = options_of(kind, axis, ignore_index, label_smoothing, softcap, temperature, z_loss)
    weight = arrays.weighted(upstream, row_weight)
    out = arrays.memory(targets)
    engines.of(predictions).target_slopes(predictions, targets, class_weight, weight, options, out=out)
    return out


target_gradients_op = torch.library.custom_op(
    "kosa::target_gradients", target_gradients_kernel, mutates_args=()
)


@target_gradients_op.register_fake
def _(upstream: Tensor, predictions: Tensor, targets: Tensor, *rest: Any) -> Tensor:
    return targets.new_empty(targets.shape)


def direct(*tensors: Tensor | None) -> bool:
    """Whether these are plain tensors that nobody traces or transforms: kernels may be called without the dispatcher.

    Through it an operator written in Python costs some hundred microseconds, many times what a small loss takes.
    """
    given = [x for x in tensors if x is not None]
    return (
        not torch.compiler.is_compiling()
        and not torch._C._is_tracing()
        and all(type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta for x in given)
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        # autograd.grad(is_grads_batched=True) has a vmap of its own, of upstream gradients alone
        and not any(torch._C._functorch.is_legacy_batchedtensor(x) for x in given)
    )


def forward_mode() -> bool:
    """Whether tangents are about, of torch.func.jvp or of forward_ad.dual_level."""
    return forward_ad._current_level >= 0


def wanted(*args: Any) -> bool:
    """Whether the gradient of one of these is."""
    return torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args)


def _nested_gradients() -> int:
    """How many of torch.func's gradients are taken here, one inside the other: known when the compiler traces."""
    return sum(level.key() == TransformType.Grad for level in retrieve_all_functorch_interpreters())


# What torch.compiler.assume_constant_result sets, which to do so imports the compiler: a second, and Triton.
_nested_gradients._dynamo_marked_constant = True  # type: ignore[attr-defined]


def check_traced() -> None:
    """Refuse what torch.compile would answer with zeros: its graph of a gradient has no gradient."""
    lost = "tangents" if forward_mode() else "second derivatives" if _nested_gradients() > 1 else None
    if lost is not None:
        raise RuntimeError(
            f"torch.compile loses the {lost} of kosa's functions: call torch.func.jvp, jacrev or hessian outside of it"
        )


def applied(eager: Any, traced: Any, operator: Any, *args: Any) -> Any:
    """Apply a Function, if there is anything to differentiate; torch.compile traces only one that has no jvp."""
    if torch.compiler.is_compiling():
        check_traced()
        return traced.apply(*args) if wanted(*args) else operator(*args)
    if eager_transforms.JVP_NESTING > 1:
        raise RuntimeError(
            "kosa's functions have no forward derivative of a forward derivative, which PyTorch would take as zero: "
            "use torch.func.hessian, or torch.func.jacrev around one of the two"
        )
    derived = wanted(*args) or forward_mode() or torch._C._are_functorch_transforms_active()
    return eager.apply(*args) if derived else eager.forward(*args)


def keeps(tensors: int) -> Any:
    """The setup_context of a Function whose first so many arguments are tensors, and the others options."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.save_for_forward(*inputs[:tensors])
        ctx.options = inputs[tensors:]
        ctx.set_materialize_grads(False)  # a tangent that is None is told from one of zeros

    return staticmethod(setup_context)


def nothing(ctx: Any) -> tuple[None, ...]:
    """The gradients of a Function for no upstream gradient, which others' Functions may hand down."""
    return (None,) * len(ctx.needs_input_grad)


def front(x: Any, dim: int | None, size: int) -> Any:
    """The tensor with vmap's dimension first, repeated along it where it had none."""
    if not isinstance(x, Tensor):
        return x
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def entry(x: Any, dim: int | None, i: int) -> Any:
    """The i-th of vmap's batch; of an empty one zeros, which have the shape."""
    if dim is None:
        return x
    return x.select(dim, i) if x.shape[dim] else x.new_zeros((*x.shape[:dim], *x.shape[dim + 1 :]))


def over_rows(
    function: Any, tensors: int, info: Any, dims: tuple[int | None, ...], args: tuple[Any, ...]
) -> tuple[Any, int]:
    """vmap of a function of so many tensors, class weights the last but one: its dimension is one more of rows."""
    size, per_class = info.batch_size, tensors - 2
    if dims[per_class] is not None:  # weights of classes of its own for each: one after the other
        one_by_one = [
            function(*(entry(a, d, i) for a, d in zip(args, dims, strict=True))) for i in range(size or 1)
        ]
        return torch.stack(one_by_one)[:size], 0
    given = [
        a if i == per_class else front(a, d, size)
        for i, (a, d) in enumerate(zip(args[:tensors], dims, strict=False))
    ]
    kind, axis, *rest = args[tensors:]
    return function(*given, kind, axis + 1, *rest), 0


class _Reduced(torch.autograd.Function):
    """predictions, targets, class_weight, row_weight, scale, options → scale·Σ losses, a gradient at hand."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        scale, options = args[4], args[5:]
        gradients = row_gradients_kernel if direct(*args[:4]) else row_gradients_op
        losses, gradient = gradients(scale, *args[:4], *options)
        # Saved as a tensor, not kept in ctx: so a checkpoint around the loss drops it, and hooks may move it away.
        ctx.save_for_backward(*args[:5], gradient)
        ctx.options = options
        ctx.at_hand = iter((True,))  # the next of which one thread gets, of however many
        return losses.sum() * scale

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        *saved, scale, gradient = ctx.saved_tensors
        needs_dx, needs_dt = ctx.needs_input_grad[:2]
        dx = dt = None
        if (
            needs_dx and not torch.is_grad_enabled() and direct(upstream) and harmless(upstream)
            and next(ctx.at_hand, False)
        ):  # fmt: skip
            dx, needs_dx = scaled(gradient, upstream), False
        if needs_dx or needs_dt:
            rows = (upstream * scale).expand(rows_of(saved[0], ctx.options[1]))
            dx = row_gradients(rows, *saved, *ctx.options) if needs_dx else dx
            dt = target_gradients(rows, *saved, *ctx.options) if needs_dt else None
        return dx, dt, *(None,) * 11


def harmless(upstream: Tensor) -> bool:
    """Whether 0·upstream is 0. Looked at on a CPU only, where nothing has to be waited for."""
    return not upstream.is_cpu or math.isfinite(float(upstream))


def scaled(gradient: Tensor, upstream: Tensor) -> Tensor:
    """upstream·gradient in the gradient's memory, whose versions nobody watches from here on."""
    own = gradient.data
    return engines.of(own).scaled(own, upstream) if direct(upstream) else own.mul_(upstream)


class _TracedReduced(torch.autograd.Function):
    """The same for torch.compile, which frees buffers by itself and takes no second derivative."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Tensor]:
        losses, gradient = row_gradients_op(args[4], *args[:4], *args[5:])
        return losses.sum() * args[4], gradient

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs[:5], output[1])
        ctx.options = inputs[5:]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> Any:
        *saved, scale, gradient = ctx.saved_tensors
        dt = None
        if ctx.needs_input_grad[1]:
            rows = (upstream * scale).expand(rows_of(saved[0], ctx.options[1]))
            dt = target_gradients_op(rows, *saved, *ctx.options)
        return (gradient * upstream).to(gradient.dtype), dt, *(None,) * 11


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
        dx = row_gradients_op(upstream, *saved, *options)[1] if ctx.needs_input_grad[0] else None
        dt = target_gradients_op(upstream, *saved, *options) if ctx.needs_input_grad[1] else None
        return dx, dt, *(None,) * 10


class RowLosses(torch.autograd.Function):
    """predictions, targets, class_weight, row_weight, options → losses."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return (row_losses_kernel if direct(*args[:4]) else row_losses_op)(*args)

    setup_context = keeps(4)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None) -> Any:
        if upstream is None:
            return nothing(ctx)
        saved, options = ctx.saved_tensors, ctx.options
        dx = row_gradients(upstream, *saved, *options) if ctx.needs_input_grad[0] else None
        dt = target_gradients(upstream, *saved, *options) if ctx.needs_input_grad[1] else None
        return dx, dt, *(None,) * 10

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dt: Tensor | None, *others: Any) -> Tensor:
        constant(*others)
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
        return (row_gradients_kernel if direct(*args[:5]) else row_gradients_op)(*args)[1]

    setup_context = keeps(5)

    @staticmethod
    def backward(ctx: Any, v: Tensor | None) -> Any:
        if v is None:
            return nothing(ctx)
        (upstream, *saved), flat_options = ctx.saved_tensors, ctx.options
        options, axis = options_of(*flat_options[:-1]), flat_options[1]
        needs = ctx.needs_input_grad
        dg = dx = dt = None
        scaled = v * upstream.unsqueeze(axis)
        if needs[0]:
            dg = dot(RowGradients.apply(torch.ones_like(upstream), *saved, *flat_options), v, axis)
        if needs[1]:
            dx = plain.hessian_product(scaled, saved, options)
        if needs[2]:
            dt = plain.target_product(scaled, saved, options)
        return dg, dx, dt, *(None,) * 10

    @staticmethod
    def jvp(ctx: Any, dg: Tensor | None, dx: Tensor | None, dt: Tensor | None, *others: Any) -> Tensor:
        constant(*others)
        (upstream, *saved), flat_options = ctx.saved_tensors, ctx.options
        options, axis = options_of(*flat_options[:-1]), flat_options[1]
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
        return (target_gradients_kernel if direct(*args[:5]) else target_gradients_op)(*args)

    setup_context = keeps(5)

    @staticmethod
    def backward(ctx: Any, v: Tensor | None) -> Any:
        if v is None:
            return nothing(ctx)
        (upstream, *saved), flat_options = ctx.saved_tensors, ctx.options
        options, axis = options_of(*flat_options[:-1]), flat_options[1]
        dg = dx = None
        if ctx.needs_input_grad[0]:
            dg = dot(TargetGradients.apply(torch.ones_like(upstream), *saved, *flat_options), v, axis)
        if ctx.needs_input_grad[1]:
            dx = plain.prediction_product(v * upstream.unsqueeze(axis), saved, options)
        return dg, dx, *(None,) * 11

    @staticmethod
    def jvp(ctx: Any, dg: Tensor | None, dx: Tensor | None, _: Any, *others: Any) -> Tensor:
        constant(*others)
        (upstream, *saved), flat_options = ctx.saved_tensors, ctx.options
        options, axis = options_of(*flat_options[:-1]), flat_options[1]
        change = torch.zeros_like(saved[1])
        if dg is not None:
            change = change + TargetGradients.apply(dg, *saved, *flat_options)
        if dx is not None:
            change = change + plain.target_product(dx * upstream.unsqueeze(axis), saved, options)
        return change

    @staticmethod
    def vmap(info: Any, dims: Any, *args: Any) -> Any:
        return over_rows(TargetGradients.apply, 5, info, dims, args)


def row_gradients(*args: Any) -> Tensor:
    """RowGradients; in a backward that is compiled the operator, as no Function that has a jvp is traced."""
    return row_gradients_op(*args)[1] if torch.compiler.is_compiling() else RowGradients.apply(*args)


def target_gradients(*args: Any) -> Tensor:
    """TargetGradients, likewise."""
    return target_gradients_op(*args) if torch.compiler.is_compiling() else TargetGradients.apply(*args)


def dot(a: Tensor, b: Tensor, axis: int) -> Tensor:
    """Σ_k a·b in float64; a zero of a times anything is 0, so that a class of probability 0 takes no part."""
    # Only where b is infinite: elsewhere a zero of a has a derivative, which would be cut.
    product = torch.where((a == 0) & ~b.isfinite(), 0.0, a * b)
    return product.sum(axis, dtype=torch.float64)


Tensors = tuple[
    Tensor, Tensor, Tensor | None, Tensor | None
]  # predictions, targets, class_weight, row_weight


def row_losses(tensors: Tensors, options: Options, target: str) -> Tensor:
    """Return the loss of each row, float64, differentiable with respect to predictions and distributions."""
    return applied(RowLosses, _Traced, row_losses_op, *tensors, *flat(options, target))


def scaled_sum(tensors: Tensors, options: Options, target: str, scale: Tensor) -> Tensor:
    """Return scale·Σ losses, float64, likewise."""
    # In float16 a gradient made before its upstream scale (a GradScaler's) is known would be lost below 6e-8.
    if wanted(tensors[0]) and not forward_mode() and tensors[0].dtype != torch.float16:
        if torch.compiler.is_compiling():
            check_traced()
            return _TracedReduced.apply(*tensors, scale, *flat(options, target))[0]
        if not torch._C._are_functorch_transforms_active():
            return _Reduced.apply(*tensors, scale, *flat(options, target))
    return row_losses(tensors, options, target).sum() * scale
