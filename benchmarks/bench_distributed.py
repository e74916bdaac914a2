"""Identification of a long record by one process and by workers: time, memory of each, and what it gives.

The record (one input, one output, order 2, float32) is made chunk by chunk, and removed afterwards.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _results import Row, write_results
from numpy.lib import format as npy

import realization as rz

PLANT = rz.StateSpace([[0.8, 0.3], [-0.3, 0.5]], [[1.0], [0.5]], [[1.0, 0.2]])
BLOCK_ROWS, CHUNK, PART = 10, 65_536, 16


def write_record(path: Path, length: int) -> None:
    """Samples of the plant with white noise on the output, as one NPY file."""
    rng, state, step = np.random.default_rng(0), np.zeros(2), 1 << 20
    with path.open("wb") as file:
        npy.write_array_header_2_0(file, {"descr": "<f4", "fortran_order": False, "shape": (length, 2)})
        for begin in range(0, length, step):
            u = rng.standard_normal((min(step, length - begin) + 1, 1))
            states, _ = rz_scan(u, state)
            state = states[-1]
            y = states @ PLANT.C.T + 0.1 * rng.standard_normal((len(u), 1))
            file.write(np.hstack([u, y])[:-1].astype(np.float32).tobytes())


def rz_scan(u: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States of the plant."""
    from bmojo_kernels import lti_scan

    return lti_scan(PLANT.A, PLANT.B, u, state)


def peak() -> float:
    """Largest resident memory of this process so far, in bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def error_of(seen: rz.stream.StreamingFactorization) -> float:
    """Largest error of the impulse response of the model of order 2."""
    return float(np.abs(seen.n4sid(2).impulse_response(20) - PLANT.impulse_response(20)).max())


def main() -> None:
    """Make the record, reduce it by 1 and 2 workers, write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=float, default=1e8)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    options = parser.parse_args()
    length, rows = int(options.samples), []
    taken: dict[str, Any] = {"inputs": 0, "outputs": 1, "block_rows": BLOCK_ROWS, "chunk": CHUNK}
    case = f"{length:.0e} samples"
    times: dict[int, float] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "record.npy")
        write_record(path, length)
        for workers in (1, 2):
            with rz.distributed.local_client(workers) as client:
                client.run(warm)
                begin = time.perf_counter()
                seen = rz.distributed.factorize(path, part=PART, client=client, **taken)
                times[workers] = time.perf_counter() - begin
                memory = max(client.run(peak).values())
            rows.append(
                Row(f"{case}, {workers} worker{'s' * (workers > 1)}, time", times[workers], "s")
                if workers == 1
                else Row(f"{case}, 2 workers, time", times[2], "s", "1 worker", times[1])
            )
            rows.append(
                Row(f"{case}, {workers} worker{'s' * (workers > 1)}, memory of the largest", memory / 1e9,
                    "GB", goal=1.0, larger_is_better=False)
            )  # fmt: skip
        begin = time.perf_counter()
        alone = rz.stream_file(path, progress=False, **taken)
        rows.append(Row(f"{case}, stream_file in one process, time", time.perf_counter() - begin, "s"))
        R, whole = seen.factorization().R, alone.factorization().R
        rows.append(
            Row(f"{case}, difference of the factor by 2 workers from one process, relative",
                float(np.abs(R - whole).max() / np.abs(whole).max()), "1", goal=1e-10,
                larger_is_better=False)
        )  # fmt: skip
    rows.append(Row(f"{case}, error of the impulse response", error_of(seen), "1"))
    parts = -(-length // (CHUNK * PART))
    size = len(pickle.dumps(seen))
    rows += [
        Row("a reduced part, as it is sent", size, "bytes"),
        Row(f"{case}, bytes sent between workers, at most", 2.0 * size * parts, "bytes"),
        Row("bytes read for each byte sent", 8.0 * length / (2.0 * size * parts), "1"),
        Row("samples in a second, a worker", length / times[1], "1/s"),
        Row("cores of the machine", os.cpu_count() or 1, "1"),
    ]
    write_results("distributed", rows)


def warm() -> None:
    """Compile before the clock runs."""
    rz.stream_file(np.random.default_rng(0).standard_normal((2000, 2)), inputs=0, outputs=1, progress=False)


if __name__ == "__main__":
    main()
