"""PyTorch's two cross-entropy modules, computed by Kosa."""

from typing import Any

import torch
from torch import Tensor

from kosa.torch.functional import cross_entropy, linear_cross_entropy

_DEFAULTS = {
    "softcap": None, "temperature": 1.0, "z_loss": 0.0, "denominator": None, "empty": "nan", "workspace": None,
    "shift": 0, "check": False,
}  # fmt: skip


def _named(pytorchs: str, keywords: dict[str, Any]) -> str:
    """The arguments as a module prints them: PyTorch's, and of the further ones those that are not left out."""
    further = (f"{name}={value!r}" for name, value in keywords.items() if value != _DEFAULTS[name])
    return ", ".join(filter(None, [pytorchs, *further]))


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, with the keywords of `kosa.torch.cross_entropy`; the same state_dict.

    Example:
        >>> import torch, kosa.torch
        >>> criterion = kosa.torch.CrossEntropyLoss(softcap=30.0)
        >>> criterion(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6931)
    """

    def __init__(
        self, weight: Tensor | None = None, size_average: bool | None = None, ignore_index: int = -100,
        reduce: bool | None = None, reduction: str = "mean", label_smoothing: float = 0.0, *,
        softcap: float | None = None, temperature: float = 1.0, z_loss: float = 0.0,
        denominator: float | None = None, empty: str = "nan", check: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.keywords: dict[str, Any] = {
            "softcap": softcap, "temperature": temperature, "z_loss": z_loss, "denominator": denominator, "empty": empty,
            "check": check,
        }  # fmt: skip

    def extra_repr(self) -> str:
        """What is printed between the module's parentheses."""
        return _named(super().extra_repr(), self.keywords)

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss of logits against targets."""
        return cross_entropy(
            input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing, sample_weight=sample_weight, **self.keywords,
        )  # fmt: skip


class LinearCrossEntropyLoss(torch.nn.LinearCrossEntropyLoss):
    """`torch.nn.LinearCrossEntropyLoss`, with the keywords of `kosa.torch.linear_cross_entropy`; the same state_dict.

    Example:
        >>> import torch, kosa.torch
        >>> head = kosa.torch.LinearCrossEntropyLoss(8, 100, softcap=30.0)
        >>> head(torch.zeros(4, 8), torch.arange(4)).isfinite()
        tensor(True)
    """

    def __init__(
        self, in_features: int, num_classes: int, *, out_features: tuple[int, ...] = (), bias: bool = False,
        device: Any = None, dtype: Any = None, reduction: str = "mean", weight: Tensor | None = None,
        ignore_index: int | None = None, label_smoothing: float = 0.0, options: Any = None,
        softcap: float | None = None, temperature: float = 1.0, z_loss: float = 0.0,
        denominator: float | None = None, empty: str = "nan", workspace: int | None = None, shift: int = 0,
        check: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            in_features, num_classes, out_features=out_features, bias=bias, device=device, dtype=dtype,
            reduction=reduction, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing,
            options=options,
        )  # fmt: skip
        self.keywords: dict[str, Any] = {
            "softcap": softcap, "temperature": temperature, "z_loss": z_loss, "denominator": denominator,
            "empty": empty, "workspace": workspace, "shift": shift, "check": check,
        }  # fmt: skip

    def extra_repr(self) -> str:
        """What is printed between the module's parentheses."""
        return _named(super().extra_repr(), self.keywords)

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        """Return the loss of hidden states against targets."""
        shape = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        return linear_cross_entropy(
            input, self.linear.weight.reshape(*shape, self.linear.in_features), target,
            linear_bias=None if bias is None else bias.reshape(shape), weight=self.weight, reduction=self.reduction,
            ignore_index=self.ignore_index, label_smoothing=self.label_smoothing, sample_weight=sample_weight,
            **self.keywords,
        )  # fmt: skip
