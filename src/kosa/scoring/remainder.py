"""What a row's loss and target say beyond the most probable class: how much is lost among the others, and the rank.

The loss of a row with confidence c and a share `hit` of its target on the predicted class is, exactly,
    −hit·log c − (1 − hit)·log(1 − c)  +  among,   among = −Σ_{k≠predicted} t_k·log(p_k/(1 − c))
the loss of the forecast "the first guess is right with probability c", and the loss among the other classes. A
recalibration of c changes the first part alone.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.exact import Floats, Integers

_BLOCK = 1 << 18  # numbers widened at a time
_SMALL = 2.0**-10  # below, 1 − c has lost too many digits of what the other classes have


def among_others(kind: str, predictions: NDArray[Any], label: Integers, found: Any) -> Floats:
    """`among` of rows whose targets are classes; 0 where the first guess is right."""
    among = np.zeros(len(label))
    wrong = np.flatnonzero(found.argmax != label)
    loss = found.loss[wrong]
    among[wrong] = np.where(loss == np.inf, np.inf, loss + np.log(_rest(kind, predictions, found, wrong)))
    return among


def hits(targets: NDArray[Any], found: Any) -> Floats:
    """The share of each soft target that is on the predicted class."""
    place = np.maximum(found.argmax, 0)[:, None]
    hit: Floats = np.take_along_axis(targets, place, axis=1)[:, 0].astype(np.float64)
    return hit


def among_soft(kind: str, predictions: NDArray[Any], found: Any, hit: Floats) -> Floats:
    """`among` of rows whose targets are distributions."""
    among = np.zeros(len(hit))
    part = np.flatnonzero(~(hit >= 1.0))
    rest = np.maximum(_rest(kind, predictions, found, part), 0.0)
    share, loss = hit[part], found.loss[part]
    right = np.where(share > 0.0, share * np.log(found.confidence[part]), 0.0)
    among[part] = np.where(loss == np.inf, np.inf, loss + right + (1.0 - share) * np.log(rest))
    return among


def _rest(kind: str, predictions: NDArray[Any], found: Any, rows: Integers) -> Floats:
    """1 − c of some rows: what all other classes have, to 1e-13 relative however little it is."""
    rest: Floats = 1.0 - found.confidence[rows]
    small = np.flatnonzero(rest < _SMALL)
    step = max(1, _BLOCK // predictions.shape[1])
    for start in range(0, len(small), step):
        part = small[start : start + step]
        chosen = rows[part]
        values = predictions[chosen].astype(np.float64)
        if kind == "logits":
            values -= found.lse[chosen, None]
        if kind != "probs":
            np.exp(values, out=values)
        values[np.arange(len(part)), np.maximum(found.argmax[chosen], 0)] = 0.0
        rest[part] = values.sum(axis=1)
    return rest


def ranks(predictions: NDArray[Any], label: Integers, predicted: Integers) -> Integers:
    """How many classes come before the target's; of equally probable ones the first does. K where a row has NaN."""
    if predictions.ndim == 1:
        return np.where(predicted < 0, 2, (predicted != label).astype(np.int64))
    classes = predictions.shape[1]
    found = np.empty(len(label), dtype=np.int64)
    step = max(1, _BLOCK // classes)
    for start in range(0, len(label), step):
        part = slice(start, start + step)
        values, own = predictions[part], label[part, None]
        target = np.take_along_axis(values, own, axis=1)
        before = values > target
        ties = values == target
        # Nearly always the target alone is level with itself.
        if np.count_nonzero(ties) != len(own) - np.count_nonzero(predicted[part] < 0):
            before |= ties & (np.arange(classes) < own)
        found[part] = np.count_nonzero(before, axis=1)
    found[predicted < 0] = classes
    return found
