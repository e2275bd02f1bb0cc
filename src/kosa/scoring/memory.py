"""How much memory a run takes, said before it starts: from the files' own sizes to the rows of a batch."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

from kosa.scoring.batch import Batch
from kosa.scoring.columns import Selection
from kosa.scoring.errors import InputError
from kosa.scoring.readers import Reader, rows_per_batch
from kosa.scoring.sources import Tables

DEFAULT = 500_000_000  # bytes of one process
_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_PROGRAM = 200_000_000  # bytes of Python, NumPy, pyarrow and compiled kernels
_OWN = 20_000_000  # bytes of a state, without its table of confusions
_PAIRS, _PAIR = 1 << 18, 350  # confusions kept at most, and bytes of one, what its figures take included
_GROUPS = 80_000_000  # bytes of a table of as many groups as are kept, their names and figures included
# Batches held at once: being read, waiting, being scored, and what allocators keep of those before. (Measured as peaks
# of the process on 10 GB; lists come with as many bytes that say where each ends, and grow by doubling.)
_COPIES, _COPIES_OF_LISTS = 6, 10
_FIGURES = 400  # bytes a row while it is scored
_USUAL_NUMBERS = 1 << 20  # numbers of a batch at least, where nobody said how much memory there is
_FEWEST, _FEWEST_NUMBERS = (
    256,
    1 << 20,
)  # rows of a batch, or numbers: with fewer a run takes many times as long


@dataclass(frozen=True)
class Plan:
    """rows: of a batch.  need: bytes of one process: of programs and state, of pages being read, and of batches."""

    rows: int
    need: int
    program: int
    pages: int
    processes: int = 1

    def __str__(self) -> str:
        each = f"{self.processes} processes of at most about" if self.processes > 1 else "at most about"
        return (
            f"{each} {megabytes(self.need)} of memory: {megabytes(self.program)} of programs and state, "
            f"{megabytes(self.pages)} of pages, {megabytes(self.need - self.program - self.pages)} of batches of "
            f"{self.rows:,} rows"
        )


def in_bytes(text: str | int) -> int:
    """A number of bytes, as in 500MB, 2GiB or 500_000_000."""
    found = re.fullmatch(r"([0-9_]*\.?[0-9]+)\s*([kmgt]i?)?b?", str(text).strip().lower())
    if not found:
        raise InputError(f"`memory` is {text!r}; expected a number of bytes, as in 500MB or 2GiB")
    size = float(found[1].replace("_", "")) * _UNITS[found[2] or ""]
    if not math.isfinite(size):
        raise InputError(f"`memory` is {str(text)[:20]}…; expected a number of bytes, as in 500MB or 2GiB")
    return int(size)


def plan(
    tables: Sequence[Tables],
    firsts: Sequence[Batch],
    *,
    memory: int | None,
    rows: int | None,
    processes: int = 1,
) -> Plan:
    """The batches that fit into `memory` bytes a process, of rows like the first of each set of predictions."""
    widths = [first.predictions.shape[1] if first.predictions.ndim > 1 else 1 for first in firsts]
    row = sum(_row(each.selection, first) for each, first in zip(tables, firsts, strict=True))
    program = _PROGRAM + sum(_OWN + _PAIR * min(_PAIRS, width * width) for width in widths)
    program += _GROUPS * sum(each.selection.group is not None for each in tables)
    pages = sum(max(map(_held, each.readers, repeat(each.selection))) for each in tables)
    columns = sum(len(each.selection.all) for each in tables)
    width = max(widths)
    fixed = program + pages
    fewest = rows or max(1, min(_FEWEST, _FEWEST_NUMBERS // width))
    least = fixed + fewest * row
    if memory is not None and memory < least:
        raise InputError(
            f"`memory` of {megabytes(memory)} a process is too little: {megabytes(program)} of programs and state, "
            f"{megabytes(pages)} to read {columns} columns side by side, {megabytes(fewest * row)} for a "
            f"batch of {fewest} rows; it takes {megabytes(least)} or more"
        )
    if memory is None:  # a little more than the default is better than many times as long
        fewest = max(fewest, _USUAL_NUMBERS // width)
    chosen = rows or min(rows_per_batch(width), max(fewest, ((memory or DEFAULT) - fixed) // row))
    return Plan(chosen, fixed + chosen * row, program, pages, processes)


def _row(selection: Selection, first: Batch) -> int:
    """Bytes of a row while it is read and scored."""
    shape = first.predictions.shape
    width = shape[1] if len(shape) > 1 else 1
    others = len(selection.all) - len(selection.predictions)
    read = width * first.predictions.dtype.itemsize + 16 * others
    lists = width > 1 and len(selection.predictions) == 1
    return (_COPIES_OF_LISTS if lists else _COPIES) * read + _FIGURES


def _held(reader: Reader, selection: Selection) -> int:
    return reader.held(selection) if hasattr(reader, "held") else 0


def megabytes(size: int) -> str:
    """Bytes for a message."""
    return f"{size / 1e9:.1f} GB" if size >= 10**10 else f"{max(1, round(size / 1e6)):,} MB"
