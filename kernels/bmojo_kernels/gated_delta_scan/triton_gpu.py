"""`gated_delta_scan` on the GPU: one triangular system for each chunk, then products of matrices.

Within a chunk the errors solve `(I + L) E = V - diag(decay) K S^T`, where `L[t, s]` is the decay from s to t
times `beta_s k_t k_s` below the diagonal. All chunks at once invert `I + L`, row by row, and apply it to
values and keys; the chunks of a sequence follow one after the other with the errors that the state leaves and
the state that these write; all chunks at once read the outputs. The gradient is the same three passes with
time turned round, and the transposed inverse.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.gated_delta_scan.torch_op import gpu_chunk
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
def _invert(lower, t, STEPS: tl.constexpr):
    """Inverse of a unit lower triangular matrix, given below its diagonal: row after row."""
    found = tl.where(t[:, None] == t[None, :], 1.0, 0.0)
    for i in range(1, STEPS):
        row = tl.sum(tl.where((t == i)[:, None], lower, 0.0), 0)
        change = tl.sum(row[:, None] * found, 0)
        found -= tl.where((t == i)[:, None], change[None, :], 0.0)
    return found


@triton.jit
def _system(k, a, write, first, t, here, count, head, H, K, SIDE: tl.constexpr, STEPS: tl.constexpr,
            KIND: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Inverse of a chunk's system."""
    keys = _gram(k, k, first, t, here, head, H, K, SIDE, STEPS, KIND, PRECISION)
    lower = (
        tl.where(t[:, None] > t[None, :], keys * chunk_decays(a, t, count, KIND, False), 0.0) * write[None, :]
    )
    return _invert(lower, t, STEPS)


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
    k, v, log_decay, beta, values, keys, first_row, sequence, bounds, H, K, V, LENGTH,
    STEPS: tl.constexpr, SIDE: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Values and faded keys through the inverse."""
    _, first, count = _place(first_row, sequence, bounds, LENGTH)
    head, t = tl.program_id(1), tl.arange(0, STEPS)
    here = t < count
    a, before, _ = chunk_logs(log_decay, first, t, count, head, H)
    write = tl.load(beta + (first + t) * H + head, mask=here, other=0.0)
    inverse = _system(k, a, write, first, t, here, count, head, H, K, SIDE, STEPS, KIND, PRECISION).to(KIND)
    _apply(inverse, v, tl.where(here, 1.0, 0.0), values, first, t, here, head, H, V, SIDE, KIND, PRECISION)
    _apply(inverse, k, tl.exp(before), keys, first, t, here, head, H, K, SIDE, KIND, PRECISION)


@triton.jit
def _follow(
    k, log_decay, beta, values, keys, h0, errors, states, last, offsets, bounds, H, K, V, LENGTH,
    STEPS: tl.constexpr, KP: tl.constexpr, COLUMNS: tl.constexpr, KIND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The chunks of a sequence one after the other: the state before each, and the errors that it leaves."""
    owner, head, low = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2) * COLUMNS
    i, j, t = low + tl.arange(0, COLUMNS), tl.arange(0, KP), tl.arange(0, STEPS)
    inside = (i < V)[:, None] & (j < K)[None, :]
    edge = ((owner * H + head) * V + i[:, None]) * K + j[None, :]
    state = tl.load(h0 + edge, mask=inside, other=0.0)
    start, end = tl.load(offsets + owner), tl.load(offsets + owner + 1)
    begin, stop = tl.load(bounds + owner), tl.load(bounds + owner + 1)
    for step in range((end - start).to(tl.int32)):
        first = begin + step * LENGTH
        count = tl.minimum(LENGTH, stop - first).to(tl.int32)
        here = t < count
        _, before, after = chunk_logs(log_decay, first, t, count, head, H)
        write = tl.load(beta + (first + t) * H + head, mask=here, other=0.0) * tl.exp(after)
        place = (((start + step) * H + head) * V + i[:, None]) * K + j[None, :]
        tl.store(states + place, state, mask=inside)
        w = load_rows(keys, first, t, here, head, H, K, 0, KP).to(KIND)
        error = load_rows(values, first, t, here, head, H, V, low, COLUMNS)
        error -= tl.dot(w, tl.trans(state.to(KIND)), input_precision=PRECISION)
        store_rows(errors, error, first, t, here, head, H, V, low, COLUMNS)
        x = load_rows(k, first, t, here, head, H, K, 0, KP).to(KIND)
        whole = tl.exp(tl.sum(tl.where(t == count - 1, before, 0.0), 0))
        written = tl.trans((error * write[:, None]).to(KIND))
        state = whole * state + tl.dot(written, x, input_precision=PRECISION)
    tl.store(last + edge, state, mask=inside)


