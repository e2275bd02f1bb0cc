"""The memory of one call in this process: `python -m kosa.benchmark.child CASE CONTESTANT [--quick]`."""

import gc
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

from kosa.benchmark import linear
from kosa.benchmark.cases import CASES, Case
from kosa.benchmark.harness import Contestant, Missing

_STATUS = Path("/proc/self/status")


def _peak_kib() -> int | None:
    """High-water mark of resident memory; None where the system does not tell."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
        return None
    except OSError:
        pass
    try:
        import resource
    except ModuleNotFoundError:
        return None
    # macOS counts bytes. Linux does not come here: its ru_maxrss starts from the parent's memory.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # Then the peak so far stands; the arrays, allocated last and touched, have most likely set it.
        return


def _resident(contestant: Contestant) -> int | None:
    gc.collect()
    _reset_peak()
    before = _peak_kib()
    value = contestant.call()
    after = _peak_kib()
    del value
    return None if before is None or after is None else (after - before) * 1024


def _traced(contestant: Contestant) -> int:
    tracemalloc.start()
    value = contestant.call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del value
    return peak


# Of memory alone: the logits of these would be 2 GiB, and a timing of the others' 10 GiB says little.
_WIDE = [
    Case("linear-wide", "", linear.problem(4096, 512, 128256), linear.LINEAR),
    Case("linear-wide-bfloat16", "", linear.problem(4096, 512, 128256, narrow=True), linear.LINEAR),
]


def measure(case_name: str, name: str, quick: bool) -> dict[str, Any]:
    """Peaks of one call that was compiled and warmed on small arrays of the same kind."""
    case = next(case for case in [*CASES, *_WIDE] if case.name == case_name)
    entry = next(entry for entry in case.entries if entry.name == name)
    try:
        entry.prepare(case.build(True)).call()
        problem = case.build(quick)
        contestant = entry.prepare(problem)
    except Missing as missing:
        return {"missing": str(missing)}
    # A gradient that the call itself allocates is its output, not memory beside it.
    if isinstance(problem, linear.LinearProblem):
        contestant.call()  # matrix libraries allocate at the first large product what they keep (MKL: 30 MiB)
        rows, classes, output = len(problem.hidden), len(problem.weight), problem.nbytes
    else:
        rows, classes = problem.logits.shape[:2]
        output = problem.logits.nbytes if case.name == "gradient" and "out=" not in name else 0
    resident, traced = _resident(contestant), _traced(contestant)
    # tracemalloc sees NumPy's buffers, not those of torch
    numpy_alone = "torch" not in name and not isinstance(problem, linear.LinearProblem)
    return {
        "rows": rows,
        "classes": classes,
        "weight_elements": problem.weight.size if isinstance(problem, linear.LinearProblem) else 0,
        "resident_bytes": None if resident is None else max(resident - output, 0),
        "traced_bytes": max(traced - output, 0) if numpy_alone else None,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], "--quick" in sys.argv)))
