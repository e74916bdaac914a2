"""How every benchmark measures time: after one call that compiles, several, in turn with the peers'."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

__all__ = ["in_turn", "seconds"]


def in_turn(
    calls: dict[str, Callable[[], object]],
    repeats: int,
    *,
    best: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Seconds of each call, all of them in every round, so that a busy moment strikes all alike.

    Parameters
    ----------
    calls : dict of str to callable
    repeats : int
        Rounds that count; one more comes first.
    best : bool
        The fastest of them, where moments without disturbance are rare; else the median.
    clock : callable
        `time.process_time` counts what the process itself computed: for one thread on a busy machine.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            taken[name].append(clock() - start)
    return {name: float((min if best else np.median)(times[1:])) for name, times in taken.items()}


def seconds(call: Callable[[], object], repeats: int, *, best: bool = False) -> float:
    """Seconds of one call."""
    return in_turn({"": call}, repeats, best=best)[""]
