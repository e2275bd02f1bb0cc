"""A data set of files, cut into parts that are scored each by itself: row groups, ranges of rows, whole files."""

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from kosa.scoring.against import in_step
from kosa.scoring.batch import Batch
from kosa.scoring.columns import Selection
from kosa.scoring.errors import InputError
from kosa.scoring.readers import Reader
from kosa.scoring.sources import read_rows
from kosa.scoring.statefile import dump

_BYTES = 1 << 27  # of a part: seconds of work, so that a worker that dies costs no more


@dataclass(frozen=True)
class Part:
    """Rows start..stop−1 of file number `file` (None: to its end), and whether they are its last."""

    file: int
    start: int
    stop: int | None
    last: bool


def cut(readers: Sequence[Reader], file: int, read: int, reach: int) -> Iterator[Part]:
    """The parts of the data set in order, from row `read` of file number `file` on; the first has row `reach` − 1."""
    for number in range(file, len(readers)):
        reader = readers[number]
        start = read if number == file else 0
        pieces = getattr(reader, "pieces", None)
        if pieces is None:
            yield Part(number, start, None, True)
            continue
        total, end = sum(pieces), 0
        most = max(1, _BYTES * total // max(1, reader.size))
        for count, after in zip(pieces, [*pieces[1:], 0], strict=False):
            end += count
            if start < end < total and end + after - start > most and (end >= reach or number != file):
                yield Part(number, start, end, False)
                start = end
        yield Part(number, start, total, True)


def cut_both(
    ours: Sequence[Reader],
    our_counts: Sequence[int],
    theirs: Sequence[Reader],
    their_counts: Sequence[int],
    begin: int,
    reach: int,
) -> Iterator[tuple[list[Part], list[Part]]]:
    """The parts of two data sets of the same rows in order, from row `begin` of the whole on: the same rows of each.
    The first has row `reach` − 1.

    `our_counts` and `their_counts` are the rows of the files. A file of theirs that can only be read from its start is
    not shared by two parts, as each would read all of it.
    """
    total = sum(our_counts)
    ends = set(accumulate(our_counts))
    for reader, start in zip(ours, accumulate(our_counts, initial=0), strict=False):
        ends |= {start + end for end in accumulate(getattr(reader, "pieces", ()))}
    for reader, (start, end) in zip(theirs, pairwise(accumulate(their_counts, initial=0)), strict=True):
        if not hasattr(reader, "pieces"):
            ends -= {inner for inner in ends if start < inner < end}
    usable = sorted(end for end in ends | {total} if end > begin and end >= min(reach, total))
    most = max(1, _BYTES * total // max(1, sum(reader.size for reader in ours)))
    for end, after in zip(usable, [*usable[1:], None], strict=True):
        if after is None or after - begin > most:
            yield stretch(our_counts, begin, end), stretch(their_counts, begin, end)
            begin = end


def stretch(counts: Sequence[int], start: int, stop: int) -> list[Part]:
    """Rows start..stop−1 of the whole, file by file."""
    found = []
    for file, (first, end) in enumerate(pairwise(accumulate(counts, initial=0))):
        if max(start, first) < min(stop, end):
            found.append(Part(file, max(start - first, 0), min(stop, end) - first, stop >= end))
    return found


@dataclass(frozen=True)
class Piece:
    """Rows start..stop−1 of a file, which had `size` bytes when the run began."""

    reader: Reader
    size: int
    start: int
    stop: int | None


@dataclass(frozen=True)
class Job:
    """What a worker needs to score any part: the scorer (pickled), the columns of each side, the rows of a batch."""

    scorer: bytes
    selections: tuple[Selection, ...]
    rows: int


def score_part(job: Job, sides: Sequence[Sequence[Piece]], skip: int) -> bytes:
    """The state, as a state file's content, of some rows, numbered from 0 after the first `skip`, which are done already.

    `sides` are the pieces of files that hold them, of A alone or of A and B. The notes say up to which row the last file
    of A was read.
    """
    scorer = pickle.loads(job.scorer)
    read = [0] * len(sides)

    def rows(side: int) -> Iterator[Batch]:
        first = -skip
        for piece in sides[side]:
            if os.path.getsize(piece.reader.name) != piece.size:
                raise InputError(f"{piece.reader.name!r} has changed since the run began")
            read[side] = piece.start
            with closing(
                read_rows(piece.reader, job.selections[side], job.rows, piece.start, piece.stop)
            ) as batches:
                for batch in batches:
                    done = min(max(-first, 0), len(batch))
                    if done < len(batch):
                        yield replace(batch.part(done), first=first + done)
                    first += len(batch)
                    read[side] = batch.read or read[side]

    for batches in together([rows(side) for side in range(len(sides))], whole=False):
        scorer.update(*batches)
    assert scorer.state is not None
    scorer.state.notes = {"read": read[0]}
    return dump(scorer.state.stored())


def together(streams: Sequence[Iterator[Batch]], whole: bool = True) -> Iterator[tuple[Batch, ...]]:
    """The batches of one stream, or those of two with the same rows in each; see `in_step`."""
    if len(streams) == 1:
        return ((batch,) for batch in streams[0] if len(batch))
    left, right = streams
    return in_step(left, right, whole)


def count_rows(reader: Reader, column: str) -> int:
    """How many rows a file has that can only be read from its start; `column` is one of its columns of predictions."""
    reader = getattr(reader, "reader", reader)  # of documents, not of tokens
    one = Selection("logits", (column,), (), None, None, None)
    return sum(len(columns[column]) for columns, _ in reader.chunks(one, None))
