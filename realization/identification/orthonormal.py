r"""Everything that is linear once the poles are known, from one orthonormal basis that all outputs share.

All responses of `(A, b, c)`, whatever `b` and `c`, are combinations of those of one pair `(F, g)` with the
poles of `A`. Take it orthonormal, $F F^\top + g g^\top = I$ (a cascade of all-pass sections). Then

$$c A^k b = \theta^\top F^k g \quad (k \ge 0), \qquad \theta = S b, \qquad S = F S A + g c .$$

So one filter for each input gives the regressors of every output and every entry of `B`, and the least
squares of a record is that of a triangular factor with a few dozen columns.

References
----------
P. S. C. Heuberger, P. M. J. Van den Hof, B. Wahlberg (eds.), *Modelling and Identification with Rational
Orthogonal Basis Functions*, Springer 2005, chapters 2 and 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numba
import numpy as np
import scipy.linalg
from bmojo_kernels import lti_scan
from numpy.typing import NDArray

from realization.identification.regression import InputPath, projection, scaled_least_squares
from realization.signals.spans import spans_of
from realization.systems.responses import first_states, joined

__all__ = ["RecordFactor", "orthonormal_pair", "record_factor", "response_maps"]

Array = NDArray[np.float64]
CHUNK = 1024
GONE = 1e-40
WORST = 1e-14
ROWS_PER_COLUMN = 4


def orthonormal_pair(poles: NDArray[np.complex128]) -> tuple[Array, Array]:
    r"""Pair `(F, g)`, shapes (n, n) and (n,), with given poles and $F F^\top + g g^\top = I$.

    Poles lie inside the unit circle, real or in conjugate pairs. Sections are orthogonal matrices
    $[F_k\ g_k;\ h_k\ d_k]$, each fed by the one before it.
    """
    n = len(poles)
    F, g = np.zeros((n, n)), np.zeros(n)
    through, feed = 1.0, np.zeros(0)
    at = 0
    real = [pole.real for pole in poles if pole.imag == 0]
    sections = [_real_section(pole) for pole in real]
    sections += [_pair_section(pole) for pole in poles if pole.imag > 0]
    for a, b, c, d in sections:
        to = at + len(b)
        F[at:to, at:to] = a
        F[at:to, :at] = np.outer(b, feed)
        g[at:to] = b * through
        feed, through = np.concatenate([d * feed, c]), d * through
        at = to
    return F, g


def _real_section(pole: float) -> tuple[Array, Array, Array, float]:
    through = np.sqrt((1 - pole) * (1 + pole))
    return np.array([[pole]]), np.array([through]), np.array([through]), -pole


def _pair_section(pole: complex) -> tuple[Array, Array, Array, float]:
    """Companion form of a conjugate pair in the coordinates in which white noise gives unit covariance."""
    trace, product = 2 * pole.real, abs(pole) ** 2
    correlation = trace / (1 + product)
    variance = 1 / ((1 - product**2) * (1 - correlation**2))
    low = np.sqrt(1 - correlation**2)
    L = np.sqrt(variance) * np.array([[1.0, 0.0], [correlation, low]])
    a = scipy.linalg.solve_triangular(L, np.array([[trace, -product], [1.0, 0.0]]) @ L, lower=True)
    b = scipy.linalg.solve_triangular(L, np.array([1.0, 0.0]), lower=True)
    both = np.column_stack([a, b])
    last = np.cross(both[0], both[1])
    return a, b, last[:2], float(last[2])


def response_maps(F: Array, g: Array, A: Array, C: Array) -> Array:
    r"""Maps $S_k = \sum_j F^j g\, c_k A^j$, shape (p, n, n), by doubling."""
    S = g[:, None] * C[:, None, :]
    left, right = F, A
    while np.abs(left).max(initial=0.0) * np.abs(right).max(initial=0.0) > 1e-20:
        S = S + left @ S @ right
        left, right = left @ left, right @ right
    return S


class RecordFactor(NamedTuple):
    """Triangular factors of `[X, u, 1, target]`, one for each experiment, and what their columns mean.

    `X` holds, `n` columns each, the basis' response to a first state and to each input. `levels` (p, n + 1,
    p) says what of the basis' first state and of the constant 1 an offset of the outputs is, for each
    output; none where no offset is estimated.
    """

    factors: list[Array]
    maps: Array
    n_inputs: int
    levels: Array | None

    def fitted(self, direct: bool) -> InputPath:
        """Least squares for `B` (`B - K D` of a prediction), `x0`, the offset and, where asked for, `D`."""
        p, n, m = len(self.maps), self.maps.shape[1], self.n_inputs
        equations = [[self._equations(R, k, direct) for k in range(p)] for R in self.factors]
        reduced, firsts = [], []
        for parts in equations:
            stacked = np.vstack(parts)
            seen, first = projection(stacked[:, :n])
            explained = seen.T @ stacked[: len(seen), n:]
            rest = stacked[:, n:].copy()
            rest[: len(seen)] -= seen @ explained
            reduced.append(rest)
            firsts.append(first @ explained)
        together = joined(reduced)
        theta = scaled_least_squares(together[:, :-1], together[:, -1])
        x0 = [first[:, -1] - first[:, :-1] @ theta for first in firsts]
        squares = np.zeros(p)
        for parts, first in zip(equations, x0):
            for k, part in enumerate(parts):
                squares[k] += ((part[:, -1] - part[:, n:-1] @ theta - part[:, :n] @ first) ** 2).sum()
        level = theta[n * m : n * m + p] if self.levels is not None else np.zeros(p)
        D = theta[len(theta) - p * m :].reshape(p, m) if direct else np.zeros((p, m))
        return InputPath(theta[: n * m].reshape(m, n).T, D, first_states(x0), level, squares)

    def _equations(self, R: Array, k: int, direct: bool) -> Array:
        """Rows of one experiment and output: its first state, `B`, the offset, `D`, and the target."""
        p, n, m, S = len(self.maps), self.maps.shape[1], self.n_inputs, self.maps[k]
        offset = self.levels is not None
        T = np.zeros((R.shape[1], n + n * m + p * offset + p * m * direct + 1))
        T[:n, :n] = S
        for j in range(m):
            T[n * (1 + j) : n * (2 + j), n * (1 + j) : n * (2 + j)] = S
        at, states = n + n * m, n * (1 + m)
        if self.levels is not None:
            T[:n, at : at + p], T[states + m, at : at + p] = self.levels[k, :n], self.levels[k, n]
        if direct:
            begin = at + p * offset + k * m
            T[states : states + m, begin : begin + m] = np.eye(m)
        T[len(T) - p + k, -1] = 1.0
        return R @ T


def record_factor(
    A: Array,
    C: Array,
    K: Array,
    u: Array,
    y: Array,
    *,
    predicted: bool,
    offset: bool,
    starts: Sequence[int] = (0,),
) -> RecordFactor | None:
    """Factors of a record for the poles of `A` (of `A - K C` where `predicted`); `None` if it is not safe.

    Not safe: poles on or outside the unit circle, or regressors too nearly dependent for their Gram matrix.
    """
    transition = A - K @ C if predicted else A
    poles = np.linalg.eigvals(transition)
    if np.abs(poles).max(initial=0.0) >= 1 - 1e-9:
        return None
    F, g = orthonormal_pair(np.asarray(poles, dtype=complex))
    predictor = (transition, K, C) if predicted else None
    factors = []
    for rows in spans_of(starts, len(u)):
        factor = _factor(F, g, u[rows], y[rows], predictor, offset)
        if factor is None:
            return None
        factors.append(factor)
    maps = response_maps(F, g, transition, C)
    levels = _levels(F, g, maps @ K if predicted else np.zeros((len(C), len(F), len(C)))) if offset else None
    return RecordFactor(factors, maps, u.shape[1], levels)


def _levels(F: Array, g: Array, gains: Array) -> Array:
    r"""What a constant added to the outputs is in the target, shape (p, n + 1, p).

    A prediction's target has it through the filter too; the basis' response to a constant is
    $(I - F)^{-1} (g - F^t g)$: a constant, and a first state.
    """
    p, n = gains.shape[:2]
    settled = np.asarray(np.linalg.solve((np.eye(n) - F).T, gains), dtype=float)
    constant = np.eye(p) - np.einsum("i,kij->kj", g, settled)
    return np.concatenate([settled, constant[:, None, :]], axis=1)


def _factor(
    F: Array, g: Array, u: Array, y: Array, predictor: tuple[Array, Array, Array] | None, offset: bool
) -> Array | None:
    """Triangular factor of one experiment; `None` if its Gram matrix has lost too many digits."""
    (length, m), n, p = u.shape, len(g), y.shape[1]
    width = n * (1 + m) + m + offset + p
    if length < ROWS_PER_COLUMN * width:
        # Few rows may not even determine a Gram matrix; they cost little as they are.
        few = np.zeros((length, width))
        at = 0
        for rows, first in _rows(F, g, u, y, predictor, offset):
            few[at : at + len(rows), first:] = rows
            at += len(rows)
        return np.array(scipy.linalg.qr(few, mode="r", check_finite=False)[0][:width], dtype=float)
    gram = np.zeros((width, width))
    for rows, first in _rows(F, g, u, y, predictor, offset):
        gram[first:, first:] += rows.T @ rows
    sizes = np.sqrt(np.diag(gram))
    if not (sizes > 0).all():
        return None
    R, failed = scipy.linalg.lapack.dpotrf(gram / sizes / sizes[:, None], clean=1)
    if failed or scipy.linalg.lapack.dtrcon(R)[0] ** 2 < WORST:
        return None
    return np.asarray(R * sizes, dtype=float)


def _rows(
    F: Array, g: Array, u: Array, y: Array, predictor: tuple[Array, Array, Array] | None, offset: bool
) -> Iterator[tuple[Array, int]]:
    """Rows `[X, u, 1, target]`, some at a time, and the first column that is there.

    The target is `y` less what `predictor` makes of it.
    """
    length, m = u.shape
    n, p = len(g), y.shape[1]
    states = n * (1 + m)
    width = states + m + offset + p
    rows = np.zeros((CHUNK + 1, width))
    rows[0, :n] = g
    rows[:, states + m : width - p] = 1.0
    turned, last, first = np.ascontiguousarray(F.T), None, 0
    for begin in range(0, length, CHUNK):
        stop = min(begin + CHUNK, length)
        count = stop - begin
        _advance(turned, g, u[begin:stop], y[begin:stop], rows, first)
        if predictor is not None:
            transition, K, C = predictor
            filtered, last = lti_scan(transition, K, y[begin:stop], last)
            rows[:count, width - p :] -= filtered @ C.T
        yield rows[:count, first * n :], first * n
        rows[0, :states] = rows[count, :states]
        # What is left of the first state would only slow the arithmetic down.
        if first == 0 and (rows[0, :n] ** 2).sum() < GONE:
            first = 1


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def _advance(turned: Array, g: Array, u: Array, y: Array, rows: Array, first: int) -> None:
    """Rows `[X, u, 1, y]` with the basis' states from row 0 on; from the inputs on where `first` is 1."""
    n, m, p = len(g), u.shape[1], y.shape[1]
    by_four = n - n % 4
    for t in range(len(u)):
        for j in range(m):
            rows[t, n * (1 + m) + j] = u[t, j]
        for j in range(p):
            rows[t, rows.shape[1] - p + j] = y[t, j]
        for j in range(first, 1 + m):
            x, after = rows[t, j * n : (j + 1) * n], rows[t + 1, j * n : (j + 1) * n]
            value = u[t, j - 1] if j else 0.0
            for i in range(n):
                after[i] = g[i] * value
            for k in range(0, by_four, 4):
                x0, x1, x2, x3 = x[k], x[k + 1], x[k + 2], x[k + 3]
                r0, r1, r2, r3 = turned[k], turned[k + 1], turned[k + 2], turned[k + 3]
                for i in range(n):
                    after[i] += (r0[i] * x0 + r1[i] * x1) + (r2[i] * x2 + r3[i] * x3)
            for k in range(by_four, n):
                for i in range(n):
                    after[i] += turned[k, i] * x[k]
