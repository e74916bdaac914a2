"""`innovation_topk` on the GPU: a program carries the set of one sequence from chunk to chunk.

What was kept and what a chunk adds stand side by side in order of position. Each counts how many of them rank
before it, the first `m` stay, and a running count gives each its place, in order of position again.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.innovation_topk.sets import selection_priority
from bmojo_kernels.triton_support import ceil_div, launch, power_of_two

__all__ = ["WIDEST", "forward"]

WIDEST = 2048  # places and samples of a chunk together


@triton.jit
def _items(priority, kept, ranks, i, base, first, limit, BUDGET):
    """Positions and ranks of what was kept, then of the samples from `first` to `limit`; -1 for none."""
    old = i < BUDGET
    j = first + i - BUDGET
    new = (i >= BUDGET) & (j <= limit)
    position = tl.load(kept + i, mask=old, other=-1)
    rank = tl.load(ranks + i, mask=old, other=float("-inf"))
    value = tl.load(priority + base + j, mask=new, other=float("-inf"))
    position = tl.where(new & (value > float("-inf")), j, position)
    return position, tl.where(new, value, rank)


@triton.jit
def _choose(
    priority, kept, ranks, index, begin, end, first_chunk, T, ROWS, BUDGET, window, chunk,
    ITEMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sets of one sequence at the start of each of its chunks."""
    entry, batch = tl.program_id(0), tl.program_id(1)
    low, high = tl.load(begin + entry), tl.load(end + entry)
    row = tl.load(first_chunk + entry) + batch.to(tl.int64) * ROWS
    own = (batch.to(tl.int64) * tl.num_programs(0) + entry) * BUDGET
    base = batch.to(tl.int64) * T + low
    length = (high - low).to(tl.int32)
    i = tl.arange(0, ITEMS)
    tl.store(kept + own + i, -1, mask=i < BUDGET)
    tl.store(ranks + own + i, float("-inf"), mask=i < BUDGET)
    done = low.to(tl.int32) * 0  # samples judged so far
    for c in range(tl.cdiv(length, chunk)):
        limit = tl.minimum(c * chunk - (window - chunk + 1), length - 1)
        tl.debug_barrier()
        position, value = _items(priority, kept + own, ranks + own, i, base, done, limit, BUDGET)
        ahead = tl.zeros((ITEMS,), tl.int32)
        for start in range(0, ITEMS, BLOCK):
            k = start + tl.arange(0, BLOCK)
            other, rank = _items(priority, kept + own, ranks + own, k, base, done, limit, BUDGET)
            better = rank[None, :] > value[:, None]
            tied = (rank[None, :] == value[:, None]) & (other[None, :] < position[:, None])
            ahead += tl.sum(tl.where((other[None, :] >= 0) & (better | tied), 1, 0), 1)
        stays = (position >= 0) & (ahead < BUDGET)
        place = tl.cumsum(tl.where(stays, 1, 0), 0) - 1
        count = tl.sum(tl.where(stays, 1, 0), 0)
        tl.debug_barrier()
        out = index + (row + c) * BUDGET
        tl.store(kept + own + place, position, mask=stays)
        tl.store(ranks + own + place, value, mask=stays)
        tl.store(out + place, tl.where(position >= 0, position + low, -1), mask=stays)
        empty = (i >= count) & (i < BUDGET)
        tl.store(kept + own + i, -1, mask=empty)
        tl.store(ranks + own + i, float("-inf"), mask=empty)
        tl.store(out + i, -1, mask=empty)
        done = tl.maximum(done, limit + 1)


def forward(
    scores: Tensor, cu_seqlens: Tensor | None, budget: int, window: int, chunk: int, rule: str,
    threshold: float | None, seed: int,
) -> Tensor:  # fmt: skip
    """The operator `bmojo::innovation_topk` on a GPU."""
    batch, length = scores.shape
    if budget + chunk > WIDEST:
        raise ValueError(
            f"innovation_topk: budget {budget} and chunk {chunk} came; on a GPU they are at most {WIDEST} "
            "together. Take shorter chunks, or scores.cpu()."
        )
    capturing = scores.is_cuda and torch.cuda.is_current_stream_capturing()
    if scores.device.type != "meta" and not capturing and bool(scores.isnan().any()):
        raise ValueError("innovation_topk: scores has NaN; every sample needs a number (-inf is never kept).")
    edges = [0, length] if cu_seqlens is None else cu_seqlens.tolist()
    bounds = torch.tensor(edges, device=scores.device, dtype=torch.int64)
    first = [0]
    for low, high in pairwise(edges):
        first.append(first[-1] + ceil_div(high - low, chunk))
    index = torch.full((batch, first[-1], budget), -1, device=scores.device, dtype=torch.int64)
    if index.numel() == 0:
        return index
    entries = len(edges) - 1
    kept = torch.empty(batch, entries, budget, device=scores.device, dtype=torch.int64)
    items = power_of_two(budget + chunk, 16)
    launch(
        _choose, (entries, batch), _priority(scores, edges, rule, threshold, seed), kept,
        torch.empty_like(kept, dtype=torch.float64), index, bounds, bounds[1:],
        torch.tensor(first[:-1], device=scores.device, dtype=torch.int64), length, first[-1], budget, window,
        chunk, ITEMS=items, BLOCK=max(4, min(32, 4096 // items)),
        num_warps=4 if items <= 256 else 8 if items <= 512 else 16,
    )  # fmt: skip
    return index


def _priority(scores: Tensor, edges: list[int], rule: str, threshold: float | None, seed: int) -> Tensor:
    """What the rule ranks by; of the rules that rank by time it does not depend on scores but for a mask."""
    if rule in ("top", "norm", "oracle"):
        return scores.detach().double().contiguous()
    blank = np.zeros((len(scores), 0))
    pieces = [blank]
    for low, high in pairwise(edges):
        zeros = np.zeros((len(scores), high - low))
        pieces.append(selection_priority(zeros, rule="fifo" if rule == "threshold" else rule, seed=seed))
    found = torch.from_numpy(np.concatenate(pieces, axis=1)).to(scores.device)
    if rule != "threshold":
        return found
    if threshold is None:
        raise ValueError("rule='threshold' needs a threshold.")
    return torch.where(scores > threshold, found, -torch.inf)
