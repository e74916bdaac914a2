"""Where the search for a polynomial model begins: long autoregression, then linear least squares."""

from __future__ import annotations

import numpy as np
import scipy.linalg
import scipy.signal
from numpy.typing import NDArray

from realization.identification.factorization import Scaling
from realization.identification.polynomial_form import Orders

__all__ = ["starting_values"]

Array = NDArray[np.float64]
ROUNDS = 12
MARGIN = 0.98


def starting_values(scaled: Scaling, orders: Orders) -> list[Array]:
    """Coefficients near those of a minimum; two sets where there are denominators to be misled about."""
    rounds = (ROUNDS, 1) if any(kind == "f" for kind, _, _ in orders.blocks) else (1,)
    return [_starting_value(scaled, orders, count) for count in rounds]


def _starting_value(scaled: Scaling, orders: Orders, rounds: int) -> Array:
    r"""Coefficients by linear least squares alone.

    With $A$ and $C$ in common (ARMAX): the innovations of a long autoregression stand in for $e$, which makes
    the model a linear regression (Hannan and Rissanen). With a denominator for each input: least squares
    filtered by the last denominators (Steiglitz and McBride), then the same regression for the noise.
    """
    y, u = scaled.y[:, 0], scaled.u
    theta = np.zeros(orders.total)
    places = orders.places
    if any(kind == "f" for kind, _, _ in orders.blocks):
        _denominators(theta, orders, y, u, rounds)
        noise = y - _simulated(theta, orders, u)
        if orders.nc + orders.nd:
            noise_orders = Orders(orders.nd, (), orders.nc, 0, (), ())
            own = _common(noise_orders, noise, u[:, :0])
            theta[places["d"][0]] = own[: orders.nd]
            theta[places["c"][0]] = own[orders.nd :]
    else:
        theta[:] = _common(orders, y, u)
    for name in ("a", "c", "d", "f"):
        for place in places[name]:
            theta[place] = _inside(theta[place])
    return theta


def _common(orders: Orders, y: Array, u: Array) -> Array:
    """Regression of `y` on its past, the inputs and the innovations of a long autoregression."""
    length, m = len(y), u.shape[1]
    last = [k + size - 1 for k, size in zip(orders.nk, orders.nb)]
    long = max(orders.na, orders.nc, *last, 0) + 4 + round(np.log(length) ** 1.5) if orders.nc else 0
    long = min(long, (length - 4) // (2 * (1 + m) + 1))
    e = np.zeros(length)
    if orders.nc:
        columns = [y[long - k : length - k] for k in range(1, long + 1)]
        columns += [u[long - k : length - k, j] for k in range(long + 1) for j in range(m)]
        design = np.column_stack([*columns, np.ones(length - long)])
        e[long:] = y[long:] - design @ scipy.linalg.lstsq(design, y[long:], cond=1e-10)[0]
    begin = min(max([long + orders.nc, orders.na, *last, 0]), length // 2)

    def lagged(signal: Array, lags: range) -> list[Array]:
        return [signal[begin - k : length - k] for k in lags]

    columns = [-column for column in lagged(y, range(1, orders.na + 1))]
    for j in range(m):
        columns += lagged(u[:, j], range(orders.nk[j], orders.nk[j] + orders.nb[j]))
    columns += lagged(e, range(1, orders.nc + 1))
    if not columns:
        return np.zeros(0)
    design = np.column_stack([*columns, np.ones(length - begin)])
    return scipy.linalg.lstsq(design, y[begin:], cond=1e-10)[0][:-1]


def _denominators(theta: Array, orders: Orders, y: Array, u: Array, rounds: int) -> None:
    """Each input's part of the output by a long autoregression, and its quotient by Steiglitz and McBride."""
    length, m = u.shape
    lags = min(10 + round(np.log(length) ** 1.5), (length - 4) // (2 * (1 + m) + 1))
    long = Orders(lags, (lags + 1,) * m, 0, 0, (0,) * m, (0,) * m)
    wide = _common(long, y, u)
    a = np.concatenate([[1.0], _inside(wide[:lags])])
    for i in range(m):
        b = wide[long.places["b"][i]]
        _quotient(theta, orders, i, u[:, i], scipy.signal.lfilter(b, a, u[:, i]), rounds)


def _quotient(theta: Array, orders: Orders, i: int, u: Array, w: Array, rounds: int) -> None:
    """`b_i`, `f_i` of the least error in `w = (B_i / F_i) u`: least squares, filtered by the last `F_i`."""
    b, f = orders.places["b"][i], orders.places["f"][i]
    best, least = theta.copy(), np.inf
    for _ in range(rounds):
        last = np.concatenate([[1.0], theta[f]])
        x, filtered = scipy.signal.lfilter([1.0], last, u), scipy.signal.lfilter([1.0], last, w)
        columns = [_delayed(x, k) for k in range(orders.nk[i], orders.nk[i] + orders.nb[i])]
        columns += [-_delayed(filtered, k) for k in range(1, orders.nf[i] + 1)]
        found = scipy.linalg.lstsq(np.column_stack(columns), filtered, cond=1e-10)[0]
        theta[b], theta[f] = found[: orders.nb[i]], _inside(found[orders.nb[i] :])
        taps = np.concatenate([np.zeros(orders.nk[i]), theta[b]])
        error = w - scipy.signal.lfilter(taps, np.concatenate([[1.0], theta[f]]), u)
        if float(error @ error) < least:
            best, least = theta.copy(), float(error @ error)
    theta[:] = best


def _simulated(theta: Array, orders: Orders, u: Array) -> Array:
    total = np.zeros(len(u))
    for i in range(u.shape[1]):
        taps = np.concatenate([np.zeros(orders.nk[i]), theta[orders.places["b"][i]]])
        total += scipy.signal.lfilter(taps, np.concatenate([[1.0], theta[orders.places["f"][i]]]), u[:, i])
    return total - total.mean()


def _delayed(signal: Array, lag: int) -> Array:
    return np.concatenate([np.zeros(lag), signal[: len(signal) - lag]])


def _inside(coefficients: Array) -> Array:
    """The monic polynomial with its roots mirrored into the unit circle."""
    if not len(coefficients):
        return coefficients
    roots = np.roots(np.concatenate([[1.0], coefficients]))
    size = np.abs(roots)
    mirrored = np.minimum(1 / np.maximum(size, 1e-300), MARGIN) / np.maximum(size, 1e-300)
    moved = np.where(size >= MARGIN, roots * mirrored, roots)
    found = np.asarray(np.poly(moved).real[1:], dtype=float)
    # Trailing zero coefficients have no root of their own.
    return np.concatenate([found, np.zeros(len(coefficients) - len(found))])
