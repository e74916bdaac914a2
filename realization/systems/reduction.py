"""Balanced truncation: states that are hard to reach and hard to see go, with a bound on what that costs."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
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
from realization.systems.gramians import root
from realization.systems.lyapunov import EPS, lyapunov_factor
from realization.systems.models import InnovationsModel, StateSpace
from realization.systems.norms import hinf_norm
from realization.systems.split import Coordinates, coordinates

__all__ = ["BalancedTruncation", "balanced_truncation"]

Array = NDArray[np.float64]
Method = Literal["square-root", "balancing-free"]


@dataclass(frozen=True, eq=False)
class BalancedTruncation:
    r"""A reduced model and what the reduction costs.

    Attributes
    ----------
    model : StateSpace or InnovationsModel
        The reduced model, of the kind that came.
    hsv : ndarray, shape (n_stable,)
        Hankel singular values of the whole stable part, largest first.
    order : int
        Number of states of `model`.
    unstable : int
        How many of them are unstable poles, kept as they were.
    bound : float
        Twice the sum of the `hsv` that were cut: an upper bound on `error`.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(np.diag([0.9, 0.5, -0.4]), np.ones((3, 1)), [[1.0, 0.1, 0.1]])
    >>> result = rz.balanced_truncation(model, order=1)
    >>> bool(0 < result.error <= result.bound), result.model.n_states
    (True, 1)
    """

    model: StateSpace
    hsv: Array
    order: int
    unstable: int
    bound: float
    _full: StateSpace
    _reduced: StateSpace

    @cached_property
    def error(self) -> float:
        r"""Measured error $\lVert G - G_r \rVert_\infty$, computed when it is first asked for.

        Of an `InnovationsModel`, the error from inputs and innovations at unit variance, `[u, e]`, to the
        outputs.
        """
        full, reduced = self._full, self._reduced
        difference = StateSpace(
            scipy.linalg.block_diag(full.A, reduced.A),
            np.vstack([full.B, reduced.B]),
            np.hstack([full.C, -reduced.C]),
            full.D - reduced.D,
            full.dt,
        )
        return hinf_norm(difference).value


def balanced_truncation(
    model: StateSpace,
    order: int | None = None,
    *,
    tol: float | None = None,
    method: Method = "square-root",
    match_dc: bool = False,
) -> BalancedTruncation:
    r"""Reduce a model by balanced truncation.

    With factors $W_c = L_c L_c^\top$, $W_o = L_o L_o^\top$ of the gramians and
    $L_o^\top L_c = U \Sigma V^\top$,

    $$T = L_c V_1 \Sigma_1^{-1/2}, \quad W = L_o U_1 \Sigma_1^{-1/2}, \quad
    A_r = W^\top A T, \quad B_r = W^\top B, \quad C_r = C T$$

    $$\lVert G - G_r \rVert_\infty \le 2 \sum_{i > r} \sigma_i$$

    Only the stable part is reduced; poles on or beyond the stability limit are split off and kept whole. An
    `InnovationsModel` is reduced on its path from inputs and innovations of unit variance, `[u, e]`, and
    stays one: the same projection acts on `K`; `Re` and the means are kept.

    Parameters
    ----------
    model : StateSpace
        Continuous (`dt=0.0`) or discrete.
    order : int, optional
        Number of states of the result, unstable poles included.
    tol : float, optional
        In the place of `order`: the lowest order whose `bound` is at most `tol`. With neither, all states
        whose Hankel singular value is above rounding are kept, a minimal realization.
    method : {"square-root", "balancing-free"}
        Balanced coordinates, or orthonormal bases of the same subspaces: the same transfer function, better
        conditioned where the singular values that are kept spread over many decades.
    match_dc : bool
        Singular perturbation instead of truncation: the states that go are set to their steady state, so that
        the gain at frequency zero is exact. The bound is the same. In an `InnovationsModel` the innovations,
        hence `K` and `Re`, are scaled so that they enter the output with gain one again.

    Returns
    -------
    BalancedTruncation
        `.model`, `.hsv`, `.bound`, `.order`, `.unstable`, and `.error`, the measured H∞ error, on demand.

    Raises
    ------
    UnstableError
        If `order` is below the number of unstable poles.
    RealizationError
        If options contradict each other or are not known.
    ConvergenceError
        If stable and unstable poles cannot be told apart, or entries are out of range.

    Warns
    -----
    OrderWarning
        If fewer states than `order` stand above rounding; the result has those.
    StabilityWarning
        If the cut falls between equal singular values and the reduced model is not stable, or if the
        predictor of a reduced `InnovationsModel` is not.

    References
    ----------
    B. C. Moore, Principal component analysis in linear systems, IEEE Trans. Automatic Control 26 (1981)
    17-32.
    M. S. Tombs, I. Postlethwaite, Truncated balanced realization of a stable non-minimal state-space system,
    Int. J. Control 46 (1987) 1319-1330.
    A. Varga, Efficient minimal realization procedure based on balancing, IMACS Symposium MCTS 1991, section
    2.
    Y. Liu, B. D. O. Anderson, Singular perturbation approximation of balanced systems, Int. J. Control 50
    (1989) 1379-1405.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(np.diag([0.9, 0.5, -0.4]), np.ones((3, 1)), [[1.0, 0.1, 0.1]])
    >>> result = rz.balanced_truncation(model, order=2)
    >>> result.order, result.hsv.round(3)
    (2, array([5.338, 0.149, 0.029]))
    """
    _check_options(order, tol, method)
    parts, system = coordinates(model), _System.of(model)
    right, left = parts.right[0], parts.left[0]
    stable = _System(parts.A_stable, left @ system.B, system.C @ right, system.D, system.weight)
    factors = _factors(stable, discrete=model.dt != 0)
    unstable = len(parts.A_antistable)
    kept = _kept(factors.hsv, order, tol, unstable)
    reduced = _reduce(stable, factors, kept, method, match_dc, 0.0 if model.dt == 0 else 1.0)
    result = _assemble(model, parts, system, reduced)
    _warn_unless_stable(result, reduced.A)
    bound = 2.0 * float(factors.hsv[kept:].sum())
    pair = stable.driven(model.dt), reduced.driven(model.dt)
    return BalancedTruncation(result, factors.hsv, kept + unstable, unstable, bound, *pair)


class _System(NamedTuple):
    """Matrices with all inputs, innovations among them, and the inputs' scale that counts as one."""

    A: Array
    B: Array
    C: Array
    D: Array
    weight: Array

    @classmethod
    def of(cls, model: StateSpace) -> _System:
        if not isinstance(model, InnovationsModel):
            return cls(model.A, model.B, model.C, model.D, np.eye(model.n_inputs))
        joint = np.hstack([model.B, model.K]), np.hstack([model.D, np.eye(model.n_outputs)])
        weight = scipy.linalg.block_diag(np.eye(model.n_inputs), root(model.Re))
        return cls(model.A, joint[0], model.C, joint[1], weight)

    def driven(self, dt: float | None) -> StateSpace:
        return StateSpace(self.A, self.B @ self.weight, self.C, self.D @ self.weight, dt)


