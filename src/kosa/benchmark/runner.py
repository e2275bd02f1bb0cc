"""One run: every case asked for, as one plain dictionary that the tables and the JSON file are made from."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from kosa.benchmark import machine, processes, series
from kosa.benchmark.cases import CASES, GOALS, Case, Goal
from kosa.benchmark.contestants import without
from kosa.benchmark.harness import MIN_SECONDS, Missing, Say, measure, median_of
from kosa.cpu.threads import num_threads

NAMES = [*(case.name for case in CASES), "series", "memory", "start-up"]
ROUNDS = 15
QUICK_ROUNDS = 3

Run = dict[str, Any]


def check(names: Sequence[str], rounds: int | None) -> None:
    """Raises ValueError for a case that does not exist and for less than one round."""
    for name in names:
        if name not in NAMES:
            raise ValueError(f"`case` must be one of {', '.join(NAMES)}; got {name!r}")
    if rounds is not None and rounds < 1:
        raise ValueError(f"`rounds` must be at least 1; got {rounds}")


def run(
    names: Sequence[str] = (),
    *,
    quick: bool = False,
    rounds: int | None = None,
    say: Say = lambda text: None,
    show: Callable[[Run, str], None] = lambda found, name: None,
) -> Run:
    """Measure the named cases; none named: all.

    `say` hears each step, `show` gets the run so far and the name of the case that is done.
    """
    check(names, rounds)
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    threads = num_threads()  # which KOSA_NUM_THREADS sets; the other libraries get as many
    found: Run = {
        "machine": machine.describe(),
        "threads": threads,
        "quick": quick,
        "cases": [],
    }
    for case in CASES:
        if not names or case.name in names:
            found["cases"].append(_case(case, quick, rounds, threads, say))
            show(found, case.name)
    if not names or "series" in names:
        # Seven sizes: a third of the rounds is enough to see whether the cost grows.
        found["series"] = series.run(quick=quick, rounds=max(3, rounds // 3), threads=threads, say=say)
        show(found, "series")
    if not names or "memory" in names:
        found["memory"] = processes.memory(quick=quick, say=say)
        show(found, "memory")
    if not names or "start-up" in names:
        found["start_up"] = processes.start_up(quick=quick, say=say)
        show(found, "start-up")
    # The goals are set for the full sizes; small arrays neither reach nor miss them.
    found["goals"] = [] if quick else goals(found)
    return found


def _case(case: Case, quick: bool, rounds: int, threads: int, say: Say) -> dict[str, Any]:
    head: dict[str, Any] = {"name": case.name, "title": case.title, "main": case.main}
    free = machine.free_memory()
    if not quick and free is not None and free < case.gib * 2**30:
        reason = f"skipped: needs {case.gib:g} GiB of free memory, there are {free / 2**30:.1f}"
        return {**head, "skipped": reason}
    say(f"{case.title}: making the arrays")
    try:
        problem = dataclasses.replace(case.build(quick), threads=threads)
    except Missing as missing:
        return {**head, "skipped": f"skipped: {missing}"}
    # Compiling with torch takes longer than all the rest of a quick run.
    entries = without(case.entries, ["torch.compile"] if quick else [])
    seconds = MIN_SECONDS / 10 if quick else MIN_SECONDS
    results = [
        result.summary()
        for result in measure(
            entries, problem, rounds, lambda text: say(f"{case.title}: {text}"), min_seconds=seconds
        )
    ]
    for result in results:
        for name, key in (("limit", "times_limit"), (case.main, "times_kosa")):
            base = median_of(results, name)
            if base is not None and "median_s" in result:
                result[key] = result["median_s"] / base
    if "shape" not in head and hasattr(problem, "logits"):
        head["shape"] = list(problem.logits.shape)
    return {**head, "results": results}


def goals(found: Run) -> list[dict[str, Any]]:
    """What Kosa set itself against what was measured; only for the cases that ran."""
    checked = []
    ran = {case["name"]: case for case in found["cases"]}
    for goal in GOALS:
        if goal.case in ran:
            case = ran[goal.case]
            text = f"{case['title']}: {goal.subject}"
            checked.append(_verdict(goal, text, _measured(goal, case.get("results", []))))
    return checked + _memory_goals(found) + _start_up_goals(found)


def _measured(goal: Goal, results: list[dict[str, Any]]) -> float | None:
    subject = median_of(results, goal.subject)
    if goal.rival is None or subject is None:
        return subject
    rival = median_of(results, goal.rival)
    if rival is None:
        return None
    return subject / rival if goal.at_most is not None else rival / subject


def _verdict(goal: Goal, text: str, value: float | None) -> dict[str, Any]:
    if value is None:
        reached = None
    elif goal.at_most is not None:
        reached = value <= goal.at_most
    else:
        reached = goal.at_least is not None and value >= goal.at_least
    return {
        "what": text,
        "against": goal.rival,
        "at_most": goal.at_most,
        "at_least": goal.at_least,
        "measured": value,
        "reached": reached,
        "unit": "x" if goal.rival else "s",
    }


def _memory_goals(found: Run) -> list[dict[str, Any]]:
    """O(N) for the value, 64 bytes a row; O(threads·K) for the gradient, 32 bytes a class and thread."""
    checked = []
    for result in found.get("memory", {}).get("results", []):
        if not result["name"].startswith("kosa") or "rows" not in result:
            continue
        if result["case"].startswith("linear"):
            checked.append(_workspace_goal(result))
            continue
        room = 64 * result["rows"]
        if result["case"] == "gradient":
            room += 32 * found["threads"] * result["classes"]
        # Resident memory comes in pages, stacks and the allocator's reserves: 2 MiB more.
        for key, what, slack in (("traced_bytes", "tracemalloc", 0), ("resident_bytes", "peak RSS", 2**21)):
            goal = Goal("memory", result["name"], None, at_most=room + slack)
            text = f"memory, {result['case']}: {result['name']}, {what}"
            checked.append({**_verdict(goal, text, result[key]), "unit": "bytes"})
    return checked


def _workspace_goal(result: dict[str, Any]) -> dict[str, Any]:
    """The workspace; for 16-bit tensors a float32 total of the weight's gradient more."""
    room = (512 if "512" in result["name"] else 64) << 20
    if "bfloat16" in result["case"]:
        room += 4 * result["weight_elements"]
    goal = Goal("memory", result["name"], None, at_most=room)
    text = f"memory, {result['case']}: {result['name']}, peak RSS"
    return {**_verdict(goal, text, result["resident_bytes"]), "unit": "bytes"}


def _start_up_goals(found: Run) -> list[dict[str, Any]]:
    results = found.get("start_up", {}).get("results", {})
    bounds = {"import": 0.15, "first call": 0.6, "cold compile": 4.0}
    return [
        _verdict(Goal("start-up", name, None, at_most=bounds[name]), f"start-up: {name}", result["median_s"])
        for name, result in results.items()
    ]
