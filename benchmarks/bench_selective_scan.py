"""The scan of Mamba on the CPU, float32, 2 x 2048 x 512 x 16: against mambapy's parallel scan.

With NUMBA_NUM_THREADS=1 processor time of one thread: waiting threads of a larger pool would count. Without
it the time that passes, and with two threads against one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import bmojo_kernels as bk
import torch
from _results import Row, write_results
from _timing import in_turn
from numba import config
from torch import Tensor

BATCH, LENGTH, WIDTH, STATES = 2, 2048, 512, 16


def ours(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    return bk.selective_scan(u, delta, A, B, C)[0]


def peers() -> dict[str, Callable[..., Tensor]]:
    try:
        from mambapy.pscan import pscan
    except ImportError:
        print("mambapy is not installed: its lines are left out")
        return {}

    def parallel(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        decay = torch.exp(delta.unsqueeze(-1) * A)
        states = pscan(decay, (delta * u).unsqueeze(-1) * B.unsqueeze(2))
        return (states @ C.unsqueeze(-1)).squeeze(-1)

    return {"mambapy": parallel}


def with_backward(scan: Callable[..., Tensor], inputs: list[Tensor], weight: Tensor) -> Callable[[], object]:
    leaves = [m.clone().requires_grad_() for m in inputs]
    return lambda: torch.autograd.grad(scan(*leaves), leaves, weight)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs = [
        torch.randn(BATCH, LENGTH, WIDTH),
        0.1 * torch.rand(BATCH, LENGTH, WIDTH),
        -4 * torch.rand(WIDTH, STATES),
        torch.randn(BATCH, LENGTH, STATES),
        torch.randn(BATCH, LENGTH, STATES),
    ]
    weight = torch.randn_like(inputs[0])
    scans = {"ours": ours} | peers()
    for scan in scans.values():
        torch.testing.assert_close(scan(*inputs), ours(*inputs), rtol=1e-3, atol=1e-3)
    clock = time.process_time if config.NUMBA_NUM_THREADS == 1 else time.perf_counter
    rows, what = [], f"{BATCH} x {LENGTH} x {WIDTH} x {STATES}, float32"
    forward = in_turn({"ours": lambda: ours(*inputs)}, 15, clock=clock) | in_turn(
        {n: lambda f=f: f(*inputs) for n, f in scans.items() if n != "ours"}, 2, clock=clock
    )
    both = in_turn({"ours": with_backward(ours, inputs, weight)}, 11, clock=clock) | in_turn(
        {n: with_backward(f, inputs, weight) for n, f in scans.items() if n != "ours"},
        1,
        clock=clock,
    )
    for case, times, goal in (("forward", forward, 12.0), ("forward and backward", both, 45.0)):
        peer = next((n for n in times if n != "ours"), None)
        value = None if peer is None else 1e3 * times[peer]
        found = 1e3 * times["ours"]
        rows.append(Row(f"{case} {what}", found, "ms", peer, value, goal=goal, larger_is_better=False))
    if clock is time.process_time:
        write_results("selective_scan", rows)
        return
    single = in_turn({"ours": lambda: ours(*inputs)}, 60, best=True)["ours"]
    torch.set_num_threads(2)
    double = in_turn({"ours": lambda: ours(*inputs)}, 60, best=True)["ours"]
    rows.append(Row("forward, two threads against one", single / double, "times", goal=1.8))
    write_results("selective_scan", rows)


if __name__ == "__main__":
    main()
