"""What belongs to a system and not to the basis in which its state is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from realization.systems.decomposition import minimal
from realization.systems.gramians import hankel_singular_values
from realization.systems.models import StateSpace
from realization.systems.reachability import (
    checked_tol,
    controllability_indices,
    observability_indices,
)
from realization.systems.zeros import zeros

__all__ = ["Invariants", "invariants"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Invariants:
    r"""Quantities of a transfer function that every minimal realization of it shares.

    Attributes
    ----------
    order : int
        McMillan degree: number of states of a minimal realization.
    poles, zeros : ndarray of complex, shape (order,) and (number of zeros,)
        Poles and transmission zeros, largest modulus first.
    controllability_indices : ndarray of int, shape (m,)
        Length of the chain of each input; their sum is `order`.
    observability_indices : ndarray of int, shape (p,)
        Length of the chain of each output; their sum is `order`.
    relative_degrees : ndarray of int, shape (p, m)
        First k with an entry of $h_k$ other than zero: steps from an input to an output, or poles less
        zeros of that entry; -1 where there is no path.
    leading_markov : ndarray, shape (p, m)
        Those entries; 0 where there is no path.
    hankel_singular_values : ndarray, shape (order,), or None
        None for an unstable system.
    dc_gain : ndarray, shape (p, m), or None
        Response to a constant; None where a pole is there (at 1, in continuous time at 0).

    Examples
    --------
    >>> import realization as rz
    >>> found = rz.invariants(rz.StateSpace([[0.5, 1.0], [0.0, 0.0]], [[0.0], [1.0]], [[2.0, 0.0]]))
    >>> found.order, int(found.relative_degrees[0, 0]), found.dc_gain.round(9)
    (2, 2, array([[4.]]))
    """

    order: int
    poles: NDArray[np.complex128]
    zeros: NDArray[np.complex128]
    controllability_indices: NDArray[np.int64]
    observability_indices: NDArray[np.int64]
    relative_degrees: NDArray[np.int64]
    leading_markov: Array
    hankel_singular_values: Array | None
    dc_gain: Array | None


def invariants(model: StateSpace, *, tol: float | None = None) -> Invariants:
    r"""Invariants of a system under a change of the state's basis, and under states that nothing reaches.

    $$G(z) = D + C (zI - A)^{-1} B = D + C T\, (zI - T^{-1} A T)^{-1}\, T^{-1} B$$

    They are computed from a minimal realization, so that hidden states have no part in them. Poles and
    Hankel singular values answer to perturbations according to their condition; degrees and indices are
    whole numbers that a perturbation can change: `tol` says what counts as zero.

    Parameters
    ----------
    model : StateSpace
        Of an innovations model, the path from `u`; `invariants(model.noise)` are those from `e`.
    tol : float, optional
        Relative size up to which a rank or an entry counts as zero; 1e-10 when left out.

    Returns
    -------
    Invariants

    Raises
    ------
    DataError
        If `tol` is no relative tolerance.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, sections 6.4 and 6.5.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(np.diag([0.5, 0.2, 0.9]), [[1.0], [1.0], [0.0]], [[1.0, 1.0, 1.0]])
    >>> found = rz.invariants(model)
    >>> found.order, found.poles.real.round(9), found.zeros.real.round(9)
    (2, array([0.5, 0.2]), array([0.35]))
    """
    limit = checked_tol(tol, "invariants")
    path = StateSpace(model.A, model.B, model.C, model.D, model.dt)
    core = minimal(path, tol=tol)
    degrees, leading = _first_paths(core, limit)
    return Invariants(
        core.n_states,
        core.poles,
        zeros(core, tol=tol),
        controllability_indices(core, tol=tol),
        observability_indices(core, tol=tol),
        degrees,
        leading,
        hankel_singular_values(core) if core.is_stable else None,
        _dc_gain(core, limit),
    )


def _first_paths(model: StateSpace, limit: float) -> tuple[NDArray[np.int64], Array]:
    """First Markov parameter other than zero of each pair; the n-th comes at the latest."""
    growth = _growth(model.A)
    # Divided by the growth per step: a fast system would hide its first entries behind its later ones.
    h, reached = [model.D], model.B
    for _ in range(2 * model.n_states):
        h.append(model.C @ reached)
        reached = model.A @ reached / growth
    sizes = np.abs(np.array(h))
    there = sizes > limit * sizes.max(axis=0)
    degrees = np.where(there.any(axis=0), there.argmax(axis=0), -1).astype(np.int64)
    scale = growth ** np.maximum(degrees - 1, 0).astype(float)
    leading = np.take_along_axis(np.array(h), np.maximum(degrees, 0)[None], axis=0)[0] * scale
    return degrees, np.where(degrees >= 0, leading, 0.0)


def _growth(A: Array) -> float:
    """Growth per step while the state still holds anything, at least that of the largest pole.

    Rounding turns the poles at zero of a nilpotent `A` into small ones, whose powers say nothing.
    """
    n = len(A)
    if n == 0:
        return 1.0
    size = float(np.linalg.norm(A)) or 1.0
    power, growth = np.eye(n), float(np.abs(np.linalg.eigvals(A)).max())
    for k in range(1, n + 1):
        power = power @ (A / size)
        if 2 * k >= n:
            growth = max(growth, size * float(np.linalg.norm(power)) ** (1 / k))
    return growth or 1.0


def _dc_gain(model: StateSpace, limit: float) -> Array | None:
    at = 0.0 if model.dt == 0 else 1.0
    nearest = np.abs(model.poles - at).min(initial=np.inf)
    if nearest <= limit * max(at, np.abs(model.poles).max(initial=0.0)):
        return None
    return model.D + model.C @ np.linalg.solve(at * np.eye(model.n_states) - model.A, model.B)
