"""The solves of `gated_kalman_scan` on the GPU: `H` in a program's registers, step by step inside a chunk.

The matrices before the chunks are the states of `ssd_scan` with the keys on both sides. Then every chunk goes
on by itself: a step adds its key and iterates on its right sides. The gradient iterates once more, for the
solutions of the outputs' gradients; all else in it is products over the chunk, because each `H` of a chunk is
the first one and its keys: `H_s = e^{..} H_0 + sum_u decay(u to s) k_u k_u^T`.

No product has a transposed result of another one on its left: compilers up to Triton 3.7.0 take its rows
wrongly on Hopper. What is needed transposed is computed so.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.gated_kalman_scan.naive import SMALLEST
from bmojo_kernels.gated_kalman_scan.torch_op import STRIDE
from bmojo_kernels.ssd_scan.triton_gpu import pass_states, states_between
from bmojo_kernels.triton_support import (
    Chunks,
    architecture,
    ceil_div,
    chunk_decays,
    chunk_logs,
    chunked,
    launch,
    load_rows,
    power_of_two,
    precision,
    store_rows,
)

__all__ = ["backward", "forward"]

LEAST = tl.constexpr(SMALLEST)


@triton.jit
def _place(first_row, sequence, bounds, LENGTH):
    """Number, first row and steps of a program's chunk; none where there is no chunk."""
    chunk, owner = tl.program_id(0).to(tl.int64), tl.load(sequence + tl.program_id(0))
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + tl.maximum(owner, 0) + 1) - first).to(tl.int32)
    return chunk, first, tl.where(owner < 0, 0, count)


@triton.jit
def _solve(
    k, log_decay, right, states, found, forward_found, shares, first_row, sequence, bounds, H, R, K, LENGTH,
    ridge, steps, BACK: tl.constexpr, KP: tl.constexpr,
):  # fmt: skip
    """Solutions for all right sides of a chunk; backwards also what the ridge's gradient weighs `H` with."""
    chunk, first, count = _place(first_row, sequence, bounds, LENGTH)
    head, i = tl.program_id(1), tl.arange(0, KP)
    inside = (i < K)[:, None] & (i < K)[None, :]
    place = ((chunk * H + head) * K + i[:, None]) * K + i[None, :]
    matrix = tl.load(states + place, mask=inside, other=0.0)
    for step in range(count):
        row = (first + step) * H + head
        key = tl.load(k + row * K + i, mask=i < K, other=0.0).to(tl.float32)
        matrix = tl.exp(tl.load(log_decay + row)) * matrix + key[:, None] * key[None, :]
        norm = tl.sqrt(tl.sum(matrix * matrix))
        least = tl.maximum(ridge * norm, LEAST)
        mean = norm / 2 + least
        rho = norm / (2 * mean)
        weight = norm * 0
        for side in range(R):
            at = (row * R + side) * K + i
            b = tl.load(right + at, mask=i < K, other=0.0).to(tl.float32)
            x, before, omega = b / mean, tl.zeros((KP,), tl.float32), norm * 0 + 2.0
            for _ in range(steps):
                omega = 4 / (4 - rho * rho * omega)
                rest = tl.sum(matrix * x[:, None], 0) + least * x - b
                after = x - omega / mean * rest + (omega - 1) * (x - before)
                before = x
                x = after
            tl.store(found + at, x, mask=i < K)
            if BACK:
                weight += tl.sum(x * tl.load(forward_found + at, mask=i < K, other=0.0))
        if BACK:
            active = ridge * norm > LEAST
            tl.store(shares + row, tl.where(active, ridge * weight / tl.where(active, norm, 1.0), 0.0))


