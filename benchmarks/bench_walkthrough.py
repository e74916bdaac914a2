"""One measured record, the hair dryer, line by line: the default call, single methods, and the peers.

The first half identifies, the second half validates; fits, operating points and first states as in
`bench_identify_accuracy.py`. A peer has no rule of its own that chooses an order on held-back data, so it
gets the order from 1 to 12 that is best on the validation half itself, for each fit apart: more than one can
know beforehand, and in its favour. What a peer does not give (a Kalman gain) is left out. Each order of
a peer runs in a process of its own: with a Kalman gain SLICOT's wrapper aborts at most orders, and is asked
again for none. `level free` is the simulation's fit with the mean of its error taken off.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import scipy.linalg
from _results import FOLDER, Row, write_results

import realization as rz

NAME = "dryer"
ORDERS = range(1, 13)
MARKOV = 60
KINDS = ("simulation", "level free", "one step")
RECORDED = "best of the recorded peers"
Matrices = dict[str, np.ndarray]


def slicot(method: str, data: rz.IOData, order: int, gain: bool) -> Matrices:
    """Not method "M" of the wrapper, whose B and D miss simulated data; "C" has its A and C."""
    import ctrlsys

    u, y = (np.asfortranarray(x - x.mean(axis=0)) for x in (data.inputs, data.y))
    rows, sizes = max(15, order + 1), (order, data.n_inputs, data.n_outputs, data.length)
    _, r, _, _, failed = ctrlsys.ib01ad(
        "N", "C", "N", "O", "N", "N", rows, *sizes[1:3], u.copy("F"), y.copy("F"), 0.0, -1.0
    )
    if failed:
        raise ArithmeticError("ib01ad")
    A, C, B, D, *rest = ctrlsys.ib01bd(method, "A", "K" if gain else "N", rows, *sizes, r, 0.0)
    if rest[-1]:
        raise ArithmeticError("ib01bd")
    found = {"A": A, "B": B, "C": C, "D": D}
    return {**found, "K": rest[3]} if gain else found


def sippy(method: str, data: rz.IOData, order: int, _gain: bool) -> Matrices:
    from sippy_unipi import system_identification

    rows = max(15, order + 1)
    found = system_identification(
        data.y.T, data.inputs.T, method, centering="MeanVal", SS_f=rows, SS_p=rows, SS_fixed_order=order
    )
    return {name: np.asarray(getattr(found, name)) for name in "ABCDK"}


def nfoursid(data: rz.IOData, order: int, _gain: bool) -> Matrices:
    """Its covariances of the noise are what its own Kalman filter takes; the gain is that filter's limit."""
    import pandas as pd
    from nfoursid.nfoursid import NFourSID

    frame = pd.DataFrame(np.hstack([data.y, data.inputs]), columns=["y", "u"])
    found = NFourSID(frame - frame.mean(), ["y"], ["u"], max(15, order + 1))
    found.subspace_identification()
    model, covariance = found.system_identification(order)
    A, C, p = model.a, model.c, data.n_outputs
    R, Q, S = covariance[:p, :p], covariance[p:, p:], covariance[p:, :p]
    P = scipy.linalg.solve_discrete_are(A.T, C.T, Q, R, s=S)
    K = (A @ P @ C.T + S) @ np.linalg.inv(C @ P @ C.T + R)
    return {"A": A, "B": model.b, "C": C, "D": model.d, "K": K}


def control_era(data: rz.IOData, order: int, _gain: bool) -> Matrices:
    """Markov parameters by least squares, then ERA: a path from the inputs, without a noise model."""
    import control

    u, y = (x - x.mean(axis=0) for x in (data.inputs, data.y))
    found, _ = control.eigensys_realization(control.markov(y[:, 0], u[:, 0], MARKOV), order)
    return {name: np.asarray(getattr(found, name)) for name in "ABCD"}


PEERS: dict[str, tuple[str, Callable[[rz.IOData, int, bool], Matrices]]] = {
    "SLICOT N4SID": ("ctrlsys", partial(slicot, "N")),
    "SLICOT combined": ("ctrlsys", partial(slicot, "C")),
    "SIPPY N4SID": ("sippy_unipi", partial(sippy, "N4SID")),
    "SIPPY MOESP": ("sippy_unipi", partial(sippy, "MOESP")),
    "SIPPY CVA": ("sippy_unipi", partial(sippy, "CVA")),
    "nfoursid": ("nfoursid.nfoursid", nfoursid),
    "control markov, ERA": ("control", control_era),
}
OWN: dict[str, Callable[[rz.IOData], Any]] = {
    "identify(train)": rz.identify,
    "n4sid(train)": partial(rz.n4sid, weighting="n4sid"),
    "moesp(train)": rz.moesp,
    "cva(train)": rz.cva,
}


