"""Runs that many workers share, that are interrupted and go on, and that say beforehand how much memory they take."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

import kosa
from kosa.cpu import threads
from kosa.scoring import InputError, State, batch, dask, parallel, parts
from kosa.scoring.ahead import ahead
from kosa.scoring.errors import Place
from kosa.scoring.scorer import Scorer

ROWS, CLASSES = 3000, 5
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.standard_normal((ROWS, CLASSES)).astype(np.float32)
LABELS = RANDOM.integers(0, CLASSES, ROWS)
WHOLE = kosa.score(LABELS, logits=LOGITS)


def table(rows: slice = slice(None)) -> pa.Table:
    return pa.table({"y": LABELS[rows]} | {f"z{k}": LOGITS[rows, k] for k in range(CLASSES)})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Parquet, CSV and Parquet: row groups are parts, a CSV file is one, of which nobody knows the rows beforehand."""
    monkeypatch.setattr(parts, "_BYTES", 1 << 12)
    paths = [tmp_path / name for name in ("a.parquet", "b.csv", "c.csv", "d.parquet")]
    rows = [slice(0, 1000), slice(1000, 1500), slice(1500, 2000), slice(2000, None)]
    for path, part in zip(paths, rows, strict=True):
        if path.suffix == ".csv":
            pa.csv.write_csv(table(part), str(path))
        else:
            pq.write_table(table(part), path, row_group_size=90)
    return paths


def score(source: Any, **options: Any) -> kosa.scoring.Score:
    return kosa.score(source, "y", logits="z*", **options)


@pytest.fixture
def whole(files: list[Path]) -> kosa.scoring.Score:
    found = score(files)
    assert found.cross_entropy == pytest.approx(WHOLE.cross_entropy, rel=1e-7)  # text is read as float64
    return found


# Workers


class Shuffled(ThreadPoolExecutor):
    """An executor whose later parts are ready first."""

    def submit(self, call: Any, *args: Any, **options: Any) -> "Future[Any]":  # type: ignore[override]
        def later() -> Any:
            time.sleep(0.02 * RANDOM.random())
            return call(*args, **options)

        return super().submit(later)


def test_any_executor_gives_the_same_bits_whatever_part_is_ready_first(files: list[Path], whole: Any) -> None:
    told = []
    with Shuffled(3) as executor:
        assert score(files, executor=executor, progress=lambda *seen: told.append(seen)) == whole
    assert len(told) > 20
    assert told[-1] == (ROWS, 1.0)
    assert told == sorted(told)


def test_one_process_is_this_one(files: list[Path], whole: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "processes", None)
    assert score(files, jobs=1) == whole


def test_an_error_of_a_worker_is_the_error_of_the_first_bad_part(files: list[Path]) -> None:
    pq.write_table(
        table(slice(0, 50)).set_column(1, "z0", [np.full(50, np.nan)]), files[1].with_suffix(".parquet")
    )
    pq.write_table(table(slice(0, 50)).set_column(0, "y", [np.full(50, 99)]), files[3])
    with (
        Shuffled(3) as executor,
        pytest.raises(InputError, match=r"row 0 \(from 0\) of '.*b.parquet': `logits` hold NaN"),
    ):
        score([files[0], files[1].with_suffix(".parquet"), files[3]], executor=executor)


def test_a_file_that_changes_while_it_is_scored_is_refused(files: list[Path]) -> None:
    class Meddling(ThreadPoolExecutor):
        def submit(self, *args: Any, **options: Any) -> "Future[Any]":  # type: ignore[override]
            pq.write_table(table(slice(0, 1500)), files[0], row_group_size=90)
            return super().submit(*args, **options)

    with (
        Meddling(1) as executor,
        pytest.raises(InputError, match=r"a.parquet' has changed since the run began"),
    ):
        score(files[0], executor=executor)


class Deadly(ThreadPoolExecutor):
    """A pool that breaks like one whose worker was killed: the part at work is lost, then nothing is taken."""

    made: list["Deadly"] = []  # noqa: RUF012

    def __init__(self, kills: set[int]) -> None:
        super().__init__(2)
        self.broken = False
        self.kills = kills
        self.seen = 0
        self.made.append(self)

    def submit(self, *args: Any, **options: Any) -> "Future[Any]":  # type: ignore[override]
        if self.broken:
            raise parallel.BrokenExecutor("the pool is broken")
        self.seen += 1
        if self.seen in self.kills:
            self.broken = True
            lost: Future[Any] = Future()
            lost.set_exception(parallel.BrokenExecutor("a worker died"))
            return lost
        return super().submit(*args, **options)


