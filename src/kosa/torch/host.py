"""The CPU engine as tensors see it: what it computes it writes into tensors that it is given."""

from torch import Tensor

from kosa.cpu import engine
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
    """Fill `losses` (float64, one a row), and `out`, memory that nobody touched, with ∂(scale·Σ losses)/∂predictions.

    A class index out of range is an IndexError, in which the targets are called `target`.
    """
    job = arrays.job(predictions, targets, class_weight, row_weight, options, target)
    if predictions.numel():
        grad = None if out is None else arrays.array(out)
        engine.run(job, float(scale), arrays.array(losses).reshape(-1), grad, fresh=True)


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
