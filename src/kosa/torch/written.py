"""The linear form with its logits written out, for derivatives of a second order and for tangents."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kosa.loss import Options
from kosa.torch import dense, plain


class WrittenRows:
    """The rows that have a target by `shift`, and their logits written out: for derivatives of a second order."""

    axis = -1

    def __init__(self, tensors: Any, options: Any) -> None:
        hidden, weight, bias, targets, class_weight, row_weight = tensors
        ignore, smoothing, softcap, temperature, z_loss, _, shift, _ = options
        self._shift = min(shift, hidden.shape[-2]) if shift else 0
        self.weight, self.targets = weight, self.ahead(targets)
        row_weight = None if row_weight is None else self.narrowed(row_weight, 0)
        self.hidden = _of_counting(self.narrowed(hidden, 1), self.targets, row_weight, ignore)
        self.z = F.linear(self.hidden, weight, bias)
        self.shape = self.z.shape[:-1]
        axis = self.z.dim() - 1
        self._options = Options("logits", axis, ignore, smoothing, softcap, temperature, z_loss)
        self._tensors = self.z, self.targets, class_weight, row_weight
        self.dense = self._tensors, self._options

    def slopes(self, upstream: Tensor) -> Tensor:
        return dense.RowGradients.apply(upstream, *self._tensors, *dense.flat(self._options))

    def target_slopes(self, upstream: Tensor) -> Tensor:
        return dense.TargetGradients.apply(upstream, *self._tensors, *dense.flat(self._options))

    def direction(self, dh: Tensor | None, dw: Tensor | None, db: Tensor | None) -> Tensor | None:
        """How the logits move as hidden, weight and bias move along these."""
        moves = []
        if dh is not None:
            moves.append(F.linear(self.narrowed(dh, 1), self.weight))
        if dw is not None:
            moves.append(F.linear(self.hidden, dw))
        if db is not None:
            moves.append(db.expand_as(self.z))
        return sum(moves[1:], moves[0]) if moves else None

    def through(self, dz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of hidden, weight and bias for one of the logits."""
        return dz @ self.weight, outer(dz, self.hidden), dz.reshape(-1, dz.shape[-1]).sum(0)

    def narrowed(self, x: Tensor, inner: int) -> Tensor:
        """Without the last rows of each sequence, which have no target; `inner` axes follow that of the sequence."""
        axis = x.dim() - 1 - inner
        return x.narrow(axis, 0, x.shape[axis] - self._shift) if self._shift else x

    def padded(self, x: Tensor, inner: int) -> Tensor:
        """With zeros for them."""
        return F.pad(x, (0, 0) * inner + (0, self._shift)) if self._shift else x

    def ahead(self, targets: Tensor) -> Tensor:
        """The targets that the rows are scored against."""
        axis = targets.dim() - 1 - int(targets.dtype.is_floating_point)
        return (
            targets.narrow(axis, self._shift, targets.shape[axis] - self._shift) if self._shift else targets
        )

    def behind(self, x: Tensor) -> Tensor:
        """What belongs to distributions, with zeros for those that no row is scored against."""
        return F.pad(x, (0, 0, self._shift, 0)) if self._shift else x


def _of_counting(hidden: Tensor, targets: Tensor, row_weight: Tensor | None, ignore_index: int) -> Tensor:
    """Zeros for the rows that do not count: 0·NaN is NaN, and what they hold must reach no derivative."""
    counts = None if row_weight is None else row_weight != 0
    if not targets.dtype.is_floating_point:
        indexed = plain.counts(targets, ignore_index)
        counts = indexed if counts is None else counts & indexed
    return hidden if counts is None else torch.where(counts.unsqueeze(-1), hidden, 0.0)


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a.reshape(-1, a.shape[-1]).t() @ b.reshape(-1, b.shape[-1])
