"""Triton's kernels against the oracles, for values and gradients; small and odd.

Without a GPU in Triton's interpreter, run by `test_interpreted.py` in a process of its own, because the
interpreter is chosen before Triton is loaded. On one (`BMOJO_DEVICE=cuda`) as they are shipped, run by
`make gpu-check`.
"""

from __future__ import annotations

import itertools
import os
from importlib import import_module

import bmojo_kernels as bk
import numpy as np
import pytest
import torch
from bmojo_kernels.causal_conv1d.naive import causal_conv1d_naive
from bmojo_kernels.gated_delta_scan.naive import gated_delta_scan_naive
from bmojo_kernels.gated_kalman_scan.naive import kalman_solve_naive
from bmojo_kernels.linear_scan.naive import linear_scan_naive
from bmojo_kernels.memory_attention.naive import memory_attention_naive
from bmojo_kernels.packing import apart
from bmojo_kernels.selective_scan.naive import selective_scan_naive
from bmojo_kernels.ssd_scan.naive import ssd_scan_naive
from triton.runtime import interpreter

from tests.tolerances import assert_close

DEVICE = os.environ.get("BMOJO_DEVICE", "cpu")
ON_GPU = DEVICE != "cpu"
LENGTHS = (1, 2, 63, 64, 65, 1000) if ON_GPU else (1, 2, 15, 16, 17, 37)
LONG = 300 if ON_GPU else 37
PACKED = (0, 5, 5, 6, 21)


