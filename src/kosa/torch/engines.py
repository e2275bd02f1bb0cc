"""Which engine computes with a tensor: two modules of the same functions."""

from typing import Any

from torch import Tensor

from kosa.loss import Options
from kosa.torch import host


def on_gpu(tensor: Tensor) -> bool:
    """Whether the Triton engine takes this tensor; ROCm's tensors are `cuda` tensors too.

    Called as `engines.on_gpu(x)`, so that tests without a GPU can send tensors on the CPU through Triton's interpreter.
    """
    return tensor.device.type == "cuda"


def of(tensor: Tensor) -> Any:
    """`host`, or `card`, which is not imported before a tensor on a GPU comes: it needs Triton."""
    if not on_gpu(tensor):
        return host
    try:
        from kosa.torch import card
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ModuleNotFoundError(
            "tensors on a GPU are computed by Triton, which is not installed: pip install triton",
            name="triton",
        ) from None
    return card


def check(targets: Tensor, classes: int, options: Options, name: str) -> None:
    """With `check=True`, raise for a class index out of range on a GPU too; a CPU's are always looked at."""
    if options.check and on_gpu(targets) and not targets.dtype.is_floating_point:
        host.check_index(targets.cpu(), classes, options, name)


def check_binary(targets: Tensor, options: Options) -> None:
    """Likewise for integers that are not 0 or 1."""
    if options.check and on_gpu(targets) and not targets.dtype.is_floating_point:
        host.check_binary(targets.cpu(), options)
