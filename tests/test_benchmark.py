"""The benchmark itself: fair rounds, limits that touch every byte, and no time for a wrong answer."""

import getpass
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kosa import definition
from kosa.benchmark import (
    NAMES,
    cases,
    contestants,
    harness,
    limits,
    machine,
    processes,
    report,
    runner,
    series,
)
from kosa.benchmark.contestants import Problem
from kosa.benchmark.harness import Contestant, Entry, Missing, measure

TINY = 1e-6  # seconds a timing must last: none of these tests looks at the times themselves


def silent(text: str) -> None:
    """Hears the steps of a run and says nothing."""


def problem(shape: tuple[int, ...] = (6, 5), seed: int = 0, **options: Any) -> Problem:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(shape, dtype=np.float32)
    return Problem(z, rng.integers(shape[1], size=(shape[0], *shape[2:])), **options)


def right(p: Problem) -> Contestant:
    return Contestant(lambda: p.reference[0], lambda loss: (loss, p.reference[1]))


def entry(call: Callable[[], Any], name: str = "rival") -> Entry:
    return Entry(name, lambda p: Contestant(call, lambda loss: (loss, None)))


def test_every_contestant_is_timed_once_a_round() -> None:
    heard: list[str] = []
    results = measure(
        [Entry("a", right), Entry("b", right)], problem(), rounds=4, say=heard.append, min_seconds=TINY
    )
    assert [len(result.seconds) for result in results] == [4, 4]
    rounds = [line for line in heard if "round" in line]
    for number in range(4):
        pair = rounds[2 * number : 2 * number + 2]
        assert sorted(pair) == [f"a: round {number + 1} of 4", f"b: round {number + 1} of 4"]
    assert {line[0] for line in rounds[::2]} == {"a", "b"}  # neither goes first every time


def test_a_slow_contestant_takes_part_in_every_third_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SLOW_SECONDS", 0.005)
    p = problem()

    def slow(_: Problem) -> Contestant:
        def call() -> float:
            time.sleep(0.01)
            return p.reference[0]

        return Contestant(call, lambda loss: (loss, None))

    results = measure([Entry("slow", slow), Entry("fast", right)], p, 7, silent, min_seconds=TINY)
    assert [len(result.seconds) for result in results] == [3, 7]


def test_a_short_call_is_repeated_until_it_can_be_timed() -> None:
    (result,) = measure([Entry("a", right)], problem(), 2, silent, min_seconds=0.002)
    assert result.calls > 10
    assert max(result.seconds) < 0.002


def test_a_wrong_value_has_no_time() -> None:
    p = problem()
    wrong = p.reference[0] * (1 + 1e-4)
    (result,) = measure([entry(lambda: wrong)], p, 2, silent, min_seconds=TINY)
    assert result.missing == f"wrong value: {wrong:.6g} instead of {p.reference[0]:.6g}"
    assert result.seconds == []
    assert result.summary() == {"name": "rival", "missing": result.missing}


def test_nan_is_a_wrong_value() -> None:
    (result,) = measure([entry(lambda: float("nan"))], problem(), 2, silent, min_seconds=TINY)
    assert result.missing is not None
    assert result.missing.startswith("wrong value: nan")


@pytest.mark.parametrize("place", [(0, 0), (3, 2), (5, 4)])
def test_a_wrong_gradient_has_no_time(place: tuple[int, int]) -> None:
    p = problem(gradient=True)
    _, grad = numpy_answer(p)
    grad[place] += 1e-3
    wrong = Entry("rival", lambda _: Contestant(lambda: p.reference[0], lambda loss: (loss, grad)))
    (result,) = measure([wrong], p, 2, silent, min_seconds=TINY)
    assert result.missing is not None
    assert result.missing.startswith("wrong gradient: off by 0.001")


def test_a_gradient_that_is_not_there_has_no_time() -> None:
    p = problem(gradient=True)
    (result,) = measure([entry(lambda: p.reference[0])], p, 2, silent, min_seconds=TINY)
    assert result.missing == "no gradient"


def test_a_library_that_fails_does_not_end_the_run() -> None:
    def fails() -> float:
        raise RuntimeError("no compiler here\nand a long trace")

    results = measure([entry(fails), Entry("a", right)], problem(), 2, silent, min_seconds=TINY)
    assert results[0].missing == "failed: RuntimeError: no compiler here"
    assert len(results[1].seconds) == 2


