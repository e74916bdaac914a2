"""What several methods need of the same matrices: free responses and states of the one-step predictor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from bmojo_kernels import lti_scan
from numpy.typing import NDArray

from realization.signals.spans import spans_of

__all__ = ["first_states", "free_response", "joined", "predictor_states", "scan_spans"]

Array = NDArray[np.float64]


def free_response(A: Array, C: Array, length: int) -> Array:
    """Rows `C A^t`, shape (T, p, n): what each first state puts out."""
    transposed, nothing, silent = A.T, np.zeros((len(A), 0)), np.zeros((length, 0))
    response = np.empty((length, len(C), len(A)))
    for i, row in enumerate(C):
        response[:, i], _ = lti_scan(transposed, nothing, silent, row)
    return response


def scan_spans(A: Array, B: Array, u: Array, x0: Array | None = None, starts: Sequence[int] = (0,)) -> Array:
    """States (T, n) of one recurrence that begins anew at each of `starts`.

    `x0` holds the first states, (E, n) or for one experiment (n,); zeros when left out.
    """
    first = [None] * len(starts) if x0 is None else np.atleast_2d(x0)
    parts = [lti_scan(A, B, u[rows], x)[0] for rows, x in zip(spans_of(starts, len(u)), first, strict=True)]
    return joined(parts)


def joined(parts: Sequence[Array]) -> Array:
    """What was computed experiment by experiment, one below the other."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def first_states(parts: Sequence[Array]) -> Array:
    """First states of the experiments, shape (E, n); (n,) of a single one."""
    return parts[0] if len(parts) == 1 else np.stack(parts)


def predictor_states(
    A: Array,
    B: Array,
    C: Array,
    D: Array,
    K: Array,
    u: Array,
    y: Array,
    x0: Array | None = None,
    starts: Sequence[int] = (0,),
) -> Array:
    """States (T, n) of the one-step predictor `A - K C` driven by `[u, y]`, from `x0` or from zero."""
    return scan_spans(A - K @ C, np.hstack([B - K @ D, K]), np.hstack([u, y]), x0, starts)
