"""Binary predictions: one number a row, for class 1."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa import functional
from kosa.scoring.batch import Batch
from kosa.scoring.classes import Classes, Coded
from kosa.scoring.errors import InputError, LabelError, Place
from kosa.scoring.exact import Floats
from kosa.scoring.kinds import FORCE, why_binary
from kosa.scoring.rows import Rows


def evaluate_binary(
    kind: str, batch: Batch, classes: Classes, clip: float, force: bool, used: NDArray[np.bool_]
) -> Rows:
    targets = binary_targets(batch.targets, classes, batch.place, used)
    values = batch.predictions.astype(np.float64)
    with np.errstate(all="ignore"):
        if kind == "logits":
            loss = functional.binary_cross_entropy(targets, logits=values, reduction="none")
            one, zero = -np.logaddexp(0.0, -values), -np.logaddexp(0.0, values)
            bad = np.isnan(loss)
        else:
            outside = ~((values >= 0) & (values <= 1)) if kind == "probs" else ~(values <= 0)
            bad = outside
            if kind == "probs":
                one, zero = np.log(values), np.log1p(-values)
                loss = functional.binary_cross_entropy(targets, probs=values, reduction="none")
            else:
                one = values
                zero = np.where(values > -np.log(2.0), np.log(-np.expm1(values)), np.log1p(-np.exp(values)))
                loss = -_times(targets, one) - _times(1.0 - targets, zero)
        bad &= used
        if bad.any() and not force:
            row = int(np.argmax(bad))
            raise InputError(f"{batch.place.row(row)}: {why_binary(kind, values[row])}{FORCE}")
        least = np.log(clip)
        clipped = -_times(targets, np.maximum(one, least)) - _times(1.0 - targets, np.maximum(zero, least))
        # Where nothing was clipped the figure is the loss itself, to the last bit.
        untouched = ((one >= least) | (targets == 0)) & ((zero >= least) | (targets == 1))
        clipped = np.where(untouched, loss, clipped)
        # Class 0 is the first: it is predicted where both are equally probable.
        predicted = np.where(np.isnan(values), -1, (one > zero).astype(np.int64))
        soft = ((targets > 0) & (targets < 1)).any()
        # p − t as the one of the two differences that does not cancel.
        distance = np.where(targets > 0.5, (1.0 - targets) - np.exp(zero), np.exp(one) - targets)
        return Rows(
            batch.first,
            np.array(loss, dtype=np.float64),
            clipped,
            (targets > 0.5).astype(np.int64),
            predicted,
            np.exp(np.maximum(one, zero)),
            target_entropy=-_times(targets, np.log(targets)) - _times(1 - targets, np.log1p(-targets))
            if soft
            else None,
            mass=np.stack([1.0 - targets, targets], axis=1) if soft else None,
            brier=2.0 * distance**2,
            hit=np.where(predicted == 1, targets, 1.0 - targets) if soft else None,
        )


def _times(weights: Floats, values: Floats) -> Floats:
    """weights·values with 0·∞ = 0."""
    return np.where(weights == 0, 0.0, weights * values)


def binary_targets(
    labels: "NDArray[Any] | Coded", classes: Classes, place: Place, used: NDArray[np.bool_]
) -> Floats:
    """Targets of a binary prediction: the probability of class 1 that each row's target gives; 0 in rows not `used` where
    it gives none.
    """
    if isinstance(labels, Coded):
        if labels.untyped and not classes.given:
            found = np.array([_written(value) for value in labels.values])[labels.codes]
            values: Floats = found.astype(np.float64)
        else:
            return classes.decode(labels, place, used).astype(np.float64)
    elif labels.ndim == 2:
        raise InputError(
            f"{place.name}: soft targets of {labels.shape[1]} classes with one prediction column; expected "
            "one target column: labels, or probabilities of class 1"
        )
    elif labels.dtype.kind != "f":
        return classes.decode(labels, place, used).astype(np.float64)
    else:
        values = labels.astype(np.float64)
    none = ~((values >= 0) & (values <= 1))
    bad = none & used
    if bad.any():
        row = int(np.argmax(bad))
        label = labels[row] if isinstance(labels, Coded) else float(values[row])
        raise LabelError(
            f"{place.row(row)}: target {label!r} of a binary prediction; expected 0, 1 or between"
            + ("; `classes` gives the names of class 0 and class 1" if isinstance(label, str) else "")
        )
    return np.where(none, 0.0, values) if none.any() else values


def _written(value: str) -> float:
    """The probability of class 1 that an untyped label says; NaN where it says none."""
    try:
        return (
            {"false": 0.0, "true": 1.0}.get(value.lower(), float("nan")) if value.isalpha() else float(value)
        )
    except ValueError:
        return float("nan")
