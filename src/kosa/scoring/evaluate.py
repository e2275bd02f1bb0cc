"""From a batch of targets and predictions to its losses, in float64."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kosa.cpu import arguments
from kosa.cpu.figures import Statistics, column_statistics, row_statistics
from kosa.loss import Options
from kosa.scoring import tokens
from kosa.scoring.batch import Batch
from kosa.scoring.binary import evaluate_binary
from kosa.scoring.classes import Classes, Coded
from kosa.scoring.convert import Apart
from kosa.scoring.errors import InputError
from kosa.scoring.exact import Floats
from kosa.scoring.kinds import FORCE, strange, tolerance, why
from kosa.scoring.remainder import among_others, among_soft, hits, ranks
from kosa.scoring.rows import MOST_WEIGHT, Rows
from kosa.scoring.temperature import tempered


def clip_of(dtype: np.dtype[Any]) -> float:
    """The clip for predictions of a type."""
    return float(np.finfo(np.float64 if dtype.itemsize > 4 else np.float32).eps)


def evaluate(
    kind: str,
    batch: Batch,
    classes: Classes,
    force: bool,
    *,
    top_k: bool = False,
    temperature: bool = False,
) -> Rows:
    """Losses of a batch; rows that cannot be what was said are an InputError unless `force`.

    top_k, temperature: whether each row's rank, and its losses at other temperatures, are wanted too.
    """
    weight = _weights(batch)
    used = np.ones(len(batch.predictions), dtype=bool) if weight is None else weight > 0
    binary = batch.predictions.ndim == 1
    clip = clip_of(batch.predictions.dtype)
    if kind == tokens.KIND:
        if top_k or temperature:
            option = "top_k" if top_k else "temperature"
            raise InputError(f"`{option}` needs the predictions of all classes, and `{kind}` are of one")
        rows = tokens.evaluate_tokens(batch, clip)
    else:
        rows = (evaluate_binary if binary else _multiclass)(kind, batch, classes, clip, force, used)
    if top_k:
        rows = replace(rows, rank=ranks(batch.predictions, rows.label, rows.predicted))
    if temperature:
        rows = replace(rows, tempered=tempered(kind, batch.predictions, rows.label, rows.mass))
    return replace(
        rows, weight=weight, ids=batch.ids, group=batch.group, units=_units(batch, used), clip=clip
    )


def _units(batch: Batch, used: NDArray[np.bool_]) -> dict[str, Floats]:
    found = {}
    for unit, counts in batch.units.items():
        count = np.asarray(counts, dtype=np.float64)
        bad = ~((count >= 0) & (count <= MOST_WEIGHT)) & used
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(f"{batch.place.row(row)}: {count[row]} {unit}; expected 0 to {MOST_WEIGHT:g}")
        found[unit] = count
    return found


def _weights(batch: Batch) -> Floats | None:
    if batch.weights is None:
        return None
    weight = batch.weights.astype(np.float64)
    bad = ~((weight >= 0) & (weight <= MOST_WEIGHT))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"{batch.place.row(row)}: weight {weight[row]}; expected 0 to {MOST_WEIGHT:g}")
    return weight


def _multiclass(
    kind: str, batch: Batch, classes: Classes, clip: float, force: bool, used: NDArray[np.bool_]
) -> Rows:
    predictions, place = batch.predictions, batch.place
    soft = not isinstance(batch.targets, Coded) and batch.targets.ndim == 2
    targets = _distributions(batch, force, used) if soft else classes.decode(batch.targets, place, used)
    with np.errstate(all="ignore"):
        found = _statistics(kind, predictions, targets)
        if not force:
            bad = strange(kind, predictions, found) & used
            if bad.any():
                row = int(np.argmax(bad))
                reason = why(kind, predictions[row].astype(np.float64), tolerance(predictions.dtype))
                raise InputError(f"{place.row(row)}: {reason}{FORCE}")
        if soft:
            clipped = _clipped_soft(kind, predictions, targets, found, clip)
            hit = hits(targets, found)
            return Rows(
                batch.first,
                found.loss,
                clipped,
                np.argmax(targets, axis=1),
                found.argmax,
                found.confidence,
                target_entropy=found.target_entropy,
                mass=targets.astype(np.float64),
                brier=found.brier,
                hit=hit,
                among=among_soft(kind, predictions, found, hit),
            )
        clipped = np.minimum(found.loss, -np.log(clip))
        among = among_others(kind, predictions, targets, found)
    return Rows(
        batch.first,
        found.loss,
        clipped,
        targets,
        found.argmax,
        found.confidence,
        brier=found.brier,
        among=among,
    )


def _statistics(kind: Any, predictions: "NDArray[Any] | Apart", targets: NDArray[Any]) -> Statistics:
    """What `kosa.row_statistics` gives less the entropy, told where the classes lie in memory: columns of a file lie
    one after another.
    """
    if isinstance(predictions, Apart):
        if targets.ndim == 1:
            return column_statistics(kind, predictions.columns, targets)
        predictions = np.asarray(predictions)
    columnar = predictions.flags.f_contiguous and not predictions.flags.c_contiguous
    options = Options(kind, axis=0 if columnar else -1)
    if columnar:
        targets, predictions = targets.T, predictions.T
    job = arguments.job(targets, predictions, None, None, options, needed=False)
    return row_statistics(job, True, with_entropy=False)


def _distributions(batch: Batch, force: bool, used: NDArray[np.bool_]) -> NDArray[Any]:
    """Soft targets, checked."""
    targets, place = batch.targets, batch.place
    assert not isinstance(targets, Coded)
    if targets.shape != batch.predictions.shape:
        raise InputError(
            f"{place.name}: soft targets have {targets.shape[1]} classes, the predictions "
            f"{batch.predictions.shape[1]}; they need one column each per class"
        )
    if targets.dtype.kind in "iub":
        targets = targets.astype(np.float64)
    if not force:
        slack = tolerance(targets.dtype)
        sums = targets.sum(axis=1, dtype=np.float64)
        bad = (~(np.abs(sums - 1.0) <= slack) | (targets < 0).any(axis=1)) & used
        if bad.any():
            row = int(np.argmax(bad))
            reason = f"sum to {sums[row]:.6g}, expected 1 within {slack:.2g}."
            if (targets[row] < 0).any():
                reason = f"hold {targets[row].min():g}, but no probability is negative."
            raise InputError(f"{place.row(row)}: the soft targets {reason}{FORCE}")
    return targets


def _clipped_soft(
    kind: str, predictions: NDArray[Any], targets: NDArray[Any], found: Any, clip: float
) -> Floats:
    """The losses with each probability below the clip raised to it, where a target stands on such a class."""
    clipped: Floats = found.loss.copy()
    least = np.log(clip)
    if kind == "probs":
        low = predictions < clip
    elif kind == "logits":
        low = predictions < (least + found.lse)[:, None]
    else:
        low = predictions < least
    rows = np.flatnonzero((low & (targets > 0)).any(axis=1))
    part = predictions[rows].astype(np.float64)
    if kind == "probs":
        part = np.log(part)
    elif kind == "logits":
        part -= found.lse[rows, None]
    weights = targets[rows].astype(np.float64)
    clipped[rows] = -np.where(weights > 0, weights * np.maximum(part, least), 0.0).sum(axis=1)
    return clipped
