"""`gated_delta_scan` on the GPU: one triangular system for each chunk, then products of matrices.

Within a chunk the errors solve `(I + L) E = V - diag(decay) K S^T`, where `L[t, s]` is the decay from s to t
times `beta_s k_t k_s` below the diagonal. All chunks at once invert `I + L`, in blocks, and apply it to
values and keys; the chunks of a sequence follow one after the other with the errors that the state leaves and
the state that these write; all chunks at once read the outputs. The gradient is the same three passes with
time turned round, and the transposed inverse.

No product has a transposed result of another one on its left: compilers up to Triton 3.7.0 take its rows
wrongly on Hopper. The states are walked transposed, and what is needed transposed is computed so.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.gated_delta_scan.torch_op import GPU_CHUNK, kept_dtype
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
    product_dtype,
    store_rows,
)

__all__ = ["backward", "forward"]


@triton.jit
def _place(first_row, sequence, bounds, LENGTH):
    """Number, first row and steps of a program's chunk; none where there is no chunk."""
    chunk, owner = tl.program_id(0).to(tl.int64), tl.load(sequence + tl.program_id(0))
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + tl.maximum(owner, 0) + 1) - first).to(tl.int32)
    return chunk, first, tl.where(owner < 0, 0, count)


@triton.jit
def _gram(left, right, first, t, here, head, H, K, SIDE: tl.constexpr, STEPS: tl.constexpr,
          KIND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Products of the rows of two arrays, with one another."""
    total = tl.zeros((STEPS, STEPS), tl.float32)
    for low in range(0, K, SIDE):
        x = load_rows(left, first, t, here, head, H, K, low, SIDE).to(KIND)
        y = load_rows(right, first, t, here, head, H, K, low, SIDE).to(KIND)
        total += tl.dot(x, tl.trans(y), input_precision=PRECISION)
    return total


@triton.jit
def _invert(
    system, t, STEPS: tl.constexpr, TURNED: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Inverse of a triangular matrix with ones on its diagonal, given without them; turned the upper one.

    Blocks of the diagonal row after row, all at once; then what lies between two inverted ones by products.
    """
    BLOCKS: tl.constexpr = STEPS // 16
    same = (t // 16)[:, None] == (t // 16)[None, :]
    blocks = tl.reshape(tl.where(same, system, 0.0), (BLOCKS, 16, BLOCKS, 16))
    blocks = tl.sum(blocks, 2)
    i = tl.arange(0, 16)
    found = tl.where((i[:, None] == i[None, :])[None, :, :], 1.0, tl.zeros((BLOCKS, 16, 16), tl.float32))
    for step in range(1, 16):
        here = i == (15 - step if TURNED else step)
        row = tl.sum(tl.where(here[None, :, None], blocks, 0.0), 1)
        change = tl.sum(row[:, :, None] * found, 1)
        found -= tl.where(here[None, :, None], change[:, None, :], 0.0)
    spread = tl.broadcast_to(found[:, :, None, :], (BLOCKS, 16, BLOCKS, 16))
    inverse = tl.where(same, tl.reshape(spread, (STEPS, STEPS)), 0.0)
    if STEPS > 16:
        inverse = _join(inverse, system, t, 16, KIND, PRECISION)
    if STEPS > 32:
        inverse = _join(inverse, system, t, 32, KIND, PRECISION)
    return inverse


@triton.jit
def _product(a, b, KIND: tl.constexpr, PRECISION: tl.constexpr):
    """A product of float32; for bfloat16 inputs of halves in their format, to some sixteen bits.

    Not on the matrix units' short format of float32: its products of 64 rows came out wrong on an H200, with
    Triton 3.6 and 3.7.1.
    """
    if tl.bfloat16 == KIND:
        high_a, high_b = a.to(KIND), b.to(KIND)
        low_a, low_b = (a - high_a.to(tl.float32)).to(KIND), (b - high_b.to(tl.float32)).to(KIND)
        return tl.dot(high_a, high_b) + (tl.dot(high_a, low_b) + tl.dot(low_a, high_b))
    else:
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _join(inverse, system, t, SIZE: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr):
    """Inverse of a triangular matrix in blocks of twice the size that its inverse is there for."""
    block = t // SIZE
    pair = (block // 2)[:, None] == (block // 2)[None, :]
    between = tl.where(pair & (block[:, None] != block[None, :]), system, 0.0)
    found = _product(inverse, between, KIND, PRECISION)
    return inverse - _product(found, inverse, KIND, PRECISION)


@triton.jit
def _system(k, a, write, first, t, here, count, head, H, K, SIDE: tl.constexpr, STEPS: tl.constexpr,
            TURNED: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Inverse of a chunk's system, or turned of its transpose."""
    keys = _gram(k, k, first, t, here, head, H, K, SIDE, STEPS, KIND, PRECISION)
    keys *= chunk_decays(a, t, count, KIND, TURNED)
    if TURNED:
        system = tl.where(t[:, None] < t[None, :], keys, 0.0) * write[:, None]
    else:
        system = tl.where(t[:, None] > t[None, :], keys, 0.0) * write[None, :]
    return _invert(system, t, STEPS, TURNED, KIND, PRECISION)


@triton.jit
def _apply(inverse, x, weight, out, first, t, here, head, H, W, SIDE: tl.constexpr, KIND: tl.constexpr,
           PRECISION: tl.constexpr):  # fmt: skip
    """`inverse (weight x)` to `out`."""
    for low in range(0, W, SIDE):
        tile = load_rows(x, first, t, here, head, H, W, low, SIDE).to(tl.float32) * weight[:, None]
        found = tl.dot(inverse, tile.to(KIND), input_precision=PRECISION)
        store_rows(out, found, first, t, here, head, H, W, low, SIDE)


@triton.jit
def _prepare(
    k, v, log_decay, beta, values, keys, reaches, decay, first_row, sequence, bounds, H, K, V, LENGTH, ROWS,
    STEPS: tl.constexpr, SIDE: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Values and faded keys through the inverse."""
    chunk, first, count = _place(first_row, sequence, bounds, LENGTH)
    head, t = tl.program_id(1), tl.arange(0, STEPS)
    here = t < count
    a, before, after = chunk_logs(log_decay, first, t, count, head, H)
    write = tl.load(beta + (first + t) * H + head, mask=here, other=0.0).to(tl.float32)
    tl.store(reaches + head.to(tl.int64) * ROWS + first + t, write * tl.exp(after), mask=here)
    tl.store(decay + chunk * H + head, tl.exp(tl.sum(a, 0)))
    inverse = _system(k, a, write, first, t, here, count, head, H, K, SIDE, STEPS, False, KIND, PRECISION).to(
        KIND
    )
    _apply(inverse, v, tl.where(here, 1.0, 0.0), values, first, t, here, head, H, V, SIDE, KIND, PRECISION)
    _apply(inverse, k, tl.exp(before), keys, first, t, here, head, H, K, SIDE, KIND, PRECISION)


@triton.jit
def _follow(
    k, reaches, decay, values, keys, h0, errors, states, last, offsets, bounds, H, K, V, LENGTH, ROWS,
    STEPS: tl.constexpr, KP: tl.constexpr, COLUMNS: tl.constexpr, KIND: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The chunks of a sequence one after the other: the state before each, and the errors that it leaves."""
    owner, head, low = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2) * COLUMNS
    i, j, t = low + tl.arange(0, COLUMNS), tl.arange(0, KP), tl.arange(0, STEPS)
    inside, cell = (i < V)[None, :] & (j < K)[:, None], i[None, :] * K + j[:, None]
    edge = (owner * H + head) * V * K
    state = tl.load(h0 + edge + cell, mask=inside, other=0.0)
    start, end = tl.load(offsets + owner), tl.load(offsets + owner + 1)
    begin, stop = tl.load(bounds + owner), tl.load(bounds + owner + 1)
    for step in tl.range((end - start).to(tl.int32), num_stages=STAGES):
        first = begin + step * LENGTH
        here = t < tl.minimum(LENGTH, stop - first).to(tl.int32)
        chunk = (start + step) * H + head
        reach = tl.load(reaches + head.to(tl.int64) * ROWS + first + t, mask=here, other=0.0)
        whole = tl.load(decay + chunk + tl.zeros((COLUMNS,), tl.int32))
        w = load_rows(keys, first, t, here, head, H, K, 0, KP).to(KIND)
        error = load_rows(values, first, t, here, head, H, V, low, COLUMNS).to(tl.float32)
        x = load_rows(k, first, t, here, head, H, K, 0, KP).to(KIND)
        tl.store(states + chunk * V * K + cell, state.to(states.dtype.element_ty), mask=inside)
        error -= tl.dot(w, state.to(KIND), input_precision=PRECISION)
        store_rows(errors, error, first, t, here, head, H, V, low, COLUMNS)
        written = (error * reach[:, None]).to(KIND)
        state = tl.dot(tl.trans(x), written, state * whole[None, :], input_precision=PRECISION)
    tl.store(last + edge + cell, state, mask=inside)


@triton.jit
def _load_state(p, chunk, head, H, V, K, low, start, SIDE: tl.constexpr):
    """A (values, keys) tile of one chunk's state."""
    i, j = low + tl.arange(0, SIDE), start + tl.arange(0, SIDE)
    state = p + (chunk * H + head) * V * K
    return tl.load(state + i[:, None] * K + j[None, :], mask=(i < V)[:, None] & (j < K)[None, :], other=0.0)


@triton.jit
def _read(
    q, k, log_decay, beta, errors, states, o, first_row, sequence, bounds, H, K, V, LENGTH, scale,
    STEPS: tl.constexpr, SIDE: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk."""
    chunk, first, count = _place(first_row, sequence, bounds, LENGTH)
    head, low, t = tl.program_id(1), tl.program_id(2) * SIDE, tl.arange(0, STEPS)
    here = t < count
    a, before, _ = chunk_logs(log_decay, first, t, count, head, H)
    product, old = tl.zeros((STEPS, STEPS), tl.float32), tl.zeros((STEPS, SIDE), tl.float32)
    for start in range(0, K, SIDE):
        x = load_rows(q, first, t, here, head, H, K, start, SIDE).to(KIND)
        y = load_rows(k, first, t, here, head, H, K, start, SIDE).to(KIND)
        state = _load_state(states, chunk, head, H, V, K, low, start, SIDE).to(KIND)
        product += tl.dot(x, tl.trans(y), input_precision=PRECISION)
        old += tl.dot(x, tl.trans(state), input_precision=PRECISION)
    write = tl.load(beta + (first + t) * H + head, mask=here, other=0.0)
    innovation = load_rows(errors, first, t, here, head, H, V, low, SIDE) * write[:, None]
    weights = (product * chunk_decays(a, t, count, KIND, False)).to(KIND)
    found = tl.dot(weights, innovation.to(KIND), input_precision=PRECISION) + tl.exp(before)[:, None] * old
    store_rows(o, found * scale, first, t, here, head, H, V, low, SIDE)


@triton.jit
def _prepare_back(
    q, k, log_decay, beta, do, derrors, values, keys, fades, decay, first_row, sequence, bounds, H, K, V,
    LENGTH, ROWS, scale,
    STEPS: tl.constexpr, SIDE: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What outputs and errors of a chunk give to its values, and keys as the state after it meets them."""
    chunk, first, count = _place(first_row, sequence, bounds, LENGTH)
    head, t = tl.program_id(1), tl.arange(0, STEPS)
    here = t < count
    a, before, after = chunk_logs(log_decay, first, t, count, head, H)
    write = tl.load(beta + (first + t) * H + head, mask=here, other=0.0).to(tl.float32)
    tl.store(fades + head.to(tl.int64) * ROWS + first + t, tl.exp(before), mask=here)
    tl.store(decay + chunk * H + head, tl.exp(tl.sum(a, 0)))
    inverse = _system(k, a, write, first, t, here, count, head, H, K, SIDE, STEPS, True, KIND, PRECISION).to(
        KIND
    )
    _apply(inverse, k, write * tl.exp(after), keys, first, t, here, head, H, K, SIDE, KIND, PRECISION)
    reads = _gram(k, q, first, t, here, head, H, K, SIDE, STEPS, KIND, PRECISION)
    reads *= chunk_decays(a, t, count, KIND, True) * write[:, None] * scale
    reads = reads.to(KIND)
    for low in range(0, V, SIDE):
        seen = load_rows(do, first, t, here, head, H, V, low, SIDE).to(KIND)
        given = load_rows(derrors, first, t, here, head, H, V, low, SIDE).to(tl.float32)
        given += tl.dot(reads, seen, input_precision=PRECISION)
        found = tl.dot(inverse, given.to(KIND), input_precision=PRECISION)
        store_rows(values, found, first, t, here, head, H, V, low, SIDE)


@triton.jit
def _follow_back(
    q, k, fades, decay, values, keys, do, dlast, given, later, dh0, offsets, bounds, H, K, V, LENGTH, ROWS,
    scale, STEPS: tl.constexpr, KP: tl.constexpr, COLUMNS: tl.constexpr, KIND: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The chunks of a sequence backwards: the gradient of the state after each, and those of its values."""
    owner, head, low = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2) * COLUMNS
    i, j, t = low + tl.arange(0, COLUMNS), tl.arange(0, KP), tl.arange(0, STEPS)
    inside, cell = (i < V)[None, :] & (j < K)[:, None], i[None, :] * K + j[:, None]
    edge = (owner * H + head) * V * K
    state = tl.load(dlast + edge + cell, mask=inside, other=0.0)
    start, end = tl.load(offsets + owner), tl.load(offsets + owner + 1)
    begin, stop = tl.load(bounds + owner), tl.load(bounds + owner + 1)
    for back in tl.range((end - start).to(tl.int32), num_stages=STAGES):
        step = (end - start) - 1 - back
        first = begin + step * LENGTH
        here = t < tl.minimum(LENGTH, stop - first).to(tl.int32)
        chunk = (start + step) * H + head
        fade = tl.load(fades + head.to(tl.int64) * ROWS + first + t, mask=here, other=0.0)[:, None]
        whole = tl.load(decay + chunk + tl.zeros((COLUMNS,), tl.int32))
        w = load_rows(keys, first, t, here, head, H, K, 0, KP).to(KIND)
        z = load_rows(values, first, t, here, head, H, V, low, COLUMNS).to(tl.float32)
        x = load_rows(k, first, t, here, head, H, K, 0, KP).to(KIND)
        y = load_rows(q, first, t, here, head, H, K, 0, KP).to(KIND)
        seen = load_rows(do, first, t, here, head, H, V, low, COLUMNS).to(tl.float32)
        tl.store(later + chunk * V * K + cell, state.to(later.dtype.element_ty), mask=inside)
        z += tl.dot(w, state.to(KIND), input_precision=PRECISION)
        store_rows(given, z, first, t, here, head, H, V, low, COLUMNS)
        seen = (seen * fade * scale).to(KIND)
        state = tl.dot(tl.trans(y), seen, state * whole[None, :], input_precision=PRECISION)
        state -= tl.dot(tl.trans(x), (z * fade).to(KIND), input_precision=PRECISION)
    tl.store(dh0 + edge + cell, state, mask=inside)


@triton.jit
def _gradients(
    q, k, log_decay, beta, errors, states, later, do, given, dq, dk, dlog_decay, dbeta, first_row, sequence,
    bounds, H, K, V, LENGTH, scale,
    STEPS: tl.constexpr, SIDE: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk's queries, keys, logarithms and write strengths."""
    chunk, first, count = _place(first_row, sequence, bounds, LENGTH)
    head, t = tl.program_id(1), tl.arange(0, STEPS)
    here = t < count
    a, before, after = chunk_logs(log_decay, first, t, count, head, H)
    write = tl.load(beta + (first + t) * H + head, mask=here, other=0.0)
    decays = chunk_decays(a, t, count, KIND, False)
    # Shares of pairs of steps: through the outputs, and through the system.
    reads = _gram(do, errors, first, t, here, head, H, V, SIDE, STEPS, KIND, PRECISION) * decays * scale
    solves = _gram(given, errors, first, t, here, head, H, V, SIDE, STEPS, KIND, PRECISION)
    solves = tl.where(t[:, None] > t[None, :], -solves * decays, 0.0)
    pairs = reads * _gram(q, k, first, t, here, head, H, K, SIDE, STEPS, KIND, PRECISION)
    pairs += solves * _gram(k, k, first, t, here, head, H, K, SIDE, STEPS, KIND, PRECISION)
    through_write = tl.sum(pairs, 0)
    at_end = tl.sum(pairs * write[None, :], 1) - through_write * write
    reads, fade, reach = (reads * write[None, :]).to(KIND), tl.exp(before)[:, None], tl.exp(after)[:, None]
    old, written, through = tl.zeros((STEPS,), tl.float32), tl.zeros((STEPS,), tl.float32), 0.0
    for start in range(0, K, SIDE):
        found = tl.zeros((STEPS, SIDE), tl.float32)
        for low in range(0, V, SIDE):
            state = _load_state(states, chunk, head, H, V, K, low, start, SIDE).to(KIND)
            seen = load_rows(do, first, t, here, head, H, V, low, SIDE).to(KIND)
            found += tl.dot(seen, state, input_precision=PRECISION)
        x = load_rows(q, first, t, here, head, H, K, start, SIDE).to(tl.float32)
        y = load_rows(k, first, t, here, head, H, K, start, SIDE).to(KIND)
        found *= fade * scale
        old += tl.sum(found * x, 1)
        found += tl.dot(reads, y, input_precision=PRECISION)
        store_rows(dq, found, first, t, here, head, H, K, start, SIDE)
    # With the earlier step of a pair in the rows; `both` has a step's key as the later and as the earlier.
    solves = _gram(given, errors, first, t, here, head, H, V, SIDE, STEPS, KIND, PRECISION)
    both = tl.where(t[:, None] > t[None, :], solves * decays * write[None, :], 0.0)
    turned = chunk_decays(a, t, count, KIND, True) * write[:, None]
    solves = _gram(errors, given, first, t, here, head, H, V, SIDE, STEPS, KIND, PRECISION)
    both = (-both - tl.where(t[:, None] < t[None, :], solves * turned, 0.0)).to(KIND)
    reads = _gram(errors, do, first, t, here, head, H, V, SIDE, STEPS, KIND, PRECISION)
    reads = (reads * turned * scale).to(KIND)
    for start in range(0, K, SIDE):
        found, new = tl.zeros((STEPS, SIDE), tl.float32), tl.zeros((STEPS, SIDE), tl.float32)
        for low in range(0, V, SIDE):
            state = _load_state(states, chunk, head, H, V, K, low, start, SIDE)
            gradient = _load_state(later, chunk, head, H, V, K, low, start, SIDE)
            through += tl.sum(state.to(tl.float32) * gradient.to(tl.float32))
            z = load_rows(given, first, t, here, head, H, V, low, SIDE).to(KIND)
            found += tl.dot(z, state.to(KIND), input_precision=PRECISION)
            error = load_rows(errors, first, t, here, head, H, V, low, SIDE).to(KIND)
            new += tl.dot(error, gradient.to(KIND), input_precision=PRECISION)
        x = load_rows(q, first, t, here, head, H, K, start, SIDE).to(KIND)
        y = load_rows(k, first, t, here, head, H, K, start, SIDE)
        found, new = found * fade, new * reach
        old -= tl.sum(found * y.to(tl.float32), 1)
        written += tl.sum(new * y.to(tl.float32), 1)
        found = new * write[:, None] - found
        found += tl.dot(reads, x, input_precision=PRECISION)
        found += tl.dot(both, y.to(KIND), input_precision=PRECISION)
        store_rows(dk, found, first, t, here, head, H, K, start, SIDE)
    tl.store(dbeta + (first + t) * H + head, through_write + written, mask=here)
    # As in `ssd_scan`: what ends at or after a step and began before it.
    written = tl.where(here, written * write, 0.0)
    ended = tl.cumsum(at_end + old, 0, reverse=True)
    whole = tl.exp(tl.sum(tl.where(t == count - 1, before, 0.0), 0))
    total = ended + tl.cumsum(written, 0) - written + whole * through
    tl.store(dlog_decay + (first + t) * H + head, total, mask=here)


def _options(q: Tensor, chunks: Chunks, width: int, back: bool) -> dict[str, Any]:
    """Sides of a product: what stays in registers."""
    chip, single = architecture(q), q.dtype is torch.float32
    amd = chip.startswith("gfx")
    widest = 32 if not (single and back) or amd else 16
    return {
        "STEPS": power_of_two(chunks.length, 16), "SIDE": min(widest, power_of_two(width, 16)),
        "KIND": product_dtype(q), "PRECISION": precision(q),
        "num_warps": 4, "num_stages": 1,
    }  # fmt: skip


def _follow_options(q: Tensor, chunks: Chunks, V: int) -> dict[str, Any]:
    amd, padded = architecture(q).startswith("gfx"), power_of_two(q.shape[3], 16)
    stages = 1 if amd or q.dtype is torch.float32 else 2
    if architecture(q) == "sm_80" and stages == 2 and padded <= 64:
        stages = 3  # with two the compiler puts registers away there
    return {
        "STEPS": power_of_two(chunks.length, 16), "KP": padded, "COLUMNS": 16, "KIND": product_dtype(q),
        "PRECISION": precision(q), "STAGES": stages, "num_warps": 8 if padded > 64 else 4,
    }  # fmt: skip


def _check(q: Tensor) -> None:
    if q.shape[3] > 128:
        raise ValueError(
            f"gated_delta_scan: keys {q.shape[3]} wide came; on a GPU they are at most 128. Use more heads."
        )


def forward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, h0: Tensor, cu_seqlens: Tensor | None,
    scale: float, keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::gated_delta_scan` on a GPU."""
    _check(q)
    chunks = chunked(q, cu_seqlens, GPU_CHUNK)
    q, k, v, log_decay, beta, h0 = (x.contiguous() for x in (q, k, v, log_decay, beta, h0))
    (heads, K), V = q.shape[2:], v.shape[3]
    # What only goes into products is kept in their format.
    kept, rows = kept_dtype(q, h0), q.shape[0] * q.shape[1]
    values, errors, o = h0.new_empty(v.shape, dtype=kept), h0.new_empty(v.shape), torch.empty_like(v)
    keys, last = h0.new_empty(k.shape, dtype=kept), torch.empty_like(h0)
    states = h0.new_empty(chunks.count, heads, V, K, dtype=kept)
    reaches, decay = h0.new_empty(heads, rows), h0.new_empty(chunks.count, heads)
    options, where = _options(q, chunks, max(K, V), False), (chunks.first, chunks.sequence, chunks.bounds)
    sizes = (heads, K, V, chunks.length)
    launch(
        _prepare, (chunks.count, heads), k, v, log_decay, beta, values, keys, reaches, decay, *where, *sizes,
        rows, **options,
    )  # fmt: skip
    follow = _follow_options(q, chunks, V)
    launch(
        _follow, (chunks.sequences, heads, ceil_div(V, follow["COLUMNS"])), k, reaches, decay, values, keys,
        h0, errors, states, last, chunks.offsets, chunks.bounds, *sizes, rows, **follow,
    )  # fmt: skip
    launch(
        _read, (chunks.count, heads, ceil_div(V, options["SIDE"])), q, k, log_decay, beta, errors, states, o,
        *where, *sizes, scale, **options,
    )  # fmt: skip
    return o, errors, last, states if keep else states.new_empty(0, *states.shape[1:])


def backward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, errors: Tensor, states: Tensor,
    cu_seqlens: Tensor | None, scale: float, do: Tensor, derrors: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::gated_delta_scan_backward` on a GPU."""
    chunks = chunked(q, cu_seqlens, GPU_CHUNK)
    q, k, log_decay, beta, do, derrors, dlast = (
        x.contiguous() for x in (q, k, log_decay, beta, do, derrors, dlast)
    )
    (heads, K), V = q.shape[2:], v.shape[3]
    kept, rows = states.dtype, q.shape[0] * q.shape[1]
    values, given, keys = (errors.new_empty(x.shape, dtype=kept) for x in (errors, errors, k))
    fades, decay = errors.new_empty(heads, rows), errors.new_empty(chunks.count, heads)
    later, dh0 = torch.empty_like(states), torch.empty_like(dlast)
    dq, dk, dlog_decay, dbeta = (torch.empty_like(x) for x in (q, k, log_decay, beta))
    options, where = _options(q, chunks, max(K, V), True), (chunks.first, chunks.sequence, chunks.bounds)
    sizes = (heads, K, V, chunks.length)
    grid = (chunks.count, heads)
    launch(
        _prepare_back, grid, q, k, log_decay, beta, do, derrors, values, keys, fades, decay, *where, *sizes,
        rows, scale, **options,
    )  # fmt: skip
    follow = _follow_options(q, chunks, V)
    launch(
        _follow_back, (chunks.sequences, heads, ceil_div(V, follow["COLUMNS"])), q, k, fades, decay, values,
        keys, do, dlast, given, later, dh0, chunks.offsets, chunks.bounds, *sizes, rows, scale, **follow,
    )  # fmt: skip
    launch(
        _gradients, grid, q, k, log_decay, beta, errors, states, later, do, given, dq, dk, dlog_decay, dbeta,
        *where, *sizes, scale, **options,
    )  # fmt: skip
    return dq, dk, given.to(v.dtype), dlog_decay, dbeta, dh0
