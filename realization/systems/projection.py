"""The projection that all balanced reductions share: two gramian factors in, a smaller system out."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import (
    DataError,
    OrderWarning,
    RankError,
    RealizationError,
    StabilityWarning,
    UnstableError,
)
from realization.notes import warn
from realization.systems.gramians import root
from realization.systems.lyapunov import EPS
from realization.systems.models import InnovationsModel, StateSpace
from realization.systems.split import Coordinates, coordinates

__all__ = [
    "Factors",
    "Method",
    "Parts",
    "System",
    "assembled",
    "balanced",
    "check_options",
    "difference",
    "kept_states",
    "rank_of",
    "reduced_system",
    "warn_unless_stable",
]

Array = NDArray[np.float64]
Method = Literal["square-root", "balancing-free"]


class System(NamedTuple):
    """Matrices with all inputs, innovations among them, and the inputs' scale that counts as one."""

    A: Array
    B: Array
    C: Array
    D: Array
    weight: Array

    @classmethod
    def of(cls, model: StateSpace) -> System:
        """Inputs and innovations of a model side by side."""
        if not isinstance(model, InnovationsModel):
            return cls(model.A, model.B, model.C, model.D, np.eye(model.n_inputs))
        joint = np.hstack([model.B, model.K]), np.hstack([model.D, np.eye(model.n_outputs)])
        weight = scipy.linalg.block_diag(np.eye(model.n_inputs), root(model.Re))
        return cls(model.A, joint[0], model.C, joint[1], weight)

    def driven(self, dt: float | None) -> StateSpace:
        """The model from inputs of unit scale to the outputs."""
        return StateSpace(self.A, self.B @ self.weight, self.C, self.D @ self.weight, dt)


class Parts(NamedTuple):
    """A model's whole system, its stable part in Schur coordinates, and the bases of both parts."""

    whole: System
    stable: System
    bases: Coordinates

    @classmethod
    def of(cls, model: StateSpace) -> Parts:
        """Split off what is not stable."""
        bases, whole = coordinates(model), System.of(model)
        right, left = bases.right[0], bases.left[0]
        stable = System(bases.A_stable, left @ whole.B, whole.C @ right, whole.D, whole.weight)
        return cls(whole, stable, bases)

    @property
    def unstable(self) -> int:
        """How many poles are kept whole."""
        return len(self.bases.A_antistable)


class Factors(NamedTuple):
    """Gramian factors, and the decomposition of their product."""

    reach: Array
    sight: Array
    U: Array
    hsv: Array
    V: Array


def check_options(caller: str, order: int | None, method: str, tol: float | None = None) -> None:
    """Refuse what contradicts itself or is not known."""
    if order is not None and tol is not None:
        raise RealizationError(f"{caller}: order and tol both came; give one of them.")
    if order is not None and not (order >= 0 and np.isfinite(order) and order == int(order)):
        raise RealizationError(f"{caller}: order={order} came; it must be a whole number, at least 0.")
    if tol is not None and not (np.isfinite(tol) and tol >= 0):
        raise DataError(f"{caller}: tol={tol} came; it must be at least 0, in units of the bound.")
    if method not in ("square-root", "balancing-free"):
        raise RealizationError(
            f"{caller}: method={method!r} came; it must be 'square-root' or 'balancing-free'."
        )


def balanced(reach: Array, sight: Array) -> Factors:
    r"""Decompose $L_o^\top L_c = U \Sigma V^\top$."""
    if reach.size == 0 or sight.size == 0:
        empty = np.zeros((0, 0))
        return Factors(reach, sight, empty, np.zeros(0), empty)
    U, hsv, Vt = scipy.linalg.svd(sight.T @ reach, full_matrices=False, check_finite=False)
    return Factors(reach, sight, U, hsv, Vt.T)


def rank_of(hsv: Array) -> int:
    """How many singular values stand above rounding."""
    return int((hsv > len(hsv) * EPS * hsv.max(initial=0.0)).sum())


