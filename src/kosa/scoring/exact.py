"""Sums of float64 that are exact: whatever the order, the batches and the merges, the rounded result is the
same bits.

A value is cut into integers on a fixed grid of 32-bit limbs (limb j counts units of 2^(32 j)) and each limb
is added as an integer, so nothing is ever rounded before the end. Infinities and NaN are kept aside: their
sum does not depend on the order either. Adding is compiled; merging, rounding and reading need NumPy alone.
"""

from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_BITS = 32
_LOWEST = -68  # 2^(32·−68) lies below the smallest product of two float64, 2^−2148
_HIGHEST = 70  # a product is below 2^2048, limb 64; the limbs above hold what sums carry
_ADDITIONS = 1 << 28  # a limb takes a few pieces ≤ 2^32 an addition, so this many stay far inside int64
_BLOCK = 1 << 15  # groups rounded at a time
SCALE = 1 << (-_BITS * _LOWEST)  # `integers` count units of 1/SCALE

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ALL: Integers = np.empty(0, dtype=np.int64)


class ExactSums:
    """One exact sum per group 0..groups−1."""

    def __init__(self, groups: int = 1) -> None:
        self._low = 0  # the limb that the first column of _limbs counts
        self._limbs: Integers = np.zeros((groups, 0), dtype=np.int64)
        self._special = np.zeros(groups)
        self._additions = 0

    @property
    def groups(self) -> int:
        """How many sums."""
        return len(self._limbs)

    @classmethod
    def of_counts(cls, counts: Integers) -> "ExactSums":
        """Integers as sums."""
        sums = cls(len(counts))
        sums.add_counts(counts)
        return sums

    def add(self, values: Floats, group: Integers | None = None) -> None:
        """Add each value to its group; without groups, to the only one."""
        from kosa.cpu import exact

        values = np.ascontiguousarray(values, dtype=np.float64)
        least, most = exact.exponent_range(values)
        self._prepare(least - 1075, most - 1075, len(values))
        exact.add_values(values, _groups(group), self._limbs, self._low, self._special)

    def add_products(self, left: Floats, right: Floats, group: Integers | None = None) -> None:
        """Add each left·right, unrounded, to its group."""
        from kosa.cpu import exact

        left, right = (np.ascontiguousarray(values, dtype=np.float64) for values in (left, right))
        least, most = (sum(pair) for pair in zip(*map(exact.exponent_range, (left, right)), strict=True))
        self._prepare(least - 2150, most - 2150 + 53, len(left))
        exact.add_products(left, right, _groups(group), self._limbs, self._low, self._special)

    def add_columns(self, values: Floats, weight: Floats | None = None) -> None:
        """Add a matrix (rows × groups), each row times its weight: column k to group k."""
        from kosa.cpu import exact

        values = np.ascontiguousarray(values, dtype=np.float64)
        least, most = exact.exponent_range(values.reshape(-1))
        weights = np.empty(0) if weight is None else np.ascontiguousarray(weight)
        if weight is not None:
            # A product's exponent is the factors' sum or one more; a subnormal factor may be 2^52 smaller than it says.
            lightest, heaviest = exact.exponent_range(weights)
            least, most = max(1, least + lightest - 1024 - 53), min(2046, most + heaviest - 1021)
        self._prepare(least - 1075, most - 1075, len(values))
        exact.add_columns(values, weights, self._limbs, self._low, self._special)

    def add_counts(self, counts: Integers) -> None:
        """Add one integer to each group."""
        self._prepare(0, 31, max(1, int(np.max(np.abs(counts), initial=0)) >> (_BITS - 1)))
        self._limbs[:, -self._low] += counts

    def merge(self, other: Self) -> None:
        """Add another's sums, group by group."""
        self._join(other, 1)

    def subtract(self, other: "ExactSums") -> None:
        """Take another's sums away, group by group."""
        self._join(other, -1)

    def _join(self, other: "ExactSums", sign: int) -> None:
        self._carry()
        other._carry()
        self._cover(other._low, other._low + other._limbs.shape[1])
        start = other._low - self._low
        self._limbs[:, start : start + other._limbs.shape[1]] += sign * other._limbs
        with np.errstate(invalid="ignore"):
            self._special += sign * other._special
        self._additions = 1

    def resize(self, groups: int) -> None:
        """Make room for more groups."""
        more = groups - self.groups
        self._limbs = np.concatenate([self._limbs, np.zeros((more, self._limbs.shape[1]), dtype=np.int64)])
        self._special = np.concatenate([self._special, np.zeros(more)])

    def regrouped(self, group: Integers, groups: int) -> "ExactSums":
        """Sums over groups of groups: the k-th of these is part of group[k]."""
        self._carry()
        found = ExactSums(groups)
        found._low = self._low
        found._limbs = np.zeros((groups, self._limbs.shape[1]), dtype=np.int64)
        np.add.at(found._limbs, group, self._limbs)
        with np.errstate(invalid="ignore"):
            np.add.at(found._special, group, self._special)
        found._carry()
        return found

    def chosen(self, index: Integers) -> "ExactSums":
        """Some of the groups."""
        found = ExactSums(len(index))
        found._low, found._limbs, found._special = self._low, self._limbs[index], self._special[index]
        found._additions = self._additions
        return found

    def copy(self) -> "ExactSums":
        """One that does not change with this one."""
        found = ExactSums(self.groups)
        found.merge(self)
        return found

    def exact(self) -> Fraction:
        """The finite part of the sum over all groups, exactly."""
        self._carry()
        return Fraction(self._integer(self._limbs.sum(axis=0)), SCALE)

    def special(self) -> float:
        """The sum of the infinities and NaN added, over all groups; 0 where there were none."""
        with np.errstate(invalid="ignore"):
            return float(self._special.sum())

    def specials(self) -> Floats:
        """The sum of each group's infinities and NaN; 0 where there were none."""
        return self._special

    def total(self) -> float:
        """The sum over all groups, rounded once."""
        return self.special() if self.special() != 0.0 else rounded(self.exact())

    def integers(self) -> list[int]:
        """The finite part of each group's sum, exactly, in units of 1/SCALE."""
        short, shift = self.short_integers()
        return [whole << shift for whole in short]

    def short_integers(self) -> tuple[list[int], int]:
        """The finite part of each group's sum, exactly, in units of 2^shift/SCALE, in which numbers are short."""
        self._carry()
        return [_whole(limbs) for limbs in self._limbs.tolist()], _BITS * (self._low - _LOWEST)

    def signs(self) -> Integers:
        """Each group's sign: −1, 0 or 1; that of infinities and NaN is 0."""
        self._carry()
        if not self._limbs.shape[1]:
            return np.zeros(self.groups, dtype=np.int64)
        # The highest limb has the sign of the whole, for all below are less than one of its units.
        top = self._limbs[np.arange(self.groups), _highest(self._limbs)]
        return np.where(self._special != 0.0, 0, np.sign(top))

    def values(self) -> Floats:
        """Each group's sum, rounded once."""
        self._carry()
        sums = np.zeros(self.groups)
        # Most groups of a large table are empty.
        filled = np.flatnonzero(self._limbs.any(axis=1))
        for start in range(0, len(filled), _BLOCK):
            part = filled[start : start + _BLOCK]
            sums[part] = _rounded(self._limbs[part], self._low)
        return np.where(self._special != 0.0, self._special, sums)

    def _integer(self, limbs: Integers) -> int:
        """Σ_j integer·2^(32 j) in units of the lowest limb there can be."""
        base = self._low - _LOWEST
        return sum(whole << (_BITS * (base + at)) for at, whole in enumerate(limbs.tolist()) if whole)

    def _prepare(self, lowest: int, highest: int, additions: int) -> None:
        """Carry before a limb could overflow, and cover values whose last bits lie from 2^lowest to 2^highest."""
        self._additions += additions
        if self._additions > _ADDITIONS:
            self._carry()
            self._additions = additions
        if highest >= lowest:
            self._cover(lowest >> 5, (highest >> 5) + 3)

    def _cover(self, start: int, end: int) -> None:
        """Have limbs start..end−1."""
        own_end = self._low + self._limbs.shape[1]
        if not self._limbs.shape[1]:
            self._low = own_end = start
        if start >= self._low and end <= own_end:
            return
        low, high = min(start, self._low), max(end, own_end)
        limbs = np.zeros((self.groups, high - low), dtype=np.int64)
        limbs[:, self._low - low : own_end - low] = self._limbs
        self._low, self._limbs = low, limbs

    def _carry(self) -> None:
        """Bring each limb into [−2^31, 2^31), its surplus into the next, and drop empty ones at either end.

        There is only one such form of a number, so equal sums are stored as equal bytes.
        """
        limb = 0
        while limb < self._limbs.shape[1]:
            whole = self._limbs[:, limb]
            surplus = (whole + (1 << (_BITS - 1))) >> _BITS
            if surplus.any():
                whole -= surplus << _BITS
                self._cover(self._low, self._low + limb + 2)
                self._limbs[:, limb + 1] += surplus
            limb += 1
        filled = np.flatnonzero(self._limbs.any(axis=0))
        if len(filled) < self._limbs.shape[1]:
            first, last = (int(filled[0]), int(filled[-1]) + 1) if len(filled) else (0, 0)
            self._limbs = np.ascontiguousarray(self._limbs[:, first:last])
            self._low = self._low + first if len(filled) else 0
        self._additions = 0

    def stored(self) -> dict[str, Any]:
        """What `restored` reads: the groups that are not 0, their limbs from `low` on, and their specials."""
        self._carry()
        index = np.flatnonzero(self._limbs.any(axis=1) | (self._special != 0.0))
        return {
            "groups": self.groups,
            "low": self._low,
            "index": index.astype(np.int64),
            "limbs": self._limbs[index],
            "special": self._special[index],
        }

    @classmethod
    def restored(cls, stored: dict[str, Any], groups: int) -> "ExactSums":
        """The sums of so many groups that were stored; ValueError where they cannot be."""
        low = int(stored["low"])
        index, limbs, special = stored["index"], stored["limbs"], stored["special"]
        # Their number is compared before there is room for as many: a file of a few bytes could say any.
        if not (
            stored["groups"] == groups
            and index.dtype == limbs.dtype == np.int64
            and special.dtype == np.float64
            and index.shape == special.shape == limbs.shape[:1]
            and limbs.ndim == 2
            and low >= _LOWEST
            and low + limbs.shape[1] <= _HIGHEST
            and (not len(index) or (index[0] >= 0 and index[-1] < groups and (np.diff(index) > 0).all()))
            and ((limbs >= -(1 << 31)) & (limbs < 1 << 31)).all()
            and not (np.isfinite(special) & (special != 0)).any()
        ):
            raise ValueError("sums that do not fit their groups")
        sums = cls(groups)
        sums._low = low
        sums._limbs = np.zeros((groups, limbs.shape[1]), dtype=np.int64)
        sums._limbs[index] = limbs
        sums._special[index] = special
        return sums


