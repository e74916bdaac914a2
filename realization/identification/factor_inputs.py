"""`B`, `D` and the noise model from a factorization alone: no second pass over the record."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import RankError, StabilityWarning
from realization.identification.factorization import Factorization, Weighting
from realization.identification.matrices import shift
from realization.identification.noise import noise_model
from realization.identification.realization import Realization, reflect_poles
from realization.identification.regression import scaled_least_squares
from realization.notes import warn

__all__ = ["factor_inputs", "realize_from_factor"]

Array = NDArray[np.float64]


def realize_from_factor(
    factorization: Factorization,
    order: int,
    *,
    weighting: Weighting,
    feedthrough: bool = True,
    stable: bool = True,
    riccati: bool = True,
    caller: str = "subspace_orders",
) -> tuple[Realization, Array]:
    """Realization of one order and its innovation covariance; the work does not grow with the record.

    Without `riccati` the gain is the regression of the state equation's residual on the output equation's,
    as long as its predictor is stable.
    """
    directions, values = factorization.subspace(weighting)
    p, m = factorization.n_outputs, factorization.n_inputs
    available = min(len(values), len(directions) - p)
    if order > available:
        raise RankError(
            f"{caller}: order {order} came; block_rows={factorization.block_rows} and this record support at "
            f"most {available}. Take a lower order or more block rows."
        )
    observability = directions[:, :order] * np.sqrt(values[:order])
    A, C = shift(observability, p)
    stabilized = bool(stable and np.abs(np.linalg.eigvals(A)).max(initial=0.0) >= 1)
    if stabilized:
        warn(
            f"{caller}: the estimate of order {order} had a pole outside the unit circle; it was moved to "
            "its mirror image. If the plant is unstable, ask for stable=False.",
            StabilityWarning,
            stacklevel=3,
        )
        A = reflect_poles(A)
    K, Re = noise_model(factorization, observability, A, C, riccati=riccati)
    B, D = factor_inputs(factorization, observability, A, C, feedthrough=feedthrough)
    found = Realization(A, B, C, D, K, np.zeros(p), np.zeros(order), feedthrough and m > 0, stabilized)
    return found, Re


def factor_inputs(
    factorization: Factorization, observability: Array, A: Array, C: Array, *, feedthrough: bool
) -> tuple[Array, Array]:
    r"""`B` (n, m) and `D` (p, m) from what the future inputs do to the state equations.

    With the Kalman states $\Gamma^+ Z$ in place of $x$, the state equations' part along $U_f$ is

    $$\begin{bmatrix} \Gamma_{i-1}^+ Z_{i+1} \\ Y_i \end{bmatrix} - \begin{bmatrix} A \\ C \end{bmatrix}
    \Gamma_i^+ Z_i = \mathcal K(B, D)\, U_f,$$

    and $\mathcal K$, made of the Toeplitz matrices of the impulse response, is linear in `B` and `D`.

    References
    ----------
    P. Van Overschee, B. De Moor, *Subspace Identification for Linear Systems*, Kluwer 1996, section 4.4.2.
    """
    i, m, p, n = factorization.block_rows, factorization.n_inputs, factorization.n_outputs, len(A)
    if m == 0:
        return np.zeros((n, 0)), np.zeros((p, 0))
    inputs = factorization.R[: i * m, : i * m].T
    outputs = factorization.R[: i * m, -i * p :].T
    whole, shorter = np.linalg.pinv(observability), np.linalg.pinv(observability[:-p])
    left = np.vstack([A, C]) @ whole
    known = np.vstack([shorter @ outputs[p:], outputs[:p]]) - left @ outputs
    # In all rows together u_k has the coefficient N_k [B; D]: D in row k, C A^j B in row k + 1 + j.
    weights = np.zeros((n + p, i * p))
    weights[:n, p:] = shorter
    weights[n:, :p] = np.eye(p)
    weights -= left
    powers = np.zeros((i, p, n))
    powers[0] = C
    for k in range(1, i):
        powers[k] = powers[k - 1] @ A
    weights = weights.reshape(n + p, i, p)
    design = np.zeros((n + p, i * m, m, n + p))
    for k in range(i):
        later = weights[:, k + 1 :]
        N = np.zeros((n + p, n + p))
        N[:, :n] = np.tensordot(later, powers[: i - 1 - k], axes=([1, 2], [0, 1]))
        N[:, n:] = weights[:, k]
        design += N[:, None, None, :] * inputs[k * m : (k + 1) * m].T[None, :, :, None]
    kept = n + p if feedthrough else n
    matrix = np.ascontiguousarray(design[..., :kept]).reshape((n + p) * i * m, m * kept)
    # Regular data leave no direction to rounding: QR serves as well as a decomposition by singular values.
    solve = _by_qr if factorization.regular else scaled_least_squares
    theta = solve(matrix, known.reshape(-1)).reshape(m, kept).T
    D = theta[n:] if feedthrough else np.zeros((p, m))
    return theta[:n], D


def _by_qr(a: Array, b: Array) -> Array:
    triangle = scipy.linalg.qr(np.column_stack([a, b]), mode="r", overwrite_a=True, check_finite=False)[0]
    width = a.shape[1]
    return scipy.linalg.solve_triangular(triangle[:width, :width], triangle[:width, width])
