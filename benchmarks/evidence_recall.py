"""Evidence, question 1: gap recall against the bytes of memory, for every model over rates and seeds alike.

Run: python benchmarks/evidence_recall.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_recall.py --size full --device cuda
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _evidence import Job, Record, best_of, parser_of, run_jobs, show_jobs, write_records
from _results import Row, write_results


@dataclass(frozen=True)
class Size:
    """How much is done.

    Parameters
    ----------
    pairs, gap, width, window, steps, batch : int
    vocabulary : int
    rates : tuple of float
    seeds : tuple of int
    states : tuple of int
        State sizes of the models that have nothing else to remember with.
    """

    pairs: int
    gap: int
    width: int
    window: int
    steps: int
    batch: int
    vocabulary: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    states: tuple[int, ...]


SIZES = {
    "quick": Size(8, 48, 64, 8, 280, 32, 64, (3e-3, 1e-2), (0, 1, 2), (4, 16, 33)),
    "full": Size(32, 192, 128, 16, 2000, 64, 256, (1e-3, 3e-3, 1e-2), (0, 1, 2, 3, 4), (4, 16, 64, 128)),
}


def models(size: Size) -> dict[str, dict[str, Any]]:
    """Layers of each model by its name: they differ in their memories; B'MOJO-F is the authors' layer."""
    near = {"window": size.window}
    mixers = {"Mamba-2": "mamba2", "gated delta": "gated_deltanet"}
    found: dict[str, dict[str, Any]] = {
        "Transformer": {"preset": "transformer", "qk_norm": True, "short_conv": 4},
        "window": {"preset": "sliding_window", "qk_norm": True, "short_conv": 4, **near},
    }
    for state in size.states:
        for name, mixer in mixers.items():
            found[f"{name}, N = {state}"] = {"preset": "bare_mixer", "mixer": mixer, "state_size": state}
        both = [
            {"window": 0, "eidetic": 0, "state_size": state},
            {"mixer": "none", "eidetic": 0, **near},
        ]
        found[f"stack, N = {state}"] = {"layers": both * 2}
    small = {"state_size": size.states[0], **near}
    found["B'MOJO-F"] = {"preset": "bmojo_f", "mixer": "mamba2", **small}
    found["B'MOJO, m = 0"] = {"layers": [{"eidetic": 0, "eidetic_position": "edge", **small}] * 2}
    for places in (size.pairs // 2, size.pairs, 2 * size.pairs, 3 * size.pairs):
        found[f"B'MOJO, m = {places}"] = {"eidetic": places, "eidetic_position": "edge", **small}
    residual = {"mixer": "gated_deltanet", "predictor": "residual", "eidetic_norm": True}
    found[f"residual, m = {2 * size.pairs}"] = {
        "eidetic": 2 * size.pairs,
        "eidetic_position": "edge",
        **small,
        **residual,
    }
    return found


def jobs_of(size: Size, only: Sequence[str] = ()) -> list[Job]:
    """Every model with every rate and seed; a curriculum of fewer pairs and shorter gaps comes first."""
    task = {
        "kind": "gap_recall",
        "pairs": size.pairs,
        "gap": size.gap,
        "queries": 2 * size.pairs,
        "vocabulary": size.vocabulary,
    }
    part = size.steps * 2 // 7
    curriculum = [
        {"steps": part, "pairs": size.pairs // 4, "gap": size.gap // 3, "queries": size.pairs // 2},
        {"steps": part, "pairs": size.pairs // 2, "gap": 2 * size.gap // 3, "queries": size.pairs},
    ]
    jobs = []
    for name, layers in models(size).items():
        if only and not any(word in name for word in only):
            continue
        model = {"d_model": size.width, "mlp_ratio": 0.0, **layers}
        for rate in size.rates:
            for seed in size.seeds:
                train = {
                    "steps": size.steps,
                    "batch": size.batch,
                    "rate": rate,
                    "seed": seed,
                    "sequences": 512,
                    "checkpoint_every": 50,
                }
                config = {
                    "name": name,
                    "task": task,
                    "curriculum": curriculum,
                    "model": model,
                    "train": train,
                }
                jobs.append(Job(name, config))
    return jobs


def rows(size: Size, records: Sequence[Record]) -> list[Row]:
    """Accuracy and bytes of each model at its best rate, and what was pre-registered."""
    made, mean = [], {}
    for name, runs in best_of(records).items():
        accuracy = [100 * run.accuracy for run in runs]
        mean[name] = float(np.mean(accuracy))
        at = f"rate {runs[0].rate:g}, {len(runs)} seeds"
        goal = 95.0 if name in (f"B'MOJO, m = {2 * size.pairs}", f"B'MOJO, m = {3 * size.pairs}") else None
        made.append(Row(f"{name}: mean ({at})", mean[name], "%", goal=goal))
        made.append(Row(f"{name}: worst", min(accuracy), "%"))
        long_term = runs[0].memory["in_state"] + runs[0].memory["eidetic"]
        made.append(Row(f"{name}: bytes of state and places", long_term, "bytes"))
        made.append(Row(f"{name}: bytes of all memory", runs[0].bytes, "bytes"))
    whole, part = f"B'MOJO, m = {2 * size.pairs}", f"Mamba-2, N = {size.states[0]}"
    if whole in mean and part in mean:
        made.append(Row(f"{whole} above its state alone", mean[whole] - mean[part], "points", goal=0.0))
    return made


def main() -> None:
    parser = parser_of(__doc__, SIZES)
    parser.add_argument("--only", nargs="+", default=[], help="models whose names hold one of these words")
    parser.add_argument("--seeds", type=int, help="of the size's seeds, how many")
    options = parser.parse_args()
    size = SIZES[options.size]
    jobs = [
        job
        for job in jobs_of(size, options.only)
        if options.seeds is None or job.seed in size.seeds[: options.seeds]
    ]
    if not jobs:
        parser.error(f"no model's name holds {options.only}; there are {', '.join(models(size))}.")
    if options.dry:
        show_jobs(jobs)
        return
    name = f"recall_{options.size}"
    records = run_jobs(name, jobs, device=options.device, workers=options.workers)
    if options.only or options.seeds:  # a look at some of it is no evidence
        for name, runs in best_of(records).items():
            print(
                f"{name:<28} {runs[0].bytes:>9} bytes  " + "  ".join(f"{100 * r.accuracy:.1f}" for r in runs)
            )
        return
    write_records(name, jobs, records)
    write_results(f"evidence_{name}", rows(size, records))


if __name__ == "__main__":
    main()
