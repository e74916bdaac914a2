"""Linear least squares for what enters a model linearly once its `A` and `C` are known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from bmojo_kernels import lti_scan
from numpy.typing import NDArray

from realization.systems.responses import free_response

__all__ = ["InputPath", "input_path", "input_sensitivities"]

Array = NDArray[np.float64]


class InputPath(NamedTuple):
    """What is linear once `A` and `C` are known, with the residual's sum of squares per output."""

    B: Array
    D: Array
    x0: Array
    offset: Array
    squares: Array


def input_path(
    A: Array, C: Array, u: Array, target: Array, *, feedthrough: bool, constant: Array | None = None
) -> InputPath:
    r"""Least squares over what is linear once the poles are known.

    $$y_t = C A^t x_0 + \sum_{\tau < t} C A^{t-1-\tau} B u_\tau + D u_t + c_t \mu$$

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
    """
    n, p, m = len(A), len(C), u.shape[1]
    constant = np.zeros((len(u), p, 0)) if constant is None else constant
    direct = u if feedthrough else u[:, :0]
    basis = scipy.linalg.qr(direct, mode="economic")[0] if direct.shape[1] else direct
    blocks, factors = [], []
    for k in range(p):
        free = free_response(A, C[k : k + 1], len(u))[:, 0]
        regressors = np.hstack([input_sensitivities(A, C[k], u), free, constant[:, k]])
        blocks.append(regressors)
        block = np.hstack([regressors, target[:, k : k + 1]])
        block = block - basis @ (basis.T @ block)
        factors.append(scipy.linalg.qr(block, mode="r", check_finite=False)[0][: block.shape[1]])
    stacked = np.vstack(factors)
    theta = scaled_least_squares(stacked[:, :-1], stacked[:, -1])
    residual = target - np.column_stack([block @ theta for block in blocks])
    D = np.zeros((p, m))
    if direct.shape[1]:
        D = scipy.linalg.lstsq(direct, residual)[0].T
        residual = residual - direct @ D.T
    B = theta[: n * m].reshape(m, n).T
    return InputPath(B, D, theta[n * m : n * m + n], theta[n * m + n :], (residual**2).sum(axis=0))


def input_sensitivities(A: Array, row: Array, u: Array) -> Array:
    r"""Derivatives of one output with respect to `B`, shape (T, m n), inputs outermost.

    $\partial y_t / \partial B_{\cdot j} = \sum_{\tau < t} (A^\top)^{t-1-\tau} c\, u_{\tau j}$: one
    recurrence in $A^\top$ for each input gives all `n` at once.
    """
    transposed, entry = np.ascontiguousarray(A.T), row[:, None]
    parts = [lti_scan(transposed, entry, u[:, j : j + 1])[0] for j in range(u.shape[1])]
    return np.hstack([*parts, np.empty((len(u), 0))])


def scaled_least_squares(a: Array, b: Array) -> Array:
    """Least squares with columns of unit length, so that units do not decide what counts as zero."""
    norms = np.linalg.norm(a, axis=0)
    norms[norms == 0] = 1.0
    return scipy.linalg.lstsq(a / norms, b, cond=1e-13, check_finite=False)[0] / norms
