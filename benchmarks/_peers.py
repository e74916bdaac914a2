"""Other packages' models of a measured record, each order in a process of its own.

Some of them abort the process or never come back, so a worker that holds the record forks for every order
and waits for `SECONDS`. A peer has no rule of its own that chooses an order on held-back data: whoever
compares gives it the order that is best on the validation half itself, for each fit apart. That is more than
one can know beforehand, and in its favour, as are a Kalman gain computed from the covariances of the noise
that it gives (SLICOT, nfoursid) and a second try without them where the first one is lost. Block rows are 15,
fewer where the record is too short for them, and enough for the order.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import scipy.linalg

import realization as rz

ORDERS = range(1, 21)
SECONDS = 20.0
BLOCK_ROWS, MARKOV = 15, 60
KINDS = ("simulation", "level free", "one step")
Matrices = dict[str, np.ndarray]


class Trial(NamedTuple):
    """What came of one order: a model, or why there is none (`raised`, `aborted` or `late`)."""

    order: int
    model: rz.InnovationsModel | None
    lost: str


def halves(name: str) -> tuple[rz.IOData, rz.IOData]:
    """What identifies and what validates: the halves of a record, or its own two."""
    if rz.describe_data(name).validation:
        return rz.load_data(name), rz.load_data(name, part="validation")
    return rz.load_data(name).split(0.5)


def fits(model: rz.InnovationsModel, validation: rz.IOData) -> dict[str, float]:
    """Fit in percent, mean over outputs, of each kind that a model has.

    Simulations of a stable model from a first state estimated on `validation`, as they are and with the mean
    of their error taken off (`level free`); one-step predictions with a gain that leaves a stable predictor.
    """
    y, curves = validation.y, {}
    if model.is_stable:
        curves["simulation"] = model.simulate(validation.inputs, model.estimate_x0(validation))
        curves["level free"] = curves["simulation"] + (y - curves["simulation"]).mean(axis=0)
    if model.K.any() and np.abs(np.linalg.eigvals(model.A - model.K @ model.C)).max() < 1:
        curves["one step"] = model.predict(validation)
    finite = {kind: curve for kind, curve in curves.items() if np.isfinite(curve).all()}
    return {kind: float(rz.fit_percent(y, curve).mean()) for kind, curve in finite.items()}


class Outcome(NamedTuple):
    """Best fit of each kind over the orders and the order it has; what the orders came to."""

    best: dict[str, tuple[float, int]]
    counts: Counter[str]


def outcome(peer: str, record: str) -> Outcome:
    """What a peer makes of a record, judged on the validating part; `counts` has what failed and how."""
    best: dict[str, tuple[float, int]] = {}
    counts: Counter[str] = Counter()
    _, validation = halves(record)
    for order, model, lost in trials(peer, record):
        if model is None:
            counts[lost] += 1
            continue
        counts["unstable"] += not model.is_stable
        for kind, value in fits(model, validation).items():
            best[kind] = max(best.get(kind, (-np.inf, 0)), (value, order))
    return Outcome(best, counts)


def trials(peer: str, record: str) -> Iterator[Trial]:
    """A peer's models of the identifying part of a record, of every order."""
    train, _ = halves(record)
    means = {"u_mean": train.inputs.mean(axis=0), "y_mean": train.y.mean(axis=0)}
    command = [sys.executable, __file__, peer, record]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    for order, line in zip(ORDERS, process.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        matrices = {name: np.asarray(M, dtype=float) for name, M in answer.items() if name in "ABCDK"}
        if "lost" in answer:
            print(f"  {record}, {peer}, order {order}: {answer['why']}", file=sys.stderr)
            yield Trial(order, None, answer["lost"])
        elif not all(np.isfinite(M).all() for M in matrices.values()):
            yield Trial(order, None, "raised")
        else:
            yield Trial(order, rz.InnovationsModel(**matrices, **means, dt=train.dt), "")


def centred(data: rz.IOData) -> tuple[np.ndarray, np.ndarray]:
    u, y = (np.asfortranarray(x - x.mean(axis=0)) for x in (data.inputs, data.y))
    return u, y


def block_rows(data: rz.IOData, order: int) -> int:
    fewest = 2 + (order - 1) // data.n_outputs
    return max(min(BLOCK_ROWS, data.length // (2 * (data.n_inputs + data.n_outputs + 1))), fewest)


def gain(A: np.ndarray, C: np.ndarray, Q: np.ndarray, R: np.ndarray, S: np.ndarray) -> Matrices:
    """The limit of the Kalman filter's gain; none where the Riccati equation has no solution."""
    try:
        P = scipy.linalg.solve_discrete_are(A.T, C.T, Q, R, s=S)
        return {"K": np.linalg.solve(C @ P @ C.T + R, (A @ P @ C.T + S).T).T}
    except (np.linalg.LinAlgError, ValueError):
        return {}


def slicot(method: str, data: rz.IOData, order: int, noise: bool) -> Matrices:
    """Not method "M" of the wrapper, whose B and D miss simulated data; "C" has its A and C."""
    import ctrlsys

    u, y = centred(data)
    rows, m, p = block_rows(data, order), data.n_inputs, data.n_outputs
    _, r, _, _, failed = ctrlsys.ib01ad("N", "C", "N", "O", "N", "N", rows, m, p, u, y, 0.0, -1.0)
    if failed:
        raise ArithmeticError("ib01ad")
    job = "C" if noise else "N"  # at "K", its own gain, the wrapper aborts at most orders
    A, C, B, D, Q, R, S, *_, failed = ctrlsys.ib01bd(method, "A", job, rows, order, m, p, data.length, r, 0.0)
    if failed:
        raise ArithmeticError("ib01bd")
    return {"A": A, "B": B, "C": C, "D": D, **(gain(A, C, Q, R, S) if noise else {})}


def sippy(method: str, data: rz.IOData, order: int, _noise: bool) -> Matrices:
    from sippy_unipi import system_identification

    u, y = centred(data)
    rows = max(block_rows(data, order), order + 1)  # with fewer it takes a lower order
    found = system_identification(y.T, u.T, method, SS_f=rows, SS_p=rows, SS_fixed_order=order)
    return {name: np.asarray(getattr(found, name)) for name in "ABCDK"}


def sippy_arx(data: rz.IOData, order: int, _noise: bool) -> Matrices:
    """Each output regressed on its own past and on that of the inputs, in observer form."""
    from sippy_unipi import system_identification

    u, y = centred(data)
    found = system_identification(y.T, u.T, "ARX", ARX_orders=[order, order, 0])
    p, first = data.n_outputs, np.eye(1, order)
    a = [np.asarray(found.DENOMINATOR[i])[0, 1:, None] for i in range(p)]
    blocks = scipy.linalg.block_diag(*[np.hstack([-a_i, np.eye(order)[:, :-1]]) for a_i in a])
    B = np.vstack([np.asarray(found.NUMERATOR[i]).T for i in range(p)])
    C = np.kron(np.eye(p), first)
    return {"A": blocks, "B": B, "C": C, "D": np.zeros((p, u.shape[1])), "K": -scipy.linalg.block_diag(*a)}


def nfoursid(data: rz.IOData, order: int, noise: bool) -> Matrices:
    """Its covariances of the noise are what its own Kalman filter takes."""
    import pandas as pd
    from nfoursid.nfoursid import NFourSID

    outputs, inputs = list(data.output_names), list(data.input_names)
    frame = pd.DataFrame(np.hstack(centred(data)[::-1]), columns=outputs + inputs)
    found = NFourSID(frame, outputs, inputs, block_rows(data, order))
    found.subspace_identification()
    model, covariance = found.system_identification(order)
    A, C, p = model.a, model.c, data.n_outputs
    R, Q, S = covariance[:p, :p], covariance[p:, p:], covariance[p:, :p]
    return {"A": A, "B": model.b, "C": C, "D": model.d, **(gain(A, C, Q, R, S) if noise else {})}


def control_era(data: rz.IOData, order: int, _noise: bool) -> Matrices:
    """Markov parameters by least squares, then ERA: a path from the inputs, without a noise model."""
    import control

    u, y = centred(data)
    count = min(MARKOV, data.length // (2 * data.n_inputs))
    h = np.reshape(control.markov(y.T, u.T, count), (data.n_outputs, data.n_inputs, count))
    size = min(2 * order, (count - 1) // 2)
    found, _ = control.eigensys_realization(h, order, m=size, n=size)
    return {name: np.asarray(getattr(found, name)) for name in "ABCD"}


PEERS: dict[str, tuple[str, Callable[[rz.IOData, int, bool], Matrices]]] = {
    "SLICOT N4SID": ("ctrlsys", partial(slicot, "N")),
    "SLICOT combined": ("ctrlsys", partial(slicot, "C")),
    "SIPPY N4SID": ("sippy_unipi.OLSims_methods", partial(sippy, "N4SID")),
    "SIPPY MOESP": ("sippy_unipi.OLSims_methods", partial(sippy, "MOESP")),
    "SIPPY CVA": ("sippy_unipi.OLSims_methods", partial(sippy, "CVA")),
    "SIPPY ARX": ("sippy_unipi.arxMIMO", sippy_arx),
    "nfoursid": ("nfoursid.nfoursid", nfoursid),
    "control markov, ERA": ("control", control_era),
}


def worker(peer: str, record: str) -> None:
    """A line for each order: the matrices, or why there are none."""
    warnings.simplefilter("ignore")
    console = os.dup(1)
    os.dup2(2, 1)  # some peers print to where the matrices go
    module, method = PEERS[peer]
    importlib.import_module(module)  # once, and not in each fork
    data = halves(record)[0]
    for order in ORDERS:
        answer = answered(partial(method, data, order, True))
        if answer.get("lost") == "aborted":
            answer = answered(partial(method, data, order, False))
        os.write(console, f"{json.dumps(answer)}\n".encode())


def answered(method: Callable[[], Matrices]) -> dict[str, Any]:
    """What a fork found, raised, or died of."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            answer: dict[str, Any] = {name: np.asarray(M).tolist() for name, M in method().items()}
        except BaseException as error:  # SIPPY leaves by `sys.exit`
            answer = {"lost": "raised", "why": repr(error)[:200]}
        with os.fdopen(writing, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(writing)
    start = time.monotonic()
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    state = os.waitpid(child, 0)[1]
    if not state:
        return json.loads(text)
    if time.monotonic() - start >= SECONDS and os.WTERMSIG(state) == signal.SIGALRM:
        return {"lost": "late", "why": f"not there after {SECONDS:.0f} s"}
    return {"lost": "aborted", "why": f"signal {os.WTERMSIG(state)}"}


if __name__ == "__main__":
    worker(*sys.argv[1:])
