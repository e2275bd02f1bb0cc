"""Documents, a row each, and comparisons give the same bits by workers, interrupted, killed and gone on with."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import kosa
from kosa.scoring import InputError, PairState, Score, State, parallel, parts, resume

DOCUMENTS = 120
RANDOM = np.random.default_rng(1)
# Some without tokens, and one that is longer than any batch.
LENGTHS = np.where(np.arange(DOCUMENTS) % 9 == 4, 0, RANDOM.integers(1, 9, DOCUMENTS))
LENGTHS[[0, 50]] = 0, 60
LISTS = [(-RANDOM.exponential(1.5, length)).tolist() for length in LENGTHS]
OTHERS = [(np.array(entries) - RANDOM.normal(0, 0.1, len(entries)) ** 2).tolist() for entries in LISTS]
ROWS = int(LENGTHS.sum())


class Shuffled(ThreadPoolExecutor):
    """An executor whose later parts are ready first."""

    def submit(self, call: Any, *args: Any, **options: Any) -> "Future[Any]":  # type: ignore[override]
        def later() -> Any:
            time.sleep(0.01 * RANDOM.random())
            return call(*args, **options)

        return super().submit(later)


def table(lists: list[list[float]], start: int, stop: int) -> pa.Table:
    padded = [entries if at % 4 else [*entries, 1.0] for at, entries in enumerate(lists[start:stop], start)]
    return pa.table(
        {
            "lp": pa.array(padded, pa.list_(pa.float64())),
            "text": [f"é{'x' * int(length)}" for length in LENGTHS[start:stop]],
            "name": [f"d{at}" for at in range(start, stop)],
        }
    )


def write(
    folder: Path, lists: list[list[float]], ends: list[int], forms: list[str], group: int
) -> list[Path]:
    """The documents in files of several formats: row groups of Parquet are parts, the others one, of unknown length."""
    folder.mkdir()
    paths = []
    for number, form in enumerate(forms):
        part = table(lists, ([0, *ends])[number], [*ends, DOCUMENTS][number])
        path = folder / f"{number}.{form}"
        if form == "parquet":
            pq.write_table(part, path, row_group_size=group)
        elif form == "arrow":
            pa.feather.write_feather(part, str(path), chunksize=group)
        else:
            path.write_text(
                "".join(f"{row}\n".replace("'", '"') for row in part.to_pylist()), encoding="utf-8"
            )
        paths.append(path)
    return paths


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setattr(parts, "_BYTES", 1)
    return write(tmp_path / "a", LISTS, [30, 55, 80], ["parquet", "jsonl", "arrow", "parquet"], 7)


@pytest.fixture
def theirs(tmp_path: Path) -> list[Path]:
    return write(tmp_path / "b", OTHERS, [10, 40], ["parquet", "arrow", "parquet"], 11)


OPTIONS: dict[str, Any] = {"padding": 1, "per": {"bytes": "text"}, "worst": 9}


def alone(paths: list[Path], **options: Any) -> Score:
    return kosa.score(paths, token_log_probs="lp", **OPTIONS | options)


Run = Callable[..., Score]


@pytest.fixture(params=["documents", "names", "against"])
def run(request: pytest.FixtureRequest, ours: list[Path], theirs: list[Path]) -> Run:
    """Score documents, documents with ids and a group of their own, or two models."""
    more: dict[str, Any] = {
        "documents": {},
        "names": {"id": "name", "group": "name"},
        "against": {"against": theirs, "id": "name"},
    }[request.param]
    return lambda **options: alone(ours, **more | options)


def test_values(ours: list[Path], theirs: list[Path]) -> None:
    found = alone(ours, against=theirs)
    flat, other = (-np.concatenate(lists) for lists in (LISTS, OTHERS))
    assert found.rows == ROWS
    assert found.cross_entropy == pytest.approx(flat.mean(), rel=1e-13)
    assert found.against.difference == pytest.approx((flat - other).mean(), rel=1e-12)
    assert [entry.name for entry in found.groups] == [str(at) for at in np.flatnonzero(LENGTHS)]
    assert found.per[0].units == LENGTHS[LENGTHS > 0].sum() + 2 * (LENGTHS > 0).sum()


@pytest.mark.parametrize("size", [None, 3, 40])
def test_workers_give_the_same_bits_as_one_process(run: Run, size: int | None) -> None:
    told: list[Any] = []
    with Shuffled(3) as executor:
        found = run(batch_size=size, executor=executor, progress=lambda *seen: told.append(seen))
    assert found == run()
    assert told == sorted(told)
    assert told[-1] == (ROWS, 1.0)
    assert len(told) > 5


def test_dask_gives_the_same_bits(ours: list[Path], theirs: list[Path]) -> None:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as cluster:
        assert alone(ours, on=cluster.scheduler_address) == alone(ours)
        assert alone(ours, on=cluster.scheduler_address, against=theirs) == alone(ours, against=theirs)


def test_a_killed_process_of_a_pool_is_replaced(
    ours: list[Path], theirs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[ProcessPoolExecutor] = []
    killed = []

    class Watched(ProcessPoolExecutor):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            pools.append(self)

    def kill(rows: int, fraction: float) -> None:
        if not killed:
            killed.append(next(iter(pools[-1]._processes)))
            os.kill(killed[0], signal.SIGKILL)
            while not pools[-1]._broken:
                time.sleep(0.01)

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Watched)
    assert alone(ours, against=theirs, jobs=2, progress=kill) == alone(ours, against=theirs)
    assert len(pools) == 2


def stopped(run: Run, state: Path, after: int, **options: Any) -> None:
    """Score until Ctrl-C comes after some batches."""
    calls = 0

    def send(rows: int, fraction: float) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"interrupted after [\d,]+ rows; the same command goes on"):
        run(state=state, progress=send, **options)


@pytest.mark.parametrize("after", [1, 4, 11, 23, 44])
def test_an_interrupted_run_goes_on_and_counts_each_row_once(run: Run, tmp_path: Path, after: int) -> None:
    whole, state = run(), tmp_path / "run.state"
    stopped(run, state, after, batch_size=8)
    assert run(state=state, batch_size=5) == whole
    assert run(state=state, progress=lambda rows, fraction: pytest.fail("nothing is left")) == whole


def test_a_run_begun_here_goes_on_by_workers_and_the_other_way(run: Run, tmp_path: Path) -> None:
    whole, state = run(), tmp_path / "run.state"
    with Shuffled(2) as executor:
        # Batches end in the middle of documents, and the two sides' batches at different rows.
        for step in range(1, 5):
            stopped(run, state, step + 2, batch_size=7)
            stopped(run, state, 1, executor=executor)
        assert run(state=state, executor=executor) == whole


def test_a_killed_process_loses_only_what_came_after_the_last_saving(
    run: Run, ours: list[Path], theirs: list[Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    state = tmp_path / "run.state"
    against = [str(path) for path in theirs] if "against" in request.node.name else None
    options = OPTIONS | ({"id": "name"} if against else {})
    options |= {"id": "name", "group": "name"} if "names" in request.node.name else {}
    program = f"""
