"""`row_statistics` of checked arrays: chooses the kernel, and shares the rows out over the threads."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kosa.cpu import indices
from kosa.cpu.engine import (
    _NO_FLOATS,
    _NO_INDICES,
    Compute,
    Job,
    Plan,
    _empty,
    _pieces,
    _placed,
    losses_worker,
    share_rows,
)
from kosa.cpu.layout import Array, bits
from kosa.cpu.statistics import row_statistics_rows
from kosa.cpu.statistics_across import LANES, row_statistics_across
from kosa.loss import Options

_FORMATS = (np.float64, np.float32, np.int16, np.uint16)  # the last two: float16 and bfloat16 as bits
_KINDS = ("logits", "probs", "log_probs")
_MOST_ACROSS = 4096  # classes: a tile of 4 MiB a thread


class Statistics(NamedTuple):
    """One entry a row, float64 (`argmax` int64); figures that need targets, or were not wanted, are None."""

    loss: Any
    lse: Any
    argmax: Any
    confidence: Any
    entropy: Any
    brier: Any
    target_entropy: Any


def row_statistics(job: Job, with_targets: bool, with_entropy: bool = True) -> Statistics:
    """Losses and figures of each row; the entropy of probabilities takes longer than all else, and may be left out."""
    options, axis = job.options, job.axis
    classes = job.predictions.shape[axis]
    shape = job.predictions.shape[:axis] + job.predictions.shape[axis + 1 :]
    rows = job.predictions.size // classes
    if with_targets and job.indexed:
        indices.check(job.targets, options.ignore_index, classes, job.class_weight, job.row_weight, shape)
    loss, lse, confidence = (np.zeros(rows) for _ in range(3))
    entropy = np.zeros(rows if with_entropy else 0)
    brier, target_entropy = (np.zeros(rows if with_targets else 0) for _ in range(2))
    argmax = np.zeros(rows, np.int64)
    figures = (loss, lse, argmax, confidence, entropy, brier, target_entropy)
    with np.errstate(all="ignore"):
        plan = _placed(job, None)
        if plan is not None:
            share_rows(rows, classes, lambda: _worker(job, plan, with_targets, figures))
        else:
            for piece, at, _ in _pieces(job):
                part = row_statistics(piece, with_targets, with_entropy)
                for figure, values in zip(figures, part, strict=True):
                    if values is not None:
                        figure[at] = values.reshape(-1)
    wanted = (with_targets, True, True, True, with_entropy, with_targets, with_targets)
    return Statistics(
        *(figure.reshape(shape)[()] if want else None for figure, want in zip(figures, wanted, strict=True))
    )


def column_statistics(kind: Any, columns: Sequence[Array], targets: Array) -> Statistics:
    """`row_statistics` without the entropy of K columns of N predictions each, of one dtype, wherever they lie, with
    N class indices.
    """
    rows, classes, options = len(columns[0]), len(columns), Options(kind)
    index = np.ascontiguousarray(targets, np.int64).view()
    index.flags.writeable = False
    if classes > _MOST_ACROSS:
        together = np.stack(columns, axis=1)
        return row_statistics(
            Job(together, 1, index, True, _NO_FLOATS, _NO_FLOATS, options, False), True, False
        )
    indices.check(index, options.ignore_index, classes, _NO_FLOATS, _NO_FLOATS, (rows,))
    flats = [bits(np.ascontiguousarray(column, column.dtype.newbyteorder("="))) for column in columns]
    places = np.array([flat.ctypes.data for flat in flats])
    lowest = int(places.argmin())
    starts, rest = np.divmod(places - places[lowest], flats[0].itemsize)
    if rest.any():  # not aligned to each other
        flats = [flat.copy() for flat in flats]
        return column_statistics(kind, [flat.view(columns[0].dtype) for flat in flats], targets)
    # One span over all columns and whatever lies between them, which is never touched.
    span = np.lib.stride_tricks.as_strided(flats[lowest], (int(starts.max()) + rows,), writeable=False)
    xs = _by_format(span)
    loss, lse, confidence, brier = (np.zeros(rows) for _ in range(4))
    argmax = np.zeros(rows, np.int64)

    def worker() -> Compute:
        tile = np.empty(classes * LANES)
        return lambda first, last: row_statistics_across(
            xs, starts, 1, 0, _KINDS.index(kind), 0.0, 1.0, index, options.ignore_index, 1, first, last,
            tile, loss, lse, argmax, confidence, _empty(loss.dtype, True), brier,
        )  # fmt: skip

    with np.errstate(all="ignore"):
        share_rows(rows, classes, worker)
    return Statistics(loss, lse, argmax, confidence, None, brier, np.zeros(rows))


def _worker(job: Job, plan: Plan, with_targets: bool, figures: tuple[Array, ...]) -> Compute:
    """Return what fills the figures of rows first..last−1, with scratch of its own."""
    options, classes = job.options, plan.classes
    loss, *others, brier, target_entropy = figures
    indexed, dense = with_targets and job.indexed, not job.indexed
    weighted = job.class_weight.size or job.row_weight.size
    # Losses of plain class indices fall off on the way; all others have kernels of their own, and share the cache.
    own_losses = indexed and not weighted and not options.label_smoothing and not options.z_loss
    losses = None
    if with_targets and not own_losses:
        losses = losses_worker(job, plan, 1.0, loss, False, np.float64)
        loss = _empty(loss.dtype, True)
    index = job.targets if indexed else _NO_INDICES
    kind = _KINDS.index(options.kind)
    transform = (0.0 if options.softcap is None else float(options.softcap), float(options.temperature))
    steps = plan.z.steps
    xs, ts = _by_format(plan.z.flat), _by_format(plan.t.flat)
    start, outer, inside, class_step = steps
    across = job.across and not dense and classes <= _MOST_ACROSS
    scratch = np.empty(classes * LANES if across else classes)
    t_scratch = np.empty(classes if dense else 0)
    starts = start + class_step * np.arange(classes)

    def compute(first: int, last: int) -> None:
        if losses is not None:
            losses(first, last)
        if across:
            row_statistics_across(
                xs, starts, outer, inside, kind, *transform, index, options.ignore_index,
                plan.inner, first, last, scratch, loss, *others, brier,
            )  # fmt: skip
        else:
            row_statistics_rows(
                xs, steps, kind, *transform, index, options.ignore_index,
                ts, plan.t.steps, dense, plan.inner, classes, first, last,
                scratch, t_scratch, loss, *others, brier, target_entropy,
            )  # fmt: skip

    return compute


def _by_format(flat: Array) -> tuple[Array, ...]:
    """The array in the place of its format, empty ones in the others': so kernels are compiled once for all formats."""
    return tuple(flat if flat.dtype == known else _empty(np.dtype(known)) for known in _FORMATS)
