"""What several methods need of the same matrices: free responses and states of the one-step predictor."""

from __future__ import annotations

import numpy as np
from bmojo_kernels import lti_scan
from numpy.typing import NDArray

__all__ = ["free_response", "predictor_states"]

Array = NDArray[np.float64]


def free_response(A: Array, C: Array, length: int) -> Array:
    """Rows `C A^t`, shape (T, p, n): what each first state puts out."""
    transposed, nothing, silent = A.T, np.zeros((len(A), 0)), np.zeros((length, 0))
    response = np.empty((length, len(C), len(A)))
    for i, row in enumerate(C):
        response[:, i], _ = lti_scan(transposed, nothing, silent, row)
    return response


def predictor_states(
    A: Array, B: Array, C: Array, D: Array, K: Array, u: Array, y: Array, x0: Array | None = None
) -> Array:
    """States (T, n) of the one-step predictor `A - K C` driven by `[u, y]`, from `x0` or from zero."""
    return lti_scan(A - K @ C, np.hstack([B - K @ D, K]), np.hstack([u, y]), x0)[0]