def test_a_failure_of_kosa_ends_the_run() -> None:
    def fails() -> float:
        raise RuntimeError("kernel broken")

    with pytest.raises(RuntimeError, match="kernel broken"):
        measure([entry(fails, "kosa, out=")], problem(), 2, silent, min_seconds=TINY)


def test_quartiles_and_range_are_those_of_the_rounds() -> None:
    result = harness.Result("a", seconds=[4.0, 1.0, 3.0, 2.0, 5.0], calls=2, error=0.0)
    summary = result.summary()
    assert summary["median_s"] == 3
    assert summary["quartiles_s"] == [2, 4]
    assert summary["range_s"] == [1, 5]
    assert (summary["rounds"], summary["calls_a_round"]) == (5, 2)


@pytest.fixture(params=["one thread", "all threads"])
def forced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes one of the two ways whichever is faster here, for both must touch every byte."""
    monkeypatch.setattr(limits, "_faster", lambda one, many: one if request.param == "one thread" else many)


# 3 threads do not divide these evenly, and 3 bytes at the end make no whole word.
@pytest.mark.parametrize(("size", "dtype"), [(10, np.float32), (40_001, np.float32), (1_503, np.uint8)])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.usefixtures("forced")
def test_the_bare_read_reads_every_word(size: int, dtype: type, threads: int) -> None:
    array = np.random.default_rng(0).integers(1, 100, size).astype(dtype)
    read = limits.bare_read([array], threads).call()
    words = array.view(np.uint8)[: array.nbytes // 8 * 8].view(np.uint64)
    assert sum(int(part) for part in read) % 2**64 == int(words.sum())


@pytest.mark.usefixtures("forced")
def test_the_bare_read_of_two_arrays_reads_both() -> None:
    a, b = np.arange(1000, dtype=np.uint64), np.full(7, 5, np.uint64)
    assert sum(limits.bare_read([a, b], 2).call()) == a.sum() + b.sum()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.usefixtures("forced")
def test_the_bare_copy_copies_every_element(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[np.ndarray] = []
    full_like = np.full_like

    def remembered(*args: Any, **kwargs: Any) -> np.ndarray:
        made.append(full_like(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(np, "full_like", remembered)
    source = np.random.default_rng(0).standard_normal((101, 37)).astype(np.float32)
    limits.bare_copy(source, threads).call()
    np.testing.assert_array_equal(made[0], source)


def test_the_limit_is_the_faster_of_one_thread_and_all() -> None:
    fast, slow = (lambda: None), (lambda: time.sleep(0.005))
    assert limits._faster(fast, slow) is fast
    assert limits._faster(slow, fast) is fast


def numpy_answer(p: Problem) -> tuple[float, np.ndarray]:
    contestant = contestants.numpy_batch(p)
    assert contestant.answer is not None
    loss, grad = contestant.answer(contestant.call())
    assert grad is not None
    return loss, grad


def test_the_reference_is_the_definition() -> None:
    p = problem((7, 4))
    assert p.reference[0] == pytest.approx(float(definition_mean(p.targets, p.logits)), rel=1e-12)
    soft = np.random.default_rng(1).random((7, 4), dtype=np.float32)
    p = Problem(p.logits, soft)
    assert p.reference[0] == pytest.approx(float(definition_mean(soft, p.logits)), rel=1e-12)


def definition_mean(targets: np.ndarray, logits: np.ndarray) -> float:
    t = targets if targets.shape == logits.shape else np.eye(logits.shape[1])[targets]
    y = np.exp(logits.astype(np.float64))
    y /= y.sum(axis=1, keepdims=True)
    return float(np.mean([definition.cross_entropy(ti, yi) for ti, yi in zip(t, y, strict=True)]))


def test_the_reference_of_a_tiled_problem_is_that_of_its_tile() -> None:
    big = series._problem(5_000_000, threads=1)
    assert big.tile is not None
    untiled = Problem(big.logits, big.targets)
    assert big.reference[0] == pytest.approx(untiled.reference[0], rel=1e-12)


KINDS = {
    "value": lambda: problem((40, 30)),
    "gradient": lambda: problem((40, 30), gradient=True),
    "segmentation": lambda: problem((3, 5, 6, 7), gradient=True),
    "soft": lambda: Problem(problem((40, 30)).logits, np.full((40, 30), 1 / 30, np.float32)),
    "bfloat16": lambda: cases._bfloat16(True),
}
# torch.compile takes seconds a shape, and jax belongs to the benchmark's extra alone.
WAYS = {
    entry.name: entry
    for entry in contestants.GRADIENT
    if entry.name not in ("limit", "torch.compile", "jax.jit")
}
PAIRS = [
    (kind, way)
    for kind in KINDS
    for way in WAYS
    if way != "kosa, out=" or kind in ("gradient", "segmentation")
]


@pytest.mark.parametrize(("kind", "way"), PAIRS)
def test_contestants_compute_the_same(kind: str, way: str) -> None:
    (result,) = measure([WAYS[way]], KINDS[kind](), 1, silent, min_seconds=TINY)
    absent = {"scikit-learn": {"gradient", "segmentation", "soft", "bfloat16"}, "SciPy": {"bfloat16"}}
    if kind in absent.get(way, set()):
        assert result.missing in ("has no such function", "no bfloat16")
    else:
        assert result.missing is None
        assert len(result.seconds) == 1


def test_all_ways_of_the_text_agree() -> None:
    text = next(case for case in cases.CASES if case.name == "text")
    results = measure(text.entries, text.build(True), 1, silent, min_seconds=TINY)
    assert [result.missing for result in results] == [None] * 5


def test_every_goal_names_contestants_of_its_case() -> None:
    for goal in cases.GOALS:
        case = next(case for case in cases.CASES if case.name == goal.case)
        names = {entry.name for entry in case.entries}
        assert goal.subject in names
        assert goal.rival is None or goal.rival in names
        assert (goal.at_most is None) != (goal.at_least is None)
        assert case.main in names


def found_with(**medians: float) -> dict[str, Any]:
    results = [{"name": name.replace("_", " "), "median_s": median} for name, median in medians.items()]
    case = {"name": "value", "title": "value", "main": "kosa", "results": results}
    return {"cases": [case], "threads": 2}


def test_goals_are_reached_at_the_bound_and_missed_beyond() -> None:
    goals = runner.goals(found_with(limit=10.0, kosa=16.0, torch_eager=128.0))
    by_rival = {goal["against"]: goal for goal in goals}
    assert by_rival["limit"]["measured"] == 1.6
    assert by_rival["limit"]["reached"] is True
    assert by_rival["torch eager"]["measured"] == 8
    assert by_rival["torch eager"]["reached"] is True
    assert by_rival["jax.jit"]["reached"] is None
    goals = runner.goals(found_with(limit=10.0, kosa=16.1, torch_eager=128.0))
    assert [goal["reached"] for goal in goals] == [False, False, None]


def test_memory_goals_count_rows_classes_and_threads() -> None:
    result = {"case": "gradient", "name": "kosa, out=", "rows": 100, "classes": 1000}
    room = 64 * 100 + 32 * 2 * 1000
    for traced, reached in ((room, True), (room + 1, False)):
        figures = {**result, "traced_bytes": traced, "resident_bytes": 0}
        found = {"cases": [], "threads": 2, "memory": {"results": [figures]}}
        assert [goal["reached"] for goal in runner.goals(found)] == [reached, True]


def test_a_case_that_needs_more_memory_than_there_is_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: 2**30)
    found = runner.run(["value"], rounds=1)
    assert found["cases"][0]["skipped"] == "skipped: needs 10 GiB of free memory, there are 1.0"
    assert "skipped: needs 10 GiB" in report.markdown(found)


def test_the_series_leaves_out_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "free_memory", lambda: None)
    monkeypatch.setattr(series, "SIZES", (1000, 10**9))
    found = series.run(quick=False, rounds=1, threads=1, say=silent)
    assert found["points"][0]["elements"] == 1000
    assert {r["name"] for r in found["points"][0]["results"]} == {"limit", "kosa", "NumPy", "torch eager"}
    assert found["points"][1]["skipped"] == (
        "skipped: needs 4.7 GiB of free memory, there is an unknown amount"
    )


def test_memory_of_one_call_is_seen() -> None:
    figures = json.loads(processes._python(["-m", "kosa.benchmark.child", "value", "NumPy", "--quick"]))
    # NumPy's idiom holds the shifted logits and their exponentials: 64×1000 float32, twice.
    assert 2 * 256_000 <= figures["traced_bytes"] < 3 * 256_000
    assert figures["rows"] == 64
    assert figures["classes"] == 1000


def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        processes._python(["-c", "1 / 0"])


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.5, "2.5 s"), (0.0162, "16.2 ms"), (15e-6, "15 µs"), (123e-6, "123 µs"), (3e-9, "3 ns")],
)
def test_seconds_are_printed_in_the_unit_that_fits(value: float, text: str) -> None:
    assert report.seconds(value) == text


def kosa_bench(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    typed = ["kosa", "bench", *arguments]
    code = f"import sys\n{before}\nfrom kosa.cli import main\nsys.argv = {typed!r}\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )


def test_a_quick_run_writes_json_and_the_same_tables_as_markdown(tmp_path: Path) -> None:
    data, text = tmp_path / "bench.json", tmp_path / "bench.md"
    chosen = ("--case", "value", "--case", "gradient", "--case", "text", "--case", "start-up")
    done = kosa_bench("--quick", *chosen, "--json", str(data), "--markdown", str(text))
    assert done.returncode == 0, done.stderr
    found = json.loads(data.read_text(encoding="utf-8"))
    assert [case["name"] for case in found["cases"]] == ["value", "gradient", "text"]
    assert found["machine"]["cores"] >= 1
    assert found["start_up"]["results"]["import"]["median_s"] > 0
    assert found["goals"] == []
    for case in found["cases"]:
        kosa = next(r for r in case["results"] if r["name"] == case["main"])
        assert kosa["times_kosa"] == 1
        assert kosa["relative_error"] < 1e-6
    assert text.read_text(encoding="utf-8") == report.markdown(found)
    # What is printed are the cells of the Markdown file, one for one.
    for case in found["cases"]:
        for row in report.case_table(case).rows:
            assert all(cell in done.stdout for cell in row)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.json", "bench.md"]


def test_results_tell_nothing_of_the_host(tmp_path: Path) -> None:
    described = json.dumps(machine.describe())
    assert platform.node() not in described or len(platform.node()) < 3
    assert str(Path.home()) not in described
    assert sys.prefix not in described
    assert f'"{getpass.getuser()}"' not in described


def test_absent_libraries_are_shown_and_are_no_error() -> None:
    absent = dict.fromkeys(["torch", "jax", "scipy", "sklearn", "ml_dtypes"])
    done = kosa_bench(
        *("--quick", "--case", "value", "--case", "bfloat16", "--json", "-"),
        before=f"sys.modules.update({absent!r})",
    )
    assert done.returncode == 0, done.stderr
    value, bfloat16 = json.loads(done.stdout)["cases"]
    missing = {r["name"]: r.get("missing") for r in value["results"]}
    assert missing == {
        **dict.fromkeys(["limit", "kosa", "NumPy"]),
        "torch.compile": "left out by --quick",
        **dict.fromkeys(["SciPy", "scikit-learn", "torch eager", "jax.jit"], "not installed"),
    }
    assert bfloat16["skipped"] == "skipped: needs ml_dtypes"
    assert "not installed" in done.stderr  # the tables make room for the document


def test_the_names_of_the_cases_are_listed() -> None:
    command = Path(sysconfig.get_path("scripts")) / "kosa"
    done = subprocess.run([command, "bench", "--list"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == NAMES


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--case", "valeu"), "`case` must be one of value, gradient, .*; got 'valeu'"),
        (("--rounds", "0"), "0 is not in the range x>=1"),
        (("--json", "no/such/folder/x.json"), "cannot write no/such/folder/x.json: there is no folder"),
        (("--markdown", "."), "cannot write .: it is a folder"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_measured(arguments: tuple[str, ...], message: str) -> None:
    done = kosa_bench(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert re.search(message, " ".join(done.stderr.split())), done.stderr


def test_rounds_below_one_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="`rounds` must be at least 1; got 0"):
        runner.run(["small"], rounds=0)


def test_a_missing_contestant_is_raised_as_such() -> None:
    left_out = contestants.without([Entry("a", right)], ["a"])
    with pytest.raises(Missing, match="left out by --quick"):
        left_out[0].prepare(problem())
