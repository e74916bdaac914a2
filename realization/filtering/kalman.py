"""The time-varying Kalman filter of an innovations model, and the exact Gaussian likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.linalg
from bmojo_kernels import lti_scan
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, UnstableError
from realization.filtering.covariance import cholesky_of, first_covariance, stationary_covariance
from realization.filtering.observations import Observations, observations
from realization.filtering.parallel import parallel_filter
from realization.filtering.recursion import Transient, transient
from realization.filtering.settling import refuse_spread
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel

__all__ = ["Form", "KalmanResult", "cholesky_of", "kalman_filter", "stationary_covariance"]

Array = NDArray[np.float64]
Form = Literal["covariance", "square_root", "parallel"]


@dataclass(frozen=True, eq=False)
class KalmanResult:
    r"""What the Kalman filter says about a record of `T` samples.

    Attributes
    ----------
    states : ndarray, shape (T, n)
        Predicted states $\hat x_{t|t-1}$.
    outputs : ndarray, shape (T, p)
        Predicted outputs $\hat y_{t|t-1}$ in the units of the record, those of missing samples too.
    innovations : ndarray, shape (T, p)
        $e_t = y_t - \hat y_{t|t-1}$; NaN where the output is missing.
    normalized_squared : ndarray, shape (T,)
        $e_t^\top R_{e,t}^{-1} e_t$ over the outputs that are there, chi-squared with as many degrees of
        freedom if the model is right.
    log_likelihood : float
        Natural logarithm of the Gaussian density of the outputs that are there.
    last_state : ndarray, shape (n,)
        $\hat x_{T|T-1}$, from which the next record goes on.
    transient : int
        Samples until the covariance stood still to rounding; from there on the gain is constant.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import kalman_filter
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> result = kalman_filter(model, np.ones(20))
    >>> result.states.shape, result.covariances.shape
    ((20, 1), (20, 1, 1))
    """

    states: Array
    outputs: Array
    innovations: Array
    normalized_squared: Array
    log_likelihood: float
    last_state: Array
    transient: int
    _head: Array
    _are_roots: bool
    _model: InnovationsModel

    @property
    def covariances(self) -> Array:
        r"""Covariances of $x_t - \hat x_{t|t-1}$, shape (T, n, n)."""
        return self._spread(self._head @ self._head.transpose(0, 2, 1) if self._are_roots else self._head)

    @property
    def covariance_roots(self) -> Array:
        r"""Factors $Z_t$ with $P_t = Z_t Z_t^\top$, shape (T, n, n), which `form="square_root"` keeps."""
        if not self._are_roots:
            raise DataError("covariance_roots: this filter kept covariances; use form='square_root'.")
        return self._spread(self._head)

    @property
    def innovation_covariances(self) -> Array:
        r"""Covariances $C P_t C^\top + R_e$ of all $y_t - \hat y_{t|t-1}$, missing or not, (T, p, p)."""
        C = self._model.C
        seen = C @ self._head
        covariances = seen @ (seen.transpose(0, 2, 1) if self._are_roots else C.T)
        return self._spread(covariances + self._model.Re)

    def _spread(self, head: Array) -> Array:
        """All `T` matrices: those of the transient, then the last one again and again."""
        full = np.empty((len(self.states), *head.shape[1:]))
        full[: len(head)] = head
        full[len(head) :] = head[-1]
        return full


def kalman_filter(
    model: InnovationsModel,
    data: IOData | ArrayLike,
    *,
    x0: ArrayLike | None = None,
    P0: ArrayLike | None = None,
    steady: bool = False,
    form: Form = "covariance",
) -> KalmanResult:
    r"""Kalman filter with its exact transient, for process noise $K e$ and measurement noise $e$.

    $$\hat x_{t+1} = A \hat x_t + B u_t + K_t e_t, \quad R_{e,t} = C P_t C^\top + R_e, \quad
    K_t = K + F P_t C^\top R_{e,t}^{-1}, \quad
    P_{t+1} = F (P_t - P_t C^\top R_{e,t}^{-1} C P_t) F^\top, \quad F = A - K C$$

    Once $P_t$ stands still to rounding the gain is constant, and the rest is one linear recurrence.
    Outputs may be missing, single ones or whole rows: `IOData(y, u, missing=True)` with NaN in their places.

    Parameters
    ----------
    model : InnovationsModel
    data : IOData
    x0 : array_like, shape (n,), optional
        Mean of the state at the first sample; zero when left out.
    P0 : array_like, shape (n, n), optional
        Its covariance. When left out, that of the stationary noise path, $P = A P A^\top + K R_e K^\top$: the
        likelihood of an output-only record is then exact. Zeros mean that the state is known.
    steady : bool
        Take the first state as known, so that the gain is the model's `K` from the first sample on (until an
        output is missing: that makes the state uncertain again). The same as `P0` of zeros.
    form : {"covariance", "square_root", "parallel"}
        `covariance` is the fastest. `square_root` carries $Z$ with $P = Z Z^\top$ through orthogonal
        transformations and bears twice the condition number. `parallel` joins pieces of the record in a
        tree: the same numbers at a multiple of the arithmetic, for machines with many cores.

    Returns
    -------
    KalmanResult

    Raises
    ------
    UnstableError
        If `P0` is left out and the model is not stable, or if the states overflow.
    RankError
        If the innovation covariance is singular.
    ShapeError, DataError
        If `x0`, `P0` or the record does not fit, `P0` is not positive semidefinite (or too wide for
        `form="parallel"`), or an option is unknown.

    References
    ----------
    B. D. O. Anderson, J. B. Moore, *Optimal Filtering*, Prentice-Hall 1979, sections 4.1, 5.5 and 6.5.
    S. Särkkä, Á. F. García-Fernández, Temporal parallelization of Bayesian smoothers, IEEE Trans. Autom.
    Control 66 (2021) 299-306.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from realization.filtering import kalman_filter
    >>> model = rz.InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    >>> result = kalman_filter(model, rz.IOData([1.0, 1.0]))
    >>> result.innovation_covariances[:, 0, 0].round(4)
    array([1.3333, 1.    ])
    >>> gap = kalman_filter(model, rz.IOData([1.0, np.nan, 1.0], missing=True), steady=True)
    >>> gap.outputs[:, 0], gap.innovation_covariances[:, 0, 0]
    (array([0.  , 0.5 , 0.25]), array([1.  , 1.  , 1.25]))
    """
    if form not in get_args(Form):
        raise DataError(f"kalman_filter: form={form!r} came; one of {', '.join(get_args(Form))} is needed.")
    seen = observations(model, data, "kalman_filter")
    start, P = first_state(model, x0, P0, steady, "kalman_filter")
    if form == "parallel":
        if P0 is not None:
            refuse_spread(model, P, seen.record.length, "kalman_filter", "Use form='square_root'.")
        head = parallel_filter(model, seen, start, P)
    else:
        head = transient(model, seen, start, P, square_root=form == "square_root", caller="kalman_filter")
    return _result(model, seen, head, are_roots=form == "square_root")


def first_state(
    model: InnovationsModel, x0: ArrayLike | None, P0: ArrayLike | None, steady: bool, caller: str
) -> tuple[Array, Array]:
    """Mean and covariance of the first state."""
    start = model._state(x0)
    if steady:
        if P0 is not None:
            raise DataError(
                f"{caller}: steady=True takes the first state as known, and P0 came; give one of them."
            )
        P0 = np.zeros((model.n_states, model.n_states))
    return start, first_covariance(model, P0, caller)


def _result(model: InnovationsModel, seen: Observations, head: Transient, *, are_roots: bool) -> KalmanResult:
    """The whole record: its transient, then one recurrence with the gain that the transient ended on."""
    done, T = len(head.states), seen.record.length
    states, following = head.states, head.following
    innovations, squared = head.innovations, head.squared
    log_det = float(head.log_dets.sum() + (T - done) * head.log_dets[-1])
    _require_finite(following)
    if done < T:
        gain = head.gains[-1]
        u, y = seen.u[done:], seen.y[done:]
        inputs = np.hstack([model.B - gain @ model.D, gain])
        rest, following = lti_scan(model.A - gain @ model.C, inputs, np.hstack([u, y]), following)
        _require_finite(following)
        later = y - rest @ model.C.T - u @ model.D.T
        P = head.covariances[-1]
        factor = np.linalg.cholesky(model.C @ (P @ P.T if are_roots else P) @ model.C.T + model.Re)
        white = scipy.linalg.solve_triangular(factor, later.T, lower=True)
        states, innovations = np.vstack([states, rest]), np.vstack([innovations, later])
        squared = np.concatenate([squared, np.einsum("it,it->t", white, white)])
    if seen.complete_from:
        innovations = np.where(seen.record.observed, innovations, np.nan)
    count = int(seen.record.observed.sum())
    return KalmanResult(
        states=states,
        outputs=model.y_mean + states @ model.C.T + seen.u @ model.D.T,
        innovations=innovations,
        normalized_squared=squared,
        log_likelihood=float(-0.5 * (count * np.log(2 * np.pi) + log_det + squared.sum())),
        last_state=following,
        transient=done,
        _head=head.covariances,
        _are_roots=are_roots,
        _model=model,
    )


def _require_finite(state: Array) -> None:
    if not np.isfinite(state).all():
        raise UnstableError("kalman_filter: the states overflow over this record; use a shorter one.")