@triton.jit
def _load_state(p, chunk, head, H, V, K, low, start, SIDE: tl.constexpr):
    """A (values, keys) tile of one chunk's state."""
    i, j = low + tl.arange(0, SIDE), start + tl.arange(0, SIDE)
    place = ((chunk * H + head) * V + i[:, None]) * K + j[None, :]
    return tl.load(p + place, mask=(i < V)[:, None] & (j < K)[None, :], other=0.0)


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
    q, k, log_decay, beta, do, derrors, values, keys, first_row, sequence, bounds, H, K, V, LENGTH, scale,
    STEPS: tl.constexpr, SIDE: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What outputs and errors of a chunk give to its values, and keys as the state after it meets them."""
    _, first, count = _place(first_row, sequence, bounds, LENGTH)
    head, t = tl.program_id(1), tl.arange(0, STEPS)
    here = t < count
    a, _, after = chunk_logs(log_decay, first, t, count, head, H)
    write = tl.load(beta + (first + t) * H + head, mask=here, other=0.0)
    inverse = _system(k, a, write, first, t, here, count, head, H, K, SIDE, STEPS, KIND, PRECISION)
    inverse = tl.trans(inverse).to(KIND)
    _apply(inverse, k, write * tl.exp(after), keys, first, t, here, head, H, K, SIDE, KIND, PRECISION)
    reads = _gram(k, q, first, t, here, head, H, K, SIDE, STEPS, KIND, PRECISION)
    reads *= tl.trans(chunk_decays(a, t, count, KIND, False)) * write[:, None] * scale
    reads = reads.to(KIND)
    for low in range(0, V, SIDE):
        seen = load_rows(do, first, t, here, head, H, V, low, SIDE).to(KIND)
        given = load_rows(derrors, first, t, here, head, H, V, low, SIDE)
        given += tl.dot(reads, seen, input_precision=PRECISION)
        found = tl.dot(inverse, given.to(KIND), input_precision=PRECISION)
        store_rows(values, found, first, t, here, head, H, V, low, SIDE)


@triton.jit
def _follow_back(
    q, k, log_decay, values, keys, do, dlast, given, later, dh0, offsets, bounds, H, K, V, LENGTH, scale,
    STEPS: tl.constexpr, KP: tl.constexpr, COLUMNS: tl.constexpr, KIND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The chunks of a sequence backwards: the gradient of the state after each, and those of its values."""
    owner, head, low = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2) * COLUMNS
    i, j, t = low + tl.arange(0, COLUMNS), tl.arange(0, KP), tl.arange(0, STEPS)
    inside = (i < V)[:, None] & (j < K)[None, :]
    edge = ((owner * H + head) * V + i[:, None]) * K + j[None, :]
    state = tl.load(dlast + edge, mask=inside, other=0.0)
    start, end = tl.load(offsets + owner), tl.load(offsets + owner + 1)
    begin, stop = tl.load(bounds + owner), tl.load(bounds + owner + 1)
    for back in range((end - start).to(tl.int32)):
        step = (end - start) - 1 - back
        first = begin + step * LENGTH
        count = tl.minimum(LENGTH, stop - first).to(tl.int32)
        here = t < count
        _, before, _ = chunk_logs(log_decay, first, t, count, head, H)
        place = (((start + step) * H + head) * V + i[:, None]) * K + j[None, :]
        tl.store(later + place, state, mask=inside)
        w = load_rows(keys, first, t, here, head, H, K, 0, KP).to(KIND)
        z = load_rows(values, first, t, here, head, H, V, low, COLUMNS)
        z += tl.dot(w, tl.trans(state.to(KIND)), input_precision=PRECISION)
        store_rows(given, z, first, t, here, head, H, V, low, COLUMNS)
        fade = tl.exp(before)[:, None]
        x = load_rows(k, first, t, here, head, H, K, 0, KP).to(KIND)
        y = load_rows(q, first, t, here, head, H, K, 0, KP).to(KIND)
        seen = load_rows(do, first, t, here, head, H, V, low, COLUMNS).to(tl.float32)
        whole = tl.exp(tl.sum(tl.where(t == count - 1, before, 0.0), 0))
        state = whole * state + tl.dot(tl.trans((seen * fade * scale).to(KIND)), y, input_precision=PRECISION)
        state -= tl.dot(tl.trans((z * fade).to(KIND)), x, input_precision=PRECISION)
    tl.store(dh0 + edge, state, mask=inside)


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
    reads, solves = (reads * write[None, :]).to(KIND), solves * write[None, :]
    both = (solves + tl.trans(solves)).to(KIND)  # a step's key as the later and as the earlier of a pair
    fade, reach = tl.exp(before)[:, None], tl.exp(after)[:, None]
    old, written, through = tl.zeros((STEPS,), tl.float32), tl.zeros((STEPS,), tl.float32), 0.0
    for start in range(0, K, SIDE):
        from_q, from_k = tl.zeros((STEPS, SIDE), tl.float32), tl.zeros((STEPS, SIDE), tl.float32)
        new = tl.zeros((STEPS, SIDE), tl.float32)
        for low in range(0, V, SIDE):
            state = _load_state(states, chunk, head, H, V, K, low, start, SIDE)
            gradient = _load_state(later, chunk, head, H, V, K, low, start, SIDE)
            through += tl.sum(state * gradient)
            state = state.to(KIND)
            seen = load_rows(do, first, t, here, head, H, V, low, SIDE).to(KIND)
            from_q += tl.dot(seen, state, input_precision=PRECISION)
            z = load_rows(given, first, t, here, head, H, V, low, SIDE).to(KIND)
            from_k += tl.dot(z, state, input_precision=PRECISION)
            error = load_rows(errors, first, t, here, head, H, V, low, SIDE).to(KIND)
            new += tl.dot(error, gradient.to(KIND), input_precision=PRECISION)
        x = load_rows(q, first, t, here, head, H, K, start, SIDE)
        y = load_rows(k, first, t, here, head, H, K, start, SIDE)
        from_q, from_k, new = from_q * fade * scale, from_k * fade, new * reach
        old += tl.sum(from_q * x.to(tl.float32) - from_k * y.to(tl.float32), 1)
        written += tl.sum(new * y.to(tl.float32), 1)
        x, y = x.to(KIND), y.to(KIND)
        from_q += tl.dot(reads, y, input_precision=PRECISION)
        store_rows(dq, from_q, first, t, here, head, H, K, start, SIDE)
        from_k = new * write[:, None] - from_k
        from_k += tl.dot(tl.trans(reads), x, input_precision=PRECISION)
        from_k += tl.dot(both, y, input_precision=PRECISION)
        store_rows(dk, from_k, first, t, here, head, H, K, start, SIDE)
    tl.store(dbeta + (first + t) * H + head, through_write + written, mask=here)
    # As in `ssd_scan`: what ends at or after a step and began before it.
    written = tl.where(here, written * write, 0.0)
    ended = tl.cumsum(at_end + old, 0, reverse=True)
    whole = tl.exp(tl.sum(tl.where(t == count - 1, before, 0.0), 0))
    total = ended + tl.cumsum(written, 0) - written + whole * through
    tl.store(dlog_decay + (first + t) * H + head, total, mask=here)


