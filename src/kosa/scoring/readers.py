"""What reads a file of predictions in small pieces, and how small they are."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from kosa.scoring.columns import Selection

_NUMBERS = (
    1 << 23
)  # predictions in one batch: 32 MiB of float32; pyarrow read batches of 8 MiB at two thirds of the speed
_MOST_ROWS = 1 << 16

Columns = Mapping[str, Any]


class Reader(Protocol):
    """A file, opened: what its columns are called, its size in bytes, and its rows in pieces.

    Readers of files that need not be read from the start also have `pieces`, the numbers of rows of the pieces (row
    groups) one after another, and take `start` and `stop`, the rows to read, in `chunks`.
    """

    name: str
    names: list[str]
    size: int

    def chunks(self, selection: Selection, rows: int | None) -> Iterator[tuple[Columns, float]]:
        """Pieces of the selected columns (Arrow or NumPy arrays), each with the fraction of the file read."""
        ...


def rows_per_batch(width: int) -> int:
    """How many rows of `width` predictions are scored at once, unless the user says."""
    return max(1, min(_MOST_ROWS, _NUMBERS // max(1, width)))


def width(columns: Columns, selection: Selection) -> int:
    """Predictions in a row; those of a list column are counted in its first list."""
    first = columns[selection.predictions[0]]
    if isinstance(first, np.ndarray):
        return int(first.shape[1]) if first.ndim > 1 else len(selection.predictions)
    return len(first[:1].flatten()) if hasattr(first, "value_lengths") else len(selection.predictions)


def require_arrow(purpose: str) -> None:
    """Say how to install pyarrow where it is missing."""
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{purpose} needs pyarrow: pip install "kosa[score]"', name="pyarrow"
        ) from error


def one_line(error: BaseException) -> str:
    """An error's text, shortened to what fits on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:299] + "…"
