"""Kosa for PyTorch: PyTorch's own signatures, shapes, dtypes and defaults; Kosa's further keywords after them."""

try:
    import torch as _torch  # noqa: F401  (only to say what is missing)
except ModuleNotFoundError:
    raise ModuleNotFoundError('`kosa.torch` needs PyTorch: pip install "kosa[torch]"') from None

from kosa.torch.functional import (
    LinearStatistics,
    cross_entropy,
    linear_cross_entropy,
    linear_row_statistics,
)
from kosa.torch.modules import CrossEntropyLoss, LinearCrossEntropyLoss
from kosa.torch.patching import patch

__all__ = [
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "LinearStatistics",
    "cross_entropy",
    "linear_cross_entropy",
    "linear_row_statistics",
    "patch",
]
