"""The layer on a GPU: steps of training and decoding as `bench_layer_speed.py` measures them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import bench_layer_speed as bench
import torch
from _results import Row
from gpu_timing import Device

from bmojo import BMojoConfig

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


def training(device: Device, compiled: bool) -> Iterator[Row]:
    where = setting(device, compiled)
    models = bench.contenders(where, bench.DEPTH)
    if compiled:  # each takes the compiler its time
        models = {name: models[name] for name in ("B'MOJO", "Transformer")}
    for length in where.lengths:
        name = f"{bench.DEPTH} blocks, T = {length}"
        yield from bench._training_rows(where, models, name, length, bench.DEPTH)


def decoding(device: Device) -> Iterator[Row]:
    where = setting(device, False)
    yield from bench._decoding_rows(where, bench.contenders(where, bench.DEPTH), f"{bench.DEPTH} blocks")


CASES = {
    "layer training": partial(training, compiled=False),
    "layer training compiled": partial(training, compiled=True),
    "layer decoding": decoding,
}
