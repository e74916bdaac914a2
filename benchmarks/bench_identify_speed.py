"""`n4sid` on 1e3 to 1e6 samples, all orders at once, a stream of 1e8: order 8, 2 in, 2 out, 15 block rows.

SLICOT (through ctrlsys) runs the same records in a process of its own: the fastest of its algorithms and
methods that gives `A, B, C, D, K`. One thread each.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
import warnings

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from _results import Row, write_results
from _timing import seconds

import realization as rz
from realization.stream import StreamingFactorization

SIZES = {1_000: 0.005, 10_000: 0.005, 100_000: 0.010, 1_000_000: 0.30}
ROWS, ORDER, LONG = 15, 8, 100_000_000


def plant(seed: int = 0) -> rz.StateSpace:
    """Four resonances between 0.6 and 0.95."""
    rng = np.random.default_rng(seed)
    A = np.zeros((ORDER, ORDER))
    for k in range(0, ORDER, 2):
        radius, angle = rng.uniform(0.6, 0.95), rng.uniform(0.2, 2.8)
        c, s = radius * np.cos(angle), radius * np.sin(angle)
        A[k : k + 2, k : k + 2] = [[c, -s], [s, c]]
    B, C, D = (rng.standard_normal(shape) for shape in ((ORDER, 2), (2, ORDER), (2, 2)))
    return rz.StateSpace(A, B, C, D)


def record(length: int, seed: int = 0, noise: float = 0.1) -> rz.IOData:
    rng = np.random.default_rng(seed + 1)
    u = rng.standard_normal((length, 2))
    y = plant(seed).simulate(u)
    return rz.IOData(y + noise * y.std(axis=0) * rng.standard_normal(y.shape), u)


def repeats(length: int) -> int:
    return 31 if length < 1_000_000 else 7


def slicot(length: int, algorithm: str, method: str) -> None:
    """In a process of its own, which the wrapper may abort at any call: print each call's time."""
    import ctrlsys

    data = record(length)
    u, y = np.asfortranarray(data.inputs), np.asfortranarray(data.y)

    def run() -> int:
        _, r, _, _, info = ctrlsys.ib01ad(
            method, algorithm, "N", "O", "N", "N", ROWS, 2, 2, u.copy("F"), y.copy("F"), 0.0, -1.0
        )
        return info or ctrlsys.ib01bd(method, "A", "K", ROWS, ORDER, 2, 2, length, r, 0.0)[-1]

    for _ in range(5):
        start = time.perf_counter()
        if run() == 0:
            print(time.perf_counter() - start, flush=True)
    os._exit(0)


def slicot_seconds(length: int) -> float | None:
    """Best of all calls of all algorithms and methods that came through."""
    taken = []
    for algorithm in "CF":
        for method in "MN":
            command = [sys.executable, __file__, "slicot", str(length), algorithm, method]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            taken += [float(line) for line in result.stdout.split()]
    return min(taken, default=None)


def streamed() -> None:
    """In a process of its own: seconds for 1e8 samples, then the peak of its memory in bytes."""
    data = record(1_000_000)
    stream = StreamingFactorization(2, 2, block_rows=ROWS)
    stream.update(data.y[:1000], data.inputs[:1000])
    start = time.perf_counter()
    for _ in range(LONG // data.length):
        stream.update(data.y, data.inputs)
    stream.n4sid(ORDER)
    taken = time.perf_counter() - start
    print(taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def exactness(length: int, low_passed: bool) -> float:
    """Relative error of 60 Markov parameters on noise-free data."""
    system, rng = plant(3), np.random.default_rng(4)
    u = rng.standard_normal((length, 2))
    if low_passed:
        filtered = rz.StateSpace([[1.6, -0.8], [1.0, 0.0]], [[1.0], [0.0]], [[0.05, 0.05]])
        u = np.hstack([filtered.simulate(u[:, j : j + 1]) for j in range(2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = rz.n4sid(rz.IOData(system.simulate(u), u), ORDER, block_rows=8).model
    h = system.impulse_response(60)
    return float(np.linalg.norm(found.impulse_response(60) - h) / np.linalg.norm(h))


def main() -> None:
    rows = []
    for length, goal in SIZES.items():
        data = record(length)
        ours = seconds(
            lambda data=data: rz.n4sid(data, order=ORDER, block_rows=ROWS), repeats(length), best=True
        )
        peer = slicot_seconds(length)
        name = None if peer is None else "SLICOT (ctrlsys)"
        rows.append(Row(f"n4sid, {length} samples", ours, "s", name, peer, goal=goal, larger_is_better=False))
        if length >= 100_000:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                every = seconds(
                    lambda data=data: rz.subspace_orders(data, block_rows=ROWS), repeats(length), best=True
                )
            rows.append(
                Row(
                    f"orders 1..20 at once against order {ORDER}, {length} samples",
                    every / ours,
                    "times",
                    "n4sid, one order (s)",
                    ours,
                    every / ours,
                    1.5,
                    larger_is_better=False,
                )
            )
    result = subprocess.run([sys.executable, __file__, "stream"], capture_output=True, text=True, check=True)
    taken, memory = map(float, result.stdout.split())
    rows.append(Row("stream of 1e8 samples", taken, "s", goal=60.0, larger_is_better=False))
    rows.append(Row("stream of 1e8 samples, peak memory", memory, "bytes", goal=1e9, larger_is_better=False))
    for length in (1_000, 100_000):
        rows.append(
            Row(f"noise-free Markov parameters, {length} samples", exactness(length, False), "relative error",
                goal=1e-12, larger_is_better=False)
        )  # fmt: skip
    rows.append(
        Row("the same with a low-passed input, 10000 samples", exactness(10_000, True), "relative error",
            goal=1e-10, larger_is_better=False)
    )  # fmt: skip
    write_results("identify_speed", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["slicot"]:
        slicot(int(sys.argv[2]), *sys.argv[3:5])
    elif sys.argv[1:2] == ["stream"]:
        streamed()
    else:
        main()
