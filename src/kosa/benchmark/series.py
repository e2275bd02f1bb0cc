"""The cost of one element, from 10³ elements to 10⁹: it must not grow with the array."""

from typing import Any

import numpy as np

from kosa.benchmark.contestants import Problem, kosa, limit, numpy_batch, torch_eager
from kosa.benchmark.harness import Entry, Missing, Say, measure
from kosa.benchmark.machine import free_memory

CLASSES = 1000
SIZES = tuple(10**power for power in range(3, 10))
QUICK_SIZES = SIZES[:3]
# Their temporaries are several times the array; at 10⁹ elements that is more than most machines have.
_OTHERS_UP_TO = 10**8


def _problem(size: int, threads: int) -> Problem:
    rng = np.random.default_rng(0)
    rows = min(size // CLASSES, 1000)
    tile = Problem(
        3 * rng.standard_normal((rows, CLASSES), dtype=np.float32), rng.integers(CLASSES, size=rows)
    )
    copies = size // tile.logits.size
    logits = np.empty((copies, rows, CLASSES), np.float32)
    logits[:] = tile.logits
    targets = np.tile(tile.targets, copies)
    return Problem(logits.reshape(-1, CLASSES), targets, threads=threads, tile=tile)


def _small_enough(problem: Problem) -> None:
    if problem.logits.size > _OTHERS_UP_TO:
        raise Missing("left out at this size")


def _numpy(problem: Problem) -> Any:
    _small_enough(problem)
    return numpy_batch(problem)


def _torch(problem: Problem) -> Any:
    _small_enough(problem)
    return torch_eager(problem)


_ENTRIES = [Entry("limit", limit), Entry("kosa", kosa), Entry("NumPy", _numpy), Entry("torch eager", _torch)]


def run(*, quick: bool, rounds: int, threads: int, say: Say) -> dict[str, Any]:
    """Seconds an element for each size; a size that does not fit into memory says so."""
    points: list[dict[str, Any]] = []
    for size in QUICK_SIZES if quick else SIZES:
        free, needed = free_memory(), size * 4 * (5 if size <= _OTHERS_UP_TO else 1) * 5 // 4
        if size > 10**7 and (free is None or free < needed):
            have = "an unknown amount" if free is None else f"{free / 2**30:.1f} GiB"
            reason = f"skipped: needs {needed / 2**30:.1f} GiB of free memory, there is {have}"
            points.append({"elements": size, "skipped": reason})
            continue
        problem = _problem(size, threads)
        results = measure(_ENTRIES, problem, rounds, lambda text, n=size: say(f"{n:.0e} elements: {text}"))  # type: ignore[misc]
        points.append({"elements": size, "results": [result.summary() for result in results]})
        del problem, results
    return {"title": f"cost of one element, value, float32, N×{CLASSES}", "points": points}
