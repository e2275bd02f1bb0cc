"""A gradient times what comes from upstream, which is nearly always 1, and known on the device alone."""

import triton
import triton.language as tl
from torch import Tensor

from kosa.gpu.launch import launching
from kosa.gpu.scale_elements import scale_elements

_BLOCK = 1024
_TILES = 64  # of a program: so that programs that find a 1 and return are few


def scale(gradient: Tensor, factor: Tensor) -> Tensor:
    """Multiply a gradient in place by a tensor of one number, for which the host does not wait."""
    if not gradient.is_contiguous():  # hooks of saved tensors may have laid it out anew
        return gradient.mul_(factor)
    size = gradient.numel()
    if size:
        wide = tl.float64 if gradient.element_size() == 8 else tl.float32
        with launching(gradient):
            scale_elements[(triton.cdiv(size, _BLOCK * _TILES),)](
                gradient, factor, size, W=wide, BLOCK=_BLOCK, TILES=_TILES, num_warps=4, enable_fp_fusion=True
            )
    return gradient
