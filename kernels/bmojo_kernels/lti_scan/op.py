"""`lti_scan`: state sequence of a dense linear time-invariant recurrence."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmojo_kernels.checks import as_real
from bmojo_kernels.lti_scan.numba_cpu import scan
from bmojo_kernels.packing import check_packing, offsets

__all__ = ["lti_scan"]


def lti_scan(
    A: ArrayLike,
    B: ArrayLike,
    u: ArrayLike,
    x0: ArrayLike | None = None,
    *,
    cu_seqlens: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""States of $x_{t+1} = A x_t + B u_t$.

    Simulation, Kalman prediction and the innovations form are this recurrence with their own `A` and `B`.

    Parameters
    ----------
    A : array_like, shape (n, n)
    B : array_like, shape (n, m)
    u : array_like, shape (T, m)
    x0 : array_like, shape (n,), optional
        State at the first sample; zero when left out.
    cu_seqlens : array_like, shape (S + 1,), optional
        Where packed records begin, and the end: int32 or int64, from 0 to T. There are S first and last
        states then, (S, n).

    Returns
    -------
    states : ndarray, shape (T, n)
        `states[t]` is $x_t$, the state *before* `u[t]` acts.
    last : ndarray, shape (n,)
        $x_T$, from which the next chunk goes on.

    Raises
    ------
    ValueError
        If the shapes do not fit together.

    Examples
    --------
    >>> import numpy as np, bmojo_kernels as bk
    >>> states, last = bk.lti_scan([[0.5]], [[1.0]], np.ones((3, 1)))
    >>> states[:, 0], last
    (array([0. , 1. , 1.5]), array([1.75]))
    """
    A, B, u = (as_real("lti_scan", name, x) for name, x in zip("ABu", (A, B, u)))
    if (
        A.ndim != 2
        or B.ndim != 2
        or u.ndim != 2
        or A.shape[0] != A.shape[1]
        or len(B) != len(A)
        or u.shape[1] != B.shape[1]
    ):
        raise ValueError(
            f"lti_scan: A {A.shape}, B {B.shape}, u {u.shape} came; (n, n), (n, m), (T, m) are needed."
        )
    bounds = None if cu_seqlens is None else np.asarray(cu_seqlens)
    check_packing("lti_scan", 1, bounds)
    shape = (len(A),) if bounds is None else (len(bounds) - 1, len(A))
    start = np.zeros(shape) if x0 is None else as_real("lti_scan", "x0", x0)
    if start.shape != shape:
        raise ValueError(f"lti_scan: x0 has shape {start.shape}; it must be {shape}.")
    forward, drive = np.ascontiguousarray(A.T), np.ascontiguousarray(B.T)
    if bounds is None:
        states = scan(forward, drive, np.ascontiguousarray(u), np.ascontiguousarray(start))
        return states[:-1], states[-1].copy()
    states, last = np.empty((len(u), len(A))), np.empty(shape)
    for i, (low, high) in enumerate(pairwise(offsets("lti_scan", 1, len(u), bounds))):
        found = scan(forward, drive, np.ascontiguousarray(u[low:high]), np.ascontiguousarray(start[i]))
        states[low:high], last[i] = found[:-1], found[-1]
    return states, last
