"""Training of the static part of a signal model: Levenberg-Marquardt on the simulation error of windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bmojo.bridge.signal_model.loop import Loop
from realization.identification import pem
from realization.notes import collected
from realization.signals import IOData
from realization.systems import StateSpace

__all__ = [
    "Spans",
    "Trained",
    "held_out_fit",
    "saturation",
    "start_loop",
    "train_loop",
    "with_units",
    "without",
]

Array = NDArray[np.float64]
Spans = Sequence[tuple[int, int]]
LEAST = 20  # samples of a stretch that is worth a first state
SHARE = 0.01  # of the samples at an extreme: then it is a limit


def without(spans: Spans, hold: tuple[int, int]) -> list[tuple[int, int]]:
    """What is left of spans of rows where the rows of `hold` are taken out."""
    pieces = [
        piece
        for a, b in spans
        for piece in ((a, min(b, hold[0])), (max(a, hold[1]), b))
    ]  # fmt: skip
    return [(a, b) for a, b in pieces if b - a >= LEAST]


def saturation(y: Array) -> tuple[Array, Array]:
    """Limits (p,) of outputs (T, p) that stay at their extreme for a part of the record; else infinite."""
    low, high = y.min(axis=0), y.max(axis=0)
    return (
        np.where((y == low).mean(axis=0) > SHARE, low, -np.inf),
        np.where((y == high).mean(axis=0) > SHARE, high, np.inf),
    )


def start_loop(u: Array, y: Array, spans: Spans, *, order: int, limits: tuple[Array, Array]) -> Loop:
    """The linear model of least simulation error, its states of unit variance, without a correction.

    Parameters
    ----------
    u : ndarray, shape (T, m)
    y : ndarray, shape (T, p)
    spans : sequence of (int, int)
        Rows to train on.
    order : int
    limits : tuple of ndarray, shape (p,)
    """
    rows = np.concatenate([np.arange(a, b) for a, b in spans])
    lengths = [b - a for a, b in spans]
    starts = tuple(int(k) for k in np.cumsum([0, *lengths[:-1]]))
    with collected():  # the floor says what the record lacks
        model = pem(IOData(y[rows], u[rows], starts=starts), order=order, focus="simulation", offset=False)
    A, B, C, D = (np.array(M) for M in (model.model.A, model.model.B, model.model.C, model.model.D))
    n, m, p = order, u.shape[1], y.shape[1]
    reach = StateSpace(A, B, np.eye(n), np.zeros((n, m)))
    states = np.concatenate([reach.simulate(u[a:b]) for a, b in spans])
    covariance = np.atleast_2d(np.cov(states.T))
    root = np.linalg.cholesky(covariance + 1e-9 * np.trace(covariance) * np.eye(n))
    back = np.linalg.inv(root)
    none = np.zeros((0, n + m)), np.zeros(0), np.zeros((n, 0)), np.zeros((p, 0))
    return Loop(back @ A @ root, back @ B, C @ root, D, *none, *limits)


def with_units(loop: Loop, hidden: int, seed: Sequence[int]) -> Loop:
    """The loop with `hidden` random units that do not act yet."""
    rng, (n, m), p = np.random.default_rng(list(seed)), loop.B.shape, len(loop.C)
    W = rng.standard_normal((hidden, n + m)) / np.sqrt(n + m)
    units = W, rng.standard_normal(hidden), np.zeros((n, hidden)), np.zeros((p, hidden))
    return Loop(loop.A, loop.B, loop.C, loop.D, *units, loop.low, loop.high)


@dataclass(frozen=True, eq=False)
class Trained:
    """A loop at the iteration that was best on what was held out.

    Parameters
    ----------
    loop : Loop
    iteration : int
        0 is the linear model.
    fits : tuple of float
        On the rows held out, in percent, at each iteration.
    """

    loop: Loop
    iteration: int
    fits: tuple[float, ...]


def held_out_fit(y: Array, found: Array) -> float:
    """Fit in percent, mean over the outputs that move."""
    spread = np.linalg.norm(y - y.mean(axis=0), axis=0)
    moving = spread > 0
    if not moving.any() or not np.isfinite(found).all():
        return -np.inf
    return float(np.mean(100 * (1 - np.linalg.norm(y - found, axis=0)[moving] / spread[moving])))


def train_loop(
    loop: Loop,
    u: Array,
    y: Array,
    spans: Spans,
    hold: tuple[int, int],
    *,
    window: int,
    ridge: float,
    iterations: int = 60,
) -> Trained:
    r"""Levenberg-Marquardt steps on the simulation error, stopped where the held-out rows say.

    $$\min_{\theta, x_0^{(i)}} \sum_i \sum_t \lVert y^{(i)}_t - \hat y_t(\theta, x_0^{(i)}) \rVert^2 +
    \lVert \theta - \theta_0 \rVert_\Lambda^2$$

    Parameters
    ----------
    loop : Loop
    u : ndarray, shape (T, m)
    y : ndarray, shape (T, p)
    spans : sequence of (int, int)
        Rows to train on; each is cut into windows with first states of their own.
    hold : (int, int)
        Rows held out.
    window : int
        Samples of a window, about.
    ridge : float
        Weight of the correction's own parameters; a tenth of it holds the linear model and what goes into
        the correction.
    iterations : int

    References
    ----------
    J. Nocedal, S. Wright, *Numerical Optimization*, 2nd ed., Springer 2006, section 10.3.
    """
    n, theta = len(loop.A), loop.parameters
    pieces = [(u[a:b], y[a:b]) for a, b in _windows(spans, window)]
    z = np.concatenate([theta, *(loop.first_state(*piece) for piece in pieces)])
    weight = np.full(len(z), 1e-6)
    weight[: len(theta)] = 0.1 * ridge
    weight[len(theta) - loop.E.size - loop.F.size : len(theta)] = ridge
    centre, damping = z, 1.0
    cost, hessian, slope = _normal_equations(loop, pieces, z)
    outside, aim = u[slice(*hold)], y[slice(*hold)]
    x0 = loop.first_state(outside, aim)
    best, best_fit, at = loop, held_out_fit(aim, loop.simulate(outside, x0)[0]), 0
    fits = [best_fit]
    for iteration in range(1, iterations + 1):
        pull = slope - weight * (z - centre)
        for _ in range(8):
            tried = z + np.linalg.solve(hessian + np.diag(weight + damping), pull)
            lower = _cost(loop, pieces, tried) + np.sum(weight * (tried - centre) ** 2)
            if _stable(tried, n) and lower < cost:
                break
            damping *= 4
        else:
            break
        little = cost - lower < 1e-4 * cost
        z, damping = tried, max(0.3 * damping, 1e-6)
        plain, hessian, slope = _normal_equations(loop, pieces, z)
        cost = plain + np.sum(weight * (z - centre) ** 2)
        now = loop.with_parameters(z[: len(theta)])
        x0 = now.first_state(outside, aim, start=x0)
        fits.append(held_out_fit(aim, now.simulate(outside, x0)[0]))
        if fits[-1] > best_fit:
            best, best_fit, at = now, fits[-1], iteration
        if little and iteration > 20:
            break
    return Trained(best, at, tuple(fits))


def _windows(spans: Spans, window: int) -> list[tuple[int, int]]:
    """Spans cut into equal parts of about `window` rows."""
    found = []
    for a, b in spans:
        edges = np.linspace(a, b, max(1, round((b - a) / window)) + 1).astype(int)
        found += pairwise(edges.tolist())
    return found


def _stable(z: Array, n: int) -> bool:
    return bool(np.abs(np.linalg.eigvals(z[: n * n].reshape(n, n))).max(initial=0.0) < 1)


def _split(loop: Loop, z: Array, count: int) -> tuple[Loop, Array]:
    size = len(z) - count * len(loop.A)
    return loop.with_parameters(z[:size]), z[size:].reshape(count, -1)


def _cost(loop: Loop, pieces: list[tuple[Array, Array]], z: Array) -> float:
    now, first = _split(loop, z, len(pieces))
    errors = [y - now.simulate(u, x0)[0] for (u, y), x0 in zip(pieces, first, strict=True)]
    total = float(sum(np.sum(error**2) for error in errors))
    return total if np.isfinite(total) else np.inf


def _normal_equations(loop: Loop, pieces: list[tuple[Array, Array]], z: Array) -> tuple[float, Array, Array]:
    """Sum of squares, `JᵀJ` and `Jᵀe` in the parameters and the windows' first states."""
    now, first = _split(loop, z, len(pieces))
    n, size, total = len(loop.A), len(z) - first.size, 0.0
    hessian, slope = np.zeros((len(z), len(z))), np.zeros(len(z))
    for i, ((u, y), x0) in enumerate(zip(pieces, first, strict=True)):
        found, x = now.simulate(u, x0)
        error = (y - found).ravel()
        J = now.sensitivities(u, x, found).reshape(len(error), -1)
        at = np.concatenate([np.arange(size), np.arange(size + i * n, size + (i + 1) * n)])
        hessian[np.ix_(at, at)] += J.T @ J
        slope[at] += J.T @ error
        total += float(error @ error)
    return total, hessian, slope