def _options(q: Tensor, chunks: Chunks, width: int, back: bool) -> dict[str, object]:
    """Sides of a product: what stays in registers."""
    chip, single = architecture(q), q.dtype is torch.float32
    amd = chip.startswith("gfx")
    widest = 32 if not (single and back) or amd else 16
    return {
        "STEPS": power_of_two(chunks.length, 16), "SIDE": min(widest, power_of_two(width, 16)),
        "KIND": product_dtype(q), "PRECISION": precision(q),
        "num_warps": 4, "num_stages": 1,
    }  # fmt: skip


def _follow_options(q: Tensor, chunks: Chunks, V: int) -> dict[str, object]:
    options = _options(q, chunks, V, False)
    del options["SIDE"]
    padded = power_of_two(q.shape[3], 16)
    return options | {"KP": padded, "COLUMNS": 16, "num_warps": 8 if padded > 64 else 4}


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
    chunks = chunked(q, cu_seqlens, gpu_chunk(q))
    q, k, v, log_decay, beta, h0 = (x.contiguous() for x in (q, k, v, log_decay, beta, h0))
    (heads, K), V = q.shape[2:], v.shape[3]
    values, errors, o = h0.new_empty(v.shape), h0.new_empty(v.shape), torch.empty_like(v)
    keys, last = h0.new_empty(k.shape), torch.empty_like(h0)
    states = h0.new_empty(chunks.count, heads, V, K)
    options, where = _options(q, chunks, max(K, V), False), (chunks.first, chunks.sequence, chunks.bounds)
    sizes = (heads, K, V, chunks.length)
    launch(_prepare, (chunks.count, heads), k, v, log_decay, beta, values, keys, *where, *sizes, **options)
    follow = _follow_options(q, chunks, V)
    launch(
        _follow, (chunks.sequences, heads, ceil_div(V, follow["COLUMNS"])), k, log_decay, beta, values, keys,
        h0, errors, states, last, chunks.offsets, chunks.bounds, *sizes, **follow,
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
    chunks = chunked(q, cu_seqlens, gpu_chunk(q))
    q, k, log_decay, beta, do, derrors, dlast = (
        x.contiguous() for x in (q, k, log_decay, beta, do, derrors, dlast)
    )
    (heads, K), V = q.shape[2:], v.shape[3]
    values, given, keys = (errors.new_empty(x.shape) for x in (errors, errors, k))
    later, dh0 = torch.empty_like(states), torch.empty_like(dlast)
    dq, dk, dlog_decay, dbeta = (torch.empty_like(x) for x in (q, k, log_decay, beta))
    options, where = _options(q, chunks, max(K, V), True), (chunks.first, chunks.sequence, chunks.bounds)
    sizes = (heads, K, V, chunks.length, scale)
    grid = (chunks.count, heads)
    launch(_prepare_back, grid, q, k, log_decay, beta, do, derrors, values, keys, *where, *sizes, **options)
    follow = _follow_options(q, chunks, V)
    launch(
        _follow_back, (chunks.sequences, heads, ceil_div(V, follow["COLUMNS"])), q, k, log_decay, values,
        keys, do, dlast, given, later, dh0, chunks.offsets, chunks.bounds, *sizes, **follow,
    )  # fmt: skip
    launch(
        _gradients, grid, q, k, log_decay, beta, errors, states, later, do, given, dq, dk, dlog_decay, dbeta,
        *where, *sizes, **options,
    )  # fmt: skip
    return dq, dk, given.to(v.dtype), dlog_decay, dbeta, dh0