@pytest.mark.parametrize("kills", [{1}, {3}, {4, 5}, {20}])
def test_what_a_dead_worker_leaves_is_done_again_and_counted_once(
    files: list[Path],
    whole: Any,
    kills: set[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Deadly.made.clear()

    def again() -> Executor:
        return Deadly(kills if not Deadly.made else set())

    monkeypatch.setattr(parallel, "given", lambda executor: parallel.Workers(again(), 4, again))
    assert score(files, executor="replaced") == whole
    assert len(Deadly.made) == 2
    assert "a worker died; what it had begun is done again" in caplog.text


def test_a_part_that_kills_every_worker_ends_the_run(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "given", lambda executor: parallel.Workers(again(), 4, again))

    def again() -> Executor:
        return Deadly({1})

    with pytest.raises(
        InputError, match="a worker died 3 times at one part of the data; was it out of memory"
    ):
        score(files[0], executor="replaced")


def test_a_killed_process_of_a_real_pool_is_replaced(
    files: list[Path], whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[ProcessPoolExecutor] = []

    class Watched(ProcessPoolExecutor):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            pools.append(self)

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Watched)
    killed = []

    def kill(rows: int, fraction: float) -> None:
        if not killed:
            killed.append(next(iter(pools[0]._processes)))
            os.kill(killed[0], signal.SIGKILL)
            while not pools[0]._broken:  # else the other might have done all the rest
                time.sleep(0.01)

    assert score(files, jobs=2, progress=kill) == whole
    assert killed
    assert len(pools) == 2


def test_dask_workers_give_the_same_bits_though_one_is_killed(files: list[Path], whole: Any) -> None:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as cluster:
        assert score(files, on=cluster.scheduler_address) == whole
        killed = []

        def kill(rows: int, fraction: float) -> None:
            if not killed:
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)

        assert score(files, on=cluster.scheduler_address, progress=kill) == whole
        assert killed


def test_what_is_to_work_alone_uses_one_thread() -> None:
    """So a worker of Dask that has one thread to give gives no more."""
    seen: list[int] = []

    def items() -> Any:
        for _ in range(3):
            seen.append(threading.get_ident())
            yield seen[-1]

    with threads.alone():
        with threads.alone():
            assert threads.num_threads() == 1
        assert list(ahead(items())) == [threading.get_ident()] * 3
    assert not threads.is_alone()
    assert threading.get_ident() not in list(ahead(items()))
    asked: list[Any] = []

    class Asked(Executor):
        def submit(self, *args: Any, **options: Any) -> "Future[Any]":  # type: ignore[override]
            asked.append((args, options))
            return Future()

    dask._OneThread(Asked()).submit(max, 3, key=None)
    assert asked == [((dask.in_one_thread, max, 3), {"key": None})]


def test_what_every_part_is_sent_does_not_grow_with_the_classes() -> None:
    scorer = Scorer("logits", None, force=False, worst=5)
    scorer.start(batch.Batch(np.zeros((1, 2000)), np.zeros(1, dtype=int), None, None, Place(), 0))
    sent = pickle.dumps(scorer.fresh())
    assert len(sent) < 1 << 17  # the table of confused pairs alone has 16 MiB
    assert pickle.loads(sent).state.setup == scorer.state.setup


def test_a_scheduler_that_is_not_there(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "_SECONDS", 1)
    with pytest.raises(
        InputError, match=r"`on`: no Dask scheduler answers at 'tcp://127.0.0.1:1' within 1 s"
    ):
        score(files, on="tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"jobs": 0}, "`jobs` is 0, expected 1 or more processes"),
        ({"jobs": 2, "on": "tcp://a:1"}, "`jobs` and `on` both say who works"),
        ({"executor": 3}, "`executor` is a int, expected a concurrent.futures.Executor"),
        ({"memory": "much"}, "`memory` is 'much'; expected a number of bytes, as in 500MB"),
    ],
)
def test_options_that_make_no_sense(files: list[Path], options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        score(files, **options)


def test_what_is_read_once_cannot_be_shared() -> None:
    with pytest.raises(InputError, match="`jobs` is for files of rows: 'Table' is not, it is read once"):
        score(table(), jobs=2)
    with pytest.raises(InputError, match="`state` is for files: this source is read once"):
        kosa.score(LABELS, logits=LOGITS, state="a.state")


# Interrupted


def stopped(files: list[Path], state: Path, number: int, after: int, **options: Any) -> int:
    """Score until a signal comes after some batches; the rows that the state then has."""
    calls = 0

    def send(rows: int, fraction: float) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            os.kill(os.getpid(), number)

    with pytest.raises(
        KeyboardInterrupt, match=r"interrupted after [\d,]+ rows; the same command goes on from"
    ):
        score(files, state=state, progress=send, **options)
    return State.load(state).rows


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [1, 13, 20, 30, 45])
def test_an_interrupted_run_goes_on_and_counts_each_row_once(
    files: list[Path], whole: Any, tmp_path: Path, number: int, after: int
) -> None:
    before = signal.getsignal(number)
    state = tmp_path / "run.state"
    seen = stopped(files, state, number, after, batch_size=70)
    assert 0 < seen < ROWS
    assert signal.getsignal(number) is before
    again: list[int] = []
    assert (
        score(files, state=state, progress=lambda rows, fraction: again.append(rows), batch_size=70) == whole
    )
    assert again[0] > seen, "rows that were counted were counted again"
    assert score(files, state=state, progress=lambda rows, fraction: pytest.fail("nothing is left")) == whole


