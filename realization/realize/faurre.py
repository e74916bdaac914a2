"""All models of one process: the interval of state covariances, and the model that runs backward in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, RankError, ShapeError
from realization.realize.markov import output_statistics
from realization.realize.positive_real import CovarianceModel, Riccati, covariance_model, riccati
from realization.systems import InnovationsModel

__all__ = ["FaurreSet", "backward_innovations_model", "faurre_set"]

Array = NDArray[np.float64]
EPS = float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class FaurreSet:
    r"""State covariances of all models $x^+ = A x + w,\ y = C x + v$ of one process, with its $A$ and $C$.

    Attributes
    ----------
    P_min, P_max : ndarray, shape (n, n)
        Smallest and largest: of the forward innovations model, and of the one that knows the future.
    Cbar : ndarray, shape (p, n)
    Lambda0 : ndarray, shape (p, p)
        With `A` and `C` the covariances, $\Lambda_k = C A^{k-1} \bar C^T$.
    A : ndarray, shape (n, n)
    C : ndarray, shape (p, n)

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> process = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> family = rz.faurre_set(process)
    >>> family.P_min.round(9), family.P_max.round(9), family.contains([[1.0]]), family.contains([[0.3]])
    (array([[0.33333333]]), array([[1.33333333]]), True, False)
    """

    P_min: Array
    P_max: Array
    Cbar: Array
    Lambda0: Array
    A: Array
    C: Array

    def noises(self, P: ArrayLike) -> tuple[Array, Array, Array]:
        r"""Covariances $Q, R, S$ of the noises of the model with state covariance `P`.

        $$Q = P - A P A^\top, \quad S = \bar C^\top - A P C^\top, \quad R = \Lambda_0 - C P C^\top$$

        Parameters
        ----------
        P : array_like, shape (n, n)

        Returns
        -------
        Q, R, S : ndarray
            Of shapes (n, n), (p, p), (n, p).
        """
        P = np.asarray(P, dtype=float)
        if P.shape != self.A.shape:
            raise ShapeError(f"noises: P has shape {P.shape}; it must be {self.A.shape}.")
        if not np.isfinite(P).all():
            raise DataError("noises: P has entries that are NaN or infinite.")
        P = (P + P.T) / 2
        S = self.Cbar.T - self.A @ P @ self.C.T
        return P - self.A @ P @ self.A.T, self.Lambda0 - self.C @ P @ self.C.T, S

    def contains(self, P: ArrayLike, *, tol: float = 1e-9) -> bool:
        """Whether a model of the process has this state covariance: its noises have a covariance.

        Parameters
        ----------
        P : array_like, shape (n, n)
        tol : float
            By how much an eigenvalue may be negative, relative to the largest.
        """
        Q, R, S = self.noises(P)
        values = np.linalg.eigvalsh(np.block([[Q, S], [S.T, R]]))
        return bool(values[0] >= -tol * max(abs(values[-1]), abs(values[0]) * EPS))


def faurre_set(model: InnovationsModel) -> FaurreSet:
    r"""Interval $P_- \le P \le P_+$ of the state covariances of all minimal models of a process.

    Each $P$ for which

    $$\begin{bmatrix} P - A P A^\top & \bar C^\top - A P C^\top \\
    \cdot & \Lambda_0 - C P C^\top \end{bmatrix} \ge 0$$

    is a model of the same process. The set of them is convex and closed, and has a smallest and a largest
    element: both are solutions of the positive-real Riccati equation.

    Parameters
    ----------
    model : InnovationsModel
        Stable, in discrete time, with no inputs, minimal, and $R_e$ invertible. It fixes the basis.

    Returns
    -------
    FaurreSet
        `.P_min`, `.P_max`, `.noises(P)`, `.contains(P)`.

    Raises
    ------
    UnstableError, RealizationError, ConvergenceError
        As `canonical_correlations`.
    RankError
        If an innovation covariance is singular, or the model is not minimal (then $P_+$ is unbounded).

    References
    ----------
    P. Faurre, *Stochastic realization algorithms*, in: System Identification: Advances and Case Studies,
    Academic Press 1976, 1-25.

    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, section 6.7 and chapter 8.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> process = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> Q, R, S = rz.faurre_set(process).noises([[1.0]])  # the state is the output's noise-free part
    >>> Q.round(9), R.round(9), S.round(9)
    (array([[0.75]]), array([[0.33333333]]), array([[0.16666667]]))
    """
    given, solution = _both(model, "faurre_set")
    values = np.linalg.eigvalsh(solution.Q)
    if len(values) and not values[0] > len(values) * EPS * values[-1]:
        raise RankError(
            "faurre_set: the model has a state that the outputs do not show, whose covariance has no upper "
            "bound. Use realization.minimal first."
        )
    P_max = np.linalg.inv(solution.Q).astype(float)
    return FaurreSet(solution.P, (P_max + P_max.T) / 2, given.Cbar, given.Lambda0, given.A, given.C)


def backward_innovations_model(model: InnovationsModel) -> InnovationsModel:
    r"""Innovations model of the same process read from its end.

    $$\bar x_{t-1} = A^\top \bar x_t + \bar K \bar e_t, \qquad y_t = \bar C \bar x_t + \bar e_t$$

    $\bar e_t$ is what the future $y_{t+1}, y_{t+2}, \dots$ does not tell about $y_t$. Its gain comes from the
    smallest solution $Q_-$ of the backward Riccati equation, and
    $\bar W(z) = I + \bar C (zI - A^\top)^{-1} \bar K$ factors the spectrum in the other order,
    $\Phi(z) = \bar W(z^{-1}) \bar R_e \bar W(z)^\top$.

    Parameters
    ----------
    model : InnovationsModel
        Stable, in discrete time, with no inputs, and $R_e$ invertible.

    Returns
    -------
    InnovationsModel
        To be run on the record with its time reversed.

    Raises
    ------
    UnstableError, RealizationError, RankError, ConvergenceError
        As `canonical_correlations`.

    References
    ----------
    A. Lindquist, G. Picci, *Linear Stochastic Systems*, Springer 2015, sections 6.4 and 6.9.

    Examples
    --------
    The covariances of one output are the same both ways, and so are the innovations' variances.

    >>> import numpy as np, realization as rz
    >>> process = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.9]], Re=[[2.0]])
    >>> backward = rz.backward_innovations_model(process)
    >>> (backward.C @ backward.K).round(9), backward.Re.round(9)
    (array([[0.9]]), array([[2.]]))
    """
    given, solution = _both(model, "backward_innovations_model")
    none = np.zeros((len(given.A), 0))
    return InnovationsModel(
        given.A.T,
        none,
        given.Cbar,
        dt=model.dt,
        K=solution.K_backward,
        Re=solution.Re_backward,
        y_mean=model.y_mean,
    )


def _both(model: InnovationsModel, caller: str) -> tuple[CovarianceModel, Riccati]:
    Cbar, Lambda0, _ = output_statistics(model, caller)
    given = covariance_model(model.A, model.C, Cbar, Lambda0, caller)
    return given, riccati(given, caller)
