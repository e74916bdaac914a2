"""Kernels compiled for chips that are not here, from the launches that would be made on them."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from bmojo_kernels.triton_support import Launch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

__all__ = ["SHARED", "Compiled", "compiled"]

TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
SHARED = {"sm_80": 166912, "sm_90": 232448, "gfx942": 65536}
TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
}


@dataclass(frozen=True)
class Compiled:
    """What matters of a compiled kernel: bytes of stack and shared memory, and whether matrix units work."""

    name: str
    stack: int
    shared: int
    products: bool


def compiled(launch: Launch, chip: str) -> Compiled:
    """Compile one launch for a chip."""
    source, options = _source(launch)
    made = triton.compile(source, target=GPUTarget(*TARGETS[chip]), options=options)
    if chip.startswith("gfx"):
        text = made.asm["amdgcn"]
        stack = int(re.search(r"\.private_segment_fixed_size: (\d+)", text).group(1))
        products = "v_mfma" in text
    else:
        stack = _stack(made.asm["cubin"])
        products = bool(re.search(r"wgmma\.mma_async|mma\.sync", made.asm["ptx"]))
    return Compiled(launch.kernel.__name__, stack, made.metadata.shared, products)


def _source(launch: Launch) -> tuple[ASTSource, dict[str, Any]]:
    """Arguments as a launch would specialize them: aligned pointers, divisible sizes, ones known."""
    kernel, options = launch.kernel, dict(launch.options)
    values = dict(zip(kernel.arg_names, launch.arguments, strict=False))
    values |= {name: options.pop(name) for name in kernel.arg_names if name not in values}
    constant = {kernel.arg_names[i] for i in kernel.constexprs}
    signature, known, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        value = values[name]
        if name in constant or (type(value) is int and value == 1):
            signature[name], known[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(i,)] = "*" + TYPES[value.dtype], [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    return ASTSource(kernel, signature, known, attributes), options


def _stack(cubin: bytes) -> int:
    folder = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [folder / "cuobjdump", "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", text).group(1))
