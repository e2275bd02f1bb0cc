"""Files from first to last row: planned, scored here or by workers, kept in a state file while it goes."""

import logging
import math
import os
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, closing
from dataclasses import replace

from kosa.scoring import memory as _memory
from kosa.scoring import parallel
from kosa.scoring.batch import Batch
from kosa.scoring.columns import Selection
from kosa.scoring.errors import InputError
from kosa.scoring.parts import Job, Part, cut, score_part
from kosa.scoring.readers import Reader
from kosa.scoring.resume import Checkpoint, run_of
from kosa.scoring.scale import Scale
from kosa.scoring.scorer import Scorer
from kosa.scoring.sources import Tables, read_rows
from kosa.scoring.statefile import parse
from kosa.scoring.tokenreaders import DocumentReader
from kosa.scoring.wholefile import lock

_log = logging.getLogger("kosa")

Progress = Callable[[int, float], object]


def score_files(
    tables: Tables, scorer: Scorer, scale: Scale, force: bool, progress: Progress | None
) -> Scorer:
    """Add all rows of files to a scorer."""
    readers, selection, rows = tables.readers, tables.selection, tables.rows
    for reader in readers:
        if not reader.size:
            scale.refuse(f"files of rows: {reader.name!r} is not, it is read once, by this process")
        if isinstance(reader, DocumentReader):
            replace(scale, memory=None).refuse(
                f"files of rows: {reader.name!r} is not, documents are numbered from the first on"
            )
    first = _first(readers, selection)
    scorer.start(first)
    processes = scale.jobs or 1
    memory = None if scale.memory is None else _memory.in_bytes(scale.memory) // processes
    plan = _memory.plan(readers, selection, first, memory=memory, rows=rows, processes=processes)
    size = sum(reader.size for reader in readers)
    _log.info("kosa: %s in %d files; %s", _memory.megabytes(size), len(readers), plan)
    assert scorer.state is not None
    run = {} if scale.state is None else run_of(readers, selection, scorer.state.setup, force)
    with ExitStack() as stack:
        if scale.state is not None:
            stack.enter_context(lock(scale.state))
        checkpoint = Checkpoint(scale.state, run)
        state = scorer.state = checkpoint.begin(scorer.state)
        if state.rows:
            _log.info("kosa: %s rows of %r are there already", f"{state.rows:,}", str(scale.state))
        counts: list[int] = state.notes.setdefault("counts", [])
        stack.enter_context(checkpoint.guard(state))
        workers = stack.enter_context(scale.workers())
        tell = _teller(readers, progress)
        if workers is None:
            for part in cut(readers, list(counts), state.rows):
                base, end = sum(counts), part.start
                batches = read_rows(readers[part.file], selection, plan.rows, part.start, part.stop)
                with closing(batches):
                    for batch in batches:
                        end = batch.place.first + len(batch.predictions)
                        if len(batch.predictions):
                            scorer.update(replace(batch, first=base + batch.first))
                            tell(state.rows, part.file, batch.fraction)
                        checkpoint.keep(state)
                if part.last:
                    counts.append(end)
        else:
            job = Job(pickle.dumps(scorer.fresh()), selection, plan.rows)
            for part, content in parallel.in_order(
                cut(readers, list(counts), state.rows),
                _submitter(job, readers),
                workers,
                lambda: checkpoint.keep(state),
            ):
                found = parse(content, readers[part.file].name)
                state.merge(found.shifted(sum(counts)))
                if part.last:
                    counts.append(part.start + found.rows)
                tell(state.rows, part.file, _fraction(readers[part.file], part))
                checkpoint.keep(state)
    return scorer


def _first(readers: Sequence[Reader], selection: Selection) -> Batch:
    """The first row of all files."""
    for reader in readers:
        with closing(read_rows(reader, selection, 1)) as batches:
            for batch in batches:
                return batch
    raise InputError("no rows: there is nothing to score")


def _submitter(job: Job, readers: Sequence[Reader]) -> parallel.Submit[Part]:
    sizes = [os.path.getsize(reader.name) for reader in readers]

    def submit(executor: Executor, part: Part) -> "Future[bytes]":
        reader = readers[part.file]
        return executor.submit(score_part, job, reader, sizes[part.file], part.start, part.stop)

    return submit


def _teller(readers: Sequence[Reader], progress: Progress | None) -> Callable[[int, int, float], None]:
    """Tells the fraction of all bytes, where the fraction of one file is known."""
    sizes = [reader.size for reader in readers]
    before = [sum(sizes[:file]) for file in range(len(sizes))]
    total = sum(sizes)

    def tell(rows: int, file: int, fraction: float) -> None:
        if progress is not None:
            progress(rows, (before[file] + fraction * sizes[file]) / total if total else math.nan)

    return tell


def _fraction(reader: Reader, part: Part) -> float:
    return 1.0 if part.last or part.stop is None else part.stop / max(1, sum(getattr(reader, "pieces", [])))
