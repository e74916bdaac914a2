"""Linear-quadratic-Gaussian balanced truncation: for a model that will be part of a loop, stable or not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from realization.systems.bilinear import to_continuous, to_discrete
from realization.systems.lyapunov import EPS, SchurForm
from realization.systems.models import StateSpace
from realization.systems.projection import (
    Method,
    Parts,
    System,
    assembled,
    balanced,
    check_options,
    kept_states,
    reduced_system,
)
from realization.systems.riccati_truncation import RiccatiTruncation
from realization.systems.spectral_factor import inverse_sight, spectral_factor
from realization.systems.split import Coordinates

__all__ = ["lqg_balanced_truncation"]

Array = NDArray[np.float64]
NAME = "lqg_balanced_truncation"


def lqg_balanced_truncation(
    model: StateSpace, order: int | None = None, *, method: Method = "square-root", match_dc: bool = False
) -> RiccatiTruncation:
    r"""Reduce a model for use in a feedback loop, stable or not.

    What is balanced are the solutions of the Kalman filter's and the linear regulator's equation,

    $$A P + P A^\top + B B^\top - P C^\top C P = 0, \qquad A^\top Q + Q A + C^\top C - Q B B^\top Q = 0$$

    (for $D = 0$): what the filter cannot know of a state, and what it costs to control it. With
    $\mu_i^2 = \lambda_i(P Q)$, the same states go as in balanced truncation of the normalized coprime factors

    $$G = M^{-1} N, \qquad N N^* + M M^* = I,$$

    whose Hankel singular values are $\mu_i / \sqrt{1 + \mu_i^2} < 1$, so that

    $$\delta_g(G, G_r) \le \bigl\lVert [N - N_r,\ M - M_r] \bigr\rVert_\infty
    \le 2 \sum_{i > r} \frac{\mu_i}{\sqrt{1 + \mu_i^2}}$$

    with the gap metric $\delta_g$: every controller whose robust stability margin for $G_r$ exceeds the bound
    stabilizes $G$. The bound depends on the units of inputs and outputs, which say what counts alike.

    Discrete time goes through the bilinear transformation, which keeps the factors and their values.

    Parameters
    ----------
    model : StateSpace
        Stable or not; unstable poles must be reachable and seen. An `InnovationsModel` is taken from inputs
        and innovations of unit variance.
    order : int, optional
        Number of states of the result; all above rounding when left out. Nothing is split off: an unstable
        pole is one that has a large value.
    method : {"square-root", "balancing-free"}
        As for `balanced_truncation`.
    match_dc : bool
        Singular perturbation instead of truncation: exact at frequency zero, with the same bound.

    Returns
    -------
    RiccatiTruncation
        `.model`, `.hsv` (the $\mu_i$), `.order`, `.bound`, and measured on demand `.error`, both of the
        coprime factors.

    Raises
    ------
    RealizationError
        If an option is not known.
    ConvergenceError
        If the Riccati equations have no stabilizing solution: an unstable pole is not reached or not seen.

    Warns
    -----
    OrderWarning
        If fewer states than `order` stand above rounding; the result has those.

    References
    ----------
    E. A. Jonckheere, L. M. Silverman, A new set of invariants for linear systems: application to reduced
    order compensator design, IEEE Trans. Automatic Control 28 (1983) 953-964.
    D. G. Meyer, Fractional balanced reduction: model reduction via fractional representation, IEEE Trans.
    Automatic Control 35 (1990) 1341-1345.
    R. Ober, D. McFarlane, Balanced canonical forms for minimal systems: a normalized coprime factor approach,
    Linear Algebra and its Applications 122-124 (1989) 23-64.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> plant = rz.StateSpace(np.diag([0.5, -3.0]), np.ones((2, 1)), np.ones((1, 2)), dt=0.0)  # unstable
    >>> result = rz.lqg_balanced_truncation(plant, 1)
    >>> bool(result.error <= result.bound), result.model.poles.real.round(2)
    (True, array([0.42]))
    """
    check_options(NAME, order, method)
    parts = _unsplit(model)
    whole = parts.stable if model.dt == 0 else to_continuous(parts.stable, NAME)
    B, D = whole.B @ whole.weight, whole.D @ whole.weight
    n, p = len(whole.A), len(whole.C)
    noise = System(
        whole.A, np.hstack([B, np.zeros((n, p))]), whole.C, np.hstack([D, np.eye(p)]), np.eye(D.shape[1] + p)
    )
    factor = spectral_factor(noise, NAME)
    factors = balanced(factor.missing, inverse_sight(factor))
    kept = kept_states(NAME, factors.hsv, order, 0)
    coprime = to_continuous(factor.coprime(), NAME, factor.rate)
    reduced, cut = (reduced_system(each, factors, kept, method, match_dc, 0.0) for each in (whole, coprime))
    result = assembled(NAME, model, parts, reduced if model.dt == 0 else to_discrete(reduced))
    bound = 2.0 * float(factors.hsv[kept:].sum())
    below_one = np.maximum(1 - factors.hsv**2, EPS)
    return RiccatiTruncation(
        result, factors.hsv / np.sqrt(below_one), kept, bound, coprime.driven(0.0), cut.driven(0.0)
    )


def _unsplit(model: StateSpace) -> Parts:
    """The whole model in Schur coordinates, nothing split off."""
    form, whole = SchurForm.of(model.A), System.of(model)
    right, left = form.scale[:, None] * form.Z, form.Z.T / form.scale
    bases = Coordinates(form.T, np.zeros((0, 0)), (right, right[:, :0]), (left, left[:0]))
    return Parts(whole, System(form.T, left @ whole.B, whole.C @ right, whole.D, whole.weight), bases)
