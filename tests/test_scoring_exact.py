"""Sums that are exact: the correctly rounded result whatever the magnitudes, the order, the batches and the merges."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kosa.scoring.exact import _ADDITIONS, ExactSums

SMALLEST, LARGEST = 5e-324, float(np.finfo(np.float64).max)
ADVERSARIAL = {
    "cancelling": [1e308, 1.0, -1e308, 1e-300, -1.0],
    "a small one under large ones": [1e100, 1e-100, -1e100],
    "ends of the range": [LARGEST, SMALLEST, -LARGEST, SMALLEST, 2.0**1023, -(2.0**1023)],
    "halves of an ulp": [1.0, 2.0**-53, 2.0**-53, 2.0**-106],
    "the ties of the grid": [2.0**31 + 0.5, 2.0**63 - 1024, -(2.0**31) - 0.5, 0.5, 1.5, -2.5],
    "subnormals": [SMALLEST, 3e-320, -2e-310, 2.0**-1022],
    "one": [0.1],
    "zeros": [0.0, -0.0],
    "none": [],
}


def spread(count: int, seed: int) -> np.ndarray:
    """Values over the whole range of float64, of both signs."""
    random = np.random.default_rng(seed)
    return np.ldexp(random.standard_normal(count), random.integers(-1070, 1000, count))


@pytest.mark.parametrize("values", ADVERSARIAL.values(), ids=list(ADVERSARIAL))
def test_sum_is_correctly_rounded(values: list[float]) -> None:
    sums = ExactSums()
    sums.add(np.array(values))
    assert sums.exact() == sum(map(Fraction, values))
    assert sums.total() == math.fsum(values)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40), st.integers(0, 40))
def test_any_values_and_any_split(values: list[float], split: int) -> None:
    left, right = ExactSums(), ExactSums()
    left.add(np.array(values[:split]))
    right.add(np.array(values[split:]))
    left.merge(right)
    assert left.exact() == sum(map(Fraction, values))


def test_order_batches_and_merges_give_the_same_bits() -> None:
    large, small = spread(35_000, 1), np.random.default_rng(1).standard_normal(1000)
    values = np.concatenate([large, -large, small])  # more than two blocks
    expected = math.fsum(small)
    shuffled = np.random.default_rng(2).permutation(values)
    merged = ExactSums()
    for part in np.array_split(shuffled, 7):
        one = ExactSums()
        one.add(part)
        merged.merge(one)
    assert merged.total() == expected
    assert np.sum(values) != expected  # NumPy's own sum is not: the values do test something


def test_groups_are_summed_apart() -> None:
    values, group = spread(40_000, 3), np.random.default_rng(4).integers(0, 5, 40_000)
    sums = ExactSums(6)
    sums.add(values, group)
    expected = [math.fsum(values[group == number]) for number in range(6)]
    assert sums.values().tolist() == expected
    assert sums.exact() == sum(map(Fraction, values.tolist()))


def test_columns_are_groups() -> None:
    matrix = spread(90_000, 5).reshape(-1, 3)
    sums = ExactSums(3)
    sums.add_columns(matrix)
    assert sums.values().tolist() == [math.fsum(column) for column in matrix.T]


def test_counts_are_added_as_integers() -> None:
    sums = ExactSums(2)
    sums.add_counts(np.array([2**53 + 1, 3]))
    sums.add(np.array([0.25]), np.array([1]))
    assert sums.exact() == Fraction(2**53 + 1) + Fraction(13, 4)
    assert sums.values()[1] == 3.25


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([np.inf, 1.0], np.inf),
        ([-np.inf, 1.0], -np.inf),
        ([np.inf, -np.inf], np.nan),
        ([np.nan, np.inf], np.nan),
    ],
)
def test_infinities_and_nan_are_kept_aside(values: list[float], expected: float) -> None:
    for order in (values, values[::-1]):
        sums = ExactSums()
        for value in order:
            sums.add(np.array([value]))
        assert np.array_equal(sums.total(), expected, equal_nan=True)
        assert sums.exact() == sum(Fraction(value) for value in values if math.isfinite(value))
    grouped = ExactSums(2)
    grouped.add(np.array([*values, 2.0]), np.array([0] * len(values) + [1]))
    assert np.array_equal(grouped.values(), [expected, 2.0], equal_nan=True)
    columns = ExactSums(2)
    columns.add_columns(np.array([[value, 1.0] for value in values]))
    assert np.array_equal(columns.values(), [expected, len(values)], equal_nan=True)


def test_a_sum_beyond_the_range_is_infinite() -> None:
    sums = ExactSums()
    sums.add(np.array([LARGEST, LARGEST]))
    assert sums.total() == np.inf
    sums.add(np.array([-LARGEST]))
    assert sums.total() == LARGEST


def test_limbs_carry_before_they_overflow() -> None:
    sums, times = ExactSums(), 0
    block = np.full(1 << 15, 2.0**31 - 1)  # each fills a limb to the brim
    sums.add(block)
    one = sums.exact()
    # As many additions as fit between two carries, without making them: every doubling is a merge with itself.
    while times < 40:
        other = ExactSums()
        other.merge(sums)
        sums.merge(other)
        times += 1
    assert sums.exact() == one * 2**40
    assert all(np.abs(limb).max() < 2**62 for limb in sums._limbs.T)
    sums._additions = _ADDITIONS
    sums.add(block)
    assert sums._additions == len(block)
    assert sums.exact() == one * (2**40 + 1)


def test_products_are_not_rounded() -> None:
    random = np.random.default_rng(7)
    ends = [SMALLEST, -SMALLEST, LARGEST, 3e-320, 0.0, 1.0]
    left = np.concatenate([random.exponential(size=500), ends, [1.0]])
    right = np.concatenate([spread(500, 8), [LARGEST, SMALLEST, -LARGEST, 1e-310, 5.0, 0.0], [SMALLEST]])
    sums = ExactSums()
    sums.add_products(left, right)
    assert sums.exact() == sum(
        Fraction(one) * Fraction(other) for one, other in zip(left.tolist(), right.tolist(), strict=True)
    )
    grouped = ExactSums(3)
    grouped.add_products(np.array([2.0, np.inf, 3.0]), np.array([0.5, 2.0, 3.0]), np.array([0, 1, 2]))
    assert grouped.values().tolist() == [1.0, np.inf, 9.0]


def test_columns_times_weights_are_rounded_once() -> None:
    matrix, weight = spread(300, 9).reshape(-1, 3), np.ldexp(1.3, np.arange(-50, 50))
    matrix[0] = [SMALLEST, 3e-320, -1e-310]
    with np.errstate(over="ignore"):
        product = matrix * weight[:, None]
    product = np.where(np.isfinite(product), product, 0.0)
    matrix = np.where(product == 0.0, 0.0, matrix)
    sums = ExactSums(3)
    sums.add_columns(matrix, weight)
    for column, total in enumerate(sums.integers()):
        assert Fraction(total, 1 << (32 * 68)) == sum(map(Fraction, product[:, column].tolist()))


def test_columns_of_subnormals_times_large_weights() -> None:
    # The exponent of a subnormal says nothing of how small it is.
    matrix = np.array([[SMALLEST, 3e-320], [2e-310, -5 * SMALLEST]])
    weight = np.array([1.1 * 2.0**60, 1.3 * 2.0**61])
    sums = ExactSums(2)
    sums.add_columns(matrix, weight)
    assert sums.values().tolist() == [math.fsum(column * weight) for column in matrix.T]


def test_groups_can_be_grouped_added_and_taken_away() -> None:
    values = spread(60, 10)
    sums = ExactSums(60)
    sums.add(values, np.arange(60))
    coarse = sums.regrouped(np.arange(60) % 4, 4)
    assert coarse.values().tolist() == [math.fsum(values[start::4]) for start in range(4)]
    sums.resize(70)
    assert sums.values().tolist() == [*values.tolist(), *[0.0] * 10]
    rest = sums.copy()
    rest.subtract(sums)
    assert rest.exact() == 0
    assert sums.values()[59] == values[59]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(), max_size=30), st.integers(0, 3))
def test_stored_sums_come_back(values: list[float], empty: int) -> None:
    sums = ExactSums(7 + empty)
    sums.add(np.array(values), np.arange(len(values)) % 7)
    back = ExactSums.restored(sums.stored(), 7 + empty)
    assert back.integers() == sums.integers()
    assert np.array_equal(back.specials(), sums.specials(), equal_nan=True)
    assert repr(back.stored()) == repr(sums.stored())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-(2**400), 2**400), st.integers(0, 6)), max_size=12))
def test_sums_of_whole_tables_are_rounded_as_one_sum_is(parts: list[tuple[int, int]]) -> None:
    # Ties, carries through all limbs, and sums whose last bits are far below: whole numbers of the grid, added apart.
    sums = ExactSums(7)
    whole = [0] * 7
    for number, group in parts:
        for shift in range(0, 401, 30):
            piece = (abs(number) >> shift & ((1 << 30) - 1)) << shift
            value = math.ldexp(math.copysign(piece >> shift, number), shift - 200)
            sums.add(np.array([value]), np.array([group]))
            whole[group] += piece if number >= 0 else -piece
    expected = [float(Fraction(number, 1 << 200)) for number in whole]
    assert sums.values().tolist() == expected


@pytest.mark.parametrize("exponent", [-1074, -1060, -1023, -1022, -970, 0, 960, 1023])
def test_rounding_at_the_ends_of_the_range(exponent: int) -> None:
    # 1, 1 + half of the last place, that and a little more, and two thirds of it; of both signs.
    units = np.array([0.0, 2.0**-53, 2.0**-53 + 2.0**-106, 2.0**-52, 3 * 2.0**-53])
    groups = np.arange(10)
    sums, whole = ExactSums(10), []
    for group, (sign, unit) in enumerate((sign, unit) for sign in (1, -1) for unit in units):
        total = Fraction(0)
        for part in (1.0, unit - unit % 2.0**-53, unit % 2.0**-53):
            value = math.ldexp(sign * part, exponent)
            sums.add(np.array([value]), groups[group : group + 1])
            total += Fraction(value)
        try:
            whole.append(float(total))
        except OverflowError:
            whole.append(math.copysign(math.inf, total))
    assert sums.values().tolist() == whole
