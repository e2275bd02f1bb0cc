"""PyTorch's cross-entropy functions with PyTorch's signatures, shapes and dtypes, computed by Kosa."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn._reduction import legacy_get_string

from kosa import loss as _loss
from kosa.dispatch import options_of
from kosa.loss import Options
from kosa.torch import arrays, dense, engines, linear
from kosa.torch.reduction import dense_loss, mean, reduced, scale_of, total_weight

_NO_IGNORED_PROBABILITIES = (
    "`ignore_index` marks class indices, but `target` holds probabilities: leave it out, or give the rows to ignore a "
    "`sample_weight` of 0"
)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    sample_weight: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    denominator: float | None = None,
    empty: str = "nan",
    check: bool = False,
) -> Tensor:
    """`torch.nn.functional.cross_entropy`: E = −Σ_k t_k log softmax(input)_k, in nats.

    Differentiable with respect to input and to a floating target, to any order, in reverse and forward mode; under
    torch.compile, torch.func, vmap, autocast. The value takes no memory but a number a row. Of a mean or sum the gradient
    is made along with the value, where one is wanted, and kept for the first backward: within torch.no_grad() it is not.
    No argument is written to.

    Args:
        input: logits, (C), (N, C) or (N, C, d1, …, dK); float16, bfloat16, float32 or float64.
        target: class indices (any integer dtype) of input's shape without the class axis, or probabilities, floating, of
            input's shape.
        weight: (C,) class weights; constants.
        size_average, reduce: deprecated, as in PyTorch.
        ignore_index: rows with this class index count for nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: ε in [0, 1].
        sample_weight: one weight a row, of the shape of the rows; constants.
        softcap, temperature, z_loss, denominator, empty, check: as for `kosa.cross_entropy`.

    Returns:
        The loss in PyTorch's dtype for it: input's (with probabilities, the wider of input's and target's; under
        autocast float32).

    Raises:
        TypeError, ValueError, IndexError: as `kosa.cross_entropy`.

    Example:
        >>> import torch, kosa.torch
        >>> logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], requires_grad=True)
        >>> loss = kosa.torch.cross_entropy(logits, torch.tensor([1, 0]))
        >>> loss.backward()
        >>> round(loss.item(), 4)
        0.2513

    Reference: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html
    """
    if size_average is not None or reduce is not None:
        reduction = legacy_get_string(size_average, reduce)
    x = arrays.floating(input, "input")
    axis = _loss.class_axis(0 if x.dim() == 1 else 1, tuple(x.shape), "input")
    options = options_of(
        "logits",
        axis,
        ignore_index,
        label_smoothing,
        softcap,
        temperature,
        z_loss,
        reduction,
        denominator,
        empty,
        check,
    )
    t = arrays.targets_of(target, x, axis, "input", "target")
    engines.check(t, x.shape[axis], options, "target")
    if ignore_index >= 0 and t.is_floating_point():
        raise ValueError(_NO_IGNORED_PROBABILITIES)
    rows = dense.rows_of(x, axis)
    class_weight = arrays.weights_of(weight, "weight", (x.shape[axis],), "class", x)
    row_weight = arrays.weights_of(sample_weight, "sample_weight", rows, "row", x)
    loss = dense_loss((x, t, class_weight, row_weight), options, "target")
    return loss.to(_dtype_of_loss(x, t, class_weight))


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    sample_weight: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    denominator: float | None = None,
    empty: str = "nan",
    workspace: int | None = None,
    shift: int = 0,
    check: bool = False,
) -> Tensor:
    """`torch.nn.functional.linear_cross_entropy`: cross-entropy of input·linear_weightᵀ + linear_bias, in nats.

    The logits are never all in memory: rows go in chunks through a workspace. For "mean" and "sum" the gradients are made
    along with the loss, in three matrix products in all; only those that are needed are computed.

    Args:
        input: hidden states, (D), (N, D), or with any number of axes before D; float16, bfloat16, float32 or float64.
        linear_weight: (C, D), of input's dtype; or (C, d1, …, dK, D), for an input of shape (N, D).
        target: class indices of input's shape without D, (N, d1, …, dK) for a K-dimensional weight; or probabilities,
            floating, with the class axis last, for a K-dimensional weight second.
        linear_bias: (C,) or (C, d1, …, dK).
        weight: (C,) class weights; constants.
        reduction: "mean", "sum" or "none".
        ignore_index: −100 for None; must be None with probabilities.
        label_smoothing: ε in [0, 1].
        options: PyTorch's LinearCrossEntropyOptions: accepted, and not needed.
        sample_weight: one weight a row; constants.
        softcap, temperature, z_loss, denominator, empty, workspace, shift, check: as for `kosa.linear_cross_entropy`.

    Returns:
        The loss, in PyTorch's dtype for it.

    Raises:
        TypeError, ValueError, IndexError: as `kosa.linear_cross_entropy`.

    Example:
        >>> import torch, kosa.torch
        >>> hidden, weight = torch.eye(2, requires_grad=True), torch.eye(2)
        >>> round(kosa.torch.linear_cross_entropy(hidden, weight, torch.tensor([0, 1])).item(), 6)
        0.313262

    Reference: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.linear_cross_entropy.html
    """
    x = arrays.floating(input, "input")
    w = arrays.tensor_like(linear_weight, "linear_weight", x)
    bias = None if linear_bias is None else arrays.tensor_like(linear_bias, "linear_bias", x)
    _check_shapes(x, w, bias)
    if ignore_index is not None and getattr(target, "is_floating_point", bool)():
        raise ValueError(_NO_IGNORED_PROBABILITIES)
    plain_options = Options(
        "logits", -1, -100 if ignore_index is None else ignore_index, label_smoothing, softcap, temperature, z_loss,
        reduction, denominator, empty, check,
    )  # fmt: skip
    if w.dim() == 2:
        return _linear(x, w, target, bias, weight, sample_weight, plain_options, workspace, shift)
    return _many_heads(x, w, target, bias, weight, sample_weight, plain_options, workspace, shift)


class LinearStatistics(NamedTuple):
    """Figures of each row, float64 (`argmax` int64), of input's shape without its last axis."""

    loss: Tensor
    lse: Tensor
    argmax: Tensor
    entropy: Tensor


