"""Frequency response under PI feedback with coloured noise: SSARX and PBSID beside open-loop methods."""

from __future__ import annotations

import warnings

import numpy as np
from _results import Row, write_results

import realization as rz

LENGTH, SEEDS, ORDER, GOAL = 10_000, 10, 3, 3.0
PLANT = rz.StateSpace([[1.5, -0.7], [1.0, 0.0]], [[1.0], [0.0]], [[0.1, 0.05]])


def closed_loop(seed: int) -> rz.IOData:
    """A resonance and an autoregressive disturbance, held by a PI controller that follows steps."""
    rng = np.random.default_rng(seed)
    x, total, v = np.zeros(2), 0.0, 0.0
    y, u = np.zeros(LENGTH), np.zeros(LENGTH)
    reference = np.repeat(rng.standard_normal(LENGTH // 10), 10)
    for t in range(LENGTH):
        v = 0.9 * v + 0.08 * rng.standard_normal()
        y[t] = PLANT.C[0] @ x + v
        total += reference[t] - y[t]
        u[t] = 0.4 * (reference[t] - y[t]) + 0.08 * total
        x = PLANT.A @ x + PLANT.B[:, 0] * u[t]
    return rz.IOData(y, u)


def response(model: rz.StateSpace | rz.InnovationsModel) -> np.ndarray:
    z = np.exp(1j * np.linspace(0.02, np.pi, 200))
    eye = np.eye(len(model.A))
    return np.array([(model.C @ np.linalg.solve(p * eye - model.A, model.B) + model.D)[0, 0] for p in z])


def main() -> None:
    true = response(PLANT)
    methods = {
        "ssarx": lambda data: rz.ssarx(data, ORDER),
        "ssarx, order chosen": rz.ssarx,
        "pbsid": lambda data: rz.pbsid(data, ORDER),
        "pbsid, order chosen": rz.pbsid,
        "cva (open loop)": lambda data: rz.cva(data, ORDER),
        "moesp (open loop)": lambda data: rz.moesp(data, ORDER),
        "n4sid (open loop)": lambda data: rz.n4sid(data, ORDER, weighting="n4sid"),
    }
    records = [closed_loop(seed) for seed in range(SEEDS)]
    errors = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, method in methods.items():
            found = [response(method(data).model) for data in records]
            errors[name] = 100 * float(
                np.median([np.linalg.norm(g - true) / np.linalg.norm(true) for g in found])
            )
    best = min(value for name, value in errors.items() if "open" in name)
    rows = []
    for name, value in errors.items():
        own = "open" not in name
        rows.append(
            Row(
                f"frequency response error, {name}",
                value,
                "%",
                "best open-loop method" if own else None,
                best if own else None,
                goal=GOAL if own else None,
                larger_is_better=False,
            )
        )
    write_results("closed_loop", rows)


if __name__ == "__main__":
    main()
