"""Gap recall over seeds: the demo's contenders, the stack's learning rate, and where far keys are rotated.

Run: python benchmarks/bench_gap_recall.py [--seeds 3] (about 7 minutes on two cores)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from _results import Row, write_results

from bmojo.demo.contenders import CONTENDERS, GROWTH_GAPS, GROWTH_PAIRS, Contender, Outcome
from bmojo.demo.race import race

STACK, BMOJO = replace(CONTENDERS[0], steps=700), CONTENDERS[1]
RATES = (3e-3, 6e-3, 1e-2)


def variants() -> list[Contender]:
    swept = [
        replace(STACK, name=f"{STACK.name}, rate {rate:g}", rate=rate) for rate in RATES if rate != STACK.rate
    ]
    # It may stay on a plateau for hundreds of steps, longer or shorter by the seed: the demo gives it these.
    swept += [replace(STACK, name=f"{STACK.name}, 1400 steps", steps=1400)]
    small = CONTENDERS[6]
    swept += [replace(small, name=f"{small.name}, 700 steps", steps=700)]
    placed = [
        replace(BMOJO, name=f"{BMOJO.name}, keys at {where}", position=where) for where in ("own", "none")
    ]
    return [STACK, *CONTENDERS[1:], *swept, *placed]


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.contender.name, []).append(outcome)
    made = []
    for name, runs in found.items():
        accuracy = [100 * run.accuracy for run in runs]
        goal = 95.0 if name in ("B'MOJO, m = 16", "B'MOJO, m = 24") else None
        made.append(Row(f"{name}: worst of {len(runs)} seeds", min(accuracy), "%", goal=goal))
        made.append(Row(f"{name}: median of {len(runs)} seeds", float(np.median(accuracy)), "%"))
        made.append(Row(f"{name}: bytes of state and places", runs[0].long_term, "bytes"))
        for gap in GROWTH_GAPS:
            for pairs in GROWTH_PAIRS:
                values = [100 * run.growth[gap, pairs] for run in runs if run.growth]
                if values:
                    made.append(
                        Row(f"{name}: {pairs} pairs, gap {gap}, median", float(np.median(values)), "%")
                    )
    best = {name: np.median([run.accuracy for run in runs]) for name, runs in found.items()}
    for rival in ("window", "random, m = 16", "stack, state 4"):
        margin = 100 * float(best["B'MOJO, m = 16"] - best[rival])
        made.append(Row(f"B'MOJO, m = 16, above {rival}", margin, "points", goal=50.0))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    count = parser.parse_args().seeds
    outcomes = [outcome for seed in range(count) for outcome in race(variants(), seed=seed)]
    write_results("gap_recall", rows(outcomes))


if __name__ == "__main__":
    main()
