"""The linear form on a GPU: logits of some rows at a time by the matrix library, loss and gradient in their place.

Evaluation with class indices writes no logits at all (`evaluation`). Nothing here waits for the device: whether a row
counts is a mask on the device, so rows that do not count take part in the products, as zeros.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kosa.gpu import dense, evaluation, statistics
from kosa.gpu.strides import plain
from kosa.loss import Options

WORKSPACE = 1 << 30
Needs = tuple[bool, bool, bool, bool]  # of hidden, weight, bias, targets


class Work(NamedTuple):
    """What a call computes. M rows of hidden, of which the last have no target by `shift`."""

    hidden: Tensor  # (M, D)
    weight: Tensor
    bias: Tensor | None
    targets: Tensor  # (M,) int64, already shifted; or (M, K), of which row n takes row n + ahead
    class_weight: Tensor | None
    row_weight: Tensor | None  # (M,)
    lse_weight: Tensor | None  # (M,)
    options: Options
    ahead: int
    rows: int  # those that may have a target come first
    targetless: Tensor | None  # (M,) bool: the rows that `shift` leaves without a distribution
    workspace: int

    @property
    def indexed(self) -> bool:
        """Whether targets are class indices."""
        return self.targets.dim() == 1


def losses(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
    row_weight: Tensor | None, options: Options, workspace: int | None = None, shift: int = 0,
) -> Tensor:  # fmt: skip
    """Return the loss of each row, float64, of hidden's shape without D: one product."""
    work = _work(hidden, weight, bias, targets, class_weight, row_weight, None, options, workspace, shift)
    each = work.hidden.new_zeros(len(work.hidden), dtype=torch.float64)
    if _unwritten(work):
        memory = min(work.workspace, evaluation.MEMORY)
        evaluation.run(*work[:6], work.options, each, None, memory)
    else:
        buffer = _buffer(work, work.rows, 0)
        for part in _parts(0, work.rows, len(buffer)):
            z = _logits(work, work.hidden[part], buffer)
            dense.run(z, *_given(work, part), losses=each[part])
    return each.reshape(hidden.shape[:-1])