def kept_states(caller: str, hsv: Array, order: int | None, unstable: int) -> int:
    """How many stable states stay: all above rounding where no order came."""
    rank = rank_of(hsv)
    if order is None:
        return rank
    if order < unstable:
        raise UnstableError(
            f"{caller}: order={order} came; the model has {unstable} poles on or beyond the "
            f"stability limit, which are kept whole. Ask for at least {unstable}."
        )
    if order - unstable > rank:
        warn(
            f"{caller}: order={order} came; only {rank + unstable} states stand above rounding, "
            "the result has those.",
            OrderWarning,
            stacklevel=3,
        )
    return min(rank, int(order) - unstable)


def reduced_system(
    system: System, factors: Factors, kept: int, method: Method, match_dc: bool, point: float
) -> System:
    """Truncation, or singular perturbation with the states that go settled at the frequency `point`.

    That is truncation of the inverse: of `Φ = (point I - A)⁻¹` in the place of `A`. States whose values are
    rounding have no part in it.
    """
    right, left = _bases(factors, slice(0, kept), method)
    A, B, C, D, weight = system
    if not match_dc:
        return System(left.T @ A @ right, left.T @ B, C @ right, D, weight)
    n, m = B.shape
    settled = np.linalg.solve(point * np.eye(n) - A, np.hstack([B, right]))
    at_rest, moved = settled[:, :m], settled[:, m:]
    solved = np.linalg.inv(left.T @ moved)
    state, direct = solved, solved @ (left.T @ at_rest)
    return System(
        point * np.eye(kept) - state, direct, C @ moved @ state, D + C @ (at_rest - moved @ direct), weight
    )


def _bases(factors: Factors, chosen: slice, method: Method) -> tuple[Array, Array]:
    """Right and left bases of a group of balanced states, `leftᵀ right = I`."""
    scale = np.sqrt(factors.hsv[chosen])
    right = factors.reach @ factors.V[:, chosen] / scale
    left = factors.sight @ factors.U[:, chosen] / scale
    if method == "square-root" or right.shape[1] == 0:
        return right, left
    # Orthonormal on the right; on the left what keeps `leftᵀ right = I` without solving with a product of
    # bases, whose condition is that of the projection.
    right, R = np.linalg.qr(right)
    return np.asarray(right, dtype=float), np.asarray(left @ R.T, dtype=float)


def difference(full: StateSpace, reduced: StateSpace) -> StateSpace:
    """The error system, outputs of `full` less those of `reduced`."""
    return StateSpace(
        scipy.linalg.block_diag(full.A, reduced.A),
        np.vstack([full.B, reduced.B]),
        np.hstack([full.C, -reduced.C]),
        full.D - reduced.D,
        full.dt,
    )


def assembled(caller: str, model: StateSpace, parts: Parts, reduced: System) -> StateSpace:
    """The reduced stable part beside the antistable one, as a model of the kind that came."""
    bases, whole = parts.bases, parts.whole
    A = scipy.linalg.block_diag(reduced.A, bases.A_antistable)
    B = np.vstack([reduced.B, bases.left[1] @ whole.B])
    C, D = np.hstack([reduced.C, whole.C @ bases.right[1]]), reduced.D
    if not isinstance(model, InnovationsModel):
        return StateSpace(A, B, C, D, model.dt)
    m = model.n_inputs
    gain = D[:, m:]
    if np.linalg.cond(gain) > 1 / EPS:
        raise RankError(
            f"{caller}: at this order the innovations no longer reach every output directly, so "
            "there is no innovations form; try another order, or match_dc=False."
        )
    K = np.linalg.solve(gain.T, B[:, m:].T).T
    Re = gain @ model.Re @ gain.T
    return InnovationsModel(
        A, B[:, :m], C, D[:, :m], model.dt, K, (Re + Re.T) / 2, model.u_mean, model.y_mean
    )


def warn_unless_stable(caller: str, result: StateSpace, A: Array, why: str) -> None:
    """Say so where the reduced stable part, or the predictor, is not stable."""
    if not StateSpace(A, A[:, :0], A[:0], dt=result.dt).is_stable:
        warn(
            f"{caller}: {why}, and the reduced model is not stable; choose another order.",
            StabilityWarning,
            stacklevel=3,
        )
    if isinstance(result, InnovationsModel) and not result.predictor.is_stable:
        warn(
            f"{caller}: the predictor of the reduced model, A - K C, is not stable; choose another order.",
            StabilityWarning,
            stacklevel=3,
        )
