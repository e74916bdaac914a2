"""How well one default call of `identify` follows the second half of measured records.

The first half identifies, the second half validates (`cascaded_tanks`: its own two records); the first
half's mean is removed from both by the model's operating point; the simulation's first state is estimated
on the record that is evaluated. Peers' figures were recorded earlier on these records by the same protocol:
the best of the subspace, ARX and prediction-error methods of SLICOT, SIPPY, nfoursid and control for each
record.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
from _results import Row, write_results

from realization.identification import fit_percent, identify
from realization.signals import IOData, load_data

RECORDED = "best of the recorded peers"
# Fit in percent, mean over outputs: simulation, one step.
PEERS = {
    "dryer": (85.7, 95.6),
    "robot_arm": (97.5, 99.98),
    "CD_player_arm": (74.9, 94.8),
    "powerplant": (43.8, 76.9),
    "evaporator": (60.0, 79.2),
    "steamgen": (75.5, 94.5),
    "cascaded_tanks": (72.8, 97.6),
}
WITHIN = 0.5
MEAN_GOALS = (75.0, 93.0)
MEAN_PEERS = (72.9, 91.2)


def halves(name: str) -> tuple[IOData, IOData]:
    if name == "cascaded_tanks":
        return load_data(name), load_data(name, part="validation")
    return load_data(name).split(0.5)


def main() -> None:
    rows, fits = [], []
    for name, peers in PEERS.items():
        train, validation = halves(name)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = identify(train)
        seconds = time.perf_counter() - start
        model = found.model
        simulated = model.simulate(validation.inputs, model.estimate_x0(validation))
        pair = (
            float(fit_percent(validation.y, simulated).mean()),
            float(fit_percent(validation.y, model.predict(validation)).mean()),
        )
        fits.append(pair)
        for kind, value, peer in zip(("simulation", "one step"), pair, peers):
            rows.append(Row(f"{name}, {kind}", value, "%", RECORDED, peer, goal=peer - WITHIN))
        rows.append(Row(f"{name}, order", float(found.order), "states"))
        rows.append(Row(f"{name}, time of the call", seconds, "s"))
    means = np.mean(fits, axis=0)
    for kind, value, peer, goal in zip(("simulation", "one step"), means, MEAN_PEERS, MEAN_GOALS):
        rows.append(Row(f"mean, {kind}", float(value), "%", RECORDED, peer, goal=goal))
    write_results("identify_accuracy", rows)


if __name__ == "__main__":
    main()
