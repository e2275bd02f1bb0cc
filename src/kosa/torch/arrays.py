"""CPU tensors as the arrays that kernels read, without a copy, and their checks against each other."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kosa import loss
from kosa.cpu import arguments, indices
from kosa.cpu.engine import _NO_FLOATS, Job, side_by_side
from kosa.cpu.layout import Array
from kosa.loss import Options

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_HUGE = 1 << 22  # bytes from which NumPy asks for huge pages
_LINE = 64  # bytes


def array(tensor: Tensor) -> Array:
    """Return the tensor's memory as an array; bfloat16, which NumPy lacks, as the bits that kernels read."""
    if tensor.is_meta:
        raise TypeError(
            "a tensor on the meta device holds no numbers to compute with: pass tensors on the CPU"
        )
    tensor = _held(tensor)
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def _held(tensor: Tensor) -> Tensor:
    """The tensor with its numbers in memory: of zeros, and of signs, autograd may only remember that they are there."""
    tensor = tensor.detach().resolve_neg()
    return tensor.clone() if tensor._is_zerotensor() else tensor


def memory(like: Tensor) -> Tensor:
    """An empty tensor of this one's shape, dtype and device; where it is large, in huge pages."""
    if like.nbytes < _HUGE or not like.is_cpu:
        return like.new_empty(like.shape)
    return pages(like.shape, like.dtype)


def pages(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty CPU tensor, contiguous and of whole cache lines, in memory of NumPy, which asks for huge pages.

    Touching 64 MiB first takes 8 ms, not 26. NumPy's own arrays begin 16 bytes into a line, which made products by
    oneDNN half as slow again.
    """
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    storage = torch.from_numpy(raw[start : start + size]).untyped_storage()
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage).view(shape)


def vector(tensor: Tensor | None) -> Array:
    """Return weights as a contiguous float64 vector; empty for None."""
    if tensor is None:
        return _NO_FLOATS
    values = _held(tensor).to(torch.float64).contiguous().reshape(-1).numpy().view()
    values.flags.writeable = False
    return values


def weighted(upstream: Tensor, weight: Tensor | None) -> Tensor:
    """upstream·weight, 0 where the weight is, whatever comes from upstream."""
    return upstream if weight is None else torch.where(weight == 0, 0.0, upstream * weight)


def job(
    predictions: Tensor,
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    target: str = "targets",
) -> Job:
    """What the CPU engine takes. Class indices out of range are an IndexError, in which they are called `target`."""
    x, axis = array(predictions), options.axis
    t = array(targets)
    indexed = not targets.dtype.is_floating_point
    weights = vector(class_weight), vector(row_weight)
    if indexed:
        t = arguments.index_vector(t, options.ignore_index, x.shape[axis], target)
        indices.check(t, options.ignore_index, x.shape[axis], *weights, targets.shape, target)
    return Job(x, axis, t, indexed, *weights, options, side_by_side(x, axis))


def kind_of(dtype: torch.dtype) -> str:
    """The kind of a dtype as `kosa.loss` names it."""
    if dtype in FLOATS:
        return "f"
    if dtype.is_floating_point or dtype.is_complex:
        return "V"
    return "b" if dtype == torch.bool else "i"


def tensor_like(value: Any, name: str, like: Tensor) -> Tensor:
    """Return a tensor on the device of `like`: tensors as they are, Python's lists and numbers converted."""
    if isinstance(value, Tensor):
        if value.device != like.device:
            raise ValueError(
                f"`{name}` is on {value.device}, but the predictions are on {like.device}: move it there with "
                f"`{name}.to({str(like.device)!r})`"
            )
        return _dense(value, name)
    if isinstance(value, list | tuple | int | float):
        wide = torch.float64 if np.asarray(value).dtype.kind == "f" else None
        return torch.as_tensor(value, dtype=wide, device=like.device)
    came = "None" if value is None else f"{type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(
        f"`{name}` must be a torch.Tensor as the predictions are, but is a {came}: convert it, for example with "
        "torch.as_tensor"
    )


def _dense(value: Tensor, name: str) -> Tensor:
    if value.is_nested:
        raise TypeError(f"`{name}` must be a dense tensor, but is nested: `{name}.to_padded_tensor(0.0)`")
    if value.layout != torch.strided:
        raise TypeError(
            f"`{name}` must be a dense tensor, but has layout {value.layout}: `{name}.to_dense()`"
        )
    return value


def floating(value: Any, name: str) -> Tensor:
    """Return predictions that the engine knows, or say why not."""
    if not isinstance(value, Tensor):
        came = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(
            f"`{name}` must be a torch.Tensor as the other arguments are, but is a {came}: convert it, for example "
            "with torch.as_tensor"
        )
    if value.dtype not in FLOATS:
        raise TypeError(
            f"`{name}` must be floating (float16, bfloat16, float32, float64), but is {value.dtype}"
        )
    if value.device.type not in ("cpu", "cuda", "meta"):
        raise TypeError(f"`{name}` is on {value.device}, where Kosa has no kernels: `{name}.cpu()`")
    return _dense(value, name)


def autocast(x: Tensor) -> torch.dtype | None:
    """What autocast computes products of this tensor in; None where it is off, as it always is for float64."""
    device = x.device.type
    if x.dtype == torch.float64 or device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def targets_of(value: Any, predictions: Tensor, axis: int, name: str, target: str = "targets") -> Tensor:
    """Return targets that fit the predictions: class indices or distributions."""
    targets = tensor_like(value, target, predictions)
    loss.targets_are_indices(
        tuple(targets.shape),
        targets.dtype,
        kind_of(targets.dtype),
        tuple(predictions.shape),
        axis,
        name,
        target,
    )
    return targets


def weights_of(
    value: Any, name: str, shape: tuple[int, ...], meaning: str, predictions: Tensor
) -> Tensor | None:
    """Return weights that fit, or None. They are constants: no gradient is computed for them."""
    if value is None:
        return None
    if isinstance(value, str | dict):
        raise TypeError(
            f"`{name}` must be a tensor of shape {shape}, but is {value!r:.40}: compute the weights, for example with "
            "sklearn.utils.class_weight.compute_class_weight"
        )
    weights = tensor_like(value, name, predictions)
    if weights.dtype.is_complex:
        raise TypeError(f"`{name}` must hold numbers, but is {weights.dtype}")
    loss.weight_shape(name, tuple(weights.shape), shape, meaning)
    if weights.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"`{name}` requires a gradient, which is not computed: pass `{name}.detach()`")
    return weights
