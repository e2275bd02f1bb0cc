"""CSV and JSON Lines, plain or compressed, read in blocks."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json

from kosa.scoring.arrowfiles import columns_of, reading
from kosa.scoring.columns import Selection
from kosa.scoring.errors import InputError, Place
from kosa.scoring.readers import Columns, one_line

_CSV_BLOCK = 1 << 20  # Arrow parses about forty blocks ahead, each into as many bytes again
_JSON_BLOCK = 1 << 20


class _Text:
    """A text file, decompressed by its ending, that knows how far it has been read."""

    def __init__(self, name: str) -> None:
        self._file = pa.OSFile(name)
        ending = Path(name).suffix.lower().lstrip(".")
        codec = {"gz": "gzip", "bz2": "bz2", "zst": "zstd", "lz4": "lz4"}.get(ending)
        self.stream = pa.CompressedInputStream(self._file, codec) if codec else self._file
        self.size = self._file.size()

    def fraction(self) -> float:
        return float(self._file.tell() / self.size)


def lines(stream: Any, size: int) -> Iterator[bytes]:
    """Whole lines, at least one and about `size` bytes at a time."""
    rest: list[bytes] = []
    while block := stream.read(size):
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join([*rest, block[:end]])
            rest = []
        rest.append(block[end:])
    if any(rest):
        yield b"".join(rest)


class CsvFile:
    """CSV with a header line; prediction columns are read as float64, labels and ids as they are written."""

    untyped = True

    def __init__(self, name: str, delimiter: str) -> None:
        self.name = name
        self.size = Path(name).stat().st_size
        # Quoted line ends are common in columns of text beside the predictions.
        self._parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        with reading(name, "CSV"):
            header = next(lines(_Text(name).stream, _CSV_BLOCK), b"").split(b"\n")[0]
            # A row must fit into a block; numbers are longer than the names of their columns.
            self._block = max(_CSV_BLOCK, 16 * len(header))
            with self._open(pa.BufferReader(header + b"\n"), {}) as reader:
                self.names = list(reader.schema.names)

    def _open(self, stream: Any, types: dict[str, Any]) -> Any:
        # Only an empty field is null: "NA" may be a class, and "nan" must be seen as the number it is.
        convert = pa_csv.ConvertOptions(
            column_types=types or None,
            include_columns=list(types),
            null_values=[""],
            strings_can_be_null=True,
        )
        return pa_csv.open_csv(stream, pa_csv.ReadOptions(block_size=self._block), self._parse, convert)

    def chunks(self, selection: Selection, rows: int | None) -> Iterator[tuple[Columns, float]]:
        types = {name: pa.string() for name in selection.text}
        types |= {name: pa.float64() for name in selection.numeric}
        with reading(self.name, "CSV"):
            text = _Text(self.name)
            try:
                for batch in self._open(text.stream, types):
                    yield columns_of(batch, selection), text.fraction()
            except pa.ArrowInvalid as error:
                if "conversion error" in str(error):
                    self._refuse_text(selection)
                raise

    def _refuse_text(self, selection: Selection) -> None:
        """Find the first value that is no number: Arrow's own error does not name its row."""
        place = Place(self.name)
        for batch in self._open(_Text(self.name).stream, dict.fromkeys(selection.numeric, pa.string())):
            bad = [found for name in selection.numeric if (found := _first_text(batch.column(name), name))]
            if bad:
                row, name, value = min(bad)
                raise InputError(f"{place.row(row)}: column {name!r} holds {value!r}, expected a number")
            place = place.after(len(batch))


def _first_text(column: Any, name: str) -> tuple[int, str, str] | None:
    """Row, column and value of the first string that is no number."""
    try:
        column.cast(pa.float64())
    except pa.ArrowInvalid:
        for row, value in enumerate(column):
            try:
                value.cast(pa.float64())
            except pa.ArrowInvalid:
                return row, name, value.as_py()
    return None


class JsonFile:
    """One JSON object a line; each block has its own types, so that 0 and 0.5 may share a column."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = Path(name).stat().st_size
        with reading(name, "JSON Lines"):
            block = next(lines(_Text(name).stream, _JSON_BLOCK), b"")
            if block.lstrip()[:1] == b"[":
                raise InputError(f"{name!r} is a JSON array; expected JSON Lines, one object a line")
            self.names = list(self._parse(block, Place(name)).schema.names) if block.strip() else []

    def chunks(self, selection: Selection, rows: int | None) -> Iterator[tuple[Columns, float]]:
        place = Place(self.name)
        text = _Text(self.name)
        with reading(self.name, "JSON Lines"):
            for block in lines(text.stream, _JSON_BLOCK):
                if not block.strip():
                    continue
                table = self._parse(block, place)
                for missing in sorted(set(selection.all) - set(table.schema.names)):
                    raise InputError(f"{place.row(0)}: no field {missing!r}; every row needs a value")
                for batch in table.select(list(selection.all)).combine_chunks().to_batches():
                    yield columns_of(batch, selection), text.fraction()
                place = place.after(len(table))

    def _parse(self, block: bytes, place: Place) -> Any:
        """The rows of a block as a table."""
        try:
            return pa_json.read_json(pa.BufferReader(block), pa_json.ReadOptions(block_size=len(block) + 1))
        except pa.ArrowInvalid as error:
            found = re.search(r" in row (\d+)$", str(error))
            where = place.row(int(found[1])) if found else repr(self.name)
            said = one_line(error).removesuffix(found[0] if found else "")
            raise InputError(f"{where} cannot be read as JSON Lines: {said}") from error
