"""The Triton kernels compile for GPUs that are not here: to machine code, without spilled registers.

Each group of kernels is compiled in a process of its own, because this one may have told Triton to interpret.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
pytest.importorskip("triton")

# A group prints one JSON object a kernel: its name, and what a test asks of it. `launch` compiles instead of launching.
BEGIN = """
import json, sys
import torch
from gpu_compiled import compiled
from kosa.loss import Options

def launch(name, call):
    with compiled(sys.argv[1]) as kernels:
        call()
    for k in kernels:
        text = k.asm.get("ptx") or k.asm["amdgcn"]
        print(json.dumps({
            "case": name, "kernel": k.name, "registers": k.registers, "spilled": k.spilled, "warps": k.warps,
            "remainders": text.count("rem.s64") + text.count("rem.u64"),
            "wide_loads": text.count(".v4.b32") + text.count(".v2.b64") + text.count("_load_dwordx4"),
        }))
"""
DENSE = """
from kosa.gpu import dense, plan

plan.processors = lambda device: 132
i64, f32 = torch.int64, torch.float32

def loss(name, dtype, rows, classes, *, soft=None, grad=True, axis=1, inner=(), kind="logits", weights=False, **options):
    z = torch.zeros((rows, classes, *inner), dtype=dtype)
    t = torch.zeros((rows, *inner), dtype=i64) if soft is None else torch.zeros(z.shape, dtype=soft)
    losses = torch.zeros(rows * torch.Size(inner).numel(), dtype=torch.float64)
    w = (torch.zeros(classes), torch.zeros_like(losses)) if weights else (None, None)
    out = torch.zeros_like(z) if grad else None
    lse = torch.zeros_like(losses) if weights else None
    launch(name, lambda: dense.run(z, t, *w, Options(kind, 1, **options), losses=losses, out=out, lse_weight=lse))

everything = dict(softcap=30.0, temperature=2.0, z_loss=0.1, label_smoothing=0.1, weights=True)
bf16 = torch.bfloat16
loss("long rows", bf16, 300, 128256)
loss("apart", bf16, 8, 256000, soft=f32)
loss("everything", bf16, 300, 32000, **everything)
if sys.argv[1] == "sm_90":
    loss("value", bf16, 300, 32000, grad=False)
    loss("long rows", f32, 300, 128256)
    loss("few classes", f32, 1000, 10)
    loss("images", f32, 2, 21, inner=(64, 64))
    loss("float64", torch.float64, 300, 32000)
    loss("probs", f32, 300, 1024, kind="probs", soft=f32)
    z = torch.zeros(300, 32000)
    launch("target slopes", lambda: dense.target_slopes(z, z, None, None, Options(axis=1), out=torch.zeros_like(z)))
"""
GROUPS = {"dense": DENSE}
# Arguments that are 1, which Triton makes constants, as it makes None: their type is another, and code may not know it.
ONES = """
from kosa.gpu import binary, dense, evaluation, plan, scaling, statistics

plan.processors = lambda device: 132
evaluation.card = lambda device: evaluation.Card("cuda", 132, 50 << 20, 227 << 10)
z, one, index = torch.zeros(1, 1), torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
long = torch.zeros(1, 16385)
figures = [index if i == 2 else one for i in range(7)]
options, probs = Options("logits", 1, ignore_index=1), Options("probs", 1, ignore_index=1)
launch("row", lambda: dense.run(z, index, None, None, options, losses=one, out=z))
launch("spans", lambda: dense.run(long, index, None, None, options, losses=one, out=long))
launch("probs", lambda: dense.run(z, index, None, None, probs, losses=one, out=z))
launch("target slopes", lambda: dense.target_slopes(z, z, None, None, options, out=z))
launch("statistics", lambda: statistics.run(z, index, None, None, options, figures))
launch("binary", lambda: binary.run(z, z > 0, z, z, Options("logits"), losses=one, out=z))
launch("scale", lambda: scaling.scale(z, one))
launch("unwritten", lambda: evaluation.run(z, z, z[0], index, None, None, options, one, figures[1:]))
"""


def compile_group(group, target, folder):
    """One entry a kernel of the group, compiled for this target."""
    return compile_calls(GROUPS[group], target, folder)


def compile_calls(calls, target, folder):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(TESTS)}
    result = subprocess.run(
        [sys.executable, "-c", BEGIN + calls, target],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_kernels_compile_for_nvidia_without_spills_and_with_wide_loads(group, target, tmp_path):
    found = compile_group(group, target, tmp_path)
    assert len(found) >= 5
    for kernel in found:
        assert kernel["spilled"] == 0, kernel
        assert kernel["registers"] * 32 * kernel["warps"] <= 65536, kernel  # of a multiprocessor
        if kernel["case"] != "few classes" and not kernel["kernel"].endswith("joined"):
            assert kernel["wide_loads"] > 0, kernel


@pytest.mark.parametrize("group", GROUPS)
def test_kernels_compile_for_amd(group, tmp_path):
    found = compile_group(group, "gfx942", tmp_path)
    assert len(found) >= 5
    assert any(kernel["wide_loads"] > 0 for kernel in found)


BINARY = """
from kosa.gpu import binary

x, weight = torch.zeros(40, 50), torch.zeros(50)
for name, plus in (("each its own", x), ("broadcast", weight.expand(40, 50))):
    launch(name, lambda: binary.run(x, x, plus, x, Options("logits"), losses=x.double().view(-1), out=x))
"""


def test_only_weights_that_are_broadcast_take_remainders(tmp_path):
    own, broadcast = compile_calls(BINARY, "sm_90", tmp_path)
    assert own["remainders"] == 0 < broadcast["remainders"]


def test_sizes_of_one_compile(tmp_path):
    found = compile_calls(ONES, "sm_90", tmp_path)
    assert {kernel["case"]: kernel["kernel"] for kernel in found} == {
        "row": "cross_entropy_rows", "spans": "cross_entropy_slopes", "probs": "cross_entropy_probabilities",
        "target slopes": "target_slopes_rows", "statistics": "row_statistics_rows", "binary": "binary_elements",
        "scale": "scale_elements", "unwritten": "finish",
    }  # fmt: skip


LAYOUTS = """
import re
from kosa.gpu import dense, plan

plan.processors = lambda device: 0

def launch(shape, axis=1):
    z, rows = torch.zeros(shape), torch.Size(n for d, n in enumerate(shape) if d != axis)
    losses = torch.zeros(rows.numel(), dtype=torch.float64)
    targets = torch.zeros(rows, dtype=torch.int64)
    with compiled(sys.argv[1]) as kernels:
        dense.run(z, targets, None, None, Options(axis=axis), losses=losses)
    print(json.dumps(re.findall(r"^#blocked.*", kernels[0].asm["ttgir"], re.MULTILINE)))

for shapes in (((64, 10), (1, 10), (10,)), ((64, 2049), (1, 2049)), ((4, 21, 49), (1, 21, 49))):
    for shape in shapes:
        launch(shape, 1 if len(shape) > 1 else 0)
"""


def test_which_thread_sums_which_classes_does_not_depend_on_how_many_rows_there_are(tmp_path):
    few, one_of_few, vector, long, one_long, images, image = compile_calls(LAYOUTS, "sm_90", tmp_path)
    assert few == one_of_few == vector
    assert long == one_long
    assert images == image
