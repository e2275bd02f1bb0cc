"""Exact sums of float64: each value is cut into integers on a fixed grid of 32-bit limbs and added as integers.

N values, G groups, L limbs. Limb j of a row of `limbs` counts units of 2^(32·(low + j)); a value has 53 significant bits,
so it touches three limbs, a product of two values (106 bits) at most five. Nothing is rounded, so order does not matter.
NaN and infinities go to `special`. An empty `group` means the only one. The caller makes sure that the limbs cover the
values and carries long before a limb overflows.
"""

from typing import Any

import numpy as np

from kosa.cpu._compile import kernel, part

_MAGNITUDE = (1 << 63) - 1
_INFINITE = 2047 << 52
_FRACTION = (1 << 52) - 1
_HIDDEN = 1 << 52
_LIMB = (1 << 32) - 1
_LOW_HALF = (1 << 26) - 1


@kernel
def exponent_range(values: Any) -> tuple[int, int]:
    """The least and largest biased exponent of the finite values that are not 0 (subnormal: 1); (1, 0) of none."""
    bits = values.view(np.int64)
    least, most = _INFINITE, 0
    # Without a branch, so that it vectorises.
    for n in range(bits.size):
        magnitude = bits[n] & _MAGNITUDE
        least = min(least, magnitude if magnitude != 0 else _INFINITE)
        most = max(most, magnitude if magnitude < _INFINITE else 0)
    return (max(least >> 52, 1), max(most >> 52, 1)) if most else (1, 0)


@part
def add_scaled(limbs: Any, magnitude: int, position: int, sign: int, low: int) -> None:
    """limbs += sign·magnitude·2^position, for a magnitude below 2^55."""
    at = (position >> 5) - low
    shift = position & 31
    limbs[at] += sign * ((magnitude & ((1 << (32 - shift)) - 1)) << shift)
    rest = magnitude >> (32 - shift)
    limbs[at + 1] += sign * (rest & _LIMB)
    limbs[at + 2] += sign * (rest >> 32)


@kernel
def add_values(values: Any, group: Any, limbs: Any, low: int, special: Any) -> None:
    """Add each value to its group."""
    bits = values.view(np.int64)
    for n in range(bits.size):
        g = group[n] if group.size else 0
        exponent = (bits[n] >> 52) & 0x7FF
        if exponent == 0x7FF:
            special[g] += values[n]
            continue
        magnitude = bits[n] & _FRACTION
        if exponent:
            magnitude |= _HIDDEN
        else:
            exponent = 1
        if magnitude:
            add_scaled(limbs[g], magnitude, exponent - 1075, (bits[n] >> 63) | 1, low)


@kernel
def add_products(left: Any, right: Any, group: Any, limbs: Any, low: int, special: Any) -> None:
    """Add left·right, unrounded, to its group."""
    left_bits, right_bits = left.view(np.int64), right.view(np.int64)
    for n in range(left_bits.size):
        g = group[n] if group.size else 0
        a_exponent, b_exponent = (left_bits[n] >> 52) & 0x7FF, (right_bits[n] >> 52) & 0x7FF
        if a_exponent == 0x7FF or b_exponent == 0x7FF:
            special[g] += left[n] * right[n]
            continue
        a, b = left_bits[n] & _FRACTION, right_bits[n] & _FRACTION
        if a_exponent:
            a |= _HIDDEN
        else:
            a_exponent = 1
        if b_exponent:
            b |= _HIDDEN
        else:
            b_exponent = 1
        if a == 0 or b == 0:
            continue
        sign = ((left_bits[n] ^ right_bits[n]) >> 63) | 1
        position = a_exponent + b_exponent - 2150
        a_high, a_low, b_high, b_low = a >> 26, a & _LOW_HALF, b >> 26, b & _LOW_HALF
        add_scaled(limbs[g], a_low * b_low, position, sign, low)
        add_scaled(limbs[g], a_high * b_low + a_low * b_high, position + 26, sign, low)
        add_scaled(limbs[g], a_high * b_high, position + 52, sign, low)


@kernel
def add_columns(values: Any, weight: Any, limbs: Any, low: int, special: Any) -> None:
    """Add weight·values (N, G), each product rounded, column g to group g; no weight: 1."""
    one = np.empty(1)
    bits = one.view(np.int64)
    for n in range(values.shape[0]):
        w = weight[n] if weight.size else 1.0
        for g in range(values.shape[1]):
            one[0] = values[n, g] * w
            exponent = (bits[0] >> 52) & 0x7FF
            if exponent == 0x7FF:
                special[g] += one[0]
                continue
            magnitude = bits[0] & _FRACTION
            if exponent:
                magnitude |= _HIDDEN
            else:
                exponent = 1
            if magnitude:
                add_scaled(limbs[g], magnitude, exponent - 1075, (bits[0] >> 63) | 1, low)


@kernel
def count_into(group: Any, counts: Any) -> None:
    """Add 1 to each row's group."""
    for n in range(group.size):
        counts[group[n]] += 1
