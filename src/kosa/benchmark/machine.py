"""The machine of a benchmark: what a reader of its figures must know, and no name, path or address."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "kosa",
    "numpy",
    "numba",
    "llvmlite",
    "ml_dtypes",
    "scipy",
    "scikit-learn",
    "torch",
    "jax",
    "jaxlib",
)


def cores() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        found = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    return platform.processor() or platform.machine()


def _vector_width() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in text), "")


def _meminfo(field: str) -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def free_memory() -> int | None:
    """Bytes that can be allocated without swapping, within the control group's limit; None where unknown."""
    free = _meminfo("MemAvailable")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):
        return free
    if limit.isdigit():
        room = int(limit) - used
        free = room if free is None else min(free, room)
    return free


def versions_of(libraries: Iterable[str]) -> dict[str, str | None]:
    """Their versions; None for those that are not installed."""
    versions: dict[str, str | None] = {}
    for name in libraries:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def describe() -> dict[str, Any]:
    """CPU, cores, memory, library versions and the day."""
    total = _meminfo("MemTotal")
    return {
        "cpu": _cpu_model(),
        "vector": _vector_width(),
        "cores": cores(),
        "memory_gib": None if total is None else round(total / 2**30, 1),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": versions_of(_LIBRARIES),
        "date": datetime.now(UTC).date().isoformat(),
    }
