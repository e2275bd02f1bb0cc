"""Parquet and Arrow IPC files, and Arrow tables in memory, read in bounded pieces."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kosa.scoring.columns import Selection
from kosa.scoring.errors import InputError
from kosa.scoring.readers import Columns, one_line, rows_per_batch, width

_BUFFERS = 1 << 25  # bytes read ahead over all columns of a row group


@contextmanager
def reading(name: str, form: str) -> Iterator[None]:
    """Turn the library's errors about a damaged file into one that names the file."""
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{name!r} cannot be read as {form}: {one_line(error)}") from error


def columns_of(batch: Any, selection: Selection) -> Columns:
    """The selected columns of a record batch."""
    return {name: batch.column(name) for name in selection.all}


class ParquetFile:
    """Reads page by page: no row group need fit into memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = Path(name).stat().st_size
        with reading(name, "Parquet"), pq.ParquetFile(name) as file:
            self.names = list(file.schema_arrow.names)

    def chunks(self, selection: Selection, rows: int | None) -> Iterator[tuple[Columns, float]]:
        done = 0
        names = list(selection.all)
        buffer = max(1 << 14, min(1 << 20, _BUFFERS // len(names)))
        with (
            reading(self.name, "Parquet"),
            # pre_buffer would hold a whole row group: 1.9 GB instead of 0.2 GB on 1M × 100 float32.
            pq.ParquetFile(self.name, pre_buffer=False, buffer_size=buffer) as file,
        ):
            if rows is None:
                first = next(file.iter_batches(1, columns=names), None)
                rows = rows_per_batch(width(columns_of(first, selection), selection) if first else 1)
            for batch in file.iter_batches(rows, columns=names):
                done += len(batch)
                yield columns_of(batch, selection), done / file.metadata.num_rows


class IpcFile:
    """An Arrow IPC file (Feather 2) or stream, mapped into memory."""

    def __init__(self, name: str, stream: bool) -> None:
        self.name = name
        self.size = Path(name).stat().st_size
        self._stream = stream
        self._form = "an Arrow IPC stream" if stream else "an Arrow IPC file"
        with reading(name, self._form):
            source = pa.OSFile(name)
            self.names = list((pa.ipc.open_stream if stream else pa.ipc.open_file)(source).schema.names)

    def chunks(self, selection: Selection, rows: int | None) -> Iterator[tuple[Columns, float]]:
        with reading(self.name, self._form):
            with open(self.name, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            for batch, fraction in self._batches(pa.BufferReader(pa.py_buffer(mapped))):
                for start in range(0, len(batch), step := rows or _rows(batch, selection)):
                    yield columns_of(batch.slice(start, step), selection), fraction
                    # A record batch may be the whole file; without this its pages would count as ours.
                    if hasattr(mmap, "MADV_DONTNEED"):
                        mapped.madvise(mmap.MADV_DONTNEED)

    def _batches(self, source: Any) -> Iterator[tuple[Any, float]]:
        # Not IpcReadOptions(included_fields=…): that copies a record batch, which may be the whole file.
        if self._stream:
            for batch in pa.ipc.open_stream(source):
                yield batch, source.tell() / self.size
        else:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number), (number + 1) / reader.num_record_batches


class ArrowTable:
    """Anything that exports Arrow data: a pyarrow table or reader, a pandas or polars frame."""

    def __init__(self, source: Any) -> None:
        self.name = type(source).__name__
        self.size = 0
        if not hasattr(source, "__arrow_c_stream__"):
            source = pa.Table.from_batches([pa.record_batch(source)])
        self._reader = pa.RecordBatchReader.from_stream(source)
        self.names = list(self._reader.schema.names)

    def chunks(self, selection: Selection, rows: int | None) -> Iterator[tuple[Columns, float]]:
        with reading(self.name, "Arrow data"):
            for batch in self._reader:
                yield columns_of(batch, selection), float("nan")


def _rows(batch: Any, selection: Selection) -> int:
    return rows_per_batch(width(columns_of(batch, selection), selection))
