"""Statistics and binary losses, compiled for GPUs that are not there: every variant compiles, and nothing is spilled.

The interpreter runs what the compiler refuses. No GPU is needed, and nothing runs: this shows no times.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu


def needs(target):
    """The kernels of each call, with their registers, spilled bytes and shared memory."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("gpu_statistics_compiled.py")
    command = [sys.executable, "-W", "error", script, target]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_one_kernel_a_call_whose_sums_stay_in_registers():
    found = needs("sm_90")
    for name, kernels in found.items():
        ((kernel, registers, spilled, shared),) = kernels
        assert kernel == ("binary_elements" if "binary" in name else "row_statistics_rows")
        assert shared <= 8 << 10
        # A thread of 4 warps has 168 registers where three blocks are to share a processor.
        assert registers <= 168, name
        assert spilled <= 8, name
    # Five blocks or more of long rows.
    assert max(found[name][0][1] for name in ("long", "short")) <= 96


def test_cdna_compiles_them_too():
    assert all(len(kernels) == 1 for kernels in needs("gfx942").values())
