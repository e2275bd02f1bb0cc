"""A data set of files, cut into parts that are scored each by itself: row groups, ranges of rows, whole files."""

import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kosa.scoring.columns import Selection
from kosa.scoring.errors import InputError
from kosa.scoring.readers import Reader
from kosa.scoring.scorer import Scorer
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


def cut(readers: Sequence[Reader], counts: Sequence[int], skip: int) -> Iterator[Part]:
    """The parts of the data set in order, less the files that `counts` has (rows of each) and the first `skip` rows."""
    begun = len(counts)
    for file in range(begun, len(readers)):
        reader = readers[file]
        start = max(0, skip - sum(counts)) if file == begun else 0
        pieces = getattr(reader, "pieces", None)
        if pieces is None:
            yield Part(file, start, None, True)
            continue
        total, end = sum(pieces), 0
        most = max(1, _BYTES * total // max(1, reader.size))
        for count, after in zip(pieces, [*pieces[1:], 0], strict=False):
            end += count
            if start < end < total and end + after - start > most:
                yield Part(file, start, end, False)
                start = end
        yield Part(file, start, total, True)


@dataclass(frozen=True)
class Job:
    """What a worker needs to score any part: the scorer (pickled), the columns, the rows of a batch."""

    scorer: bytes
    selection: Selection
    rows: int


def score_part(job: Job, reader: Reader, size: int, start: int, stop: int | None) -> bytes:
    """The state, as a state file's content, of rows start..stop−1 of a file, numbered within it."""
    if os.path.getsize(reader.name) != size:
        raise InputError(f"{reader.name!r} has changed since the run began")
    scorer: Scorer = pickle.loads(job.scorer)
    for batch in read_rows(reader, job.selection, job.rows, start, stop):
        if len(batch.predictions):
            scorer.update(batch)
    assert scorer.state is not None
    return dump(scorer.state)
