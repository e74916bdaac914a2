"""Linear least squares for what enters a model linearly once its `A` and `C` are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg
from bmojo_kernels import lti_scan
from numpy.typing import NDArray

from realization.signals.spans import spans_of
from realization.systems.responses import first_states, free_response

__all__ = ["FirstState", "InputPath", "best_first_state", "input_path", "input_sensitivities", "projection"]

Array = NDArray[np.float64]
GONE = 1e-30
# Squared condition numbers up to here leave half of the digits to the normal equations.
SAFE = 1e8


class InputPath(NamedTuple):
    """What is linear once `A` and `C` are known, with the residual's sum of squares per output."""

    B: Array
    D: Array
    x0: Array
    offset: Array
    squares: Array


def input_path(
    A: Array,
    C: Array,
    u: Array,
    target: Array,
    *,
    feedthrough: bool,
    constant: Array | None = None,
    starts: Sequence[int] = (0,),
) -> InputPath:
    r"""Least squares over what is linear once the poles are known.

    $$y_t = C A^t x_0 + \sum_{\tau < t} C A^{t-1-\tau} B u_\tau + D u_t + c_t \mu$$

    Each experiment has a first state of its own, which is projected out of its rows: the problem that is left
    does not grow with the number of experiments.

    Parameters
    ----------
    A : ndarray, shape (n, n)
    C : ndarray, shape (p, n)
    u : ndarray, shape (T, m)
    target : ndarray, shape (T, p)
    feedthrough : bool
        Whether `D` is estimated; zero if not.
    constant : ndarray, shape (T, p, q), optional
        How an unknown offset of each kind enters the outputs; no offset when left out.
    starts : sequence of int
        First rows of the experiments.
    """
    n, p, m = len(A), len(C), u.shape[1]
    constant = np.zeros((len(u), p, 0)) if constant is None else constant
    designs, frees, factors, firsts = [], [], [], []
    for rows in spans_of(starts, len(u)):
        design = _design(A, C, u[rows], constant[rows], feedthrough)
        free = free_response(A, C, rows.stop - rows.start).reshape((rows.stop - rows.start) * p, n)
        stacked = np.column_stack([design, target[rows].reshape(-1)])
        seen, first = projection(free)
        explained = seen.T @ stacked[: len(seen)]
        stacked[: len(seen)] -= seen @ explained
        factors.append(scipy.linalg.qr(stacked, mode="r", check_finite=False)[0][: stacked.shape[1]])
        designs.append(design)
        frees.append(free)
        firsts.append(first @ explained)
    reduced = np.vstack(factors)
    theta = scaled_least_squares(reduced[:, :-1], reduced[:, -1])
    x0 = [first[:, -1] - first[:, :-1] @ theta for first in firsts]
    fitted = [(design @ theta + free @ x).reshape(-1, p) for design, free, x in zip(designs, frees, x0)]
    residual = target - np.concatenate(fitted)
    B, offset = theta[: n * m].reshape(m, n).T, theta[n * m : n * m + constant.shape[2]]
    D = theta[len(theta) - p * m :].reshape(p, m) if feedthrough else np.zeros((p, m))
    return InputPath(B, D, first_states(x0), offset, (residual**2).sum(axis=0))


def _design(A: Array, C: Array, u: Array, constant: Array, feedthrough: bool) -> Array:
    """Derivatives of the outputs of one experiment with respect to `B`, the offset and `D`, (T p, width)."""
    (length, m), p = u.shape, len(C)
    direct = np.zeros((length, p, p * m if feedthrough else 0))
    if feedthrough:
        for k in range(p):
            direct[:, k, k * m : (k + 1) * m] = u
    by_B = np.stack([input_sensitivities(A, row, u) for row in C], axis=1)
    together = np.concatenate([by_B, constant, direct], axis=2)
    return together.reshape(length * p, together.shape[2])


def projection(free: Array) -> tuple[Array, Array]:
    """Orthonormal basis of what a first state can explain, and the map from it to the first state.

    Rows by which the first state is forgotten are left out.
    """
    sizes = np.abs(free).max(axis=1, initial=0.0)
    free = free[: int(np.flatnonzero(sizes > GONE * sizes.max(initial=0.0)).max(initial=-1)) + 1]
    norms = np.linalg.norm(free, axis=0)
    norms[norms == 0] = 1.0
    left, values, right = scipy.linalg.svd(free / norms, full_matrices=False, check_finite=False)
    held = values > 1e-13 * values.max(initial=0.0)
    return left[:, held], right[held].T / values[held] / norms[:, None]


def input_sensitivities(A: Array, row: Array, u: Array) -> Array:
    r"""Derivatives of one output with respect to `B`, shape (T, m n), inputs outermost.

    $\partial y_t / \partial B_{\cdot j} = \sum_{\tau < t} (A^\top)^{t-1-\tau} c\, u_{\tau j}$: one
    recurrence in $A^\top$ for each input gives all `n` at once.
    """
    transposed, entry = np.ascontiguousarray(A.T), row[:, None]
    parts = [lti_scan(transposed, entry, u[:, j : j + 1])[0] for j in range(u.shape[1])]
    return np.hstack([*parts, np.empty((len(u), 0))])


class FirstState(NamedTuple):
    """What is known of first states beforehand, x0 ~ N(0, Z Zᵀ), and the size of the errors.

    `root` is Z (n, r), `noise` holds the errors' deviations (p,).
    """

    root: Array
    noise: Array


def best_first_state(basis: Array, e: Array, prior: FirstState | None) -> tuple[Array, float]:
    r"""First state that explains errors (T, p) best by a basis (T, p, n), and how many of them it spends.

    With a prior the most probable one, $x_0 = Z z$, from whitened $X$ and $e$:

    $$\min_z \|X z - e\|^2 + \|z\|^2, \qquad d = \operatorname{tr} X (X^\top X + I)^{-1} X^\top$$

    Raises
    ------
    numpy.linalg.LinAlgError
        If the basis or the errors overflow.
    """
    n = basis.shape[2]
    if prior is None:
        return scaled_least_squares(basis.reshape(-1, n), e.reshape(-1)), float(min(n, e.size))
    X = (basis @ prior.root / prior.noise[:, None]).reshape(-1, prior.root.shape[1])
    target = (e / prior.noise).reshape(-1)
    gram, aim = X.T @ X, X.T @ target
    if not (np.isfinite(gram).all() and np.isfinite(aim).all()):
        raise np.linalg.LinAlgError("the first state's response overflows.")
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0.0)
    spent = float((values / (values + 1)).sum())
    if values.max(initial=0.0) < SAFE:
        return prior.root @ (vectors @ ((vectors.T @ aim) / (values + 1))), spent
    r = X.shape[1]
    rows, aims = np.vstack([X, np.eye(r)]), np.concatenate([target, np.zeros(r)])
    return prior.root @ scipy.linalg.lstsq(rows, aims, lapack_driver="gelsy", check_finite=False)[0], spent


def scaled_least_squares(a: Array, b: Array) -> Array:
    """Least squares with columns of unit length, so that units do not decide what counts as zero."""
    norms = np.linalg.norm(a, axis=0)
    if not np.isfinite(norms).all():
        raise np.linalg.LinAlgError("the regressors overflow.")  # LAPACK would print before it fails
    norms[norms == 0] = 1.0
    return scipy.linalg.lstsq(a / norms, b, cond=1e-13, check_finite=False)[0] / norms
