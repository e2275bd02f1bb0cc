"""Compiles the kernels of statistics and of binary losses for a GPU that is not there; prints what they need, as JSON.

Run in a process without TRITON_INTERPRET: python gpu_statistics_compiled.py TARGET
"""

import json
import sys

import torch
from gpu_compiled import Compiled, compiled

from kosa.gpu import binary, statistics
from kosa.loss import Options

ROWS = 64


def launched(target: str) -> dict[str, list[Compiled]]:
    """What each kind of call launches."""
    figures = [torch.empty(ROWS, dtype=torch.int64 if i == 2 else torch.float64) for i in range(7)]
    index = figures[2]
    every = Options("logits", 1, label_smoothing=0.1, softcap=30.0, temperature=2.0, z_loss=1e-4)

    def rows(classes: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(ROWS, classes, dtype=dtype)

    long, short = rows(32000, torch.bfloat16), rows(1000, torch.float32)
    across = torch.empty(2, 21, ROWS // 2)
    calls = {
        "long": lambda: statistics.run(long, index, None, None, Options("logits", 1), figures),
        "short": lambda: statistics.run(short, index, None, None, Options("logits", 1), figures),
        "few": lambda: statistics.run(rows(10, torch.float32), index, None, None, Options("logits", 1), figures),
        "across": lambda: statistics.run(
            across, index.reshape(2, -1), None, None, Options("logits", 1), figures
        ),
        "probs": lambda: statistics.run(short, index, None, None, Options("probs", 1), figures),
        "log_probs": lambda: statistics.run(short.double(), index, None, None, Options("log_probs", 1), figures),
        "soft": lambda: statistics.run(short, short, None, None, Options("logits", 1), figures),
        "everything": lambda: statistics.run(short, short, short[0], figures[0], every, figures),
        "no targets": lambda: statistics.run(
            short, None, None, None, Options("logits", 1), [None, *figures[1:5], None, None]
        ),
        "one class": lambda: statistics.run(
            rows(1, torch.float32), index, None, None, Options("logits", 1, ignore_index=1), figures
        ),
        "binary": lambda: binary.run(
            short, short, None, None, Options("logits"), losses=short.double().reshape(-1), out=short
        ),
        "binary probs": lambda: binary.run(
            short, short > 0, short[:1].expand(ROWS, -1), short, Options("probs"), scale=figures[0][0],
            losses=None, out=short.bfloat16().float(),
        ),
    }  # fmt: skip
    found: dict[str, list[Compiled]] = {}
    for name, call in calls.items():
        with compiled(target) as found[name]:
            call()
    return found


if __name__ == "__main__":
    print(json.dumps({
        name: [[k.name, k.registers, k.spilled, k.shared] for k in kernels]
        for name, kernels in launched(sys.argv[1]).items()
    }))  # fmt: skip
