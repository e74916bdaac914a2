"""Evidence, question 4: the six MAD tasks, every model, the best of the rates.

`full` has MAD's baseline settings, width and training sets, with fewer steps and rates than its protocol and
without its sweeps of difficulty; the best published mean of the recall tasks is its goal. `quick` has shorter
sequences, half the width and a few hundred steps at two rates: its figures stand beside each other, and
beside nobody else's.

Run: python benchmarks/evidence_mad.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_mad.py --size full --device cuda --workers 3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _evidence import Job, Record, best_of, run_evidence
from _results import Row

RECALL = ("in_context_recall", "fuzzy_recall", "noisy_recall", "selective_copying")


@dataclass(frozen=True)
class Size:
    """How much is done.

    Parameters
    ----------
    tasks : mapping
        Options of each task that differ from MAD's baseline.
    steps : mapping
        Of each task.
    width, window, state, eidetic, batch, sequences : int
    rates : tuple of float
    weight_decays : tuple of float
    seeds : tuple of int
    precision : str
    """

    tasks: Mapping[str, Mapping[str, Any]]
    steps: Mapping[str, int]
    width: int
    window: int
    state: int
    eidetic: int
    batch: int
    sequences: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    precision: str = "float32"


TASKS = (*RECALL, "compression", "memorization")
SOURCE = "S. Yang et al., Parallelizing Linear Transformers with the Delta Rule over Sequence Length, 2024"
PUBLISHED = {  # percent, in the order of TASKS; at MAD's baseline settings, by its whole protocol
    "Transformer": (94.1, 29.8, 86.8, 99.6, 51.6, 85.2),
    "Hyena": (81.7, 7.9, 78.8, 93.1, 45.2, 89.5),
    "multi-head Hyena": (99.0, 14.4, 98.6, 93.0, 44.8, 89.4),
    "Mamba": (90.4, 6.7, 90.1, 86.3, 52.7, 89.5),
    "GLA": (80.8, 6.9, 81.6, 88.6, 38.8, 63.3),
    "DeltaNet": (100.0, 35.7, 100.0, 100.0, 42.2, 52.8),
}
QUICK: dict[str, dict[str, Any]] = {
    "in_context_recall": {"length": 64},
    "fuzzy_recall": {"length": 64},
    "noisy_recall": {"length": 64},
    "selective_copying": {"length": 64, "tokens": 8},
    "compression": {"length": 16},
    "memorization": {"vocabulary": 128},
}
SIZES = {
    "quick": Size(
        QUICK,
        dict.fromkeys(RECALL, 380) | {"compression": 400, "memorization": 200},
        64, 16, 16, 32, 32, 256, (2e-3, 5e-3), (12345,),
    ),
    "full": Size(
        {task: {} for task in TASKS},
        dict.fromkeys(TASKS, 1000),
        128, 16, 16, 64, 128, 1280, (5e-4, 1e-3), (12345,), "bfloat16",
    ),
}  # fmt: skip


def models(size: Size) -> dict[str, dict[str, Any]]:
    """Two layers of each model, by its name; each is followed by a gated perceptron, as MAD does."""
    near, state = {"window": size.window}, {"state_size": size.state}
    attention = {"qk_norm": True, "short_conv": 4}
    both = [{"window": 0, "eidetic": 0, **state}, {"mixer": "none", "eidetic": 0, **near}]
    return {
        "Transformer": {"preset": "transformer", **attention},
        "window": {"preset": "sliding_window", **attention, **near},
        "Mamba-2": {"preset": "bare_mixer", "mixer": "mamba2", **state},
        "gated delta": {"preset": "bare_mixer", "mixer": "gated_deltanet", **state},
        "stack of Mamba-2 and window": {"layers": both},
        "B'MOJO-F": {"preset": "bmojo_f", "mixer": "mamba2", **state, **near},
        "B'MOJO": {"eidetic": size.eidetic, **state, **near},
    }


def jobs_of(size: Size) -> list[Job]:
    """Every model on every task, at every rate."""
    jobs = []
    for task in TASKS:
        for name, layers in models(size).items():
            for rate in size.rates:
                for seed in size.seeds:
                    train = {
                        "steps": size.steps[task],
                        "batch": size.batch,
                        "rate": rate,
                        "seed": seed,
                        "sequences": size.sequences,
                        "checkpoint_every": 200,
                        "precision": size.precision,
                    }
                    config = {
                        "name": f"{task}: {name}",
                        "task": {"kind": task, **size.tasks[task]},
                        "model": {"d_model": size.width, "mlp_ratio": 2.0, **layers},
                        "train": train,
                    }
                    jobs.append(Job(f"{task}: {name}", config))
    return jobs


def rows(size: Size, records: Sequence[Record]) -> list[Row]:
    """Accuracy of each model on each task, and its mean over the tasks of recall and over all."""
    best = best_of(records)
    found = {
        name: {
            task: 100 * float(np.mean([run.accuracy for run in best[f"{task}: {name}"]])) for task in TASKS
        }
        for name in models(size)
    }
    made = []
    for name, by_task in found.items():
        made += [Row(f"{name}: {task.replace('_', ' ')}", value, "%") for task, value in by_task.items()]
    mean = {name: float(np.mean([by_task[task] for task in RECALL])) for name, by_task in found.items()}
    others = {name: value for name, value in mean.items() if name != "B'MOJO"}
    ahead = max(others, key=lambda name: others[name])
    baseline = not any(size.tasks.values())
    best_published = max(float(np.mean(values[: len(RECALL)])) for values in PUBLISHED.values())
    for name, value in mean.items():
        own = name == "B'MOJO"
        made.append(
            Row(
                f"{name}: mean of the recall tasks",
                value,
                "%",
                peer=f"best of the others: {ahead}" if own else None,
                peer_value=others[ahead] if own else None,
                goal=best_published if own and baseline else None,
            )
        )
    for name, by_task in found.items():
        made.append(Row(f"{name}: mean of all six", float(np.mean(list(by_task.values()))), "%"))
    return made


def main() -> None:
    """Train what is not trained yet, and write what came out."""
    run_evidence("mad", __doc__, SIZES, jobs_of, rows)


if __name__ == "__main__":
    main()
