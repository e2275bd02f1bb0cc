"""Which engine computes with a tensor."""

from torch import Tensor


def on_gpu(tensor: Tensor) -> bool:
    """Whether the Triton engine takes this tensor; ROCm's tensors are `cuda` tensors too.

    Called as `engines.on_gpu(x)`, so that tests without a GPU can send tensors on the CPU through Triton's interpreter.
    """
    return tensor.device.type == "cuda"
