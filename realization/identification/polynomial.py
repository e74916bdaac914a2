"""Polynomial models with one output: ARMAX, output error, Box-Jenkins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import check_whole
from realization.errors import ConvergenceWarning, DataError, ExcitationError, ShapeError
from realization.identification.factorization import scale
from realization.identification.polynomial_form import Orders, PolynomialCoordinates, point_of
from realization.identification.polynomial_start import starting_values
from realization.identification.realization import Realization, unscaled
from realization.identification.search import search
from realization.identification.sensitivities import Blocks
from realization.identification.uncertainty import Uncertainty, coordinate_covariance, entry_covariance
from realization.notes import warn
from realization.signals.data import IOData, as_data
from realization.systems.models import InnovationsModel

__all__ = ["PolynomialResult", "armax", "bj", "oe"]

Array = NDArray[np.float64]
Lags = int | Sequence[int]


@dataclass(frozen=True, eq=False)
class PolynomialResult:
    r"""Result of `armax`, `oe` or `bj`.

    Polynomials in the backward shift, as coefficients of $q^0, q^{-1}, \dots$

    Attributes
    ----------
    model : InnovationsModel
        The same in state space.
    a, c, d : ndarray
        $A$, $C$, $D$, each beginning with 1.
    b, f : tuple of ndarray
        $B_i$ (with its delay's zeros) and $F_i$, one for each input.
    covariance : ndarray, shape (N, N)
        Of the estimated coefficients: those of $A$, $B_1, \dots$, $C$, $D$, $F_1, \dots$ in this order.
    uncertainty : Uncertainty
        Of the model, with bands of its frequency response.
    converged : bool

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u, e = rng.standard_normal((2, 1000))
    >>> y = np.zeros(1000)
    >>> for t in range(1, 1000):
    ...     y[t] = 0.8 * y[t - 1] + u[t - 1] + e[t] + 0.5 * e[t - 1]
    >>> fit = rz.armax(rz.IOData(y, u), na=1, nb=1, nc=1)
    >>> sorted(fit.standard_errors)
    ['a', 'b', 'c', 'd', 'f']
    """

    model: InnovationsModel
    a: Array
    b: tuple[Array, ...]
    c: Array
    d: Array
    f: tuple[Array, ...]
    covariance: Array
    uncertainty: Uncertainty
    converged: bool
    _orders: Orders = field(repr=False)

    @property
    def standard_errors(self) -> dict[str, Array | tuple[Array, ...]]:
        """Standard errors in the shapes of the polynomials; zero where a coefficient is known."""
        return _polynomials(self._orders, np.sqrt(np.diag(self.covariance)), leading=0.0)


def armax(
    data: IOData | ArrayLike, na: int, nb: Lags = 0, nc: int = 0, *, nk: Lags = 1, stable: bool = True
) -> PolynomialResult:
    r"""ARMAX model (ARMA for an output-only record), by maximum likelihood.

    $$A(q) y_t = \sum_i B_i(q) u_{i,t} + C(q) e_t$$

    Parameters
    ----------
    data : IOData
        With one output. Each of several experiments has a first state of its own; outputs may be missing.
    na : int
        Degree of $A = 1 + a_1 q^{-1} + \dots$
    nb : int or sequence of int
        Coefficients of each $B_i$.
    nc : int
        Degree of $C$.
    nk : int or sequence of int
        Delay of each input in samples; 0 lets it act at once.
    stable : bool
        Keep the roots of $A$ inside the unit circle (those of $C$ always stay there).

    Returns
    -------
    PolynomialResult

    Raises
    ------
    DataError
        If the record has several outputs or an order is out of range.
    ExcitationError
        If the record is too short.

    Warns
    -----
    ConvergenceWarning
        If the search ended before a minimum was reached.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, sections 4.2, 7.2 and 10.4.
    E. J. Hannan, J. Rissanen, Recursive estimation of mixed autoregressive-moving average order, Biometrika
    69 (1982) 81-94.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u, e = rng.standard_normal((2, 2000))
    >>> y = np.zeros(2000)
    >>> for t in range(1, 2000):
    ...     y[t] = 0.8 * y[t - 1] + u[t - 1] + e[t] + 0.5 * e[t - 1]
    >>> fit = rz.armax(rz.IOData(y, u), na=1, nb=1, nc=1)
    >>> bool(abs(fit.a[1] + 0.8) < 0.05), bool(abs(fit.c[1] - 0.5) < 0.1)
    (True, True)
    """
    return _fitted("armax", data, na, nb, nc, 0, 0, nk, stable)


def oe(data: IOData | ArrayLike, nb: Lags, nf: Lags, *, nk: Lags = 1) -> PolynomialResult:
    r"""Output-error model: the best simulation, whatever the noise.

    $$y_t = \sum_i \frac{B_i(q)}{F_i(q)} u_{i,t} + v_t$$

    Covariances allow for $v$ of any colour.

    Parameters
    ----------
    data : IOData
        With one output. Each of several experiments has a first state of its own; outputs may be missing.
    nb : int or sequence of int
        Coefficients of each $B_i$.
    nf : int or sequence of int
        Degree of each $F_i$.
    nk : int or sequence of int
        Delay of each input in samples; 0 lets it act at once.

    Returns
    -------
    PolynomialResult

    Raises
    ------
    DataError
        If the record has several outputs or no inputs, or an order is out of range.
    ExcitationError
        If the record is too short.

    Warns
    -----
    ConvergenceWarning
        If the search ended before a minimum was reached.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, sections 4.2 and 10.4.
    K. Steiglitz, L. E. McBride, A technique for the identification of linear systems, IEEE Trans. Autom.
    Control 10 (1965) 461-464.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal((1000, 1))
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((1000, 1))
    >>> fit = rz.oe(rz.IOData(y, u), nb=1, nf=1)
    >>> fit.f[0].round(2), fit.b[0].round(2)
    (array([ 1. , -0.8]), array([0. , 0.5]))
    """
    return _fitted("oe", data, 0, nb, 0, 0, nf, nk, True)


def bj(data: IOData | ArrayLike, nb: Lags, nc: int, nd: int, nf: Lags, *, nk: Lags = 1) -> PolynomialResult:
    r"""Box-Jenkins model: the dynamics and the noise have nothing in common.

    $$y_t = \sum_i \frac{B_i(q)}{F_i(q)} u_{i,t} + \frac{C(q)}{D(q)} e_t$$

    Parameters
    ----------
    data : IOData
        With one output. Each of several experiments has a first state of its own; outputs may be missing.
    nb : int or sequence of int
        Coefficients of each $B_i$.
    nc, nd : int
        Degrees of $C$ and $D$.
    nf : int or sequence of int
        Degree of each $F_i$.
    nk : int or sequence of int
        Delay of each input in samples; 0 lets it act at once.

    Returns
    -------
    PolynomialResult

    Raises
    ------
    DataError
        If the record has several outputs or no inputs, or an order is out of range.
    ExcitationError
        If the record is too short.

    Warns
    -----
    ConvergenceWarning
        If the search ended before a minimum was reached.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, sections 4.2 and 10.4.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u, e = rng.standard_normal((2, 2000, 1))
    >>> noise = rz.StateSpace([[0.9]], [[1.0]], [[0.9]], [[1.0]]).simulate(0.1 * e)
    >>> y = rz.StateSpace([[0.5]], [[1.0]], [[1.0]]).simulate(u) + noise
    >>> fit = rz.bj(rz.IOData(y, u), nb=1, nc=0, nd=1, nf=1)
    >>> fit.f[0].round(1), fit.d.round(1)
    (array([ 1. , -0.5]), array([ 1. , -0.9]))
    """
    return _fitted("bj", data, 0, nb, nc, nd, nf, nk, True)


def _fitted(
    kind: Literal["armax", "oe", "bj"],
    data: IOData | ArrayLike,
    na: int,
    nb: Lags,
    nc: int,
    nd: int,
    nf: Lags,
    nk: Lags,
    stable: bool,
) -> PolynomialResult:
    record = as_data(data, missing=True, experiments=True)
    m = record.n_inputs
    check_whole(kind, na=(na, 0), nc=(nc, 0), nd=(nd, 0))
    orders = Orders(na, _each(nb, m, "nb", kind), nc, nd, _each(nf, m, "nf", kind), _each(nk, m, "nk", kind))
    _check(kind, record, orders)
    scaled = scale(record, kind)
    coordinates = PolynomialCoordinates(orders)
    simulated = kind == "oe"
    tried = [
        search(
            point_of(orders, theta, scaled),
            coordinates,
            scaled,
            blocks=Blocks(gain=not simulated),
            stable=stable,
            iterations=100,
            tolerance=1e-4,
        )
        for theta in starting_values(scaled, orders)
    ]
    found = min(tried, key=lambda ended: ended.loss)
    if not found.converged:
        warn(
            f"{kind}: no minimum was reached in {found.iterations} steps; the best point is returned. Take "
            "lower orders or a longer record.",
            ConvergenceWarning,
            stacklevel=3,
        )
    A, B, C, D, K, level, start = found.point
    model = unscaled(
        scaled, Realization(A, B, C, D, K, level, start, bool(D.any()), False), record.dt, found.Re
    )
    focus = "simulation" if simulated else "prediction"
    slope = coordinates.slope(found.point)
    units = np.ones(orders.total)
    for i, place in enumerate(orders.places["b"]):
        units[place] = scaled.y_scale[0] / scaled.u_scale[i]
    covariance = coordinate_covariance(found.point, slope, scaled, focus, found.Re)[
        : orders.total, : orders.total
    ]
    return PolynomialResult(
        model=model,
        covariance=covariance * units * units[:, None],
        uncertainty=Uncertainty(model, entry_covariance(found.point, coordinates, scaled, focus, found.Re)),
        converged=found.converged,
        _orders=orders,
        **_polynomials(orders, coordinates.theta(found.point) * units, leading=1.0),  # pyright: ignore[reportArgumentType]
    )


def _polynomials(orders: Orders, theta: Array, *, leading: float) -> dict[str, Array | tuple[Array, ...]]:
    """Coefficients in the order of `Orders.places`, as polynomials."""
    places = orders.places

    def monic(place: slice) -> Array:
        return np.concatenate([[leading], theta[place]])

    return {
        "a": monic(places["a"][0]),
        "b": tuple(np.concatenate([np.zeros(k), theta[s]]) for k, s in zip(orders.nk, places["b"])),
        "c": monic(places["c"][0]),
        "d": monic(places["d"][0]),
        "f": tuple(monic(place) for place in places["f"]),
    }


def _each(value: Lags, m: int, name: str, kind: str) -> tuple[int, ...]:
    given = [value] * m if np.ndim(value) == 0 else list(np.asarray(value))
    for one in given:
        check_whole(kind, **{name: (one, 0)})
    values = tuple(int(one) for one in given)  # pyright: ignore[reportArgumentType]
    if len(values) != m:
        raise ShapeError(f"{kind}: {name} has {len(values)} entries; {m} are needed, one an input.")
    return values


def _check(kind: str, record: IOData, orders: Orders) -> None:
    if record.n_outputs != 1:
        raise DataError(
            f"{kind}: {record.n_outputs} outputs came; polynomial models have one. Identify each output on "
            "its own, or all together with pem or arx."
        )
    if record.n_inputs == 0 and kind != "armax":
        raise DataError(f"{kind}: the record has no inputs; armax(data, na, nc=...) models a time series.")
    if min((orders.na, orders.nc, orders.nd, *orders.nb, *orders.nf, *orders.nk, 0)) < 0:
        raise DataError(f"{kind}: orders and delays cannot be negative; {orders} came.")
    if kind != "armax" and min(orders.nb) < 1:
        raise DataError(f"{kind}: nb={orders.nb} came; each input needs at least one coefficient.")
    states = orders.states * len(record.starts)
    needed = 3 * (orders.total + 1) + states
    measured = int(record.observed.sum())
    if measured < needed:
        supported = (measured - states) // 3 - 1
        raise ExcitationError(
            f"{kind}: {measured} samples came; {orders.total} coefficients"
            + (f" and the first states of {len(record.starts)} experiments" if len(record.starts) > 1 else "")
            + f" need at least {needed}. With as many states the record supports "
            + (f"{supported} coefficients" if supported > 0 else "no coefficients")
            + ". Take lower orders or a longer record."
        )
