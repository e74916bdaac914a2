"""How well a `SignalModel` simulates measured records that it has not seen, beside linear models.

By the protocol of `bench_identify_accuracy.py`: the first half identifies, the second half validates
(`cascaded_tanks`: its own two records), the first state is estimated on the record that is evaluated; also
from its first 50 samples alone. Whatever is chosen (which candidates, when training stops, linear or
corrected) is chosen on held-out parts of the record that identifies. What each part adds: the same members
without their memories; a memory without the static correction; the linear model of `identify`, which is the
floor. The tanks with several seeds. Times are the processor's.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from _peers import halves
from _results import Row, write_results

import realization as rz
from bmojo import SignalModel

TANKS, OTHERS, SEEDS = "cascaded_tanks", ("dryer", "robot_arm"), (0, 1, 2)
LINEAR_PEER, GOAL = 72.8, 82.8
STRETCH = 50
Job = tuple[str, int, dict[str, Any]]
ALONE = {"hidden": 0, "candidates": 1, "keep": 1}


def jobs() -> list[Job]:
    tanks = [(TANKS, seed, {}) for seed in SEEDS]
    return [*tanks, *((name, 0, {}) for name in OTHERS), (TANKS, 0, ALONE)]


def measured(job: Job) -> dict[str, float]:
    """What came of one call."""
    torch.set_num_threads(1)
    name, seed, options = job
    train, validation = halves(name)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SignalModel.fit(train, seed=seed, progress=False, **options)
    seconds = time.process_time() - start
    linear = model.linear.simulate(validation.inputs, model.linear.estimate_x0(validation))
    curve = simulated(model, validation)
    found = {
        "fit": fit(validation, curve),
        "rmse": float(np.sqrt(np.mean((validation.y - curve) ** 2))),
        "short": fit(validation, simulated(model, validation, STRETCH)),
        "bare": fit(validation, simulated(model.without_memory(), validation)),
        "linear": fit(validation, linear),
        "floor": model.floor,
        "held out": model.fit_percent,
        "members": float(len(model.members)),
        "memories": float(sum(member.memory is not None for member in model.members)),
        "seconds": seconds,
    }
    print(job, found, file=sys.stderr, flush=True)
    return found


def simulated(model: SignalModel, data: rz.IOData, stretch: int | None = None) -> np.ndarray:
    return model.simulate(data.inputs, x0=model.estimate_x0(data, stretch=stretch))


def fit(data: rz.IOData, curve: np.ndarray) -> float:
    return float(rz.fit_percent(data.y, curve).mean())


def rows_of(job: Job, found: dict[str, float]) -> list[Row]:
    name, seed, options = job
    tanks = name == TANKS
    if options:
        return [Row(f"{name}, seed {seed}, memory without static correction", found["fit"], "%")]
    case = f"{name}, seed {seed}" if tanks else name
    peer = ("best linear peer", LINEAR_PEER) if tanks else ("identify, linear", found["linear"])
    return [
        Row(f"{case}, simulation", found["fit"], "%", *peer, goal=GOAL if tanks else found["linear"]),
        Row(f"{case}, simulation, root mean square error", found["rmse"], "of the record's unit"),
        Row(f"{case}, simulation, x0 from the first {STRETCH} samples", found["short"], "%"),
        Row(f"{case}, without memory", found["bare"], "%"),
        Row(f"{case}, identify, linear", found["linear"], "%"),
        Row(f"{case}, held-out parts, linear", found["floor"], "%"),
        Row(f"{case}, held-out parts, kept model", found["held out"], "%"),
        Row(f"{case}, members", found["members"], "members (0: linear)"),
        Row(f"{case}, members with a memory", found["memories"], "members"),
        Row(f"{case}, time of the call", found["seconds"], "s"),
    ]


def spread(found: list[dict[str, float]]) -> list[Row]:
    """Over the seeds on the tanks."""
    values = [one["fit"] for one in found]
    cases = {"least": min(values), "mean": float(np.mean(values)), "most": max(values)}
    return [
        Row(f"{TANKS}, {len(values)} seeds, {case}", value, "%", "best linear peer", LINEAR_PEER, goal=GOAL)
        for case, value in cases.items()
    ]


def main() -> None:
    todo = jobs()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(measured, todo))
    rows = spread(found[: len(SEEDS)])
    for job, one in zip(todo, found, strict=True):
        rows += rows_of(job, one)
    write_results("signal_model", rows)


if __name__ == "__main__":
    main()
