"""The public functions of the linear form: cross-entropy of hidden·weightᵀ + bias, whose logits are never all there."""

from typing import Any, NamedTuple

import numpy as np

from kosa import loss as _loss
from kosa.cpu import arguments, engine
from kosa.cpu import linear as _linear
from kosa.cpu.figures import Statistics
from kosa.cpu.layout import Array
from kosa.dispatch import on_tensors, options_of
from kosa.functional import RowStatistics
from kosa.loss import Options


class LinearLossAndGrad(NamedTuple):
    """A loss, and its gradients with respect to hidden, weight and bias (None without one)."""

    loss: Any
    hidden: Any
    weight: Any
    bias: Any


def linear_cross_entropy(
    targets: Any,
    hidden: Any,
    weight: Any,
    bias: Any = None,
    *,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    denominator: float | None = None,
    empty: str = "nan",
    workspace: int | None = None,
    shift: int = 0,
    check: bool = False,
) -> Any:
    """Cross-entropy of the logits z = hidden·weightᵀ + bias, in nats, some rows of logits at a time.

    The same figure as `cross_entropy(targets, logits=hidden @ weight.T + bias, ...)`, in memory that does not grow with
    the number of rows: chunks of logits live in a workspace and are gone before the next one comes.

    Args:
        targets: class indices, an integer array of hidden's shape without its last axis; or distributions, a floating
            array of shape (..., K).
        hidden: (..., D), floating.
        weight: (K, D), of hidden's dtype.
        bias: (K,), or None.
        class_weight, sample_weight, ignore_index, label_smoothing, softcap, temperature, z_loss, reduction,
        denominator, empty, check: as for `cross_entropy`; one sample weight a row of hidden.
        workspace: bytes for the logits at hand and what goes with them; 64 MiB for None. At least one row is worked on
            at a time, however little is given.
        shift: score row i against target i + shift along the last axis but D's, the sequence; nothing is copied. The
            last `shift` rows of each sequence have no target: they count for nothing.

    Returns:
        The loss, as `cross_entropy` returns it, for hidden's dtype.

    Raises:
        As `cross_entropy`; ValueError for shapes of hidden, weight and bias that do not fit, or a `workspace` or
        `shift` that is negative.

    Example:
        >>> import numpy as np, kosa
        >>> hidden, weight = np.array([[1.0, 0.0], [0.0, 1.0]]), np.eye(2)
        >>> round(float(kosa.linear_cross_entropy([0, 1], hidden, weight)), 6)
        0.313262

    Reference: the chunked form is that of Liger-Kernel (arXiv:2410.10989) and of PyTorch's `linear_cross_entropy`.
    """
    options = options_of(
        "logits",
        -1,
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
    weights = (class_weight, sample_weight)
    return _reduced(targets, hidden, weight, bias, weights, options, workspace, shift, False).loss


def linear_cross_entropy_with_grad(
    targets: Any,
    hidden: Any,
    weight: Any,
    bias: Any = None,
    *,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
    denominator: float | None = None,
    empty: str = "nan",
    workspace: int | None = None,
    shift: int = 0,
    check: bool = False,
) -> LinearLossAndGrad:
    """`linear_cross_entropy`, and its gradients with respect to hidden, weight and bias, in three products.

    ∂E/∂hidden = ∂E/∂z·weight, ∂E/∂weight = (∂E/∂z)ᵀ·hidden, ∂E/∂bias = Σ over the rows of ∂E/∂z. For 16-bit arrays
    they are accumulated in float32.

    Args:
        As `linear_cross_entropy`.

    Returns:
        LinearLossAndGrad(loss, hidden, weight, bias): the gradients of the reduced loss (of the sum, for
        `reduction="none"`), of the arguments' shapes and dtypes; `bias` is None without one.

    Raises:
        As `linear_cross_entropy`.

    Example:
        >>> import numpy as np, kosa
        >>> kosa.linear_cross_entropy_with_grad([0], np.array([[0.0]]), np.array([[1.0], [1.0]])).weight.shape
        (2, 1)
    """
    options = options_of(
        "logits",
        -1,
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
    weights = (class_weight, sample_weight)
    return _reduced(targets, hidden, weight, bias, weights, options, workspace, shift, True)


def linear_row_statistics(
    targets: Any,
    hidden: Any,
    weight: Any,
    bias: Any = None,
    *,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    workspace: int | None = None,
    shift: int = 0,
    check: bool = False,
) -> RowStatistics:
    """What `row_statistics` says of the logits z = hidden·weightᵀ + bias, some rows of logits at a time.

    The product is in the arrays' own precision (float32 for 16-bit), the figures from then on in float64. With class
    indices and no further option, −loss is the log-probability of each row's target.

    Args:
        As `linear_cross_entropy`.

    Returns:
        RowStatistics, of hidden's shape without its last axis. A row that does not count (ignored, of weight 0, without
        a target by `shift`) has loss, brier and target_entropy 0; its other figures are as any row's.

    Raises:
        As `linear_cross_entropy`.

    Example:
        >>> import numpy as np, kosa
        >>> kosa.linear_row_statistics([0], np.array([[2.0, 0.0]]), np.eye(2)).argmax
        array([0])
    """
    options = Options("logits", -1, ignore_index, label_smoothing, softcap, temperature, z_loss, check=check)
    weights = (class_weight, sample_weight)
    if on_tensors(targets, hidden, weight, bias, *weights):
        from kosa.torch import tensors

        return RowStatistics(
            *tensors.linear_row_statistics(targets, hidden, weight, bias, weights, options, workspace, shift)
        )
    h, w, b, work, shape = _checked(targets, hidden, weight, bias, weights, options, workspace, shift)
    rows = len(h)
    loss, lse, confidence, entropy, brier, target_entropy = (np.zeros(rows) for _ in range(6))
    figures = Statistics(loss, lse, np.zeros(rows, np.int64), confidence, entropy, brier, target_entropy)
    products = _linear.NumpyProducts(h, w, b, False, workspace)
    _linear.statistics(work, products, figures, workspace=workspace)
    return RowStatistics(*(figure.reshape(shape)[()] for figure in figures))


def _reduced(
    targets: Any, hidden: Any, weight: Any, bias: Any, weights: tuple[Any, Any], options: Options,
    workspace: int | None, shift: int, with_grad: bool,
) -> LinearLossAndGrad:  # fmt: skip
    """Check the arrays, and let the engine compute."""
    if on_tensors(targets, hidden, weight, bias, *weights):
        from kosa.torch import tensors

        return LinearLossAndGrad(
            *tensors.linear(targets, hidden, weight, bias, weights, options, workspace, shift, with_grad)
        )
    h, w, b, work, shape = _checked(targets, hidden, weight, bias, weights, options, workspace, shift)
    divisor = 1.0
    if options.reduction == "mean":
        divisor = work.total if options.denominator is None else float(options.denominator)
    products = _linear.NumpyProducts(h, w, b, with_grad, workspace)
    losses = np.zeros(len(h))
    if divisor != 0.0:
        _linear.run(work, products, 1.0 / divisor, losses, workspace=workspace, slopes=with_grad)
    if divisor == 0.0:
        loss: Any = np.nan if options.empty == "nan" else 0.0
    elif options.reduction == "none":
        loss = losses.reshape(shape)
    else:
        loss = np.add.reduce(losses) / divisor
    return LinearLossAndGrad(
        engine.as_loss(loss, h)[()],
        _like(products.dhidden, hidden, h), _like(products.dweight, weight, w), _like(products.dbias, bias, b),
    )  # fmt: skip


def _like(grad: Array | None, given: Any, array: Array | None) -> Any:
    """The gradient in the shape and dtype of the argument."""
    if grad is None or array is None:
        return None
    return grad.astype(array.dtype, copy=False).reshape(np.shape(given))


def _checked(
    targets: Any, hidden: Any, weight: Any, bias: Any, weights: tuple[Any, Any], options: Options,
    workspace: int | None, shift: int,
) -> tuple[Array, Array, Array | None, _linear.LinearJob, tuple[int, ...]]:  # fmt: skip
    """Return hidden as (M, D), weight, bias, what to compute, and the shape of the rows."""
    h, w = arguments.floats(hidden, "hidden"), arguments.floats(weight, "weight")
    b = None if bias is None else arguments.floats(bias, "bias")
    _loss.linear_shapes(h.shape, w.shape, None if b is None else b.shape)
    for name, array in (("weight", w), ("bias", b)):
        if array is not None and array.dtype != h.dtype:
            raise TypeError(f"`{name}` must have the dtype of `hidden`, {h.dtype}, but has {array.dtype}")
    shape = h.shape[:-1]
    _loss.linear_options(workspace, shift, shape)
    t = arguments.as_array(targets, "targets")
    predictions = (*shape, len(w))
    kind = arguments.kind_of(t.dtype)
    indexed = _loss.targets_are_indices(t.shape, t.dtype, kind, predictions, len(shape), "hidden·weightᵀ")
    vector = arguments.index_vector(t, options.ignore_index, len(w)) if indexed else None
    work = _linear.job(
        arguments.native(t).reshape(-1, len(w)) if vector is None else vector, indexed, shape, len(w),
        arguments.weights(weights[0], "class_weight", (len(w),), "class"),
        arguments.weights(weights[1], "sample_weight", shape, "row"),
        options, shift,
    )  # fmt: skip
    return arguments.native(h).reshape(-1, h.shape[-1]), arguments.native(w), b, work, shape
