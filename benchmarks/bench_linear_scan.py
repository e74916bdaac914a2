"""The diagonal recurrence on the CPU, float32, 4 x 8192 x 256: against the speed of memory and its peers.

`torch.mul(out=)` moves the same bytes as the forward pass and so stands for the limit. One thread.
"""

from __future__ import annotations

from collections.abc import Callable

import bmojo_kernels as bk
import numba
import numpy as np
import torch
from _results import Row, write_results
from _timing import in_turn
from bmojo_kernels.linear_scan import numba_cpu
from torch._higher_order_ops.associative_scan import associative_scan

B, T, C = 4, 8192, 256


def combine(left: tuple[torch.Tensor, ...], right: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return left[0] * right[0], right[0] * left[1] + right[1]


def with_backward(scan: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[], object]:
    a, b = (torch.rand(B, T, C, requires_grad=True) for _ in range(2))
    weight = torch.rand(B, T, C)
    return lambda: torch.autograd.grad(scan(a, b), (a, b), weight)


def peers() -> dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    def generic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return associative_scan(combine, (a, b), dim=1, combine_mode="generic")[1]

    found = {"torch associative_scan": generic}
    try:
        from mambapy.pscan import pscan
    except ImportError:
        print("mambapy is not installed: its line is left out")
        return found
    # Its scan runs in place on (B, L, D, N): one more axis, and a copy of what it overwrites.
    found["mambapy pscan"] = lambda a, b: pscan(a.unsqueeze(-1), b.unsqueeze(-1)).squeeze(-1)
    return found


def main() -> None:
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    torch.manual_seed(0)
    a, b = torch.rand(B, T, C), torch.randn(B, T, C)
    rows, bounds = [], np.arange(B + 1) * T
    for dtype in (torch.float32, torch.bfloat16, torch.complex64):
        x, y = a.to(dtype), b.to(dtype)
        out = torch.empty_like(x)
        arrays = [
            (z.view(torch.uint16) if dtype is torch.bfloat16 else z).numpy().reshape(B * T, C)
            for z in (x, y, out)
        ]
        state = np.zeros((B, C), np.complex64 if dtype is torch.complex64 else np.float32)
        times = in_turn(
            {
                "scan": lambda arrays=arrays, state=state: numba_cpu.forward(
                    *arrays[:2], state, arrays[2], bounds, C, 0, B
                ),
                "mul": lambda x=x, y=y, out=out: torch.mul(x, y, out=out),
            },
            31,
        )
        share = 100 * times["mul"] / times["scan"]
        case = f"forward {B} x {T} x {C}, {str(dtype)[6:]}, speed of torch.mul(out=) reached"
        rows.append(Row(case, share, "%", "scan, ms", 1e3 * times["scan"], goal=85.0, ratio=share / 100))

    def scan(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return bk.linear_scan(a, b)[0]

    forward = in_turn({"ours": lambda: scan(a, b)} | {n: lambda f=f: f(a, b) for n, f in peers().items()}, 5)
    both = in_turn({"ours": with_backward(scan)} | {n: with_backward(f) for n, f in peers().items()}, 5)
    for name in list(forward)[1:]:
        what = f"{B} x {T} x {C}, float32, with allocation"
        rows.append(
            Row(
                f"forward {what}",
                1e3 * forward["ours"],
                "ms",
                name,
                1e3 * forward[name],
                larger_is_better=False,
            )
        )
        rows.append(
            Row(
                f"forward and backward {what}",
                1e3 * both["ours"],
                "ms",
                name,
                1e3 * both[name],
                larger_is_better=False,
            )
        )
    write_results("linear_scan", rows)


if __name__ == "__main__":
    main()