def fits(model: rz.InnovationsModel, validation: rz.IOData) -> dict[str, float]:
    """Simulations of a stable model, one-step predictions with a gain that leaves a stable predictor."""
    y, curves = validation.y, {}
    if model.is_stable:
        curves["simulation"] = model.simulate(validation.inputs, model.estimate_x0(validation))
        curves["level free"] = curves["simulation"] + (y - curves["simulation"]).mean(axis=0)
    if model.K.any() and np.abs(np.linalg.eigvals(model.A - model.K @ model.C)).max() < 1:
        curves["one step"] = model.predict(validation)
    return {kind: float(rz.fit_percent(y, curve).mean()) for kind, curve in curves.items()}


def worker(peer: str) -> None:
    """A line for each order: the matrices, or what was raised."""
    warnings.simplefilter("ignore")
    console = os.dup(1)
    os.dup2(2, 1)  # some peers print to where the matrices go
    module, method = PEERS[peer]
    importlib.import_module(module)  # once, and not in each fork
    data = rz.load_data(NAME).split(0.5)[0]
    for order in ORDERS:
        if answered(console, partial(method, data, order, True)):
            continue
        if not answered(console, partial(method, data, order, False)):
            os.write(console, b'{"raised": "aborted"}\n')


def answered(console: int, method: Callable[[], Matrices]) -> bool:
    """Whether a fork lived to write its line."""
    child = os.fork()
    if child == 0:
        try:
            answer: dict[str, Any] = {name: np.asarray(M).tolist() for name, M in method().items()}
        except Exception as error:
            answer = {"raised": repr(error)}
        os.write(console, f"{json.dumps(answer)}\n".encode())
        os._exit(0)
    return not os.waitpid(child, 0)[1]


def model_of(answer: dict[str, Any], train: rz.IOData) -> rz.InnovationsModel:
    matrices = {name: np.asarray(M, dtype=float) for name, M in answer.items()}
    means = {"u_mean": train.inputs.mean(axis=0), "y_mean": train.y.mean(axis=0)}
    return rz.InnovationsModel(**matrices, **means, dt=train.dt)


def judged(peer: str, train: rz.IOData, validation: rz.IOData) -> Iterator[Row]:
    """Best of each kind over the orders, the order it has, and how many orders gave no stable model."""
    best: dict[str, tuple[float, int]] = {}
    lost = 0
    command = [sys.executable, __file__, peer]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    for order, line in zip(ORDERS, process.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        if "raised" in answer:
            print(f"  {peer}, order {order}: {answer['raised']}", file=sys.stderr)
            lost += 1
            continue
        model = model_of(answer, train)
        lost += not model.is_stable
        for kind, value in fits(model, validation).items():
            best[kind] = max(best.get(kind, (-np.inf, 0)), (value, order))
    for kind, (value, order) in best.items():
        yield Row(f"{peer}, {kind}", value, "%")
        yield Row(f"{peer}, {kind}, order", float(order), "states")
    yield Row(f"{peer}, orders without a stable model", float(lost), "")


def recorded() -> dict[str, float]:
    """The best of all methods of the peers as recorded for `bench_identify_accuracy.py`."""
    content = json.loads((FOLDER / "identify_accuracy.json").read_text())
    rows = {row["case"]: row["peer_value"] for row in content["rows"]}
    return {kind: rows[f"{NAME}, {kind}"] for kind in ("simulation", "one step")}


def main() -> None:
    train, validation = rz.load_data(NAME).split(0.5)
    rows, peers = [], recorded()
    for name, method in OWN.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            model = method(train).model
            seconds = time.perf_counter() - start
        for kind, value in fits(model, validation).items():
            row = Row(f"{name}, {kind}", value, "%")
            if name == "identify(train)" and kind in peers:
                row.peer, row.peer_value = RECORDED, peers[kind]
            rows.append(row)
        rows += [Row(f"{name}, order", float(model.n_states), "states"), Row(f"{name}, time", seconds, "s")]
    for peer in PEERS:
        rows += judged(peer, train, validation)
    write_results("walkthrough", rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        worker(sys.argv[1])
    else:
        main()
