"""`kosa bench --gpu`: the GPU engine beside what the same card does in a bare read, copy or product, and its peers."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kosa.benchmark import gpu_dense, gpu_linear
from kosa.benchmark.gpu_clock import Clock
from kosa.benchmark.harness import Missing, Result, Say, check_answer, first_line, median_of

Run = dict[str, Any]
ROUNDS, QUICK_ROUNDS = 15, 2
SECONDS = 420.0  # after these no contestant is begun: the whole stays within eight minutes
_TIMING = 0.01  # seconds that one timing lasts at least, within 16 calls
_FAST = ("limit", "kosa", "kosa, out=")  # whose time does not decide whether they take part


@dataclass(frozen=True)
class Case:
    """`build(device, cache, quick)` makes the tensors; `gib` is what the hungriest contestant needs beside the others."""

    name: str
    title: str
    build: Callable[..., Any]
    entries: Sequence[tuple[str, Callable[[Any], Any]]]
    main: str = "kosa"
    limit: str = "bare read"
    gib: float = 1.0


_VALUE = [
    ("limit", gpu_dense.limit),
    ("kosa", gpu_dense.kosa),
    ("torch eager", gpu_dense.torch_eager),
    ("torch.compile", gpu_dense.torch_compile),
    ("Liger-Kernel", gpu_dense.liger),
    ("quack", gpu_dense.quack),
]
_GRADIENT = [_VALUE[0], ("kosa, out=", gpu_dense.kosa_out), *_VALUE[1:]]
_LINEAR = [
    ("limit", gpu_linear.products),
    ("kosa", gpu_linear.kosa),
    ("torch eager", gpu_linear.torch_eager),
    ("torch.compile", gpu_linear.torch_compile),
    ("F.linear_cross_entropy", gpu_linear.torch_linear),
    ("F.linear_cross_entropy, options", gpu_linear.torch_linear_options),
    ("Liger-Kernel", gpu_linear.liger),
    ("quack", gpu_linear.quack),
    ("cut-cross-entropy", gpu_linear.cut),
]
_TEXT = [
    ("loop of vector products −t·log y", gpu_linear.text_loop),
    ("diagonal of the N×N product −T·(log Y)ᵀ", gpu_linear.text_product),
    ("one batch, torch", gpu_linear.text_batch),
    ("kosa", gpu_linear.text_kosa),
]
_SHAPES = [
    ((8192, 32000), "bfloat16", 8.0),
    ((8192, 32000), "float32", 8.0),
    ((8192, 128256), "bfloat16", 25.0),
    ((4096, 256000), "bfloat16", 25.0),
    ((1_000_000, 10), "float32", 2.0),
    ((8, 21, 512, 512), "float32", 5.0),
]


def _dense_cases() -> list[Case]:
    cases = []
    for shape, dtype, gib in _SHAPES:
        size = "×".join(str(n) for n in shape)
        value, gradient = (gpu_dense.dense(shape, dtype, both) for both in (False, True))
        cases += [
            Case(f"value {size} {dtype}", f"value, {dtype}, {size}", value, _VALUE, gib=gib),
            Case(
                f"gradient {size} {dtype}",
                f"value + gradient, {dtype}, {size}",
                gradient,
                _GRADIENT,
                main="kosa, out=",
                limit="bare copy",
                gib=gib,
            ),
        ]
    return cases


# What takes longest comes first: who is left out for want of time is a peer at a small size.
CASES = [
    Case(
        "linear", "linear, forward + backward, bfloat16, N=8192 D=4096 K=128256",
        gpu_linear.linear(8192, 4096, 128256, True), _LINEAR, limit="three bare products", gib=25,
    ),
    Case(
        "linear, evaluation", "linear, evaluation only, bfloat16, N=8192 D=4096 K=128256",
        gpu_linear.linear(8192, 4096, 128256, False), _LINEAR, limit="bare product", gib=25,
    ),
    *_dense_cases(),
    Case("text", "−t·log y row by row and in one batch, float32, 10,000×10", gpu_linear.text(10_000, 10), _TEXT, gib=3),
]  # fmt: skip


def run(
    clock: Clock,
    *,
    quick: bool = False,
    rounds: int | None = None,
    seconds: float = SECONDS,
    say: Say = lambda text: None,
    show: Callable[[dict[str, Any]], None] = lambda case: None,
) -> list[dict[str, Any]]:
    """Measure every case; `say` hears each step, `show` gets each case when it is done."""
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    deadline = time.monotonic() + seconds
    cases = []
    for case in CASES:
        cases.append(_case(case, clock, quick, rounds, deadline, say))
        clock.release()
        show(cases[-1])
    return cases


def _case(case: Case, clock: Clock, quick: bool, rounds: int, deadline: float, say: Say) -> dict[str, Any]:
    head: dict[str, Any] = {"name": case.name, "title": case.title, "main": case.main, "limit": case.limit}
    free = clock.free()
    if not quick and free < case.gib * 2**30:
        return {
            **head,
            "skipped": f"skipped: needs {case.gib:g} GiB of free memory, there are {free / 2**30:.1f}",
        }
    if time.monotonic() > deadline:
        return {**head, "skipped": "skipped: no time left"}
    say(f"{case.title}: making the tensors")
    problem = case.build(clock.device, clock.cache, quick)
    # torch.compile takes longer than all the rest of a quick run.
    entries = [entry for entry in case.entries if not (quick and entry[0] == "torch.compile")]
    results = measure(entries, problem, clock, rounds, deadline, lambda text: say(f"{case.title}: {text}"))
    limit, main = median_of(results, "limit"), median_of(results, case.main)
    for result in results:
        if "median_s" not in result:
            continue
        own = result["median_s"]
        if limit is not None:
            result["share"] = limit / own
        if main is not None:
            result["times_kosa"] = own / main
        if problem.nbytes is not None:
            result["bytes_a_second"] = problem.nbytes / own
        if problem.flops is not None:
            result["flops_a_second"] = problem.flops / own
    return {**head, "outputs": problem.outputs, "results": results}


def measure(
    entries: Sequence[tuple[str, Callable[[Any], Any]]],
    problem: Any,
    clock: Clock,
    rounds: int,
    deadline: float,
    say: Say,
) -> list[dict[str, Any]]:
    """Time, peak memory and error of each entry; whoever fails is left out, with the reason."""
    reference = problem.reference()
    results = [Result(name) for name, _ in entries]
    peaks: dict[str, int] = {}
    runners: list[tuple[Result, Callable[[], Any]]] = []
    for (name, prepare), result in zip(entries, results, strict=True):
        say(f"{name}: warm-up")
        try:
            if time.monotonic() > deadline and name not in _FAST:
                raise Missing("no time left")
            call = prepare(problem)
            value = call(*problem.sets[0])
            if name != "limit":
                answer = problem.answer(value)
                result.error = check_answer(answer, problem.tolerance, reference, range(len(problem.rows)))
            del value
            turns = itertools.cycle(problem.sets)
            turn = _bound(call, turns)
            peaks[name] = clock.peak(turn)
            once = clock.seconds(turn, 1)
            result.calls = min(16, max(1, math.ceil(_TIMING / max(once, 1e-7))))
            runners.append((result, turn))
        except Missing as missing:
            result.missing = str(missing)
        # Whatever a library raises here (no compiler, no memory) must not end the run of all the others.
        except Exception as error:
            result.missing = first_line(error)
            clock.release()
    order = np.random.default_rng(0)
    for number in range(rounds):
        # A new order each round: else a contestant would find the clocks and caches that the same neighbour left.
        for index in order.permutation(len(runners)):
            result, turn = runners[index]
            if number and result.seconds[0] * result.calls > 0.5 and number % 5:
                continue
            say(f"{result.name}: round {number + 1} of {rounds}")
            result.seconds.append(clock.seconds(turn, result.calls))
    return [
        {**result.summary(), "peak_bytes": peaks[result.name]} if result.missing is None else result.summary()
        for result in results
    ]


def _bound(call: Callable[..., Any], turns: Any) -> Callable[[], Any]:
    return lambda: call(*next(turns))


def goals(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What Kosa set itself on a card of data centres, against what was measured."""
    checked: list[dict[str, Any]] = []
    for case in cases:
        results, main = case.get("results", []), case["main"]
        own: dict[str, Any] = next((r for r in results if r["name"] == main), {})
        limit = median_of(results, "limit")
        ratio = None if limit is None or "median_s" not in own else own["median_s"] / limit
        linear, backward = case["name"].startswith("linear"), case["name"] == "linear"
        if linear:
            checked.append(_goal(case, case["limit"], ratio, 1.15 if backward else 1.5))
            peak = own.get("peak_bytes")
            if peak is not None:
                peak = max(peak - case["outputs"], 0)
            checked.append({**_goal(case, None, peak, 2**30 if backward else 2**26), "unit": "bytes"})
        elif case["name"] != "text" and int(case["title"].split("×")[-1]) >= 32000:
            checked.append(_goal(case, case["limit"], ratio, 1 / 0.85))
        peers = [r for r in results if r["name"] not in ("limit", "kosa", "kosa, out=") and "median_s" in r]
        if peers and "median_s" in own:
            best = min(peers, key=lambda r: float(r["median_s"]))
            checked.append(_goal(case, best["name"], own["median_s"] / best["median_s"], 1.0))
    return checked


def _goal(case: dict[str, Any], against: str | None, value: float | None, at_most: float) -> dict[str, Any]:
    what = f"{case['title']}: {case['main']}"
    if against is None:
        what += ", memory beside inputs, gradients and the accumulator"
    return {
        "what": what, "against": against, "at_most": at_most, "at_least": None, "measured": value,
        "reached": None if value is None else value <= at_most, "unit": "x",
    }  # fmt: skip