@triton.jit
def _start(
    k, log_decay, x, z, states, shares, added, decay, first_row, sequence, bounds, H, R, K, LENGTH,
    STEPS: tl.constexpr, SIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the solves of a chunk give to the gradient of the matrix before it."""
    chunk, first, count = _place(first_row, sequence, bounds, LENGTH)
    head, t, columns = tl.program_id(1), tl.arange(0, STEPS), tl.cdiv(K, SIDE)
    low, start = tl.program_id(2) // columns * SIDE, tl.program_id(2) % columns * SIDE
    here = t < count
    a, before, _ = chunk_logs(log_decay, first, t, count, head, H)
    fade = tl.exp(before)
    share = tl.load(shares + (first + t) * H + head, mask=here, other=0.0)
    alpha = tl.sum(chunk_decays(a, t, count, tl.float32, False) * (share * fade)[:, None], 0)
    i, j = low + tl.arange(0, SIDE), start + tl.arange(0, SIDE)
    place = ((chunk * H + head) * K + i[:, None]) * K + j[None, :]
    inside = (i < K)[:, None] & (j < K)[None, :]
    total = -tl.sum(share * fade * fade, 0) * tl.load(states + place, mask=inside, other=0.0)
    left = load_rows(k, first, t, here, head, H, K, low, SIDE).to(tl.float32) * alpha[:, None]
    right = load_rows(k, first, t, here, head, H, K, start, SIDE).to(tl.float32)
    total -= tl.dot(tl.trans(left), right, input_precision=PRECISION)
    for side in range(R):
        head_side = head * R + side
        left = load_rows(x, first, t, here, head_side, H * R, K, low, SIDE) * (fade * 0.5)[:, None]
        right = load_rows(z, first, t, here, head_side, H * R, K, start, SIDE)
        total -= tl.dot(tl.trans(left), right, input_precision=PRECISION)
        left = load_rows(z, first, t, here, head_side, H * R, K, low, SIDE) * (fade * 0.5)[:, None]
        right = load_rows(x, first, t, here, head_side, H * R, K, start, SIDE)
        total -= tl.dot(tl.trans(left), right, input_precision=PRECISION)
    tl.store(added + place, total, mask=inside)
    if tl.program_id(2) == 0:
        whole = tl.sum(tl.where(t == count - 1, before, 0.0), 0)
        tl.store(decay + chunk * H + head, tl.exp(whole))


@triton.jit
def _square(p, chunk, head, H, K, low, start, SIDE: tl.constexpr):
    i, j = low + tl.arange(0, SIDE), start + tl.arange(0, SIDE)
    place = ((chunk * H + head) * K + i[:, None]) * K + j[None, :]
    return tl.load(p + place, mask=(i < K)[:, None] & (j < K)[None, :], other=0.0)


@triton.jit
def _gram(left, right, first, t, here, head_left, HEADS_LEFT, head_right, HEADS_RIGHT, K, SIDE: tl.constexpr,
          STEPS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    total = tl.zeros((STEPS, STEPS), tl.float32)
    for low in range(0, K, SIDE):
        x = load_rows(left, first, t, here, head_left, HEADS_LEFT, K, low, SIDE).to(tl.float32)
        y = load_rows(right, first, t, here, head_right, HEADS_RIGHT, K, low, SIDE).to(tl.float32)
        total += tl.dot(x, tl.trans(y), input_precision=PRECISION)
    return total


@triton.jit
def _through(p, x, first, t, here, head, HEADS, chunk, state_head, H, K, start, SIDE: tl.constexpr,
             STEPS: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Some columns of `x` times a chunk's matrix."""
    total = tl.zeros((STEPS, SIDE), tl.float32)
    for low in range(0, K, SIDE):
        rows = load_rows(x, first, t, here, head, HEADS, K, low, SIDE).to(tl.float32)
        matrix = _square(p, chunk, state_head, H, K, low, start, SIDE)
        total += tl.dot(rows, matrix, input_precision=PRECISION)
    return total


@triton.jit
def _gradients(
    k, log_decay, x, z, states, later, shares, dk, dlog_decay, first_row, sequence, bounds, H, R, K, LENGTH,
    STEPS: tl.constexpr, SIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk's keys and logarithms."""
    chunk, first, count = _place(first_row, sequence, bounds, LENGTH)
    head, t = tl.program_id(1), tl.arange(0, STEPS)
    here = t < count
    a, before, after = chunk_logs(log_decay, first, t, count, head, H)
    decays, fade, reach = chunk_decays(a, t, count, tl.float32, False), tl.exp(before), tl.exp(after)
    share = tl.load(shares + (first + t) * H + head, mask=here, other=0.0)
    keys = _gram(k, k, first, t, here, head, H, head, H, K, SIDE, STEPS, PRECISION)
    # Of each pair of steps what their keys get by the ridge: through the matrices of all later steps.
    turned = chunk_decays(a, t, count, tl.float32, True)
    both = tl.dot(turned * share[None, :], decays, input_precision=PRECISION) * keys
    alpha = tl.sum(decays * (share * fade)[:, None], 0)
    met, met_later, through, size = tl.zeros((STEPS,), tl.float32), tl.zeros((STEPS,), tl.float32), 0.0, 0.0
    for start in range(0, K, SIDE):
        y = load_rows(k, first, t, here, head, H, K, start, SIDE).to(tl.float32)
        old = _through(states, k, first, t, here, head, H, chunk, head, H, K, start, SIDE, STEPS, PRECISION)
        new = _through(later, k, first, t, here, head, H, chunk, head, H, K, start, SIDE, STEPS, PRECISION)
        met += tl.sum(old * y, 1)
        met_later += tl.sum(new * y, 1)
        found = new * reach[:, None] - old * alpha[:, None] - tl.dot(both, y, input_precision=PRECISION)
        for low in range(0, K, SIDE):
            matrix = _square(states, chunk, head, H, K, low, start, SIDE)
            size += tl.sum(matrix * matrix)
            through += tl.sum(matrix * _square(later, chunk, head, H, K, low, start, SIDE))
        store_rows(dk, 2 * found, first, t, here, head, H, K, start, SIDE)
    reached = fade[:, None] * met[None, :] + tl.dot(decays, keys * keys, input_precision=PRECISION)
    pairs = -share[:, None] * decays * reached
    at_end = tl.sum(pairs, 1) - tl.sum(pairs, 0)
    ended = -share * (fade * size + tl.sum(decays * met[None, :], 1))
    for side in range(R):
        own = head * R + side
        # With the earlier step of a pair in the rows.
        with_x = _gram(k, x, first, t, here, head, H, own, H * R, K, SIDE, STEPS, PRECISION)
        with_z = _gram(k, z, first, t, here, head, H, own, H * R, K, SIDE, STEPS, PRECISION)
        pairs = turned * with_x * with_z
        at_end -= tl.sum(pairs, 0) - tl.sum(pairs, 1)
        for start in range(0, K, SIDE):
            xs = load_rows(x, first, t, here, own, H * R, K, start, SIDE)
            zs = load_rows(z, first, t, here, own, H * R, K, start, SIDE)
            old = _through(
                states, x, first, t, here, own, H * R, chunk, head, H, K, start, SIDE, STEPS, PRECISION
            )
            ended -= tl.sum(old * zs, 1)
            more = tl.dot(turned * with_x, zs, input_precision=PRECISION)
            more += tl.dot(turned * with_z, xs, input_precision=PRECISION)
            tl.debug_barrier()
            more = load_rows(dk, first, t, here, head, H, K, start, SIDE) - more
            store_rows(dk, more, first, t, here, head, H, K, start, SIDE)
    at_end += fade * ended
    written = tl.where(here, reach * met_later, 0.0)
    whole = tl.exp(tl.sum(tl.where(t == count - 1, before, 0.0), 0))
    total = tl.cumsum(at_end, 0, reverse=True) + tl.cumsum(written, 0) - written + whole * through
    tl.store(dlog_decay + (first + t) * H + head, total, mask=here)


def _solve_all(
    k: Tensor, log_decay: Tensor, right: Tensor, states: Tensor, chunks: Chunks, ridge: float, steps: int,
    solved: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Solutions, and with those of the outputs the weights of `H` in the ridge's gradient."""
    (heads, sides, width), rows = right.shape[2:], right.shape[:2]
    found, shares = states.new_empty(right.shape), states.new_empty(*rows, heads)
    padded = power_of_two(width, 16)
    # In float32 because Triton 3.6 takes shorter right sides into its loop, out of registers.
    right = right.to(states.dtype)
    # Few warps, up to 64 keys one: each product with a matrix is a sum over all of them.
    options = {"BACK": solved is not None, "KP": padded, "num_warps": 4 if padded > 64 else 1}
    launch(
        _solve, (chunks.count, heads), k, log_decay, right, states, found,
        found if solved is None else solved, shares, chunks.first, chunks.sequence, chunks.bounds, heads,
        sides, width, chunks.length, ridge, steps, **options,
    )  # fmt: skip
    return found, shares


def _check(k: Tensor) -> None:
    if k.shape[3] > 128:
        raise ValueError(f"gated_kalman_scan: keys {k.shape[3]} wide came; on a GPU they are at most 128.")


def forward(
    k: Tensor, log_decay: Tensor, r: Tensor, H0: Tensor, cu_seqlens: Tensor | None, ridge: float, steps: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::kalman_solve` on a GPU."""
    _check(k)
    chunks = chunked(k, cu_seqlens, STRIDE)
    k, log_decay, r, H0 = (x.contiguous() for x in (k, log_decay, r, H0))
    states, last = states_between(k, log_decay, k, H0, chunks, False, H0.dtype)
    found, _ = _solve_all(k, log_decay, r, states, chunks, ridge, steps, None)
    return found, last, states if keep else states.new_empty(0, *states.shape[1:])


def backward(
    k: Tensor, log_decay: Tensor, r: Tensor, x: Tensor, copies: Tensor, cu_seqlens: Tensor | None,
    ridge: float, steps: int, dx: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::kalman_solve_backward` on a GPU."""
    chunks = chunked(k, cu_seqlens, STRIDE)
    k, log_decay, x, dx, dlast = (y.contiguous() for y in (k, log_decay, x, dx, dlast))
    # As everywhere, the gradient of a symmetric matrix is taken to be symmetric.
    dlast = (dlast + dlast.mT) / 2
    heads, sides, width = x.shape[2:]
    z, shares = _solve_all(k, log_decay, dx, copies, chunks, ridge, steps, x)
    added, decay = torch.empty_like(copies), copies.new_empty(chunks.count, heads)
    amd = architecture(x).startswith("gfx")
    # Gradients that are rounded to bfloat16 need no more than tf32.
    short, side = k.dtype is torch.bfloat16 and not amd, 32 if amd else 16
    options = {
        "STEPS": power_of_two(chunks.length, 16), "SIDE": min(side, power_of_two(width, 16)),
        "PRECISION": "tf32" if short else precision(x), "num_warps": 8, "num_stages": 1,
    }  # fmt: skip
    where = (chunks.first, chunks.sequence, chunks.bounds, heads, sides, width, chunks.length)
    tiles = ceil_div(width, options["SIDE"]) ** 2
    launch(
        _start, (chunks.count, heads, tiles), k, log_decay, x, z, copies, shares, added, decay, *where,
        **options,
    )  # fmt: skip
    later, dH0 = pass_states(added, decay, dlast, chunks, reverse=True)
    dk, dlog_decay = torch.empty_like(k, dtype=torch.float32), torch.empty_like(log_decay)
    launch(
        _gradients, (chunks.count, heads), k, log_decay, x, z, copies, later, shares, dk, dlog_decay, *where,
        **options,
    )  # fmt: skip
    return dk.to(k.dtype), dlog_decay, z.to(r.dtype), dH0