import os, signal, kosa
from kosa.scoring import resume
resume._SECONDS, resume._SHARE = 0.0, 0
kosa.score({[str(path) for path in ours]}, token_log_probs="lp", **{options!r}, against={against!r}, batch_size=20,
           state={str(state)!r}, progress=lambda rows, f: os.kill(os.getpid(), signal.SIGKILL) if rows > 330 else None)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    kept = PairState.load(state) if against else State.load(state)
    assert 250 <= kept.rows <= 330
    assert run(state=state) == run()


def test_saving_after_every_batch_changes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "_SECONDS", 0.0)
    monkeypatch.setattr(resume, "_SHARE", 0)
    assert run(state=tmp_path / "run.state", batch_size=50) == run()


def test_logits_of_documents_over_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_BYTES", 1)
    logits = RANDOM.standard_normal((24, 5, 4))
    targets = RANDOM.integers(0, 4, (24, 5))
    targets[::3, 3:] = -100
    columns = {"z": pa.array(logits.tolist()), "t": pa.array(targets.tolist()), "w": np.arange(24.0)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=5)
    np.savez(tmp_path / "a.npz", z=logits, t=targets, w=np.arange(24.0))
    np.savez(tmp_path / "b.npz", z=logits[::-1], t=targets[::-1], w=np.arange(24.0))

    def score(paths: list[str], **options: Any) -> Score:
        files = [tmp_path / path for path in paths]
        return kosa.score(files, "t", logits="z", documents=True, padding=-100, weight="w", **options)

    for paths in (["a.parquet"], ["a.npz", "b.npz", "a.parquet"]):
        with Shuffled(2) as executor:
            assert score(paths, executor=executor) == score(paths)


