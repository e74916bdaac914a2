"""How a predictor's outputs answer to every entry of its matrices, in one pass over the record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numba
import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.signals.spans import spans_of
from realization.systems.responses import predictor_states

__all__ = ["Blocks", "Point", "Run", "errors_of", "normal_equations", "sensitivities"]

Array = NDArray[np.float64]
# Rows of the Jacobian that are kept at a time: they and their product stay in the second-level cache.
CHUNK_ENTRIES = 40_000


class Point(NamedTuple):
    """A model in the units of a scaled record: matrices, level of the outputs, state at the first sample.

    `start` is (n,), or (E, n) with the first state of each of several experiments.
    """

    A: Array
    B: Array
    C: Array
    D: Array
    K: Array
    offset: Array
    start: Array

    @property
    def entries(self) -> Array:
        """All entries in one vector, block after block, each row by row."""
        return np.concatenate([block.ravel() for block in self])

    def replaced(self, entries: Array) -> Point:
        """The point with these entries."""
        parts, used = [], 0
        for block in self:
            parts.append(np.ascontiguousarray(entries[used : used + block.size]).reshape(block.shape))
            used += block.size
        return Point(*parts)

    @property
    def places(self) -> dict[str, slice]:
        """Where each block's entries are in `entries`."""
        stops = np.cumsum([block.size for block in self])
        return {
            name: slice(int(stop) - block.size, int(stop))
            for name, block, stop in zip(self._fields, self, stops)
        }


class Blocks(NamedTuple):
    """Which blocks the sensitivities are asked for; the level and the first state always are."""

    path: bool = True
    gain: bool = True

    def chosen(self, point: Point) -> NDArray[np.int_]:
        """Indices of those blocks in `point.entries`, in the order of the Jacobian's columns."""
        wanted = {"A": self.path, "B": self.path, "C": self.path, "D": self.path, "K": self.gain}
        indices = np.arange(point.entries.size)
        parts = [indices[place] for name, place in point.places.items() if wanted.get(name, True)]
        return np.concatenate(parts)


def errors_of(point: Point, u: Array, y: Array, starts: Sequence[int] = (0,)) -> tuple[Array, Array]:
    """One-step errors (T, p) and predictor states (T, n); those of the simulation where the gain is zero."""
    target = y - point.offset
    states = predictor_states(point.A, point.B, point.C, point.D, point.K, u, target, point.start, starts)
    return target - states @ point.C.T - u @ point.D.T, states


class Run(NamedTuple):
    """What `errors_of` made of a record: inputs (T, m), errors (T, p), states (T, n).

    `starts` are the first rows of the experiments. Where `kept` (T,) is given, the other rows count nothing.
    """

    u: Array
    e: Array
    states: Array
    starts: Sequence[int] = (0,)
    kept: NDArray[np.bool_] | None = None

    @property
    def samples(self) -> int:
        """Samples that count."""
        return len(self.e) if self.kept is None else int(self.kept.sum())


def normal_equations(point: Point, run: Run, whitener: Array, blocks: Blocks) -> tuple[Array, Array]:
    r"""Gauss-Newton matrix and gradient of the predicted outputs' fit, over the entries of `blocks`.

    $$H = \sum_t \psi_t W^\top W \psi_t^\top, \qquad g = \sum_t \psi_t W^\top W e_t, \qquad
    \psi_t^\top = \partial \hat y_t / \partial \theta$$

    Parameters
    ----------
    point : Point
    run : Run
    whitener : ndarray, shape (p, p)
        Lower triangular $W$.
    blocks : Blocks
    """
    count, n = len(blocks.chosen(point)), len(point.A)
    total = np.zeros((count + 1, count + 1))
    for number, rows in enumerate(spans_of(run.starts, len(run.e))):
        columns = _columns(count, n, len(run.starts), number)
        own = np.zeros((len(columns), len(columns)), order="F")
        for chunk, _ in _chunks(point, run, rows, whitener, blocks, len(columns)):
            own = scipy.linalg.blas.dsyrk(1.0, chunk.T, beta=1.0, c=own, overwrite_c=1)
        total[np.ix_(columns, columns)] += np.triu(own) + np.triu(own, 1).T
    return total[:count, :count], total[:count, count]


def sensitivities(point: Point, run: Run, blocks: Blocks) -> Array:
    r"""All of $\partial \hat y_t / \partial \theta$, shape (T, p, entries of `blocks`)."""
    count, n, (T, p) = len(blocks.chosen(point)), len(point.A), run.e.shape
    out = np.zeros((T * p, count + 1))
    for number, rows in enumerate(spans_of(run.starts, T)):
        columns = _columns(count, n, len(run.starts), number)
        for chunk, begin in _chunks(point, run, rows, np.eye(p), blocks, len(columns)):
            out[begin * p : begin * p + len(chunk), columns] = chunk
    return out[:, :count].reshape(T, p, count)


