"""From the fine bins of a state to the bars of a picture, and what can be read off them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kosa.scoring.report.histogram import Losses
from kosa.scoring.scores import Figures, LossBin

_FINE = 4  # bins an octave
_MOST_BARS = 44
_LEAST = 12 * _FINE  # fine bins, so that the axis has three or four powers of ten at the least
_POOLED = 0.01  # share of the rows that may stand in one bar at the left end
_MOST_OCTAVES = 40


@dataclass(frozen=True)
class _Piece:
    """A fine bin: its number on the grid, its weight, and about Σ w·loss."""

    at: int
    weight: float
    loss: float


def losses_of(score: Figures, marks: Sequence[tuple[str, float, int]]) -> Losses | None:
    """The picture's bars; None where no row has a finite loss above 0 to draw an axis by."""
    total = math.fsum(entry.weight for entry in score.histogram)
    carried = _carried(score)
    pieces = [
        _Piece(round(_FINE * math.log2(entry.low)), entry.weight, loss)
        for entry, loss in zip(score.histogram, carried, strict=True)
        if 0 < entry.low < math.inf and entry.weight > 0
    ]
    if not pieces or not total > 0:
        return None
    small = math.fsum(entry.weight for entry in score.histogram if entry.low <= 0)
    large = math.fsum(entry.weight for entry in score.histogram if not entry.low < math.inf)
    first, last = _range(pieces, small, total)
    # Bars begin at whole multiples of their width, so that the same loss falls into the same bar in two reports.
    wide = 1
    while -(-(last - first) // wide) > _MOST_BARS:
        wide *= 2
    first, last = first // wide * wide, -(-last // wide) * wide
    bars = (last - first) // wide
    weight, loss = [0.0] * bars, [0.0] * bars
    below_loss = 0.0
    for piece in pieces:
        if piece.at < first:
            small += piece.weight
            below_loss += piece.loss
        else:
            weight[(piece.at - first) // wide] += piece.weight
            loss[(piece.at - first) // wide] += piece.loss
    whole = math.fsum([*loss, below_loss])
    return Losses(
        edges=[2.0 ** ((first + wide * at) / _FINE) for at in range(bars + 1)],
        rows=[value / total for value in weight],
        loss=[] if large > 0 or not whole > 0 else [value / whole for value in loss],
        below=small / total,
        below_loss=below_loss / whole if whole > 0 else 0.0,
        infinite=large / total,
        marks=marks,
        certain=score.target_entropy == 0,
    )


def _range(pieces: Sequence[_Piece], small: float, total: float) -> tuple[int, int]:
    """First and last fine bin of the axis: few rows may lie below it, none above."""
    last = pieces[-1].at + 1
    first, under = pieces[0].at, small
    for piece in pieces:
        under += piece.weight
        first = piece.at
        if under > _POOLED * total:
            break
    if pieces[0].at >= first - _FINE * 4:  # a handful of further bars is better than a pool of nothing
        first = pieces[0].at
    first = max(first, last - _FINE * _MOST_OCTAVES)
    if last - first < _LEAST:
        first = min(first, last - _LEAST)
    return first, last


def median(score: Figures) -> float:
    """About the median loss: exact to the width of a fine bin, 19 %."""
    total = math.fsum(entry.weight for entry in score.histogram)
    before = 0.0
    for entry in score.histogram:
        if entry.weight > 0 and before + entry.weight >= total / 2:
            if entry.low <= 0 or not entry.high < math.inf:
                return entry.low
            share = (total / 2 - before) / entry.weight
            return float(entry.low * (entry.high / entry.low) ** share)
        before += entry.weight
    return math.nan


def carried_by_worst(score: Figures, share: float) -> float:
    """About how much of Σ w·loss the worst share of the weight carries; NaN where a loss is infinite, or where the share
    ends within the bin that has no end: of its losses nothing but their sum is known.
    """
    if any(entry.weight > 0 and not entry.low < math.inf for entry in score.histogram):
        return math.nan
    total = math.fsum(entry.weight for entry in score.histogram)
    if any(entry.weight > share * total and not entry.high < math.inf for entry in score.histogram):
        return math.nan
    losses = _carried(score)
    whole = math.fsum(losses)
    left, carried = share * total, 0.0
    for entry, loss in zip(reversed(score.histogram), reversed(losses), strict=True):
        taken = min(left, entry.weight)
        carried += taken / entry.weight * loss if entry.weight > 0 else 0.0
        left -= taken
    return carried / whole if whole > 0 else math.nan


def _carried(score: Figures) -> list[float]:
    """About Σ w·loss of each fine bin; the last one has no end, and what all others leave of the whole is its."""
    found = [entry.weight * _middle(entry) for entry in score.histogram]
    for at, entry in enumerate(score.histogram):
        if entry.low < math.inf and entry.high == math.inf and math.isfinite(score.cross_entropy):
            whole = score.cross_entropy * score.weight
            found[at] = max(found[at], whole - math.fsum([*found[:at], *found[at + 1 :]]))
    return found


def _middle(entry: LossBin) -> float:
    """The loss that a fine bin stands for."""
    if entry.low <= 0 or not entry.low < math.inf:
        return 0.0
    return math.sqrt(entry.low) * math.sqrt(entry.high) if entry.high < math.inf else entry.low