# Comparisons of rows


CLASSES = 4
LOGITS = RANDOM.standard_normal((900, CLASSES))
LABELS = RANDOM.integers(0, CLASSES, 900)
NAMES = ("cat", "dog", "eel", "fox")


def rows(logits: np.ndarray, start: int, stop: int) -> pa.Table:
    columns = {f"z_{name}": logits[start:stop, number] for number, name in enumerate(NAMES)}
    extra = {"w": (np.arange(start, stop) % 5).astype(float), "g": np.arange(start, stop) // 40}
    return pa.table({"y": np.array(NAMES)[LABELS[start:stop]].tolist(), **columns, **extra})


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Path], list[Path]]:
    """Two sides whose files, row groups and formats have nothing in common."""
    monkeypatch.setattr(parts, "_BYTES", 1)
    other = LOGITS + 0.3 * RANDOM.standard_normal(LOGITS.shape)
    found = [tmp_path / name for name in ("a0.parquet", "a1.csv", "b0.parquet", "b1.arrow", "b2.parquet")]
    pq.write_table(rows(LOGITS, 0, 500), found[0], row_group_size=70)
    pa.csv.write_csv(rows(LOGITS, 500, 900), str(found[1]))
    pq.write_table(rows(other, 0, 130), found[2], row_group_size=33)
    pa.feather.write_feather(rows(other, 130, 300), str(found[3]))
    pq.write_table(rows(other, 300, 900), found[4], row_group_size=64)
    return found[:2], found[2:]


def compared(sides: tuple[list[Path], list[Path]], **options: Any) -> Score:
    return kosa.score(sides[0], "y", logits="z*", weight="w", group="g", against=sides[1], **options)


