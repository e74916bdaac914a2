"""The scans on a GPU: against the speed of its memory, torch's associative_scan and fla-core."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import bmojo_kernels as bk
import torch
from _results import Row
from gpu_timing import Bench, Device

__all__ = ["CASES"]

EXPONENTIALS = 16  # a clock cycle and multiprocessor


def of_bandwidth(
    device: Device, case: str, moved: float, call: Callable[[], object], goal: float | None
) -> Row:
    """Share of the copy's speed that a call reaches for the bytes that it has to move."""
    taken = device.milliseconds(call)
    share = 100 * moved / (taken * 1e-3) / device.copy_speed()
    return Row(f"{case}, of the copy's speed", share, "%", "time, ms", taken, ratio=share / 100, goal=goal)


def linear(device: Device) -> Iterator[Row]:
    shapes = ((8, 8192, 4096, 85.0, 80.0), (1, 262144, 1024, 60.0, 60.0))
    for dtype in (torch.float32, torch.bfloat16):
        for B, T, C, goal, goal_back in shapes:
            T, C = device.size(T, 20), device.size(C, 8)
            bench = linear_bench(device, B, T, C, dtype)
            a = bench.inputs[0]
            case = f"linear_scan {B} x {T} x {C} {str(dtype)[6:]}"
            size = a.numel() * a.element_size()
            yield of_bandwidth(device, f"{case} forward", 3 * size, bench.forward, goal)
            yield of_bandwidth(device, f"{case} forward and backward", 8 * size, bench.both, goal_back)


def linear_bench(device: Device, B: int, T: int, C: int, dtype: torch.dtype) -> Bench:
    a = torch.rand(B, T, C, device=device.name).to(dtype).requires_grad_()
    b = device.numbers(B, T, C, dtype=dtype, grad=True)
    return Bench(lambda a, b: bk.linear_scan(a, b, backend="triton"), (a, b))


def linear_peer(device: Device) -> Iterator[Row]:
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    a, b = (torch.rand(4, device.size(8192, 20), device.size(1024, 8), device=device.name) for _ in range(2))
    mode = "generic" if device.dry else "pointwise"
    peer = lambda a, b: associative_scan(combine, (a, b), dim=1, combine_mode=mode)[1]  # noqa: E731
    peer = peer if device.dry else torch.compile(peer)
    ours = device.milliseconds(lambda: bk.linear_scan(a, b, backend="triton"))
    theirs = device.milliseconds(lambda: peer(a, b))
    case = f"linear_scan {' x '.join(map(str, a.shape))} float32 forward"
    yield Row(case, ours, "ms", "associative_scan", theirs, goal=theirs, larger_is_better=False)


def selective_bench(device: Device) -> Bench:
    B, T, d, N = 4, device.size(4096, 20), device.size(4096, 8), device.size(16, 2)
    u = device.numbers(B, T, d, grad=True)
    delta = torch.rand_like(u.detach()).requires_grad_()
    A = -torch.rand(d, N, device=device.name)
    b, c = (device.numbers(B, T, N, grad=True) for _ in range(2))
    return Bench(
        lambda u, delta, b, c: bk.selective_scan(u, delta, A, b, c, backend="triton"), (u, delta, b, c)
    )


def selective(device: Device) -> Iterator[Row]:
    bench = selective_bench(device)
    u, _, b, _ = bench.inputs
    (B, T, d), N = u.shape, b.shape[2]
    moved = 3 * u.numel() * u.element_size() / device.copy_speed()
    if device.dry:
        waited = 0.0
    else:
        properties = torch.cuda.get_device_properties(0)
        clock = getattr(properties, "clock_rate", 1.98e6) * 1e3
        waited = u.numel() * N / (properties.multi_processor_count * EXPONENTIALS * clock)
    roof = 1e3 * max(moved, waited)
    for name, call, limit in (("forward", bench.forward, roof), ("forward and backward", bench.both, None)):
        taken = device.milliseconds(call)
        case = f"selective_scan {B} x {T} x {d} x {N} bfloat16 {name}"
        goal = None if limit is None else 1.2 * limit
        yield Row(case, taken, "ms", "roofline of forward", roof, goal=goal, larger_is_better=False)


def ssd_bench(device: Device) -> Bench:
    B, T, H, P, N = 4, device.size(8192, 20), device.size(32, 2), device.size(64, 4), device.size(128, 4)
    x = device.numbers(B, T, H, P, grad=True)
    b, c = (device.numbers(B, T, N, grad=True) for _ in range(2))
    g = (-torch.rand(B, T, H, device=device.name)).requires_grad_()
    return Bench(lambda x, g, b, c: bk.ssd_scan(x, g, b, c, backend="triton"), (x, g, b, c))


def alone(device: Device, make: Callable[[Device], Bench], name: str) -> Iterator[Row]:
    bench = make(device)
    case = f"{name} {' x '.join(map(str, bench.inputs[0].shape))} bfloat16, alone"
    yield from against(device, case, bench, None, "")