def test_a_run_begun_here_goes_on_by_workers_and_the_other_way(
    files: list[Path], whole: Any, tmp_path: Path
) -> None:
    state = tmp_path / "run.state"
    with Shuffled(2) as executor:
        first = stopped(files, state, signal.SIGTERM, 14, executor=executor)
        second = stopped(files, state, signal.SIGTERM, 3, batch_size=50)
        third = stopped(files, state, signal.SIGTERM, 2, executor=executor)
        assert first < second < third < ROWS
        assert score(files, state=state, executor=executor) == whole


def test_a_run_of_two_processes_is_interrupted_at_once_and_leaves_none_behind(
    files: list[Path], whole: Any, tmp_path: Path
) -> None:
    state = tmp_path / "run.state"
    started = time.monotonic()
    stopped(files, state, signal.SIGINT, 2, jobs=2)
    assert time.monotonic() - started < 20
    assert score(files, state=state) == whole


def test_a_killed_process_loses_only_what_came_after_the_last_saving(
    files: list[Path], whole: Any, tmp_path: Path
) -> None:
    state = tmp_path / "run.state"
    program = f"""
import os, signal, kosa
from kosa.scoring import resume, parts
resume._SECONDS, resume._SHARE, parts._BYTES = 0.0, 0, 1 << 12
kosa.score({[str(path) for path in files]}, "y", logits="z*", state={str(state)!r}, batch_size=50,
           progress=lambda rows, f: os.kill(os.getpid(), signal.SIGKILL) if rows > 1600 else None)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert 1500 <= State.load(state).rows <= 1600
    assert score(files, state=state) == whole


def test_a_second_interrupt_stops_at_once(files: list[Path], tmp_path: Path) -> None:
    def twice(rows: int, fraction: float) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        score(files, state=tmp_path / "run.state", progress=twice)


def test_after_an_error_the_state_is_the_last_one_saved(files: list[Path], tmp_path: Path) -> None:
    pq.write_table(table(slice(0, 50)).set_column(1, "z0", [np.full(50, np.nan)]), files[3])
    with pytest.raises(InputError, match="`logits` hold NaN"):
        score(files, state=tmp_path / "run.state")
    assert not (tmp_path / "run.state").exists()


def test_other_threads_keep_a_state_too(files: list[Path], whole: Any, tmp_path: Path) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(score(files, state=tmp_path / "run.state")))
    thread.start()
    thread.join()
    assert found == [whole]


def test_a_state_of_another_run_is_refused(files: list[Path], tmp_path: Path) -> None:
    state = tmp_path / "run.state"
    score(files, state=state)

    def refused(text: str, source: Any = files, **options: Any) -> None:
        with pytest.raises(
            InputError, match=f"run.state' is a state of another run: {text}.*; delete it, or name another"
        ):
            score(source, state=state, **options)

    refused(r"of 4 files, and these are 3", files[:3])
    refused(r"of '.*a.parquet', and this is '.*d.parquet'", files[::-1])
    refused("options: `worst` was 5, and is 6", worst=6)
    refused("options: `force` was False, and is True", force=True)
    with pytest.raises(
        InputError, match=r"columns: `predictions` was \['z0', 'z1', 'z2', 'z3', 'z4'\], and is"
    ):
        kosa.score(files, "y", logits="z0,z1,z2,z4,z3", state=state)
    os.utime(files[1], ns=(0, 0))
    refused(r"'.*b.csv' has changed since")
    State(State.load(state).setup).save(state)
    refused("it was not kept by a run of `kosa score --state`")
    state.write_text("no state")
    with pytest.raises(InputError, match=r"run.state' is no state file of kosa"):
        score(files, state=state)


def test_two_runs_do_not_write_one_state(files: list[Path], tmp_path: Path) -> None:
    program = f"""
from kosa.scoring.wholefile import lock
with lock({str(tmp_path / "run.state")!r}):
    print(1, flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match="is being written by another process or thread"):
            score(files, state=tmp_path / "run.state")
        other.communicate("\n")


def test_the_command_line_says_how_to_go_on(files: list[Path], whole: Any, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "kosa.cli",
        "score",
        str(tmp_path / "*.*"),
        "--target",
        "y",
        "--logits",
        "z*",
    ]
    program = "import sys; from kosa.cli import main; main()"
    command[1:3] = ["-c", program]
    state, out = tmp_path / "x" / "run.state", tmp_path / "x" / "out.json"
    state.parent.mkdir()
    command += ["--state", str(state), "--json", str(out), "--memory", "500MB"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert json.loads(out.read_text())["cross_entropy"] == whole.cross_entropy
    refused = subprocess.run([*command, "--worst", "3"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "is a state of another run: options: `--worst` was 5, and is 3" in refused.stderr
    assert "name another file by `--state`" in refused.stderr
