"""Cross-entropy of hidden·weightᵀ + bias, some rows of logits at a time: the N×K logits never exist.

Each chunk of rows is a product, the loss and its gradient in place of the chunk's logits, and up to two further products.
The products are whoever's arrays these are: `Products` says what is needed of them.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from kosa.cpu import engine, indices
from kosa.cpu.engine import _NO_FLOATS, Job
from kosa.cpu.figures import Statistics, row_statistics
from kosa.cpu.layout import Array
from kosa.cpu.threads import num_threads
from kosa.loss import Options

WORKSPACE = 64 << 20

Rows = slice | Array  # which rows of hidden: neighbours, or the numbers of those that count


class Products(Protocol):
    """The three products of a chunk of rows; each writes to arrays of its own making."""

    reserve: int  # bytes that the products take beside the logits, gradients and accumulators

    def buffer(self, rows: int) -> Array:
        """Return an array for the logits of so many rows."""

    def logits(self, rows: Rows, out: Array) -> None:
        """out ← hidden[rows]·weightᵀ + bias."""

    def slopes(self, rows: Rows, dz: Array, first: bool, last: bool) -> None:
        """Take a chunk of ∂E/∂logits: dhidden[rows] ← dz·weight; dweight += dzᵀ·hidden[rows]; dbias += Σ dz."""


class LinearJob(NamedTuple):
    """What a call computes, checked. M rows of hidden; `targets` are M indices, or M rows of K."""

    targets: Array
    indexed: bool
    class_weight: Array
    row_weight: Array
    options: Options
    classes: int
    active: Array | None  # the numbers of the rows that count, None where all do
    shift: int  # row n of hidden is scored against row n + shift of distributions
    total: float  # the weight of the rows that count
    lse_weight: Array = _NO_FLOATS
    targetless: Array | None = None  # (M,) bool: the rows that `shift` leaves without a distribution

    @property
    def rows(self) -> int:
        """How many rows are worked on."""
        return len(self.targets) if self.active is None else len(self.active)


def job(
    targets: Array, indexed: bool, shape: tuple[int, ...], classes: int, class_weight: Array, row_weight: Array,
    options: Options, shift: int = 0, lse_weight: Array = _NO_FLOATS, name: str = "targets",
) -> LinearJob:  # fmt: skip
    """Find the rows that count and their weight.

    A row that does not count takes part in no product: what it holds, NaN say, reaches no gradient.

    targets: (M,) int64 or (M, K).  shape: of the rows.  row_weight, lse_weight: (M,) float64 or empty.  name: that of the
    targets in an IndexError.
    """
    targetless = None
    if indexed:
        total = indices.check(targets, options.ignore_index, classes, class_weight, row_weight, shape, name)
    if shift:
        length = shape[-1]
        if indexed:
            ahead = np.full(shape, options.ignore_index)
            ahead[..., : max(0, length - shift)] = targets.reshape(shape)[..., shift:]
            targets = ahead.reshape(-1)
            targets.flags.writeable = False
            total = indices.check(targets, options.ignore_index, classes, class_weight, row_weight, shape)
        else:
            targetless = np.broadcast_to(np.arange(length) >= length - shift, shape).reshape(-1)
            row_weight = np.where(targetless, 0.0, row_weight if row_weight.size else 1.0)
            row_weight.flags.writeable = False
    counts = np.ones(len(targets), bool) if not row_weight.size else row_weight != 0.0
    if indexed:
        counts &= targets != options.ignore_index
    else:
        total = float(row_weight.sum()) if row_weight.size else float(len(targets))
    if lse_weight.size:
        counts |= lse_weight != 0.0
    active = None if counts.all() else np.flatnonzero(counts)
    return LinearJob(
        targets,
        indexed,
        class_weight,
        row_weight,
        options,
        classes,
        active,
        shift,
        total,
        lse_weight,
        targetless,
    )


def run(
    work: LinearJob,
    products: Products,
    scale: float,
    losses: Array,
    *,
    workspace: int | None,
    slopes: bool = False,
    target_slopes: Array | None = None,
) -> None:
    """Fill `losses` (M float64), and hand the products the gradient of scale·Σ losses if `slopes`.

    target_slopes: (M, K), bits: filled with the gradient with respect to distributions.
    """
    if not work.rows:
        return
    size = _size(work, products, workspace)
    buffer = products.buffer(size)
    with np.errstate(all="ignore"):
        done = 0
        for rows, count in chunks(work, size):
            z = buffer[:count]
            products.logits(rows, z)
            piece = _piece(work, rows, z)
            own = np.empty(count)
            if target_slopes is not None:
                if isinstance(rows, slice) and not work.shift:
                    engine.target_slopes(piece, scale, target_slopes[rows])
                else:
                    some = np.empty(z.shape, target_slopes.dtype)
                    engine.target_slopes(piece, scale, some)
                    _place(work, rows, some, target_slopes)
            engine.run(piece, scale, own, z if slopes else None)
            losses[rows] = own
            if slopes:
                products.slopes(rows, z, done == 0, done + count == work.rows)
            done += count


def statistics(work: LinearJob, products: Products, figures: Statistics, *, workspace: int | None) -> None:
    """Fill the figures, M entries each, of all rows: those that do not count too, but for their loss."""
    work = work._replace(active=None)
    if not work.rows:
        return
    size = _size(work, products, workspace)
    buffer = products.buffer(size)
    for rows, count in chunks(work, size):
        z = buffer[:count]
        products.logits(rows, z)
        part = row_statistics(_piece(work, rows, z), True)
        for figure, values in zip(figures, part, strict=True):
            figure[rows] = values
    if work.targetless is not None:
        for figure in (figures.brier, figures.target_entropy):
            figure[work.targetless] = 0.0


def _size(work: LinearJob, products: Products, workspace: int | None) -> int:
    """How many rows go at once."""
    item = products.buffer(0).itemsize
    copies = 1 if work.indexed or (work.active is None and not work.shift) else 2  # of targets
    scratch = 2 * num_threads() * work.classes * max(item, 4)
    budget = (WORKSPACE if workspace is None else workspace) - products.reserve - scratch
    return chunk_rows(work.rows, copies * work.classes * item, budget)


def chunk_rows(rows: int, row_bytes: int, budget: int) -> int:
    """How many rows go at once: chunks of one size, as few as fit the budget, of whole groups of 16 where possible."""
    most = max(1, budget // row_bytes)
    if most > 16:
        most -= most % 16
    size = -(-rows // -(-rows // most))
    return min(most, -(-size // 16) * 16)


def chunks(work: LinearJob, size: int) -> Iterator[tuple[Rows, int]]:
    """The rows that count, and how many they are."""
    for first in range(0, work.rows, size):
        last = min(work.rows, first + size)
        yield slice(first, last) if work.active is None else work.active[first:last], last - first


def _piece(work: LinearJob, rows: Rows, z: Array) -> Job:
    def some(array: Array) -> Array:
        return array[rows] if array.size else array

    if work.indexed or (isinstance(rows, slice) and not work.shift):
        targets = work.targets[rows]
    else:  # beyond the end: rows that have no target, and do not count
        targets = work.targets[np.minimum(_numbers(rows) + work.shift, len(work.targets) - 1)]
    weights = [some(work.row_weight), some(work.lse_weight)]
    for array in (targets, *weights):
        array.flags.writeable = False
    across = engine.side_by_side(z, 1) and not work.lse_weight.size
    return Job(z, 1, targets, work.indexed, work.class_weight, weights[0], work.options, across, weights[1])


def _place(work: LinearJob, rows: Rows, values: Array, target_slopes: Array) -> None:
    """Put what belongs to the distributions of some rows there. A row that has none may take part, for its lse."""
    numbers = _numbers(rows)
    if work.targetless is not None and work.targetless[numbers].any():
        scored = ~work.targetless[numbers]
        numbers, values = numbers[scored], values[scored]
    target_slopes[numbers + work.shift] = values


def _numbers(rows: Rows) -> Array:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


class NumpyProducts:
    """Products of NumPy's BLAS, in float32 or float64; 16-bit arrays are widened a block of classes at a time."""

    def __init__(
        self, hidden: Array, weight: Array, bias: Array | None, grads: bool, workspace: int | None
    ) -> None:
        self._hidden, self._weight = hidden, weight
        self._working: Any = np.float64 if hidden.dtype.itemsize == 8 else np.float32
        self._bias = None if bias is None else bias.astype(self._working)
        self.reserve = (WORKSPACE if workspace is None else workspace) // 8
        rows = max(1, self.reserve // (self._working(0).itemsize * max(1, hidden.shape[1])))
        self._blocks = [slice(k, min(k + rows, len(weight))) for k in range(0, len(weight), rows)]
        self.dhidden: Array | None = np.zeros(hidden.shape, self._working) if grads else None
        self.dweight: Array | None = np.zeros(weight.shape, self._working) if grads else None
        self.dbias = np.zeros(len(weight)) if grads and bias is not None else None

    def buffer(self, rows: int) -> Array:
        return np.empty((rows, len(self._weight)), self._working)

    def logits(self, rows: Rows, out: Array) -> None:
        hidden = self._widened(self._hidden[rows])
        if self._weight.dtype == self._working:
            np.matmul(hidden, self._weight.T, out=out)
        else:
            for block in self._blocks:
                np.matmul(hidden, self._widened(self._weight[block]).T, out=out[:, block])
        if self._bias is not None:
            out += self._bias

    def slopes(self, rows: Rows, dz: Array, first: bool, last: bool) -> None:
        assert self.dhidden is not None
        assert self.dweight is not None
        hidden = self._widened(self._hidden[rows])
        if self._weight.dtype == self._working:
            if isinstance(rows, slice):
                np.matmul(dz, self._weight, out=self.dhidden[rows])
            else:
                self.dhidden[rows] = dz @ self._weight
        for block in self._blocks:
            if self._weight.dtype != self._working:
                self.dhidden[rows] += dz[:, block] @ self._widened(self._weight[block])
            self.dweight[block] += dz[:, block].T @ hidden
        if self.dbias is not None:
            self.dbias += dz.sum(0, dtype=np.float64)

    def _widened(self, array: Array) -> Array:
        return array.astype(self._working, copy=False)
