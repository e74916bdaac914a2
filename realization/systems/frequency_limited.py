"""Balanced truncation for a frequency band: small error there, at the expense of the other frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.systems.limited_gramians import Band, band_function
from realization.systems.lyapunov import EPS, lyapunov_factor
from realization.systems.models import StateSpace
from realization.systems.norms import checked_band, hinf_norm
from realization.systems.projection import (
    Method,
    Parts,
    assembled,
    balanced,
    check_options,
    difference,
    kept_states,
    reduced_system,
    warn_unless_stable,
)
from realization.systems.rounding import gain_rounding, measured_error

__all__ = ["FrequencyLimitedTruncation", "frequency_limited_truncation"]

Array = NDArray[np.float64]
NAME = "frequency_limited_truncation"


@dataclass(frozen=True, eq=False)
class FrequencyLimitedTruncation:
    r"""A reduced model, and its error inside and outside the band.

    Attributes
    ----------
    model : StateSpace or InnovationsModel
        The reduced model, of the kind that came.
    hsv : ndarray, shape (n_stable,)
        Roots of the eigenvalues of the product of the gramians that were balanced, largest first.
    order : int
        Number of states of `model`.
    unstable : int
        How many of them are unstable poles, kept as they were.
    band : tuple of float
        Where the error was to be small, rad/s.
    bound : float
        Upper bound on `error`, with an estimate of what rounding adds; infinite without `modified=True`, for
        then none is known.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace(np.diag([0.9, 0.5, -0.4]), np.ones((3, 1)), [[1.0, 0.1, 0.1]])
    >>> result = rz.frequency_limited_truncation(model, 1, band=(2.0, np.pi))
    >>> bool(result.band_error < result.error)
    True
    """

    model: StateSpace
    hsv: Array
    order: int
    unstable: int
    band: Band
    _exact_bound: float
    _full: StateSpace
    _reduced: StateSpace

    @cached_property
    def bound(self) -> float:
        """Upper bound on the error over all frequencies."""
        exact = self._exact_bound
        return exact + gain_rounding(self._full, self._reduced) if np.isfinite(exact) else np.inf

    @cached_property
    def band_error(self) -> float:
        r"""Measured: the largest $\lVert G - G_r \rVert$ in the band, computed when it is first asked for."""
        return hinf_norm(difference(self._full, self._reduced), band=self.band).value

    @cached_property
    def error(self) -> float:
        r"""Measured: the largest $\lVert G - G_r \rVert$ over all frequencies; infinite if unstable."""
        return measured_error(self._full, self._reduced)


def frequency_limited_truncation(
    model: StateSpace,
    order: int | None = None,
    *,
    band: Band,
    modified: bool = False,
    method: Method = "square-root",
) -> FrequencyLimitedTruncation:
    r"""Reduce a model so that it is right in a frequency band.

    The gramians of the band, $W_c(\Omega)$ and $W_o(\Omega)$ of `frequency_limited_gramians`, are balanced
    against each other and cut. They solve Lyapunov equations with indefinite right-hand sides,

    $$A W_c(\Omega) + W_c(\Omega) A^\top + F B B^\top + B B^\top F^\top = 0,$$

    so that neither stability nor a bound is promised; a warning says when stability is lost, and both errors
    are measured. With `modified=True` the right-hand side is replaced by its modulus
    $\hat B \hat B^\top = |F B B^\top + B B^\top F^\top|$: the result is stable, and where $B$ and $C$ lie in
    the ranges of $\hat B$ and $\hat C^\top$, $B = \hat B J_b$ and $C = J_c \hat C$,

    $$\lVert G - G_r \rVert_\infty \le 2 \lVert J_b \rVert \lVert J_c \rVert \sum_{i > r} \hat\sigma_i$$

    but part of the advantage in the band is lost.

    Parameters
    ----------
    model : StateSpace
        Continuous (`dt=0.0`) or discrete. Only the stable part is reduced; an `InnovationsModel` is taken
        from inputs and innovations of unit variance, as in `balanced_truncation`.
    order : int, optional
        Number of states of the result, unstable poles included; all above rounding when left out.
    band : tuple of float
        Lowest and highest frequency in rad/s, with `dt=None` in rad per step.
    modified : bool
        Stability and a bound, for a larger error in the band.
    method : {"square-root", "balancing-free"}
        As for `balanced_truncation`.

    Returns
    -------
    FrequencyLimitedTruncation
        `.model`, `.hsv`, `.order`, `.unstable`, `.bound`, and measured on demand `.band_error`, `.error`.

    Raises
    ------
    DataError
        If the band is none.
    UnstableError
        If `order` is below the number of unstable poles.
    RealizationError
        If an option is not known.
    ConvergenceError
        If stable and unstable poles cannot be told apart, or entries are out of range.

    Warns
    -----
    OrderWarning
        If fewer states than `order` stand above rounding; the result has those.
    StabilityWarning
        If the reduced model is not stable, or the predictor of a reduced `InnovationsModel` is not.

    References
    ----------
    W. Gawronski, J.-N. Juang, Model reduction in limited time and frequency intervals, Int. J. Systems
    Science 21 (1990) 349-376.
    S. Gugercin, A. C. Antoulas, A survey of model reduction by balanced truncation and some new results, Int.
    J. Control 77 (2004) 748-766, section 4.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> A = np.array([[-0.1, 1, 0, 0], [-1, -0.1, 0, 0], [0, 0, -0.1, 8], [0, 0, -8, -0.1]])
    >>> model = rz.StateSpace(A, [[0.0], [1.0], [0.0], [1.0]], [[1.0, 0.0, 0.2, 0.0]], dt=0.0)
    >>> result = rz.frequency_limited_truncation(model, 2, band=(7.0, 9.0))
    >>> np.abs(result.model.poles).round(1)  # the weaker mode stays
    array([8., 8.])
    >>> round(result.band_error, 2), round(result.error, 1)
    (0.02, 5.0)
    """
    check_options(NAME, order, method)
    limits = checked_band(NAME, model, band)
    parts, discrete = Parts.of(model), model.dt != 0
    stable = parts.stable
    F, B, C = band_function(stable.A, limits, model.dt), stable.B @ stable.weight, stable.C
    if modified:
        inputs, factor_in = _modulus(F @ B, B)
        outputs, factor_out = _modulus(F.T @ C.T, C.T)
        reach = lyapunov_factor(stable.A, inputs, discrete=discrete)
        sight = lyapunov_factor(stable.A, outputs, discrete=discrete, transposed=True)
    else:
        factor_in = factor_out = np.inf
        reach = _limited(F, lyapunov_factor(stable.A, B, discrete=discrete))
        sight = _limited(F.T, lyapunov_factor(stable.A, C.T, discrete=discrete, transposed=True))
    factors = balanced(reach, sight)
    hsv = factors.hsv
    kept = kept_states(NAME, hsv, order, parts.unstable)
    reduced = reduced_system(stable, factors, kept, method, False, float(discrete))
    result = assembled(NAME, model, parts, reduced)
    warn_unless_stable(NAME, result, reduced.A, "without modified=True stability is not promised")
    tail = float(hsv[kept:].sum())
    bound = 2.0 * factor_in * factor_out * tail if tail > 0 else 0.0
    if not modified:
        bound = np.inf
    pair = stable.driven(model.dt), reduced.driven(model.dt)
    return FrequencyLimitedTruncation(
        result, hsv, kept + parts.unstable, parts.unstable, limits, bound, *pair
    )


def _limited(F: Array, factor: Array) -> Array:
    """Factor of `F P + P Fᵀ` for `P = R Rᵀ`: positive semidefinite up to rounding."""
    P = F @ factor @ factor.T
    values, vectors = np.linalg.eigh(P + P.T)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _modulus(moved: Array, B: Array) -> tuple[Array, float]:
    r"""Root of $|F B B^\top + B B^\top F^\top|$, and the norm of `J` in $B = \hat B J$ (infinite: none)."""
    basis, R = scipy.linalg.qr(np.hstack([moved, B]), mode="economic", check_finite=False)
    m = B.shape[1]
    cross = R[:, :m] @ R[:, m:].T
    values, vectors = np.linalg.eigh(cross + cross.T)
    size = np.abs(values)
    real = size > 10 * len(B) * EPS * size.max(initial=0.0)
    root = basis @ vectors[:, real] * np.sqrt(size[real])
    J = (vectors[:, real].T @ R[:, m:]) / np.sqrt(size[real])[:, None]
    missed = np.linalg.norm(B - root @ J) > 1e-6 * np.linalg.norm(B)
    return np.asarray(root, dtype=float), np.inf if missed else float(np.linalg.norm(J, 2)) if J.size else 0.0
