"""Gramians of a stable model, their factors, and the Hankel singular values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import UnstableError
from realization.systems.lyapunov import EPS, SchurForm, lyapunov_factor
from realization.systems.models import InnovationsModel, StateSpace

__all__ = [
    "GramianFactors",
    "controllability_gramian",
    "gramian_factors",
    "hankel_singular_values",
    "observability_gramian",
]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GramianFactors:
    r"""Factors of both gramians, $W_c = L_c L_c^\top$ and $W_o = L_o L_o^\top$.

    Attributes
    ----------
    Lc : ndarray, shape (n, n)
    Lo : ndarray, shape (n, n)

    Examples
    --------
    >>> from realization.systems import StateSpace, gramian_factors
    >>> factors = gramian_factors(StateSpace([[0.6]], [[0.8]], [[1.6]]))
    >>> abs(factors.Lc @ factors.Lc.T).round(12), abs(factors.Lo @ factors.Lo.T).round(12)
    (array([[1.]]), array([[4.]]))
    """

    Lc: Array
    Lo: Array


def controllability_gramian(model: StateSpace) -> Array:
    r"""Controllability gramian: the state covariance that unit white noise at the inputs keeps up.

    $$W_c = \sum_{k \ge 0} A^k B B^\top (A^\top)^k, \qquad A W_c A^\top - W_c + B B^\top = 0$$

    in continuous time $W_c = \int_0^\infty e^{At} B B^\top e^{A^\top t}\, dt$ and
    $A W_c + W_c A^\top + B B^\top = 0$. An `InnovationsModel` without inputs is driven by its innovations:
    $K R_e K^\top$ in the place of $B B^\top$.

    Parameters
    ----------
    model : StateSpace
        Stable; $x^\top W_c^{-1} x$ is the least input energy that reaches $x$.

    Returns
    -------
    Wc : ndarray, shape (n, n)

    Raises
    ------
    UnstableError
        If a pole is not stable.
    ConvergenceError
        If the solution misses its equation (entries out of range).

    References
    ----------
    A. C. Antoulas, *Approximation of Large-Scale Dynamical Systems*, SIAM 2005, sections 4.2 and 4.3.
    S. J. Hammarling, Numerical solution of the stable, non-negative definite Lyapunov equation, IMA J. Numer.
    Anal. 2 (1982) 303-323.

    Examples
    --------
    >>> import realization as rz
    >>> rz.controllability_gramian(rz.StateSpace([[-1.0]], [[2.0]], [[1.0]], dt=0.0)).round(12)
    array([[2.]])
    """
    form = stable_form(model, "controllability_gramian")
    factor = _reach(form, model)
    return factor @ factor.T


def observability_gramian(model: StateSpace) -> Array:
    r"""Observability gramian: $x^\top W_o x$ is the output energy that a state leaves behind.

    $$W_o = \sum_{k \ge 0} (A^\top)^k C^\top C A^k, \qquad A^\top W_o A - W_o + C^\top C = 0$$

    and in continuous time $A^\top W_o + W_o A + C^\top C = 0$.

    Parameters
    ----------
    model : StateSpace
        Stable.

    Returns
    -------
    Wo : ndarray, shape (n, n)

    Raises
    ------
    UnstableError, ConvergenceError
        As `controllability_gramian`.

    References
    ----------
    A. C. Antoulas, *Approximation of Large-Scale Dynamical Systems*, SIAM 2005, sections 4.2 and 4.3.

    Examples
    --------
    >>> import realization as rz
    >>> rz.observability_gramian(rz.StateSpace([[0.6]], [[1.0]], [[1.6]])).round(12)
    array([[4.]])
    """
    factor = _sight(stable_form(model, "observability_gramian"), model)
    return factor @ factor.T


def gramian_factors(model: StateSpace) -> GramianFactors:
    r"""Factors $L_c, L_o$ of both gramians, without forming a gramian.

    A product $L_o^\top L_c$ keeps what $W_c W_o$ loses: its singular values are the Hankel singular values,
    right to rounding of the largest instead of to the rounding's square root.

    Parameters
    ----------
    model : StateSpace
        Stable.

    Returns
    -------
    GramianFactors
        `.Lc`, `.Lo`, each (n, n).

    Raises
    ------
    UnstableError, ConvergenceError
        As `controllability_gramian`.

    References
    ----------
    S. J. Hammarling, Numerical solution of the stable, non-negative definite Lyapunov equation, IMA J. Numer.
    Anal. 2 (1982) 303-323.

    Examples
    --------
    >>> import numpy as np
    >>> from realization.systems import StateSpace, gramian_factors
    >>> factors = gramian_factors(StateSpace(np.diag([0.5, 0.2]), np.ones((2, 1)), np.ones((1, 2))))
    >>> np.linalg.svd(factors.Lo.T @ factors.Lc, compute_uv=False).round(4)
    array([2.3081, 0.0669])
    """
    form = stable_form(model, "gramian_factors")
    return GramianFactors(_reach(form, model), _sight(form, model))


def hankel_singular_values(model: StateSpace) -> Array:
    r"""Singular values of the operator from past inputs to future outputs.

    $$\sigma_i = \sqrt{\lambda_i(W_c W_o)} = \sigma_i(L_o^\top L_c)$$

    They do not depend on the state's coordinates. Errors are a small multiple of $\epsilon \sigma_1$ where
    the problem is well conditioned, and of $\epsilon \sigma_1 \lVert A \rVert / d$ in general, where $d$ is
    the distance of the poles from the stability limit. Values below that are rounding.

    Parameters
    ----------
    model : StateSpace
        Stable. An `InnovationsModel` is taken from `u` to `y` (from `e` to `y` where there is no `u`).

    Returns
    -------
    hsv : ndarray, shape (n,)
        Largest first.

    Raises
    ------
    UnstableError, ConvergenceError
        As `controllability_gramian`.

    References
    ----------
    K. Glover, All optimal Hankel-norm approximations of linear multivariable systems and their L∞-error
    bounds, Int. J. Control 39 (1984) 1115-1193, section 2.

    Examples
    --------
    >>> import realization as rz
    >>> rz.hankel_singular_values(rz.StateSpace([[0.6]], [[0.8]], [[1.6]])).round(12)
    array([2.])
    """
    form = stable_form(model, "hankel_singular_values")
    discrete = model.dt != 0
    reach = lyapunov_factor(form.T, form.inward(excitation(model)), discrete=discrete)
    sight = lyapunov_factor(form.T, form.outward(model.C).T, discrete=discrete, transposed=True)
    return scipy.linalg.svdvals(sight.T @ reach) if model.n_states else np.zeros(0)


def excitation(model: StateSpace) -> Array:
    """Input matrix that excites the state: `B`, or `K Re^(1/2)` where an innovations model has no inputs."""
    if isinstance(model, InnovationsModel) and model.n_inputs == 0:
        return model.K @ root(model.Re)
    return model.B


def root(covariance: Array) -> Array:
    """Symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def margin_of(model: StateSpace, form: SchurForm) -> float:
    """How far from the stability limit a pole must be to be told from it: rounding of the Schur form."""
    size = float(np.linalg.norm(form.T))
    return 10 * EPS * (size if model.dt == 0 else max(size, 1.0))


def stable_form(model: StateSpace, caller: str) -> SchurForm:
    """Schur form of a model all of whose poles are stable."""
    form = SchurForm.of(model.A)
    poles = form.eigenvalues
    distance = -poles.real if model.dt == 0 else 1 - np.abs(poles)
    if model.n_states and not distance.min() > margin_of(model, form):
        worst = poles[distance.argmin()]
        limit = "left of the imaginary axis" if model.dt == 0 else "inside the unit circle"
        raise UnstableError(
            f"{caller}: the model has a pole at {worst:.6g}; every pole must lie {limit}, else what is asked "
            "for is infinite. Try stable_antistable_split and take its stable part, or balanced_truncation, "
            "which keeps the unstable part whole."
        )
    return form


def _reach(form: SchurForm, model: StateSpace) -> Array:
    factor = lyapunov_factor(form.T, form.inward(excitation(model)), discrete=model.dt != 0)
    return form.scale[:, None] * (form.Z @ factor)


def _sight(form: SchurForm, model: StateSpace) -> Array:
    factor = lyapunov_factor(form.T, form.outward(model.C).T, discrete=model.dt != 0, transposed=True)
    return (form.Z @ factor) / form.scale[:, None]
