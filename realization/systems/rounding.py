"""How far rounding may move a model's gain, and the error of a reduced model as it can be measured."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from realization.systems.lyapunov import EPS, SchurForm, complex_schur
from realization.systems.models import StateSpace
from realization.systems.norms import hinf_norm
from realization.systems.projection import difference

__all__ = ["gain_rounding", "measured_error"]

GUESSES = 20


def gain_rounding(*models: StateSpace) -> float:
    r"""Estimate of how far the gains of models move if their matrices are rounded.

    $$4 \sqrt n\, \epsilon\, \max_\omega \bigl\lVert C \Phi \bigr\rVert\, \lVert A \rVert\,
    \bigl\lVert \Phi B \bigr\rVert, \qquad \Phi = (i \omega I - A)^{-1}$$

    the first-order effect of a change of `A` by $\epsilon \lVert A \rVert$, summed over the models, at the
    resonances of the poles next to the stability limit, where it is largest. Schur forms and projections
    change `A` by so much, whoever computes them.

    Parameters
    ----------
    *models : StateSpace
        Stable.

    Returns
    -------
    size : float

    References
    ----------
    N. J. Higham, *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM 2002, section 7.1.

    Examples
    --------
    >>> import realization as rz
    >>> from realization.systems.rounding import gain_rounding
    >>> slow, fast = (rz.StateSpace([[pole]], [[1.0]], [[1.0]]) for pole in (1 - 1e-8, 0.5))
    >>> gain_rounding(slow) > 1e12 * gain_rounding(fast)
    True
    """
    return float(sum(_moved(model) for model in models))


def _moved(model: StateSpace) -> float:
    n, tiny = model.n_states, np.finfo(float).tiny
    if n == 0 or 0 in (model.n_inputs, model.n_outputs):
        return 0.0
    form = SchurForm.of(model.A)
    S, drive, read = complex_schur(form.T, form.inward(model.B), form.outward(model.C))
    poles, modulus = form.eigenvalues, np.maximum(np.abs(form.eigenvalues), tiny)
    distance = -poles.real if model.dt == 0 else 1 - modulus
    nearest = np.unique(np.r_[distance.argsort()[:GUESSES], (distance / modulus).argsort()[:GUESSES]])
    angles = np.angle(poles[nearest])
    points = 1j * poles[nearest].imag if model.dt == 0 else np.exp(1j * angles)
    size = np.sqrt(np.linalg.norm(form.T, 1) * np.linalg.norm(form.T, np.inf))
    largest = 0.0
    for point in points[angles >= 0]:
        shifted = -S
        shifted[np.diag_indices(n)] += point
        reached = scipy.linalg.solve_triangular(shifted, drive, check_finite=False)
        seen = scipy.linalg.solve_triangular(shifted, read.T, trans="T", check_finite=False)
        largest = max(largest, float(np.linalg.norm(reached, 2) * np.linalg.norm(seen, 2)))
    return 4 * np.sqrt(n) * EPS * float(size) * largest + EPS * float(np.linalg.norm(model.D))


def measured_error(full: StateSpace, reduced: StateSpace) -> float:
    r"""$\lVert G - G_r \rVert_\infty$, infinite where either is not stable.

    Stability is asked of each by itself: next to a model that is much faster, a slow pole looks like zero.
    """
    if not (full.is_stable and reduced.is_stable):
        return float("inf")
    return hinf_norm(difference(full, reduced), band=(0.0, float("inf"))).value
