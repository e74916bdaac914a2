"""What comes of every method at every order: crashes, NaN and unstable models.

Every record of `list_data` (its first half, as for accuracy) goes through every method at orders 1 to 20:
as measured, in units a billion times larger and smaller, a million deviations away from zero, with each
input there twice up to a part in a million, in 16 levels, and cut to 45 samples; and a simulated plant with
28 outputs. `pem` takes 15 steps (2 with 28 outputs, orders 1 to 6): what can go wrong does so early. A typed
error that says what the data lack is counted as refused. Peers run the same records in processes of their
own, which some of them abort. What is measured is kept piece by piece, and a run that was cut goes on.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from _results import FOLDER, Row, write_results

import realization as rz

ORDERS = range(1, 21)
SHORT, MANY, LEVELS = 45, 28, 16
# Steps of `pem`, and those where there are more outputs than `WIDE`.
STEPS, FEW_STEPS, WIDE = 15, 2, 10
FEW_ORDERS = range(1, 7)
FAILURES = ("crashes", "NaN", "unstable")
PEER_SECONDS = 300.0
PARTS = FOLDER.parents[1] / "out" / "robustness.jsonl"

METHODS: dict[str, Callable[[rz.IOData, int], Any]] = {
    "n4sid": partial(rz.n4sid, weighting="n4sid"),
    "moesp": rz.moesp,
    "cva": rz.cva,
    "ssarx": rz.ssarx,
    "pbsid": rz.pbsid,
    "arx": lambda data, order: rz.arx(data, na=order),
    "pem": lambda data, order: rz.pem(
        data, order=order, iterations=STEPS if data.n_outputs <= WIDE else FEW_STEPS
    ),
}


def measured() -> dict[str, rz.IOData]:
    """First halves of all records; of the one with two records of its own, the first."""
    found = {}
    for name in rz.list_data():
        if not rz.describe_data(name).outputs:
            continue
        whole = rz.load_data(name)
        found[name] = whole if rz.describe_data(name).validation else whole.split(0.5)[0]
    return found


def changed(data: rz.IOData, y: np.ndarray, u: np.ndarray) -> rz.IOData:
    return rz.IOData(y, u if data.n_inputs else None, data.dt)


def scaled(data: rz.IOData, factor: float) -> rz.IOData:
    return changed(data, data.y * factor, data.inputs / factor)


def offset(data: rz.IOData) -> rz.IOData:
    return changed(data, *(x + 1e6 * x.std(axis=0) for x in (data.y, data.inputs)))


def collinear(data: rz.IOData) -> rz.IOData:
    u = data.inputs
    twin = u + 1e-6 * u.std(axis=0) * np.random.default_rng(0).standard_normal(u.shape)
    return changed(data, data.y, np.hstack([u, twin]))


def quantized(data: rz.IOData) -> rz.IOData:
    def levels(x: np.ndarray) -> np.ndarray:
        low, high = x.min(axis=0), x.max(axis=0)
        return np.round((x - low) / (high - low) * (LEVELS - 1))

    return changed(data, levels(data.y), levels(data.inputs))


def many_outputs() -> dict[str, rz.IOData]:
    """A plant of order 6 with 2 inputs and 28 outputs, in noise."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((6, 6))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    plant = rz.StateSpace(A, rng.standard_normal((6, 2)), rng.standard_normal((MANY, 6)))
    u = rng.standard_normal((1000, 2))
    y = plant.simulate(u)
    return {"plant": rz.IOData(y + 0.1 * y.std(axis=0) * rng.standard_normal(y.shape), u)}


CONDITIONS: dict[str, Callable[[rz.IOData], rz.IOData]] = {
    "as measured": lambda data: data,
    "outputs times 1e9, inputs by it": lambda data: scaled(data, 1e9),
    "outputs by 1e9, inputs times it": lambda data: scaled(data, 1e-9),
    "offset of 1e6 deviations": offset,
    "nearly collinear inputs": collinear,
    "16 levels": quantized,
    "45 samples": lambda data: data[:SHORT],
}
SIMULATED = "28 outputs"


