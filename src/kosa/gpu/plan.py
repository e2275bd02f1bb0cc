"""How a loss is cut into programs: a plain function of what is known before anything runs. The reasons: docs/gpu.md."""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton

SPAN = 16384  # classes: a piece of a row that a program of its own may take
FEW = 2048  # classes of rows that are one tile, and stay in registers
LONG = 1 << 18  # bytes of a row of which a multiprocessor should have but one in the cache


class Plan(NamedTuple):
    """rows × block: the tile of a program. spans: 0 for rows of one tile, else how many spans, rounded up to 2ⁿ."""

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
        block = min(triton.next_power_of_2(classes), 8 if item_bytes < 8 else 4)
        return Plan(128, block, SPAN, 0 if classes <= block else 1, 4)
    if classes <= FEW:
        block = triton.next_power_of_2(classes)
        warps = 4 if block <= 1024 else 8
        return Plan(max(1, 1024 // block), block, SPAN, 0, warps)
    warps = 16 if classes * item_bytes > LONG and item_bytes < 8 else 8
    block = 32 * warps * (8 if item_bytes < 8 else 4)
    return Plan(1, block, SPAN, triton.next_power_of_2(triton.cdiv(classes, SPAN)), warps)


@lru_cache
def processors(device: torch.device) -> int:
    """How many multiprocessors the device has; 1 where kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
