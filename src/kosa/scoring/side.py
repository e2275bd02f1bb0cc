"""One set of predictions in files, and how far it has been read."""

import hashlib
import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from kosa.scoring.batch import Batch
from kosa.scoring.coverage import Source
from kosa.scoring.readers import Reader
from kosa.scoring.sources import Tables, read_rows
from kosa.scoring.tokenreaders import DocumentReader

_MOST_NAMES = 80  # letters of the names of columns that a state keeps


class Side:
    """Files, the columns to read of each, and the place up to which they have been read.

    counts: how many rows each of the files has that are done.  read: how many rows of the next are done.  row: the
    number, in the whole, of the row that follows.  reach: how many rows of the next file have been begun. Of files
    of documents row is of tokens, and all else of documents.
    """

    def __init__(self, tables: Tables, rows: int | None = None) -> None:
        self.readers, self.selection = tables.readers, tables.selection
        self._rows = tables.rows if rows is None else rows
        self._sizes = [reader.size for reader in self.readers]
        self.counts: list[int] = []
        self.read = self.row = self.reach = 0

    @property
    def of_documents(self) -> bool:
        """Whether a row of the files is a document."""
        return isinstance(self.readers[0], DocumentReader)

    def batches(self, first: int = 0) -> Generator[Batch, None, None]:
        """The rows from number `first` on. The place follows, when the next batch is asked for."""
        for file in range(len(self.counts), len(self.readers)):
            base = self.row
            reader = numbered(self.readers[file], sum(self.counts))
            for batch in read_rows(reader, self.selection, self._rows, self.read):
                start, end = base + batch.first, base + batch.first + len(batch)
                done = min(max(first - start, 0), len(batch))
                self.reach = batch.reach
                yield replace(
                    batch.part(done), first=start + done, fraction=self.fraction(file, batch.fraction)
                )
                if batch.read is not None:
                    self.read, self.row = batch.read, end
            self.counts.append(self.read)
            self.read = self.reach = 0

    def fraction(self, file: int, of_file: float) -> float:
        """Which part of all bytes comes before a place in a file."""
        total = sum(self._sizes)
        return (sum(self._sizes[:file]) + of_file * self._sizes[file]) / total if total else math.nan

    def done(self, file: int, read: int, last: bool, row: int) -> None:
        """Note that a file has been read up to a row, its last one perhaps."""
        assert file == len(self.counts)
        self.read, self.row = read, row
        if last:
            self.counts.append(read)
            self.read = 0
        self.reach = self.read

    def place(self) -> dict[str, Any]:
        """The place as JSON values."""
        return {"counts": list(self.counts), "read": self.read, "row": self.row, "reach": self.reach}

    def resume(self, place: Any) -> bool:
        """Go on from a place, if it is one."""
        try:
            counts, read, row, reach = (place[name] for name in ("counts", "read", "row", "reach"))
            numbers = [*counts, read, row, reach]
        except (TypeError, LookupError):
            return False
        if (
            len(counts) > len(self.readers)
            or any(type(n) is not int or n < 0 for n in numbers)
            or reach < read
        ):
            return False
        self.counts, self.read, self.row, self.reach = list(counts), read, row, reach
        return True

    def covered(self, prints: Sequence[tuple[int, str]], row: int) -> tuple[Source, ...]:
        """Which rows of which files have been read, if all before number `row` have; `prints`: their fingerprints."""
        ahead = row - self.row
        # Of a document that has been begun it is not known which rows are missing: it counts as read.
        end = (self.reach if ahead else self.read) if self.of_documents else self.read + ahead
        ends = [*self.counts, end]
        columns = self._columns()
        return tuple(
            Source(reader.name, size, digest, columns, 0, end)
            for reader, (size, digest), end in zip(self.readers, prints, ends, strict=False)
            if end
        )

    def _columns(self) -> str:
        """What was read as what, in few letters."""
        names = f"{','.join(self.selection.predictions)} for {','.join(self.selection.target)}"
        if len(names) > _MOST_NAMES:
            names = f"{names[:40]}… {hashlib.sha256(names.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
        return f"{self.selection.kind} {names}"


def numbered(reader: Reader, rows: int) -> Reader:
    """A reader that knows how many rows of other files come before its own, where it must."""
    return reader.after(rows) if isinstance(reader, DocumentReader) else reader
