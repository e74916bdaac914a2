"""Balanced truncation: states that are hard to reach and hard to see go, with a bound on what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from realization.errors import OrderWarning
from realization.notes import warn
from realization.systems.lyapunov import lyapunov_factor
from realization.systems.models import StateSpace
from realization.systems.projection import (
    Method,
    Parts,
    assembled,
    balanced,
    check_options,
    kept_states,
    rank_of,
    reduced_system,
    warn_unless_stable,
)
from realization.systems.rounding import gain_rounding, measured_error

__all__ = ["BalancedTruncation", "balanced_truncation", "singular_perturbation"]

Array = NDArray[np.float64]


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
        Twice the sum of the `hsv` that were cut, plus `rounding`: an upper bound on `error`.
    rounding : float
        Estimate of what rounding alone adds, in the units of the gain; beside poles close to the stability
        limit it may be all there is.

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
    _full: StateSpace
    _reduced: StateSpace

    @cached_property
    def rounding(self) -> float:
        """What rounding may add to the error, first order, computed when it is first asked for."""
        return gain_rounding(self._full, self._reduced)

    @property
    def bound(self) -> float:
        """Upper bound on the error: twice the sum of what was cut, and rounding."""
        return 2.0 * float(self.hsv[self.order - self.unstable :].sum()) + self.rounding

    @cached_property
    def error(self) -> float:
        r"""Measured error $\lVert G - G_r \rVert_\infty$, computed when it is first asked for.

        Of an `InnovationsModel`, the error from inputs and innovations at unit variance, `[u, e]`, to the
        outputs.
        """
        return measured_error(self._full, self._reduced)


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
        In the place of `order`: the lowest order at which twice the sum of what is cut is at most `tol`. With
        neither, all states whose Hankel singular value is above rounding are kept, a minimal realization.
    method : {"square-root", "balancing-free"}
        Balanced coordinates, or an orthonormal basis of the same subspace: the same transfer function, with a
        state that is better scaled where the singular values that are kept spread over many decades.
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
        If fewer states than `order` stand above rounding; the result has those. If `tol` is below what
        rounding may add.
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
    return _truncated("balanced_truncation", model, order, tol, method, match_dc)


def singular_perturbation(
    model: StateSpace,
    order: int | None = None,
    *,
    tol: float | None = None,
    method: Method = "square-root",
) -> BalancedTruncation:
    r"""Reduce a model by singular perturbation of its balanced form: exact at frequency zero.

    The balanced states that go are not set to zero but to their steady state,
    $0 = A_{21} x_1 + A_{22} x_2 + B_2 u$ (discrete time: $x_2 = A_{21} x_1 + A_{22} x_2 + B_2 u$), so that

    $$A_r = A_{11} - A_{12} A_{22}^{-1} A_{21}, \qquad G_r(0) = G(0), \qquad
    \lVert G - G_r \rVert_\infty \le 2 \sum_{i > r} \sigma_i$$

    It is `balanced_truncation` with `match_dc=True` under its own name.

    Parameters
    ----------
    model : StateSpace
        Continuous (`dt=0.0`) or discrete.
    order : int, optional
        Number of states of the result, unstable poles included.
    tol : float, optional
        In the place of `order`: the lowest order at which twice the sum of what is cut is at most `tol`.
    method : {"square-root", "balancing-free"}
        As for `balanced_truncation`.

    Returns
    -------
    BalancedTruncation
        `.model`, `.hsv`, `.bound`, `.order`, `.unstable`, and `.error`, the measured H∞ error, on demand.

    Raises
    ------
    UnstableError, RealizationError, ConvergenceError
        As `balanced_truncation`.

    Warns
    -----
    OrderWarning, StabilityWarning
        As `balanced_truncation`.

    References
    ----------
    K. V. Fernando, H. Nicholson, Singular perturbational model reduction of balanced systems, IEEE Trans.
    Automatic Control 27 (1982) 466-468.
    Y. Liu, B. D. O. Anderson, Singular perturbation approximation of balanced systems, Int. J. Control 50
    (1989) 1379-1405.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(np.diag([0.9, 0.5, -0.4]), np.ones((3, 1)), [[1.0, 0.1, 0.1]])
    >>> few = rz.singular_perturbation(model, order=1).model
    >>> gain = [abs(each.frequency_response([0.0]).item()) for each in (model, few)]
    >>> [round(value, 9) for value in gain]
    [10.271428571, 10.271428571]
    """
    return _truncated("singular_perturbation", model, order, tol, method, True)


def _truncated(
    caller: str, model: StateSpace, order: int | None, tol: float | None, method: Method, match_dc: bool
) -> BalancedTruncation:
    check_options(caller, order, method, tol)
    parts, discrete = Parts.of(model), model.dt != 0
    stable, unstable = parts.stable, parts.unstable
    reach = lyapunov_factor(stable.A, stable.B @ stable.weight, discrete=discrete)
    sight = lyapunov_factor(stable.A, stable.C.T, discrete=discrete, transposed=True)
    factors = balanced(reach, sight)
    hsv = factors.hsv
    kept = kept_states(caller, hsv, order, unstable) if tol is None else _within(tol, hsv)
    reduced = reduced_system(stable, factors, kept, method, match_dc, float(discrete))
    result = assembled(caller, model, parts, reduced)
    warn_unless_stable(caller, result, reduced.A, "the cut falls between equal Hankel singular values")
    pair = stable.driven(model.dt), reduced.driven(model.dt)
    reduction = BalancedTruncation(result, hsv, kept + unstable, unstable, *pair)
    if tol is not None and tol < 1e-6 * hsv.max(initial=0.0) and reduction.rounding > tol:
        warn(
            f"{caller}: tol={tol:.3g} came; beside poles so close to the stability limit, rounding alone may "
            f"change the gain by {reduction.rounding:.2g}.",
            OrderWarning,
            stacklevel=3,
        )
    return reduction


def _within(tol: float, hsv: Array) -> int:
    """Fewest states at which twice the sum of the others is at most `tol`."""
    bounds = 2.0 * np.append(np.cumsum(hsv[::-1])[::-1], 0.0)
    return min(rank_of(hsv), int(np.argmax(bounds <= tol)))
