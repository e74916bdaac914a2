r"""Balanced stochastic truncation: reduction whose error is bounded relative to the model's own gain."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from realization.errors import ConvergenceError, DataError, RankError, UnstableError
from realization.systems.bilinear import to_continuous, to_discrete
from realization.systems.lyapunov import EPS, lyapunov_factor
from realization.systems.models import StateSpace
from realization.systems.norms import hinf_norm
from realization.systems.projection import (
    Factors,
    Method,
    Parts,
    System,
    assembled,
    balanced,
    check_options,
    kept_states,
    reduced_system,
    warn_unless_stable,
)
from realization.systems.rounding import gain_rounding
from realization.systems.spectral_factor import phase_factor, spectral_factor

__all__ = ["StochasticTruncation", "balanced_stochastic_truncation"]

Array = NDArray[np.float64]
NAME = "balanced_stochastic_truncation"


@dataclass(frozen=True, eq=False)
class StochasticTruncation:
    r"""A reduced model and its relative error.

    Attributes
    ----------
    model : StateSpace or InnovationsModel
        The reduced model, of the kind that came.
    hsv : ndarray, shape (n_stable,)
        Singular values of the phase, between 0 and 1, largest first; one for each zero beyond the stability
        limit.
    order : int
        Number of states of `model`.
    unstable : int
        How many of them are unstable poles, kept as they were.
    bound : float
        $\prod_{i > r} (1 + \sigma_i) / (1 - \sigma_i) - 1$ and an estimate of what rounding adds, an upper
        bound on `relative_error`; infinite where a value of one was cut.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(np.diag([0.9, 0.5, -0.4]), np.ones((3, 1)), [[1.0, 0.1, 0.1]], [[1.0]])
    >>> result = rz.balanced_stochastic_truncation(model, order=1)
    >>> bool(0 < result.relative_error <= result.bound), result.model.n_states
    (True, 1)
    """

    model: StateSpace
    hsv: Array
    order: int
    unstable: int
    _relative: StateSpace

    @cached_property
    def bound(self) -> float:
        """Upper bound on the relative error."""
        cut = self.hsv[self.order - self.unstable :]
        if (cut >= 1 - np.sqrt(EPS)).any():
            return np.inf
        return float(np.expm1(np.sum(np.log1p(cut) - np.log1p(-cut)))) + gain_rounding(self._relative)

    @cached_property
    def relative_error(self) -> float:
        r"""Measured $\lVert V^{-1} (G - G_r) \rVert_\infty$ with $V V^* = G G^*$, $V$ and its inverse stable.

        Of a square invertible model it is $\lVert G^{-1} (G - G_r) \rVert_\infty$. Computed when it is first
        asked for; of the stable part, and with `alpha` relative to $G G^* + \alpha^2 I$. Infinite where a
        zero of the model lies on the stability limit, up to rounding.
        """
        try:
            return hinf_norm(self._relative).value
        except UnstableError:
            return np.inf


def balanced_stochastic_truncation(
    model: StateSpace,
    order: int | None = None,
    *,
    alpha: float = 0.0,
    method: Method = "square-root",
    match_dc: bool = False,
) -> StochasticTruncation:
    r"""Reduce a model so that its error is small *relative* to its gain, at every frequency.

    $P$ is the controllability gramian, and $Q$ the observability gramian of the spectral factor $W$ of
    $G G^* = W^* W$:

    $$A P + P A^\top + B B^\top = 0, \qquad
    A^\top Q + Q A + (C - B_w^\top Q)^\top (D D^\top)^{-1} (C - B_w^\top Q) = 0, \qquad
    B_w = P C^\top + B D^\top$$

    The square roots $\sigma_i \le 1$ of the eigenvalues of $P Q$ are the Hankel singular values of the phase
    $(W^*)^{-1} G$. Balancing $P$ against $Q$ and cutting gives

    $$\lVert G^{-1} (G - G_r) \rVert_\infty \le \prod_{i > r} \frac{1 + \sigma_i}{1 - \sigma_i} - 1$$

    Discrete time goes through the bilinear transformation $s = (z - 1) / (z + 1)$, which keeps $P$, $Q$,
    $\sigma_i$ and the error: the bound is the same, and the gain at the Nyquist frequency (with `match_dc`
    that at frequency zero) is kept exactly.

    An `InnovationsModel` is taken from inputs and innovations of unit variance, `[u, e]`; without inputs the
    method is the balancing of its phase as a process (Desai and Pal), and the reduced model is one again.

    Parameters
    ----------
    model : StateSpace
        Continuous (`dt=0.0`) or discrete, with $G G^*$ of full rank at every frequency: in continuous time
        `D` of full row rank, in discrete time the response at the Nyquist frequency, and no zero on the
        stability limit. Only the stable part is reduced, and the relative error is that of this part.
    order : int, optional
        Number of states of the result, unstable poles included; all above rounding when left out. Values
        $\sigma_i = 1$ belong to zeros beyond the stability limit and should stay.
    alpha : float
        Take $[G,\ \alpha I]$ in the place of $G$, in the units of the gain: for a model that lacks the rank.
        The error is then relative where the gain is above `alpha`, absolute where it is below.
    method : {"square-root", "balancing-free"}
        As for `balanced_truncation`.
    match_dc : bool
        Singular perturbation instead of truncation: exact at frequency zero, with the same bound.

    Returns
    -------
    StochasticTruncation
        `.model`, `.hsv`, `.bound`, `.order`, `.unstable`, and `.relative_error`, measured, on demand.

    Raises
    ------
    RankError
        If $D D^\top$ is singular (discrete time: the gain at the Nyquist frequency).
    DataError
        If `alpha` is negative or not finite.
    UnstableError
        If `order` is below the number of unstable poles.
    RealizationError
        If an option is not known.
    ConvergenceError
        If the gain spans too many decades for its square, or stable and unstable poles cannot be told apart.

    Warns
    -----
    OrderWarning
        If fewer states than `order` stand above rounding; the result has those.
    StabilityWarning
        If the cut falls between equal values and the reduced model is not stable, or if the predictor of a
        reduced `InnovationsModel` is not.

    References
    ----------
    U. B. Desai, D. Pal, A transformation approach to stochastic model reduction, IEEE Trans. Automatic
    Control 29 (1984) 1097-1100.
    M. Green, A relative error bound for balanced stochastic truncation, IEEE Trans. Automatic Control 33
    (1988) 961-965.
    A. Varga, K. H. Fasol, A new square-root balancing-free stochastic truncation model reduction algorithm,
    Proc. 12th IFAC World Congress, Sydney 1993, vol. 7, 153-156.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace([[-1.0]], [[1.0]], [[1.0]], [[1.0]], dt=0.0)  # (s + 2) / (s + 1)
    >>> result = rz.balanced_stochastic_truncation(model, order=0)
    >>> result.hsv.round(6), round(result.bound, 6), round(result.relative_error, 6)
    (array([0.333333]), 1.0, 0.5)
    """
    check_options(NAME, order, method)
    if not (np.isfinite(alpha) and alpha >= 0):
        raise DataError(f"{NAME}: alpha={alpha} came; it must be at least 0, in units of the gain.")
    parts = Parts.of(model)
    stable = parts.stable if model.dt == 0 else to_continuous(parts.stable, NAME)
    driven = _regularized(stable, alpha)
    _check_rank(driven)
    weighted = parts.stable.B @ parts.stable.weight
    reach = lyapunov_factor(parts.stable.A, weighted, discrete=model.dt != 0)
    factor = spectral_factor(driven, NAME)
    factors = _within_one(balanced(reach, phase_factor(factor)))
    kept = kept_states(NAME, factors.hsv, order, parts.unstable)
    small = reduced_system(stable, factors, kept, method, match_dc, 0.0)
    reduced = small if model.dt == 0 else to_discrete(small)
    result = assembled(NAME, model, parts, reduced)
    warn_unless_stable(NAME, result, reduced.A, "the cut falls between equal values of the phase")
    relative = factor.whitened(to_discrete(_regularized(small, alpha), factor.rate)).driven(None)
    return StochasticTruncation(result, factors.hsv, kept + parts.unstable, parts.unstable, relative)


def _within_one(factors: Factors) -> Factors:
    """Values of the phase, with those that rounding lifts above one put back."""
    if factors.hsv.max(initial=0.0) > 1 + 1e-5:
        raise ConvergenceError(
            f"{NAME}: a singular value of the phase came out as {factors.hsv[0]:.6g}; none can exceed 1. The "
            "gain spans more decades than rounding leaves: give alpha > 0, a gain below which the error may "
            "be absolute, or a larger one."
        )
    return factors._replace(hsv=np.minimum(factors.hsv, 1.0))


def _regularized(system: System, alpha: float) -> System:
    """`[G, α I]` from inputs of unit scale."""
    B, D, p = system.B @ system.weight, system.D @ system.weight, len(system.C)
    if alpha > 0:
        B, D = np.hstack([B, np.zeros((len(B), p))]), np.hstack([D, alpha * np.eye(p)])
    return System(system.A, B, system.C, D, np.eye(B.shape[1]))


def _check_rank(system: System) -> None:
    values = np.linalg.svd(system.D, compute_uv=False)
    p, m = system.D.shape
    if p > m or (p and not values[-1] > 10 * EPS * values[0]):
        raise RankError(
            f"{NAME}: the direct term has singular values {values.round(12).tolist()} for {p} outputs; it "
            "needs full row rank (in discrete time: the gain at the Nyquist frequency), else no relative "
            "error is finite there. Give alpha > 0, a gain below which the error may be absolute."
        )
