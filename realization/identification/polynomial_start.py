"""Where the search for a polynomial model begins: long autoregression, then linear least squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg
import scipy.signal
from numpy.typing import NDArray

from realization.identification.factorization import Scaling
from realization.identification.polynomial_form import Orders
from realization.signals.spans import spans_of
from realization.systems.responses import joined

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
    y, u, starts = scaled.y[:, 0], scaled.u, scaled.starts
    theta = np.zeros(orders.total)
    places = orders.places
    if any(kind == "f" for kind, _, _ in orders.blocks):
        _denominators(theta, orders, scaled, rounds)
        noise = y - _simulated(theta, orders, u, starts)
        if orders.nc + orders.nd:
            noise_orders = Orders(orders.nd, (), orders.nc, 0, (), ())
            own = _common(noise_orders, noise, u[:, :0], starts)
            theta[places["d"][0]] = own[: orders.nd]
            theta[places["c"][0]] = own[orders.nd :]
    else:
        theta[:] = _common(orders, y, u, starts)
    for name in ("a", "c", "d", "f"):
        for place in places[name]:
            theta[place] = _inside(theta[place])
    return theta


def _common(orders: Orders, y: Array, u: Array, starts: Sequence[int]) -> Array:
    """Regression of `y` on its past, the inputs and the innovations of a long autoregression."""
    m, spans = u.shape[1], spans_of(starts, len(y))
    length = max(rows.stop - rows.start for rows in spans)
    last = [k + size - 1 for k, size in zip(orders.nk, orders.nb)]
    long = max(orders.na, orders.nc, *last, 0) + 4 + round(np.log(len(y)) ** 1.5) if orders.nc else 0
    long = max(0, min(long, (len(y) - 4) // (2 * (1 + m) + 1), length - 4))
    e = np.zeros(len(y))
    if orders.nc:
        lagged = _Lagged(spans, long)
        columns = [lagged(y, k) for k in range(1, long + 1)]
        columns += [lagged(u[:, j], k) for k in range(long + 1) for j in range(m)]
        design, now = np.column_stack([*columns, np.ones(len(lagged(y, 0)))]), lagged(y, 0)
        e[lagged.rows] = now - design @ _regression(design, now)
    lagged = _Lagged(spans, min(max([long + orders.nc, orders.na, *last, 0]), length // 2))
    columns = [-lagged(y, k) for k in range(1, orders.na + 1)]
    for j in range(m):
        columns += [lagged(u[:, j], k) for k in range(orders.nk[j], orders.nk[j] + orders.nb[j])]
    columns += [lagged(e, k) for k in range(1, orders.nc + 1)]
    if not columns:
        return np.zeros(0)
    return _regression(np.column_stack([*columns, np.ones(len(lagged.rows))]), lagged(y, 0))[:-1]


class _Lagged:
    """Signals at the rows that have at least `begin` samples of their experiment before them."""

    def __init__(self, spans: Sequence[slice], begin: int) -> None:
        self.rows = np.concatenate([np.arange(rows.start + begin, rows.stop) for rows in spans])

    def __call__(self, signal: Array, lag: int) -> Array:
        return signal[self.rows - lag]


def _regression(design: Array, target: Array) -> Array:
    """Least squares over the rows without a gap."""
    there = ~(np.isnan(design).any(axis=1) | np.isnan(target))
    if there.all():
        return scipy.linalg.lstsq(design, target, cond=1e-10)[0]
    if not there.any():
        return np.zeros(design.shape[1])
    return scipy.linalg.lstsq(design[there], target[there], cond=1e-10)[0]


def _denominators(theta: Array, orders: Orders, scaled: Scaling, rounds: int) -> None:
    """Each input's part of the output by a long autoregression, and its quotient by Steiglitz and McBride."""
    y, u, starts = scaled.y[:, 0], scaled.u, scaled.starts
    length, m = u.shape
    lags = min(10 + round(np.log(length) ** 1.5), (length - 4) // (2 * (1 + m) + 1))
    lags = max(1, min(lags, (max(scaled.lengths) - 4) // 2)) if len(starts) > 1 else lags
    long = Orders(lags, (lags + 1,) * m, 0, 0, (0,) * m, (0,) * m)
    wide = _common(long, y, u, starts)
    a = np.concatenate([[1.0], _inside(wide[:lags])])
    for i in range(m):
        b = wide[long.places["b"][i]]
        _quotient(theta, orders, i, u[:, i], _filtered(b, a, u[:, i], starts), rounds, starts)


def _quotient(
    theta: Array, orders: Orders, i: int, u: Array, w: Array, rounds: int, starts: Sequence[int]
) -> None:
    """`b_i`, `f_i` of the least error in `w = (B_i / F_i) u`: least squares, filtered by the last `F_i`."""
    b, f = orders.places["b"][i], orders.places["f"][i]
    best, least = theta.copy(), np.inf
    for _ in range(rounds):
        last = np.concatenate([[1.0], theta[f]])
        x, filtered = _filtered([1.0], last, u, starts), _filtered([1.0], last, w, starts)
        columns = [_delayed(x, k, starts) for k in range(orders.nk[i], orders.nk[i] + orders.nb[i])]
        columns += [-_delayed(filtered, k, starts) for k in range(1, orders.nf[i] + 1)]
        found = scipy.linalg.lstsq(np.column_stack(columns), filtered, cond=1e-10)[0]
        theta[b], theta[f] = found[: orders.nb[i]], _inside(found[orders.nb[i] :])
        taps = np.concatenate([np.zeros(orders.nk[i]), theta[b]])
        error = w - _filtered(taps, np.concatenate([[1.0], theta[f]]), u, starts)
        if float(error @ error) < least:
            best, least = theta.copy(), float(error @ error)
    theta[:] = best


def _simulated(theta: Array, orders: Orders, u: Array, starts: Sequence[int]) -> Array:
    total = np.zeros(len(u))
    for i in range(u.shape[1]):
        taps = np.concatenate([np.zeros(orders.nk[i]), theta[orders.places["b"][i]]])
        total += _filtered(taps, np.concatenate([[1.0], theta[orders.places["f"][i]]]), u[:, i], starts)
    return total - total.mean()


def _filtered(b: Array | list[float], a: Array, signal: Array, starts: Sequence[int]) -> Array:
    """The filter's response to a signal, from rest in each experiment."""
    return joined([scipy.signal.lfilter(b, a, signal[rows]) for rows in spans_of(starts, len(signal))])


def _delayed(signal: Array, lag: int, starts: Sequence[int]) -> Array:
    """The signal some samples later, with zeros at the beginning of each experiment."""
    parts = (signal[rows] for rows in spans_of(starts, len(signal)))
    return joined([np.concatenate([np.zeros(lag), part])[: len(part)] for part in parts])


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
