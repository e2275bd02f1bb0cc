"""The CPU engine as tensors see it: what it computes it writes into tensors that it is given.

Losses are float64, one a row, flat in C order. Nobody else makes arrays of tensors to compute with: an engine for another
device takes these functions' place.
"""

from torch import Tensor

from kosa.cpu import arguments, engine
from kosa.loss import Options
from kosa.torch import arrays


def run(
    predictions: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    *,
    scale: float | Tensor = 1.0,
    losses: Tensor,
    out: Tensor | None = None,
    target: str = "targets",
) -> None:
    """Fill `losses`, and `out`, memory that nobody touched, with ∂(scale·Σ losses)/∂predictions.

    A class index out of range is an IndexError, in which the targets are called `target`.
    """
    job = arrays.job(predictions, targets, class_weight, row_weight, options, target)
    if predictions.numel():
        grad = None if out is None else arrays.array(out)
        engine.run(job, float(scale), arrays.array(losses), grad, fresh=True)


def target_slopes(
    predictions: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    *,
    out: Tensor,
) -> None:
    """Fill `out` with ∂(Σ losses)/∂targets, of distributions."""
    job = arrays.job(predictions, targets, class_weight, row_weight, options)
    if predictions.numel():
        engine.target_slopes(job, 1.0, arrays.array(out))


def binary_losses(
    predictions: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None,
    weight: Tensor | None,
    options: Options,
    *,
    losses: Tensor,
    out: Tensor | None = None,
) -> None:
    """Fill `losses`, of elements, and `out` with ∂(Σ losses)/∂predictions. Weights have the predictions' shape."""
    x, t = arrays.array(predictions), arrays.array(targets)
    if not targets.dtype.is_floating_point:
        t = arguments.binary_targets(t, x.shape, options.kind, options.ignore_index)
    vectors = arrays.vector(pos_weight), arrays.vector(weight)
    grad = None if out is None else arrays.array(out)
    engine.binary_losses(x, t, *vectors, options, 1.0, arrays.array(losses), grad)
