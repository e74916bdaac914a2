"""Streaming selection of 64 among 16 x 16384 scores: against one `torch.topk` for each chunk's start.

One thread; processor time, so that a shared machine says nothing about the ratio.
"""

from __future__ import annotations

import time

import bmojo_kernels as bk
import numba
import torch
from _results import Row, write_results
from _timing import in_turn

B, T, BUDGET, WINDOW = 16, 16384, 64, 256


def select(scores: torch.Tensor, chunk: int) -> torch.Tensor:
    return bk.innovation_topk(scores, budget=BUDGET, window=WINDOW, chunk=chunk)


def anew(scores: torch.Tensor, chunk: int) -> list[torch.Tensor]:
    """The sets by sorting out each prefix anew."""
    limits = (c * chunk - (WINDOW - chunk + 1) + 1 for c in range(-(-T // chunk)))
    return [scores[:, :limit].topk(min(BUDGET, limit)).indices for limit in limits if limit > 0]


def main() -> None:
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    torch.manual_seed(0)
    scores, rows = torch.rand(B, T), []
    rising = torch.arange(T, dtype=torch.float32).expand(B, T).contiguous()
    for chunk in (WINDOW, 16):
        times = in_turn({
            "ours": lambda chunk=chunk: select(scores, chunk),
            "worst": lambda chunk=chunk: select(rising, chunk),
            "topk": lambda chunk=chunk: anew(scores, chunk),
        }, 3, clock=time.process_time)  # fmt: skip
        what = f"{B} x {T} scores, {BUDGET} places, chunks of {chunk}"
        rows.append(Row(what, 1e3 * times["ours"], "ms", "torch.topk of each prefix", 1e3 * times["topk"]))
        case = f"{what}, every score a new highest"
        rows.append(Row(case, 1e3 * times["worst"], "ms", "torch.topk of each prefix", 1e3 * times["topk"]))
    write_results("innovation_topk", rows)


if __name__ == "__main__":
    main()
