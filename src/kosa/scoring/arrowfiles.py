"""Parquet and Arrow IPC files, and Arrow tables in memory, read in bounded pieces."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kosa.scoring.columns import Selection
from kosa.scoring.errors import InputError
from kosa.scoring.readers import Columns, one_line, rows_per_batch, width

_BUFFERS = 1 << 23  # bytes read ahead over all columns of a row group
_PAGE = 1 << 20  # bytes of a page, and of a dictionary, unless who writes the file asks for other sizes
# Pages' worth of memory of a column that is read. (Measured as peaks of the process: of 100 columns 3.2 with
# dictionaries, which are there packed, plain and decoded; what allocators keep is included.)
_WITH_DICTIONARY, _WITHOUT = 3.2, 2.3


@contextmanager
def reading(name: str, form: str) -> Iterator[None]:
    """Turn the library's errors about a damaged file into one that names the file."""
    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{name!r} cannot be read as {form}: {one_line(error)}") from error


class Mapped:
    """A file mapped into memory, for pyarrow."""

    def __init__(self, name: str) -> None:
        self._name = name
        with open(name, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.source = pa.BufferReader(pa.py_buffer(self._map))

    def check(self) -> None:
        """Refuse a file that has become shorter: to read on would kill the process."""
        if Path(self._name).stat().st_size < len(self._map):
            raise InputError(f"{self._name!r} has become shorter while it was read")

    def drop(self) -> None:
        """Give back the memory of what was read so far; without this the whole file would count as ours."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def columns_of(batch: Any, selection: Selection) -> Columns:
    """The selected columns of a record batch."""
    found = dict(zip(batch.schema.names, batch.columns, strict=True))
    return {name: _in_order(found[name]) for name in selection.all}


def _in_order(column: Any) -> Any:
    """Lists that are views, which may overlap and stand in any order, as lists one after another; all else as it is."""
    if not (pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type)):
        return column
    # Not column.cast(list): pyarrow 26 takes the views' offsets for those of lists, which gives other lists.
    lengths = np.asarray(pc.fill_null(column.value_lengths(), 0), dtype=np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))
    return pa.LargeListArray.from_arrays(offsets, _in_order(column.flatten()), mask=column.is_null())


class ParquetFile:
    """Reads page by page: no row group need fit into memory."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = Path(name).stat().st_size
        with reading(name, "Parquet"), self._open() as file:
            self.names = list(file.schema_arrow.names)
            self._metadata = file.metadata
        counts = [
            self._metadata.row_group(number).num_rows for number in range(self._metadata.num_row_groups)
        ]
        self._groups = list(zip(accumulate([0, *counts]), counts, strict=False))
        self.rows = sum(counts)
        self.pieces = [count for count in counts if count]

    def _open(self, buffer: int = 0) -> Any:
        try:
            # pre_buffer would hold a whole row group: 1.9 GB instead of 0.2 GB on 1M × 100 float32. A map of the file
            # spares a copy (a tenth of the time), but a file that becomes shorter would kill the process.
            return pq.ParquetFile(
                self.name, pre_buffer=False, buffer_size=buffer, page_checksum_verification=True
            )
        except pa.ArrowInvalid as error:
            if "magic bytes not found in footer" not in str(error):
                raise
            raise InputError(
                f"{self.name!r} cannot be read as Parquet: its end, which says where the row groups are, is missing; "
                "the file was cut short, or is still being written"
            ) from error

    def held(self, selection: Selection) -> int:
        """Bytes in memory beside the batches: of each column a page, a dictionary or a packed page, and a buffer."""
        largest, names = 0, set(selection.all)
        metadata = self._metadata
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            columns = map(group.column, range(group.num_columns))
            sizes = [
                min(column.total_uncompressed_size, _PAGE)
                * (_WITH_DICTIONARY if column.has_dictionary_page else _WITHOUT)
                for column in columns
                if _within(column.path_in_schema, names)
            ]
            largest = max(largest, int(sum(sizes)))
        return largest + _BUFFERS

    def chunks(
        self, selection: Selection, rows: int | None, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[Columns, float]]:
        names = list(selection.all)
        stop = self.rows if stop is None else stop
        buffer = max(1 << 14, min(1 << 18, _BUFFERS // len(names)))
        with reading(self.name, "Parquet"), self._open(buffer) as file:
            for number, (first, count) in enumerate(self._groups):
                if first + count <= start or first >= stop or not count:
                    continue
                done = first
                with self._naming(number):
                    if rows is None:
                        one = next(file.iter_batches(1, row_groups=[number], columns=names))
                        rows = rows_per_batch(width(columns_of(one, selection), selection))
                    for batch in file.iter_batches(rows, row_groups=[number], columns=names):
                        part = _sound(batch).slice(max(0, start - done), stop - max(start, done))
                        done += len(batch)
                        if len(part):
                            yield columns_of(part, selection), done / self.rows
                    # What is kept for reuse grows with every row group: 20 MB in 24 of them.
                    pa.default_memory_pool().release_unused()
                    if done < first + count:
                        raise InputError(f"it ends after {done - first} of {count} rows")

    @contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        """Name the row group in what is said about a damaged one."""
        try:
            yield
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, InputError, MemoryError) as error:
            first, count = self._groups[number]
            raise InputError(
                f"{self.name!r}: row group {number} (from 0; rows {first} to {first + count - 1}) cannot be read as "
                f"Parquet: {one_line(error)}"
            ) from error


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
            mapped = Mapped(self.name)
            for batch, fraction in self._batches(mapped.source):
                batch = _sound(batch.select(list(selection.all)))
                for start in range(0, len(batch), step := rows or _rows(batch, selection)):
                    mapped.check()
                    yield columns_of(batch.slice(start, step), selection), fraction
                    mapped.drop()

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
        self.schema = self._reader.schema
        self.names = list(self.schema.names)

    def chunks(self, selection: Selection, rows: int | None) -> Iterator[tuple[Columns, float]]:
        with reading(self.name, "Arrow data"):
            for batch in self._reader:
                yield columns_of(batch, selection), float("nan")


class ArrowDataset:
    """A pyarrow dataset: files of any layout and filesystem, which pyarrow reads."""

    def __init__(self, source: Any) -> None:
        self.name = type(source).__name__
        self.size = 0
        self._source = source
        self.schema = source.schema
        self.names = list(self.schema.names)

    def chunks(self, selection: Selection, rows: int | None) -> Iterator[tuple[Columns, float]]:
        # By default 16 batches of 4 files are read ahead.
        scanner = self._source.scanner(
            columns=list(selection.all), batch_size=rows or 1 << 15, batch_readahead=2, fragment_readahead=1
        )
        with reading(self.name, "a dataset"):
            for batch in scanner.to_batches():
                yield columns_of(batch, selection), float("nan")


def _within(path: str, names: set[str]) -> bool:
    """Whether a path such as `z.list.element` is of a column; a column's own name may hold dots."""
    parts = path.split(".")
    return any(".".join(parts[:end]) in names for end in range(1, len(parts) + 1))


def _sound(batch: Any) -> Any:
    """The batch, if it is one: an offset gone wrong, or a text that is none, would be read as it is."""
    batch.validate(full=True)
    return batch


def _rows(batch: Any, selection: Selection) -> int:
    return rows_per_batch(width(columns_of(batch, selection), selection))