def test_a_comparison_of_rows_by_workers_and_interrupted(
    sides: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    whole, state = compared(sides), tmp_path / "run.state"

    def run(**options: Any) -> Score:
        return compared(sides, **options)

    with Shuffled(3) as executor:
        assert run(executor=executor, batch_size=9) == whole
        for size in (40, 100, 31):
            stopped(run, state, 3, batch_size=size)
            stopped(run, state, 1, executor=executor)
        assert run(state=state, executor=executor) == whole
    kept = PairState.load(state)
    assert kept.result() == whole
    assert [source.stop for source in kept.ours.sources] == [500, 400] or [
        source.stop for source in kept.ours.sources
    ] == [400, 500]


class Never(ThreadPoolExecutor):
    """An executor that may count rows, and no more."""

    def submit(self, call: Any, *args: Any, **options: Any) -> "Future[Any]":  # type: ignore[override]
        assert call is parts.count_rows, "rows were scored"
        return super().submit(call, *args, **options)


@pytest.mark.parametrize(
    ("shorter", "text"),
    [
        (0, "row 230 (from 0) of '.*b2.parquet' has no counterpart: A has 530 rows"),
        (1, "row 30 (from 0) of '.*a1.csv' has no counterpart: B has 530 rows"),
    ],
)
def test_different_numbers_of_rows_are_said_before_workers_score(
    sides: tuple[list[Path], list[Path]], shorter: int, text: str
) -> None:
    path = sides[shorter][-1]
    if shorter:
        pq.write_table(rows(LOGITS, 300, 530), path)
    else:
        pa.csv.write_csv(rows(LOGITS, 500, 530), str(path))
    match = text.replace("(", r"\(").replace(")", r"\)")
    with Never(1) as executor, pytest.raises(InputError, match=match):
        compared(sides, executor=executor)
    with pytest.raises(InputError, match=match):
        compared(sides)


def test_rows_that_differ_are_named_by_workers_too(sides: tuple[list[Path], list[Path]]) -> None:
    table = rows(LOGITS, 300, 900)
    names = table["y"].to_pylist()
    names[350] = NAMES[(NAMES.index(names[350]) + 1) % CLASSES]
    pq.write_table(table.set_column(0, "y", [names]), sides[1][2])
    for options in ({}, {"executor": True}):
        with (
            Shuffled(2) as executor,
            pytest.raises(
                InputError,
                match=r"row 150 \(from 0\) of '.*a1.csv' has the target '\w+', but row 350 \(from 0\) of '.*b2.parquet'",
            ),
        ):
            kosa.score(sides[0], "y", logits="z*", against=sides[1], **options and {"executor": executor})


def test_documents_of_different_lengths_are_no_pair(ours: list[Path], tmp_path: Path) -> None:
    changed = [entries[:-1] if at == 65 else entries for at, entries in enumerate(LISTS)]
    others = write(tmp_path / "c", changed, [], ["parquet"], 10)
    with Shuffled(2) as executor:
        for options in ({}, {"executor": executor}):
            with pytest.raises(
                InputError, match=r"token \d+ of row (10|11|65|66) .* (no counterpart|has the id)"
            ):
                alone(ours, against=others, **options)


def test_a_document_a_row_against_a_token_a_row(ours: list[Path], tmp_path: Path) -> None:
    flat = tmp_path / "flat.parquet"
    pq.write_table(pa.table({"lp": np.concatenate(OTHERS)}), flat)
    whole = alone(ours, against=flat, per=None)
    stopped(lambda **options: alone(ours, against=flat, per=None, **options), tmp_path / "s", 3, batch_size=9)
    assert alone(ours, against=flat, per=None, state=tmp_path / "s") == whole
    with (
        Shuffled(1) as executor,
        pytest.raises(
            InputError,
            match="`against`: a document a row against a token a row is compared by one process alone",
        ),
    ):
        alone(ours, against=flat, per=None, executor=executor)


def test_what_is_read_once_is_not_compared_by_workers(sides: tuple[list[Path], list[Path]]) -> None:
    with pytest.raises(InputError, match="`jobs` is for files of rows: 'Table' is not, it is read once"):
        kosa.score(sides[0], "y", logits="z*", against=rows(LOGITS, 0, 900), jobs=2)
    with pytest.raises(InputError, match="`state` is for files"):
        kosa.score(LABELS, logits=LOGITS, against=LOGITS, state="a.state")


def test_a_state_of_another_comparison_is_refused(
    sides: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    state = tmp_path / "run.state"
    compared(sides, state=state)
    with pytest.raises(
        InputError, match="is a state of another run: that one is a comparison, and this is none"
    ):
        kosa.score(sides[0], "y", logits="z*", weight="w", group="g", state=state)
    with pytest.raises(InputError, match=r"another run: of 3 files, and these are 1"):
        compared((sides[0], sides[1][:1]), state=state)
    with pytest.raises(
        InputError, match=r"another run: against columns: `kind` was 'logits', and is 'log_probs'"
    ):
        compared(sides, state=state, against_columns={"log_probs": "z*"})
    kosa.score(sides[0], "y", logits="z*", weight="w", group="g", state=tmp_path / "one.state")
    with pytest.raises(InputError, match="that one is no comparison, and this is one"):
        compared(sides, state=tmp_path / "one.state")


def test_memory_is_for_both_sides(sides: tuple[list[Path], list[Path]]) -> None:
    with pytest.raises(
        InputError, match=r"`memory` of 250 MB a process is too little: .* to read 12 columns .* takes \d+ MB"
    ) as told:
        compared(sides, memory="250MB")
    enough = int(str(told.value).split(" it takes ")[1].split(" MB")[0]) + 1
    assert compared(sides, memory=f"{enough}MB") == compared(sides)
    one = {"group": "g", "weight": "w", "memory": f"{enough - 20}MB"}
    assert kosa.score(sides[0], "y", logits="z*", **one).rows == 900


def test_the_figures_of_both_sides_are_those_of_each_alone(sides: tuple[list[Path], list[Path]]) -> None:
    found = compared(sides)
    assert found.against.rows == 900
    mine = kosa.score(sides[0], "y", logits="z*", weight="w", group="g")
    other = kosa.score(sides[1], "y", logits="z*", weight="w", group="g")
    assert replace(found, against=None) == mine
    assert found.against.score == other
