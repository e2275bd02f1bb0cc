"""How numbers are written: the same everywhere on a page, with no digit that says nothing."""

import math
from collections.abc import Sequence

MINUS, NARROW = "−", "\u202f"
_MOST_PLACES = 6
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def count(value: float) -> str:
    """A number of rows, or a sum of weights."""
    if not math.isfinite(value):
        return _special(value)
    return signed(f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}")


def signed(text: str) -> str:
    """With a minus as long as a plus."""
    return text.replace("-", MINUS)


def number(value: float, digits: int = 4) -> str:
    """To significant digits, in full between 1e-4 and 1e15."""
    if not math.isfinite(value):
        return _special(value)
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if places > digits + 3 or abs(value) >= 1e15:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        return signed(mantissa) + f"·10{str(int(power)).translate(_SUPERSCRIPTS)}"
    return signed(f"{value:,.{max(0, places)}f}")


def percent(value: float, places: int = 1) -> str:
    """A share of 1; never rounded to all or nothing when it is neither."""
    if not math.isfinite(value):
        return _special(value)
    shown = f"{100 * value:.{places}f}"
    for end in (0.0, 1.0):
        if float(shown) == 100 * end and value != end:
            edge = 10.0**-places
            return (
                f"<{NARROW}{edge:g}{NARROW}%"
                if end == 0 and value > 0
                else (
                    f">{NARROW}{100 - edge:.{places}f}{NARROW}%"
                    if 0 < value < 1
                    else f"{signed(shown)}{NARROW}%"
                )
            )
    return f"{signed(shown)}{NARROW}%"


def whole_percent(value: float) -> str:
    """A share of 1 with all its digits."""
    return f"{100 * value:.12g}{NARROW}%" if math.isfinite(value) else _special(value)


def places_for(values: Sequence[float], digits: int = 3) -> int:
    """Decimals that give the largest of a column its significant digits, so that the column lines up."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if largest == 0:
        return 1
    return min(12, max(0, digits - 1 - math.floor(math.log10(largest))))


def fixed(value: float, places: int) -> str:
    """With so many decimals; a value too small for them is said to be so, not to be 0."""
    if not math.isfinite(value):
        return _special(value)
    if places > _MOST_PLACES:
        return number(value, 3)
    shown = f"{value + 0.0:,.{places}f}"
    if value and float(shown.replace(",", "")) == 0:
        return f"{'<' if value > 0 else '>'}{NARROW}{MINUS if value < 0 else ''}{10.0**-places:.{places}f}"
    return signed(shown)


def change(value: float, places: int) -> str:
    """With so many decimals and its sign."""
    return f"+{fixed(value, places)}" if value > 0 else fixed(value, places)


def interval_places(low: float, high: float) -> int:
    """Decimals that give the half width of an interval two significant digits."""
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return 4
    return min(12, max(0, 1 - math.floor(math.log10(half))))


def tick(value: float) -> str:
    """A round number on an axis."""
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e15:
        return signed(f"{value:,.12g}")
    mantissa, power = f"{value:.11e}".split("e")
    shown = f"10{str(int(power)).translate(_SUPERSCRIPTS)}"
    leading = mantissa.rstrip("0").rstrip(".")
    return signed({"1": "", "-1": "-"}.get(leading, f"{leading}·") + shown)


def percent_tick(value: float) -> str:
    """A round share on an axis."""
    return f"{tick(round(100 * value, 10))}{NARROW}%" if value else "0"


def _special(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if value > 0 else f"{MINUS}∞"
