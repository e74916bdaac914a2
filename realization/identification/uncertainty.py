"""How sure a fitted model is: covariance of its entries, bands of its frequency response and poles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError
from realization.filtering.innovations import chi_squared_quantile
from realization.identification.coordinates import Coordinates, LocalCoordinates
from realization.identification.factorization import Scaling, scale
from realization.identification.gaps import noise_over_gaps
from realization.identification.likelihood_search import observed_information
from realization.identification.search import run_of, whitener_of
from realization.identification.sensitivities import Blocks, Point, Run, normal_equations, sensitivities
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel
from realization.systems.responses import scan_spans

__all__ = ["FrequencyBands", "PoleBands", "Uncertainty", "entry_covariance", "uncertainty"]

Array = NDArray[np.float64]
Focus = Literal["prediction", "simulation"]
NAMES = ("A", "B", "C", "D", "K")


@dataclass(frozen=True, eq=False)
class FrequencyBands:
    r"""Frequency response with its uncertainty.

    Attributes
    ----------
    omega : ndarray, shape (N,)
        In rad/s.
    response : ndarray of complex, shape (N, p, m)
    covariance : ndarray, shape (N, p, m, 2, 2)
        Of the real and the imaginary part.
    lower, upper : ndarray, shape (N, p, m)
        Band of the magnitude.
    level : float
        Probability with which a band holds the truth, at each frequency.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal((2000, 1))
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((2000, 1))
    >>> bands = rz.pem(rz.IOData(y, u), order=1, focus="simulation").uncertainty.frequency_response([0.0])
    >>> bool(bands.lower[0, 0, 0] < 2.5 < bands.upper[0, 0, 0])
    True
    """

    omega: Array
    response: NDArray[np.complex128]
    covariance: Array
    lower: Array
    upper: Array
    level: float


@dataclass(frozen=True, eq=False)
class PoleBands:
    r"""Poles with their uncertainty.

    Attributes
    ----------
    poles : ndarray of complex, shape (n,)
    covariance : ndarray, shape (n, 2, 2)
        Of each pole's real and imaginary part; a simple real pole stays real.
    level : float
        Probability with which an ellipse (a real pole's interval) holds the truth.
    radius : ndarray, shape (n,)
        Ellipses are $\{z : (z - \lambda)^\top \Sigma^{-1} (z - \lambda) \le r^2\}$.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal((2000, 1))
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((2000, 1))
    >>> rz.pem(rz.IOData(y, u), order=1).uncertainty.poles().covers([0.8])
    array([ True])
    """

    poles: NDArray[np.complex128]
    covariance: Array
    level: float
    radius: Array

    def covers(self, truth: ArrayLike) -> NDArray[np.bool_]:
        """Whether each band holds the pole given for it.

        Parameters
        ----------
        truth : array_like of complex, shape (n,)
            In the order of `poles`.
        """
        apart = np.asarray(truth, dtype=complex) - self.poles
        held = np.empty(len(apart), dtype=bool)
        for k, (d, S) in enumerate(zip(apart, self.covariance)):
            if S[1, 1] <= 1e-12 * S[0, 0]:
                held[k] = abs(d.imag) < 1e-9 and d.real**2 <= self.radius[k] ** 2 * S[0, 0]
            else:
                z = np.array([d.real, d.imag])
                held[k] = z @ np.linalg.solve(S, z) <= self.radius[k] ** 2
        return held


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Asymptotic uncertainty of a model that was fitted by prediction error.

    Attributes
    ----------
    model : InnovationsModel
    covariance : ndarray, shape (N, N)
        Of the entries of `A, B, C, D, K`, block after block, each row by row, in the model's own state. What
        only changes the state's coordinates counts as known, so that the covariance is singular; all that
        does not depend on them (poles, responses) inherits its full uncertainty.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> y = rz.InnovationsModel([[0.8]], np.zeros((1, 0)), [[1.0]], K=[[0.5]]).simulate(
    ...     e=rng.standard_normal((2000, 1))
    ... )
    >>> fit = rz.pem(y, order=1)
    >>> bool(fit.uncertainty.poles().covariance[0, 0, 0] ** 0.5 < 0.03)
    True
    """

    model: InnovationsModel
    covariance: Array

    @property
    def standard_errors(self) -> dict[str, Array]:
        """Standard error of each entry, by the matrix's name."""
        errors = np.sqrt(np.maximum(np.diag(self.covariance), 0.0))
        found, used = {}, 0
        for name in NAMES:
            shape = getattr(self.model, name).shape
            size = int(np.prod(shape))
            found[name] = errors[used : used + size].reshape(shape)
            used += size
        return found

    def frequency_response(
        self,
        omega: ArrayLike | None = None,
        *,
        level: float = 0.95,
        path: Literal["input", "noise"] = "input",
    ) -> FrequencyBands:
        r"""Bands by $\operatorname{cov} G \approx J \operatorname{cov}(\theta) J^\top$.

        Parameters
        ----------
        omega : array_like, shape (N,), optional
            Angular frequencies in rad/s; 64 up to the Nyquist frequency when left out.
        level : float
            In (0, 1).
        path : {"input", "noise"}
            From the inputs, or from the innovations.
        """
        model = self.model
        step = 1.0 if model.dt is None else model.dt
        grid = np.linspace(0, np.pi / step, 65)[1:] if omega is None else np.atleast_1d(omega).astype(float)
        entered, direct = (model.B, model.D) if path == "input" else (model.K, np.eye(model.n_outputs))
        z = np.exp(1j * grid * step)
        response: NDArray[np.complex128] = np.empty((len(z), *direct.shape), dtype=complex)
        covariance = np.empty((*response.shape, 2, 2))
        for k, value in enumerate(z):
            resolvent = np.linalg.inv(value * np.eye(model.n_states) - model.A)
            response[k] = model.C @ resolvent @ entered + direct
            J = _response_slope(model, model.C @ resolvent, resolvent @ entered, path)
            parts = np.stack([J.real, J.imag], axis=2)
            covariance[k] = np.einsum("ijan,nm,ijbm->ijab", parts, self.covariance, parts, optimize=True)
        size = np.abs(response)
        along = np.stack([response.real, response.imag], axis=-1) / np.maximum(size, 1e-300)[..., None]
        spread = np.sqrt(np.maximum(np.einsum("...a,...ab,...b->...", along, covariance, along), 0.0))
        wide = chi_squared_quantile(1 - level, 1) ** 0.5 * spread
        return FrequencyBands(grid, response, covariance, np.maximum(size - wide, 0.0), size + wide, level)

    def poles(self, *, level: float = 0.95) -> PoleBands:
        r"""Bands by $d\lambda = w^\ast\, dA\, v / w^\ast v$.

        Parameters
        ----------
        level : float
            In (0, 1).
        """
        n = self.model.n_states
        values, left, right = scipy.linalg.eig(self.model.A, left=True)  # pyright: ignore[reportAssignmentType]
        order = np.argsort(-np.abs(values), kind="stable")
        covariance = np.empty((n, 2, 2))
        for place, k in enumerate(order):
            J = np.outer(left[:, k].conj(), right[:, k]).ravel() / (left[:, k].conj() @ right[:, k])
            parts = np.stack([J.real, J.imag])
            covariance[place] = parts @ self.covariance[: n * n, : n * n] @ parts.T
        quantiles = [chi_squared_quantile(1 - level, 1 if values[k].imag == 0 else 2) ** 0.5 for k in order]
        return PoleBands(values[order].astype(complex), covariance, level, np.array(quantiles))


def uncertainty(
    model: InnovationsModel, data: IOData | ArrayLike, *, focus: Focus = "prediction"
) -> Uncertainty:
    r"""Uncertainty of a model that fits a record best among the models of its order.

    $$\operatorname{cov} \hat\theta \approx \Big( \sum_t \psi_t R_e^{-1} \psi_t^\top \Big)^{-1}, \qquad
    \psi_t^\top = \partial \hat y_t / \partial \theta$$

    orthogonal to changes of the state's coordinates. With `focus="simulation"` the errors are coloured, and
    the covariance is $H^{-1} \big(\sum_t \zeta_t \Lambda \zeta_t^\top\big) H^{-1}$ with $\zeta$ the
    sensitivities run backward through a model of the errors' colour.

    Parameters
    ----------
    model : InnovationsModel
        Of minimal order; `D = 0` counts as known.
    data : IOData
        The record that it was estimated from. With missing outputs the covariance is the inverse curvature of
        the likelihood of what was measured.
    focus : {"prediction", "simulation"}
        What it was fitted to. A simulation model (`K = 0`) needs `"simulation"`.

    Returns
    -------
    Uncertainty

    Raises
    ------
    DataError
        If `focus` is none of the two, or the record has no more samples than the model parameters.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, sections 9.3 to 9.5.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> u = np.random.default_rng(0).standard_normal((500, 1))
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u)
    >>> y = y + 0.1 * np.random.default_rng(1).standard_normal(y.shape)
    >>> fit = rz.pem(rz.IOData(y, u), order=1)
    >>> same = rz.uncertainty(fit.model, rz.IOData(y, u))
    >>> bool(np.allclose(same.poles().covariance, fit.uncertainty.poles().covariance, rtol=0.05))
    True
    """
    if focus not in ("prediction", "simulation"):
        raise DataError(f"uncertainty: focus={focus!r} came; 'prediction' or 'simulation' is needed.")
    record = model._record(data, missing=True, experiments=True)
    scaled, point = scaled_point(model, record, "uncertainty", silent=focus == "simulation")
    free = np.ones(point.entries.size, dtype=bool)
    free[point.places["K"]] = focus == "prediction"
    free[point.places["D"]] = bool(model.D.any())
    covariance = entry_covariance(point, LocalCoordinates(free), scaled, focus)
    return Uncertainty(model, covariance)


def scaled_point(
    model: InnovationsModel, record: IOData, caller: str, *, silent: bool
) -> tuple[Scaling, Point]:
    """The record about the model's operating point in scaled units, and the model in the same units."""
    from realization.identification.noise import finite_innovations

    scaled = scale(record, caller)
    scaled = scaled._replace(u=(record.inputs - model.u_mean) / scaled.u_scale, u_mean=model.u_mean)
    ys, us = scaled.y_scale, scaled.u_scale
    K = np.zeros_like(model.K) if silent else model.K * ys
    A, B, C, D = model.A, model.B * us, model.C / ys[:, None], model.D * us / ys[:, None]
    level = (model.y_mean - scaled.y_mean) / ys
    start = finite_innovations(caller, A, B, C, D, K, scaled.u, scaled.y - level, scaled.starts)[1]
    return scaled, Point(A, B, C, D, K, level, start)


def entry_covariance(
    point: Point, coordinates: Coordinates, scaled: Scaling, focus: Focus, Re: Array | None = None
) -> Array:
    """Covariance of the entries of `A, B, C, D, K` in the record's own units."""
    slope = coordinates.slope(point)
    values, vectors = np.linalg.eigh(coordinate_covariance(point, slope, scaled, focus, Re))
    basis = slope @ (vectors * np.sqrt(np.maximum(values, 0.0)))
    u, y = scaled.u_scale, scaled.y_scale
    n = len(point.A)
    units = np.concatenate([
        np.ones(n * n),
        np.tile(1 / u, n),
        np.repeat(y, n),
        np.outer(y, 1 / u).ravel(),
        np.tile(1 / y, n),
    ])  # fmt: skip
    root = basis[: len(units)] * units[:, None]
    return root @ root.T


def coordinate_covariance(
    point: Point, slope: Array, scaled: Scaling, focus: Focus, Re: Array | None = None
) -> Array:
    """Covariance of the coordinates whose derivatives of the entries are `slope`.

    `Re` is the innovation covariance of a record with gaps, read from the record when left out.
    """
    blocks = Blocks(gain=focus == "prediction")
    run = run_of(point, scaled)
    chosen = slope[blocks.chosen(point)]
    size = run.samples * run.e.shape[1] if focus == "simulation" else int((~np.isnan(scaled.y)).sum())
    left = size - slope.shape[1]
    if left <= 0:
        raise DataError(
            f"uncertainty: {size} measured values and {slope.shape[1]} parameters leave nothing to judge "
            "the errors by. Take a longer record or a lower order."
        )
    if scaled.has_gaps and focus == "prediction":
        if Re is None:
            Re = noise_over_gaps(*point[:5], scaled.u, scaled.y - point.offset, scaled.starts)
        return observed_information(point, slope, Re, scaled, blocks) * (size / left)
    W = whitener_of(run)
    H = chosen.T @ normal_equations(point, run, W, blocks)[0] @ chosen
    scale = np.sqrt(np.maximum(np.diag(H), 1e-300))
    inverse = scipy.linalg.pinvh(H / scale / scale[:, None], rtol=1e-12) / scale / scale[:, None]
    if focus == "prediction":
        covariance = inverse
    else:
        J = sensitivities(point, run, blocks) @ chosen
        covariance = inverse @ _coloured(J, run, W) @ inverse
    return covariance * (size / left)


def _coloured(J: Array, run: Run, W: Array) -> Array:
    r"""$\operatorname{cov} \sum_t \psi_t W^\top W e_t$ for errors that a long autoregression whitens."""
    from realization.identification.arx import fit_arx, longest_lags, order_criterion

    e, (length, p, count) = run.e, J.shape
    kept = np.ones(length, dtype=bool) if run.kept is None else run.kept
    measured = np.where(kept[:, None], e, np.nan)
    silent = Scaling(e[:, :0], measured, np.zeros(0), np.zeros(p), np.zeros(0), np.ones(p), tuple(run.starts))
    highest = min(20, longest_lags(silent))
    weighted = np.einsum("kl,tlq->tkq", W.T @ W, J)[::-1]
    if highest < 1 and len(run.starts) > 1:
        # Experiments of two or three samples show no colour.
        root = np.linalg.cholesky(e.T @ e / max(run.samples, 1) + 1e-30 * np.eye(p))
        rows = np.einsum("lk,tlq->tkq", root, weighted).reshape(-1, count)
        return rows.T @ rows
    highest = max(1, highest)
    lags = 1 + int(np.argmin(order_criterion(silent, highest, 1, "aic")))
    found = fit_arx(silent, lags, 0, 1)
    if found.radius >= 1:
        lags = 1
        found = fit_arx(silent, 1, 0, 1)
    states = scan_spans(found.A - found.K @ found.C, found.K, e - found.offset, starts=run.starts)
    white = (e - found.offset - states @ found.C.T)[kept]
    root = np.linalg.cholesky(white.T @ white / max(len(white) - lags * p, 1) + 1e-30 * np.eye(p))
    AT, CT = np.ascontiguousarray(found.A.T), np.ascontiguousarray(found.C.T)
    coloured = np.empty((length, p, count))
    backward = [0, *(length - start for start in reversed(run.starts[1:]))]
    for q in range(count):
        # The transposed noise model, run from the last sample of an experiment to its first.
        past = scan_spans(AT, CT, weighted[:, :, q], starts=backward)
        coloured[:, :, q] = weighted[:, :, q] + past @ found.K
    rows = np.einsum("lk,tlq->tkq", root, coloured).reshape(-1, count)
    return rows.T @ rows


def _response_slope(
    model: InnovationsModel, CR: NDArray[np.complex128], RB: NDArray[np.complex128], path: str
) -> NDArray[np.complex128]:
    """Derivatives of the response at one frequency to the entries of `A, B, C, D, K`, shape (p, m, N)."""
    n, m, p = model.n_states, model.n_inputs, model.n_outputs
    columns = RB.shape[1]
    at_output, at_input = np.eye(p, dtype=complex), np.eye(columns, dtype=complex)
    by_A = np.einsum("ia,bj->ijab", CR, RB).reshape(p, columns, n * n)
    entry = np.einsum("ia,jb->ijab", CR, at_input).reshape(p, columns, n * columns)
    by_C = np.einsum("ia,bj->ijab", at_output, RB).reshape(p, columns, p * n)
    if path == "input":
        direct = np.einsum("ia,jb->ijab", at_output, at_input).reshape(p, m, p * m)
        parts = [by_A, entry, by_C, direct, np.zeros((p, m, n * p))]
    else:
        parts = [by_A, np.zeros((p, p, n * m)), by_C, np.zeros((p, p, p * m)), entry]
    return np.concatenate(parts, axis=2).astype(complex)
