"""From checked arrays to kernels: chooses the kernel and the layout, shares the rows out, reduces the losses."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from kosa.cpu import indices
from kosa.cpu.binary import binary_cross_entropy_elements
from kosa.cpu.columns import cross_entropy_columns
from kosa.cpu.layout import Array, Strided, bits, is_native, strided
from kosa.cpu.probabilities import cross_entropy_probabilities
from kosa.cpu.rows import TILE, cross_entropy_rows
from kosa.cpu.target_slopes import target_slopes as target_slopes_rows
from kosa.cpu.threads import for_each_chunk, num_threads
from kosa.loss import Options

_FEW = 64  # classes up to which rows go side by side: a longer row is faster by itself
_CHUNKS = 16  # a thread, so that one that is slowed down holds the others up by little
_SMALLEST = 1 << 18  # elements of a chunk: some hundred times what a call costs
_SERIAL = 1 << 16  # elements below which a second thread costs more than it saves
_PIECE = 1 << 20  # elements copied at a time of arrays that kernels cannot read in place
_STREAM = (
    1 << 26
)  # bytes of a gradient that neither is in a cache nor will be found there by whoever reads it
_LANES = 1 << 14  # elements of a K×B tile: 64 KiB of float32

_NO_FLOATS = np.empty(0)
_NO_FLOATS.flags.writeable = False
_NO_INDICES = np.empty(0, np.int64)
_NO_INDICES.flags.writeable = False

Compute = Callable[[int, int], None]


class Job(NamedTuple):
    """What a call computes, checked: `targets` are int64 indices or floats; weights float64, or empty."""

    predictions: Array
    axis: int
    targets: Array
    indexed: bool
    class_weight: Array
    row_weight: Array
    options: Options
    across: bool  # whether rows are taken side by side
    lse_weight: Array = _NO_FLOATS  # (N,): the gradient's further term Σ lse_weight·lse; not with `across`


def side_by_side(predictions: Array, axis: int) -> bool:
    """Whether rows are taken side by side: with few classes, and where each class lies in a cache line of its own.

    A matter of the array's layout, not of how many rows there are: a row's bits must not depend on its batch.
    """
    return predictions.shape[axis] <= _FEW or abs(predictions.strides[axis]) >= 64


class Reduced(NamedTuple):
    """The reduced loss (row losses for "none"), and the gradient or None."""

    loss: Any
    grad: Array | None


def cross_entropy(job: Job, with_grad: bool, out: Array | None) -> Reduced:
    """Loss and, if asked for, its gradient with respect to the predictions."""
    with np.errstate(all="ignore"):
        return _cross_entropy(job, with_grad, out)


def _cross_entropy(job: Job, with_grad: bool, out: Array | None) -> Reduced:
    predictions, options = job.predictions, job.options
    classes = predictions.shape[job.axis]
    shape = predictions.shape[: job.axis] + predictions.shape[job.axis + 1 :]
    rows = predictions.size // classes
    total = float(rows)
    if job.indexed:
        total = indices.check(
            job.targets, options.ignore_index, classes, job.class_weight, job.row_weight, shape
        )
    elif job.row_weight.size:
        total = float(job.row_weight.sum())
    divisor = 1.0
    if options.reduction == "mean":
        divisor = total if options.denominator is None else float(options.denominator)
    fresh = with_grad and out is None
    if fresh:
        out = np.empty_like(predictions, subok=False)
    losses = np.zeros(rows)
    if divisor == 0.0 or rows == 0:
        if out is not None:
            out[...] = 0
        if divisor == 0.0:
            empty = np.nan if options.empty == "nan" else 0.0
            return Reduced(as_loss(empty, predictions), out)
    else:
        run(job, 1.0 / divisor, losses, out, fresh)
    if options.reduction == "none":
        return Reduced(as_loss(losses, predictions).reshape(shape)[()], out)
    return Reduced(as_loss(np.add.reduce(losses) / divisor, predictions), out)


def as_loss(loss: Any, predictions: Array) -> Any:
    """In float32 for predictions of up to 32 bits, else in float64."""
    kind = np.float32 if predictions.dtype.itemsize <= 4 else np.float64
    return loss.astype(kind, copy=False) if isinstance(loss, np.ndarray) else kind(loss)


class Plan(NamedTuple):
    """Arrays as kernels take them: where predictions, targets and gradient lie, and the rows' grid."""

    inner: int
    classes: int
    rows: int
    z: Strided
    t: Strided
    out: Strided


