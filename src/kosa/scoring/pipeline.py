"""Files from first to last row: planned, scored here or by workers, kept in a state file while it goes."""

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from kosa.scoring import memory as _memory
from kosa.scoring import parallel
from kosa.scoring.against import PairScorer, unpaired
from kosa.scoring.batch import Batch
from kosa.scoring.errors import InputError, Place
from kosa.scoring.pairstate import AnyState, PairState, merge_any, parse_any
from kosa.scoring.parts import Job, Part, Piece, count_rows, cut, cut_both, score_part, together
from kosa.scoring.readers import Reader
from kosa.scoring.resume import Checkpoint
from kosa.scoring.scale import Scale
from kosa.scoring.scorer import Scorer
from kosa.scoring.setup import Setup
from kosa.scoring.side import Side, numbered
from kosa.scoring.sources import Tables, read_rows
from kosa.scoring.wholefile import lock

_log = logging.getLogger("kosa")

Progress = Callable[[int, float], object]


def score_files(
    tables: Sequence[Tables],
    scorer: Scorer | PairScorer,
    scale: Scale,
    force: bool,
    progress: Progress | None,
) -> Scorer | PairScorer:
    """Add all rows of files to a scorer: those of A alone, or those of A and of B."""
    for reader in (reader for each in tables for reader in each.readers):
        if not reader.size:
            scale.refuse(f"files of rows: {reader.name!r} is not, it is read once, by this process")
    firsts = [_first(each) for each in tables]
    scorer.start(*firsts)
    processes = scale.jobs or 1
    memory = None if scale.memory is None else _memory.in_bytes(scale.memory) // processes
    plan = _memory.plan(tables, firsts, memory=memory, rows=tables[0].rows, processes=processes)
    size = sum(reader.size for each in tables for reader in each.readers)
    _log.info(
        "kosa: %s in %d files; %s", _memory.megabytes(size), sum(len(each.readers) for each in tables), plan
    )
    sides = [Side(each, plan.rows) for each in tables]
    with ExitStack() as stack:
        if scale.state is not None:
            stack.enter_context(lock(scale.state))
        assert scorer.state is not None
        checkpoint = Checkpoint(scale.state, sides, _setups(scorer.state), force)
        state = scorer.state = checkpoint.begin(scorer.state)
        if state.rows:
            _log.info("kosa: %s rows of %r are there already", f"{state.rows:,}", str(scale.state))
        stack.enter_context(checkpoint.guard(state))
        workers = stack.enter_context(scale.workers())
        work = _here if workers is None else partial(_by_workers, workers=workers, rows=plan.rows)
        for fraction in work(sides, scorer, lambda: checkpoint.keep(state)):
            if progress is not None:
                progress(state.rows, fraction)
            checkpoint.keep(state)
    return scorer


def _setups(state: AnyState) -> list[Setup]:
    return [state.ours.setup, state.theirs.setup] if isinstance(state, PairState) else [state.setup]


def _first(tables: Tables) -> Batch:
    """The first row of all files."""
    for reader in tables.readers:
        with closing(read_rows(reader, tables.selection, 1)) as batches:
            for batch in batches:
                if len(batch):
                    return batch
    raise InputError("no rows: there is nothing to score")


def _here(sides: Sequence[Side], scorer: Scorer | PairScorer, waiting: Callable[[], None]) -> Iterator[float]:
    """Score by this process; after each batch the fraction that is done."""
    streams = [side.batches(scorer.rows) for side in sides]
    with ExitStack() as stack:
        # Closing a source at an error lets go of its files.
        for stream in streams:
            stack.enter_context(closing(stream))
        for batches in together([_kept(stream, waiting) for stream in streams]):
            scorer.update(*batches)
            yield batches[0].fraction


def _kept(batches: Iterator[Batch], waiting: Callable[[], None]) -> Iterator[Batch]:
    """Batches with rows; between others, of rows that are done already, the user may interrupt."""
    for batch in batches:
        if len(batch):
            yield batch
        else:
            waiting()


@dataclass(frozen=True)
class Shared:
    """What one worker scores: some rows of A, and the same of B, of which the first `skip` are done already."""

    parts: tuple[Sequence[Part], ...]
    skip: int