def _columns(count: int, n: int, experiments: int, number: int) -> NDArray[np.int_]:
    """Of all entries and the error, those that the rows of one experiment have: no other first state."""
    shared = count - experiments * n
    own = shared + number * n
    return np.concatenate([np.arange(shared), np.arange(own, own + n), [count]])


def _chunks(
    point: Point, run: Run, rows: slice, whitener: Array, blocks: Blocks, width_of_row: int
) -> Iterator[tuple[Array, int]]:
    """Rows of the whitened Jacobian and error of one experiment, some samples at a time, and the first."""
    p, n = point.C.shape
    x, inputs = (run.states, run.u) if blocks.path else (run.states[:, :0], run.u[:, :0])
    driven = run.e if blocks.gain else run.e[:, :0]
    width = x.shape[1] + inputs.shape[1] + driven.shape[1] + 2
    carried = np.zeros((n, p * width))
    carried[:, width - 1 :: width] = point.C.T
    matrices = (point.A - point.K @ point.C, point.C, point.K, x, inputs, driven, run.e, whitener)
    F, C, K, x, inputs, driven, e, whitener = (np.ascontiguousarray(matrix) for matrix in matrices)
    samples = max(1, CHUNK_ENTRIES // (p * width_of_row))
    for begin in range(rows.start, rows.stop, samples):
        stop = min(begin + samples, rows.stop)
        found = np.empty(((stop - begin) * p, width_of_row))
        carried = _fill(F, C, K, x, inputs, driven, e, whitener, carried, begin, stop, found)
        if run.kept is not None:
            found[np.repeat(~run.kept[begin:stop], p)] = 0.0
        yield found, begin


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def _fill(F, C, K, x, u, v, e, whitener, carried, begin, stop, rows):
    r"""Rows of the whitened Jacobian and error of the samples `begin..stop`; what to carry on with.

    For output `k` and signal `s`, `carried[:, k, s]` is $\sum_{\tau < t} (F^\top)^{t-1-\tau} c_k s_\tau$; the
    last "signal" is a unit impulse before the first sample. All outputs and signals share the recurrence,
    so that one product with $F^\top$ serves them all.
    """
    p, n = C.shape
    nx, m, q = x.shape[1], u.shape[1], v.shape[1]
    width = nx + m + q + 2
    moved = np.empty_like(carried)
    signal = np.empty(width)
    for t in range(begin, stop):
        signal[:nx] = x[t]
        signal[nx : nx + m] = u[t]
        signal[nx + m : nx + m + q] = v[t]
        signal[width - 2] = 1.0
        signal[width - 1] = 0.0
        first = (t - begin) * p
        for k in range(p):
            row, base, place = rows[first + k], k * width, 0
            for i in range(n):
                for j in range(nx):
                    row[place + j] = carried[i, base + j]
                place += nx
            for i in range(n):
                for j in range(m):
                    row[place + j] = carried[i, base + nx + j]
                place += m
            for begin_signal, size in ((0, nx), (nx, m)):
                for other in range(p):
                    for j in range(size):
                        row[place + j] = signal[begin_signal + j] if other == k else 0.0
                    for i in range(n):
                        gain = K[i, other]
                        for j in range(size):
                            row[place + j] -= gain * carried[i, base + begin_signal + j]
                    place += size
            for i in range(n):
                for j in range(q):
                    row[place + j] = carried[i, base + nx + m + j]
                place += q
            for other in range(p):
                total = 1.0 if other == k else 0.0
                for i in range(n):
                    total -= K[i, other] * carried[i, base + width - 2]
                row[place + other] = total
            place += p
            for i in range(n):
                row[place + i] = carried[i, base + width - 1]
            row[place + n] = e[t, k]
        for k in range(p - 1, -1, -1):
            row = rows[first + k]
            for j in range(len(row)):
                row[j] *= whitener[k, k]
            for other in range(k):
                weight = whitener[k, other]
                for j in range(len(row)):
                    row[j] += weight * rows[first + other, j]
        for i in range(n):
            target = moved[i]
            for k in range(p):
                entry = C[k, i]
                for j in range(width):
                    target[k * width + j] = entry * signal[j]
            for j in range(n):
                weight = F[j, i]
                source = carried[j]
                for column in range(p * width):
                    target[column] += weight * source[column]
        carried, moved = moved, carried
    return carried
