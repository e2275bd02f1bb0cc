"""Timing: every contestant once a round, so that a slow minute of the machine falls on all of them alike."""

import gc
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

# One timing lasts at least this long (several calls, if need be): less shows the clock and the scheduler.
MIN_SECONDS = 0.05
# A contestant slower than this takes part in every third round only, and is not called once more untimed.
SLOW_SECONDS = 0.4

Answer = tuple[float, npt.NDArray[Any] | None]
Say = Callable[[str], None]


class Missing(Exception):
    """A contestant cannot take part; the text stands in the table in place of its time."""


@dataclass(frozen=True)
class Contestant:
    """`call` is timed; `answer` turns what it returned into loss and gradient, untimed."""

    call: Callable[[], Any]
    answer: Callable[[Any], Answer] | None  # None: the limit, which computes nothing
    tolerance: float = 1e-5  # of the loss, relative; ten times that of the gradient's largest entry


@dataclass(frozen=True)
class Entry:
    """A contestant by name. `prepare` moves the data into its library's arrays, or raises Missing."""

    name: str
    prepare: Callable[[Any], Contestant]


@dataclass
class Result:
    """Seconds a call, one number a round; or the reason why there is none."""

    name: str
    seconds: list[float] = field(default_factory=list)
    calls: int = 0
    error: float | None = None  # of the loss, relative to the float64 reference
    missing: str | None = None

    def summary(self) -> dict[str, Any]:
        """The plain figures of this result, for the JSON file and the tables."""
        if self.missing is not None:
            return {"name": self.name, "missing": self.missing}
        low, median, high = (float(q) for q in np.quantile(self.seconds, [0.25, 0.5, 0.75]))
        return {
            "name": self.name,
            "median_s": median,
            "quartiles_s": [low, high],
            "range_s": [min(self.seconds), max(self.seconds)],
            "rounds": len(self.seconds),
            "calls_a_round": self.calls,
            "relative_error": self.error,
        }


def first_line(error: BaseException) -> str:
    """What stands in the table for a contestant that failed."""
    text = str(error).strip().splitlines()
    return f"failed: {type(error).__name__}" + (f": {text[0][:80]}" if text else "")


def check_answer(answer: Answer, tolerance: float, reference: Answer, rows: Sequence[int]) -> float:
    """Return the relative error of the loss; raises Missing where the loss, or the gradient of `rows`, is wrong."""
    loss, grad = answer
    expected, expected_grad = reference
    error = abs(loss - expected) / max(abs(expected), 1e-300)
    if not error <= tolerance:
        raise Missing(f"wrong value: {loss:.6g} instead of {expected:.6g}")
    if expected_grad is not None:
        if grad is None:
            raise Missing("no gradient")
        gap = float(np.max(np.abs(grad[list(rows)].astype(np.float64) - expected_grad)))
        if not gap <= 10 * tolerance * float(np.max(np.abs(expected_grad))):
            raise Missing(f"wrong gradient: off by {gap:.3g}")
    return error


def _warm(entry: Entry, problem: Any, result: Result) -> tuple[Contestant, float] | None:
    """Prepare, compile, verify and time one contestant once; None, the reason in `result`, if that fails."""
    try:
        # Other libraries warn while they load and compile; their warnings are not about this measurement.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contestant = entry.prepare(problem)
            value = contestant.call()
        if contestant.answer is not None:
            result.error = check_answer(contestant.answer(value), contestant.tolerance, *problem.checks())
        del value
        start = time.perf_counter()
        contestant.call()
        return contestant, time.perf_counter() - start
    except Missing as missing:
        result.missing = str(missing)
    # Whatever another library raises here (no compiler, no memory) must not end the run of all the others.
    except Exception as error:
        if entry.name.startswith("kosa"):
            raise
        result.missing = first_line(error)
    return None


def measure(
    entries: Sequence[Entry], problem: Any, rounds: int, say: Say, *, min_seconds: float = MIN_SECONDS
) -> list[Result]:
    """Time all entries on one problem; results in the order of the entries."""
    results = [Result(entry.name) for entry in entries]
    runners: list[tuple[Result, Contestant, int, bool]] = []
    for entry, result in zip(entries, results, strict=True):
        say(f"{entry.name}: warm-up")
        warmed = _warm(entry, problem, result)
        if warmed is not None:
            contestant, once = warmed
            result.calls = max(1, math.ceil(min_seconds / max(once, 1e-7)))
            runners.append((result, contestant, result.calls, once > SLOW_SECONDS))

    order = np.random.default_rng(0)
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            # A new order each round: else a contestant would find the caches of the same neighbour each time.
            for index in order.permutation(len(runners)):
                result, contestant, calls, slow = runners[index]
                if slow and number % 3:
                    continue
                say(f"{result.name}: round {number + 1} of {rounds}")
                if not slow:
                    contestant.call()
                start = time.perf_counter()
                for _ in range(calls):
                    contestant.call()
                result.seconds.append((time.perf_counter() - start) / calls)
    finally:
        gc.enable()
    return results


def median_of(results: Sequence[dict[str, Any]], name: str) -> float | None:
    """The median of one contestant in a case's summaries; None where it was not measured."""
    return next((r.get("median_s") for r in results if r["name"] == name), None)


def repeat(call: Callable[[], float], times: int) -> dict[str, Any]:
    """Median and range of a figure that takes a process of its own each time."""
    values = [call() for _ in range(times)]
    return {"median_s": statistics.median(values), "range_s": [min(values), max(values)], "rounds": times}
