"""Ridge regression at each step on the CPU, float32, 2 x 2048 x 8 x 64: against Cholesky solves of all steps.

The peer is what one would write in torch: all matrices by a cumulative sum (without decay), one batched
Cholesky factorization, one solve. It holds every matrix at once, so it gets an eighth of the steps, and its
time is counted eight times. One thread, processor time.
"""

from __future__ import annotations

import time

import bmojo_kernels as bk
import torch
from _results import Row, write_results
from _timing import in_turn
from torch import Tensor
from torch.nn import functional as F

BATCH, LENGTH, HEADS, WIDTH = 2, 2048, 8, 64
SHARE = 8


def direct(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    H = (k.unsqueeze(-1) * k.unsqueeze(-2)).cumsum(1)
    ridge = 0.02 * torch.linalg.matrix_norm(H)
    factor = torch.linalg.cholesky(H + ridge[..., None, None] * torch.eye(WIDTH))
    x = torch.cholesky_solve(q.unsqueeze(-1), factor).squeeze(-1)
    weights = torch.einsum("bthk,bshk->bhts", x, k).tril()
    return torch.einsum("bhts,bshv->bthv", weights, v)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    q, k = (F.normalize(torch.randn(BATCH, LENGTH, HEADS, WIDTH), dim=-1) for _ in range(2))
    v, weight = (torch.randn(BATCH, LENGTH, HEADS, WIDTH) for _ in range(2))
    g = -0.2 * torch.rand(BATCH, LENGTH, HEADS)
    part = [m[:1, : LENGTH // 4] for m in (q, k, v)]
    open_gate = torch.zeros(part[0].shape[:3])
    torch.testing.assert_close(
        bk.gated_kalman_scan(*part, open_gate, steps=100)[0], direct(*part), rtol=1e-2, atol=1e-2
    )
    leaves = [m.clone().requires_grad_() for m in (q, k, v, g)]
    times = in_turn(
        {
            "forward": lambda: bk.gated_kalman_scan(q, k, v, g),
            "with innovations": lambda: bk.gated_kalman_scan(q, k, v, g, innovations=True),
            "forward and backward": lambda: torch.autograd.grad(
                bk.gated_kalman_scan(*leaves)[0], leaves, weight
            ),
            "direct": lambda: direct(*part),
        },
        3,
        clock=time.process_time,
    )
    what = f"{BATCH} x {LENGTH} x {HEADS} x {WIDTH}, float32, 30 steps"
    peer = 1e3 * SHARE * times.pop("direct")
    rows = [
        Row(f"{case} {what}", 1e3 * found, "ms", *(("Cholesky", peer) if case == "forward" else ()))
        for case, found in times.items()
    ]
    write_results("gated_kalman_scan", rows)


if __name__ == "__main__":
    main()
