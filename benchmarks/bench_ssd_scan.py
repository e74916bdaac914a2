"""The scan of Mamba-2 on the CPU, float32, 2 x 2048 x 8 x 64 x 64: against the published chunked form.

The peer is written here in torch from its definition (Dao and Gu 2024, section 6): a masked product in each
chunk, and the states of all chunks by one more masked product over chunks. One thread, processor time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import bmojo_kernels as bk
import torch
from _results import Row, write_results
from _timing import in_turn
from torch import Tensor

BATCH, LENGTH, HEADS, WIDTH, STATES, CHUNK = 2, 2048, 8, 64, 64, 64


def decays(log_decay: Tensor) -> Tensor:
    """Lower triangle of exp(a[s + 1] + ... + a[t]) over the last axis."""
    total = log_decay.cumsum(-1)
    between = total[..., :, None] - total[..., None, :]
    causal = torch.ones(between.shape[-2:], dtype=torch.bool).tril()
    return torch.exp(between.masked_fill(~causal, -torch.inf))


def minimal(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:
    x, B, C = (m.unflatten(1, (-1, CHUNK)) for m in (x, B, C))
    a = log_decay.unflatten(1, (-1, CHUNK)).permute(0, 3, 1, 2)
    total = a.cumsum(-1)
    inside = torch.einsum("bcln,bcsn,bhcls,bcshp->bclhp", C, B, decays(a), x)
    until = torch.exp(total[..., -1:] - total)
    states = torch.einsum("bcln,bhcl,bclhp->bchpn", B, until, x)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
    between = decays(torch.nn.functional.pad(total[..., -1], (1, 0)))
    before = torch.einsum("bhzc,bchpn->bzhpn", between, states)[:, :-1]
    carried = torch.einsum("bcln,bchpn,bhcl->bclhp", C, before, torch.exp(total))
    return (inside + carried).flatten(1, 2)


def with_backward(scan: Callable[..., Tensor], inputs: list[Tensor], weight: Tensor) -> Callable[[], object]:
    leaves = [m.clone().requires_grad_() for m in inputs]
    return lambda: torch.autograd.grad(scan(*leaves), leaves, weight)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs = [
        torch.randn(BATCH, LENGTH, HEADS, WIDTH),
        -0.2 * torch.rand(BATCH, LENGTH, HEADS),
        torch.randn(BATCH, LENGTH, STATES) / STATES**0.5,
        torch.randn(BATCH, LENGTH, STATES),
    ]
    scans = {"ours": lambda *v: bk.ssd_scan(*v)[0], "ssd_minimal": minimal}
    found = [scan(*inputs) for scan in scans.values()]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)
    weight = torch.randn_like(inputs[0])
    forward = in_turn({name: lambda f=f: f(*inputs) for name, f in scans.items()}, 9, clock=time.process_time)
    both = in_turn(
        {name: with_backward(f, inputs, weight) for name, f in scans.items()}, 7, clock=time.process_time
    )
    rows = []
    what = f"{BATCH} x {LENGTH} x {HEADS} x {WIDTH} x {STATES}, float32"
    for case, times, goal in (("forward", forward, 20.0), ("forward and backward", both, 60.0)):
        ours, peer = 1e3 * times["ours"], 1e3 * times["ssd_minimal"]
        rows.append(Row(f"{case} {what}", ours, "ms", "ssd_minimal", peer, goal=goal, larger_is_better=False))
    step = [m[:, 0] for m in inputs]
    state = torch.zeros(BATCH, HEADS, WIDTH, STATES)
    times = in_turn(
        {"step": lambda: [bk.ssd_step(*step, state) for _ in range(100)]}, 9, clock=time.process_time
    )
    rows.append(Row(f"one step of {BATCH} x {HEADS} x {WIDTH} x {STATES}", 1e4 * times["step"], "us"))
    write_results("ssd_scan", rows)


if __name__ == "__main__":
    main()
