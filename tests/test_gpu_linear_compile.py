"""The products that write no logits, compiled for GPUs that are not there: what their machine code is made of.

No GPU is needed, and nothing runs: this shows which units multiply and what a loop does, not how fast.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.gpu


def compiled(*arguments):
    """What the kernels are made of, found by a process in which Triton compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("gpu_linear_compiled.py")
    command = [sys.executable, "-W", "ignore", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_hopper_multiplies_by_warp_groups_and_its_loop_keeps_everything_in_registers():
    losses, statistics = compiled("sm_90:bfloat16:losses", "sm_90:bfloat16:statistics")
    for found in (losses, statistics):
        assert found["names"] == ["project", "finish"]
        assert found["wgmma"] > 0
        assert found["mma"] == 0
        assert found["products"] == 4  # of 64×256×16 a warp group: a step of 64 features
        assert found["copies"] == 12  # of 16 bytes a thread: 384 rows of 64 features by 256 threads
        assert found["loop"] <= 128
        assert found["local"] == 0
        assert found["shared"] <= 227 << 10
        assert found["end_spilled"] == 0
    assert losses["spilled"] == 0


def test_ampere_and_cdna_multiply_by_their_matrix_units():
    ampere, cdna = compiled("sm_80:float16:losses", "gfx942:bfloat16:losses")
    assert ampere["mma"] > 0
    assert ampere["local"] == 0
    assert ampere["shared"] <= 99 << 10  # what the smaller cards of that generation have
    assert cdna["mfma"] > 0
    assert cdna["vgpr_spills"] == ["0"]
    assert cdna["shared"] <= 64 << 10
