"""What a caller may ask for: the options of a loss as one frozen dataclass, and the checks of shapes and dtypes.

No values are looked at here, and no framework is known: a dtype is something to print and a kind (i, u, f, b).
"""

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

Kind = Literal["logits", "probs", "log_probs"]


@dataclass(frozen=True, slots=True)
class Options:
    """Every scalar option of a loss, checked. Arrays (targets, weights) travel beside it."""

    kind: Kind = "logits"
    axis: int = -1
    ignore_index: int = -100
    label_smoothing: float = 0.0
    softcap: float | None = None
    temperature: float = 1.0
    z_loss: float = 0.0
    reduction: str = "mean"
    denominator: float | None = None
    empty: str = "nan"
    check: bool = False  # whether a GPU's targets are looked at first, for which the host waits

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "temperature", "z_loss", "softcap", "denominator"):
            value = getattr(self, name)
            if isinstance(value, int | float) or (value is None and name in ("softcap", "denominator")):
                continue  # torch.compile's symbols for numbers have no attributes that could be looked for
            if not hasattr(value, "__float__"):
                raise TypeError(f"`{name}` must be a number, but is {value!r}")
        index: Any = self.ignore_index
        if not isinstance(index, int):
            if not hasattr(index, "__index__"):
                raise TypeError(f"`ignore_index` must be an integer, but is {index!r}")
            object.__setattr__(self, "ignore_index", operator.index(index))
        if not -(2**63) <= self.ignore_index < 2**63:
            raise ValueError(f"`ignore_index` must fit 64 bits, but is {self.ignore_index}")
        if not 0.0 <= self.label_smoothing <= 1.0:
            raise ValueError(f"`label_smoothing` must be in [0, 1], but is {self.label_smoothing!r}")
        if self.softcap is not None and not 0.0 < self.softcap < math.inf:
            raise ValueError(f"`softcap` must be positive and finite (None: no cap), but is {self.softcap!r}")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"`temperature` must be positive and finite, but is {self.temperature!r}")
        if not -math.inf < self.z_loss < math.inf:
            raise ValueError(f"`z_loss` must be finite, but is {self.z_loss!r}")
        if self.reduction not in ("mean", "sum", "none"):
            raise ValueError(f'`reduction` must be "mean", "sum" or "none", but is {self.reduction!r}')
        if self.empty not in ("nan", "zero"):
            raise ValueError(f'`empty` must be "nan" or "zero", but is {self.empty!r}')
        if self.denominator is not None and self.reduction != "mean":
            raise ValueError(
                f'`denominator` divides the "mean", but `reduction` is {self.reduction!r}: leave one of them out'
            )
        if self.kind != "logits" and (
            self.softcap is not None or self.temperature != 1.0 or self.z_loss != 0.0
        ):
            raise ValueError(
                f"`softcap`, `temperature` and `z_loss` act on logits, but `{self.kind}` was given: "
                "pass `logits`, or leave these options out"
            )


def one_of(**predictions: Any) -> tuple[Kind, Any]:
    """Return the name and value of the one argument that is not None."""
    given = [(name, value) for name, value in predictions.items() if value is not None]
    if len(given) != 1:
        names = ", ".join(f"`{name}`" for name in predictions)
        came = " and ".join(f"`{name}`" for name, _ in given) or "none"
        raise TypeError(
            f"give exactly one of {names}, but {came} came: what the numbers are is said, never guessed"
        )
    return given[0]  # type: ignore[return-value]


def class_axis(axis: int, shape: tuple[int, ...], name: str) -> int:
    """Return `axis` counted from the front."""
    if not shape:
        raise ValueError(f"`{name}` must have an axis of classes, but is a scalar")
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"`axis` must be an integer, but is {axis!r}")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"`axis` must be in [-{len(shape)}, {len(shape) - 1}] for `{name}` of shape {shape}, but is {axis}"
        )
    axis = axis.__index__() % len(shape)
    if shape[axis] == 0:
        raise ValueError(f"`{name}` has no classes: shape {shape} has length 0 along axis {axis}")
    return axis


def targets_are_indices(
    targets: tuple[int, ...],
    dtype: Any,
    dtype_kind: str,
    predictions: tuple[int, ...],
    axis: int,
    name: str,
    target: str = "targets",
) -> bool:
    """Decide by dtype and shape whether targets are class indices (True) or a distribution a row (False).

    name, target: what the caller's predictions and targets are called.
    """
    if dtype_kind in "iub":
        if targets == predictions:
            raise TypeError(
                f"one-hot targets must be floating, but `{target}` of the shape of `{name}`, {predictions}, are {dtype}: "
                f"pass class indices (`{target}.argmax({axis})`), or convert them to floats"
            )
        if dtype_kind == "b":
            raise TypeError(
                f"`{target}` must be class indices or distributions, but are {dtype}: convert them to integers"
            )
        rows = predictions[:axis] + predictions[axis + 1 :]
        if targets != rows:
            raise ValueError(
                f"`{target}` of class indices must have the shape of `{name}` without its class axis, {rows}, but have "
                f"{targets} (`{name}`: {predictions}, classes along axis {axis})"
            )
        return True
    if dtype_kind != "f":
        raise TypeError(
            f"`{target}` must be integers (class indices) or floating (distributions), but are {dtype}"
        )
    if targets != predictions:
        raise ValueError(
            f"floating `{target}` are distributions, of the shape of `{name}`, {predictions}, but have {targets}: "
            "class indices must be integers"
        )
    return False


def weight_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...], meaning: str) -> None:
    """Check the shape of an array of weights."""
    if shape != expected:
        raise ValueError(
            f"`{name}` must have one weight a {meaning}, shape {expected}, but has shape {shape}"
        )


def linear_shapes(hidden: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    """Check that hidden·weightᵀ + bias can be computed."""
    if len(weight) != 2 or not hidden or hidden[-1] != weight[1]:
        raise ValueError(f"`hidden` must be (..., D) and `weight` (K, D), but they are {hidden} and {weight}")
    if weight[0] == 0:
        raise ValueError(f"`weight` has no classes: shape {weight}")
    if bias is not None and bias != weight[:1]:
        raise ValueError(f"`bias` must have one entry a class, shape {weight[:1]}, but has shape {bias}")


def linear_options(workspace: int | None, shift: int, rows: tuple[int, ...], hidden: str = "hidden") -> None:
    """Check the options of the linear form."""
    for name, value in (("workspace", workspace), ("shift", shift)):
        if value is None and name == "workspace":
            continue
        if isinstance(value, bool) or not isinstance(value, SupportsIndex):
            raise TypeError(f"`{name}` must be an integer, but is {value!r}")
        if value.__index__() < 0:
            raise ValueError(f"`{name}` must not be negative, but is {value}")
    if shift and not rows:
        raise ValueError(f"`shift` moves targets along a sequence, but `{hidden}` is one row")
