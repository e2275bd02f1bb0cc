"""Axes: from values to pixels, with round ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MOST = 8e307  # of an axis: its ticks and its length are finite


@dataclass(frozen=True)
class Linear:
    """Values low..high on pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


@dataclass(frozen=True)
class Log:
    """Positive values low..high on pixels start..end, equal factors equally far apart."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self.start + min(1.0, share) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Powers of ten within."""
        first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


def round_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten that cover low..high, about as many as asked."""
    low, high = max(low, -_MOST), min(high, _MOST)
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(count * step, 12 - math.floor(math.log10(step))) for count in range(first, last + 1)]


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved as little as may be so that neighbours are `gap` apart, and all lie within low..high."""
    order = sorted(range(len(positions)), key=lambda at: positions[at])
    blocks: list[tuple[float, list[int]]] = []  # where a block begins, and what is in it, `gap` apart
    for at in order:
        start, members = positions[at], [at]
        while blocks and start < blocks[-1][0] + gap * len(blocks[-1][1]):
            members = blocks.pop()[1] + members
            wished = [positions[member] - gap * place for place, member in enumerate(members)]
            start = sum(wished) / len(wished)
        length = gap * (len(members) - 1)
        blocks.append((min(max(start, low), high - length), members))
    found = [0.0] * len(positions)
    for start, members in blocks:
        for place, member in enumerate(members):
            found[member] = start + gap * place
    return found
