"""One measured record, the hair dryer, line by line: the default call, single methods, and the peers.

The first half identifies, the second half validates; fits, operating points, first states and peers as in
`bench_identify_accuracy.py`: a peer gets the order from 1 to 20 that is best on the validation half itself,
for each fit apart. What a peer does not give (a Kalman gain) is left out. `level free` is the simulation's
fit with the mean of its error taken off. Times are the processor's.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from _peers import PEERS, fits, halves, outcome
from _results import Row, write_results

import realization as rz

NAME = "dryer"
OWN: dict[str, Callable[[rz.IOData], Any]] = {
    "identify(train)": rz.identify,
    "n4sid(train)": partial(rz.n4sid, weighting="n4sid"),
    "moesp(train)": rz.moesp,
    "cva(train)": rz.cva,
}


def judged(peer: str) -> Iterator[Row]:
    """Best of each kind over the orders, the order it has, and how many orders gave no stable model."""
    best, counts = outcome(peer, NAME)
    for kind, (value, order) in best.items():
        yield Row(f"{peer}, {kind}", value, "%")
        yield Row(f"{peer}, {kind}, order", float(order), "states")
    yield Row(f"{peer}, orders without a stable model", float(counts.total()), "")


def main() -> None:
    train, validation = halves(NAME)
    rows = []
    for name, method in OWN.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.process_time()
            model = method(train).model
            seconds = time.process_time() - start
        rows += [Row(f"{name}, {kind}", value, "%") for kind, value in fits(model, validation).items()]
        rows += [Row(f"{name}, order", float(model.n_states), "states"), Row(f"{name}, time", seconds, "s")]
    for peer in PEERS:
        rows += judged(peer)
    write_results("walkthrough", rows)


if __name__ == "__main__":
    main()
