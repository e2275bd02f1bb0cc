"""Launches the kernels that evaluate the linear form without writing a logit, and chooses their tiles and grid."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from kosa.gpu.launch import launching
from kosa.gpu.projection import finish, project
from kosa.loss import Options

MEMORY = 64 << 20  # bytes beyond inputs and results, whatever the workspace
_MOST_SPLITS = 256  # that `finish` holds at once
_MERGED = 4096  # entries of a program of `finish`


class Tiles(NamedTuple):
    """A tile of the product is rows×classes, in steps of `features`."""

    rows: int
    classes: int
    features: int
    warps: int
    stages: int


class Card(NamedTuple):
    """What the choice of a grid depends on."""

    name: str  # "cuda", "hip", or "cpu" where kernels are interpreted
    processors: int
    l2: int  # bytes
    shared: int  # bytes of a processor, of which a program may have nearly all

    @property
    def before_ampere(self) -> bool:
        """Whether Triton does not know this card's matrix units: cards that it knows share 100 KiB or more."""
        return self.name == "cuda" and self.shared < 100 << 10


class Grid(NamedTuple):
    """`blocks` of rows go through `splits` of the classes, `group` blocks at a time."""

    blocks: int
    splits: int
    group: int


@lru_cache
def card(device: torch.device) -> Card:
    """Ask the device."""
    if device.type != "cuda":
        return Card("cpu", 4, 1 << 20, 0)
    found = torch.cuda.get_device_properties(device)
    if torch.version.hip:  # names the L2 of one of several dies, and not the cache behind them
        return Card("hip", found.multi_processor_count, max(found.L2_cache_size, 32 << 20), 64 << 10)
    return Card(
        "cuda", found.multi_processor_count, found.L2_cache_size, found.shared_memory_per_multiprocessor
    )


def precision(at: Card, dtype: torch.dtype) -> str:
    """How a product of this dtype is taken: exactly, unless PyTorch was told that TF32 will do (where it is)."""
    allowed = (
        not (at.name == "hip" or at.before_ampere) and torch.backends.cuda.matmul.fp32_precision == "tf32"
    )
    return "tf32" if allowed and dtype == torch.float32 else "ieee"


def tiles(at: Card, itemsize: int, how: str) -> Tiles:
    """The tile of a product, for reasons that docs/gpu.md gives."""
    if at.name == "cpu":
        return Tiles(16, 32, 16, 4, 1)
    if at.name == "hip":
        return Tiles(128, 256, 128 // itemsize, 8, 2)
    if itemsize == 4 and how == "ieee":
        return Tiles(128, 128, 16, 8, 2)
    return Tiles(128, 256, 128 // itemsize, 8, 3)


@lru_cache
def grid(
    rows: int, classes: int, row_bytes: int, figure_bytes: int, tile: Tiles, at: Card, memory: int
) -> Grid:
    """Fill the card evenly with programs that share what L2 holds. row_bytes: of a row of hidden."""
    blocks = triton.cdiv(rows, tile.rows)
    pieces = triton.cdiv(classes, tile.classes)
    group = min(blocks, max(1, at.l2 // 4 // (tile.rows * row_bytes)))
    most = max(1, min(pieces, _MOST_SPLITS, memory // (rows * figure_bytes)))
    least = min(most, triton.cdiv(at.processors, group))

    def time(splits: int) -> float:
        # A program takes its tiles and, once, about a tenth of one to start; programs run in waves.
        waves = triton.cdiv(blocks * splits, at.processors)
        return waves * (triton.cdiv(pieces, splits) + 0.1)

    return Grid(blocks, min(range(least, most + 1), key=time), group)


def evaluates(hidden: Tensor, weight: Tensor) -> bool:
    """Whether `run` takes these tensors: in the one layout that `project` reads, and of formats that have a product on
    the chip worth the name, which float64 has not, nor 16 bits before Ampere.
    """
    multiplied = weight.itemsize < 4 and not card(weight.device).before_ampere
    fits = hidden.stride(-1) == weight.stride(-1) == 1 and hidden.shape[1] > 0
    return (multiplied or weight.dtype == torch.float32) and fits


def run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
    options: Options,
    losses: Tensor,
    others: Sequence[Tensor] | None = None,
    memory: int = MEMORY,
) -> None:
    """Fill the losses of class indices and, if given, the other figures of `cpu.figures.Statistics`' order.

    hidden: (N, D).  targets: (N,) int64, contiguous; losses and others: (N,), float64 (argmax int64).
    """
    (rows, features), classes = hidden.shape, weight.shape[0]
    spread = options.label_smoothing != 0.0
    planes = 3 + 2 * spread + 2 * (others is not None)
    figure_bytes = 4 * (planes + (others is not None))
    most = max(1, memory // figure_bytes)
    size = triton.cdiv(rows, triton.cdiv(rows, most)) if rows else 1
    at = card(hidden.device)
    how = precision(at, weight.dtype)
    tile = tiles(at, weight.itemsize, how)
    flags = {"SPREAD": spread, "STATISTICS": others is not None}
    inverse = 1.0 / options.temperature
    row_bytes = features * hidden.itemsize
    with launching(hidden):
        for first in range(0, rows, size):
            part = slice(first, min(first + size, rows))
            h, count = hidden[part], part.stop - first
            plan = grid(count, classes, row_bytes, figure_bytes, tile, at, memory)
            figures = hidden.new_empty((planes, plan.splits, count), dtype=torch.float32)
            places = None if others is None else hidden.new_empty((plan.splits, count), dtype=torch.int32)
            project[(plan.blocks * plan.splits,)](
                h, weight, bias, targets[part], class_weight if spread else None, figures, places,
                count, classes, features, h.stride(0), weight.stride(0), plan.splits, plan.group,
                float(options.softcap or 0.0), inverse,
                CAPPED=options.softcap is not None, **flags, PRECISION=how, WHOLE=features % tile.features == 0,
                INTERPRETED=at.name == "cpu", BLOCK_N=tile.rows, BLOCK_K=tile.classes, BLOCK_D=tile.features,
                num_warps=tile.warps, num_stages=tile.stages, enable_fp_fusion=True,
            )  # fmt: skip
            across = triton.next_power_of_2(plan.splits)
            block = min(128, max(1, _MERGED // across))
            wanted: list[Any] = [None] * 6 if others is None else [figure[part] for figure in others]
            finish[(triton.cdiv(count, block),)](
                figures, places, targets[part], class_weight, None if row_weight is None else row_weight[part],
                losses[part], *wanted, count, classes, plan.splits, int(options.ignore_index),
                inverse, float(options.z_loss), float(options.label_smoothing),
                **flags, Z_LOSS=options.z_loss != 0.0, BLOCK_N=block, BLOCK_S=across, enable_fp_fusion=True,
            )  # fmt: skip
            del figures, places  # before the next part's are made