def records(condition: str) -> dict[str, rz.IOData]:
    if condition == SIMULATED:
        return many_outputs()
    return {name: CONDITIONS[condition](data) for name, data in measured().items()}


def outcome(matrices: tuple[np.ndarray, ...]) -> str:
    """Of `A` and all the others."""
    if not all(np.isfinite(matrix).all() for matrix in matrices):
        return "NaN"
    radius = np.abs(np.linalg.eigvals(matrices[0])).max(initial=0.0)
    return "unstable" if radius >= 1 else "model"


def ours(method: str, data: rz.IOData, order: int) -> str:
    try:
        model = METHODS[method](data, order).model
    except rz.RealizationError:
        return "refused"
    except Exception as error:
        print(f"  {method}, order {order}: {error!r}", file=sys.stderr)
        return "crashes"
    return outcome((model.A, model.B, model.C, model.D, model.K, model.Re))


def slicot(method: str, data: rz.IOData, order: int) -> str:
    """Without the Kalman gain, at which the wrapper aborts the process at most orders."""
    import ctrlsys

    u, y = np.asfortranarray(data.inputs), np.asfortranarray(data.y)
    u, y = u - u.mean(axis=0), y - y.mean(axis=0)
    m, p, length = data.n_inputs, data.n_outputs, data.length
    rows = max(min(15, length // (2 * (m + p + 1))), 2 + (order - 1) // p)
    preparation = "M" if method == "M" else "N"
    _, r, _, _, failed = ctrlsys.ib01ad(
        preparation, "C", "N", "O", "N", "N", rows, m, p, u.copy("F"), y.copy("F"), 0.0, -1.0
    )
    if failed:
        return "errors raised"
    *found, failed = ctrlsys.ib01bd(method, "A", "N", rows, order, m, p, length, r, 0.0)
    return "errors raised" if failed else outcome(tuple(found[:4]))


def sippy(method: str, data: rz.IOData, order: int) -> str:
    from sippy_unipi import system_identification

    rows = max(15, order + 1)
    found = system_identification(
        data.y.T, data.inputs.T, method, centering="MeanVal", SS_f=rows, SS_p=rows, SS_fixed_order=order
    )
    return outcome((found.A, found.B, found.C, found.D, found.K))


def nfoursid(method: str, data: rz.IOData, order: int) -> str:
    import pandas as pd
    from nfoursid.nfoursid import NFourSID

    outputs, inputs = list(data.output_names), list(data.input_names)
    frame = pd.DataFrame(np.hstack([data.y, data.inputs]), columns=outputs + inputs)
    identified = NFourSID(frame - frame.mean(), outputs, inputs, max(10, order + 1))
    identified.subspace_identification()
    model, _ = identified.system_identification(order)
    return outcome((model.a, model.b, model.c, model.d))


PEERS: dict[str, Callable[[rz.IOData, int], str]] = {
    "SLICOT MOESP": partial(slicot, "M"),
    "SLICOT N4SID": partial(slicot, "N"),
    "SLICOT combined": partial(slicot, "C"),
    "SIPPY N4SID": partial(sippy, "N4SID"),
    "SIPPY MOESP": partial(sippy, "MOESP"),
    "SIPPY CVA": partial(sippy, "CVA"),
    "nfoursid": partial(nfoursid, ""),
}
MODULES = {"SLICOT": "ctrlsys", "SIPPY": "sippy_unipi.OLSims_methods", "nfoursid": "nfoursid.nfoursid"}


def worker(peer: str, condition: str, name: str, first: int) -> None:
    """The outcome of each order from `first` on, one a line; each in a fork, which may die of it."""
    warnings.simplefilter("ignore")
    importlib.import_module(MODULES[peer.split()[0]])  # once, and not in each fork
    data, console = records(condition)[name], os.dup(1)
    os.dup2(2, 1)  # some peers print to where the outcomes go
    for order in range(first, ORDERS.stop):
        child = os.fork()
        if child == 0:
            try:
                came = PEERS[peer](data, order)
            except Exception:
                came = "errors raised"
            os.write(console, f"{came}\n".encode())
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            os.write(console, b"crashes\n")
    os._exit(0)


def peer_outcomes(peer: str, condition: str, name: str) -> Iterator[str]:
    """Outcomes at every order; where the process ends early, the order that it was at is a crash.

    One that is not there after `PEER_SECONDS` for a record is late.
    """
    first = ORDERS.start
    while first < ORDERS.stop:
        command = [sys.executable, __file__, peer, condition, name, str(first)]
        try:
            process = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=PEER_SECONDS
            )
            lines, lost = process.stdout.split("\n")[:-1], "crashes"
        except subprocess.TimeoutExpired as late:
            lines, lost = (late.stdout or b"").decode().split("\n")[:-1], "late"
        yield from lines
        first += len(lines)
        if first < ORDERS.stop:
            yield lost
            first += 1


def own_counts(condition: str) -> dict[str, Counter[str]]:
    warnings.simplefilter("ignore")
    data, counts = records(condition), {}
    for method in METHODS:
        orders = FEW_ORDERS if (condition, method) == (SIMULATED, "pem") else ORDERS
        counts[method] = Counter(ours(method, record, n) for record in data.values() for n in orders)
        print(condition, method, dict(counts[method]), file=sys.stderr, flush=True)
    return counts


def own_rows(condition: str) -> list[Row]:
    counts = own_counts(condition)
    everything, rows = sum(counts.values(), Counter()), []
    for kind in FAILURES:
        case, unit = f"{condition}: {kind}, all methods", f"of {everything.total()}"
        rows.append(Row(case, everything[kind], unit, goal=0, larger_is_better=False))
    for method, count in counts.items():
        failed, unit = sum(count[kind] for kind in FAILURES), f"of {count.total()}"
        rows.append(Row(f"{condition}: failures of {method}", failed, unit, goal=0, larger_is_better=False))
        if count["refused"]:
            rows.append(Row(f"{condition}: refused by {method}", count["refused"], unit))
    return rows


def peer_rows(condition: str, peer: str) -> list[Row]:
    count = Counter(came for name in records(condition) for came in peer_outcomes(peer, condition, name))
    print(condition, peer, dict(count), file=sys.stderr, flush=True)
    kinds = (*FAILURES, "errors raised", *(["late"] if count["late"] else []))
    return [Row(f"{condition}: {kind}, {peer}", count[kind], f"of {count.total()}") for kind in kinds]


def parts() -> dict[str, Callable[[], list[Row]]]:
    """Everything that is measured, piece by piece: a condition for the project, or one peer there."""
    own = {condition: partial(own_rows, condition) for condition in (*CONDITIONS, SIMULATED)}
    pairs = [(condition, peer) for condition in ("as measured", "45 samples") for peer in PEERS]
    return {
        **own,
        **{f"{condition}, {peer}": partial(peer_rows, condition, peer) for condition, peer in pairs},
    }


def measured_parts() -> dict[str, list[Row]]:
    """Pieces that a run of the same sources has left behind, where one was cut short."""
    if not PARTS.exists():
        return {}
    lines = [json.loads(line) for line in PARTS.read_text().splitlines()]
    return {
        line["part"]: [Row(**row) for row in line["rows"]]
        for line in lines
        if line["of"] == sources(line["part"])
    }


def sources(part: str) -> str:
    """What a piece depends on: this file, and for the project's own the project."""
    root, files = Path(__file__).parents[1], [Path(__file__)]
    if part in (*CONDITIONS, SIMULATED):
        files += sorted([*(root / "realization").rglob("*.py"), *(root / "kernels").rglob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def main() -> None:
    done, of = measured_parts(), {name: sources(name) for name in parts()}
    PARTS.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor() as pool:
        tasks = {pool.submit(piece): name for name, piece in parts().items() if name not in done}
        for task in as_completed(tasks):
            name, done[tasks[task]] = tasks[task], task.result()
            kept = {"part": name, "of": of[name], "rows": [asdict(row) for row in done[name]]}
            with PARTS.open("a") as file:
                file.write(json.dumps(kept) + "\n")
    write_results("robustness", [row for name in parts() for row in done[name]])
    PARTS.unlink()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(*sys.argv[1:4], first=int(sys.argv[4]))
    else:
        main()
