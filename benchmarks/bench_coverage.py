"""How often 95 percent bands hold the truth, over 500 simulated records.

Parameters of ARMAX, output-error and Box-Jenkins models; frequency response and poles of state-space models
by prediction error, prediction and simulation focus. A share of 500 has a standard error of about 1 percent.
"""

from __future__ import annotations

import warnings

import numpy as np
from _results import Row, write_results
from scipy.signal import lfilter

import realization as rz

RECORDS = 500
LENGTH = 1000
LOW, HIGH = 93.0, 97.0
NORMAL = 1.959964
OMEGA = np.linspace(0.1, 3.0, 8)
TRUTH = rz.InnovationsModel(
    [[0.8, 0.4], [-0.4, 0.7]],
    [[1.0, 0.0], [0.5, 1.0]],
    [[1.0, 0.0]],
    [[0.3, 0.0]],
    K=[[0.5], [0.2]],
    Re=[[0.5]],
    u_mean=[1.0, 2.0],
    y_mean=[10.0],
)


def polynomial(kind: str, seed: int) -> np.ndarray:
    """Whether each coefficient's band holds its true value."""
    rng = np.random.default_rng(seed)
    u, e = rng.standard_normal((2, LENGTH + 200))
    driven = lfilter([0, 1, 0.5], [1, -1.2, 0.6], u)
    if kind == "armax":
        y = driven + lfilter([1, 0.6], [1, -1.2, 0.6], 0.5 * e)
        fit = rz.armax(rz.IOData(y[200:], u[200:]), 2, 2, 1)
        found, truth = [*fit.a[1:], *fit.b[0][1:], *fit.c[1:]], [-1.2, 0.6, 1, 0.5, 0.6]
    else:
        y = driven + lfilter([1, 0.5], [1, -0.8], 0.5 * e)
        data = rz.IOData(y[200:], u[200:])
        fit = rz.oe(data, 2, 2) if kind == "oe" else rz.bj(data, 2, 1, 1, 2)
        noise = [0.5, -0.8] if kind == "bj" else []
        found = [*fit.b[0][1:], *fit.c[1:], *fit.d[1:], *fit.f[0][1:]]
        truth = [1, 0.5, *noise, -1.2, 0.6]
    return np.abs(np.subtract(found, truth)) <= NORMAL * np.sqrt(np.diag(fit.covariance))


def state_space(focus: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether the bands of the response and of the poles hold the truth."""
    rng = np.random.default_rng(seed)
    u = TRUTH.u_mean + rng.standard_normal((LENGTH, 2))
    data = rz.IOData(TRUTH.simulate(u, e=0.5**0.5 * rng.standard_normal((LENGTH, 1))), u)
    fit = rz.pem(data, order=2, focus=focus, feedthrough=True, guard=False)  # pyright: ignore[reportArgumentType]
    bands, poles = fit.uncertainty.frequency_response(OMEGA), fit.uncertainty.poles()
    size = np.abs(TRUTH.frequency_response(OMEGA))
    nearest = np.argmin(np.abs(poles.poles[:, None] - TRUTH.poles), axis=1)
    return (bands.lower <= size) & (size <= bands.upper), poles.covers(TRUTH.poles[nearest])


def main() -> None:
    warnings.simplefilter("ignore")
    shares = {}
    for kind in ("armax", "oe", "bj"):
        shares[f"{kind}, parameters"] = [polynomial(kind, seed) for seed in range(RECORDS)]
    for focus in ("prediction", "simulation"):
        pairs = [state_space(focus, seed) for seed in range(RECORDS)]
        shares[f"pem, {focus}, frequency response"] = [response for response, _ in pairs]
        shares[f"pem, {focus}, poles"] = [poles for _, poles in pairs]
    rows = []
    for case, held in shares.items():
        share = 100 * float(np.mean(np.stack(held)))
        rows.append(Row(f"{case}: at least", share, "%", goal=LOW))
        rows.append(Row(f"{case}: at most", share, "%", goal=HIGH, larger_is_better=False))
    write_results("coverage", rows)


if __name__ == "__main__":
    main()
