"""A model as the sum of its stable and its antistable part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from realization.errors import ConvergenceError, DataError
from realization.systems.gramians import margin_of
from realization.systems.lyapunov import SchurForm
from realization.systems.models import StateSpace

__all__ = ["StableAntistable", "stable_antistable_split"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StableAntistable:
    """Parts whose outputs add up to the model's.

    Attributes
    ----------
    stable : StateSpace
        All stable poles, and the direct term `D`.
    antistable : StateSpace
        The other poles, those on the stability limit included; no direct term.

    Examples
    --------
    >>> import realization as rz
    >>> model = rz.StateSpace([[0.5, 1.0], [0.0, 2.0]], [[1.0], [1.0]], [[1.0, 0.0]])
    >>> split = rz.stable_antistable_split(model)
    >>> split.stable.n_states, split.antistable.n_states
    (1, 1)
    """

    stable: StateSpace
    antistable: StateSpace


class Coordinates(NamedTuple):
    """Bases `V` of the stable and antistable invariant subspaces, `A V = V A₁`, and their dual bases."""

    A_stable: Array
    A_antistable: Array
    right: tuple[Array, Array]
    left: tuple[Array, Array]


def stable_antistable_split(model: StateSpace, *, margin: float | None = None) -> StableAntistable:
    r"""Write a model as the sum of a stable and an antistable one.

    $$G(z) = G_s(z) + G_a(z)$$

    The ordered Schur form puts the stable poles first, a Sylvester equation $A_{11} X - X A_{22} = -A_{12}$
    takes the coupling away.

    Parameters
    ----------
    model : StateSpace
        Of an `InnovationsModel`, the path from `u` to `y`.
    margin : float, optional
        A pole is stable where $|z| < 1 - \mu$ (continuous time: $\operatorname{Re} s < -\mu$), with this
        margin $\mu$; the rounding of the poles when left out.

    Returns
    -------
    StableAntistable
        `.stable`, `.antistable`.

    Raises
    ------
    DataError
        If `margin` is negative or not finite.
    ConvergenceError
        If a stable and an antistable pole are too close to be told apart.

    References
    ----------
    M. G. Safonov, E. A. Jonckheere, M. Verma, D. J. N. Limebeer, Synthesis of positive real multivariable
    feedback systems, Int. J. Control 45 (1987) 817-842, appendix.
    G. H. Golub, C. F. Van Loan, *Matrix Computations*, 4th ed., Johns Hopkins 2013, section 7.6.3.

    Examples
    --------
    >>> import realization as rz
    >>> model = rz.StateSpace([[0.5, 1.0], [0.0, 2.0]], [[1.0], [1.0]], [[1.0, 0.0]])
    >>> split = rz.stable_antistable_split(model)
    >>> split.stable.poles.real, split.antistable.poles.real
    (array([0.5]), array([2.]))
    """
    parts = coordinates(model, margin)
    (stable, antistable), (dual, antidual) = parts.right, parts.left
    return StableAntistable(
        StateSpace(parts.A_stable, dual @ model.B, model.C @ stable, model.D, model.dt),
        StateSpace(parts.A_antistable, antidual @ model.B, model.C @ antistable, None, model.dt),
    )


def coordinates(model: StateSpace, margin: float | None = None) -> Coordinates:
    """Bases that block-diagonalize `A` into its stable and antistable part."""
    if margin is not None and not (np.isfinite(margin) and margin >= 0):
        raise DataError(f"stable_antistable_split: margin={margin} came; it must be at least 0.")
    n, continuous = model.n_states, model.dt == 0
    form = SchurForm.of(model.A)
    margin = margin_of(model, form) if margin is None else margin
    poles = form.eigenvalues
    kept = poles.real < -margin if continuous else np.abs(poles) < 1 - margin
    count = int(kept.sum())
    T, Z = _reordered(form.T, form.Z, kept) if 0 < count < n else (form.T, form.Z)
    A11, A12, A22 = T[:count, :count], T[:count, count:], T[count:, count:]
    X = _uncoupled(A11, A12, A22) if 0 < count < n else np.zeros(A12.shape)
    size = np.linalg.norm(A12) + np.linalg.norm(T) * np.linalg.norm(X)
    if not np.linalg.norm(A11 @ X - X @ A22 + A12) <= 1e-10 * size:
        raise ConvergenceError(
            "stable_antistable_split: a stable and an antistable pole are too close to be told apart; choose "
            "a margin that puts both on the same side."
        )
    Z = form.scale[:, None] * Z
    dual = (Z / form.scale[:, None] ** 2).T
    right = (Z[:, :count], Z[:, :count] @ X + Z[:, count:])
    return Coordinates(A11, A22, right, (dual[:count] - X @ dual[count:], dual[count:]))


def _uncoupled(A11: Array, A12: Array, A22: Array) -> Array:
    """Solution of `A₁₁ X - X A₂₂ = -A₁₂`; both are quasi-triangular."""
    X, scale, _ = lapack.dtrsyl(A11, A22, -A12, isgn=-1)
    return np.asarray(X, dtype=float) / scale


def _reordered(T: Array, Z: Array, kept: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Move the blocks that are kept to the front, by orthogonal swaps of neighbours (LAPACK's `trsen`)."""
    result = lapack.dtrsen(kept.astype(int), T, Z, job="N")
    if result[-1] != 0:
        raise ConvergenceError(
            "stable_antistable_split: poles are too close to be put in order; choose another margin."
        )
    return result[0], result[1]
