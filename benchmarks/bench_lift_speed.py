"""A lifted model's pass, by parametrization: 32 states, 2 inputs, 2 outputs, float64, one thread.

Run: python benchmarks/bench_lift_speed.py (about a minute)
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from _results import Row, write_results

import realization as rz
from bmojo import lift


def median_time(run: Callable[[], object], repeats: int = 7) -> float:
    run()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return 1e3 * float(np.median(times))


def main() -> None:
    """Time forward, and forward with backward."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    A = rng.standard_normal((32, 32))
    A *= 0.99 / np.abs(np.linalg.eigvals(A)).max()
    model = rz.StateSpace(A, rng.standard_normal((32, 2)), rng.standard_normal((2, 32)))
    layers = {form: lift(model, parametrization=form) for form in ("schur", "modal", "diagonal")}
    rows = []
    for length in (1024, 16_384):
        u = torch.from_numpy(rng.standard_normal((1, length, 2)))
        expected = model.simulate(u[0].numpy())
        forward, both = {}, {}
        for form, layer in layers.items():

            def trained(layer: torch.nn.Module = layer, u: torch.Tensor = u) -> None:
                layer.zero_grad()
                layer(u).square().sum().backward()

            with torch.no_grad():
                forward[form] = median_time(lambda layer=layer, u=u: layer(u))
                error = float(np.abs(layer(u)[0].numpy() - expected).max() / np.abs(expected).max())
            both[form] = median_time(trained)
            rows.append(
                Row(
                    f"{form}, {length} samples: error",
                    error,
                    "of the largest",
                    goal=1e-12,
                    larger_is_better=False,
                )
            )
        for form in layers:
            for what, times in (("forward", forward), ("forward and backward", both)):
                rows.append(
                    Row(f"{form}, {length} samples: {what}", times[form], "ms", "schur", times["schur"])
                )
    write_results("lift_speed", rows)


if __name__ == "__main__":
    main()
