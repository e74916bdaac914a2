"""ERA at size: time and accuracy beside python-control's and pyMOR's.

Run: python benchmarks/bench_era.py (about a minute on one core; one thread for every contender)

The sequence has ten modes and, in a second case, white noise of 1e-3 upon it; all realize order 10 of an
N x N Hankel matrix. Times are minima over repeats that take turns; dense peers run once, on 2000 rows. The
error is the largest one of a pole, matched to the true ones. pyMOR is asked for `force_stability=False`,
which is the same Hankel matrix; python-control's `eigensys_realization` decomposes it densely.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import scipy.optimize
from _results import Row, write_results
from _timing import in_turn
from numpy.typing import NDArray

import realization as rz

Array = NDArray[np.float64]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
RADII, ANGLES = np.array([0.999, 0.995, 0.99, 0.98, 0.95]), np.array([0.1, 0.5, 1.0, 2.0, 2.5])
ORDER = 10
GOALS = {2000: 0.02, 4000: 0.07, 20000: 1.0}
REPEATS = {2000: 20, 4000: 15, 20000: 5}


def sequence(size: int, noise: float) -> Array:
    """Direct term 0, then as many Markov parameters as a Hankel matrix of this size and its shift take."""
    k = np.arange(2 * size)[:, None]
    h = (RADII**k * np.cos(ANGLES * k + 1)).sum(axis=1)
    return np.r_[0.0, h + noise * np.random.default_rng(0).standard_normal(2 * size)]


def pole_error(poles: NDArray[np.complex128]) -> float:
    true = RADII * np.exp(1j * ANGLES)
    distance = np.abs(poles[:, None] - np.concatenate([true, true.conj()]))
    return float(distance[scipy.optimize.linear_sum_assignment(distance)].max())


def ours(h: Array, size: int, method: str = "auto") -> NDArray[np.complex128]:
    return rz.era(h, ORDER, rows=size, cols=size, method=method).model.poles


def by_pymor(h: Array, size: int, randomized: bool) -> NDArray[np.complex128]:
    from pymor.reductors.era import ERAReductor, RandomizedERAReductor

    kind = RandomizedERAReductor if randomized else ERAReductor
    reductor = kind(h[1 : 2 * size, None, None], sampling_time=1.0, force_stability=False)
    model = reductor.reduce(ORDER)
    return np.linalg.eigvals(model.to_matrices()[0])


def by_control(h: Array, size: int) -> NDArray[np.complex128]:
    import control

    model, _ = control.eigensys_realization(h, ORDER, m=size, n=size)
    return np.linalg.eigvals(model.A)


def rows_of(size: int, noise: float) -> list[Row]:
    h = sequence(size, noise)
    kind = f"{size} x {size}, {'noise 1e-3' if noise else 'no noise'}"
    result = rz.era(h, ORDER, rows=size, cols=size)
    calls: dict[str, Callable[[], object]] = {"realization": lambda: ours(h, size)}
    peers: dict[str, Callable[[], NDArray[np.complex128]]] = {
        "pymor randomized": lambda: by_pymor(h, size, True)
    }
    fastest = in_turn(calls | peers, REPEATS[size], best=True)
    if size == 2000 and not noise:
        dense = {"pymor dense": lambda: by_pymor(h, size, False), "control": lambda: by_control(h, size)}
        peers |= dense
        for name, call in dense.items():
            start = time.perf_counter()
            call()
            fastest[name] = time.perf_counter() - start
    rows = []
    for name, call in peers.items():
        value, goal = fastest["realization"], GOALS[size]
        rows.append(Row(f"{kind}: time", value, "s", name, fastest[name], goal=goal, larger_is_better=False))
        errors = pole_error(result.model.poles), pole_error(call())
        rows.append(Row(f"{kind}: largest error of a pole", errors[0], "", name, errors[1]))
    largest = result.hsv[0]
    rows.append(Row(f"{kind}: bound over the largest singular value", result.bound / largest, ""))
    rows.append(Row(f"{kind}: certain bound over the same", result.certain_bound / largest, ""))
    if size == 2000:
        left = rz.hankel_svd(h[1:], ORDER, rows=size, cols=size, method="dense").bound
        if noise:
            rows.append(Row(f"{kind}: bound over the true error", result.bound / left, ""))
    return rows


def main() -> None:
    if any(os.environ.get(name) != count for name, count in ONE_THREAD.items()):
        # Thread pools read these when they load, which has happened: begin again.
        raise SystemExit(subprocess.call([sys.executable, *sys.argv], env=os.environ | ONE_THREAD))
    warnings.simplefilter("ignore")
    from pymor.core.logger import set_log_levels

    set_log_levels({"pymor": "ERROR"})
    write_results("era", [row for size in GOALS for noise in (0.0, 1e-3) for row in rows_of(size, noise)])


if __name__ == "__main__":
    main()