def linear_row_statistics(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    sample_weight: Tensor | None = None,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    workspace: int | None = None,
    shift: int = 0,
    check: bool = False,
) -> LinearStatistics:
    """Loss, log-partition, argmax and entropy of each row of input·linear_weightᵀ + linear_bias, in one product.

    With class indices and no further option −loss is the log-probability of the target, the chosen token's. `loss` and
    `lse` are differentiable, once; `argmax` and `entropy` (of the predictions, nats) are not.

    Args:
        As `linear_cross_entropy`, without its reduction; linear_weight is (C, D).

    Returns:
        LinearStatistics(loss, lse, argmax, entropy). The loss of a row that does not count is 0; its other figures are
        as any row's.

    Raises:
        As `linear_cross_entropy`.

    Example:
        >>> import torch, kosa.torch
        >>> kosa.torch.linear_row_statistics(torch.eye(2), torch.eye(2), torch.tensor([0, 1])).argmax
        tensor([0, 1])
    """
    x = arrays.floating(input, "input")
    w = arrays.tensor_like(linear_weight, "linear_weight", x)
    if w.dim() != 2:
        raise ValueError(f"`linear_weight` must be (C, D), but has shape {tuple(w.shape)}")
    bias = None if linear_bias is None else arrays.tensor_like(linear_bias, "linear_bias", x)
    _check_shapes(x, w, bias)
    if ignore_index is not None and getattr(target, "is_floating_point", bool)():
        raise ValueError(_NO_IGNORED_PROBABILITIES)
    options = Options(
        "logits",
        -1,
        -100 if ignore_index is None else ignore_index,
        label_smoothing,
        softcap,
        temperature,
        z_loss,
        check=check,
    )
    tensors = prepared(x, w, target, bias, weight, sample_weight, workspace, shift)
    figures = linear.statistics(tensors, options, workspace, shift, "target")
    return LinearStatistics(figures[0], figures[1], figures[2], figures[4])


class Names(NamedTuple):
    """What the caller calls the arguments of the linear form."""

    hidden: str = "input"
    weight: str = "linear_weight"
    bias: str = "linear_bias"
    target: str = "target"
    class_weight: str = "weight"

    @property
    def logits(self) -> str:
        return f"{self.hidden}·{self.weight}ᵀ"


