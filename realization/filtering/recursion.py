"""The filter's recursion in covariance form, sample by sample until the covariance stands still."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from realization.errors import RankError
from realization.filtering.covariance import root_of
from realization.filtering.observations import Observations
from realization.filtering.settling import SPREAD, has_vanished, sight_of, spread, stands_still
from realization.filtering.small_matrices import cholesky, invert, multiply, multiply_transposed
from realization.filtering.square_root import square_root_steps
from realization.systems.models import InnovationsModel

__all__ = ["Transient", "transient"]

Array = NDArray[np.float64]


class Transient(NamedTuple):
    """The samples until the gain stays what it is; they may be the whole record."""

    states: Array
    """(H, n)"""
    innovations: Array
    """(H, p), zero where missing"""
    squared: Array
    """(H,)"""
    log_dets: Array
    """(H,)"""
    covariances: Array
    """(H, n, n): the covariances, or their square roots"""
    gains: Array
    """(H, n, p)"""
    following: Array
    """State after the last of these samples, (n,)."""


def transient(
    model: InnovationsModel, seen: Observations, x0: Array, P0: Array, *, square_root: bool, caller: str
) -> Transient:
    """Filter until the covariance stands still, in blocks so that memory follows the transient's length."""
    noises, T = seen.noises, seen.record.length
    # A covariance that is large against the noise loses its small directions: its root does not.
    by_roots = square_root or spread(model, P0, T) > SPREAD
    carried = root_of(P0) if by_roots else P0
    # Where the predictor A - K C is stable the covariance dies away; below rounding it is put to zero.
    vanishing = bool((np.abs(np.linalg.eigvals(noises.F[0])) < 1).all())
    sight = sight_of(model, noises.F[0], T) if vanishing else np.zeros_like(P0)
    largest = np.maximum(np.diag(P0), np.diag(model.K @ model.Re @ model.K.T))
    parts, x, size, begin, settled = [], x0, 64, 0, False
    while begin < T:
        stop = min(begin + size, T)
        steps = square_root_steps if by_roots else covariance_steps
        *part, x, carried, done, settled, state = steps(
            model.A,
            noises.C,
            noises.G,
            noises.Q_root if by_roots else noises.Q,
            noises.R_root if by_roots else noises.R,
            seen.pattern[begin:stop],
            seen.drive(model, begin, stop),
            seen.direct(model, begin, stop),
            x,
            np.ascontiguousarray(carried),
            largest,
            sight,
            vanishing,
            seen.complete_from - begin,
            settled,
        )
        if state < 0:
            raise RankError(
                f"{caller}: the covariance of the innovation at sample {begin + done} is not positive "
                "definite to working precision: the covariance form has lost it to rounding. Use "
                "form='square_root'."
            )
        if by_roots and not square_root:
            part[4] = part[4] @ part[4].transpose(0, 2, 1)
            squared = carried @ carried.T
            if spread(model, squared, T) <= SPREAD:
                by_roots, carried = False, squared
        parts.append(part)
        begin, size = begin + done, 2 * size
        if state > 0:
            break
    columns = zip(*parts, strict=True)
    joined = (np.concatenate(column) for column in columns)
    return Transient(*joined, following=x)


@numba.njit(cache=True)
def covariance_steps(
    A: Array,
    C: Array,
    G: Array,
    Q: Array,
    R: Array,
    pattern: NDArray[np.int64],
    drive: Array,
    direct: Array,
    x: Array,
    P: Array,
    largest: Array,
    sight: Array,
    vanishing: bool,
    complete_from: int,
    settled: bool,
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array, int, bool, int]:
    r"""Some samples of the filter, with the covariance in Joseph's form.

    $$P_{t+1} = (A - \Gamma C) P_t (A - \Gamma C)^\top + H R H^\top + Q, \qquad H = \Gamma - G$$

    The last value tells: 1 stands still, 0 goes on, -1 a covariance is not definite.
    """
    length, n = drive.shape
    p = direct.shape[1]
    states, innovations = np.empty((length, n)), np.empty((length, p))
    squared, log_dets = np.empty(length), np.empty(length)
    covariances, gains = np.empty((length, n, n)), np.empty((length, n, p))
    x, P = x.copy(), P.copy()
    PC, CPC, L, H, HR = (
        np.empty((n, p)),
        np.empty((p, p)),
        np.empty((n, p)),
        np.empty((n, p)),
        np.empty((n, p)),
    )
    factor, inverse, kept, KP = np.zeros((p, p)), np.zeros((p, p)), np.empty((n, n)), np.empty((n, n))
    F, HRH, following = np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    v, after = np.empty(p), np.empty(n)
    finished, done = 0, length
    for t in range(length):
        j = pattern[t]
        states[t] = x
        covariances[t] = P
        multiply_transposed(P, C[j], PC)
        multiply(C[j], PC, CPC)
        for i in range(p):
            for k in range(p):
                CPC[i, k] += R[j, i, k]
        if not cholesky(CPC, factor):
            finished, done = -1, t
            break
        invert(factor, inverse)
        log_dets[t], squared[t] = 0.0, 0.0
        for i in range(p):
            e = direct[t, i]
            for k in range(n):
                e -= C[j, i, k] * x[k]
            innovations[t, i] = e
            # White innovations by forward substitution: their squares cannot be negative.
            for k in range(i):
                e -= factor[i, k] * v[k]
            v[i] = e / factor[i, i]
            squared[t] += v[i] * v[i]
            log_dets[t] += 2 * np.log(factor[i, i])
        multiply(PC, inverse, L)
        multiply(G[j], C[j], F)
        for i in range(n):
            for k in range(n):
                F[i, k] = A[i, k] - F[i, k]
        multiply(F, L, H)
        for i in range(n):
            for k in range(p):
                gains[t, i, k] = G[j, i, k] + H[i, k]
        multiply(gains[t], C[j], kept)
        for i in range(n):
            for k in range(n):
                kept[i, k] = A[i, k] - kept[i, k]
            total = drive[t, i]
            for k in range(n):
                total += A[i, k] * x[k]
            for k in range(p):
                total += gains[t, i, k] * innovations[t, k]
            after[i] = total
        x[:] = after
        multiply(kept, P, KP)
        multiply_transposed(KP, kept, following)
        multiply(H, R[j], HR)
        multiply_transposed(HR, H, HRH)
        for i in range(n):
            for k in range(i + 1):
                value = 0.5 * (following[i, k] + following[k, i] + HRH[i, k] + HRH[k, i]) + Q[j, i, k]
                following[i, k] = following[k, i] = value
        if settled and t >= complete_from:
            # The gain that stays is the one that the settled covariance gives, at this sample.
            finished, done = 1, t + 1
            break
        gone = vanishing and has_vanished(following, largest, sight)
        settled = gone or stands_still(following, P)
        if gone:
            P[:] = 0.0
        else:
            P[:] = following
    return (
        states[:done],
        innovations[:done],
        squared[:done],
        log_dets[:done],
        covariances[:done],
        gains[:done],
        x,
        P,
        done,
        settled,
        finished,
    )
