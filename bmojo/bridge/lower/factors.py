r"""Gramians along an input, as factors: neither formed nor squared."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmojo.bridge.lower.time_varying import TimeVaryingRealization
from realization.errors import ShapeError

__all__ = ["gramian_factors_along", "observability", "reachability", "span", "squared", "times_of"]

Array = NDArray[np.float64]


def gramian_factors_along(
    realization: TimeVaryingRealization,
    at: int | ArrayLike,
    *,
    past: int | None = None,
    future: int | None = None,
) -> tuple[Array, Array]:
    r"""Factors of the gramians at several times, $W_c(t) = L_c L_c^\top$ and $W_o(t) = L_o L_o^\top$.

    $$W_c(t + 1) = A_t W_c(t) A_t^\top + B_t B_t^\top, \qquad
    W_o(t) = A_t^\top W_o(t + 1) A_t + C_t^\top C_t$$

    from $W_c(0) = 0$ and $W_o(T) = 0$: what unit white inputs have made of the state, and the output energy
    that it still leaves.

    Parameters
    ----------
    realization : TimeVaryingRealization
    at : int or array_like of int, shape (N,)
    past, future : int, optional
        How many inputs before `t`, and outputs from `t` on.

    Returns
    -------
    Lc, Lo : ndarray, shape (N, G, n, n)

    Examples
    --------
    >>> import numpy as np, torch, realization as rz
    >>> from bmojo import lift, lower
    >>> from bmojo.bridge import gramian_factors_along
    >>> one = lower(lift(rz.StateSpace([[0.6]], [[0.8]], [[1.6]])), torch.zeros(200, 1))
    >>> Lc, Lo = gramian_factors_along(one, 100)
    >>> (Lc**2).round(12).item(), (Lo**2).round(12).item()
    (1.0, 4.0)
    """
    times = times_of(realization, at)
    return reachability(realization, times, past), observability(realization, times, future)


def times_of(realization: TimeVaryingRealization, at: int | ArrayLike) -> NDArray[np.int64]:
    """Times (N,) from 0 to `T`, of one or several that may count from the end."""
    asked = np.atleast_1d(np.asarray(at))
    if asked.ndim != 1 or not len(asked) or not np.issubdtype(asked.dtype, np.integer):
        raise ShapeError(f"at={at!r} came; a time, or a row of times, as whole numbers is needed.")
    return np.array([realization.instant(int(t)) for t in asked])


def span(asked: int | None, there: int) -> int:
    """How many of those that there are."""
    return there if asked is None else max(0, min(asked, there))


def reachability(realization: TimeVaryingRealization, times: NDArray[np.int64], past: int | None) -> Array:
    """Factors (N, G, n, n) of the reachability gramians at times (N,)."""
    groups, n = realization.groups, realization.n_states
    found = np.zeros((len(times), groups, n, n))
    if past is None:
        L, now = np.zeros((groups, n, n)), 0
        for i in np.argsort(times, kind="stable"):
            for t in range(now, times[i]):
                L = _reached(realization, t, L)
            now, found[i] = max(now, times[i]), L
        return found
    for i, end in enumerate(times):
        L = found[i]
        for t in range(end - span(past, end), end):
            L = _reached(realization, t, L)
        found[i] = L
    return found


def observability(realization: TimeVaryingRealization, times: NDArray[np.int64], future: int | None) -> Array:
    """Factors (N, G, n, n) of the observability gramians at times (N,)."""
    groups, n, T = realization.groups, realization.n_states, realization.length
    found = np.zeros((len(times), groups, n, n))
    if future is None:
        L, now = np.zeros((groups, n, n)), T
        for i in np.argsort(-times, kind="stable"):
            for t in range(now - 1, times[i] - 1, -1):
                L = _seen(realization, t, L)
            now, found[i] = min(now, times[i]), L
        return found
    for i, start in enumerate(times):
        L = found[i]
        for t in range(start + span(future, T - start) - 1, start - 1, -1):
            L = _seen(realization, t, L)
        found[i] = L
    return found


def _reached(realization: TimeVaryingRealization, t: int, L: Array) -> Array:
    return squared(np.concatenate([realization.advance(t, L), realization.B[t]], axis=2))


def _seen(realization: TimeVaryingRealization, t: int, L: Array) -> Array:
    rows = np.concatenate([realization.withdraw(t, L.swapaxes(1, 2)), realization.C[t]], axis=1)
    return squared(rows.swapaxes(1, 2))


def squared(factor: Array) -> Array:
    """A square factor with the same product `F Fᵀ` as `factor` (G, n, k)."""
    _, triangle = np.linalg.qr(factor.swapaxes(-1, -2))
    return triangle.swapaxes(-1, -2)
