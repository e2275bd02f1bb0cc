"""Compiles the products that write no logits for a GPU that is not there, and prints what they are made of, as JSON.

Run in a process without TRITON_INTERPRET: python gpu_linear_compiled.py TARGET:DTYPE:losses|statistics …
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from gpu_compiled import compiled

from kosa.gpu import evaluation
from kosa.loss import Options

CARDS = {
    "sm_80": evaluation.Card("cuda", 108, 40 << 20, 163 << 10),
    "sm_90": evaluation.Card("cuda", 132, 50 << 20, 227 << 10),
    "gfx942": evaluation.Card("hip", 304, 32 << 20, 64 << 10),
}


def innermost(cubin: bytes) -> list[str]:
    """The machine code of the shortest loop that multiplies matrices."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", path]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"\s*(\.L_x_\d+):", line))}
    jumps = ((i, re.search(r"BRA.*`\((\.L_x_\d+)\)", line)) for i, line in enumerate(lines))
    loops = [lines[labels[m[1]] : i] for i, m in jumps if m and labels[m[1]] < i]
    return min((loop for loop in loops if any("MMA" in line for line in loop)), key=len)


def facts(target: str, dtype: torch.dtype, statistics: bool) -> dict[str, object]:
    """What 256 rows of 512 features and 1024 classes launch."""
    evaluation.card = lambda device: CARDS[target]
    h, w, bias = (torch.zeros(shape, dtype=dtype) for shape in ((256, 512), (1024, 512), (1024,)))
    figures = [torch.zeros(256, dtype=torch.int64 if i == 2 else torch.float64) for i in range(7)]
    targets, loss, others = figures[2], figures[0], figures[1:] if statistics else None
    with compiled(target) as found:
        evaluation.run(h, w, bias, targets, None, None, Options(), loss, others)
    product, end = found
    text = product.asm["ptx"] if "ptx" in product.asm else product.asm["amdgcn"]
    loop = innermost(product.asm["cubin"]) if "cubin" in product.asm else []

    def count(*names: str) -> int:
        return sum(any(name in line for name in names) for line in loop)

    return {
        "names": [product.name, end.name],
        "shared": product.shared,
        "spilled": product.spilled,
        "end_spilled": end.spilled,
        "wgmma": text.count("wgmma.mma_async"),
        "mma": text.count("mma.sync"),
        "mfma": text.count("v_mfma"),
        "vgpr_spills": re.findall(r"vgpr_spill_count:\s+(\d+)", text),
        "loop": len(loop),
        "products": count("HGMMA", "HMMA"),
        "local": count("LDL", "STL"),
        "copies": count("LDGSTS"),
    }


if __name__ == "__main__":
    wanted = (argument.split(":") for argument in sys.argv[1:])
    print(
        json.dumps(
            [facts(target, getattr(torch, dtype), what == "statistics") for target, dtype, what in wanted]
        )
    )
