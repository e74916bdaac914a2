"""Balanced truncation and the H∞ norm: time, accuracy and error, beside ctrlsys, pyMOR and control.

Run: python benchmarks/bench_reduction.py (about 3 minutes on one core; one thread for every contender)

Every model is reduced to a tenth of its states and three, 30 at most. Time is the best of ten calls, after
one call that is not counted. A peer runs in a process of its own, because a fault of its compiled code
would end this one; a peer that is not installed, or cannot do a case, has no row. `control` reduces only
through slycot, which the extra `bench` does not bring: it appears in the H∞ norm, which the peers compute
for up to 150 states (larger ones take minutes). The models `build` and `CDplayer` need REALIZATION_DATA or
a network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
from _results import Row, line, write_results
from numpy.typing import NDArray

import realization as rz

Array = NDArray[np.float64]
STATES = 348
GRADED = 10.0 ** -np.arange(0.0, 15.0)
REPEATS = 10
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
LARGEST_NORM = 150


def dense(discrete: bool) -> rz.StateSpace:
    rng = np.random.default_rng(1)
    A = rng.standard_normal((STATES, STATES)) / np.sqrt(STATES)
    A = 0.95 * A if discrete else A - 1.2 * np.eye(STATES)
    return rz.StateSpace(
        A, rng.standard_normal((STATES, 1)), rng.standard_normal((1, STATES)), dt=1.0 if discrete else 0.0
    )


def structure(discrete: bool) -> rz.StateSpace:
    """Lightly damped modes in a random orthogonal basis, three inputs, three outputs."""
    rng = np.random.default_rng(2)
    frequency = np.sort(rng.uniform(0.5, 60.0, STATES // 2))
    blocks = [np.array([[-0.01 * w, w], [-w, -0.01 * w]]) for w in frequency]
    if discrete:
        blocks = [scipy.linalg.expm(0.05 * block) for block in blocks]
    Q = scipy.linalg.qr(rng.standard_normal((STATES, STATES)))[0]
    A = Q @ scipy.linalg.block_diag(*blocks) @ Q.T
    B, C = rng.standard_normal((STATES, 3)), rng.standard_normal((3, STATES))
    return rz.StateSpace(A, B, C, dt=0.05 if discrete else 0.0)


def heat(discrete: bool) -> rz.StateSpace:
    """A rod heated at one end, its temperature taken at two thirds."""
    A = STATES**2 * (np.eye(STATES, k=1) - 2 * np.eye(STATES) + np.eye(STATES, k=-1))
    B, C = np.zeros((STATES, 1)), np.zeros((1, STATES))
    B[0], C[0, 2 * STATES // 3] = STATES, 1.0
    if discrete:
        step = scipy.linalg.expm(1e-3 * A)
        return rz.StateSpace(step, np.linalg.solve(A, step @ B - B), C, dt=1e-3)
    return rz.StateSpace(A, B, C, dt=0.0)


def unstable(discrete: bool) -> rz.StateSpace:
    """The dense model, with its four rightmost (outermost) poles beyond the limit."""
    model = dense(discrete)
    poles = model.poles
    if discrete:
        return rz.StateSpace(model.A / np.mean(np.abs(poles[[3, 4]])), model.B, model.C, dt=1.0)
    real = np.sort(poles.real)[::-1]
    return rz.StateSpace(model.A - np.mean(real[[3, 4]]) * np.eye(STATES), model.B, model.C, dt=0.0)


def graded(discrete: bool) -> rz.StateSpace:
    """Fifteen states with singular values 1, 0.1, ..., 1e-14, in a random orthogonal basis."""
    A = -np.outer(np.sqrt(GRADED), np.sqrt(GRADED)) / np.add.outer(GRADED, GRADED)
    B, C, D = np.sqrt(GRADED)[:, None], np.sqrt(GRADED)[None], np.zeros((1, 1))
    if discrete:
        inverse = np.linalg.inv(np.eye(15) - A)
        D = C @ inverse @ B
        A, B, C = (np.eye(15) + A) @ inverse, np.sqrt(2) * inverse @ B, np.sqrt(2) * C @ inverse
    Q = scipy.linalg.qr(np.random.default_rng(3).standard_normal((15, 15)))[0]
    return rz.StateSpace(Q.T @ A @ Q, Q.T @ B, C @ Q, D, dt=1.0 if discrete else 0.0)


SYNTHETIC: dict[str, Callable[[bool], rz.StateSpace]] = {
    "dense": dense,
    "structure": structure,
    "heat": heat,
    "unstable": unstable,
    "graded": graded,
}
CASES = [
    "build",
    "CDplayer",
    *(f"{kind}, {clock}" for clock in ("continuous", "discrete") for kind in SYNTHETIC),
]


def model_of(case: str) -> rz.StateSpace:
    kind, _, clock = case.partition(", ")
    return SYNTHETIC[kind](clock == "discrete") if clock else rz.load_benchmark_model(kind)


def order_of(model: rz.StateSpace) -> int:
    return min(30, model.n_states // 10 + 3)


def timed(call: Callable[[], object]) -> float:
    """Best of ten, in seconds."""
    call()
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def by_ctrlsys(model: rz.StateSpace) -> dict[str, Any]:
    import ctrlsys

    dico = "C" if model.dt == 0 else "D"
    A, B, C, D = (np.asfortranarray(matrix) for matrix in (model.A, model.B, model.C, model.D))
    sizes, order = (model.n_states, model.n_inputs, model.n_outputs), order_of(model)

    def reduce() -> tuple[Array, ...]:
        copies = A.copy("F"), B.copy("F"), C.copy("F")
        if model.is_stable:
            return ctrlsys.ab09ad(dico, "B", "S", "F", *sizes, order, *copies, 0.0)
        limit = 0.0 if model.dt == 0 else 1.0
        return ctrlsys.ab09md(dico, "B", "S", "F", *sizes, order, limit, *copies, 0.0)

    found = reduce()
    hsv = found[3] if model.is_stable else found[4]
    count = int((np.asarray(hsv) > 0).sum())
    result: dict[str, Any] = {"seconds": timed(reduce), "hsv": np.asarray(hsv)[:count].tolist()}
    if model.is_stable and model.n_states <= LARGEST_NORM:

        def norm() -> float:
            copies = A.copy("F"), np.eye(len(A), order="F"), B.copy("F"), C.copy("F"), D.copy("F")
            start = np.array([0.0, 1.0])
            return float(ctrlsys.ab13dd(dico, "I", "N", "D", *sizes, start, *copies, 1e-10)[0][0])

        result |= {"norm": norm(), "norm seconds": timed(norm)}
    return result


def by_pymor(model: rz.StateSpace) -> dict[str, Any]:
    from pymor.core.logger import set_log_levels
    from pymor.models.iosys import LTIModel
    from pymor.reductors.bt import BTReductor

    if not model.is_stable:
        raise NotImplementedError("pyMOR's BTReductor takes stable models")
    set_log_levels({"pymor": "ERROR"})
    step: Any = 0 if model.dt == 0 else 1.0 if model.dt is None else model.dt

    def reduce() -> Array:
        whole = LTIModel.from_matrices(model.A, model.B, model.C, model.D, sampling_time=step)
        reductor = BTReductor(whole)
        reductor.reduce(order_of(model), projection="sr")
        return np.asarray(whole.hsv())

    return {"seconds": timed(reduce), "hsv": reduce().tolist()}


def by_control(model: rz.StateSpace) -> dict[str, Any]:
    import control

    if model.n_states > LARGEST_NORM or not model.is_stable:
        raise NotImplementedError("no reduction without slycot, and the norm takes minutes")
    kind: Any = "inf"
    whole = control.ss(model.A, model.B, model.C, model.D, 0 if model.dt == 0 else model.dt or True)

    def norm() -> float:
        return float(control.system_norm(whole, p=kind, tol=1e-10, print_warning=False))

    return {"norm": norm(), "norm seconds": timed(norm)}


def stochastic_by_ctrlsys(model: rz.StateSpace) -> dict[str, Any]:
    import ctrlsys

    model = with_direct_term(model)
    matrices = [np.asfortranarray(matrix) for matrix in (model.A, model.B, model.C, model.D)]
    sizes, order = (model.n_states, model.n_inputs, model.n_outputs), order_of(model)

    def reduce() -> tuple[Array, ...]:
        copies = (matrix.copy("F") for matrix in matrices)
        return ctrlsys.ab09hd("C", "B", "N", "F", *sizes, order, 0.0, 0.0, *copies, 0.0, 0.0)

    start = time.perf_counter()
    found = reduce()
    seconds = time.perf_counter() - start
    if found[-1] != 0:
        raise RuntimeError(f"ab09hd: info {found[-1]}")
    return {"seconds": seconds, "hsv": np.asarray(found[6])[: found[5]].tolist()}


PEERS = {"ctrlsys": by_ctrlsys, "pymor": by_pymor, "control": by_control}
OTHERS = {"slicot stochastic": stochastic_by_ctrlsys}


def ask(peer: str, case: str) -> dict[str, Any]:
    """What a peer finds, from a process of its own; empty where it cannot."""
    command = [sys.executable, __file__, "--peer", peer, "--case", case]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        return json.loads(answer.stdout.strip().splitlines()[-1])
    except (subprocess.SubprocessError, IndexError, json.JSONDecodeError) as failure:
        print(f"{case}: {peer} has no answer ({type(failure).__name__})")
        return {}


def rows_of(case: str) -> list[Row]:
    model = model_of(case)
    answers = {peer: ask(peer, case) for peer in PEERS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rz.OrderWarning)
        result = rz.balanced_truncation(model, order_of(model))
        seconds = timed(lambda: rz.balanced_truncation(model, order_of(model)))
    goal = 0.13 if model.n_states == STATES else None
    rows = []
    for peer, answer in answers.items():
        if "seconds" in answer:
            value = answer["seconds"]
            rows.append(Row(f"{case}: time", seconds, "s", peer, value, goal=goal, larger_is_better=False))
    if not rows:
        rows.append(Row(f"{case}: time", seconds, "s", goal=goal, larger_is_better=False))
    if result.bound > 1e-11 * result.hsv[0]:
        # The bound may be reached; the norm is then above it by rounding.
        excess = result.error / result.bound - 1
        rows.append(Row(f"{case}: error over bound, less 1", excess, "", goal=1e-9, larger_is_better=False))
    rows += accuracy_rows(case, result.hsv, answers) + norm_rows(case, model, answers)
    return rows + relative_rows(case, model) + band_rows(case, model)


def with_direct_term(model: rz.StateSpace) -> rz.StateSpace:
    """A direct term twice the largest gain: no zero comes near the stability limit."""
    stable = rz.stable_antistable_split(model).stable
    direct = 2 * rz.hinf_norm(stable).value * np.eye(*model.D.shape)
    return rz.StateSpace(model.A, model.B, model.C, direct, model.dt)


def relative_rows(case: str, model: rz.StateSpace) -> list[Row]:
    """Balanced stochastic truncation, beside SLICOT's in continuous time."""
    if case.startswith("graded"):
        return []
    model = with_direct_term(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rz.OrderWarning)
        result = rz.balanced_stochastic_truncation(model, order_of(model))
        seconds = timed(lambda: rz.balanced_stochastic_truncation(model, order_of(model)))
    name, rows = f"{case}: time, stochastic", []
    answer = ask("slicot stochastic", case) if model.dt == 0 else {}
    if answer:
        rows.append(Row(name, seconds, "s", "ctrlsys", answer["seconds"], larger_is_better=False))
        gap = float(np.abs(result.hsv - np.array(answer["hsv"])[: len(result.hsv)]).max())
        rows.append(Row(f"{case}: values of the phase, difference with ctrlsys", gap, ""))
    else:
        rows.append(Row(name, seconds, "s"))
    if 1e-9 < result.bound < np.inf:
        excess = result.relative_error / result.bound - 1
        rows.append(
            Row(f"{case}: relative error over bound, less 1", excess, "", goal=1e-6, larger_is_better=False)
        )
    return rows


