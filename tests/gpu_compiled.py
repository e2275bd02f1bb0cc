"""Compiles what a launcher launches, for GPUs that are not there: by Triton's whole compiler and NVIDIA's assembler.

Run in a process without TRITON_INTERPRET (tests/test_gpu_compile.py starts one): `compiled(target)` is a context in
which every launch is compiled for that target instead, and the list it gives has one entry a launch.
"""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TYPES = {
    torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64", torch.int8: "i8",
    torch.int16: "i16", torch.int32: "i32", torch.int64: "i64", torch.uint8: "u8", torch.bool: "i1",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg", "enable_fp_fusion")


class Compiled(NamedTuple):
    """A kernel as compiled: its machine code's needs a thread (NVIDIA alone), and its texts."""

    name: str
    warps: int
    shared: int
    registers: int | None
    spilled: int | None
    asm: dict[str, Any]


@contextlib.contextmanager
def compiled(target: str) -> Iterator[list[Compiled]]:
    """Compile launches for this target; nothing runs, and tensors keep what they hold."""
    found: list[Compiled] = []
    launch = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        found.append(_compile(self, dict(zip(self.arg_names, args, strict=False)) | kwargs, options, target))

    JITFunction.run = run
    try:
        yield found
    finally:
        JITFunction.run = launch


def _compile(kernel: Any, values: dict[str, Any], options: dict[str, Any], target: str) -> Compiled:
    """As Triton specializes it: None and 1 are constants, addresses and numbers may be multiples of 16."""
    signature, constants, attributes = {}, {}, {}
    for i, param in enumerate(kernel.params):
        value = values[param.name]
        if param.is_constexpr or value is None:
            kind = "constexpr"
        elif isinstance(value, torch.Tensor):
            kind = "*" + TYPES[value.dtype]
            if value.data_ptr() % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        elif param.annotation_type:
            kind = param.annotation_type
        elif isinstance(value, float):
            kind = "fp32"
        elif value == 1 and not param.do_not_specialize:
            kind = "constexpr"
        else:
            kind = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not param.do_not_specialize:
                attributes[(i,)] = [["tt.divisibility", 16]]
        signature[param.name] = kind
        if kind == "constexpr":
            constants[(i,)] = value
    source = ASTSource(kernel, signature, constants, attributes)
    result = triton.compile(source, target=TARGETS[target], options=options)
    registers, spilled = _usage(result.asm["cubin"]) if "cubin" in result.asm else (None, None)
    return Compiled(
        result.metadata.name,
        result.metadata.num_warps,
        result.metadata.shared,
        registers,
        spilled,
        result.asm,
    )


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack, where spilled ones lie."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True).stdout
    return int(re.findall(r"REG:(\d+)", text)[-1]), int(re.findall(r"STACK:(\d+)", text)[-1])
