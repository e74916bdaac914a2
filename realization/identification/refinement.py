"""Refinement of a realization by Gauss-Newton steps on its prediction or simulation errors."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.identification.factorization import Scaling
from realization.identification.noise import innovation_covariance, one_step_innovations
from realization.identification.realization import Realization
from realization.identification.regression import input_sensitivities
from realization.systems.responses import free_response, predictor_states

__all__ = ["Criterion", "refine"]

Array = NDArray[np.float64]
Criterion = Literal["prediction", "simulation", "both", "gain"]
RADIUS = 0.99995


class _Point(NamedTuple):
    """Parameters: the matrices, the offset, and one first state for each criterion."""

    A: Array
    B: Array
    C: Array
    D: Array
    K: Array
    offset: Array
    starts: Array


class _Free(NamedTuple):
    """Which parts of a model may move."""

    path: bool
    feedthrough: bool
    gain: bool
    offset: bool


def refine(
    found: Realization,
    scaled: Scaling,
    criterion: Criterion,
    *,
    offset: bool = True,
    stable: bool = True,
    iterations: int = 20,
    tolerance: float = 1e-5,
) -> Realization:
    r"""Levenberg-Marquardt on all entries of the matrices, starting from a realization.

    `prediction` minimizes $\sum_t e_t^\top R_e^{-1} e_t$ of the one-step errors, `simulation`
    $\sum_k \|y_k - \hat y_k\|$ of the simulation errors over the outputs (what a fit in percent is made of),
    `both` the sum of the norms of the two, `gain` the one-step errors over `K` alone, which leaves the
    simulation as it is. Similar realizations are equally good: the damping picks the nearest.

    Parameters
    ----------
    found : Realization
    scaled : Scaling
    criterion : {"prediction", "simulation", "both", "gain"}
    offset : bool
        Whether the outputs' constant level may move.
    stable : bool
        Refuse steps that take a pole out of the unit circle.
    iterations : int
        Most steps.
    tolerance : float
        Stop when a step lowers the criterion by less than this share.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, sections 7.2 and 10.2.
    A. Wills, B. Ninness, On gradient-based search for multivariable system estimates, IEEE Trans. Autom.
    Control 53 (2008) 298-306.
    """
    n, m = len(found.A), scaled.u.shape[1]
    if n == 0:
        return found
    plain = criterion in ("prediction", "gain")
    whitener, colourer = _whitening(found, scaled) if plain else (np.eye(len(found.C)),) * 2
    u, y = scaled.u, scaled.y @ whitener.T
    simulated = {"simulation": (True,), "both": (True, False)}.get(criterion, (False,))
    path = criterion != "gain"
    free = _Free(path, path and found.feedthrough and m > 0, criterion != "simulation", path and offset)
    point = _normalized(found, scaled, whitener, colourer, simulated)
    point = _search(point, u, y, simulated, free, plain, stable, iterations, tolerance)
    D, C = colourer @ point.D, colourer @ point.C
    return found._replace(
        A=point.A,
        B=point.B,
        C=C,
        D=D,
        K=point.K @ whitener if free.gain else found.K * 0.0,
        offset=colourer @ point.offset,
        x0=point.starts[0],
    )


def _search(
    point: _Point,
    u: Array,
    y: Array,
    simulated: tuple[bool, ...],
    free: _Free,
    plain: bool,
    stable: bool,
    iterations: int,
    tolerance: float,
) -> _Point:
    def cost_of(candidate: _Point) -> tuple[float, list[tuple[Array, Array]]]:
        runs = [_errors(candidate, u, y, sim, candidate.starts[f]) for f, sim in enumerate(simulated)]
        squares = [(e**2).sum(axis=0) for e, _ in runs]
        cost = sum(float(s.sum() if plain else np.sqrt(s).sum()) for s in squares)
        return cost, runs

    cost, runs = cost_of(point)
    damping = 1e-3
    for _ in range(iterations):
        hessian, gradient = _normal_equations(point, u, runs, simulated, free, plain)
        scale = np.sqrt(np.maximum(np.diag(hessian), 1e-12 * np.diag(hessian).max()))
        hessian, gradient = hessian / scale / scale[:, None], gradient / scale
        better = None
        for _ in range(8):
            step = (
                scipy.linalg.solve(hessian + damping * np.eye(len(scale)), gradient, assume_a="pos") / scale
            )
            trial = _moved(point, step, free)
            if _admissible(trial, simulated, stable):
                trial_cost, trial_runs = cost_of(trial)
                if trial_cost < cost:
                    better = trial, trial_cost, trial_runs
                    break
            damping *= 4
        if better is None:
            break
        before = cost
        point, cost, runs = better
        damping = max(damping / 8, 1e-8)
        if before - cost <= tolerance * before:
            break
    return point


def _errors(point: _Point, u: Array, y: Array, simulated: bool, start: Array) -> tuple[Array, Array]:
    """Errors and states, of the simulation or of the one-step prediction."""
    K = point.K * 0.0 if simulated else point.K
    target = y - point.offset
    states = predictor_states(point.A, point.B, point.C, point.D, K, u, target, start)
    return target - states @ point.C.T - u @ point.D.T, states


def _normal_equations(
    point: _Point,
    u: Array,
    runs: list[tuple[Array, Array]],
    simulated: tuple[bool, ...],
    free: _Free,
    plain: bool,
) -> tuple[Array, Array]:
    hessian, gradient = 0.0, 0.0
    for f, ((e, states), sim) in enumerate(zip(runs, simulated)):
        signals = np.hstack([states, u, e, np.ones((len(u), 1))])
        for k in range(e.shape[1]):
            J = _sensitivities(point, signals, u.shape[1], k, sim, free, f, len(simulated))
            weight = 1.0 if plain else 1 / max(float(np.linalg.norm(e[:, k])), 1e-12)
            hessian = hessian + weight * (J.T @ J)
            gradient = gradient + weight * (J.T @ e[:, k])
    return np.asarray(hessian), np.asarray(gradient)


def _sensitivities(
    point: _Point, signals: Array, m: int, k: int, simulated: bool, free: _Free, focus: int, foci: int
) -> Array:
    """Derivatives of output `k`'s prediction with respect to every free parameter, shape (T, parameters)."""
    n, p, length = len(point.A), len(point.C), len(signals)
    K = point.K * 0.0 if simulated else point.K
    F = point.A - K @ point.C
    used = n + m if simulated else signals.shape[1]
    S = np.zeros((length, used, n))
    begin, stop = (0, used) if free.path else (n + m, n + m + p)
    S[:, begin:stop] = input_sensitivities(F, point.C[k], signals[:, begin:stop]).reshape(length, -1, n)
    unit = np.eye(p)[k]

    def through(block: slice) -> Array:
        """How a change of `C`, `D` or the offset acts: at once on its output, and back through the gain."""
        at_once = signals[:, block, None] * unit
        return at_once if simulated else at_once - S[:, block] @ K

    parts = []
    if free.path:
        parts += [S[:, :n].reshape(length, -1), S[:, n : n + m].reshape(length, -1)]
        parts.append(through(slice(0, n)).reshape(length, -1))
    if free.feedthrough:
        parts.append(through(slice(n, n + m)).reshape(length, -1))
    if free.gain:
        parts.append(np.zeros((length, n * p)) if simulated else S[:, n + m : n + m + p].reshape(length, -1))
    if free.offset:
        parts.append(
            through(slice(n + m + p, n + m + p + 1))[:, 0] if not simulated else np.tile(unit, (length, 1))
        )
    starts = np.zeros((length, foci, n))
    starts[:, focus] = free_response(F, point.C[k : k + 1], length)[:, 0]
    parts.append(starts.reshape(length, -1))
    return np.hstack(parts)