_PYTORCHS = Names()


def prepared(
    x: Tensor, w: Tensor, target: Any, bias: Any, weight: Any, sample_weight: Any, workspace: int | None, shift: int,
    names: Names = _PYTORCHS,
) -> linear.Tensors:  # fmt: skip
    """Return the tensors of the linear form, checked against each other; under autocast in its dtype."""
    b = None if bias is None else arrays.tensor_like(bias, names.bias, x)
    rows = tuple(x.shape[:-1])
    _loss.linear_options(workspace, shift, rows, names.hidden)
    t = arrays.tensor_like(target, names.target, x)
    _loss.targets_are_indices(
        tuple(t.shape),
        t.dtype,
        arrays.kind_of(t.dtype),
        (*rows, w.shape[0]),
        len(rows),
        names.logits,
        names.target,
    )
    x, w = (y.to(arrays.autocast(y) or y.dtype) for y in (x, w))
    b = None if b is None else b.to(arrays.autocast(b) or b.dtype)
    for what, tensor in ((names.weight, w), (names.bias, b)):
        if tensor is not None and tensor.dtype != x.dtype:
            raise TypeError(
                f"`{what}` must have the dtype of `{names.hidden}`, {x.dtype}, but has {tensor.dtype}"
            )
    return (
        x, w, b, t,
        arrays.weights_of(weight, names.class_weight, (w.shape[0],), "class", x),
        arrays.weights_of(sample_weight, "sample_weight", rows, "row", x),
    )  # fmt: skip


def linear_loss(
    tensors: linear.Tensors, options: Options, workspace: int | None, shift: int, target: str = "target"
) -> Tensor:
    """Return the loss of prepared tensors, float64; `target` is the caller's name of the targets."""
    x, w, *_, t, class_weight, row_weight = tensors
    engines.check(t, w.shape[0], options, target)
    if options.reduction == "none":
        return linear.losses(tensors, options, workspace, shift, target)
    total = _total(t, class_weight, row_weight, x.shape[:-1], options, shift)
    scale, nothing = scale_of(total, options, x.device)
    loss = linear.scaled_sum(tensors, options, workspace, shift, target, scale)
    return loss if nothing is None else mean(loss, nothing, options)


def linear_loss_and_gradients(
    tensors: linear.Tensors, options: Options, workspace: int | None, shift: int, target: str
) -> tuple[Tensor, list[Tensor]]:
    """Return that loss, and the gradients of hidden, weight and bias (an empty tensor without one), for good."""
    x, w, *_, t, class_weight, row_weight = tensors
    engines.check(t, w.shape[0], options, target)
    total = _total(t, class_weight, row_weight, x.shape[:-1], options, shift)
    scale, nothing = scale_of(total, options, x.device)
    losses, *gradients = linear.gradients(tensors, options, workspace, shift, target, scale)
    if nothing is not None and isinstance(total, float):
        for grad in gradients:
            grad.zero_()  # a denominator of 0 says nothing of what rows hold, and 0·NaN is NaN
    if options.reduction == "none":
        return losses, gradients
    loss = losses.sum() * scale
    return loss if nothing is None else mean(loss, nothing, options), gradients


def _linear(
    x: Tensor, w: Tensor, target: Any, bias: Any, weight: Any, sample_weight: Any, options: Options,
    workspace: int | None, shift: int,
) -> Tensor:  # fmt: skip
    tensors = prepared(x, w, target, bias, weight, sample_weight, workspace, shift)
    return linear_loss(tensors, options, workspace, shift).to(_dtype_of_loss(x, tensors[3], tensors[4]))


