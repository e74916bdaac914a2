"""A record of an innovations model as one Gaussian vector: everything by dense conditioning."""

import numpy as np
from jaxtyping import Bool, Float

__all__ = [
    "conditional",
    "conditional_innovations",
    "impulse_matrix",
    "log_density",
    "output_covariance",
    "stacked_maps",
]

StateMatrix = Float[np.ndarray, "n n"]
OutputMatrix = Float[np.ndarray, "p n"]
Gain = Float[np.ndarray, "n p"]
Covariance = Float[np.ndarray, "p p"]
StateCovariance = Float[np.ndarray, "n n"]
Outputs = Float[np.ndarray, "T p"]
Dense = Float[np.ndarray, "N N"]
Kept = Bool[np.ndarray, " T"]
Maps = Float[np.ndarray, "_ _ _"]
Known = Float[np.ndarray, "k N"]
Values = Float[np.ndarray, " k"]
Wanted = Float[np.ndarray, "w N"]
Mean = Float[np.ndarray, " w"]
Spread = Float[np.ndarray, "w w"]


def impulse_matrix(A: StateMatrix, C: OutputMatrix, K: Gain, T: int) -> Dense:
    """Lower triangular block Toeplitz matrix from innovations to outputs."""
    p = len(C)
    blocks = np.zeros((T, p, T, p))
    for t in range(T):
        blocks[t, :, t] = np.eye(p)
        reach = K
        for s in range(t - 1, -1, -1):
            blocks[t, :, s] = C @ reach
            reach = A @ reach
    return blocks.reshape(T * p, T * p)


def output_covariance(
    A: StateMatrix, C: OutputMatrix, K: Gain, Re: Covariance, P0: StateCovariance, T: int
) -> Dense:
    """Covariance of the stacked outputs for a first state of covariance `P0`."""
    sight = [C]
    for _ in range(T - 1):
        sight.append(sight[-1] @ A)
    observability = np.vstack(sight)
    H = impulse_matrix(A, C, K, T)
    return observability @ P0 @ observability.T + H @ np.kron(np.eye(T), Re) @ H.T


def log_density(covariance: Dense, y: Outputs) -> float:
    """Natural logarithm of the zero-mean Gaussian density of the stacked outputs."""
    stacked = y.ravel()
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    return float(-0.5 * (log_det + stacked @ np.linalg.solve(covariance, stacked)))


def conditional_innovations(A: StateMatrix, K: Gain, Re: Covariance, e: Outputs, kept: Kept) -> Outputs:
    """Mean of all innovations given those that were kept and their effect on the last state.

    The Gaussian vector is `root` times white noise: its mean given linear functions of it is `root` times the
    shortest noise that explains them.
    """
    T, p = e.shape
    rows = [np.zeros((p, T * p)) for _ in range(int(kept.sum()))]
    for row, t in zip(rows, np.flatnonzero(kept)):
        row[:, t * p : (t + 1) * p] = np.eye(p)
    reach = np.hstack([np.linalg.matrix_power(A, T - 1 - t) @ K for t in range(T)])
    known = np.vstack([*rows, reach])
    root = np.kron(np.eye(T), np.linalg.cholesky(Re))
    return (root @ np.linalg.lstsq(known @ root, known @ e.ravel(), rcond=1e-13)[0]).reshape(T, p)


def stacked_maps(A: StateMatrix, C: OutputMatrix, K: Gain, T: int) -> tuple[Maps, Maps, Maps]:
    """States (T + 1), outputs (T) and innovations (T) as linear maps of (x0, e_0, ..., e_{T-1})."""
    n, p = K.shape
    states = np.zeros((T + 1, n, n + T * p))
    innovations = np.zeros((T, p, n + T * p))
    states[0, :, :n] = np.eye(n)
    for t in range(T):
        innovations[t, :, n + t * p : n + (t + 1) * p] = np.eye(p)
        states[t + 1] = A @ states[t] + K @ innovations[t]
    return states, C @ states[:-1] + innovations, innovations


def conditional(covariance: Dense, known: Known, values: Values, wanted: Wanted) -> tuple[Mean, Spread]:
    """Mean and covariance of `wanted z` given `known z = values`, for z ~ N(0, covariance)."""
    cross = wanted @ covariance @ known.T
    gain = cross @ np.linalg.pinv(known @ covariance @ known.T, rcond=1e-13, hermitian=True)
    return gain @ values, wanted @ covariance @ wanted.T - gain @ cross.T
