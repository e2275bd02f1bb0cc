"""The linear form with its logits written out, for derivatives of a second order and for tangents."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kosa.loss import Options
from kosa.torch import dense


class WrittenRows:
    """The rows that have a target by `shift`, and their logits written out: for derivatives of a second order."""

    axis = -1

    def __init__(self, tensors: Any, options: Any) -> None:
        hidden, weight, bias, targets, class_weight, row_weight = tensors
        ignore, smoothing, softcap, temperature, z_loss, _, self._shift, _ = options
        self.hidden, self.weight = self.narrowed(hidden, 1), weight
        self.targets = self.ahead(targets)
        row_weight = None if row_weight is None else self.narrowed(row_weight, 0)
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
        return x.narrow(axis, 0, max(0, x.shape[axis] - self._shift)) if self._shift else x

    def padded(self, x: Tensor, inner: int) -> Tensor:
        """With zeros for them."""
        return F.pad(x, (0, 0) * inner + (0, self._shift)) if self._shift else x

    def ahead(self, targets: Tensor) -> Tensor:
        """The targets that the rows are scored against."""
        axis = targets.dim() - 1 - int(targets.dtype.is_floating_point)
        shift = min(self._shift, targets.shape[axis]) if self._shift else 0
        return targets.narrow(axis, shift, targets.shape[axis] - shift) if shift else targets

    def behind(self, x: Tensor) -> Tensor:
        """What belongs to distributions, with zeros for those that no row is scored against."""
        return F.pad(x, (0, 0, self._shift, 0)) if self._shift else x


def outer(a: Tensor, b: Tensor) -> Tensor:
    return a.reshape(-1, a.shape[-1]).t() @ b.reshape(-1, b.shape[-1])
