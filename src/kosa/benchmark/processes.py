"""Figures that need a process of their own: memory, the import, the first call."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from kosa.benchmark.harness import Say, repeat

MEMORY = [
    ("value", "kosa"),
    ("value", "NumPy"),
    ("value", "SciPy"),
    ("value", "torch eager"),
    ("gradient", "kosa, out="),
    ("gradient", "NumPy"),
    ("gradient", "SciPy"),
    ("gradient", "torch eager"),
    ("linear", "kosa"),
    ("linear", "kosa, 512 MiB"),
    ("linear", "torch eager"),
    ("linear", "torch.compile"),
    ("linear", "F.linear_cross_entropy"),
    ("linear", "F.linear_cross_entropy, options"),
    ("linear-bfloat16", "kosa"),
    ("linear-bfloat16", "torch eager"),
    ("linear-wide", "kosa"),
    ("linear-wide-bfloat16", "kosa"),
]

_IMPORT = """
import time, numpy
start = time.perf_counter()
import kosa
print(time.perf_counter() - start)
"""
_FIRST_CALL = """
import time, numpy, kosa
z, t = numpy.zeros((64, 1000), numpy.float32), numpy.zeros(64, numpy.int64)
start = time.perf_counter()
kosa.cross_entropy(t, logits=z)
print(time.perf_counter() - start)
"""


def _python(arguments: list[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"python {arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def memory(*, quick: bool, say: Say) -> dict[str, Any]:
    """Bytes that one call takes beside its inputs and outputs: tracemalloc's peak and the process's."""
    found = []
    for case, name in MEMORY:
        say(f"memory: {case}, {name}")
        size = ["--quick"] if quick else []
        figures = json.loads(_python(["-m", "kosa.benchmark.child", case, name, *size]))
        found.append({"case": case, "name": name, **figures})
    return {"title": "memory beside inputs and outputs", "results": found}


def start_up(*, quick: bool, say: Say) -> dict[str, Any]:
    """Seconds of `import kosa` after NumPy's import, of the first call, and of the first call ever."""
    times = 3 if quick else 9

    def cold() -> float:
        with tempfile.TemporaryDirectory() as empty:
            say("start-up: cold compile")
            return float(_python(["-c", _FIRST_CALL], _cache(empty)))

    results: dict[str, Any] = {}
    say("start-up: import")
    results["import"] = repeat(lambda: float(_python(["-c", _IMPORT])), times)
    with tempfile.TemporaryDirectory() as folder:
        say("start-up: first call")
        _python(["-c", _FIRST_CALL], _cache(folder))
        results["first call"] = repeat(lambda: float(_python(["-c", _FIRST_CALL], _cache(folder))), times)
    results["cold compile"] = repeat(cold, 1 if quick else 3)
    return {"title": "start-up, each in a process of its own", "results": results}


def _cache(folder: str) -> dict[str, str]:
    return {"KOSA_CACHE_DIR": folder, "NUMBA_CACHE_DIR": folder}
