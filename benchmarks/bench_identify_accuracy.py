"""How well one default call of `identify` follows the second half of measured records, beside its peers.

The first half identifies, the second half validates (`cascaded_tanks`: its own two records); the first
half's mean is removed from both by the model's operating point; the simulation's first state is estimated
on the record that is evaluated. Peers run here, in the same run, by the same protocol (`_peers.py`): of
every method the order from 1 to 20 that is best on the validation half, for each fit apart. What they lose
(errors, aborted processes, fits that are not there in time) and their unstable models are counted. Where an
earlier survey of more of their methods and settings had a better fit, that stands as the best peer's. Times
of the call are the processor's.
"""

from __future__ import annotations

import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
from _peers import ORDERS, PEERS, SECONDS, Outcome, fits, halves, outcome
from _results import Row, write_results

import realization as rz

KINDS = ("simulation", "one step")
# Fit in percent, mean over outputs: the best that any method of the peers gave in the survey.
SURVEYED = {
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
LOST = {"raised": "errors", "aborted": "aborted", "late": f"later than {SECONDS:.0f} s"}
Outcomes = dict[tuple[str, str], Outcome]


def own() -> tuple[dict[str, dict[str, float]], list[Row]]:
    """Fits of one default call for each record, with what else there is to say of it."""
    found, rows = {}, []
    for name in SURVEYED:
        train, validation = halves(name)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = rz.identify(train)
        seconds = time.process_time() - start
        found[name] = fits(fit.model, validation)
        rows.append(Row(f"{name}, order", float(fit.order), "states"))
        rows.append(Row(f"{name}, time of the call", seconds, "s"))
        print(name, found[name], f"{seconds:.1f} s", file=sys.stderr, flush=True)
    return found, rows


def peers() -> Outcomes:
    """Each peer on each record, as many at a time as there are processors."""
    pairs = list(product(SURVEYED, PEERS))
    with ThreadPoolExecutor() as pool:
        return dict(zip(pairs, pool.map(lambda pair: outcome(pair[1], pair[0]), pairs)))


def best_peer(found: Outcomes, name: str, kind: str) -> tuple[float, str]:
    run = [(found[name, peer].best.get(kind, (-np.inf, 0))[0], peer) for peer in PEERS]
    return max(*run, (SURVEYED[name][KINDS.index(kind)], "best of an earlier survey"))


def comparison(mine: dict[str, dict[str, float]], found: Outcomes) -> list[Row]:
    """The call beside the best peer of each record, and the means beside that of the best peers."""
    rows = []
    for name, kind in product(SURVEYED, KINDS):
        value, peer = best_peer(found, name, kind)
        rows.append(Row(f"{name}, {kind}", mine[name][kind], "%", peer, value, goal=value - WITHIN))
    for kind, goal in zip(KINDS, MEAN_GOALS):
        value = float(np.mean([mine[name][kind] for name in SURVEYED]))
        best = float(np.mean([best_peer(found, name, kind)[0] for name in SURVEYED]))
        rows.append(Row(f"mean, {kind}", value, "%", "best peer of each record", best, goal=goal))
    return rows


def table(found: Outcomes) -> list[Row]:
    """Every peer on every record, and its means over those where it has a model."""
    rows = []
    for (name, peer), (best, counts) in found.items():
        for kind in KINDS:
            if kind in best:
                value, order = best[kind]
                rows.append(Row(f"{name}, {peer}, {kind}", value, "%"))
                rows.append(Row(f"{name}, {peer}, {kind}, order", float(order), "states"))
        for cause in (*LOST, "unstable"):
            if counts[cause]:
                case = f"{name}, {peer}, {LOST.get(cause, cause)}"
                rows.append(Row(case, float(counts[cause]), f"of {len(ORDERS)}"))
    for peer in PEERS:
        for kind in KINDS:
            values = [found[name, peer].best[kind][0] for name in SURVEYED if kind in found[name, peer].best]
            if values:
                unit = "%" if len(values) == len(SURVEYED) else f"% of {len(values)} records"
                rows.append(Row(f"mean, {peer}, {kind}", float(np.mean(values)), unit))
        for cause in (*LOST, "unstable"):
            total = sum(found[name, peer].counts[cause] for name in SURVEYED)
            unit = f"of {len(ORDERS) * len(SURVEYED)}"
            rows.append(Row(f"all records, {peer}, {LOST.get(cause, cause)}", float(total), unit))
    return rows


def main() -> None:
    mine, rows = own()
    start = time.perf_counter()
    found = peers()
    taken = Row("all records, all peers, time", time.perf_counter() - start, "s")
    write_results("identify_accuracy", [*comparison(mine, found), *rows, *table(found), taken])


if __name__ == "__main__":
    main()