def statistics_of(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
    row_weight: Tensor | None, options: Options, workspace: int | None = None, shift: int = 0,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Return loss, lse, argmax, confidence, entropy, brier and target_entropy of each row: one product."""
    work = _work(hidden, weight, bias, targets, class_weight, row_weight, None, options, workspace, shift)
    rows = len(work.hidden)
    kinds = [torch.int64 if i == 2 else torch.float64 for i in range(7)]
    figures = [work.hidden.new_zeros(rows, dtype=kind) for kind in kinds]
    if _unwritten(work):
        memory = min(work.workspace, evaluation.MEMORY)
        evaluation.run(*work[:6], work.options, figures[0], figures[1:], memory)
    else:
        buffer = _buffer(work, rows, 0)
        for some, part in _all_parts(work, rows, len(buffer)):
            z = _logits(work, work.hidden[part], buffer)
            statistics.run(z, *_given(some, part), [figure[part] for figure in figures])
    if work.targetless is not None:
        for figure in figures[5:]:
            figure.masked_fill_(work.targetless, 0.0)
    return tuple(figure.reshape(hidden.shape[:-1]) for figure in figures)


def gradients(
    upstream: Tensor, lse_upstream: Tensor | None, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
    class_weight: Tensor | None, row_weight: Tensor | None, options: Options, needs: Needs,
    workspace: int | None = None, shift: int = 0,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """Return losses, and the gradients of Σ upstream·loss + lse_upstream·lse that are needed: three products at most.

    upstream: one number, by which the losses are not multiplied; or one a row, by which they are.
    """
    scale: Any = 1.0
    if upstream.dim() == 0:
        scale = plain(upstream).to(torch.float64)
    else:
        if row_weight is not None:  # 0·inf is NaN
            upstream = torch.where(row_weight == 0, 0.0, upstream * row_weight)
        row_weight = upstream
    work = _work(
        hidden, weight, bias, targets, class_weight, row_weight, lse_upstream, options, workspace, shift
    )
    needs_hidden, needs_weight, needs_bias, needs_targets = needs
    slopes = needs_hidden or needs_weight or needs_bias
    h, w = work.hidden, work.weight
    each = h.new_zeros(len(h), dtype=torch.float64)
    idle = _idle(work)
    block = _block(work) if needs_weight else 0
    masks = needs_weight and idle is not None
    dh = h.new_empty(h.shape) if needs_hidden else None
    rows = work.rows if lse_upstream is None else len(h)
    buffer = _buffer(work, rows, masks and dh is None, block)
    parts = list(_all_parts(work, rows, len(buffer)))
    masked = h.new_empty((len(buffer), h.shape[1])) if masks and dh is None else dh
    total = WeightGradient(w, len(parts), block) if needs_weight else None
    dbias = w.new_zeros(len(w), dtype=torch.float64) if needs_bias else None
    dt = None
    if needs_targets:
        dt = targets.new_empty(targets.shape)
        flat_dt = dt.view(-1, len(w))
        flat_dt[: len(h) - work.rows] = 0
    zero = h.new_zeros(())
    for some, part in parts:
        own = h[part]
        if masks and idle is not None and masked is not None:
            # 0·NaN is NaN: what a row that does not count holds must not reach the gradient of the weight. The memory is
            # that of the rows' own gradient, which is made last.
            own = torch.where(
                idle[part, None], zero, own, out=masked[part] if dh is masked else masked[: len(own)]
            )
        z = _logits(work, own, buffer)
        given = _given(some, part)
        if needs_targets and part.stop <= work.rows:
            out = flat_dt[part.start + work.ahead : part.stop + work.ahead]
            dense.target_slopes(z, *given, scale=scale, out=out)
        lse_weight = None if work.lse_weight is None else work.lse_weight[part]
        dense.run(z, *given, scale=scale, lse_weight=lse_weight, losses=each[part], out=z if slopes else None)
        if total is not None:
            total.add(z, own)
        if dh is not None:
            torch.mm(z, w, out=dh[part])
            if idle is not None:
                dh[part].masked_fill_(idle[part, None], 0.0)
        if dbias is not None:
            dbias += z.sum(0, dtype=torch.promote_types(z.dtype, torch.float32))
    if dh is not None:
        dh[rows:] = 0
        dh = dh.reshape(hidden.shape)
    dw = None if total is None else total.result()
    db = None if dbias is None else dbias.to(w.dtype)
    return each.reshape(hidden.shape[:-1]), dh, dw, db, dt


class WeightGradient:
    """Σ dzᵀ·hidden over chunks of rows, in float32 for 16-bit tensors: no chunk's part of it is ever whole in memory."""

    def __init__(self, weight: Tensor, chunks: int, block: int) -> None:
        self._dtype, self._first, self._block = weight.dtype, True, block
        # The product of one chunk is rounded once, whoever does it.
        narrow = weight.dtype.itemsize == 2 and chunks > 1
        self._total = weight.new_empty(weight.shape, dtype=torch.float32 if narrow else weight.dtype)
        self._narrow = narrow
        if not chunks:
            self._total.zero_()

    def add(self, dz: Tensor, hidden: Tensor) -> None:
        """total += dzᵀ·hidden."""
        beta = 0 if self._first else 1  # what `total` holds at first is not read
        self._first = False
        if not self._narrow:
            torch.addmm(self._total, dz.t(), hidden, beta=beta, out=self._total)
        elif not self._block:
            add_wide(self._total, dz.t(), hidden, beta)
        else:
            for first in range(0, len(self._total), self._block):
                piece = slice(first, first + self._block)
                product = torch.mm(dz[:, piece].t(), hidden)
                self._total[piece].copy_(product) if beta == 0 else self._total[piece].add_(product)

    def result(self) -> Tensor:
        return self._total.to(self._dtype)


def add_wide(total: Tensor, a: Tensor, b: Tensor, beta: int) -> None:
    """total ← beta·total + a·b, float32 of 16-bit matrices."""
    torch.addmm(total, a, b, beta=beta, out_dtype=torch.float32, out=total)


@lru_cache
def adds_wide(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device's library does that: some versions and builds of PyTorch refuse, which is found by asking."""
    a, total = torch.zeros(16, 16, dtype=dtype, device=device), torch.zeros(16, 16, device=device)
    try:
        add_wide(total, a, a, 1)
    except (RuntimeError, TypeError):
        return False
    return True


def _block(work: Work) -> int:
    """How many classes of a weight gradient go at once where the library does not add in float32; else 0."""
    weight = work.weight
    if weight.dtype.itemsize != 2 or adds_wide(weight.device, weight.dtype):
        return 0
    return max(1, work.workspace // 16 // max(1, weight.shape[1] * weight.itemsize))


def _work(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
    row_weight: Tensor | None, lse_weight: Tensor | None, options: Options, workspace: int | None, shift: int,
) -> Work:  # fmt: skip
    shape, classes = hidden.shape[:-1], weight.shape[0]
    h = _matrix(plain(hidden).reshape(shape.numel(), hidden.shape[-1]))
    rows, length = len(h), shape[-1] if shape else 1
    counted = rows - shift if shift < length else 0
    t = plain(targets)
    row_weight = _vector(row_weight)
    targetless = None
    if targets.is_floating_point():
        t = t.reshape(-1, classes)
        if shift:
            beyond = torch.arange(length, device=t.device) >= length - shift
            targetless = beyond.expand(shape).reshape(-1)
            ones = t.new_ones(rows, dtype=torch.float64) if row_weight is None else row_weight
            row_weight = ones.masked_fill(targetless, 0.0)
    else:
        wide = dense.as_index(t, options.ignore_index).to(torch.int64).reshape(shape)
        if shift:
            ahead = torch.full_like(wide, options.ignore_index)
            if shift < length:
                ahead[..., : length - shift] = wide[..., shift:]
            wide = ahead
        t = wide.reshape(-1).contiguous()
    return Work(
        h, _matrix(plain(weight)), _vector(bias), t, _vector(class_weight), row_weight, _vector(lse_weight),
        replace(options, axis=1), shift if targets.is_floating_point() else 0, counted, targetless,
        WORKSPACE if workspace is None else workspace,
    )  # fmt: skip


def _vector(tensor: Tensor | None) -> Tensor | None:
    """One number behind the other."""
    return None if tensor is None else plain(tensor).reshape(-1).contiguous()


def _matrix(x: Tensor) -> Tensor:
    """In a layout that matrix libraries read: they would copy any other at each product."""
    return x if 1 in x.stride() and 0 not in x.stride() else x.contiguous()


def _unwritten(work: Work) -> bool:
    """Whether logits are not written: those that fit the memory anyway cost no more written."""
    logits = len(work.hidden) * work.weight.shape[0] * work.weight.itemsize
    fits = logits <= min(work.workspace, evaluation.MEMORY)
    return work.indexed and not fits and evaluation.evaluates(work.hidden, work.weight)


def _idle(work: Work) -> Tensor | None:
    """Which rows do not count, (M,) bool; None where all do."""
    idle = None if work.row_weight is None else work.row_weight == 0.0
    if work.indexed:
        ignored = work.targets == work.options.ignore_index
        idle = ignored if idle is None else idle | ignored
        if work.class_weight is not None and not work.options.label_smoothing and not work.options.z_loss:
            is_class = (work.targets >= 0) & (work.targets < len(work.class_weight))
            idle = idle | is_class & (work.class_weight[torch.where(is_class, work.targets, 0)] == 0.0)
    if idle is not None and work.lse_weight is not None:
        idle = idle & (work.lse_weight == 0.0)
    return idle


def _buffer(work: Work, rows: int, masks: bool | int, block: int = 0) -> Tensor:
    """Return the memory of a chunk's logits: as many rows as the workspace has room for."""
    classes, features = work.weight.shape
    item = work.weight.itemsize
    row_bytes = (classes + (features if masks else 0)) * item
    size = chunk_rows(rows, row_bytes, work.workspace - block * features * item)
    return work.weight.new_empty((size, classes))


def chunk_rows(rows: int, row_bytes: int, budget: int) -> int:
    """How many rows go at once: as few chunks as the budget allows, of one size, in whole tiles of a product."""
    most = max(1, budget // max(1, row_bytes))
    step = 128 if most >= 256 else 16 if most >= 16 else 1
    most -= most % step
    even = -(-rows // max(1, -(-rows // most)))
    return min(rows, -(-even // step) * step)


def _parts(first: int, last: int, size: int) -> Iterator[slice]:
    for start in range(first, last, max(1, size)):
        yield slice(start, min(start + size, last))


def _all_parts(work: Work, rows: int, size: int) -> Iterator[tuple[Work, slice]]:
    """Parts of the first so many rows. Those that lie beyond the last distribution get others, which weigh nothing."""
    last = rows if work.indexed else min(rows, work.rows)
    yield from ((work, part) for part in _parts(0, last, size))
    yield from ((work._replace(ahead=0), part) for part in _parts(last, rows, size))


def _logits(work: Work, hidden: Tensor, buffer: Tensor) -> Tensor:
    z = buffer[: len(hidden)]
    if work.bias is None:
        return torch.mm(hidden, work.weight.t(), out=z)
    return torch.addmm(work.bias, hidden, work.weight.t(), out=z)


def _given(work: Work, part: slice) -> tuple[Tensor, Tensor | None, Tensor | None, Options]:
    """Targets, weights and options of some rows."""
    targets = work.targets[part.start + work.ahead : part.stop + work.ahead]
    row_weight = None if work.row_weight is None else work.row_weight[part]
    return targets, work.class_weight, row_weight, work.options
