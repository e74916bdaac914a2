"""How well a `SignalModel` simulates measured records that it has not seen, beside linear models.

By the protocol of `bench_identify_accuracy.py`: the first half identifies, the second half validates
(`cascaded_tanks`: its own two records), the first state is estimated on the record that is evaluated; also
from its first 50 samples alone. Whatever is chosen (which candidates, when training stops, linear or
corrected) is chosen on held-out parts of the record that identifies. What each part adds: the same members
without their memories; a memory without the static correction; the linear model of `identify`, which is the
floor. The tanks with several seeds. A simulated tank whose inflow comes late has more states than the
corrected model: there the memory has something to add. Times are the processor's.

`--only NAME` measures one record anew and keeps the rows of the others.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from _peers import halves
from _results import FOLDER, Row, write_results

import realization as rz
from bmojo import SignalModel

TANKS, OTHERS, SEEDS = "cascaded_tanks", ("dryer", "robot_arm"), (0, 1, 2)
LINEAR_PEER, GOAL = 72.8, 82.8
STRETCH = 50
LATE, DEAD_TIME = "simulated tank with a dead time", 8
Job = tuple[str, int, dict[str, Any]]
ALONE = {"hidden": 0, "candidates": 1, "keep": 1}


def jobs() -> list[Job]:
    tanks = [(TANKS, seed, {}) for seed in SEEDS]
    return [*tanks, *((name, 0, {}) for name in (*OTHERS, LATE)), (TANKS, 0, ALONE)]


def records(name: str) -> tuple[rz.IOData, rz.IOData]:
    """What identifies and what validates."""
    rng = np.random.default_rng(3)
    return (late_tank(rng), late_tank(rng)) if name == LATE else halves(name)


def late_tank(rng: np.random.Generator, samples: int = 640) -> rz.IOData:
    """A tank that empties as the root of its level and overflows; its inflow comes late."""
    u = np.repeat(rng.uniform(0, 1, samples // 16), 16)[:, None]
    y = np.zeros((samples, 1))
    for t in range(samples - 1):
        inflow = 0.4 * u[max(t - DEAD_TIME, 0)]
        y[t + 1] = np.clip(y[t] + inflow - 0.2 * np.sqrt(y[t]), 0, 1.5)
    return rz.IOData(np.minimum(y + 0.005 * rng.standard_normal(y.shape), 1.5), u)


def measured(job: Job) -> dict[str, float]:
    """What came of one call."""
    torch.set_num_threads(1)
    name, seed, options = job
    train, validation = records(name)
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


def kept(name: str) -> list[Row]:
    """Rows of the other records, as they were measured."""
    old = json.loads((FOLDER / "signal_model.json").read_text())["rows"]
    return [
        Row(**{key: value for key, value in row.items() if key != "met"})
        for row in old
        if not row["case"].startswith(name)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", metavar="NAME", choices=(TANKS, *OTHERS, LATE))
    only = parser.parse_args().only
    todo = [job for job in jobs() if only in (None, job[0])]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(measured, todo))
    rows = spread(found[: len(SEEDS)]) if only in (None, TANKS) else []
    for job, one in zip(todo, found, strict=True):
        rows += rows_of(job, one)
    del sys.argv[1:]  # the file holds what the plain command measures
    write_results("signal_model", rows if only is None else [*kept(only), *rows])


if __name__ == "__main__":
    main()
