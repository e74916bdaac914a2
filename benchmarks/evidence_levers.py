"""Evidence, question 1, second part: when the read-out, the write gate and the delta rule's residual help.

Every combination of three levers: query and state meet directly (`fading_readout`), a learned gate weighs
what is kept (`write_gate`), and who tells the innovations (a short convolution, or what the state of a delta
rule failed to predict). Four tasks: standard recall with random filler, as in Zoology, and gap recall whose
filler is one token, many tokens of its own, or the pairs' own vocabulary, which surprise cannot tell. States
are small and places just hold the pairs, so that each lever has something to do; beside them stands a state
that could hold all pairs by itself, which is also given three times the steps on standard recall.

Run: python benchmarks/evidence_levers.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_levers.py --size full --device cuda
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _evidence import Job, Record, best_of, run_evidence
from _results import Row

STANDARD = "standard recall, random filler"
PATIENT = "standard recall, trained longer"  # the wide states alone
PATIENCE = 3


@dataclass(frozen=True)
class Size:
    """How much is done.

    Parameters
    ----------
    pairs, gap, window, state, wide, width, vocabulary, steps, batch : int
        `wide` is the state that could do it all.
    standard, length, longer : int
        Vocabulary, length and steps of standard recall.
    rate : float
    seeds : tuple of int
    """

    pairs: int
    gap: int
    window: int
    state: int
    wide: int
    width: int
    vocabulary: int
    steps: int
    batch: int
    standard: int
    length: int
    longer: int
    rate: float
    seeds: tuple[int, ...]


SIZES = {
    "quick": Size(8, 48, 8, 16, 64, 64, 64, 280, 32, 256, 64, 560, 1e-2, (0, 1, 2)),
    "full": Size(32, 192, 16, 32, 128, 128, 256, 2000, 64, 8192, 256, 4000, 3e-3, (0, 1, 2, 3, 4)),
}


def tasks(size: Size) -> dict[str, dict[str, Any]]:
    """Options of each task by its name."""
    gap = {
        "kind": "gap_recall",
        "pairs": size.pairs,
        "gap": size.gap,
        "queries": 2 * size.pairs,
        "vocabulary": size.vocabulary,
    }
    standard = {
        "kind": "mqar",
        "pairs": size.pairs,
        "length": size.length,
        "vocabulary": size.standard,
        "filler": "random",
    }
    return {
        STANDARD: standard,
        PATIENT: standard,
        "gap recall, one filler": gap,
        "gap recall, own fillers": gap | {"fillers": size.vocabulary // 4},
        "gap recall, same vocabulary": gap | {"fillers": 0},
    }


def levers(size: Size) -> dict[str, dict[str, Any]]:
    """Layers of every combination, and full attention, by name."""
    base = {
        "eidetic": 2 * size.pairs,
        "eidetic_position": "edge",
        "window": size.window,
        "state_size": size.state,
    }
    predictors = {
        "conv": {"mixer": "mamba2", "predictor": "conv"},
        "residual": {"mixer": "gated_deltanet", "predictor": "residual"},
    }
    made = {}
    for predictor, readout, gate in itertools.product(predictors, ("none", "add"), (False, True)):
        parts = [predictor, *(["read-out"] if readout == "add" else []), *(["write gate"] if gate else [])]
        made[", ".join(parts)] = (
            base | predictors[predictor] | {"fading_readout": readout, "write_gate": gate}
        )
    wide = base | predictors["conv"] | {"fading_readout": "add", "state_size": size.wide}
    made[f"N = {size.wide}, conv, read-out"] = wide
    made[f"N = {size.wide}, conv, read-out, write gate"] = wide | {"write_gate": True}
    made["Transformer"] = {"preset": "transformer", "qk_norm": True, "short_conv": 4}
    return made


def jobs_of(size: Size) -> list[Job]:
    """Every combination on every task with every seed, longer ones first; fewer pairs come first in each."""
    jobs = []
    for (task, options), (name, layers) in itertools.product(tasks(size).items(), levers(size).items()):
        if task == PATIENT and not name.startswith("N = "):
            continue
        steps = {STANDARD: size.longer, PATIENT: PATIENCE * size.longer}.get(task, size.steps)
        early: list[dict[str, Any]] = [{"pairs": size.pairs // 4}, {"pairs": size.pairs // 2}]
        if options["kind"] == "gap_recall":
            early[0] |= {"gap": size.gap // 3, "queries": size.pairs // 2}
            early[1] |= {"gap": 2 * size.gap // 3, "queries": size.pairs}
        for seed in size.seeds:
            train = {
                "steps": steps,
                "batch": size.batch,
                "rate": size.rate,
                "seed": seed,
                "sequences": 512,
                "checkpoint_every": 100,
            }
            config = {
                "name": f"{task}: {name}",
                "task": options,
                "curriculum": [{"steps": steps * 2 // 7, **stage} for stage in early],
                "model": {"d_model": size.width, "mlp_ratio": 0.0, **layers},
                "train": train,
            }
            jobs.append(Job(f"{task}: {name}", config))
    return sorted(jobs, key=lambda job: -job.config["train"]["steps"])


def grid(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
    """Runs by combination and task; more steps are a row of their own, full attention is the last.

    Parameters
    ----------
    records : sequence of Record
    """
    found: dict[str, dict[str, list[Record]]] = {}
    for name, runs in best_of(records).items():
        task, _, lever = name.partition(": ")
        if task == PATIENT:
            task, lever = STANDARD, f"{lever}, {PATIENCE} x the steps"
        found.setdefault(lever, {})[task] = runs
    return dict(sorted(found.items(), key=lambda row: (row[0] == "Transformer", row[0].startswith("N = "))))


def effect(size: Size, best: dict[str, list[Record]], task: str, predictor: str, lever: str) -> float:
    """Points that a lever adds on a task, in the mean over the other lever and the seeds.

    Parameters
    ----------
    size : Size
    best : dict
        As `best_of` gives it.
    task, predictor, lever : str
        `lever` is "read-out" or "write gate".
    """
    mean: dict[bool, list[float]] = {False: [], True: []}
    for name in levers(size):
        if name.split(", ")[0] == predictor:
            mean[lever in name].append(
                float(np.mean([100 * run.accuracy for run in best[f"{task}: {name}"]]))
            )
    return float(np.mean(mean[True]) - np.mean(mean[False]))


def rows(size: Size, records: Sequence[Record]) -> list[Row]:
    """Accuracy of each combination, what each lever adds, and what was pre-registered."""
    made, best = [], best_of(records)
    for name, runs in best.items():
        accuracy = [100 * run.accuracy for run in runs]
        made.append(Row(f"{name}: mean of {len(runs)} seeds", float(np.mean(accuracy)), "%"))
        made.append(Row(f"{name}: worst", min(accuracy), "%"))
    several = [task for task in tasks(size) if task != PATIENT]
    for task, predictor, lever in itertools.product(
        several, ("conv", "residual"), ("read-out", "write gate")
    ):
        made.append(
            Row(
                f"{task}: the {lever} adds, {predictor}", effect(size, best, task, predictor, lever), "points"
            )
        )
    own = {name: runs for name, runs in best.items() if name.startswith("standard") and "Transf" not in name}
    solved = max(float(np.mean([100 * run.accuracy for run in runs])) for runs in own.values())
    made.append(Row("standard recall: the best combination", solved, "%", goal=95.0))
    return made


def main() -> None:
    """Train what is not trained yet, and write what came out."""
    run_evidence("levers", __doc__, SIZES, jobs_of, rows)


if __name__ == "__main__":
    main()