def ssd(device: Device) -> Iterator[Row]:
    ours = ssd_bench(device)
    x, g, b, c = ours.inputs
    (B, T, H, P), N = x.shape, b.shape[2]
    try:
        from fla.ops.simple_gla import chunk_simple_gla
    except ImportError:
        peer = None
    else:
        # It has queries and keys for every head.
        k, q = (m.detach().unsqueeze(2).expand(B, T, H, N).contiguous().requires_grad_() for m in (b, c))
        peer = Bench(lambda q, k, x, g: chunk_simple_gla(q, k, x, g, scale=1.0)[0], (q, k, x, g))
    yield from against(device, f"ssd_scan {B} x {T} x {H} x {P} x {N} bfloat16", ours, peer, "fla simple_gla")


def associative_bench(device: Device, T: int, H: int, operation: Any) -> Bench:
    """A scan of queries, unit keys, values, logarithms of decays and strengths."""
    B, K = 4, device.size(64, 4)
    q, v = (device.numbers(B, T, H, K, grad=True) for _ in range(2))
    k = torch.nn.functional.normalize(device.numbers(B, T, H, K).float(), dim=-1).bfloat16().requires_grad_()
    g = (-torch.rand(B, T, H, device=device.name)).requires_grad_()
    beta = torch.rand(B, T, H, device=device.name).requires_grad_()
    return Bench(lambda *x: operation(*x, backend="triton"), (q, k, v, g, beta))


def delta_bench(device: Device) -> Bench:
    return associative_bench(device, device.size(8192, 20), device.size(16, 2), bk.gated_delta_scan)


def gated_delta(device: Device) -> Iterator[Row]:
    ours = delta_bench(device)
    B, T, H, K = ours.inputs[0].shape
    try:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
    except ImportError:
        peer = None
    else:
        peer = Bench(lambda *x: chunk_gated_delta_rule(*x, scale=1.0)[0], ours.inputs)
    yield from against(device, f"gated_delta_scan {B} x {T} x {H} x {K} bfloat16", ours, peer, "fla")


def kalman_bench(device: Device) -> Bench:
    return associative_bench(device, device.size(2048, 10), device.size(16, 1), bk.gated_kalman_scan)


def topk(device: Device) -> Iterator[Row]:
    """Beside it what no selection can do without: to read each score once, and to write each set."""
    scores, window, chunk, places = torch.rand(8, device.size(32768, 40), device=device.name), 1024, 256, 256
    window, chunk, places = device.size(window, 4), device.size(chunk, 4), device.size(places, 3)
    call = lambda: bk.innovation_topk(  # noqa: E731
        scores, budget=places, window=window, chunk=chunk, backend="triton"
    )
    case = f"innovation_topk {' x '.join(map(str, scores.shape))}, {places} places, chunks of {chunk}"
    least = 1e3 * (scores.numel() * 4 + call().numel() * 8) / device.copy_speed()
    yield Row(case, device.milliseconds(call), "ms", "bytes moved", least)


def convolution_bench(device: Device) -> Bench:
    B, T, C = 8, device.size(8192, 20), device.size(4096, 8)
    x, weight, bias = (device.numbers(*shape, grad=True) for shape in ((B, T, C), (C, 4), (C,)))
    return Bench(lambda *a: bk.causal_conv1d(*a, activation="silu", backend="triton"), (x, weight, bias))


def convolution(device: Device) -> Iterator[Row]:
    bench = convolution_bench(device)
    x = bench.inputs[0]
    B, T, C = x.shape
    case, size = f"causal_conv1d {B} x {T} x {C} x 4 bfloat16", x.numel() * x.element_size()
    yield of_bandwidth(device, f"{case} forward", 2 * size, bench.forward, None)
    yield of_bandwidth(device, f"{case} forward and backward", 5 * size, bench.both, None)


def against(device: Device, case: str, ours: Bench, peer: Bench | None, name: str) -> Iterator[Row]:
    """Rows forward and with gradients, beside a peer where it is there and runs."""
    for what in ("forward", "both"):
        taken = device.milliseconds(getattr(ours, what))
        row = f"{case} {'forward' if what == 'forward' else 'forward and backward'}"
        theirs = None
        if peer is not None:
            try:
                theirs = device.milliseconds(getattr(peer, what))
            except RuntimeError as error:
                row += f" ({name} does not run: {str(error)[:100]})"
        if theirs is None:
            yield Row(row, taken, "ms")
        else:
            yield Row(row, taken, "ms", name, theirs, goal=theirs, larger_is_better=False)


CASES = {
    "linear_scan": linear,
    "selective_scan": selective,
    "causal_conv1d": convolution,
    "ssd_scan": partial(alone, make=ssd_bench, name="ssd_scan"),
    "gated_delta_scan": partial(alone, make=delta_bench, name="gated_delta_scan"),
    "gated_kalman_scan": partial(alone, make=kalman_bench, name="gated_kalman_scan"),
    "innovation_topk": topk,
    "linear_scan peer": linear_peer,
    "gated_delta_scan peer": gated_delta,
    "ssd_scan peer": ssd,
}
