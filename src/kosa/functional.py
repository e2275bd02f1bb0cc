"""The public functions: what they compute is said here once, checked here once, and handed to an engine."""

from typing import Any, NamedTuple

import numpy as np

from kosa import loss as _loss
from kosa.cpu import arguments, engine, figures
from kosa.dispatch import on_tensors, options_of
from kosa.loss import Options


class LossAndGrad(NamedTuple):
    """A loss, and its gradient with respect to the array of predictions."""

    loss: Any
    grad: Any


def cross_entropy(
    targets: Any,
    *,
    logits: Any = None,
    probs: Any = None,
    log_probs: Any = None,
    axis: int = -1,
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
    check: bool = False,
) -> Any:
    """Cross-entropy E = −Σ_k t_k log y_k of predictions against targets, in nats.

    Say what the predictions are: give exactly one of `logits`, `probs` and `log_probs`. From logits
    log y = z − log Σ_j exp z_j, computed so that nothing cancels: a confident row keeps its relative accuracy.

    The options act in this order: z ← softcap·tanh(z/softcap); z ← z/temperature; t ← (1−ε)t + ε/K;
    t_k ← class_weight_k·t_k; E; E ← E + z_loss·lse²; E ← sample_weight·E; reduce.

    Args:
        targets: class indices, an integer array of the predictions' shape without its class axis; or distributions, a
            floating array of the predictions' shape.
        logits: unnormalised log-probabilities z, floating (float16, bfloat16, float32, float64), K classes along `axis`.
        probs: probabilities y, likewise; taken as they are: neither renormalised nor clipped.
        log_probs: log-probabilities log y, likewise.
        axis: the axis of the classes.
        class_weight: (K,) weights of the classes.
        sample_weight: one weight a row, of the predictions' shape without its class axis.
        ignore_index: rows with this class index count for nothing: loss and gradient 0, whatever they hold.
        label_smoothing: ε in [0, 1].
        softcap: cap of the logits, None for none.
        temperature: what the logits are divided by.
        z_loss: factor of the squared log-partition lse².
        reduction: "mean" divides Σ E by the Σ over the rows that count of class_weight[target]·sample_weight (of
            sample_weight for distributions), "sum" does not, "none" returns one loss a row.
        denominator: what "mean" divides by instead; for accumulating gradients over uneven batches.
        empty: what the mean is where that divisor is 0: "nan" or "zero".
        check: look for class indices out of range on a GPU too, and wait for it; without, such a row is NaN there. On a
            CPU they are always looked for.

    Returns:
        The loss: a NumPy scalar, or an array of the predictions' shape without its class axis for `reduction="none"`;
        float32 for predictions of up to 32 bits, float64 for 64 bits. Sums are accumulated in float64 whatever the
        input. A target of probability 0 gives +inf; NaN or +inf in a row, or logits that are all −inf, give NaN in that
        row.

    Raises:
        TypeError: a dtype or framework that does not fit; not exactly one kind of predictions.
        ValueError: a shape or option that does not fit.
        IndexError: a class index outside 0..K−1 that is not `ignore_index`; names the first.

    Example:
        >>> import kosa
        >>> float(kosa.cross_entropy([0.0, 1.0, 0.0], probs=[0.2, 0.7, 0.1]))
        0.35667494393873245
        >>> round(float(kosa.cross_entropy([1, 0], logits=[[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])), 4)
        0.2513

    Reference: the options and their order are PyTorch's `torch.nn.functional.cross_entropy`, with logit softcapping as in
    Gemma 2 (arXiv:2408.00118) and z-loss as in PaLM (arXiv:2204.02311).
    """
    kind, predictions = _loss.one_of(logits=logits, probs=probs, log_probs=log_probs)
    options = options_of(
        kind,
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
    return _dense(targets, predictions, class_weight, sample_weight, options, False, None).loss


def cross_entropy_with_grad(
    targets: Any,
    *,
    logits: Any = None,
    probs: Any = None,
    log_probs: Any = None,
    axis: int = -1,
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
    check: bool = False,
    out: Any = None,
) -> LossAndGrad:
    """Cross-entropy as `cross_entropy` computes it, and its gradient with respect to the array passed.

    ∂E/∂z = (Σ_k t_k)·softmax(z) − t for logits (y − t where Σ t = 1), −t/y for probabilities, −t for
    log-probabilities, through every option; where t = 0 the last two are 0.

    Args:
        out: where to write the gradient: an array of the predictions' shape and dtype, which may be the predictions
            themselves, but must not share memory with them or the targets in any other way. All other arguments are
            those of `cross_entropy`.

    Returns:
        LossAndGrad(loss, grad). `grad` has the predictions' shape and dtype and is the gradient of the reduced loss (of
        the sum, for `reduction="none"`). Where the mean's divisor is 0 it is 0.

    Raises:
        As `cross_entropy`; TypeError or ValueError for an `out` that does not fit.

    Example:
        >>> import kosa
        >>> loss, grad = kosa.cross_entropy_with_grad([0.0, 1.0], logits=[0.0, 0.0])
        >>> grad
        array([ 0.5, -0.5])
    """
    kind, predictions = _loss.one_of(logits=logits, probs=probs, log_probs=log_probs)
    options = options_of(
        kind,
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
    return _dense(targets, predictions, class_weight, sample_weight, options, True, out)


class RowStatistics(NamedTuple):
    """Figures of each row of predictions: arrays of the predictions' shape without its class axis.

    All are float64 but `argmax` (int64). `loss`, `brier` and `target_entropy` are None without targets.
    """

    loss: Any
    lse: Any
    argmax: Any
    confidence: Any
    entropy: Any
    brier: Any
    target_entropy: Any


def row_statistics(
    targets: Any = None,
    *,
    logits: Any = None,
    probs: Any = None,
    log_probs: Any = None,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    check: bool = False,
) -> RowStatistics:
    """What evaluation wants to know of each row, in float64 whatever the input, at one reading.

    With p the predicted probabilities (of logits after softcap and temperature) and t the given targets:

        loss            E of the row in nats, with every option: `cross_entropy(..., reduction="none")` in float64
        lse             log Σ_k exp z_k; of log-probabilities likewise; of probabilities log Σ_k y_k
        argmax          the first class of largest prediction; −1 in a row with NaN
        confidence      max_k p_k
        entropy         −Σ_k p_k log p_k, in nats
        brier           Σ_k (p_k − t_k)²
        target_entropy  −Σ_k t_k log t_k, in nats; 0 for class indices

    `brier` and `target_entropy` are of the targets as given: neither smoothed nor weighted. They and the loss are 0 for
    an ignored row. A row with NaN or +inf, or of logits that are all −inf, is NaN in every figure but `argmax`.

    Args:
        targets: as for `cross_entropy`, or None.
        All other arguments are those of `cross_entropy`; nothing is reduced.

    Raises:
        As `cross_entropy`.

    Example:
        >>> import kosa
        >>> stats = kosa.row_statistics([1], probs=[[0.2, 0.7, 0.1]])
        >>> int(stats.argmax[0]), round(float(stats.brier[0]), 6)
        (1, 0.14)
    """
    kind, predictions = _loss.one_of(logits=logits, probs=probs, log_probs=log_probs)
    options = Options(kind, axis, ignore_index, label_smoothing, softcap, temperature, z_loss, check=check)
    if on_tensors(targets, predictions, class_weight, sample_weight):
        from kosa.torch import tensors

        return RowStatistics(
            *tensors.row_statistics(targets, predictions, class_weight, sample_weight, options)
        )
    job = arguments.job(targets, predictions, class_weight, sample_weight, options, needed=False)
    return RowStatistics(*figures.row_statistics(job, targets is not None))


def binary_cross_entropy(
    targets: Any,
    *,
    logits: Any = None,
    probs: Any = None,
    pos_weight: Any = None,
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    denominator: float | None = None,
    empty: str = "nan",
    check: bool = False,
) -> Any:
    """Binary cross-entropy E = −[pos_weight·t·log p + (1 − t)·log(1 − p)], in nats; each element is a row of its own.

    From logits p = 1/(1 + exp(−z)), so −log p = log(1 + exp(−z)) and −log(1 − p) = log(1 + exp z), computed so that
    nothing cancels or overflows. Smoothing acts first: t ← t(1 − ε) + ε/2. A term whose factor is 0 is 0.

    Args:
        targets: of the predictions' shape: bool, integers 0 and 1, or floats.
        logits: z, floating (float16, bfloat16, float32, float64), of any shape; or
        probs: p, likewise; taken as they are, never clipped.
        pos_weight: weight of the positive term; broadcasts to the predictions' shape.
        sample_weight: one weight an element; broadcasts to the predictions' shape.
        label_smoothing: ε in [0, 1].
        ignore_index: elements with this integer target count for nothing.
        reduction: "mean" divides Σ E by Σ sample_weight over the elements that count, "sum" does not, "none" returns
            one loss an element.
        denominator: what "mean" divides by instead.
        empty: what the mean is where that divisor is 0: "nan" or "zero".
        check: look for integers that are no target on a GPU too, and wait for it; without, such an element is NaN there.

    Returns:
        The loss: a NumPy scalar, or an array of the predictions' shape for `reduction="none"`; float32 for predictions
        of up to 32 bits, float64 for 64 bits.

    Raises:
        TypeError: a dtype or framework that does not fit; not exactly one of `logits` and `probs`.
        ValueError: a shape or option that does not fit; an integer target that is not 0, 1 or `ignore_index`.

    Example:
        >>> import kosa
        >>> round(float(kosa.binary_cross_entropy([1, 0], probs=[0.9, 0.2])), 6)
        0.164252
    """
    options = (label_smoothing, ignore_index, reduction, denominator, empty, check)
    return _binary(targets, logits, probs, pos_weight, sample_weight, options, False, None).loss


def binary_cross_entropy_with_grad(
    targets: Any,
    *,
    logits: Any = None,
    probs: Any = None,
    pos_weight: Any = None,
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    denominator: float | None = None,
    empty: str = "nan",
    check: bool = False,
    out: Any = None,
) -> LossAndGrad:
    """Binary cross-entropy as `binary_cross_entropy` computes it, and its gradient with respect to the array passed.

    ∂E/∂z = (1 − t)·p − pos_weight·t·(1 − p) for logits; ∂E/∂p = (1 − t)/(1 − p) − pos_weight·t/p for probabilities.

    Args:
        out: where to write the gradient: an array of the predictions' shape and dtype, which may be the predictions
            themselves. All other arguments are those of `binary_cross_entropy`.

    Returns:
        LossAndGrad(loss, grad): `grad` is the gradient of the reduced loss (of the sum, for `reduction="none"`).

    Raises:
        As `binary_cross_entropy`; TypeError or ValueError for an `out` that does not fit.

    Example:
        >>> import kosa
        >>> loss, grad = kosa.binary_cross_entropy_with_grad([1, 0], logits=[0.0, 0.0])
        >>> grad
        array([-0.25,  0.25])
    """
    options = (label_smoothing, ignore_index, reduction, denominator, empty, check)
    return _binary(targets, logits, probs, pos_weight, sample_weight, options, True, out)


def _binary(
    targets: Any,
    logits: Any,
    probs: Any,
    pos_weight: Any,
    sample_weight: Any,
    rest: Any,
    with_grad: bool,
    out: Any,
) -> LossAndGrad:
    """Check the arrays, and let the engine compute."""
    kind, predictions = _loss.one_of(logits=logits, probs=probs)
    label_smoothing, ignore_index, reduction, denominator, empty, check = rest
    options = Options(
        kind=kind, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction=reduction,
        denominator=denominator, empty=empty, check=check,
    )  # fmt: skip
    if on_tensors(targets, predictions, pos_weight, sample_weight, out):
        from kosa.torch import tensors

        return LossAndGrad(
            *tensors.binary(targets, predictions, pos_weight, sample_weight, options, with_grad, out)
        )
    x = arguments.floats(predictions, kind)
    t = arguments.binary_targets(targets, x.shape, kind, ignore_index)
    plus = arguments.broadcast_weights(pos_weight, "pos_weight", x.shape)
    weight = arguments.broadcast_weights(sample_weight, "sample_weight", x.shape)
    if out is not None:
        arguments.check_out(out, x, kind, targets=targets, pos_weight=pos_weight, sample_weight=sample_weight)
    elif with_grad:
        out = np.empty_like(x, subok=False)
    return LossAndGrad(*engine.binary_cross_entropy(x, t, plus, weight, options, out))


def _dense(
    targets: Any,
    predictions: Any,
    class_weight: Any,
    sample_weight: Any,
    options: Options,
    with_grad: bool,
    out: Any,
) -> LossAndGrad:
    """Check the arrays, and let the engine compute."""
    if on_tensors(targets, predictions, class_weight, sample_weight, out):
        from kosa.torch import tensors

        return LossAndGrad(
            *tensors.dense(targets, predictions, class_weight, sample_weight, options, with_grad, out)
        )
    job = arguments.job(targets, predictions, class_weight, sample_weight, options)
    if out is not None:
        weights = {"class_weight": class_weight, "sample_weight": sample_weight}
        arguments.check_out(out, job.predictions, options.kind, targets=targets, **weights)
    return LossAndGrad(*engine.cross_entropy(job, with_grad, out))
