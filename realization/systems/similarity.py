"""Whether two realizations are of one system, and the change of state that carries one into the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from realization.errors import DataError, RankError, RealizationError, ShapeError
from realization.systems.models import InnovationsModel, StateSpace
from realization.systems.reachability import chains, drive, staircase, unit_columns

__all__ = ["Similarity", "are_similar", "similarity"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Similarity:
    """A change of state from one realization to another.

    Attributes
    ----------
    T : ndarray, shape (n, n)
        `a.similarity_transform(T)` is `b`.
    residual : float
        Largest difference of the two that is left, relative to the norm of the matrix that it stands in.

    Examples
    --------
    >>> import realization as rz
    >>> a = rz.StateSpace([[0.5]], [[1.0]], [[2.0]])
    >>> rz.similarity(a, a.similarity_transform([[4.0]])).T
    array([[4.]])
    """

    T: Array
    residual: float


def similarity(a: StateSpace, b: StateSpace, *, tol: float = 1e-6) -> Similarity:
    r"""The change of state that carries one minimal realization into another.

    $$T^{-1} A_a T = A_b, \qquad T^{-1} B_a = B_b, \qquad C_a T = C_b$$

    Two minimal realizations of one system differ by such a $T$, and by no other. The recurrence that makes an
    orthonormal basis of $C_a, C_a A_a, C_a A_a^2, \dots$ makes, with the same coefficients,
    the image of that basis in the other realization, so no power is formed. Where that loses digits (many
    states), $T = V_a \operatorname{diag}(d) V_b^{-1}$ with the eigenvectors of both is tried, and the better
    taken.

    Parameters
    ----------
    a, b : StateSpace or InnovationsModel
        Both of one kind, minimal, with the same numbers of inputs and outputs.
    tol : float
        Largest difference allowed, relative to the norm of each matrix.

    Returns
    -------
    Similarity
        `.T`, `.residual`.

    Raises
    ------
    ShapeError
        If orders or numbers of inputs and outputs differ.
    RankError
        If `a` is not minimal: then $T$ is not determined.
    RealizationError
        If they are not the same system.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, theorem 2.4-7.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> a = rz.StateSpace([[0.5, 1.0], [0.0, 0.2]], [[0.0], [1.0]], [[1.0, 0.0]])
    >>> T = np.array([[1.0, 2.0], [0.0, 1.0]])
    >>> rz.similarity(a, a.similarity_transform(T)).T.round(12)
    array([[1., 2.],
           [0., 1.]])
    """
    if type(a) is not type(b):
        raise RealizationError(
            f"similarity: a {type(a).__name__} and a {type(b).__name__} came; compare two of one kind "
            "(the .deterministic part of an innovations model is a StateSpace)."
        )
    if not 0 < tol < 1:
        raise DataError(f"similarity: tol={tol} came; a relative tolerance, 0 < tol < 1, is needed.")
    for what in ("n_states", "n_inputs", "n_outputs"):
        if getattr(a, what) != getattr(b, what):
            raise ShapeError(
                f"similarity: {what} is {getattr(a, what)} and {getattr(b, what)}; two realizations of one "
                "system that are minimal agree in it (realization.minimal makes them so)."
            )
    residual, T = _compared(a, b, _carried(a, b))
    if residual > 1e-12:  # many states: mode by mode is then the better way, if the poles are apart
        residual, T = min((residual, T), _compared(a, b, _by_modes(a, b)), key=lambda found: found[0])
    if not residual <= tol:
        raise RealizationError(
            f"similarity: not the same system: the best T found leaves a difference of {residual:.2g}, more "
            f"than tol={tol:.0e}. Compare Markov parameters to see where they part; if they agree, the "
            "systems are too close to one that is not minimal: reduce both first."
        )
    return Similarity(T, residual)


def are_similar(a: StateSpace, b: StateSpace, *, tol: float = 1e-6) -> bool:
    """Whether two minimal realizations are of one system.

    Parameters
    ----------
    a, b : StateSpace or InnovationsModel
        Minimal.
    tol : float
        As for `similarity`.

    Returns
    -------
    bool

    Raises
    ------
    RankError
        If `a` is not minimal: two realizations of one system need not be similar then.

    References
    ----------
    T. Kailath, *Linear Systems*, Prentice-Hall 1980, theorem 2.4-7.

    Examples
    --------
    >>> import realization as rz
    >>> a = rz.StateSpace([[0.5]], [[1.0]], [[2.0]])
    >>> rz.are_similar(a, rz.StateSpace([[0.5]], [[2.0]], [[1.0]]))
    True
    >>> rz.are_similar(a, rz.StateSpace([[0.5]], [[2.0]], [[2.0]]))
    False
    """
    try:
        similarity(a, b, tol=tol)
    except (DataError, RankError):
        raise
    except RealizationError:
        return False
    return True


def _carried(a: StateSpace, b: StateSpace) -> Array:
    """`T` from the chains of the outputs: rows of `C A^k` of `a` go to those of `b`."""
    n, eps = a.n_states, 100 * np.finfo(float).eps
    found = chains(a.A.T, a.C.T, eps)
    _, ranks = staircase(a.A, unit_columns(drive(a)), eps, float(np.linalg.norm(a.A)))
    if found.basis.shape[1] < n or sum(ranks) < n:
        raise RankError(
            f"similarity: the first realization is not minimal ({sum(ranks)} of its {n} states are reached, "
            f"{found.basis.shape[1]} are seen), so that T is not determined. Use realization.minimal first."
        )
    image = np.zeros((n, n))
    with np.errstate(over="ignore", invalid="ignore"):
        for j, source in enumerate(found.sources):
            vector = b.C[source] if source < a.n_outputs else b.A.T @ image[:, source - a.n_outputs]
            known = found.recurrence[:j, j]
            image[:, j] = (vector - image[:, :j] @ known) / found.recurrence[j, j]
    return found.basis @ image.T


def _by_modes(a: StateSpace, b: StateSpace) -> Array:
    """`T` as a map of eigenvectors to eigenvectors, each scaled so that inputs and outputs agree best."""
    from scipy.optimize import linear_sum_assignment

    poles, V = np.linalg.eig(a.A)
    others, U = np.linalg.eig(b.A)
    _, partner = linear_sum_assignment(np.abs(poles[:, None] - others))
    U = U[:, partner]
    if max(np.linalg.cond(V), np.linalg.cond(U)) > 1 / np.finfo(float).eps:
        return np.full(a.A.shape, np.nan)
    had = np.hstack([(a.C @ V).T, np.linalg.solve(U, drive(b))])
    wanted = np.hstack([(b.C @ U).T, np.linalg.solve(V, drive(a))])
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = (had.conj() * wanted).sum(axis=1) / (np.abs(had) ** 2).sum(axis=1)
    return np.linalg.solve(U.T, (V * scale).T).T.real.astype(float)


def _compared(a: StateSpace, b: StateSpace, T: Array) -> tuple[float, Array]:
    """What `T` leaves between the two, infinite where it is no change of state."""
    if not np.isfinite(T).all() or (len(T) and np.linalg.cond(T) > 1 / np.finfo(float).eps):
        return np.inf, T
    return _difference(a.similarity_transform(T), b), T


def _difference(got: StateSpace, wanted: StateSpace) -> float:
    names = ["A", "B", "C", "D"]
    names += ["K", "Re", "u_mean", "y_mean"] if isinstance(wanted, InnovationsModel) else []
    worst: float = 0.0 if got.dt == wanted.dt else np.inf
    for name in names:
        one, other = getattr(got, name), getattr(wanted, name)
        size = max(np.linalg.norm(one), np.linalg.norm(other))
        worst = max(worst, float(np.linalg.norm(one - other) / size) if size > 0 else 0.0)
    return worst