def _many_heads(
    x: Tensor, w: Tensor, target: Any, bias: Any, weight: Any, sample_weight: Any, options: Options,
    workspace: int | None, shift: int,
) -> Tensor:  # fmt: skip
    """A K-dimensional weight is d1·…·dK heads over the same input, each with targets of its own."""
    classes, places = w.shape[0], tuple(w.shape[1:-1])
    rows = (x.shape[0], *places)
    t = arrays.tensor_like(target, "target", x)
    _loss.targets_are_indices(
        tuple(t.shape),
        t.dtype,
        arrays.kind_of(t.dtype),
        (x.shape[0], classes, *places),
        1,
        _PYTORCHS.logits,
        "target",
    )
    if shift:
        raise ValueError(
            "`shift` moves targets along a sequence, which a K-dimensional `linear_weight` leaves no room for"
        )
    row_weight = arrays.weights_of(sample_weight, "sample_weight", rows, "row", x)
    probabilities = t.dtype.is_floating_point
    heads = zip(
        w.flatten(1, -2).unbind(1),
        t.flatten(2 if probabilities else 1).unbind(-1),
        [None] * math.prod(places) if bias is None else bias.flatten(1).unbind(1),
        [None] * math.prod(places) if row_weight is None else row_weight.flatten(1).unbind(1),
        strict=True,
    )
    each = _with(options, "none" if options.reduction == "none" else "sum")
    losses = [
        linear_loss(prepared(x, head, t_of, b_of, weight, r_of, workspace, 0), each, workspace, 0)
        for head, t_of, b_of, r_of in heads
    ]
    class_weight = arrays.weights_of(weight, "weight", (classes,), "class", x)
    dtype = _dtype_of_loss(x, t, class_weight)
    if options.reduction == "none":
        stacked = torch.stack(losses, 1) if losses else x.new_zeros((len(x), 0), dtype=torch.float64)
        return stacked.reshape(rows).to(dtype)
    total: Any = 1.0
    if options.reduction == "mean":
        total = total_weight(t, class_weight, row_weight, torch.Size(rows), options)
    stacked = torch.stack(losses) if losses else x.new_zeros(0, dtype=torch.float64)
    return reduced(stacked, total, options).to(dtype)


def _with(options: Options, reduction: str) -> Options:
    return Options(
        options.kind, options.axis, options.ignore_index, options.label_smoothing, options.softcap,
        options.temperature, options.z_loss, reduction, check=options.check,
    )  # fmt: skip


def _total(
    t: Tensor, class_weight: Tensor | None, row_weight: Tensor | None, rows: torch.Size, options: Options, shift: int
) -> Tensor | float:  # fmt: skip
    """What the sum is divided by: for the mean, the weight of the rows that count; the last of each sequence do not."""
    if options.reduction != "mean":
        return 1.0
    if shift:
        keep = max(0, rows[-1] - shift)
        axis = len(rows) - 1
        t = t.narrow(axis, rows[-1] - keep, keep)
        row_weight = None if row_weight is None else row_weight.narrow(axis, 0, keep)
        rows = torch.Size((*rows[:-1], keep))
    return total_weight(t, class_weight, row_weight, rows, options)


def _check_shapes(x: Tensor, w: Tensor, bias: Any) -> None:
    """Check input, weight and bias against each other, K-dimensional weights included."""
    if x.dim() < 1 or w.dim() < 2 or x.shape[-1] != w.shape[-1]:
        raise ValueError(
            f"`input` must be (…, D) and `linear_weight` (C, D) or (C, d1, …, D), but they are {tuple(x.shape)} and "
            f"{tuple(w.shape)}"
        )
    if w.shape[0] == 0:
        raise ValueError(f"`linear_weight` has no classes: shape {tuple(w.shape)}")
    if w.dim() > 2 and x.dim() != 2:
        raise ValueError(
            f"a K-dimensional `linear_weight`, {tuple(w.shape)}, takes `input` of shape (N, D), but it is "
            f"{tuple(x.shape)}"
        )
    if bias is not None and tuple(bias.shape) != tuple(w.shape[:-1]):
        raise ValueError(
            f"`linear_bias` must have shape {tuple(w.shape[:-1])}, but has shape {tuple(bias.shape)}"
        )


def _dtype_of_loss(x: Tensor, t: Tensor, class_weight: Tensor | None) -> torch.dtype:
    """PyTorch's: the input's, with probabilities the widest of all; under autocast at least float32."""
    dtype = x.dtype
    if t.dtype.is_floating_point:
        dtype = torch.promote_types(dtype, t.dtype)
        if class_weight is not None:
            dtype = torch.promote_types(dtype, class_weight.dtype)
    return dtype if arrays.autocast(x) is None else torch.promote_types(dtype, torch.float32)