class _Factors(NamedTuple):
    """Gramian factors, and the decomposition of their product."""

    reach: Array
    sight: Array
    U: Array
    hsv: Array
    V: Array


def _check_options(order: int | None, tol: float | None, method: str) -> None:
    if order is not None and tol is not None:
        raise RealizationError("balanced_truncation: order and tol both came; give one of them.")
    if order is not None and (order != int(order) or order < 0):
        raise RealizationError(
            f"balanced_truncation: order={order} came; it must be a whole number, at least 0."
        )
    if tol is not None and not (np.isfinite(tol) and tol >= 0):
        raise DataError(
            f"balanced_truncation: tol={tol} came; it must be at least 0, in units of the H∞ error."
        )
    if method not in ("square-root", "balancing-free"):
        raise RealizationError(
            f"balanced_truncation: method={method!r} came; it must be 'square-root' or 'balancing-free'."
        )


def _factors(system: _System, *, discrete: bool) -> _Factors:
    reach = lyapunov_factor(system.A, system.B @ system.weight, discrete=discrete)
    sight = lyapunov_factor(system.A, system.C.T, discrete=discrete, transposed=True)
    if len(system.A) == 0:
        return _Factors(reach, sight, reach, np.zeros(0), reach)
    U, hsv, Vt = scipy.linalg.svd(sight.T @ reach, check_finite=False)
    return _Factors(reach, sight, U, hsv, Vt.T)


