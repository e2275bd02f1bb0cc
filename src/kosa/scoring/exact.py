"""Sums of float64 that are exact: whatever the order, the batches and the merges, the rounded result is the
same bits.

A value is cut into integers on a fixed grid of 32-bit limbs (limb j counts units of 2^(32 j)) and each limb
is added as an integer, so nothing is ever rounded before the end. Infinities and NaN are kept aside: their
sum does not depend on the order either.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_BITS = 32
_LOWEST = -35  # 2^(32·−35) lies below the smallest subnormal, 2^−1074
_BLOCK = 1 << 15  # values worked on at a time: the temporaries stay in a core's own cache
_ADDITIONS = 1 << 30  # a limb takes |piece| ≤ 2^32, so this many additions stay far inside int64

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def pieces(values: Floats) -> Iterator[tuple[int, Integers]]:
    """Cut finite values into (limb j, integers of magnitude ≤ 2^32): Σ_j integers·2^(32 j) is the values."""
    rest = values
    top = float(np.max(np.abs(rest), initial=0.0))
    if top == 0.0:
        return
    limb = -((_BITS - 1 - int(np.frexp(top)[1])) // _BITS)
    while limb >= _LOWEST:
        # Two factors of half the exponent: 2^(32 j) itself overflows or underflows at the ends of the range.
        half = 2.0 ** (16 * limb)
        whole = np.trunc(rest / half / half)
        rest = rest - whole * half * half
        yield limb, whole.astype(np.int64)
        if not rest.any():
            return
        limb -= 1


def product(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """left·right as rounded product and its exact rounding error (Dekker, 1971)."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = left * right
        left_high, left_low = _halves(left)
        right_high, right_low = _halves(right)
        error = left_low * right_low - (
            ((rounded - left_high * right_high) - left_low * right_high) - left_high * right_low
        )
    return rounded, np.where(np.isfinite(error), error, 0.0)


def _halves(values: Floats) -> tuple[Floats, Floats]:
    """Upper and lower 26 bits of each mantissa."""
    scaled = values * 134217729.0
    high = scaled - (scaled - values)
    return high, values - high


class ExactSums:
    """One exact sum per group 0..groups−1."""

    def __init__(self, groups: int = 1) -> None:
        self.groups = groups
        self._limbs: dict[int, Integers] = {}
        self._special = np.zeros(groups)
        self._additions = 0

    def add(self, values: Floats, group: Integers | None = None) -> None:
        """Add each value to its group; without groups, to the only one."""
        for start in range(0, len(values), _BLOCK):
            block = values[start : start + _BLOCK]
            groups = None if group is None else group[start : start + _BLOCK]
            finite = np.isfinite(block)
            if not finite.all():
                _add_at(self._special, None if groups is None else groups[~finite], block[~finite])
                block = np.where(finite, block, 0.0)
            self._reserve(len(block))
            for limb, whole in pieces(block):
                _add_at(self._limb(limb), groups, whole)

    def add_columns(self, values: Floats) -> None:
        """Add a matrix (rows × groups): column k to group k."""
        step = max(1, _BLOCK // max(1, self.groups))
        for start in range(0, len(values), step):
            block = values[start : start + step]
            finite = np.isfinite(block)
            if not finite.all():
                with np.errstate(invalid="ignore"):
                    self._special += np.where(finite, 0.0, block).sum(axis=0)
                block = np.where(finite, block, 0.0)
            self._reserve(len(block))
            for limb, whole in pieces(block):
                self._limb(limb)[:] += whole.sum(axis=0)

    def add_counts(self, counts: Integers) -> None:
        """Add one integer to each group."""
        self._reserve(max(1, int(np.max(np.abs(counts), initial=0)) >> (_BITS - 1)))
        self._limb(0)[:] += counts

    def merge(self, other: Self) -> None:
        """Add another's sums, group by group."""
        self._carry()
        other._carry()
        for limb, whole in other._limbs.items():
            self._limb(limb)[:] += whole
        with np.errstate(invalid="ignore"):
            self._special += other._special
        self._reserve(1)

    def exact(self) -> Fraction:
        """The finite part of the sum over all groups, exactly."""
        self._carry()
        return Fraction(
            self._integer([(limb, int(whole.sum())) for limb, whole in self._limbs.items()]), _SCALE
        )

    def special(self) -> float:
        """The sum of the infinities and NaN added, over all groups; 0 where there were none."""
        with np.errstate(invalid="ignore"):
            return float(self._special.sum())

    def total(self) -> float:
        """The sum over all groups, rounded once."""
        return self.special() if self.special() != 0.0 else rounded(self.exact())

    def values(self) -> Floats:
        """Each group's sum, rounded once."""
        self._carry()
        columns = {limb: whole.tolist() for limb, whole in self._limbs.items()}
        sums = [
            _quotient(self._integer([(limb, column[group]) for limb, column in columns.items()]), _SCALE)
            for group in range(self.groups)
        ]
        return np.where(self._special != 0.0, self._special, np.array(sums, dtype=np.float64))

    @staticmethod
    def _integer(limbs: list[tuple[int, int]]) -> int:
        """Σ_j integer·2^(32 j) in units of the lowest limb."""
        return sum(whole << (_BITS * (limb - _LOWEST)) for limb, whole in limbs)

    def _limb(self, limb: int) -> Integers:
        if limb not in self._limbs:
            self._limbs[limb] = np.zeros(self.groups, dtype=np.int64)
        return self._limbs[limb]

    def _reserve(self, additions: int) -> None:
        """Carry before the additions to come could overflow a limb."""
        self._additions += additions
        if self._additions > _ADDITIONS:
            self._carry()
            self._additions = additions

    def _carry(self) -> None:
        """Bring each limb into [−2^31, 2^31), its surplus into the next: the one such form of a number."""
        for limb in range(min(self._limbs, default=0), 1 - _LOWEST):
            if limb not in self._limbs:
                continue
            whole = self._limbs[limb]
            surplus = (whole + (1 << (_BITS - 1))) >> _BITS
            if surplus.any():
                whole -= surplus << _BITS
                self._limb(limb + 1)[:] += surplus
        self._additions = 0


def _add_at(sums: NDArray[Any], groups: Integers | None, values: NDArray[Any]) -> None:
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, and that is the sum
        if groups is None:
            sums[0] += values.sum()
        else:
            np.add.at(sums, groups, values)


_SCALE = 1 << (-_BITS * _LOWEST)


def _quotient(numerator: int, denominator: int) -> float:
    """The correctly rounded float64 of a fraction of integers; infinite where it overflows."""
    try:
        return numerator / denominator
    except OverflowError:
        return float("inf") if numerator > 0 else float("-inf")


def rounded(value: Fraction) -> float:
    """The nearest float64; infinite where it overflows."""
    return _quotient(value.numerator, value.denominator)