def run(job: Job, scale: float, losses: Array, out: Array | None, fresh: bool = False) -> None:
    """Fill `losses` (float64, one a row) and `out`, the gradient of scale·Σ losses.

    `fresh`: nobody has touched the memory of `out` yet.
    """
    plan = _placed(job, out)
    if plan is not None:
        # The system zeroes a fresh page in the cache, where it is then written: past the caches is slower by a third.
        stream = plan.out.flat.nbytes >= _STREAM and not fresh
        share_rows(
            plan.rows, plan.classes,
            lambda: losses_worker(job, plan, scale, losses, out is not None, stream=stream),
        )  # fmt: skip
        return
    for piece, rows, where in _pieces(job):
        part = None if out is None else np.empty(piece.predictions.shape, piece.predictions.dtype)
        run(piece, scale, losses[rows], part)
        if out is not None:
            np.moveaxis(out, job.axis, -1)[where] = part


def _pieces(job: Job) -> Iterator[tuple[Job, slice, tuple[slice, ...]]]:
    """Copies, in native bytes and C order, of a few rows at a time: for arrays that kernels cannot read in place."""
    predictions = np.moveaxis(job.predictions, job.axis, -1)
    targets = job.targets if job.indexed else np.moveaxis(job.targets, job.axis, -1)
    first = 0
    for where in _blocks(predictions.shape[:-1], max(1, _PIECE // predictions.shape[-1])):
        own = _contiguous(predictions[where])
        rows = slice(first, first + own.size // own.shape[-1])
        first = rows.stop
        yield (
            job._replace(
                predictions=own,
                axis=own.ndim - 1,
                targets=targets[rows] if job.indexed else _contiguous(targets[where]),
                row_weight=job.row_weight[rows],
                lse_weight=job.lse_weight[rows],
            ),
            rows,
            where,
        )


def _blocks(shape: tuple[int, ...], most: int) -> Iterator[tuple[slice, ...]]:
    """Slices that cut an array of this shape, in C order, into blocks of at most `most` elements."""
    if math.prod(shape) <= most:
        yield tuple(slice(None) for _ in shape)
        return
    inside = math.prod(shape[1:])
    step = max(1, most // inside)
    for i in range(0, shape[0], step):
        for rest in _blocks(shape[1:], most):
            yield slice(i, i + step), *rest


def _contiguous(array: Array) -> Array:
    return np.array(array, array.dtype.newbyteorder("="), order="C")


def _placed(job: Job, out: Array | None) -> Plan | None:
    """Where everything lies; None if some array must be copied first."""
    arrays = [job.predictions]
    if not job.indexed:
        arrays.append(job.targets)
    if out is not None:
        arrays.append(out)
    for array in arrays:
        if not is_native(array):
            return None
    placed = strided(job.axis, *map(bits, arrays))
    if placed is None:
        return None
    inner, spans = placed
    for span in spans[: len(spans) - (out is not None)]:
        span.flat.flags.writeable = False  # one type of array for kernels, hence one compilation
    classes = job.predictions.shape[job.axis]
    z = spans[0]
    return Plan(
        inner, classes, job.predictions.size // classes, z,
        _nowhere(z.flat.dtype, False) if job.indexed else spans[1],
        _nowhere(z.flat.dtype, True) if out is None else spans[-1],
    )  # fmt: skip


def losses_worker(
    job: Job,
    plan: Plan,
    scale: float,
    losses: Array,
    with_grad: bool,
    working: Any = None,
    stream: bool = False,
) -> Compute:
    """Return what fills `losses`, and the gradient, for rows first..last−1, with scratch of its own."""
    options, classes = job.options, plan.classes
    logits = options.kind == "logits"
    softcap = 0.0 if options.softcap is None else float(options.softcap)
    temperature = float(options.temperature)
    if working is None:
        exact = (
            not logits or softcap != 0.0 or temperature != 1.0
        )  # the transformed logits' rounding would show
        working = np.float64 if exact or job.predictions.dtype.itemsize == 8 else np.float32

    index, index_weight, class_weight = _NO_INDICES, _NO_FLOATS, job.class_weight
    t, t_steps = plan.t
    t_scale, t_shift, smoothing = 1.0, 0.0, float(options.label_smoothing)
    if not job.indexed:
        t_scale, t_shift = 1.0 - smoothing, smoothing / classes
    else:
        index, index_weight, class_weight, t = job.targets, class_weight, _NO_FLOATS, _empty(working)
        if smoothing != 0.0:
            # The index keeps 1 − ε of its weight; the rest is one row that all rows share.
            each = index_weight if index_weight.size else np.ones(classes)
            with np.errstate(all="ignore"):  # weights may be infinite
                index_weight, t = each * (1.0 - smoothing), (each * (smoothing / classes)).astype(working)
            t_steps = (0, 0, 0, 1)
            index_weight.flags.writeable = t.flags.writeable = False

    where = (plan.inner, classes)
    z, z_steps = plan.z
    out, out_steps = plan.out
    size = TILE if not logits else classes if with_grad else min(classes, TILE)
    across = logits and job.across
    if across:
        size = classes * _lanes(classes, plan.rows)
    scratch, t_scratch = np.empty(size, working), np.empty(size if t.size else 0, working)
    if not logits:

        def compute(first: int, last: int) -> None:
            cross_entropy_probabilities(
                z, z_steps, index, options.ignore_index, index_weight, t, t_steps, class_weight, job.row_weight,
                scale, t_scale, t_shift, options.kind == "log_probs", *where, first, last, scratch, t_scratch,
                losses, out, out_steps,
            )  # fmt: skip

        return compute

    kernel = cross_entropy_columns if across else cross_entropy_rows
    weights = (job.row_weight,) if across else (job.row_weight, job.lse_weight)
    numbers = (scale, float(options.z_loss), softcap, temperature, t_scale, t_shift)
    peaks = np.empty(-(-classes // TILE))

    def compute_logits(first: int, last: int) -> None:
        kernel(
            z, z_steps, index, options.ignore_index, index_weight, t, t_steps, class_weight, *weights,
            numbers, *where, first, last, scratch, t_scratch, peaks, losses, out, out_steps, stream,
        )  # fmt: skip

    return compute_logits


def target_slopes(job: Job, scale: float, out: Array) -> None:
    """Fill `out` with the gradient of scale·Σ losses with respect to targets that are distributions."""
    plan = _placed(job._replace(targets=_NO_INDICES, indexed=True), out)
    if plan is None:
        for piece, _, where in _pieces(job):
            part = np.empty(piece.predictions.shape, out.dtype)
            target_slopes(piece, scale, part)
            np.moveaxis(out, job.axis, -1)[where] = part
        return
    options, kind = job.options, ("logits", "probs", "log_probs").index(job.options.kind)
    softcap = 0.0 if options.softcap is None else float(options.softcap)

    def worker() -> Compute:
        scratch = np.empty(plan.classes)
        return lambda first, last: target_slopes_rows(
            *plan.z, kind, softcap, float(options.temperature), job.class_weight, job.row_weight,
            scale * (1.0 - float(options.label_smoothing)), plan.inner, plan.classes, first, last, scratch, *plan.out,
        )  # fmt: skip

    share_rows(plan.rows, plan.classes, worker)


def _lanes(classes: int, rows: int) -> int:
    """How many rows go side by side. Multiples of 64 leave no remainder of a loop, which might round differently."""
    if classes > TILE:
        return 16
    return min(256, max(64, _LANES // classes // 64 * 64), -(-rows // 64) * 64)


def share_rows(rows: int, classes: int, worker: Callable[[], Compute]) -> None:
    """Run `worker()` on all rows; over the threads, in chunks of rows, if they are worth it."""
    if rows * classes <= _SERIAL:
        worker()(0, rows)
        return
    step = max(1, _SMALLEST // classes, rows // (_CHUNKS * num_threads()))
    if step > 256:
        step -= step % 256  # whole blocks of lanes

    def chunk_worker() -> Callable[[int], None]:
        compute = worker()
        return lambda chunk: compute(chunk * step, min(rows, (chunk + 1) * step))

    for_each_chunk(-(-rows // step), chunk_worker)


def binary_cross_entropy(
    predictions: Array,
    targets: Array,
    pos_weight: Array,
    row_weight: Array,
    options: Options,
    out: Array | None,
) -> Reduced:
    """Loss and, where `out` is given, its gradient. `targets`: floats, or int8 with −1 for an ignored element."""
    with np.errstate(all="ignore"):
        integers = targets.dtype == np.int8
        if row_weight.size:
            total = float(row_weight[targets.reshape(-1) >= 0].sum() if integers else row_weight.sum())
        else:
            total = float(np.count_nonzero(targets >= 0) if integers else targets.size)
        divisor = 1.0
        if options.reduction == "mean":
            divisor = total if options.denominator is None else float(options.denominator)
        if divisor == 0.0:
            if out is not None:
                out[...] = 0
            return Reduced(as_loss(np.nan if options.empty == "nan" else 0.0, predictions), out)
        losses = np.empty(predictions.size)
        binary_losses(predictions, targets, pos_weight, row_weight, options, 1.0 / divisor, losses, out)
        if options.reduction == "none":
            return Reduced(as_loss(losses, predictions).reshape(predictions.shape)[()], out)
        return Reduced(as_loss(np.add.reduce(losses) / divisor, predictions), out)


def binary_losses(
    predictions: Array,
    targets: Array,
    pos_weight: Array,
    row_weight: Array,
    options: Options,
    scale: float,
    losses: Array,
    out: Array | None,
) -> None:
    """Fill `losses` (float64, in C order) and, where it is given, `out`, the gradient of scale·Σ losses."""
    x, t = _vector(predictions), _vector(targets)
    integers = targets.dtype == np.int8
    written = out
    if out is not None and not (out.flags.c_contiguous and is_native(out)):
        written = np.empty(out.shape, out.dtype.newbyteorder("="))
    flat_out = _empty(x.dtype, True) if written is None else bits(written).reshape(-1)
    smoothing = float(options.label_smoothing)

    def worker() -> Compute:
        return lambda first, last: binary_cross_entropy_elements(
            x, options.kind == "logits", t, integers, pos_weight, row_weight,
            1.0 - smoothing, smoothing / 2, scale, first, last, losses, flat_out,
        )  # fmt: skip

    share_rows(x.size, 1, worker)
    if out is not None and written is not out:
        out[...] = written


def _vector(array: Array) -> Array:
    """Elements in C order as kernels take them; copied where they lie otherwise."""
    if not is_native(array):
        array = array.astype(array.dtype.newbyteorder("="))
    flat = bits(np.ascontiguousarray(array)).reshape(-1).view()
    flat.flags.writeable = False
    return flat


@lru_cache
def _nowhere(dtype: Any, writable: bool) -> Strided:
    return Strided(_empty(dtype, writable), (0, 0, 0, 0))


@lru_cache
def _empty(dtype: Any, writable: bool = False) -> Array:
    none = np.empty(0, dtype)
    none.flags.writeable = writable
    return none
