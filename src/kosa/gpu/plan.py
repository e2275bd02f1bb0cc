"""How a loss is cut into programs: a plain function of what is known before anything runs."""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton

SPAN = 16384  # classes: a piece of a row that a program of its own may take
LANES = 2048


class Plan(NamedTuple):
    """rows and block: the tile of a program. spans: 0 for rows of one tile, else how many spans, rounded up to 2ⁿ."""

    rows: int
    block: int
    span: int
    spans: int
    warps: int


def plan(classes: int, item_bytes: int, together: bool) -> Plan:
    """The tiles of rows of so many classes. `together`: whether a row's classes lie side by side.

    It depends on nothing else, the number of rows least of all: so a row's bits depend on the row alone.
    """
    if not together:
        block = min(triton.next_power_of_2(classes), 8)
        return Plan(128, block, SPAN, 0 if classes <= block else 1, 4)
    if classes <= LANES:
        block = triton.next_power_of_2(classes)
        return Plan(max(1, LANES // 2 // block), block, SPAN, 0, 4)
    spans = triton.next_power_of_2(triton.cdiv(classes, SPAN))
    return Plan(1, LANES, SPAN, spans, 8)


@lru_cache
def processors(device: torch.device) -> int:
    """How many multiprocessors the device has; 1 where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
