"""High-order vector autoregressions, reduced: a long linear regression, then a short model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import DataError, ExcitationError, RankError, StabilityWarning, UnstableError
from realization.filtering.riccati import dare
from realization.identification.arx import fit_arx, most_lags
from realization.identification.evidence import Kernel
from realization.identification.factorization import Scaling, scale
from realization.identification.matrices import Focus, input_matrices
from realization.identification.noise import innovation_covariance, one_step_innovations
from realization.identification.realization import Realization, reflect_poles, unscaled
from realization.identification.regularized import fit_regularized_varx
from realization.notes import warn
from realization.signals.data import IOData, as_data
from realization.signals.gaps import gap_free
from realization.systems.models import InnovationsModel
from realization.systems.responses import predictor_states

__all__ = ["VarxResult", "varx"]

Array = NDArray[np.float64]
MOST_LAGS = 30
RESOLVED = 1e-10
PATIENCE = 8
# What exact data leave of unit variance is rounding, and no evidence.
EXACT = 1e-24


@dataclass(frozen=True, eq=False)
class VarxResult:
    r"""Result of `varx`.

    Attributes
    ----------
    model : InnovationsModel
        With the record's means as operating point.
    order : int
    lags : int
        Of the autoregression.
    singular_values : ndarray, shape (p lags,)
        Square roots of the eigenvalues of the product of both gramians: what each state matters.
    long_model : InnovationsModel
        The autoregression itself, of order `p lags`.
    stabilized : bool
        Whether poles were moved into the unit circle.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> u = np.random.default_rng(0).standard_normal(200)
    >>> found = rz.varx(rz.IOData(rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u), u), lags=6)
    >>> found.order, found.long_model.n_states, found.stabilized
    (1, 6, False)
    """

    model: InnovationsModel
    order: int
    lags: int
    singular_values: Array
    long_model: InnovationsModel
    stabilized: bool


def varx(
    data: IOData | ArrayLike,
    lags: int | None = None,
    order: int | None = None,
    *,
    kernel: Kernel | None = None,
    feedthrough: bool = False,
    focus: Focus = "prediction",
    stable: bool = True,
    max_order: int = 40,
) -> VarxResult:
    r"""High-order autoregression with inputs, reduced to a low order; open or closed loop.

    $$y_t = \sum_{k=1}^{L} A_k y_{t-k} + \sum_{k=0}^{L} B_k u_{t-k} + e_t$$

    is linear in its coefficients, and its error is white whatever computes `u` from the past. In block
    observer form it has $p L$ states; they are balanced between their covariance over the record,
    $P = \frac1T \sum_t \hat x_t \hat x_t^\top$, and the observability gramian of the predictor (of $A - KC$,
    which is always stable) or of the model, and cut.

    Parameters
    ----------
    data : IOData
        Several experiments, missing outputs and output-only records are taken too.
    lags : int, optional
        `L`, at most 30 when left out: as many as leave three samples for each coefficient, or with a kernel a
        quarter of the record.
    order : int, optional
        States; when left out, those of the smallest Bayesian information criterion of the reduced models.
    kernel : {"TC", "DC", "SS"}, optional
        Prior that lets the taps die away, tuned by the evidence (see `regularized_fir`); least squares when
        left out.
    feedthrough : bool
        Whether $B_0$ is estimated. Under feedback without a delay it cannot be told from the noise.
    focus : {"prediction", "simulation"}
        Whose observability counts: the predictor's or the model's (which must be stable).
    stable : bool
        Move poles from outside the unit circle to its inside, with a warning. `False` leaves them.
    max_order : int
        Highest order when `order` is left out.

    Returns
    -------
    VarxResult

    Raises
    ------
    ExcitationError
        If the record is too short for the lags.
    DataError
        If a column is constant, or an option is out of range.
    RankError
        If `order` is more than the autoregression has.
    UnstableError
        If the focus is simulation, and the autoregression is unstable and may or can not be moved.

    Warns
    -----
    StabilityWarning
        If poles were moved.

    References
    ----------
    L. Ljung, B. Wahlberg, Asymptotic properties of the least-squares method for estimating transfer functions
    and disturbance spectra, Adv. Appl. Probab. 24 (1992) 412-440. A. Chiuso, The role of vector
    autoregressive modeling in predictor-based subspace identification, Automatica 43 (2007) 1034-1048.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> y, u = np.zeros(3000), np.zeros(3000)
    >>> for t in range(2999):  # an unstable plant, held by feedback
    ...     u[t] = -0.6 * y[t] + rng.standard_normal()
    ...     y[t + 1] = 1.1 * y[t] + u[t] + 0.1 * rng.standard_normal()
    >>> rz.varx(rz.IOData(y, u), order=1, stable=False).model.poles.real.round(1)
    array([1.1])
    """
    record = gap_free(as_data(data, missing=True, experiments=True))
    _check_options(lags, order, kernel, focus, max_order)
    scaled = scale(record, "varx")
    lags = _lags(scaled, lags, kernel)
    delay = 0 if feedthrough and record.n_inputs else 1
    if kernel is None:
        taps = lags + 1 - delay if record.n_inputs else 0
        long = fit_arx(scaled, lags, taps, delay, stable=stable and focus == "simulation")
    else:
        long = fit_regularized_varx(scaled, lags, delay=delay, kind=kernel)
    if focus == "simulation" and long.radius >= 1:
        raise UnstableError(
            f"varx: the autoregression has a pole of modulus {long.radius:.6g}, so its outputs are no "
            "measure of its states. Take focus='prediction', or kernel=None with stable=True."
        )
    balanced = _Balanced(long, scaled, focus)
    available = int((balanced.values > RESOLVED * balanced.values[0]).sum())
    if order is None:
        order = balanced.chosen(min(max_order, available))
    elif order > available:
        raise RankError(
            f"varx: order {order} came; the autoregression with {lags} lags has {available} states that the "
            "record reaches. Take a lower order or more lags."
        )
    found = _settled(balanced.truncated(order), scaled, stable, focus)
    if found.stabilized:
        warn(
            f"varx: the estimate of order {order} had poles outside the unit circle; they were moved to "
            "their mirror images. If the plant is unstable, ask for stable=False.",
            StabilityWarning,
            stacklevel=2,
        )
    return VarxResult(
        model=unscaled(scaled, found, record.dt),
        order=order,
        lags=lags,
        singular_values=balanced.values,
        long_model=unscaled(scaled, long, record.dt),
        stabilized=found.stabilized,
    )


class _Balanced:
    """States of a long autoregression, balanced between what the record reaches and what the outputs show."""

    def __init__(self, long: Realization, scaled: Scaling, focus: Focus) -> None:
        A, B, C, D, K = long[:5]
        target = np.nan_to_num(scaled.y - long.offset)
        states = predictor_states(A, B, C, D, K, scaled.u, target, starts=scaled.starts)
        # The predictor has forgotten how it began after as many samples as lags.
        held = [states[rows][len(A) // len(C) :] for rows in scaled.spans]
        states = np.vstack(held) if sum(map(len, held)) > len(A) else states
        # Orthogonal factors: gramians would cost half of the digits.
        self.reach = scipy.linalg.qr(states, mode="r", check_finite=False)[0][: len(A)].T / np.sqrt(
            len(states)
        )
        seen = A - K @ C if focus == "prediction" else A
        self.sight = _observability_root(seen, C)
        self.long, self.scaled, self.focus = long, scaled, focus
        self.left, self.values, self.right = scipy.linalg.svd(self.sight @ self.reach, full_matrices=False)

    def truncated(self, order: int) -> Realization:
        """The first `order` balanced states."""
        size = np.sqrt(self.values[:order])
        T = self.reach @ self.right[:order].T / size
        inverse = (self.left[:, :order] / size).T @ self.sight
        long = self.long
        return long._replace(
            A=inverse @ long.A @ T,
            B=inverse @ long.B,
            C=long.C @ T,
            K=inverse @ long.K,
            x0=long.x0 @ inverse.T,
        )

    def chosen(self, highest: int) -> int:
        """Order of the smallest Bayesian information criterion."""
        best, least = 0, np.inf
        for order in range(highest + 1):
            value = self._criterion(self.truncated(order))
            if value < least:
                best, least = order, value
            elif order > best + PATIENCE and np.isfinite(least):
                break
        return best

    def _criterion(self, found: Realization) -> float:
        r"""$N \log \det \hat R_e + n (2 p + m) \log N$ of the errors that count; infinite where they grow."""
        A, B, C, D, K = found[:5]
        predicted = self.focus == "prediction" or not self.scaled.u.shape[1]
        K = K if predicted else 0.0 * K
        if np.abs(np.linalg.eigvals(A - K @ C)).max(initial=0.0) >= 1:
            return np.inf
        scaled, (p, m) = self.scaled, D.shape
        e, _ = one_step_innovations(A, B, C, D, K, scaled.u, scaled.y - found.offset, scaled.starts)
        parameters = len(A) * ((2 * p if predicted else p) + m)
        floor = EXACT * np.eye(p)
        return float(len(e) * np.linalg.slogdet(e.T @ e / len(e) + floor)[1] + parameters * np.log(len(e)))


def _observability_root(A: Array, C: Array) -> Array:
    r"""`R` with $R^\top R = \sum_k (A^\top)^k C^\top C A^k$, by doubling of its factor."""
    root, power = C, A
    for _ in range(60):
        later = root @ power
        if np.linalg.norm(later) <= np.finfo(float).eps * np.linalg.norm(root):
            break
        stacked = scipy.linalg.qr(np.vstack([root, later]), mode="r", check_finite=False)[0]
        root = np.asarray(stacked[: len(A)], dtype=float)
        power = power @ power
    return root


def _settled(found: Realization, scaled: Scaling, stable: bool, focus: Focus) -> Realization:
    """Poles where they are wanted, and a gain whose predictor is stable."""
    if stable and found.radius >= 1:
        found = found._replace(A=reflect_poles(found.A), stabilized=True)
        found = _with_stable_predictor(found, scaled)
        path, _ = input_matrices(
            found.A,
            found.C,
            found.K,
            scaled,
            feedthrough=bool(found.feedthrough and scaled.u.shape[1]),
            predicted=focus == "prediction" or not scaled.u.shape[1],
            offset=True,
            regular=False,
        )
        return found._replace(B=path.B, D=path.D, offset=path.offset, x0=path.x0)
    return _with_stable_predictor(found, scaled)


def _with_stable_predictor(found: Realization, scaled: Scaling) -> Realization:
    """The gain itself where its predictor is stable, else that of the same noise's Kalman filter."""
    A, B, C, D, K = found[:5]
    if np.abs(np.linalg.eigvals(A - K @ C)).max(initial=0.0) < 1:
        return found
    e, _ = one_step_innovations(A, B, C, D, 0.0 * K, scaled.u, scaled.y - found.offset, scaled.starts)
    Re = innovation_covariance(e)
    return found._replace(K=dare(A, C, K @ Re @ K.T, Re, K @ Re).K)


def _lags(scaled: Scaling, asked: int | None, kernel: Kernel | None) -> int:
    if asked is not None:
        return asked
    lags = most_lags(scaled, 3, 3, MOST_LAGS) if kernel is None else min(MOST_LAGS, max(scaled.lengths) // 4)
    if lags < 1:
        raise ExcitationError(
            f"varx: {len(scaled.y)} samples with {scaled.u.shape[1]} inputs and {scaled.y.shape[1]} outputs "
            "are too few for one lag. Take a longer record, fewer channels, or a kernel."
        )
    return lags


def _check_options(
    lags: int | None, order: int | None, kernel: str | None, focus: str, max_order: int
) -> None:
    check_whole("varx", lags=(lags, 1), order=(order, 0), max_order=(max_order, 1))
    if kernel is not None and kernel not in get_args(Kernel):
        raise DataError(f"varx: kernel={kernel!r} came; 'TC', 'DC', 'SS' or None is needed.")
    if focus not in get_args(Focus):
        raise DataError(f"varx: focus={focus!r} came; one of {', '.join(get_args(Focus))} is needed.")