def kernels(operation):
    return import_module(f"bmojo_kernels.{operation}.triton_gpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Small tiles, and scans that the interpreter takes row by row and not number by number."""
    if ON_GPU:
        return

    def scan(self, inputs):
        rows = [np.moveaxis(x.handle.data, self.axis, 0) for x in inputs]
        found = [x.copy() for x in rows]
        for i in range(1, len(rows[0])):
            before = [self.to_tensor(x[i - 1], y.dtype) for x, y in zip(found, inputs, strict=True)]
            now = [self.to_tensor(x[i], y.dtype) for x, y in zip(rows, inputs, strict=True)]
            for x, y in zip(found, self.combine_fn.fn(*before, *now), strict=True):
                x[i] = y.handle.data
        return [
            self.to_tensor(np.moveaxis(x, 0, self.axis), y.dtype) for x, y in zip(found, inputs, strict=True)
        ]

    monkeypatch.setattr(interpreter.ScanOps, "generic_scan", scan)
    monkeypatch.setattr(kernels("linear_scan"), "SHORTEST", 16)
    monkeypatch.setattr(kernels("selective_scan"), "GPU_STRIDE", 16)
    monkeypatch.setattr(kernels("gated_delta_scan"), "GPU_CHUNK", 16)
    monkeypatch.setattr(kernels("gated_kalman_scan"), "STRIDE", 16)
    monkeypatch.setattr(kernels("innovation_topk"), "ITEMS", 16)
    monkeypatch.setattr(kernels("causal_conv1d"), "LENGTH", 16)
    monkeypatch.setattr(kernels("causal_conv1d"), "STEPS", 8)
    sizes = kernels("memory_attention")._sizes
    small = {"QUERIES": 16, "KEYS": 16}
    monkeypatch.setattr(kernels("memory_attention"), "_sizes", lambda x, walk: sizes(x, walk) | small)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What a kernel forgets to write is NaN."""
    empty, empty_like = torch.Tensor.new_empty, torch.empty_like

    def spoiled(x: torch.Tensor) -> torch.Tensor:
        return x.fill_(float("nan")) if x.is_floating_point() or x.is_complex() else x

    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: spoiled(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: spoiled(empty_like(*a, **k)))


def numbers(*shape, dtype=torch.float32, low=None, seed=0):
    """Normal numbers, or from `low` to 1; every second row of a larger array, so not contiguous."""
    rng = torch.Generator().manual_seed(seed + len(shape) + sum(shape))
    wide = torch.complex64 if dtype.is_complex else torch.float32
    if low is None:
        x = torch.randn(*shape, 2, generator=rng, dtype=wide)
    else:
        x = low + (1 - low) * torch.rand(*shape, 2, generator=rng, dtype=wide)
    return x.to(DEVICE, dtype)[..., 0]


def compare(forward, backward, oracle, inputs, dtype, results=None):
    """Values and gradients; `inputs` without gradient are not tensors of numbers.

    Each result is held at the tolerance of its own dtype, or all at that of `results`.
    """
    wide = torch.complex128 if dtype.is_complex else torch.float64
    exact = [x.to(wide).requires_grad_() if x is not None else None for x in inputs]
    expected = oracle(*exact)
    with torch.no_grad():
        found = forward(*inputs)
    weights = [
        numbers(*x.shape, dtype=y.dtype, seed=i)
        for i, (x, y) in enumerate(zip(expected, found, strict=False))
    ]
    for x, y in zip(found, expected, strict=False):
        assert_close(x, y, "recurrence", dtype=results or x.dtype)
    total = sum((x * w.to(wide)).sum() for x, w in zip(expected, weights, strict=True))
    there = [x for x in exact if x is not None]
    wanted = torch.autograd.grad(total.real if dtype.is_complex else total, there, allow_unused=True)
    wanted = iter(torch.zeros_like(x) if g is None else g for x, g in zip(there, wanted, strict=True))
    weights = [w.conj() if dtype.is_complex else w for w in weights]
    for x, found_gradient in zip(exact, backward(found, weights), strict=True):
        if x is not None:
            assert_close(found_gradient, next(wanted), "recurrence", dtype=dtype)


def scan_case(B, T, C, dtype, cu=None, decays=None):
    module, bounds = kernels("linear_scan"), None if cu is None else torch.tensor(cu, device=DEVICE)
    state = torch.float32 if dtype is torch.bfloat16 else dtype
    a = numbers(B, T, C, dtype=dtype, low=0.0) if decays is None else decays
    inputs = (a, numbers(B, T, C, dtype=dtype), numbers(B if cu is None else len(cu) - 1, C, dtype=state))

    def alone(a, b, h0):
        states, last = linear_scan_naive(a, b, h0)
        return torch.stack(states, 1) if states else b, last

    compare(
        lambda *x: module.forward(*x, bounds),
        lambda found, w: module.backward(inputs[0], found[0], inputs[2], *w, bounds),
        lambda a, b, h0: apart("linear_scan", alone, [a, b], [h0], bounds),
        inputs,
        dtype,
    )


@pytest.mark.parametrize("T", LENGTHS)
def test_linear_scan(T):
    scan_case(2, T, 5, torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_linear_scan_dtypes(dtype):
    scan_case(1, LONG, 7, dtype)


def test_linear_scan_packed_and_wide():
    scan_case(1, 21, 5, torch.float32, PACKED)
    scan_case(1, 40, 140, torch.float32)


def test_linear_scan_extreme_gates():
    decays = numbers(1, LONG, 3, low=0.0)
    decays[:, ::5], decays[:, 1::5] = 0, 1
    scan_case(1, LONG, 3, torch.float32, decays=decays)


def selective_case(B, T, d, N, dtype, cu=None, steps=None):
    module, bounds = kernels("selective_scan"), None if cu is None else torch.tensor(cu, device=DEVICE)
    delta = numbers(B, T, d, dtype=dtype, low=0.0) if steps is None else steps
    inputs = (
        numbers(B, T, d, dtype=dtype), delta, -numbers(d, N, low=0.1), numbers(B, T, N, dtype=dtype),
        numbers(B, T, N, dtype=dtype, seed=1), numbers(B if cu is None else len(cu) - 1, d, N),
    )  # fmt: skip

    def oracle(u, delta, A, B, C, h0):
        def alone(u, delta, B, C, h0):
            return selective_scan_naive(u, delta, A, B, C, h0)

        return apart("selective_scan", alone, [u, delta, B, C], [h0], bounds)

    compare(
        lambda *x: module.forward(*x, True, bounds),
        lambda found, w: module.backward(*inputs[:5], found[2], *w, bounds),
        oracle,
        inputs,
        dtype,
    )


@pytest.mark.parametrize("T", LENGTHS[:1] + LENGTHS[3:4] + (LONG,))
def test_selective_scan(T):
    selective_case(2, T, 5, 3, torch.float32)


def test_selective_scan_in_bfloat16_and_packed():
    selective_case(1, 17, 5, 2, torch.bfloat16)
    selective_case(1, 21, 35, 2, torch.float32, PACKED)


def test_selective_scan_of_many_states():
    selective_case(2, 6, 3, 70, torch.float32)


def test_selective_scan_extreme_steps():
    steps = numbers(1, LONG, 3, low=0.0)
    steps[:, ::5], steps[:, 1::5] = 1e4, 0
    selective_case(1, LONG, 3, 2, torch.float32, steps=steps)


def conv_case(B, T, C, K, dtype, silu, cu=None, more=True):
    module, bounds = kernels("causal_conv1d"), None if cu is None else torch.tensor(cu, device=DEVICE)
    entries = B if cu is None else len(cu) - 1
    inputs = (
        numbers(B, T, C, dtype=dtype), numbers(C, K, dtype=dtype), numbers(C, dtype=dtype) if more else None,
        numbers(entries, K - 1, C, dtype=dtype) if more else None,
    )  # fmt: skip

    def oracle(x, weight, bias, initial):
        return causal_conv1d_naive(
            x, weight, bias, activation="silu" if silu else None, initial_state=initial, cu_seqlens=bounds
        )

    compare(
        lambda *x: module.forward(*x, bounds, silu),
        lambda found, w: module.backward(*inputs, bounds, silu, *w),
        oracle,
        inputs,
        dtype,
    )


@pytest.mark.parametrize(("T", "K"), [(1, 4), (2, 5), (17, 4), (16, 1)])
def test_causal_conv1d(T, K):
    conv_case(2, T, 5, K, torch.float32, silu=True)


def test_causal_conv1d_plain_packed_and_in_bfloat16():
    conv_case(2, 17, 5, 3, torch.float32, silu=False, more=False)
    conv_case(1, 21, 5, 4, torch.float32, silu=True, cu=PACKED)
    conv_case(1, 9, 5, 4, torch.bfloat16, silu=True)


def test_causal_conv1d_of_aligned_rows_and_edges_within_tiles():
    conv_case(1, 40, 272, 4, torch.float32, silu=True, cu=(0, 9, 9, 10, 40), more=False)
    conv_case(2, 30, 16, 4, torch.bfloat16, silu=True)
    conv_case(1, 40, 16, 6, torch.float32, silu=False, cu=(0, 2, 17, 40))


def ssd_case(B, T, H, G, P, N, dtype, cu=None, logs=None, chunk=16):
    module, bounds = kernels("ssd_scan"), None if cu is None else torch.tensor(cu, device=DEVICE)
    inputs = (
        numbers(B, T, H, P, dtype=dtype), -numbers(B, T, H, low=0.0) if logs is None else logs,
        numbers(B, T, G, N, dtype=dtype), numbers(B, T, G, N, dtype=dtype, seed=1),
        numbers(B if cu is None else len(cu) - 1, H, P, N),
    )  # fmt: skip
    compare(
        lambda *x: module.forward(*x, bounds, chunk, True),
        lambda found, w: module.backward(*inputs[:4], found[2], bounds, chunk, *w),
        lambda x, a, B, C, h0: apart("ssd_scan", ssd_scan_naive, [x, a, B, C], [h0], bounds),
        inputs,
        dtype,
    )


@pytest.mark.parametrize("T", LENGTHS[:1] + LENGTHS[3:4] + (LONG,))
def test_ssd_scan(T):
    ssd_case(2, T, 2, 1, 5, 7, torch.float32)


def test_ssd_scan_in_bfloat16_packed_and_wide():
    ssd_case(1, 17, 2, 2, 5, 7, torch.bfloat16)
    ssd_case(1, 21, 4, 2, 5, 7, torch.float32, PACKED)
    ssd_case(1, 13, 1, 1, 20, 35, torch.float32, chunk=12)


def test_ssd_scan_extreme_gates():
    logs = -numbers(1, LONG, 2, low=0.0)
    logs[:, ::5], logs[:, 1::5] = -1e4, 0
    ssd_case(1, LONG, 2, 1, 5, 7, torch.float32, logs=logs)


def delta_case(B, T, H, K, V, dtype, cu=None, logs=None):
    module, bounds = kernels("gated_delta_scan"), None if cu is None else torch.tensor(cu, device=DEVICE)
    k = numbers(B, T, H, K).double()
    inputs = (
        numbers(B, T, H, K, dtype=dtype), (k / k.norm(dim=-1, keepdim=True)).to(dtype),
        numbers(B, T, H, V, dtype=dtype), -numbers(B, T, H, low=0.0) if logs is None else logs,
        numbers(B, T, H, low=0.0, seed=2), numbers(B if cu is None else len(cu) - 1, H, V, K),
    )  # fmt: skip

    def alone(q, k, v, g, beta, h0):
        o, innovations, last = gated_delta_scan_naive(0.5 * q, k, v, g, beta, h0)
        return o, innovations / beta.unsqueeze(-1), last

    compare(
        lambda *x: module.forward(*x, bounds, 0.5, True),
        lambda found, w: module.backward(*inputs[:5], found[1], found[3], bounds, 0.5, *w),
        lambda *x: apart("gated_delta_scan", alone, x[:5], x[5:], bounds),
        inputs,
        dtype,
        results=dtype,  # errors and states too come from products of that format
    )


@pytest.mark.parametrize("T", LENGTHS[:1] + LENGTHS[3:4] + (LONG,))
def test_gated_delta_scan(T):
    delta_case(2, T, 2, 5, 7, torch.float32)


def test_gated_delta_scan_in_bfloat16_packed_and_wide():
    delta_case(1, 17, 2, 7, 5, torch.bfloat16)
    delta_case(1, 21, 2, 5, 7, torch.float32, PACKED)
    delta_case(1, 9, 1, 20, 35, torch.float32)


def test_gated_delta_scan_in_one_system_of_many_blocks(monkeypatch):
    monkeypatch.setattr(kernels("gated_delta_scan"), "GPU_CHUNK", 64)
    delta_case(1, 70, 1, 5, 7, torch.float32)


def test_gated_delta_scan_extreme_gates():
    logs = -numbers(1, LONG, 2, low=0.0)
    logs[:, ::5], logs[:, 1::5] = -1e4, 0
    delta_case(1, LONG, 2, 5, 7, torch.float32, logs=logs)


def attention_case(
    T=18, *, B=1, H=2, G=1, window=6, chunk=4, places=5, start=0, S=None, own=False, pool=0, few=3,
    cu=None, dtype=torch.float32, d=5, dv=7, joined=False,
):  # fmt: skip
    module, bounds = kernels("memory_attention"), None if cu is None else torch.tensor(cu, device=DEVICE)
    S = S or T

    def of(*shape, seed=0):
        return numbers(*shape, dtype=dtype, seed=seed)

    index = eidetic_index(B, T, window, chunk, places, start, S if not pool else None, cu)
    rows = torch.where(index >= 0, 7 * index % pool, -1) if pool else None
    queries = [of(B, T, H, d, seed=i) if own else None for i in (1, 2, 3)]
    entries = B if cu is None else len(cu) - 1
    bias = numbers(entries, few)
    bias[:, :1] = -torch.inf
    inputs = (
        of(B, T, H, d), of(B, S, G, d, seed=4), of(B, S, G, dv), queries[0], of(B, T, G, d, seed=5),
        of(B, T, G, dv, seed=6), queries[1], of(B, pool, G, d) if pool else None,
        of(B, pool, G, dv) if pool else None, of(B, pool or S), queries[2], of(entries, few, G, d, seed=7),
        of(entries, few, G, dv), bias.to(dtype),
    )  # fmt: skip
    if joined:  # as they come from projections
        inputs = (*side_by_side(*inputs[:3]), inputs[3], *side_by_side(*inputs[4:6]), *inputs[6:])
        if pool:
            inputs = (*inputs[:7], *side_by_side(*inputs[7:9]), *inputs[9:])
    fixed = (index, rows, bounds, window, chunk, start, 0.3)

    def oracle(q, k, v, qf, kf, vf, qe, ke, ve, be, qr, kr, vr, br):
        return memory_attention_naive(
            q, k, v, window=window, fading=(kf, vf), q_fading=qf, eidetic_index=index, chunk=chunk,
            eidetic=None if ke is None else (ke, ve), q_eidetic=qe, eidetic_rows=rows, eidetic_bias=be,
            retrieved=(kr, vr, br), q_retrieved=qr, scale=0.3, start=start, cu_seqlens=bounds,
        )  # fmt: skip

    compare(
        lambda *x: module.forward(*x, *fixed),
        lambda found, w: module.backward(*inputs, *fixed, *found, *w),
        oracle,
        inputs,
        dtype,
    )


def side_by_side(*heads):
    """The same, each a part of the rows of one array."""
    return torch.cat(heads, 2).split([x.shape[2] for x in heads], 2)


def eidetic_index(B, T, window, chunk, places, start, S, cu):
    """Some of the positions that have left the window, for each chunk."""
    rng, rows = np.random.default_rng(T), []
    for low, high in [(0, start + T)] if cu is None else itertools.pairwise(cu):
        first = start // chunk if cu is None else 0
        for c in range(first, -(-(high - low) // chunk)):
            oldest = low if S is None else max(low, start + T - S)
            eligible = np.arange(oldest, max(oldest, low + (c + 1) * chunk - window))
            kept = np.sort(rng.permutation(eligible)[:places])
            rows.append(np.pad(kept, (0, places - len(kept)), constant_values=-1))
    return torch.from_numpy(np.stack(rows)).expand(B, -1, -1).clone().to(DEVICE)


def kalman_case(B, T, H, K, sides, dtype, cu=None, logs=None):
    module, bounds = kernels("gated_kalman_scan"), None if cu is None else torch.tensor(cu, device=DEVICE)
    first = numbers(B if cu is None else len(cu) - 1, H, K, K)
    inputs = (
        numbers(B, T, H, K, dtype=dtype), -numbers(B, T, H, low=0.0) if logs is None else logs,
        numbers(B, T, H, sides, K, dtype=dtype), first @ first.mT,
    )  # fmt: skip
    # With so strong a ridge nine steps are exact, which the implicit gradient takes them for.
    ridge, steps = 2.0, 9

    def oracle(k, g, r, h0):
        def alone(k, g, r, h0):
            return kalman_solve_naive(k, g, r, h0, ridge, None)

        return apart("gated_kalman_scan", alone, [k, g, r], [(h0 + h0.mT) / 2], bounds)

    compare(
        lambda *x: module.forward(*x, bounds, ridge, steps, True),
        lambda found, w: module.backward(*inputs[:3], found[0], found[2], bounds, ridge, steps, *w),
        oracle,
        inputs,
        dtype,
    )


@pytest.mark.parametrize("T", [1, 17] + [300] * ON_GPU)
def test_gated_kalman_scan(T):
    kalman_case(1, T, 2, 5, 2, torch.float32)


def test_gated_kalman_scan_in_bfloat16_packed_and_wide():
    kalman_case(1, 5, 1, 5, 1, torch.bfloat16)
    kalman_case(1, 21, 1, 5, 1, torch.float32, PACKED)
    kalman_case(1, 3, 1, 35, 1, torch.float32)


def test_gated_kalman_scan_extreme_gates():
    logs = -numbers(1, 17, 1, low=0.0)
    logs[:, ::5], logs[:, 1::5] = -1e4, 0
    kalman_case(1, 17, 1, 3, 1, torch.float32, logs=logs)


@pytest.mark.parametrize("rule", ["top", "threshold", "fifo", "random"])
@pytest.mark.parametrize(
    ("B", "T", "places", "window", "chunk", "cu"),
    [
        (2, 31, 4, 6, 3, None), (1, 1, 2, 1, 1, None), (1, 21, 3, 5, 5, PACKED), (2, 17, 40, 4, 4, None),
        (1, 60, 3, 6, 4, (0, 45, 45, 46, 60)), (2, 40, 1, 1, 1, None), (1, 40, 5, 30, 3, None),
    ],
)  # fmt: skip
def test_innovation_topk(rule, B, T, places, window, chunk, cu):
    topk_case(rule, B, T, places, window, chunk, cu, torch.float32)


@pytest.mark.parametrize("rule", ["top", "threshold"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_innovation_topk_dtypes(rule, dtype):
    topk_case(rule, 2, 40, 5, 6, 3, None, dtype)


def topk_case(rule, B, T, places, window, chunk, cu, dtype):
    scores = torch.from_numpy(np.random.default_rng(0).integers(-2, 5, (B, T))).to(DEVICE, dtype)
    scores[:, 3::5], scores[:, 4::7], scores[:, 5::9] = -torch.inf, torch.inf, -0.0
    bounds = None if cu is None else torch.tensor(cu, device=DEVICE)
    options = {"budget": places, "window": window, "chunk": chunk, "rule": rule, "threshold": 2.5, "seed": 7}
    found, expected = (
        bk.innovation_topk(scores, **options, cu_seqlens=bounds, backend=name) for name in ("triton", "naive")
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("threshold", [0.1, -0.1, 0.0, -0.0, 3.0, np.inf, -np.inf, np.nan, 1e300])
def test_innovation_topk_exceeds_a_threshold(threshold):
    scores = torch.tensor([[0.1, -0.1, 0.0, 3.0, -3.0, torch.inf, -torch.inf, 0.2]], device=DEVICE)
    found, expected = (
        bk.innovation_topk(scores, budget=9, rule="threshold", threshold=threshold, backend=name)
        for name in ("triton", "naive")
    )
    assert torch.equal(found, expected)


def test_memory_attention():
    attention_case()


def test_memory_attention_of_one_query():
    attention_case(T=1, window=1, chunk=1)


def test_memory_attention_with_queries_for_each_memory_and_keys_from_before():
    attention_case(T=11, start=7, S=16, own=True, H=4, G=2)


def test_memory_attention_of_heads_that_lie_side_by_side():
    attention_case(T=11, B=2, H=4, G=2, dv=5, joined=True)
    attention_case(T=21, cu=PACKED, pool=9, chunk=3, H=4, G=2, dv=5, joined=True)


def test_memory_attention_with_a_pool_and_packed_sequences():
    attention_case(T=21, cu=PACKED, pool=9, chunk=3)


def test_memory_attention_in_bfloat16():
    attention_case(B=2, T=9, dtype=torch.bfloat16)


def test_memory_attention_where_whole_tiles_are_seen():
    attention_case(T=75, H=2, G=1, window=40, chunk=25, places=6)
    attention_case(T=45, H=1, G=1, window=33, chunk=20, places=6, start=40, S=85)


on_a_gpu = pytest.mark.skipif(not ON_GPU, reason="takes the interpreter minutes")
full_width = pytest.mark.parametrize(
    ("width", "dtype"), [*itertools.product((64, 128), (torch.bfloat16, torch.float32))]
)


@on_a_gpu
@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        ("top", torch.float32),
        ("top", torch.float64),
        ("threshold", torch.float32),
        ("random", torch.bfloat16),
    ],
)
def test_innovation_topk_over_several_segments(rule, dtype):
    topk_case(rule, 2, 9000, 200, 300, 250, None, dtype)
    topk_case(rule, 1, 9000, 2048, 300, 300, (0, 5000, 5000, 9000), dtype)


@on_a_gpu
def test_innovation_topk_in_a_graph():
    scores = torch.rand(2, 9000, device=DEVICE)
    expected = bk.innovation_topk(scores, budget=64, window=200, chunk=100)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = bk.innovation_topk(scores, budget=64, window=200, chunk=100)
    graph.replay()
    assert torch.equal(found, expected)


@on_a_gpu
@full_width
def test_ssd_scan_of_full_width(width, dtype):
    ssd_case(1, 150, 4, 2, width, 128, dtype, chunk=32 if dtype is torch.float32 else 64)


@on_a_gpu
@full_width
def test_gated_delta_scan_of_full_width(width, dtype):
    delta_case(1, 150, 2, width, width, dtype)


@on_a_gpu
@full_width
def test_gated_kalman_scan_of_full_width(width, dtype):
    kalman_case(1, 70, 2, width, 2, dtype)


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_scans_of_many_channels(dtype):
    scan_case(2, 1000, 300, dtype)
    selective_case(2, 200, 300, 16, dtype)
    conv_case(2, 300, 300, 4, dtype, silu=True)
    conv_case(2, 300, 1024, 4, dtype, silu=True)


@on_a_gpu
def test_causal_conv1d_of_many_channels_packed():
    conv_case(1, 300, 784, 4, torch.bfloat16, silu=False, cu=(0, 150, 157, 300))


@on_a_gpu
@full_width
def test_memory_attention_of_full_width(width, dtype):
    sides = {"d": width, "dv": width, "dtype": dtype}
    for joined in (False, True):
        attention_case(B=2, T=300, H=4, G=2, window=70, chunk=32, places=40, joined=joined, **sides)


@on_a_gpu
def test_memory_attention_of_widest_heads():
    attention_case(T=150, window=40, chunk=20, places=30, dtype=torch.bfloat16, d=256, dv=256)


@on_a_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_attention_over_several_tiles(dtype):
    attention_case(B=1, T=150, H=4, G=2, window=40, chunk=20, places=30, dtype=dtype)


def test_memory_attention_with_nothing_to_see():
    module = kernels("memory_attention")
    q, k = numbers(1, 3, 2, 5), numbers(1, 3, 1, 5)
    hidden = torch.full((1, 2), -torch.inf, device=DEVICE)
    nothing = (None,) * 7
    inputs = (q, k, k, *nothing, None, k[:, :2], k[:, :2], hidden, None, None, None, 1, 1, 0, 1.0)
    out, lse = module.forward(*inputs)
    assert_close(out, k.expand(1, 3, 2, 5), "exact")
    gradients = module.backward(*inputs, out, lse, torch.ones_like(out).fill_(1), lse.clone().fill_(0))
    assert all(torch.isfinite(x).all() for x in gradients)


def test_innovation_topk_refuses_what_is_not_a_number():
    scores = torch.tensor([[1.0, float("nan")]], device=DEVICE)
    with pytest.raises(ValueError, match="NaN"):
        bk.innovation_topk(scores, budget=1, backend="triton")


OPERATIONS = {
    "linear_scan": lambda x: (x, x),
    "selective_scan": lambda x: (x, x, -x[0, :3], x, x),
    "ssd_scan": lambda x: (x.unsqueeze(-1), -x, x, x),
    "gated_delta_scan": lambda x: (*(x.unsqueeze(-1),) * 3, -x, x),
    "causal_conv1d": lambda x: (x, x[0, :3]),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_public_function_interprets_where_asked(operation):
    x = numbers(2, 17, 3, low=0.0).requires_grad_()
    arguments = OPERATIONS[operation](x)
    backends = ("triton", "naive") if ON_GPU else ("triton", "naive", "numba")
    results = [getattr(bk, operation)(*arguments, backend=name) for name in backends]
    gradients = [torch.autograd.grad(y.sum() + last.square().sum(), x)[0] for y, last in results]
    for i in range(1, len(results)):
        assert_close(results[0][0], results[i][0], "recurrence")
        assert_close(results[0][1], results[i][1], "recurrence")
        assert_close(gradients[0], gradients[i], "recurrence")


def test_the_public_memory_attention_interprets_where_asked():
    q, k, v, kf, vf = (numbers(1, 9, h, 5, seed=i).requires_grad_() for i, h in enumerate((2, 1, 1, 1, 1)))
    index = bk.innovation_topk(numbers(1, 9), budget=3, window=3, chunk=3)
    results = []
    for name in ("triton", "naive"):
        out, lse = bk.memory_attention(
            q, k, v, window=3, fading=(kf, vf), eidetic_index=index, chunk=3, backend=name
        )
        loss = out.square().sum() + lse.sum()
        results.append((out, lse, *torch.autograd.grad(loss, (q, k, v, kf, vf))))
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, "recurrence")


@pytest.mark.skipif(not ON_GPU, reason="what the device compiles")
def test_gradients_of_a_compiled_graph():
    x = numbers(2, 65, 3, low=0.0).requires_grad_()

    def model(x):
        h, last = bk.linear_scan(torch.sigmoid(x), 2 * x)
        y, state = bk.ssd_scan(h.unsqueeze(-1), -x, x, x)
        return y.sum() + last.sum() + state.square().sum()

    found = torch.autograd.grad(torch.compile(model, fullgraph=True)(x), x)[0]
    assert_close(found, torch.autograd.grad(model(x), x)[0], "recurrence")