def band_rows(case: str, model: rz.StateSpace) -> list[Row]:
    """Frequency-limited truncation between a tenth and a fifth of the fastest pole; no peer has it."""
    if case.startswith("graded"):
        return []
    fastest = np.abs(model.poles).max() if model.dt == 0 else np.pi / (model.dt or 1.0)
    band = (0.1 * fastest, 0.2 * fastest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds = timed(lambda: rz.frequency_limited_truncation(model, order_of(model), band=band))
    return [Row(f"{case}: time, frequency-limited", seconds, "s")]


def accuracy_rows(case: str, hsv: Array, answers: dict[str, dict[str, Any]]) -> list[Row]:
    rows = []
    for peer, answer in answers.items():
        if "hsv" not in answer:
            continue
        theirs = np.zeros(len(hsv))
        found = np.asarray(answer["hsv"])[: len(hsv)]
        theirs[: len(found)] = found
        if case.startswith("graded"):
            errors = [float(np.abs(values - GRADED).max()) for values in (hsv, theirs)]
            name = f"{case}: error of the singular values, over the largest"
            rows.append(Row(name, errors[0], "", peer, errors[1], goal=1e-14, larger_is_better=False))
        else:
            gap = float(np.abs(hsv - theirs).max() / hsv[0])
            rows.append(Row(f"{case}: singular values, difference with {peer}", gap, ""))
    return rows


def norm_rows(case: str, model: rz.StateSpace, answers: dict[str, dict[str, Any]]) -> list[Row]:
    if not model.is_stable or case.startswith("graded"):
        return []
    value = rz.hinf_norm(model).value
    seconds = timed(lambda: rz.hinf_norm(model))
    rows = []
    for peer, answer in answers.items():
        if "norm" in answer:
            rows.append(Row(f"{case}: time of the H∞ norm", seconds, "s", peer, answer["norm seconds"]))
            rows.append(Row(f"{case}: H∞ norm over that of {peer}, less 1", value / answer["norm"] - 1, ""))
    return rows or [Row(f"{case}: time of the H∞ norm", seconds, "s")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=PEERS | OTHERS, help="print what one peer finds, as JSON")
    parser.add_argument("--case", choices=CASES, help="one case only, printed and not written")
    chosen = parser.parse_args()
    if any(os.environ.get(name) != count for name, count in ONE_THREAD.items()):
        # Thread pools read these when they load, which has happened: begin again.
        raise SystemExit(subprocess.call([sys.executable, *sys.argv], env=os.environ | ONE_THREAD))
    if chosen.peer:
        print(json.dumps((PEERS | OTHERS)[chosen.peer](model_of(chosen.case))))
        return
    if chosen.case:
        print("\n".join(line(row.to_dict()) for row in rows_of(chosen.case)))
        return
    write_results("reduction", [row for case in CASES for row in rows_of(case)])


if __name__ == "__main__":
    main()