def _groups(group: Integers | None) -> Integers:
    return _ALL if group is None else np.ascontiguousarray(group, dtype=np.int64)


def _whole(limbs: list[int]) -> int:
    """Limbs as one integer, in units of the first."""
    whole = 0
    for limb in reversed(limbs):
        whole = (whole << _BITS) + limb
    return whole


def _rounded(limbs: Integers, low: int) -> Floats:
    """The correctly rounded float64 of each row of carried limbs, none of them 0; infinite where it overflows."""
    rows, width = np.arange(len(limbs)), limbs.shape[1]
    # The highest limb has the sign of the whole, for all below are less than one of its units.
    negative = limbs[rows, _highest(limbs)] < 0
    digits = np.where(negative[:, None], -limbs, limbs)
    for at in range(width - 1):
        borrow = digits[:, at] < 0
        digits[:, at] += borrow.astype(np.int64) << _BITS
        digits[:, at + 1] -= borrow
    top = _highest(digits)
    padded = np.zeros((len(limbs), width + 2), dtype=np.uint64)
    padded[:, 2:] = digits
    first, second, third = (padded[rows, top + 2 - at] for at in range(3))
    # The 64 highest bits, of which the last also says whether anything is below: they round as the whole does.
    shift = (_BITS - np.frexp(first.astype(np.float64))[1]).astype(np.uint64)
    bits = ((first << np.uint64(_BITS) | second) << shift) | (third >> (np.uint64(_BITS) - shift))
    rest = ((third << shift & np.uint64((1 << _BITS) - 1)) != 0) | ((digits != 0).argmax(axis=1) < top - 2)
    exponent = _BITS * (top + low - 1) - shift.astype(np.int64)
    with np.errstate(over="ignore"):
        found: Floats = np.ldexp((bits | rest).astype(np.float64), exponent)
    # A subnormal number has fewer digits than it was rounded to.
    for row in np.flatnonzero(exponent < -1022 - 63).tolist():
        found[row] = _quotient(_whole(digits[row].tolist()), 1 << (-_BITS * low))
    return np.where(negative, -found, found)


def _highest(limbs: Integers) -> Integers:
    """Of each row the last limb that is not 0."""
    place: Integers = limbs.shape[1] - 1 - (limbs != 0)[:, ::-1].argmax(axis=1)
    return place


def _quotient(numerator: int, denominator: int) -> float:
    """The correctly rounded float64 of a fraction of integers; infinite where it overflows."""
    try:
        return numerator / denominator
    except OverflowError:
        return float("inf") if numerator > 0 else float("-inf")


def rounded(value: Fraction) -> float:
    """The nearest float64; infinite where it overflows."""
    return _quotient(value.numerator, value.denominator)
