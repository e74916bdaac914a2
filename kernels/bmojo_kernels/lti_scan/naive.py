"""The recurrence as it is written: the oracle of `lti_scan`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["lti_scan_naive"]


def lti_scan_naive(
    A: NDArray[np.float64], B: NDArray[np.float64], u: NDArray[np.float64], x0: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States of `x[t+1] = A x[t] + B u[t]`: `(T, n)` before each input, and the last one `(n,)`."""
    x = x0
    states = np.empty((len(u), len(A)))
    for t in range(len(u)):
        states[t] = x
        x = A @ x + B @ u[t]
    return states, x