def _moved(point: _Point, step: Array, free: _Free) -> _Point:
    """The point after a step whose entries are ordered as the columns of `_sensitivities`."""
    used = 0

    def take(like: Array, wanted: bool) -> Array:
        nonlocal used
        if not wanted:
            return like
        part = step[used : used + like.size]
        used += like.size
        return like + (part.reshape(like.shape[::-1]).T if like.ndim == 2 else part)

    A, B, C = take(point.A, free.path), take(point.B, free.path), take(point.C, free.path)
    D, K = take(point.D, free.feedthrough), take(point.K, free.gain)
    offset = take(point.offset, free.offset)
    starts = point.starts + step[used:].reshape(point.starts.shape)
    return _Point(A, B, C, D, K, offset, starts)


def _admissible(point: _Point, simulated: tuple[bool, ...], stable: bool) -> bool:
    matrices = [point.A] if stable or any(simulated) else []
    if not all(simulated):
        matrices.append(point.A - point.K @ point.C)
    return all(
        bool(np.isfinite(matrix).all()) and np.abs(np.linalg.eigvals(matrix)).max() < RADIUS
        for matrix in matrices
    )


def _whitening(found: Realization, scaled: Scaling) -> tuple[Array, Array]:
    """A factor that makes the innovations white across the outputs, and its inverse."""
    e, _ = one_step_innovations(
        found.A, found.B, found.C, found.D, found.K, scaled.u, scaled.y - found.offset
    )
    covariance = innovation_covariance(e)
    covariance += 1e-6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    colourer = np.linalg.cholesky(covariance)
    return np.linalg.inv(colourer), colourer


def _normalized(
    found: Realization, scaled: Scaling, whitener: Array, colourer: Array, simulated: tuple[bool, ...]
) -> _Point:
    """Start with states of unit covariance, which one damping suits, and with the best first states."""
    A, B, C, D, K = found.A, found.B, whitener @ found.C, whitener @ found.D, found.K @ colourer
    target = (scaled.y - found.offset) @ whitener.T
    gain = K * 0.0 if all(simulated) else K
    states = predictor_states(A, B, C, D, gain, scaled.u, target)
    values, vectors = np.linalg.eigh(states.T @ states / len(states))
    sizes = np.sqrt(np.maximum(values, 1e-8 * values.max(initial=1e-300)))
    T, inverse = vectors * sizes, (vectors / sizes).T
    A, B, C, K = inverse @ A @ T, inverse @ B, C @ T, inverse @ K
    starts = [
        one_step_innovations(A, B, C, D, K * 0.0 if sim else K, scaled.u, target)[1] for sim in simulated
    ]
    return _Point(A, B, C, D, K, whitener @ found.offset, np.stack(starts))
