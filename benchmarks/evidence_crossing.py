"""Evidence, question 1, third part: where the curves of sets and of states cross.

Gap recall as in question 1, trained for longer, until a model answers 99 % or the steps are over; one thing
is changed at a time: the pairs, the width, the filler. For each setting: how many bytes of state and places,
and how many steps, a set of places takes, and how many a state (the delta rule, and the stack of Mamba-2 and
windows) of several sizes.

Run: python benchmarks/evidence_crossing.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_crossing.py --size full --device cuda
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from _evidence import Job, Record, best_of, run_evidence
from _results import Row

REACHED = 0.95  # accuracy that counts as having learned


@dataclass(frozen=True)
class Setting:
    """One task and width.

    Parameters
    ----------
    pairs, gap, width, window, vocabulary, fillers : int
    """

    pairs: int
    gap: int
    width: int
    window: int
    vocabulary: int
    fillers: int = 1


@dataclass(frozen=True)
class Size:
    """How much is done.

    Parameters
    ----------
    settings : dict of str to Setting
    states : tuple of int
        Of the delta rule and of the stack.
    small : int
        State beside the places.
    early, steps, every, batch : int
        Steps of each stage of fewer pairs, steps at most, and between two looks at held-out sequences.
    rate : float
    seeds : tuple of int
    """

    settings: dict[str, Setting]
    states: tuple[int, ...]
    small: int
    early: int
    steps: int
    every: int
    batch: int
    rate: float
    seeds: tuple[int, ...]


def _settings(base: Setting, pairs: Sequence[int], width: int, fillers: int) -> dict[str, Setting]:
    """The base, then one change at a time."""
    made = {f"K = {base.pairs}": base} | {f"K = {k}": replace(base, pairs=k) for k in pairs}
    made[f"width {width}"] = replace(base, width=width)
    made[f"{fillers} fillers"] = replace(base, fillers=fillers)
    return made


SIZES = {
    "quick": Size(
        _settings(Setting(8, 48, 64, 8, 64), (16, 24), 128, 16), (16, 64), 4, 80, 900, 60, 32, 1e-2, (0, 1)
    ),
    "full": Size(
        _settings(Setting(32, 192, 128, 16, 256), (64, 96), 256, 64),
        (16, 64, 128, 256), 4, 500, 6000, 250, 64, 3e-3, (0, 1, 2),
    ),
}  # fmt: skip


def models(size: Size, setting: Setting) -> dict[str, dict[str, Any]]:
    """Layers of each model by its name."""
    near = {"window": setting.window}
    found: dict[str, dict[str, Any]] = {
        f"B'MOJO, m = {times}K": {
            "eidetic": times * setting.pairs,
            "eidetic_position": "edge",
            "state_size": size.small,
            **near,
        }
        for times in (1, 2)
    }
    for state in size.states:
        found[f"gated delta, N = {state}"] = {
            "preset": "bare_mixer",
            "mixer": "gated_deltanet",
            "state_size": state,
        }
        both = [{"window": 0, "eidetic": 0, "state_size": state}, {"mixer": "none", "eidetic": 0, **near}]
        found[f"stack, N = {state}"] = {"layers": both * 2}
    return found


def jobs_of(size: Size) -> list[Job]:
    """Every model in every setting with every seed; fewer pairs over shorter gaps come first."""
    jobs = []
    for title, setting in size.settings.items():
        task = {
            "kind": "gap_recall",
            "pairs": setting.pairs,
            "gap": setting.gap,
            "queries": 2 * setting.pairs,
            "vocabulary": setting.vocabulary,
            "fillers": setting.fillers,
        }
        curriculum = [
            {"steps": size.early, "pairs": setting.pairs // 4, "gap": setting.gap // 3},
            {"steps": size.early, "pairs": setting.pairs // 2, "gap": 2 * setting.gap // 3},
        ]
        for name, layers in models(size, setting).items():
            for seed in size.seeds:
                train = {
                    "steps": size.steps,
                    "batch": size.batch,
                    "rate": size.rate,
                    "seed": seed,
                    "sequences": 256,
                    "checkpoint_every": 150,
                    "evaluate_every": size.every,
                    "target": 0.99,
                }
                config = {
                    "name": f"{title}: {name}",
                    "task": task,
                    "curriculum": curriculum,
                    "model": {"d_model": setting.width, "mlp_ratio": 0.0, **layers},
                    "train": train,
                }
                jobs.append(Job(f"{title}: {name}", config))
    return jobs


def reached(run: Record) -> int | None:
    """Steps after which a run had learned the task, by its looks at held-out sequences.

    Parameters
    ----------
    run : Record
    """
    return next((look["step"] for look in run.looks if look["accuracy"] >= REACHED), None)


def long_term(run: Record) -> int:
    """Bytes of state and places.

    Parameters
    ----------
    run : Record
    """
    return run.memory.get("in_state", 0) + run.memory.get("eidetic", 0)


def least_bytes(best: dict[str, list[Record]], title: str, family: str) -> int | None:
    """Bytes of the smallest memory of a family with which every seed learned; none if none did.

    Parameters
    ----------
    best : dict
        As `best_of` gives it.
    title : str
        Of the setting.
    family : str
        With which the names begin.
    """
    sizes = [
        long_term(runs[0])
        for name, runs in best.items()
        if name.startswith(f"{title}: {family}") and all(run.accuracy >= REACHED for run in runs)
    ]
    return min(sizes, default=None)


def rows(size: Size, records: Sequence[Record]) -> list[Row]:
    """Accuracy, bytes and steps of each model in each setting, and the least bytes of each family."""
    made, best = [], best_of(records)
    for name, runs in best.items():
        accuracy = [100 * run.accuracy for run in runs]
        made.append(Row(f"{name}: mean of {len(runs)} seeds", float(np.mean(accuracy)), "%"))
        made.append(Row(f"{name}: worst", min(accuracy), "%"))
        made.append(Row(f"{name}: bytes of state and places", long_term(runs[0]), "bytes"))
        steps = [found for run in runs if (found := reached(run)) is not None]
        if len(steps) == len(runs):
            made.append(Row(f"{name}: steps to {100 * REACHED:.0f} %", float(np.median(steps)), "steps"))
    for title in size.settings:
        for family in ("B'MOJO", "gated delta", "stack"):
            found = least_bytes(best, title, family)
            if found is not None:
                made.append(Row(f"{title}: least bytes with which {family} learned", found, "bytes"))
    return made


def main() -> None:
    """Train what is not trained yet, and write what came out."""
    run_evidence("crossing", __doc__, SIZES, jobs_of, rows)


if __name__ == "__main__":
    main()
