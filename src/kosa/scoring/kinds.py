"""Whether predictions are what they are said to be: logits, probabilities or log-probabilities."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.errors import InputError, Place

FORCE = " `force` scores them as they are"
_POSITIVE = "`log_probs` hold {:g}, but no log-probability is positive. Are these logits or probabilities?"
_FIRST_ROWS = 20  # enough that no real logits all lie in [0, 1] and sum to 1


def tolerance(dtype: np.dtype[Any]) -> float:
    """How far a row's sum may be from 1: √ε of the float type, at least float32's 3.5e-4."""
    return math.sqrt(max(_epsilon(dtype), float(np.finfo(np.float32).eps)))


def _epsilon(dtype: np.dtype[Any]) -> float:
    return 2.0**-7 if dtype.name == "bfloat16" else float(np.finfo(dtype).eps)


def strange(kind: str, predictions: NDArray[Any], found: Any) -> NDArray[np.bool_]:
    """The rows that are not of the kind said, from figures that are there already."""
    bad: NDArray[np.bool_]
    if kind == "logits":
        bad = ~np.isfinite(found.lse)
        return bad
    slack = tolerance(predictions.dtype)
    bad = ~(np.abs(np.expm1(found.lse)) <= slack) | ~(found.confidence <= 1.0 + slack)
    if kind == "probs" and predictions.min(initial=0) < 0:
        bad |= (predictions < 0).any(axis=1)
    return bad


def why(kind: str, row: NDArray[np.float64], slack: float) -> str:
    """Why a row is not of the kind said."""
    if np.isnan(row).any():
        return f"`{kind}` hold NaN for class {int(np.argmax(np.isnan(row)))} (from 0)."
    if kind == "logits":
        largest = row.max()
        return (
            f"`logits` hold {largest:g}." if largest > 0 else "`logits` are all −inf: no class is possible."
        )
    if kind == "probs":
        outside = (row < 0) | (row > 1 + slack)
        if outside.any():
            return f"`probs` hold {row[outside][0]:g}, outside [0, 1]. Are these logits or log-probabilities?"
        return f"`probs` sum to {row.sum():.6g}, expected 1 within {slack:.2g}. Are these logits, or one sigmoid a class?"
    if row.max() > slack:
        return _POSITIVE.format(row.max())
    total = np.exp(row).sum()
    return f"exp of `log_probs` sums to {total:.6g}, expected 1 within {slack:.2g}. Are these logits?"


def why_binary(kind: str, value: float) -> str:
    if np.isnan(value):
        return f"`{kind}` hold NaN."
    if kind == "probs":
        return f"`probs` hold {value:g}, outside [0, 1]. Are these logits?"
    if kind == "log_probs":
        return _POSITIVE.format(value)
    return f"`logits` hold {value:g}."


class Suspicion:
    """Probabilities passed as logits give a wrong figure and no error: the first rows of the data tell."""

    def __init__(self) -> None:
        self._left = _FIRST_ROWS

    def look(self, logits: NDArray[Any], place: Place) -> None:
        """Refuse logits whose first 20 rows are all probabilities; one that is not ends the suspicion."""
        if not self._left:
            return
        rows = logits[: self._left].astype(np.float64)
        with np.errstate(invalid="ignore"):  # ∞ − ∞
            sums = rows.sum(axis=1)
        probable = (rows >= 0).all(axis=1) & (np.abs(sums - 1.0) <= tolerance(logits.dtype))
        if not probable.all():
            self._left = 0
            return
        self._left -= len(rows)
        if not self._left:
            raise InputError(
                f"{place.name}: each of the first {_FIRST_ROWS} rows of `logits` is positive and sums to 1. "
                f"Are these probabilities (`probs`)?{FORCE}"
            )
