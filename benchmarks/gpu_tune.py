"""Which tile sizes, warps and stages are fastest on the GPU at hand: each kernel of an operation by itself.

`python benchmarks/gpu_tune.py [--only ssd_scan ...]` runs each operation once for each choice of tile sizes,
keeps the launches it made, and times every kernel with other numbers of warps and stages. It prints the
choices of each kernel from the fastest to the slowest, with the shipped one marked, and writes them as JSON;
what is shipped is changed by hand. Needs no installation: PYTHONPATH=.:kernels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "benchmarks")]

import gpu_attention  # noqa: E402
import gpu_check  # noqa: E402
import gpu_scans  # noqa: E402
import torch  # noqa: E402
from _results import Row  # noqa: E402
from gpu_timing import Device  # noqa: E402


@dataclass
class Choice:
    """Constants of an operation's module, in place of the shipped ones, and what to try with them."""

    name: str
    patches: dict[str, Any]
    warps: tuple[int, ...]
    stages: tuple[int, ...]


def module(operation: str) -> Any:
    return import_module(f"bmojo_kernels.{operation}.triton_gpu")


def merged(function: Callable[..., dict], **changes: Any) -> Callable[..., dict]:
    """A function of options with some of them changed."""
    return lambda *a, **k: function(*a, **k) | changes


