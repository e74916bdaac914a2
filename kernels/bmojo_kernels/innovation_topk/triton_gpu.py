"""`innovation_topk` on the GPU: sets of all chunks at once, each chosen in registers.

A set is the best of a set before and of some samples behind it. Ranks are integers in the order of what rules
rank by, and the `m`-th largest is found bit by bit, by counting how many reach a candidate; a running count
then gives each that stays its place, in order of position. The best of each segment of a sequence are found
first, and joined from segment to segment; then every chunk begins from the set at the start of its segment.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.triton_support import ceil_div, chunked, launch, power_of_two

__all__ = ["WIDEST", "forward"]

WIDEST = 2048  # places
ITEMS = 4096  # places and samples that a program ranks at once
CHECKED = 256  # samples that are looked at together for whether they are numbers


@triton.jit
def _ordered(value):
    """Integers in the order of floating-point numbers: the magnitude with the sign, so that -0 is 0."""
    if value.dtype == tl.float64:
        bits = value.to(tl.int64, bitcast=True)
        ordered = tl.where(bits < 0, -(bits & 0x7FFFFFFFFFFFFFFF), bits)
    else:
        bits = value.to(tl.float32).to(tl.int32, bitcast=True)
        ordered = tl.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return ordered


@triton.jit
def _hashed(position, row, salt):
    """The 53 bits of `sets._hashed`."""
    z = (position.to(tl.int64) + (row + 1) * -0x61C8864680B583EB + salt).to(tl.uint64)
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return ((z ^ (z >> 31)) >> 11).to(tl.int64)


@triton.jit
def _ranks(scores, base, j, there, row, level, salt, NEVER, RULE: tl.constexpr, NONE: tl.constexpr):
    """What the rule ranks samples by; NONE for those that are not there or never kept."""
    if RULE == "random":
        rank = _hashed(j, row, salt)
    elif RULE == "fifo":
        rank = j
    else:
        key = _ordered(tl.load(scores + base + j, mask=there, other=0.0))
        if RULE == "threshold":
            rank = tl.where(key > level, j, NONE)
        else:
            rank = tl.where(key > NEVER, key, NONE)
    return tl.where(there, rank, NONE)


@triton.jit
def _items(
    scores, kept, ranks, i, base, first, limit, row, HELD, level, salt, NEVER, RULE: tl.constexpr,
    NONE: tl.constexpr,
):  # fmt: skip
    """Positions and ranks of the set at sample `first`, then of the samples from there to `limit`."""
    old, j = i < HELD, first + i - HELD
    there = old & (first > 0)
    fresh = _ranks(scores, base, j, (i >= HELD) & (j <= limit), row, level, salt, NEVER, RULE, NONE)
    position = tl.where(old, tl.load(kept + i, mask=there, other=-1), j)
    return position, tl.where(old, tl.load(ranks + i, mask=there, other=NONE), fresh)


@triton.jit
def _best(rank, BUDGET, NONE: tl.constexpr):
    """Which are the `m` best, the earlier ones among equals; the place of each; how many there are."""
    level = tl.full((), NONE, rank.dtype)  # the largest that at least `m` reach, from its first bit on
    bit, count = level, tl.full((), -1, tl.int32)
    while (bit != 0) & (count != BUDGET):
        higher = level ^ bit
        reached = tl.sum((rank >= higher).to(tl.int32), 0)
        count = tl.where(reached >= BUDGET, reached, count)
        level = tl.where(reached >= BUDGET, higher, level)
        bit = (bit >> 1) & ~NONE
    above, equal = rank > level, (rank == level) & (rank > NONE)
    counted = tl.cumsum(above.to(tl.int32) + (equal.to(tl.int32) << 16), 0)
    spare = BUDGET - tl.sum(above.to(tl.int32), 0)
    stays = above | (equal & ((counted >> 16) <= spare))
    place = (counted & 0xFFFF) + tl.minimum(counted >> 16, spare) - 1
    return stays, place, tl.sum(stays.to(tl.int32), 0)


@triton.jit
def _limit(c, length, window, chunk):
    """The last sample that is eligible for chunk `c`."""
    return tl.minimum(c * chunk - (window - chunk + 1), length - 1)


@triton.jit
def _put(kept, ranks, i, position, rank, BUDGET, NONE: tl.constexpr):
    """Write the set of the best of some items; of an empty place the rank says so."""
    stays, place, count = _best(rank, BUDGET, NONE)
    tl.debug_barrier()  # what is written may be what was read
    tl.store(kept + place, position, mask=stays)
    tl.store(ranks + place, rank, mask=stays)
    tl.store(ranks + i, NONE, mask=(i >= count) & (i < BUDGET))


@triton.jit
def _sequence(entry, row, bounds, segments, T, SEGMENTS, PACKED: tl.constexpr):
    """Of a sequence: its first sample, its length, and the slot of its first segment."""
    low, length, slot = row * 0, T, row * SEGMENTS
    if PACKED:
        low = tl.load(bounds + entry)
        length, slot = (tl.load(bounds + entry + 1) - low).to(tl.int32), tl.load(segments + entry)
    return low, length, slot


@triton.jit
def _begun(length, window, chunk, SEGMENT):
    """From which segment the last chunk begins."""
    return tl.maximum(_limit(tl.cdiv(length, chunk) - 1, length, window, chunk), 0) // SEGMENT


@triton.jit
def _alone(
    scores, kept, ranks, bounds, sequence, segments, T, SEGMENTS, BUDGET, SEGMENT, window, chunk, level, salt,
    NEVER, RULE: tl.constexpr, NONE: tl.constexpr, PACKED: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """The best of one segment by itself, in the slot of the next."""
    row, s = (tl.program_id(0) // SEGMENTS).to(tl.int64), tl.program_id(0) % SEGMENTS
    entry = s * 0
    if PACKED:
        entry = tl.load(sequence + s)
        if entry < 0:
            return
        s -= tl.load(segments + entry).to(tl.int32)
    low, length, slot = _sequence(entry, row, bounds, segments, T, SEGMENTS, PACKED)
    if s >= _begun(length, window, chunk, SEGMENT):
        return
    i, after = tl.arange(0, ITEMS), (slot + s + 1) * BUDGET
    position, rank = _items(
        scores, kept, ranks, i, row * T + low, s * SEGMENT, (s + 1) * SEGMENT - 1, row, 0, level, salt, NEVER,
        RULE, NONE,
    )  # fmt: skip
    _put(kept + after, ranks + after, i, position, rank, BUDGET, NONE)


@triton.jit
def _join(
    kept, ranks, bounds, segments, T, ENTRIES, SEGMENTS, BUDGET, SEGMENT, window, chunk, NONE: tl.constexpr,
    PACKED: tl.constexpr, ITEMS: tl.constexpr,
):  # fmt: skip
    """From the best of each segment of a sequence the best of all up to it, in the same place."""
    row, entry = (tl.program_id(0) // ENTRIES).to(tl.int64), tl.program_id(0) % ENTRIES
    _, length, slot = _sequence(entry, row, bounds, segments, T, SEGMENTS, PACKED)
    i = tl.arange(0, ITEMS)
    for s in range(1, _begun(length, window, chunk, SEGMENT)):
        before, after = (slot + s) * BUDGET, (slot + s + 1) * BUDGET
        position = tl.load(kept + before + i, mask=i < 2 * BUDGET, other=-1)
        rank = tl.load(ranks + before + i, mask=i < 2 * BUDGET, other=NONE)
        _put(kept + after, ranks + after, i, position, rank, BUDGET, NONE)
        tl.debug_barrier()


@triton.jit
def _choose(
    scores, kept, ranks, index, wrong, bounds, offsets, sequence, segments, T, CHUNKS, SEGMENTS, BUDGET,
    SEGMENT, HELD, window, chunk, level, salt, NEVER, RULE: tl.constexpr, NONE: tl.constexpr,
    PACKED: tl.constexpr, ITEMS: tl.constexpr, CHECKED: tl.constexpr,
):  # fmt: skip
    """The set of one chunk, and whether its scores are numbers."""
    row, c = (tl.program_id(0) // CHUNKS).to(tl.int64), tl.program_id(0) % CHUNKS
    out = index + (row * CHUNKS + c) * BUDGET
    entry = c * 0
    if PACKED:
        entry = tl.load(sequence + c)
        c -= tl.load(offsets + entry).to(tl.int32)
    low, length, slot = _sequence(entry, row, bounds, segments, T, SEGMENTS, PACKED)
    base, end = row * T + low, tl.minimum((c + 1) * chunk, length)
    for start in range(0, chunk, CHECKED):
        j = c * chunk + start + tl.arange(0, CHECKED)
        value = tl.load(scores + base + j, mask=j < end, other=0.0).to(tl.float32)
        tl.store(wrong, 1, mask=tl.sum((value != value).to(tl.int32), 0) > 0)
    i, limit = tl.arange(0, ITEMS), _limit(c, length, window, chunk)
    s = tl.maximum(limit, 0) // SEGMENT
    before = (slot + s) * BUDGET
    position, rank = _items(
        scores, kept + before, ranks + before, i, base, s * SEGMENT, limit, row, HELD, level, salt, NEVER,
        RULE, NONE,
    )  # fmt: skip
    stays, place, count = _best(rank, BUDGET, NONE)
    tl.store(out + place, position + low, mask=stays)
    tl.store(out + i, -1, mask=(i >= count) & (i < BUDGET))


def forward(
    scores: Tensor, cu_seqlens: Tensor | None, budget: int, window: int, chunk: int, rule: str,
    threshold: float | None, seed: int, check: bool = True,
) -> Tensor:  # fmt: skip
    """The operator `bmojo::innovation_topk` on a GPU.

    With `check` the host waits for it once, at the end, to know whether all scores were numbers, but not
    while a graph is captured; and before it for the edges of packed sequences, which say how many sets there
    are.
    """
    (batch, length), device = scores.shape, scores.device
    if budget > WIDEST:
        raise ValueError(
            f"innovation_topk: budget {budget} came; on a GPU it is at most {WIDEST}. Take scores.cpu()."
        )
    edges, scores = _edges(cu_seqlens, length), scores.contiguous()
    chunks = sum(ceil_div(high - low, chunk) for low, high in pairwise(edges))
    index = torch.empty(batch, chunks, budget, device=device, dtype=torch.int64)
    if index.numel() == 0:
        if check:
            _refuse(scores.isnan().any())
        return index
    items, held = _tile(length, budget)
    options = _options(scores, rule, threshold, seed, items)
    packed, entries = cu_seqlens is not None, len(edges) - 1
    bounds = offsets = sequence = segments = owner = index
    if packed:
        parts, longer = chunked(scores, cu_seqlens, chunk), chunked(scores, cu_seqlens, items - held)
        bounds, offsets, sequence = parts.bounds, parts.offsets, parts.sequence
        segments, owner = longer.offsets, longer.sequence
    slots = length // (items - held) + entries
    room = batch * slots * budget if held else 1
    kept = torch.empty(room, device=device, dtype=torch.int32)
    ranks = torch.empty(room, device=device, dtype=torch.int64 if options["NONE"] < -(2**31) else torch.int32)
    sizes = (slots, budget, items - held)
    if held:
        launch(
            _alone, (batch * slots,), scores, kept, ranks, bounds, owner, segments, length, *sizes, window,
            chunk, PACKED=packed, **options,
        )  # fmt: skip
        both = power_of_two(2 * budget, 16)
        launch(
            _join, (batch * entries,), kept, ranks, bounds, segments, length, entries, *sizes, window, chunk,
            NONE=options["NONE"], PACKED=packed, ITEMS=both, num_warps=_warps(both),
        )  # fmt: skip
    wrong = torch.zeros(1, device=device, dtype=torch.int32)
    launch(
        _choose, (batch * chunks,), scores, kept, ranks, index, wrong, bounds, offsets, sequence, segments,
        length, chunks, *sizes, held, window, chunk, PACKED=packed,
        CHECKED=min(CHECKED, power_of_two(chunk)), **options,
    )  # fmt: skip
    if check:
        _refuse(wrong)
    return index


def _edges(cu_seqlens: Tensor | None, length: int) -> list[int]:
    if cu_seqlens is None:
        return [0, length]
    edges = cu_seqlens.tolist()
    if edges[0] != 0 or edges[-1] != length or any(low > high for low, high in pairwise(edges)):
        raise ValueError(
            f"innovation_topk: cu_seqlens {edges} came for {length} scores; it must begin at 0, end at "
            f"{length} and never fall."
        )
    return edges


def _tile(length: int, budget: int) -> tuple[int, int]:
    """How much a program ranks at once, and how many places of that are for a set from before."""
    least = power_of_two(budget, 16)
    if length <= max(least, ITEMS):
        return max(least, power_of_two(length)), 0
    return max(2 * least, ITEMS), budget


def _warps(items: int) -> int:
    return min(8, max(1, items // 512))


def _options(scores: Tensor, rule: str, threshold: float | None, seed: int, items: int) -> dict[str, Any]:
    """What the rule ranks by: the integers of `_ordered`, positions, or 53 bits of a hash."""
    if rule == "threshold" and threshold is None:
        raise ValueError("rule='threshold' needs a threshold.")
    kind = np.float64 if scores.dtype is torch.float64 else np.float32
    by_score = rule in ("top", "norm", "oracle")
    wide = rule == "random" or (by_score and kind is np.float64)
    salt = seed % 2**32 * 0xD1B54A32D192ED03 % 2**64
    return {
        "level": 0 if threshold is None else _below(threshold, kind),
        "salt": salt - 2**64 if salt >= 2**63 else salt, "NEVER": _integer(-np.inf, kind),
        "RULE": "top" if by_score else rule, "NONE": -(2**63) if wide else -(2**31), "ITEMS": items,
        "num_warps": _warps(items),
    }  # fmt: skip


def _integer(value: float, kind: type) -> int:
    """`_ordered` of one number."""
    bits = int(np.array(abs(value), kind).view(np.int64 if kind is np.float64 else np.int32))
    return -bits if value < 0 else bits


def _below(threshold: float, kind: type) -> int:
    """The integer that scores exceed where they exceed the threshold: of the largest number not above it."""
    if np.isnan(threshold):
        return _integer(np.inf, kind)
    with np.errstate(over="ignore"):
        nearest = kind(threshold)
    above = float(nearest) > threshold
    return _integer(np.nextafter(nearest, kind(-np.inf)) if above else nearest, kind)


def _refuse(wrong: Tensor) -> None:
    """Raise where something is not a number; what is captured in a graph cannot be looked at."""
    if wrong.is_meta or (wrong.is_cuda and torch.cuda.is_current_stream_capturing()):
        return
    if bool(wrong):
        raise ValueError("innovation_topk: scores has NaN; every sample needs a number (-inf is never kept).")