def _kept(hsv: Array, order: int | None, tol: float | None, unstable: int) -> int:
    """How many stable states stay."""
    rank = int((hsv > len(hsv) * EPS * hsv.max(initial=0.0)).sum())
    if order is None:
        if tol is None:
            return rank
        bounds = 2.0 * np.append(np.cumsum(hsv[::-1])[::-1], 0.0)
        return min(rank, int(np.argmax(bounds <= tol)))
    if order < unstable:
        raise UnstableError(
            f"balanced_truncation: order={order} came; the model has {unstable} poles on or beyond the "
            f"stability limit, which are kept whole. Ask for at least {unstable}."
        )
    if order - unstable > rank:
        warnings.warn(
            f"balanced_truncation: order={order} came; only {rank + unstable} states stand above rounding, "
            "the result has those.",
            OrderWarning,
            stacklevel=3,
        )
    return min(rank, order - unstable)


def _reduce(
    system: _System, factors: _Factors, kept: int, method: Method, match_dc: bool, point: float
) -> _System:
    right, left = _bases(factors, slice(0, kept), method)
    A, B, C, D = left.T @ system.A @ right, left.T @ system.B, system.C @ right, system.D
    if match_dc:
        hsv = factors.hsv
        rank = max(kept, int((hsv > len(hsv) * EPS * hsv.max(initial=0.0)).sum()))
        rest_right, rest_left = _bases(factors, slice(kept, rank), method)
        from_rest, to_rest = left.T @ system.A @ rest_right, rest_left.T @ system.A @ right
        rest_B, rest_C = rest_left.T @ system.B, system.C @ rest_right
        within = point * np.eye(rank - kept) - rest_left.T @ system.A @ rest_right
        settled = np.linalg.solve(within, np.hstack([to_rest, rest_B]))
        state, direct = settled[:, :kept], settled[:, kept:]
        A, B = A + from_rest @ state, B + from_rest @ direct
        C, D = C + rest_C @ state, D + rest_C @ direct
    return _System(A, B, C, D, system.weight)


def _bases(factors: _Factors, chosen: slice, method: Method) -> tuple[Array, Array]:
    """Right and left bases of a group of balanced states, `leftᵀ right = I`."""
    right, left = factors.reach @ factors.V[:, chosen], factors.sight @ factors.U[:, chosen]
    if method == "square-root" or right.shape[1] == 0:
        scale = np.sqrt(factors.hsv[chosen])
        return right / scale, left / scale
    right, left = (np.linalg.qr(basis)[0] for basis in (right, left))
    return right, np.asarray(np.linalg.solve(left.T @ right, left.T), dtype=float).T


def _assemble(model: StateSpace, parts: Coordinates, system: _System, reduced: _System) -> StateSpace:
    """The reduced stable part beside the antistable one, as a model of the kind that came."""
    A = scipy.linalg.block_diag(reduced.A, parts.A_antistable)
    B = np.vstack([reduced.B, parts.left[1] @ system.B])
    C, D = np.hstack([reduced.C, system.C @ parts.right[1]]), reduced.D
    if not isinstance(model, InnovationsModel):
        return StateSpace(A, B, C, D, model.dt)
    m = model.n_inputs
    gain = D[:, m:]
    if np.linalg.cond(gain) > 1 / EPS:
        raise RankError(
            "balanced_truncation: with match_dc the innovations no longer reach every output directly, so "
            "there is no innovations form at this order; try another order, or match_dc=False."
        )
    K = np.linalg.solve(gain.T, B[:, m:].T).T
    Re = gain @ model.Re @ gain.T
    return InnovationsModel(
        A, B[:, :m], C, D[:, :m], model.dt, K, (Re + Re.T) / 2, model.u_mean, model.y_mean
    )


def _warn_unless_stable(result: StateSpace, A: Array) -> None:
    if not StateSpace(A, A[:, :0], A[:0], dt=result.dt).is_stable:
        warnings.warn(
            "balanced_truncation: the cut falls between equal Hankel singular values, and the reduced model "
            "is not stable; choose another order.",
            StabilityWarning,
            stacklevel=3,
        )
    if isinstance(result, InnovationsModel) and not result.predictor.is_stable:
        warnings.warn(
            "balanced_truncation: the predictor of the reduced model, A - K C, is not stable; choose another "
            "order.",
            StabilityWarning,
            stacklevel=3,
        )