def linear_choices() -> Iterator[Choice]:
    kernels = module("linear_scan")
    plan, cut = kernels._plan, kernels.chunked
    yield Choice("shipped", {}, (1,), (2, 3, 4, 6))

    def of(channels: int) -> Callable:
        def chosen(a, cu):
            return kernels.Plan(cut(a, cu, a.shape[1]), channels, -(-a.shape[2] // channels))

        return chosen

    for channels, steps in itertools.product((32, 64, 128, 256), (8, 16)):
        yield Choice(f"whole, {steps} x {channels}", {"_plan": of(channels), "STEPS": steps}, (1,), (3, 4, 6))
    yield Choice("16 steps", {"_plan": plan, "STEPS": 16}, (1,), (3, 4, 6))


def selective_choices() -> Iterator[Choice]:
    kernels = module("selective_scan")
    yield Choice("shipped", {}, (1, 2), (3,))
    for lanes, steps in ((32, 2), (32, 4), (16, 2), (16, 4), (16, 8), (8, 2), (8, 4), (8, 8)):
        patches = {"LANES": lanes, "_options": merged(kernels._options, STEPS=steps)}
        yield Choice(f"{lanes} lanes, {steps} steps", patches, (1, 2), (3,))


def ssd_choices() -> Iterator[Choice]:
    kernels = module("ssd_scan")
    yield Choice("shipped", {}, (4, 8), (1, 2, 3))
    for parts, states in ((64, 128), (64, 32), (32, 64)):
        options = merged(kernels._options, PARTS=parts, STATES=states)
        yield Choice(f"{parts} x {states}", {"_options": options}, (4, 8), (1, 2, 3))
    for heads in (2, 8):
        yield Choice(f"{heads} heads", {"HEADS": heads}, (4, 8), (1,))


def delta_choices() -> Iterator[Choice]:
    kernels = module("gated_delta_scan")
    yield Choice("shipped", {}, (2, 4, 8), (1, 2, 3))
    for side, columns in ((64, 32), (64, 64)):
        patches = {
            "_options": merged(kernels._options, SIDE=side),
            "_follow_options": merged(kernels._follow_options, COLUMNS=columns),
        }
        yield Choice(f"{side}, {columns}", patches, (2, 4, 8), (1, 2, 3))


def convolution_choices() -> Iterator[Choice]:
    yield Choice("shipped", {}, (1,), (3,))
    for length, steps, back in ((128, 4, 8), (128, 16, 2), (64, 8, 4), (64, 4, 8), (256, 8, 4), (256, 4, 8)):
        patches = {"LENGTH": length, "STEPS": steps, "BACK_STEPS": back}
        yield Choice(f"{length}, {steps}, {back} backwards", patches, (1,), (3,))


def attention_choices() -> Iterator[Choice]:
    kernels = module("memory_attention")
    yield Choice("shipped", {}, (4,), (1, 2))
    sizes = {
        (128, 64): (8,),
        (64, 64): (4, 8),
        (64, 32): (4,),
        (32, 64): (4,),
        (64, 128): (8,),
        (128, 128): (8,),
    }
    for (queries, keys), warps in sizes.items():
        patches = {"_sizes": merged(kernels._sizes, QUERIES=queries, KEYS=keys)}
        yield Choice(f"{queries} x {keys}", patches, warps, (1, 2, 3) if queries >= 64 else (1, 2))


def kalman_choices() -> Iterator[Choice]:
    yield Choice("shipped", {}, (1, 2, 4, 8), (1,))


@dataclass
class Operation:
    """Whose kernels, with which choices, on what."""

    module: str
    choices: Callable[[], Iterator[Choice]]
    bench: Callable[[Device], Any]


def linear(B: int, T: int, C: int, dtype: torch.dtype = torch.float32) -> Operation:
    def make(device: Device) -> Any:
        return gpu_scans.linear_bench(device, B, device.size(T, 20), device.size(C, 8), dtype)

    return Operation("linear_scan", linear_choices, make)


def attention(width: int) -> Operation:
    return Operation("memory_attention", attention_choices, partial(gpu_attention.bench, width=width))


OPERATIONS = {
    "memory_attention 64": attention(64),
    "memory_attention 128": attention(128),
    "linear_scan": linear(8, 8192, 4096),
    "linear_scan bfloat16": linear(8, 8192, 4096, dtype=torch.bfloat16),
    "linear_scan long": linear(1, 262144, 1024),
    "ssd_scan": Operation("ssd_scan", ssd_choices, gpu_scans.ssd_bench),
    "gated_delta_scan": Operation("gated_delta_scan", delta_choices, gpu_scans.delta_bench),
    "selective_scan": Operation("selective_scan", selective_choices, gpu_scans.selective_bench),
    "causal_conv1d": Operation("causal_conv1d", convolution_choices, gpu_scans.convolution_bench),
    "gated_kalman_scan": Operation("gated_kalman_scan", kalman_choices, gpu_scans.kalman_bench),
}


def launches(name: str, bench: Any, patches: dict[str, Any]) -> list[tuple]:
    """What one forward and backward pass would launch; nothing is launched."""
    kernels, found = module(name), []

    def keep(kernel, grid, *arguments, **options):
        found.append((kernel, grid, arguments, options))

    with ExitStack() as stack:
        for attribute, value in {**patches, "launch": keep}.items():
            stack.enter_context(mock.patch.object(kernels, attribute, value))
        bench.both()
    return found


def tune(device: Device, name: str, number: int, warps: int) -> Iterator[Row]:
    """Times of every kernel; those that do not fit the chip are left out."""
    operation = OPERATIONS[name]
    choice = list(operation.choices())[number]
    for place, (kernel, grid, arguments, options) in enumerate(
        launches(operation.module, operation.bench(device), choice.patches)
    ):
        stage = "STAGES" if "STAGES" in options else "num_stages"
        shipped = (options["num_warps"], options.get(stage))
        for stages in choice.stages:
            changed = options | {"num_warps": warps, stage: stages}
            call = lambda: kernel[tuple(grid)](*arguments, **changed)  # noqa: B023, E731
            try:
                taken = device.milliseconds(call)
            except Exception:
                continue
            mark = " *" if not choice.patches and (warps, stages) == shipped else ""
            case = f"{place} {kernel.fn.__name__} | {choice.name}, {warps} warps, {stages} stages{mark}"
            yield Row(f"{name} | {case}", taken, "ms")


def units() -> dict[str, Any]:
    """Of every choice and number of warps, what times it."""
    return {
        f"{name} | {number} | {warps}": partial(tune, name=name, number=number, warps=warps)
        for name, operation in OPERATIONS.items()
        for number, choice in enumerate(operation.choices())
        for warps in choice.warps
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(OPERATIONS))
    parser.add_argument("--limit", type=float, default=240, help="seconds")
    parser.add_argument("--out", type=Path, default=ROOT / "out/gpu_tune.json")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])
    begun = time.monotonic()
    waiting = [unit for unit in units() if unit.partition(" | ")[0] in options.only]
    ready = gpu_check.prepare(units, waiting, options.limit * 2 / 3)
    print(
        f"{len(ready)} of {len(waiting)} choices compiled after {time.monotonic() - begun:.0f} s", flush=True
    )
    rows: dict[str, list[tuple[float, str]]] = {}
    for unit, found in gpu_check.measured(units, ready, False, begun + options.limit, 20):
        if "failure" in found:
            print(f"FAILED {unit}: {found['failure'][-300:]}")
        for row in found.get("rows", []):
            name, kernel, choice = row["case"].split(" | ")
            rows.setdefault(f"{name} | {kernel}", []).append((row["value"], choice))
    for kernel, times in rows.items():
        times.sort()
        print(kernel)
        for rank, (value, choice) in enumerate(times):
            if rank < 3 or choice.endswith("*"):
                print(f"   {value:9.4f} ms  {choice}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
