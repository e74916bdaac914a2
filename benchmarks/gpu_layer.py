"""The layer on a GPU: steps of training and decoding as `bench_layer_speed.py` measures them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import bench_layer_speed as bench
import torch
from _results import Row
from gpu_timing import Device

from bmojo import BMojo, BMojoConfig

__all__ = ["CASES"]


def setting(device: Device, compiled: bool) -> bench.Setting:
    if device.dry:
        sizes = {"d_model": 16, "heads": 2, "window": 8, "eidetic": 4, "state_size": 4}
        return bench.Setting("cpu", BMojoConfig(mixer="mamba2", **sizes), 64, (32,), (8, 16), 1, False)
    torch.set_float32_matmul_precision("high")
    sizes = {"d_model": 1024, "heads": 16, "window": 512, "eidetic": 256, "state_size": 64}
    rounds = 1 if device.once else 7
    return bench.Setting(
        "cuda",
        BMojoConfig(mixer="mamba2", **sizes),
        16384,
        (2048, 8192, 16384),
        (512, 16384),
        rounds,
        compiled,
    )


def training(device: Device) -> Iterator[Row]:
    where = setting(device, False)
    models = bench.contenders(where, bench.DEPTH)
    for length in where.lengths:
        name = f"{bench.DEPTH} blocks, T = {length}"
        yield from bench._training_rows(where, models, name, length, bench.DEPTH)


def graphed(device: Device, compiled: bool) -> Iterator[Row]:
    """Steps that are captured once and replayed: what the GPU takes, however slow its processor is."""
    where = setting(device, compiled)
    models = bench.contenders(where, bench.DEPTH)
    if compiled:  # each takes the compiler its time
        models = {name: models[name] for name in ("B'MOJO", "Transformer")}
    for length in (8192,) if compiled else (2048, 8192, 32768):
        length = device.size(length, 32)
        calls = {key: bench.training(where, model.train(), length) for key, model in models.items()}
        times = {
            key: device.milliseconds(call if device.dry else captured(call)) for key, call in calls.items()
        }
        ours = times.pop("B'MOJO")
        for peer, taken in times.items():
            goal = {"Transformer": 0.9 if length == 8192 else None, "B'MOJO-F": 1.15}.get(peer)
            case = f"training step in a CUDA graph, {bench.DEPTH} blocks, T = {length}, {where.what}"
            yield bench.ratio_row(case, ours, "ms", peer, taken, goal)


def busy(device: Device) -> Iterator[Row]:
    """Of a step the time in which the GPU computes: the rest it waits for its processor."""
    for compiled in (False,) if device.dry else (False, True):
        where, found = setting(device, compiled), {}
        length = device.size(8192, 32)
        for name, model in bench.contenders(where, bench.DEPTH).items():
            if compiled and name not in ("B'MOJO", "Transformer"):  # each takes the compiler its time
                continue
            found[name] = busy_milliseconds(device, bench.training(where, model.train(), length))
        case = f"GPU busy in a training step, {bench.DEPTH} blocks, T = {length}, {where.what}"
        for peer in [name for name in found if name != "B'MOJO"]:
            yield bench.ratio_row(case, found["B'MOJO"], "ms", peer, found[peer], None)


def busy_milliseconds(device: Device, call: Callable[[], object], steps: int = 3) -> float:
    """Sum of the times of the kernels of a call, one of `steps`."""
    for _ in range(1 if device.dry else 3):
        call()
    if device.dry or device.once:
        return 1.0
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(steps):
            call()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e3 / steps


def captured(call: Callable[[], object]) -> Callable[[], object]:
    """A call as a graph that can be replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def decoding(device: Device) -> Iterator[Row]:
    where = setting(device, False)
    yield from bench._decoding_rows(where, bench.contenders(where, bench.DEPTH), f"{bench.DEPTH} blocks")


MIXERS = ("lti", "mamba", "mamba2", "gated_deltanet", "gated_kalmanet")


def parity(device: Device, mixer: str) -> Iterator[Row]:
    """On the GPU what it is on the CPU, outputs and gradients, and step by step what it is at once."""
    sizes = {"d_model": 32, "heads": 2, "window": 16, "eidetic": 8, "chunk": 8, "state_size": 8}
    layer = BMojo(BMojoConfig(mixer=mixer, **sizes)).eval()
    there, u = copy.deepcopy(layer).to(device.name), torch.randn(2, 60, 32)
    found = []
    for one, x in ((layer, u), (there, u.to(device.name))):
        y = one(x)
        gradients = torch.autograd.grad(y.square().sum(), list(one.parameters()), allow_unused=True)
        found.append([y, *(g for g in gradients if g is not None)])
    worst = max(_apart(x, y) for x, y in zip(*found, strict=True))
    yield Row(f"layer, {mixer}, against the CPU", worst, "relative", goal=1e-4, larger_is_better=False)
    with torch.no_grad():
        state, steps = there.init_state(2), []
        for token in u.to(device.name).unbind(1):
            y, state = there.step(token, state)
            steps.append(y)
    worst = _apart(found[0][0], torch.stack(steps, 1))
    yield Row(f"layer, {mixer}, step by step", worst, "relative", goal=1e-4, larger_is_better=False)


def _apart(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x.detach().cpu().double(), y.detach().cpu().double()
    return float((x - y).abs().max() / x.abs().max().clamp_min(1e-30))


CASES = {
    **{f"layer parity {mixer}": partial(parity, mixer=mixer) for mixer in MIXERS},
    "layer training": training,
    "layer busy": busy,
    "layer training graphed": partial(graphed, compiled=False),
    "layer training compiled": partial(graphed, compiled=True),
    "layer decoding": decoding,
}
