"""NPY and NPZ files, and NumPy arrays in memory, as columns."""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kosa.scoring.columns import Selection
from kosa.scoring.convert import array
from kosa.scoring.errors import InputError, InputTypeError
from kosa.scoring.readers import Columns, one_line, rows_per_batch, width

_PIECE = 1 << 26  # bytes of a piece that one task scores


# What NumPy and zipfile raise at bytes that are not what they should be.
_DAMAGE = (
    ValueError, OSError, EOFError, LookupError, OverflowError, MemoryError, RuntimeError, SyntaxError, struct.error,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@contextmanager
def _reading(name: str, form: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{name!r} cannot be read as {form}: {one_line(error)}") from error


def check_lengths(lengths: Mapping[str, int], source: str) -> int:
    """The one length of all columns."""
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
        raise InputError(f"{source!r}: the arrays have different numbers of rows: {told}")
    return next(iter(lengths.values()))


class ArrayTable:
    """Arrays by name: those of one length are its columns, a two-dimensional one is a list column."""

    def __init__(self, arrays: Mapping[str, Any], name: str, size: int = 0) -> None:
        self.name = name
        self.size = size
        self.names = list(arrays)
        self._arrays = arrays

    def chunks(self, selection: Selection, rows: int | None) -> Iterator[tuple[Columns, float]]:
        yield {name: array(self._arrays[name], name) for name in selection.all}, float("nan")


class NpyFile:
    """An NPY file of records, whose fields are the columns; or of plain arrays side by side.

    In the second case a column's name is a file's: in `run/logits.npy` the column `logits` is the file
    itself, and `targets` is `run/targets.npy`. Mapped into memory anew for each piece, so that its pages do
    not pile up.
    """

    folder: str | None = None  # of arrays side by side

    def __init__(self, name: str) -> None:
        self.name = name
        self._path = Path(name)
        with _reading(name, "NPY"):
            array = self._load(self._path)
        self.size = self._path.stat().st_size
        count = len(array) if array.ndim else 0
        step = max(1, _PIECE * count // max(1, array.nbytes))
        self.pieces = [min(step, count - start) for start in range(0, count, step)]
        if array.dtype.names:
            self.names = list(array.dtype.names)
        else:
            self.folder = str(self._path.parent)
            self.names = sorted(path.stem for path in self._path.parent.glob("*.npy"))

    @staticmethod
    def _load(path: Path) -> NDArray[Any]:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array

    def _columns(self, selection: Selection) -> dict[str, NDArray[Any]]:
        array = self._load(self._path)
        if array.dtype.names:
            columns = {name: np.atleast_1d(array)[name] for name in selection.all}
        else:
            columns = {name: self._load(self._path.with_name(f"{name}.npy")) for name in selection.all}
        for name, column in columns.items():
            if not column.ndim:
                raise InputError(f"{self.name!r}: array {name!r} is a single value; expected one a row")
        return columns

    def chunks(
        self, selection: Selection, rows: int | None, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Columns, float]]:
        with _reading(self.name, "NPY"):
            columns = self._columns(selection)
            total = check_lengths({name: len(array) for name, array in columns.items()}, self.name)
            stop = total if stop is None else min(stop, total)
            step = rows or rows_per_batch(width(columns, selection))
            for at in range(start, stop, step):
                end = min(at + step, stop)
                part = {name: array[at:end] for name, array in self._columns(selection).items()}
                yield part, end / total


class NpzFile:
    """The arrays of an NPZ file, compressed or not, streamed side by side."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = Path(name).stat().st_size
        with _reading(name, "NPZ"), zipfile.ZipFile(name) as file:
            self.names = [
                member.removesuffix(".npy") for member in file.namelist() if member.endswith(".npy")
            ]

    def chunks(self, selection: Selection, rows: int | None) -> Iterator[tuple[Columns, float]]:
        with _reading(self.name, "NPZ"), zipfile.ZipFile(self.name) as file, ExitStack() as opened:
            # Members keep their archive open.
            members = {
                name: _Member(opened.enter_context(file.open(f"{name}.npy")), name, self.name)
                for name in selection.all
            }
            total = check_lengths({name: member.shape[0] for name, member in members.items()}, self.name)
            predictions = members[selection.predictions[0]].shape
            step = rows or rows_per_batch(
                predictions[1] if len(predictions) > 1 else len(selection.predictions)
            )
            for start in range(0, total, step):
                count = min(step, total - start)
                yield {name: member.read(count) for name, member in members.items()}, (start + count) / total


class _Member:
    """One array of an NPZ file, read forward."""

    def __init__(self, file: IO[bytes], name: str, source: str) -> None:
        self._file = file
        version = np.lib.format.read_magic(self._file)
        header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, self._dtype = header(self._file)
        if self._dtype.hasobject:
            raise InputTypeError(
                f"{source!r}: array {name!r} holds Python objects; save it as numbers or strings"
            )
        if not shape:
            raise InputError(f"{source!r}: array {name!r} is a single value; expected one a row")
        self.shape: tuple[int, ...] = shape
        # Columns stand one after another there, so the first row needs the last byte.
        self._whole = self._take(shape, "F") if fortran and len(shape) > 1 else None
        self._done = 0

    def _take(self, shape: tuple[int, ...], order: Any) -> NDArray[Any]:
        needed = self._dtype.itemsize * math.prod(shape)
        data = self._file.read(needed)
        if len(data) < needed:
            raise EOFError(f"the array ends after {len(data)} of {needed} bytes")
        return np.frombuffer(data, dtype=self._dtype).reshape(shape, order=order)

    def read(self, count: int) -> NDArray[Any]:
        """The next rows."""
        start, self._done = self._done, self._done + count
        if self._whole is not None:
            return self._whole[start : start + count]
        return self._take((count, *self.shape[1:]), "C")
