"""Subspace identification in the frequency domain: from frequency responses, from spectra, from records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import DataError, ExcitationError, ExcitationWarning, RankError, StabilityWarning
from realization.identification.frequency_data import (
    FrequencyRecord,
    from_record,
    from_response,
    from_spectra,
)
from realization.identification.frequency_factor import (
    FrequencyFactor,
    InputSide,
    Samples,
    factorize_samples,
    input_side,
)
from realization.identification.realization import reflect_poles
from realization.notes import warn
from realization.signals.data import IOData
from realization.systems.models import InnovationsModel, StateSpace

__all__ = ["FrequencySubspaceResult", "frequency_subspace"]

Array = NDArray[np.float64]
# Singular values and residuals of exact data end here, relative to the largest.
EXACT_RANK, EXACT_RESIDUAL = 1e-11, 1e-13
# Above this, errors say how the outputs' noise is spread; below, rounding does.
NOISE_FREE = 1e-9


@dataclass(frozen=True, eq=False)
class FrequencySubspaceResult:
    r"""Result of `frequency_subspace`.

    Attributes
    ----------
    model : StateSpace
        An `InnovationsModel` with the record's operating point and no gain where a record came.
    order : int
    singular_values : ndarray
        Of the projected outputs in units of their noise; a gap shows the order.
    block_rows : int
    feedthrough : bool
        Whether `D` was estimated.
    stabilized : bool
        Whether poles were moved into the stable region.
    residual : float
        Root of the weighted squared errors over all points, relative to the outputs.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> omega = np.array([0.1, 0.4, 1.0, 2.0, 2.9])
    >>> found = rz.frequency_subspace(omega, 1 / (np.exp(1j * omega) - 0.8))
    >>> found.order, found.stabilized, found.residual < 1e-12
    (1, False, True)
    """

    model: StateSpace
    order: int
    singular_values: Array
    block_rows: int
    feedthrough: bool
    stabilized: bool
    residual: float


class _Fit(NamedTuple):
    """A realization in the units of scaled samples."""

    A: Array
    C: Array
    path: InputSide
    feedthrough: bool
    stabilized: bool = False


def frequency_subspace(
    omega: IOData | ArrayLike,
    response: ArrayLike | None = None,
    order: int | None = None,
    *,
    inputs: ArrayLike | None = None,
    dt: float | None = None,
    weights: ArrayLike | None = None,
    noise: ArrayLike | None = None,
    block_rows: int | None = None,
    feedthrough: bool | Literal["auto"] = True,
    stable: bool = True,
    max_order: int = 20,
) -> FrequencySubspaceResult:
    r"""Frequency-domain subspace identification, at any frequencies.

    At every point $z_k$ of the unit circle $z_k X_k = A X_k + B U_k$, $Y_k = C X_k + D U_k$. Multiplied by
    polynomials $\varphi_0, \dots, \varphi_{i-1}$ in $z_k$ and put side by side,

    $$\begin{bmatrix} \varphi_0(z_k) Y_k \\ \vdots \\ \varphi_{i-1}(z_k) Y_k \end{bmatrix} =
    \begin{bmatrix} C \varphi_0(A) \\ \vdots \\ C \varphi_{i-1}(A) \end{bmatrix} X_k + \Gamma
    \begin{bmatrix} \varphi_0(z_k) U_k \\ \vdots \\ \varphi_{i-1}(z_k) U_k \end{bmatrix},$$

    so what is left of the outputs once the inputs are projected out shows the order, `A` and `C`; `B` and `D`
    follow by least squares. A frequency response is the case $U_k = I$. `A` and `C` are found on the circle
    of $w = (\gamma + s) / (\gamma - s)$, in discrete time that of $w = (z - a) / (1 - a z)$, over which the
    points are spread, whatever band they fill.

    Parameters
    ----------
    omega : array_like, shape (F,), or IOData
        Angular frequencies in rad/s, at least 0 (and at most $\pi / dt$ in discrete time), in any order and
        spacing. Or a record, of one experiment or several, whose Fourier transform is taken: a first and a
        last state that differ enter as one more input, $z (x_0 - x_T)$, and levels (frequency 0) are left
        out, so that noise-free records give exact models.
    response : array_like of complex, shape (F, p, m) or (F,)
        Frequency response; or, with `inputs`, the spectra of the outputs, shape (F, p) or (F,).
    order : int, optional
        States; when left out, that of the smallest Bayesian information criterion of the fit.
    inputs : array_like of complex, shape (F, m) or (F,), optional
        Spectra of the inputs.
    dt : float, optional
        `0.0` for continuous time; else the step ($z = e^{i \omega\, dt}$), one for `None`. A record has its
        own.
    weights : array_like, shape (F,), optional
        Weights of squared errors; a point of weight zero is left out. Equal when left out.
    noise : array_like, shape (F,) or (F, p, p), instead of `weights`
        Variance or covariance of the outputs' errors (of each column of the response) at each point.
    block_rows : int, optional
        Polynomials `i`; order at most `(i - 1) p`. Chosen from the number of points when left out.
    feedthrough : bool or "auto"
        Whether `D` is estimated; `"auto"` keeps it where it lowers the Bayesian information criterion.
    stable : bool
        Move poles from the unstable to the stable region, with a warning. `False` leaves them.
    max_order : int
        Highest order tried when `order` is left out.

    Returns
    -------
    FrequencySubspaceResult

    Raises
    ------
    ShapeError, DataError
        If the data are not what is said above, or an option is out of range.
    ExcitationError
        If the points are too few.
    RankError
        If `order` is more than the points or block rows support.

    Warns
    -----
    ExcitationWarning
        If the inputs' spectra do not fill all directions.
    StabilityWarning
        If poles were moved.

    References
    ----------
    T. McKelvey, H. Akcay, L. Ljung, Subspace-based multivariable system identification from frequency
    response data, IEEE Trans. Autom. Control 41 (1996) 960-979. R. Pintelon, J. Schoukens, *System
    Identification: A Frequency Domain Approach*, 2nd ed., Wiley 2012, section 6.3 (transients).

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> model = rz.StateSpace([[0.5, 1.0], [0.0, 0.8]], [[0.0], [1.0]], [[1.0, 0.0]], [[2.0]])
    >>> omega = np.array([0.05, 0.3, 0.4, 1.1, 2.0, 2.2, 3.0])
    >>> found = rz.frequency_subspace(omega, model.frequency_response(omega))
    >>> found.order, found.model.poles.real.round(9), found.model.D.round(9)
    (2, array([0.8, 0.5]), array([[2.]]))

    A record with a state at its beginning that nobody knows:

    >>> u = np.random.default_rng(0).standard_normal((60, 1))
    >>> data = rz.IOData(5 + model.simulate(u, x0=[3.0, -1.0]), u)
    >>> rz.frequency_subspace(data, order=2).model.poles.real.round(9)
    array([0.8, 0.5])
    """
    _check_options(order, block_rows, feedthrough, max_order)
    if isinstance(omega, IOData):
        if not all(option is None for option in (response, inputs, dt, weights, noise)):
            raise DataError(
                "frequency_subspace: a record brings its own spectra and step; response, inputs, dt, weights "
                "and noise go with frequencies."
            )
        record = from_record(omega)
    elif response is None:
        raise DataError("frequency_subspace: frequencies came without a response or output spectra.")
    elif inputs is None:
        record = from_response(omega, response, dt, weights, noise)
    else:
        record = from_spectra(omega, response, inputs, dt, weights, noise)
    samples = record.samples
    rows = _rows(samples, block_rows, order, max_order)
    found, rank = factorize_samples(samples, rows)
    _warn_of_poor_excitation(samples, rows, rank)
    highest = min(len(found.values), (rows - 1) * found.outputs, samples.equations - rank)
    if order is not None and order > highest:
        raise RankError(
            f"frequency_subspace: order {order} came; {samples.equations} equations for each output and "
            f"block_rows={rows} support at most {highest}. Take a lower order, more block rows or more "
            "points."
        )
    limit = min(highest, max_order)
    taken = _chosen_order(found, samples, limit, feedthrough) if order is None else order
    if samples.noise is None:
        samples = _with_noise_of(_fit(found, samples, taken, feedthrough), samples)
        if samples.noise is not None:
            found, _ = factorize_samples(samples, rows)
            taken = _chosen_order(found, samples, limit, feedthrough) if order is None else order
    fit = _fit(found, samples, taken, feedthrough, stable)
    size = _squares(samples, samples.Y)
    return FrequencySubspaceResult(
        model=_unscaled(record, fit),
        order=taken,
        singular_values=found.values,
        block_rows=rows,
        feedthrough=fit.feedthrough,
        stabilized=fit.stabilized,
        residual=float(np.sqrt(_squares(samples, fit.path.errors) / size)) if size else 0.0,
    )


def _with_noise_of(fit: _Fit, samples: Samples) -> Samples:
    """Outputs in units of their errors, as far as a first fit tells; exact data are left as they are."""
    count, p = samples.Y.shape[:2]
    errors = np.sqrt(samples.weights)[:, None, None] * fit.path.errors
    if _squares(samples, fit.path.errors) <= NOISE_FREE**2 * _squares(samples, samples.Y):
        return samples
    R = np.einsum("kpc,kqc->pq", errors, errors.conj()).real / (count * samples.Y.shape[2])
    R = R + 1e-6 * np.trace(R) / p * np.eye(p)
    return samples._replace(noise=R / (np.trace(R) / p) / samples.weights[:, None, None])


def _rows(samples: Samples, asked: int | None, order: int | None, max_order: int) -> int:
    """Block rows as asked for, or as many as suit the number of points and the order."""
    p, m = samples.Y.shape[1], samples.U.shape[1] + samples.transients
    equations = samples.equations
    least = 2 if order is None else 2 + (order - 1) // p
    possible = min((equations - max(order or 1, 1)) // m, samples.dimension)
    if asked is not None:
        if asked < least:
            raise RankError(
                f"frequency_subspace: order {order} with {p} outputs needs block_rows of at least {least}, "
                f"not {asked}."
            )
        if asked > possible:
            raise ExcitationError(
                f"frequency_subspace: block_rows={asked} came; {equations} equations for each output support "
                f"at most {possible}. Take fewer block rows or more points."
            )
        return asked
    if possible < least:
        raise ExcitationError(
            f"frequency_subspace: {len(samples.z)} points give {equations} equations for each output; "
            f"{'an order to be chosen' if order is None else f'order {order}'} needs at least "
            f"{least * m + max(order or 1, 1)}. Give more points or ask for a lower order."
        )
    wanted = max(20, least + 3) if order is not None else max(20, 2 + max_order // p)
    return min(wanted, max(equations // (2 * (m + p)), least), possible)


def _warn_of_poor_excitation(samples: Samples, rows: int, rank: int) -> None:
    wanted = rows * (samples.U.shape[1] + samples.transients)
    if rank < wanted:
        warn(
            f"frequency_subspace: the inputs' spectra fill only {rank} of the {wanted} directions that "
            f"block_rows={rows} asks for; what they do not excite is not identified. Take richer inputs or "
            "fewer block rows.",
            ExcitationWarning,
            stacklevel=3,
        )


def _chosen_order(
    found: FrequencyFactor, samples: Samples, limit: int, feedthrough: bool | Literal["auto"]
) -> int:
    """Order of the smallest criterion, among those whose singular values are more than rounding."""
    shown = int((found.values > EXACT_RANK * found.values[0]).sum()) if found.values.size else 0
    fits = (_fit(found, samples, n, feedthrough is not False) for n in range(min(shown, limit) + 1))
    return int(np.argmin([_criterion(fit, samples) for fit in fits]))


def _criterion(fit: _Fit, samples: Samples) -> float:
    r"""Bayesian information criterion $N \log (\text{squares}) + d \log N$ of `N` real equations."""
    n, (_, p, _), m = len(fit.A), samples.Y.shape, samples.U.shape[1]
    count = samples.equations * p
    squares = fit.path.squares + EXACT_RESIDUAL**2 * _squares(samples, samples.Y) + np.finfo(float).tiny
    parameters = n * (m + p + samples.transients) + p * m * fit.feedthrough
    return float(count * np.log(squares) + parameters * np.log(count))


def _squares(samples: Samples, values: NDArray[np.complex128]) -> float:
    return float((samples.weights[:, None, None] * np.abs(values) ** 2).sum())


def _fit(
    found: FrequencyFactor,
    samples: Samples,
    order: int,
    feedthrough: bool | Literal["auto"],
    stable: bool = False,
) -> _Fit:
    A, C = found.matrices(order)
    radius = np.abs(np.linalg.eigvals(A)).max(initial=0.0)
    stabilized = bool(stable and radius >= 1)
    if stabilized:
        warn(
            f"frequency_subspace: the estimate of order {order} had a pole outside the stable region, which "
            "was moved to its mirror image. If the plant is unstable, ask for stable=False.",
            StabilityWarning,
            stacklevel=3,
        )
        A = reflect_poles(A)
    A, C = samples.turned(A, C)
    choices = (False, True) if feedthrough == "auto" else (bool(feedthrough),)
    tried = [_Fit(A, C, input_side(A, C, samples, direct), direct, stabilized) for direct in choices]
    return min(tried, key=lambda fit: _criterion(fit, samples))


def _unscaled(record: FrequencyRecord, fit: _Fit) -> StateSpace:
    """The model in the data's own units and time."""
    A, C, path = fit.A, fit.C, fit.path
    B, D = path.B / record.u_scale, path.D * record.y_scale[:, None] / record.u_scale
    C = C * record.y_scale[:, None]
    A, B = A * record.rate, B * record.rate
    if record.means is None:
        return StateSpace(A, B, C, D, record.dt)
    u_mean, level = record.means.operating_point(A, B, C, D, path.transients)
    errors = fit.path.errors[:, :, 0] * record.y_scale
    Re = 2 * (errors.T @ errors.conj()).real / record.means.lengths.sum()
    return InnovationsModel(A, B, C, D, record.dt, Re=(Re + Re.T) / 2, u_mean=u_mean, y_mean=level)


def _check_options(order: int | None, block_rows: int | None, feedthrough: object, max_order: int) -> None:
    if feedthrough not in (True, False, "auto"):
        raise DataError(
            f"frequency_subspace: feedthrough={feedthrough!r} came; True, False or 'auto' is needed."
        )
    check_whole("frequency_subspace", order=(order, 0), block_rows=(block_rows, 2), max_order=(max_order, 1))
