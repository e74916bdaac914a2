"""`ssd_scan` on the GPU: a chunk is a few products of matrices, and the states between chunks are scanned.

Three passes: what each chunk adds to the state; the states before each chunk, one after the other, in
float32; and every chunk's outputs, from its own steps and from the state before it. The gradient is the same
three passes with time turned round. Sums of logarithms are taken over just the steps between two, so that a
gate that closes (a large negative logarithm) takes no digits from the steps behind it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bmojo_kernels.ssd_scan.torch_op import longest_chunk
from bmojo_kernels.triton_support import (
    Chunks,
    architecture,
    ceil_div,
    chunk_decays,
    chunk_logs,
    chunked,
    launch,
    load_tile,
    power_of_two,
    precision,
    product_dtype,
    store_tile,
)

__all__ = ["backward", "forward", "pass_states", "states_between"]

HEADS = 4  # heads whose shares of dB and dC one program adds up


@triton.jit
def _load_state(p, row, head, H, P, N, low, start, PARTS: tl.constexpr, STATES: tl.constexpr):
    i, n = low + tl.arange(0, PARTS), start + tl.arange(0, STATES)
    place = ((row.to(tl.int64) * H + head) * P + i[:, None]) * N + n[None, :]
    return tl.load(p + place, mask=(i < P)[:, None] & (n < N)[None, :], other=0.0)


@triton.jit
def _add(
    left, log_decay, right, added, decay, first_row, sequence, bounds, H, G, P, N, LENGTH,
    REVERSE: tl.constexpr, STEPS: tl.constexpr, PARTS: tl.constexpr, STATES: tl.constexpr, KIND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to the state at its end, or backwards to the gradient of the one at its start."""
    chunk, head, owner = tl.program_id(0), tl.program_id(1), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    columns = tl.cdiv(N, STATES)
    low, start = tl.program_id(2) // columns * PARTS, tl.program_id(2) % columns * STATES
    t = tl.arange(0, STEPS)
    here = t < count
    _, before, after = chunk_logs(log_decay, first, t, count, head, H)
    weight = tl.exp(before if REVERSE else after)
    x = load_tile(left, first + t, here, head, H, P, low, PARTS)
    b = load_tile(right, first + t, here, head // (H // G), G, N, start, STATES)
    x = (x.to(tl.float32) * weight[:, None]).to(KIND)
    total = tl.dot(tl.trans(x), b.to(KIND), input_precision=PRECISION)
    i, n = low + tl.arange(0, PARTS), start + tl.arange(0, STATES)
    place = ((chunk.to(tl.int64) * H + head) * P + i[:, None]) * N + n[None, :]
    tl.store(added + place, total, mask=(i < P)[:, None] & (n < N)[None, :])
    if tl.program_id(2) == 0:
        whole = tl.sum(tl.where(t == count - 1, before, 0.0), 0)
        tl.store(decay + chunk.to(tl.int64) * H + head, tl.exp(whole))


@triton.jit
def _pass(
    added, decay, edge, passed, end, offsets, H, SIZE, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """The state before each chunk (backwards: the gradient of that after it), and the one at the end."""
    owner, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    low, high = tl.load(offsets + owner), tl.load(offsets + owner + 1)
    state = tl.load(edge + (owner * H + head) * SIZE + i, mask=i < SIZE, other=0.0)
    for step in tl.range((high - low).to(tl.int32), num_stages=STAGES):
        if REVERSE:
            row = high - 1 - step
        else:
            row = low + step
        place = (row * H + head) * SIZE + i
        more = tl.load(added + place, mask=i < SIZE, other=0.0)
        tl.store(passed + place, state, mask=i < SIZE)
        state = tl.load(decay + row * H + head) * state + more
    tl.store(end + (owner * H + head) * SIZE + i, state, mask=i < SIZE)


@triton.jit
def _read(
    x, log_decay, B, C, states, y, first_row, sequence, bounds, H, G, P, N, LENGTH,
    STEPS: tl.constexpr, PARTS: tl.constexpr, STATES: tl.constexpr, KIND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk."""
    chunk, head, owner = tl.program_id(0), tl.program_id(1), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t, group = tl.arange(0, STEPS), head // (H // G)
    here = t < count
    a, before, _ = chunk_logs(log_decay, first, t, count, head, H)
    low = tl.program_id(2) * PARTS
    product, old = tl.zeros((STEPS, STEPS), tl.float32), tl.zeros((STEPS, PARTS), tl.float32)
    for start in range(0, N, STATES):
        c = load_tile(C, first + t, here, group, G, N, start, STATES).to(KIND)
        b = load_tile(B, first + t, here, group, G, N, start, STATES).to(KIND)
        state = _load_state(states, chunk, head, H, P, N, low, start, PARTS, STATES).to(KIND)
        product += tl.dot(c, tl.trans(b), input_precision=PRECISION)
        old += tl.dot(c, tl.trans(state), input_precision=PRECISION)
    inputs = load_tile(x, first + t, here, head, H, P, low, PARTS).to(KIND)
    weights = (product * chunk_decays(a, t, count)).to(KIND)
    found = tl.dot(weights, inputs, input_precision=PRECISION) + tl.exp(before)[:, None] * old
    store_tile(y, found, first + t, here, head, H, P, low, PARTS)


@triton.jit
def _inputs_back(
    x, log_decay, B, C, states, later, dy, dx, dlog_decay, first_row, sequence, bounds, H, G, P, N, LENGTH,
    STEPS: tl.constexpr, PARTS: tl.constexpr, STATES: tl.constexpr, KIND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk's inputs and logarithms."""
    chunk, head, owner = tl.program_id(0), tl.program_id(1), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t, group = tl.arange(0, STEPS), head // (H // G)
    here = t < count
    a, before, after = chunk_logs(log_decay, first, t, count, head, H)
    product = tl.zeros((STEPS, STEPS), tl.float32)
    for start in range(0, N, STATES):
        c = load_tile(C, first + t, here, group, G, N, start, STATES).to(KIND)
        b = load_tile(B, first + t, here, group, G, N, start, STATES).to(KIND)
        product += tl.dot(c, tl.trans(b), input_precision=PRECISION)
    product *= chunk_decays(a, t, count)
    weights = product.to(KIND)
    shares, through = tl.zeros((STEPS, STEPS), tl.float32), 0.0
    read, written = tl.zeros((STEPS,), tl.float32), tl.zeros((STEPS,), tl.float32)
    for low in range(0, P, PARTS):
        old, new = tl.zeros((STEPS, PARTS), tl.float32), tl.zeros((STEPS, PARTS), tl.float32)
        for start in range(0, N, STATES):
            c = load_tile(C, first + t, here, group, G, N, start, STATES).to(KIND)
            b = load_tile(B, first + t, here, group, G, N, start, STATES).to(KIND)
            state = _load_state(states, chunk, head, H, P, N, low, start, PARTS, STATES)
            gradient = _load_state(later, chunk, head, H, P, N, low, start, PARTS, STATES)
            through += tl.sum(state * gradient)
            old += tl.dot(c, tl.trans(state.to(KIND)), input_precision=PRECISION)
            new += tl.dot(b, tl.trans(gradient.to(KIND)), input_precision=PRECISION)
        inputs = load_tile(x, first + t, here, head, H, P, low, PARTS)
        outputs = load_tile(dy, first + t, here, head, H, P, low, PARTS)
        read += tl.sum(outputs.to(tl.float32) * old, 1)
        new *= tl.exp(after)[:, None]
        written += tl.sum(inputs.to(tl.float32) * new, 1)
        shares += tl.dot(outputs.to(KIND), tl.trans(inputs.to(KIND)), input_precision=PRECISION)
        new += tl.dot(tl.trans(weights), outputs.to(KIND), input_precision=PRECISION)
        store_tile(dx, new, first + t, here, head, H, P, low, PARTS)
    shares *= product
    # A logarithm counts for all pairs of steps that it lies between: those that end at or after it, less
    # those that also begin there; for the outputs after it, from the state before the chunk; for the inputs
    # before it, in the state after the chunk; and for that state itself.
    at_end = tl.sum(shares, 1) + tl.exp(before) * read
    ended = tl.cumsum(at_end - tl.sum(shares, 0), 0, reverse=True)
    written = tl.where(here, written, 0.0)
    whole = tl.sum(tl.where(t == count - 1, before, 0.0), 0)
    total = ended + tl.cumsum(written, 0) - written + tl.exp(whole) * through
    tl.store(dlog_decay + (first + t) * H + head, total, mask=here)


@triton.jit
def _projections_back(
    x, log_decay, B, C, states, later, dy, dB, dC, first_row, sequence, bounds, H, G, P, N, LENGTH, PIECES,
    HEADS: tl.constexpr, STEPS: tl.constexpr, PARTS: tl.constexpr, STATES: tl.constexpr, KIND: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """What a few heads give to the gradients of a chunk's B and C, for some of the state's columns."""
    chunk, owner = tl.program_id(0), tl.load(sequence + tl.program_id(0))
    if owner < 0:
        return
    group, piece, start = tl.program_id(1) // PIECES, tl.program_id(1) % PIECES, tl.program_id(2) * STATES
    first = tl.load(first_row + chunk)
    count = tl.minimum(LENGTH, tl.load(bounds + owner + 1) - first).to(tl.int32)
    t = tl.arange(0, STEPS)
    here = t < count
    b = load_tile(B, first + t, here, group, G, N, start, STATES).to(KIND)
    c = load_tile(C, first + t, here, group, G, N, start, STATES).to(KIND)
    db, dc = tl.zeros((STEPS, STATES), tl.float32), tl.zeros((STEPS, STATES), tl.float32)
    for member in range(piece * HEADS, tl.minimum(piece * HEADS + HEADS, H // G)):
        head = group * (H // G) + member
        a, before, after = chunk_logs(log_decay, first, t, count, head, H)
        shares = tl.zeros((STEPS, STEPS), tl.float32)
        for low in range(0, P, PARTS):
            inputs = load_tile(x, first + t, here, head, H, P, low, PARTS)
            outputs = load_tile(dy, first + t, here, head, H, P, low, PARTS)
            shares += tl.dot(outputs.to(KIND), tl.trans(inputs.to(KIND)), input_precision=PRECISION)
            state = _load_state(states, chunk, head, H, P, N, low, start, PARTS, STATES).to(KIND)
            outputs = (outputs.to(tl.float32) * tl.exp(before)[:, None]).to(KIND)
            dc += tl.dot(outputs, state, input_precision=PRECISION)
            gradient = _load_state(later, chunk, head, H, P, N, low, start, PARTS, STATES).to(KIND)
            inputs = (inputs.to(tl.float32) * tl.exp(after)[:, None]).to(KIND)
            db += tl.dot(inputs, gradient, input_precision=PRECISION)
        shares = (shares * chunk_decays(a, t, count)).to(KIND)
        dc += tl.dot(shares, b, input_precision=PRECISION)
        db += tl.dot(tl.trans(shares), c, input_precision=PRECISION)
    store_tile(dB, db, first + t, here, tl.program_id(1), G * PIECES, N, start, STATES)
    store_tile(dC, dc, first + t, here, tl.program_id(1), G * PIECES, N, start, STATES)


def _options(x: Tensor, chunks: Chunks, states: int, back: bool) -> dict[str, object]:
    """Sides of a product: what stays in registers."""
    chip, single = architecture(x), x.dtype is torch.float32
    amd = chip.startswith("gfx")
    widest = 16 if single and back and not amd else 32 if single or amd or (back and chip == "sm_80") else 64
    return {
        "STEPS": power_of_two(chunks.length, 16), "PARTS": min(widest, power_of_two(x.shape[3], 16)),
        "STATES": min(widest, power_of_two(states, 16)), "KIND": product_dtype(x), "PRECISION": precision(x),
        "num_warps": 8 if back else 4, "num_stages": 1 if back or single or amd else 2,
    }  # fmt: skip


def _cut(x: Tensor, cu_seqlens: Tensor | None, chunk: int) -> Chunks:
    if chunk > longest_chunk(x):
        raise ValueError(f"ssd_scan: chunk={chunk} came; on a GPU it is at most {longest_chunk(x)}.")
    return chunked(x, cu_seqlens, chunk)


def states_between(
    left: Tensor, log_decay: Tensor, right: Tensor, edge: Tensor, chunks: Chunks, reverse: bool
) -> tuple[Tensor, Tensor]:
    """The state before each chunk and the last one; backwards the gradients after each, and the first.

    Steps write `left right^T`, (B, T, H, P) and (B, T, G, N).
    """
    (heads, width), (groups, states) = left.shape[2:], right.shape[2:]
    options = _options(left, chunks, states, False)
    tiles = ceil_div(width, options["PARTS"]) * ceil_div(states, options["STATES"])
    added = edge.new_empty(chunks.count, heads, width, states)
    decay = edge.new_empty(chunks.count, heads)
    launch(
        _add, (chunks.count, heads, tiles), left, log_decay, right, added, decay, chunks.first,
        chunks.sequence, chunks.bounds, heads, groups, width, states, chunks.length, REVERSE=reverse,
        **options,
    )  # fmt: skip
    return pass_states(added, decay, edge, chunks, reverse)


def pass_states(
    added: Tensor, decay: Tensor, edge: Tensor, chunks: Chunks, reverse: bool
) -> tuple[Tensor, Tensor]:
    """As `states_between`, from what each chunk adds and how much it leaves."""
    passed, end = torch.empty_like(added), torch.empty_like(edge)
    heads, size = added.shape[1], added.shape[2] * added.shape[3]
    block = min(power_of_two(size), 512)
    launch(
        _pass, (chunks.sequences, heads, ceil_div(size, block)), added, decay, edge, passed, end,
        chunks.offsets, heads, size, REVERSE=reverse, BLOCK=block, STAGES=4, num_warps=4,
    )  # fmt: skip
    return passed, end


def forward(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, h0: Tensor, cu_seqlens: Tensor | None, chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::ssd_scan` on a GPU."""
    chunks = _cut(x, cu_seqlens, chunk)
    x, log_decay, B, C, h0 = (y.contiguous() for y in (x, log_decay, B, C, h0))
    states, last = states_between(x, log_decay, B, h0, chunks, reverse=False)
    y = torch.empty_like(x)
    (heads, width), (groups, size) = x.shape[2:], B.shape[2:]
    options = _options(x, chunks, size, False)
    launch(
        _read, (chunks.count, heads, ceil_div(width, options["PARTS"])), x, log_decay, B, C, states, y,
        chunks.first, chunks.sequence, chunks.bounds, heads, groups, width, size, chunks.length, **options,
    )  # fmt: skip
    return y, last, states if keep else states.new_empty(0, *states.shape[1:])


def backward(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, states: Tensor, cu_seqlens: Tensor | None, chunk: int,
    dy: Tensor, dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The operator `bmojo::ssd_scan_backward` on a GPU."""
    chunks = _cut(x, cu_seqlens, chunk)
    x, log_decay, B, C, dy, dlast = (y.contiguous() for y in (x, log_decay, B, C, dy, dlast))
    later, dh0 = states_between(dy, log_decay, C, dlast, chunks, reverse=True)
    dx, dlog_decay = torch.empty_like(x), torch.empty_like(log_decay)
    (heads, width), (groups, size) = x.shape[2:], B.shape[2:]
    options = _options(x, chunks, size, True)
    pieces = ceil_div(heads // groups, HEADS)
    parts = [log_decay.new_empty(*x.shape[:2], groups, pieces, size) for _ in range(2)]
    where = (chunks.first, chunks.sequence, chunks.bounds, heads, groups, width, size, chunks.length)
    launch(
        _inputs_back, (chunks.count, heads), x, log_decay, B, C, states, later, dy, dx, dlog_decay, *where,
        **options,
    )  # fmt: skip
    launch(
        _projections_back, (chunks.count, groups * pieces, ceil_div(size, options["STATES"])), x, log_decay,
        B, C, states, later, dy, *parts, *where, pieces, HEADS=HEADS, **options,
    )  # fmt: skip
    dB, dC = (part.sum(3).to(B.dtype) for part in parts)
    return dx, dlog_decay, dB, dC, dh0