def _by_workers(
    sides: Sequence[Side],
    scorer: Scorer | PairScorer,
    waiting: Callable[[], None],
    *,
    workers: parallel.Workers,
    rows: int,
) -> Iterator[float]:
    """Score by workers; after each part the fraction that is done."""
    state, ours = scorer.state, sides[0]
    assert state is not None
    counts = None
    if len(sides) > 1 or ours.of_documents:
        counts = [_counted(side, workers, waiting) for side in sides]
    job = Job(pickle.dumps(scorer.fresh()), tuple(side.selection for side in sides), rows)
    submit = _submitter(job, sides, counts)
    for shared, content in parallel.in_order(_shared(sides, counts, state.rows), submit, workers, waiting):
        found = parse_any(content, ours.readers[shared.parts[0][0].file].name)
        merge_any(state, found.shifted(state.rows))
        for number, (side, parts) in enumerate(zip(sides, shared.parts, strict=True)):
            end = parts[-1]
            if counts is not None:
                side.counts = counts[number][: end.file]
            side.done(end.file, found.notes["read"] if end.stop is None else end.stop, end.last, state.rows)
        end = shared.parts[0][-1]
        read = 1.0 if end.last or end.stop is None else end.stop / sum(ours.readers[end.file].pieces)  # type: ignore[attr-defined]
        yield ours.fraction(end.file, read)


def _shared(sides: Sequence[Side], counts: Sequence[list[int]] | None, rows: int) -> Iterator[Shared]:
    """What is to be shared out, in order."""
    ours = sides[0]
    parts: Iterator[tuple[Sequence[Part], ...]]
    if len(sides) == 1:
        single = cut(ours.readers, len(ours.counts), ours.read, ours.reach)
        parts = (([part],) for part in single)
    else:
        assert counts is not None
        _require_same_rows(sides, counts)
        begin = sum(ours.counts) + ours.read
        reach = max(sum(side.counts) + side.reach for side in sides)
        parts = cut_both(ours.readers, counts[0], sides[1].readers, counts[1], begin, reach)
    skip = rows - ours.row
    for each in parts:
        yield Shared(each, skip)
        skip = 0


def _counted(side: Side, workers: parallel.Workers, waiting: Callable[[], None]) -> list[int]:
    """The rows of each file; workers count those of files that do not say."""
    column = side.selection.predictions[0]

    def submit(executor: Executor, reader: Reader) -> "Future[int]":
        return executor.submit(count_rows, reader, column)

    unknown = [reader for reader in side.readers if not hasattr(reader, "pieces")]
    counted = iter([count for _, count in parallel.in_order(unknown, submit, workers, waiting)])
    return [
        sum(getattr(reader, "pieces", ())) if hasattr(reader, "pieces") else next(counted)
        for reader in side.readers
    ]


def _require_same_rows(sides: Sequence[Side], counts: Sequence[Sequence[int]]) -> None:
    """Refuse data sets of different length, and a row a document against a row a token, before they are scored."""
    if sides[0].of_documents != sides[1].of_documents:
        raise InputError(
            "`against`: a document a row against a token a row is compared by one process alone, without `jobs`, "
            "`executor` and `on`"
        )
    totals = [sum(each) for each in counts]
    if totals[0] == totals[1]:
        return
    short = totals.index(min(totals))
    longer, row = sides[1 - short], totals[short]
    file = next(at for at, end in enumerate(accumulate(counts[1 - short])) if end > row)
    place = Place(longer.readers[file].name, row - sum(counts[1 - short][:file]))
    raise unpaired(place.row(0), f"{'AB'[short]} has {row} rows")


def _submitter(
    job: Job, sides: Sequence[Side], counts: Sequence[Sequence[int]] | None
) -> parallel.Submit[Shared, bytes]:
    sizes = [[os.path.getsize(reader.name) for reader in side.readers] for side in sides]

    def pieces(number: int, parts: Sequence[Part]) -> list[Piece]:
        readers = sides[number].readers
        return [
            Piece(
                readers[part.file]
                if counts is None
                else numbered(readers[part.file], sum(counts[number][: part.file])),
                sizes[number][part.file],
                part.start,
                part.stop,
            )
            for part in parts
        ]

    def submit(executor: Executor, shared: Shared) -> "Future[bytes]":
        sides = [pieces(number, parts) for number, parts in enumerate(shared.parts)]
        return executor.submit(score_part, job, sides, shared.skip)

    return submit
