"""Opening a file of predictions: what it is, and how its rows are read in small pieces."""

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kosa.scoring.columns import Selection
from kosa.scoring.errors import InputError

_MAGIC = {
    b"PAR1": "parquet",
    b"ARROW1": "arrow",
    b"\xff\xff\xff\xff": "stream",
    b"\x93NUMPY": "npy",
    b"PK\x03\x04": "npz",
}
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "stream",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".npy": "npy",
    ".npz": "npz",
}
_COMPRESSED = {".gz", ".bz2", ".zst", ".lz4"}
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


def expand(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files that paths, directories and globs name: those of a directory and of a glob in sorted order."""
    files: list[str] = []
    for path in paths:
        name = os.fspath(path)
        if os.path.isdir(name):
            found = sorted(
                str(place)
                for place in Path(name).rglob("*")
                if _is_data(place.relative_to(name)) and place.is_file()
            )
            if not found:
                raise InputError(
                    f"{name!r} is a directory without files of predictions (.parquet, .arrow, .csv, .jsonl, .npz, …)"
                )
        elif not os.path.exists(name) and glob.has_magic(name):
            found = sorted(place for place in glob.glob(name, recursive=True) if os.path.isfile(place))
            if not found:
                raise InputError(f"{name!r} matches no file")
        else:
            found = [name]
        files += found
    return files


def _is_data(place: Path) -> bool:
    """Whether a file in a directory is one of predictions, and not a marker, a checksum or a hidden file."""
    if any(part.startswith((".", "_")) for part in place.parts):
        return False
    suffixes = [suffix.lower() for suffix in place.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    # Plain arrays stand beside each other, a column each, and are no files of one data set.
    return bool(suffixes) and suffixes[-1] in _SUFFIXES and suffixes[-1] != ".npy"


def open_file(path: str | os.PathLike[str]) -> Reader:
    """Open a file by what it is: Parquet, Arrow IPC (file or stream), CSV, JSON Lines, NPY or NPZ."""
    place = Path(path)
    name = str(path)
    if place.is_dir():
        raise InputError(f"{name!r} is a directory, expected a file")
    if place.exists() and not place.is_file():
        raise InputError(f"{name!r} is not a regular file; write the predictions to a file first")
    with place.open("rb") as file:
        head = file.read(8)
    if not head:
        raise InputError(f"{name!r} is empty (0 bytes)")
    if head.startswith(b"FEA1"):
        raise InputError(
            f"{name!r} is Feather version 1, which is no longer read; write it as version 2 or Parquet"
        )
    suffixes = [suffix.lower() for suffix in place.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    said = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    found = next((form for magic, form in _MAGIC.items() if head.startswith(magic)), None)
    if found is None and said not in ("csv", "json"):
        if said is None:
            raise InputError(
                f"{name!r}: neither its first bytes nor its name say what it is; expected Parquet, Arrow "
                "IPC, Feather, NPY, NPZ, or a name ending in .csv, .tsv or .jsonl (also .gz)"
            )
        raise InputError(
            f"{name!r} does not begin as its ending {suffixes[-1]} promises; is it whole, and of that kind?"
        )
    return _open(found or str(said), name, suffixes[-1] if suffixes else "")


def _open(form: str, name: str, suffix: str) -> Reader:
    if form in ("npy", "npz"):
        from kosa.scoring import numpyfiles

        return numpyfiles.NpyFile(name) if form == "npy" else numpyfiles.NpzFile(name)
    require_arrow(f"reading {name!r}")
    from kosa.scoring import arrowfiles, textfiles

    if form == "parquet":
        return arrowfiles.ParquetFile(name)
    if form == "csv":
        return textfiles.CsvFile(name, "\t" if suffix == ".tsv" else ",")
    if form == "json":
        return textfiles.JsonFile(name)
    return arrowfiles.IpcFile(name, stream=form == "stream")


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
