"""The gated delta rule on the CPU, float32, 2 x 2048 x 8 x 64: against the forms in torch of `transformers`.

Keys and queries are of unit length, so that all compute the same. One thread, processor
time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import bmojo_kernels as bk
import torch
from _results import Row, write_results
from _timing import in_turn
from torch import Tensor
from torch.nn import functional as F

BATCH, LENGTH, HEADS, WIDTH = 2, 2048, 8, 64


def peers() -> dict[str, Callable[..., Tensor]]:
    try:
        from transformers.models.qwen3_next import modeling_qwen3_next as model
    except ImportError:
        print("transformers is not installed: its lines are left out")
        return {}

    def chunked(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        return model.torch_chunk_gated_delta_rule(q, k, v, g=g, beta=beta)[0]

    def recurrent(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        return model.torch_recurrent_gated_delta_rule(
            q, k, v, g=g, beta=beta, initial_state=None, output_final_state=False
        )[0]

    return {"transformers, chunked": chunked, "transformers, recurrent": recurrent}


def ours(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    return bk.gated_delta_scan(q, k, v, g, beta, scale=WIDTH**-0.5)[0]


def with_backward(scan: Callable[..., Tensor], inputs: list[Tensor], weight: Tensor) -> Callable[[], object]:
    leaves = [m.clone().requires_grad_() for m in inputs]
    return lambda: torch.autograd.grad(scan(*leaves), leaves, weight)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    q, k = (F.normalize(torch.randn(BATCH, LENGTH, HEADS, WIDTH), dim=-1) for _ in range(2))
    v, weight = (torch.randn(BATCH, LENGTH, HEADS, WIDTH) for _ in range(2))
    inputs = [q, k, v, -0.2 * torch.rand(BATCH, LENGTH, HEADS), torch.rand(BATCH, LENGTH, HEADS)]
    scans = {"ours": ours} | peers()
    for scan in scans.values():
        torch.testing.assert_close(scan(*inputs), ours(*inputs), rtol=1e-3, atol=1e-3)
    forward = in_turn({name: lambda f=f: f(*inputs) for name, f in scans.items()}, 7, clock=time.process_time)
    learning = {name: f for name, f in scans.items() if not name.endswith("recurrent")}
    both = in_turn(
        {name: with_backward(f, inputs, weight) for name, f in learning.items()}, 5, clock=time.process_time
    )
    rows, what = [], f"{BATCH} x {LENGTH} x {HEADS} x {WIDTH}, float32"
    for case, times, goal in (("forward", forward, 35.0), ("forward and backward", both, 110.0)):
        others = [name for name in times if name != "ours"] or [None]
        for peer in others:
            value = None if peer is None else 1e3 * times[peer]
            found = 1e3 * times["ours"]
            rows.append(Row(f"{case} {what}", found, "ms", peer, value, goal=goal, larger_is_better=False))
    step, state = [m[:, 0] for m in inputs], torch.zeros(BATCH, HEADS, WIDTH, WIDTH)
    times = in_turn(
        {"step": lambda: [bk.gated_delta_step(*step, state) for _ in range(100)]}, 9, clock=time.process_time
    )
    rows.append(Row(f"one step of {BATCH} x {HEADS} x {WIDTH} x {WIDTH}", 1e4 * times["step"], "us"))
    write_results("gated_delta_scan", rows)


if __name__ == "__main__":
    main()
