"""Short causal convolution with SiLU on the CPU, 4 x 4096 x 512, four taps: against torch's and memory.

`torch.mul(out=)` by a row moves the bytes of the forward pass, one array read and one written, and so stands
for the limit of the kernel alone; times against torch are with the memory of the result. One thread;
processor time, so that a shared machine says nothing about the ratio.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import bmojo_kernels as bk
import numba
import numpy as np
import torch
from _results import Row, write_results
from _timing import in_turn
from bmojo_kernels.backends import as_numpy
from bmojo_kernels.causal_conv1d import numba_cpu
from bmojo_kernels.causal_conv1d.torch_op import weights
from torch.nn import functional as F

B, T, C, K = 4, 4096, 512, 4
ROUNDS = 15


def torchs(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    padded = F.pad(x.mT, (K - 1, 0))
    return F.silu(F.conv1d(padded, weight.unsqueeze(1), bias, groups=C)).mT


def ours(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return bk.causal_conv1d(x, weight, bias, activation="silu")[0]


def kernel(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, out: torch.Tensor
) -> Callable[[], object]:
    """The kernel alone, its result in memory that has been used before."""
    rows, result = (as_numpy(m).reshape(B * T, C) for m in (x, out))
    initial, edges = as_numpy(x.new_zeros(B, K - 1, C)), np.arange(B + 1) * T
    given = (rows, *weights(x, weight, bias), initial, edges, True, result)
    return lambda: numba_cpu.forward(*given, C, 0, B * T // numba_cpu.ROWS)


def backward(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> Callable[[], object]:
    learned = [x.clone().requires_grad_() for x in tensors]
    weight = torch.randn_like(tensors[0])
    return lambda: torch.autograd.grad(function(*learned), learned, weight)


def main() -> None:
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        given = [x.to(dtype) for x in (torch.randn(B, T, C), torch.randn(C, K), torch.randn(C))]
        x, out, what = (
            given[0],
            torch.empty_like(given[0]),
            f"{B} x {T} x {C}, {K} taps, SiLU, {str(dtype)[6:]}",
        )
        calls = {
            "ours": lambda given=given: ours(*given),
            "torch": lambda given=given: torchs(*given),
        }
        times = in_turn(calls, ROUNDS, clock=time.process_time)
        both = in_turn(
            {"ours": backward(ours, *given), "torch": backward(torchs, *given)},
            ROUNDS,
            clock=time.process_time,
        )
        pairs = (("forward", times), ("forward and backward", both))
        for name, found in pairs:
            row = Row(
                f"{name}, {what}", 1e3 * found["ours"], "ms", "torch conv1d and silu", 1e3 * found["torch"]
            )
            rows.append(row)
        alone = in_turn(
            {"kernel": kernel(*given, out), "mul": lambda x=x, b=given[2], out=out: torch.mul(x, b, out=out)},
            2 * ROUNDS,
            clock=time.process_time,
        )
        share = alone["mul"] / alone["kernel"]
        case = f"forward, {what}, speed of torch.mul(out=) reached"
        rows.append(Row(case, 100 * share, "%", "kernel, ms", 1e3 * alone["kernel"], ratio=share))
    write_results("causal_conv1d", rows)


if __name__ == "__main__":
    main()
