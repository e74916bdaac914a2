"""What the reductions that keep a property have in common: values, a measured error and its bound."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from realization.systems.models import StateSpace
from realization.systems.rounding import gain_rounding, measured_error

__all__ = ["RiccatiTruncation"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RiccatiTruncation:
    r"""A reduced model that keeps a property, from balancing two Riccati solutions.

    What is bounded is the error of a system $X$ that stands for the model: the model itself
    (`bounded_real_truncation`), its scattering matrix (`positive_real_truncation`), its normalized coprime
    factors (`lqg_balanced_truncation`).

    Attributes
    ----------
    model : StateSpace or InnovationsModel
        The reduced model, of the kind that came.
    hsv : ndarray, shape (n,)
        Roots of the eigenvalues of the product of both solutions, largest first.
    order : int
        Number of states of `model`.
    bound : float
        Upper bound on `error`, with an estimate of what rounding adds.

    Examples
    --------
    >>> import realization as rz
    >>> model = rz.StateSpace([[-1.0, 0.0], [0.0, -9.0]], [[1.0], [1.0]], [[0.5, 0.5]], dt=0.0)
    >>> result = rz.bounded_real_truncation(model, 1)
    >>> bool(0 < result.error <= result.bound), rz.hinf_norm(result.model).value < 1
    (True, True)
    """

    model: StateSpace
    hsv: Array
    order: int
    _exact_bound: float
    _whole: StateSpace
    _part: StateSpace

    @cached_property
    def bound(self) -> float:
        """Upper bound on the error."""
        return self._exact_bound + gain_rounding(self._whole, self._part)

    @cached_property
    def error(self) -> float:
        r"""Measured error $\lVert X - X_r \rVert_\infty$, computed when it is first asked for."""
        return measured_error(self._whole, self._part)
