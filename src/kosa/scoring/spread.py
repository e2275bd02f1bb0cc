"""The standard error of a mean over rows or groups, from exact moments."""

import math
from fractions import Fraction
from typing import Protocol

from kosa.scoring.exact import SCALE, ExactSums, rounded
from kosa.scoring.groups import Groups, squares
from kosa.scoring.setup import Setup
from kosa.scoring.tables import Tally


class Moments(Protocol):
    """Second moments of what is averaged: of losses, or of differences of losses."""

    setup: Setup
    classes: Tally
    loss: ExactSums
    square: ExactSums
    cross: ExactSums
    weight_square: ExactSums
    groups: Groups


def standard_error(state: Moments, loss: Fraction, weight: Fraction) -> tuple[float, int]:
    """√(G/(G−1)·Σ_g (S_g − mean·W_g)²) / Σw over G clusters, from exact moments; and G."""
    if state.setup.group is None:
        count = int(state.classes.rows.sum())
        if state.setup.weighted:
            cross, weight_square = state.cross.exact(), state.weight_square.exact()
        else:
            cross, weight_square = loss, weight
        square = state.square.exact()
    else:
        integers = squares(state.groups.sums())
        count = integers[3]
        square, cross, weight_square = (Fraction(value, SCALE**2) for value in integers[:3])
    if count < 2 or state.loss.special():
        return math.nan, count
    mean = loss / weight
    spread = square - 2 * mean * cross + mean * mean * weight_square
    return _root(spread * count / (count - 1) / weight**2), count


def _root(value: Fraction) -> float:
    """The square root of a fraction whose float64 may underflow where its root's does not."""
    if value <= 0:
        return 0.0
    shift = (value.denominator.bit_length() - value.numerator.bit_length()) // 2
    return math.ldexp(math.sqrt(rounded(value * Fraction(4) ** shift)), -shift)
