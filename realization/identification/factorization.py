"""One triangular factorization of a record, from which every weighting and every order is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import DataError, ExcitationError, ExcitationWarning
from realization.identification.gram import displaced_gram, lagged_products, standardized, time_last
from realization.notes import warn
from realization.signals.data import IOData
from realization.signals.spans import complete_rows, complete_stretches, spans_of

__all__ = [
    "Factorization",
    "Scaling",
    "Weighting",
    "cholesky_factor",
    "factorize",
    "most_block_rows",
    "scale",
    "spectral_factor",
    "without_gaps",
]

Array = NDArray[np.float64]
Weighting = Literal["cva", "n4sid", "moesp", "pi_moesp", "ivm"]
EPS = float(np.finfo(float).eps)
# Rounding of the Gram matrix enters with the square of the condition number. What chance leaves in a hundred
# million samples is ten thousand times this.
GRAM_ERROR = 1e-8


class Scaling(NamedTuple):
    """Means and standard deviations of a record's columns, and the record without them.

    `starts` are the first rows of its experiments. Missing outputs are NaN in `y`.
    """

    u: Array
    y: Array
    u_mean: Array
    y_mean: Array
    u_scale: Array
    y_scale: Array
    starts: tuple[int, ...] = (0,)

    @property
    def spans(self) -> tuple[slice, ...]:
        """Rows of each experiment."""
        return spans_of(self.starts, len(self.y))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Samples of each experiment."""
        return tuple(rows.stop - rows.start for rows in self.spans)

    @property
    def has_gaps(self) -> bool:
        """Whether outputs are missing."""
        return bool(np.isnan(self.y).any())


def scale(data: IOData, caller: str) -> Scaling:
    """Take off the means and bring columns to unit variance: units must not decide the conditioning."""
    parts = []
    for values, names, kind in (
        (data.inputs, data.input_names, "input"),
        (data.y, data.output_names, "output"),
    ):
        moving, mean, deviation = _standardized_where_measured(np.ascontiguousarray(values))
        # No sample is further than deviation * sqrt(T) from the mean: only these columns need a closer look.
        for column in np.flatnonzero(deviation <= 2e-13 * np.abs(mean)):
            if deviation[column] > 1e-13 * np.nanmax(np.abs(values[:, column])):
                continue
            raise DataError(
                f"{caller}: {kind} {names[column]!r} is constant over the {data.length} samples, so "
                "nothing can be learned about it. Leave it out, or take a record in which it moves."
            )
        parts.append((moving, mean, deviation))
    (u, u_mean, u_scale), (y, y_mean, y_scale) = parts
    return Scaling(u, y, u_mean, y_mean, u_scale, y_scale, data.starts)


def _standardized_where_measured(values: Array) -> tuple[Array, Array, Array]:
    if not np.isnan(values).any():
        return standardized(values)
    out, mean, deviation = np.full_like(values, np.nan), *np.zeros((2, values.shape[1]))
    for column, there in enumerate(~np.isnan(values).T):
        if there.any():
            found = standardized(np.ascontiguousarray(values[there, column : column + 1]))
            out[there, column], mean[column], deviation[column] = found[0][:, 0], found[1][0], found[2][0]
    return out, mean, deviation


def without_gaps(scaled: Scaling) -> Scaling:
    """The samples with all outputs; each stretch of them counts as an experiment."""
    if not scaled.has_gaps:
        return scaled
    rows, starts = complete_stretches(complete_rows(scaled.y), scaled.starts)
    return scaled._replace(u=scaled.u[rows], y=scaled.y[rows], starts=starts or (0,))


def most_block_rows(lengths: Sequence[int], channels: int, ratio: int = 1, limit: int | None = None) -> int:
    """Most block rows `i`, up to `limit`, for which there are `ratio` windows of `2 i` samples to a row.

    A window lies within one experiment; there are `2 i` rows to a channel.
    """
    rows = sum(lengths) // (2 + 2 * ratio * channels)
    rows = rows if limit is None else min(rows, limit)
    while rows > 0 and sum(max(0, length - 2 * rows) for length in lengths) < 2 * ratio * rows * channels:
        rows -= 1
    return rows


@dataclass(frozen=True, eq=False)
class Factorization:
    r"""Triangular factor of the block Hankel matrices of a scaled record.

    $$\begin{bmatrix} \mathbf 1 & U_f^\top & U_p^\top & Y_p^\top & Y_f^\top \end{bmatrix} = Q
    \begin{bmatrix} r & \ast \\ 0 & R \end{bmatrix}$$

    The column of ones takes unknown constants out of the data exactly. The columns of `R` stand for the
    Hankel rows in an orthonormal basis of the record: any projection of the data is the same projection of
    `R`.

    Attributes
    ----------
    R : ndarray, shape (c, 2 i (m + p)), c at most 2 i (m + p)
    block_rows : int
        `i`, of the past and of the future.
    n_inputs, n_outputs : int
    columns : int
        Columns of the Hankel matrices.
    regular : bool
        Whether the condition number allowed the Cholesky factor of the Gram matrix; else `R` is from QR.
    floor : float
        Size of rounding in `R` in units of its norm, where it is not that of an orthogonal factorization.
    """

    R: Array
    block_rows: int
    n_inputs: int
    n_outputs: int
    columns: int
    regular: bool = False
    floor: float = 0.0

    @cached_property
    def _found(self) -> dict[Weighting, tuple[Array, Array]]:
        return {}

    @property
    def future_u(self) -> Array:
        """Columns of the future inputs, shape (c, i m)."""
        return self.R[:, : self.block_rows * self.n_inputs]

    @property
    def past_u(self) -> Array:
        """Columns of the past inputs, shape (c, i m)."""
        width = self.block_rows * self.n_inputs
        return self.R[:, width : 2 * width]

    @property
    def past_y(self) -> Array:
        """Columns of the past outputs, shape (c, i p)."""
        begin = 2 * self.block_rows * self.n_inputs
        return self.R[:, begin : begin + self.block_rows * self.n_outputs]

    @property
    def future_y(self) -> Array:
        """Columns of the future outputs, shape (c, i p)."""
        return self.R[:, -self.block_rows * self.n_outputs :]

    @property
    def rounding(self) -> float:
        """Size below which a singular value of a part of `R` is rounding."""
        return max(20 * EPS * np.sqrt(self.R.shape[1]), self.floor) * float(np.linalg.norm(self.R, 2))

    def subspace(self, weighting: Weighting) -> tuple[Array, Array]:
        r"""Extended observability matrix by a weighting: its directions, and their singular values.

        With $P = Y_f / W_p$ the part of the future that the past explains once the future inputs are
        projected out, `moesp` decomposes $P$ itself, `n4sid` the oblique projection (which puts the future
        inputs' share of the past back), `cva` $(Y_f \Pi Y_f^\top)^{-1/2} P$, whose singular values are
        canonical correlations. `pi_moesp` has the past inputs alone for the past; `ivm` is
        $(Y_f \Pi Y_f^\top)^{-1/2}\, Y_f \Pi W_p^\top (W_p W_p^\top)^{-1/2}$.

        Raises
        ------
        DataError
            If there are no past inputs to explain anything.

        Returns
        -------
        directions : ndarray, shape (i p, r)
            Column `k` times singular value `k` adds to the observability matrix of orders above `k`.
        singular_values : ndarray, shape (r,)
        """
        if weighting not in self._found:
            self._found[weighting] = self._subspace(weighting)
        return self._found[weighting]

    def _subspace(self, weighting: Weighting) -> tuple[Array, Array]:
        i, m = self.block_rows, self.n_inputs
        inner = 2 * i * (m + self.n_outputs) - i * self.n_outputs
        if weighting == "pi_moesp":
            if m == 0:
                raise DataError(
                    "weighting='pi_moesp' takes the past inputs for instruments, and the record has none; "
                    "take 'moesp' or 'cva' for a time series."
                )
            inner = 2 * i * m
        explained = self.R[i * m : inner, -i * self.n_outputs :].T
        if weighting in ("moesp", "pi_moesp") or (weighting == "n4sid" and m == 0):
            left, values, _ = scipy.linalg.svd(explained, full_matrices=False)
            return left, values / np.sqrt(self.columns)
        if weighting == "n4sid":
            return self._oblique(explained)
        residual = self.R[i * m :, -i * self.n_outputs :].T
        axes, sizes, _ = scipy.linalg.svd(residual, full_matrices=False)
        held = sizes > self.rounding
        if weighting == "ivm":
            explained = self._past_correlation(explained)
        left, values, _ = scipy.linalg.svd((axes[:, held] / sizes[held]).T @ explained, full_matrices=False)
        return (axes[:, held] * sizes[held]) @ left, values

    def _oblique(self, explained: Array) -> tuple[Array, Array]:
        i, m = self.block_rows, self.n_inputs
        stop = self.R.shape[1] - i * self.n_outputs
        past = self.R[:stop, i * m : stop].T
        triangle = self.R[i * m : stop, i * m : stop]
        if self.regular:
            weight = scipy.linalg.solve_triangular(triangle, explained.T).T
        else:
            weight = _least_squares(triangle, explained.T, self.rounding).T
        left, values, _ = scipy.linalg.svd(weight @ past, full_matrices=False)
        return left, values / np.sqrt(self.columns)

    def _past_correlation(self, explained: Array) -> Array:
        r"""$Y_f \Pi W_p^\top (W_p W_p^\top)^{-1/2}$, with `W_p` as it is and not along the future inputs."""
        i, m = self.block_rows, self.n_inputs
        stop = self.R.shape[1] - i * self.n_outputs
        _, sizes, right = scipy.linalg.svd(self.R[:stop, i * m : stop], full_matrices=False)
        held = sizes > self.rounding
        return explained @ self.R[i * m : stop, i * m : stop] @ (right[held].T / sizes[held])

    def states(self, observability: Array) -> tuple[Array, Array, Array, Array]:
        """State sequences at two neighbouring times with the input and output between, as columns of `R`.

        Returns `x` and `x_next` of shape (c, n), `u` (c, m), `y` (c, p).
        """
        m, p = self.n_inputs, self.n_outputs
        now, later = self._projections
        x = scipy.linalg.lstsq(observability, now.T)[0].T
        x_next = scipy.linalg.lstsq(observability[:-p], later.T)[0].T
        return x, x_next, self.future_u[:, :m], self.future_y[:, :p]

    @cached_property
    def _projections(self) -> tuple[Array, Array]:
        """Oblique projections of the future at two neighbouring times, which give the two state sequences."""
        m, p = self.n_inputs, self.n_outputs
        now = self._projection(self.future_u, self.past_u, self.past_y, self.future_y)
        past_u = np.hstack([self.past_u, self.future_u[:, :m]])
        past_y = np.hstack([self.past_y, self.future_y[:, :p]])
        return now, self._projection(self.future_u[:, m:], past_u, past_y, self.future_y[:, p:])

    def _projection(self, future_u: Array, past_u: Array, past_y: Array, future_y: Array) -> Array:
        """Future outputs along the future inputs onto the past, shape (c, width of `future_y`)."""
        past = np.hstack([past_u, past_y])
        if self.regular:
            ordered = np.hstack([future_u, past, future_y])
            T = scipy.linalg.qr(ordered, mode="r", check_finite=False)[0]
            k, s = future_u.shape[1], future_u.shape[1] + past.shape[1]
            return past @ scipy.linalg.solve_triangular(T[k:s, k:s], T[k:s, s:])
        if future_u.shape[1]:
            Q, _ = scipy.linalg.qr(future_u, mode="economic")
            past_free, future_free = past - Q @ (Q.T @ past), future_y - Q @ (Q.T @ future_y)
        else:
            past_free, future_free = past, future_y
        return past @ _least_squares(past_free, future_free, self.rounding)


def factorize(scaled: Scaling, block_rows: int, caller: str) -> Factorization:
    """Factorize a scaled record; memory does not grow with its length."""
    m, p = scaled.u.shape[1], scaled.y.shape[1]
    i = block_rows
    columns = sum(max(0, length - 2 * i + 1) for length in scaled.lengths)
    _enough_windows(scaled, i, columns, caller)
    R = cholesky_factor(hankel_gram(scaled, i), i, m, p)
    regular = R is not None
    R = _orthogonal_factor(scaled, i) if R is None else R
    if m:
        inputs = scipy.linalg.svd(R[: 2 * i * m, : 2 * i * m], compute_uv=False)
        if inputs[-1] <= 1e-6 * inputs[0]:
            warn(
                f"{caller}: the inputs excite only {int((inputs > 1e-6 * inputs[0]).sum())} of the "
                f"{2 * i * m} directions that block_rows={i} asks for; what they do not excite is not "
                f"identified. "
                "Take richer inputs or fewer block rows.",
                ExcitationWarning,
                stacklevel=4,
            )
    return Factorization(R, i, m, p, columns, regular)


def _enough_windows(scaled: Scaling, i: int, columns: int, caller: str) -> None:
    """Refuse records with too few windows, and say which experiments have none."""
    lengths, m, p = scaled.lengths, scaled.u.shape[1], scaled.y.shape[1]
    width, apart = 2 * i * (m + p), len(lengths) > 1
    if columns <= width:
        rows = most_block_rows(lengths, m + p)
        supported = (
            f"up to {rows}, which carry orders up to {p * (rows - 1)}" if rows > 1 else "no block rows at all"
        )
        raise ExcitationError(
            f"{caller}: {sum(lengths)} samples{f' in {len(lengths)} experiments' if apart else ''} with "
            f"block_rows={i}, {m} inputs and {p} outputs; at least "
            + (f"{width + 1} windows of {2 * i} samples" if apart else f"{width + 2 * i} samples")
            + " are needed for the Hankel matrices to have more columns than rows"
            + (f", and there are {columns}" if apart else "")
            + f". The record supports {supported}. Take fewer block rows, fewer channels or a longer record."
        )
    short = [length for length in lengths if length < 2 * i]
    if short:
        warn(
            f"{caller}: {len(short)} of {len(lengths)} experiments ({sum(short)} of {sum(lengths)} samples) "
            f"are shorter than the {2 * i} samples of a window, and add nothing to the poles. Fewer block "
            "rows would use them.",
            ExcitationWarning,
            stacklevel=5,
        )


def hankel_gram(scaled: Scaling, i: int) -> Array:
    """Gram matrix of all windows of `2 i` samples about their mean, shape (2 i q, 2 i q), `q = m + p`."""
    parts = [
        _window_sums(time_last(scaled.u[rows], scaled.y[rows]), scaled.u.shape[1] + scaled.y.shape[1], 2 * i)
        for rows, length in zip(scaled.spans, scaled.lengths)
        if length >= 2 * i
    ]
    gram, sums, count = parts[0]
    for part in parts[1:]:
        gram, sums, count = gram + part[0], sums + part[1], count + part[2]
    return gram - np.outer(sums, sums / count)


def _window_sums(rows: Array, q: int, lags: int) -> tuple[Array, Array, int]:
    """Gram matrix, sum and number of the windows of one experiment."""
    count = rows.shape[1] - lags + 1
    products = np.ascontiguousarray(lagged_products(rows, rows, count, lags)[:, :q, :q])
    head, tail = (np.ascontiguousarray(part[:q].T) for part in (rows[:, : lags - 1], rows[:, count:]))
    gram = displaced_gram(products, head, tail, 1.0, 1.0)
    entering = np.vstack([rows[:q, :count].sum(axis=1), tail - head])
    return gram, entering.cumsum(axis=0).reshape(-1), count


def cholesky_factor(gram: Array, i: int, m: int, p: int) -> Array | None:
    r"""Upper factor in the order `[U_f, U_p, Y_p, Y_f]`, or `None` where its condition number forbids it.

    Columns are brought to unit length first. $\kappa_1(R)$ is estimated from the factor in $O(c^2)$; where
    there is no factor at all, $\kappa(G) > 1 / (c\,\epsilon)$ is shown.
    """
    order = _stacked_order(i, m, p)
    sizes = np.sqrt(np.maximum(np.diag(gram), 0.0))[order]
    if not (sizes > 0).all():
        return None
    factor, failed = scipy.linalg.lapack.dpotrf(gram[np.ix_(order, order)] / sizes / sizes[:, None], clean=1)
    if failed:
        return None
    reciprocal, _ = scipy.linalg.lapack.dtrcon(factor)
    if reciprocal**2 * GRAM_ERROR < EPS:
        return None
    return np.ascontiguousarray(factor * sizes)


def spectral_factor(gram: Array, i: int, m: int, p: int) -> Array:
    """Factor of a Gram matrix that is singular to rounding, by its eigenvalues: half of the digits hold."""
    order = _stacked_order(i, m, p)
    values, vectors = np.linalg.eigh(gram[np.ix_(order, order)])
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return np.array(scipy.linalg.qr(root, mode="r", check_finite=False)[0], dtype=float, order="C")


def _stacked_order(i: int, m: int, p: int) -> NDArray[np.intp]:
    """Where the columns of `[U_f, U_p, Y_p, Y_f]` are in a window, sample after sample."""
    index = np.arange(2 * i * (m + p)).reshape(2 * i, m + p)
    u, y = index[:, :m], index[:, m:]
    return np.concatenate([part.reshape(-1) for part in (u[i:], u[:i], y[:i], y[i:])])


def _orthogonal_factor(scaled: Scaling, i: int) -> Array:
    """The same factor from the windows themselves, chunk by chunk; memory does not grow with the length."""
    width = 2 * i * (scaled.u.shape[1] + scaled.y.shape[1])
    R = np.zeros((0, width + 1))
    step = max(4 * width, 2048)
    begins = np.concatenate([np.arange(rows.start, rows.stop - 2 * i + 1) for rows in scaled.spans])
    for at in range(0, len(begins), step):
        rows = _hankel_rows(scaled, i, begins[at : at + step])
        stacked = np.vstack([R, rows]) if len(R) else rows
        R = scipy.linalg.qr(stacked, mode="r", overwrite_a=True, check_finite=False)[0][: width + 1]
    return np.array(R[1:, 1:], dtype=float, order="C")


def _hankel_rows(scaled: Scaling, i: int, begins: NDArray[np.intp]) -> Array:
    """Rows of `[1, U_f, U_p, Y_p, Y_f]` of the windows that begin there, lags ascending in each block."""
    parts = [np.ones((len(begins), 1))]
    first, last = int(begins[0]), int(begins[-1])
    follow = last - first == len(begins) - 1
    for values, late in ((scaled.u, i), (scaled.u, 0), (scaled.y, 0), (scaled.y, i)):
        for lag in range(late, late + i) if values.shape[1] else ():
            parts.append(values[first + lag : last + 1 + lag] if follow else values[begins + lag])
    return np.hstack(parts)


def _least_squares(a: Array, b: Array, rounding: float) -> Array:
    """Minimum-norm solution of `a x = b` with what is below rounding left out."""
    left, values, right = scipy.linalg.svd(a, full_matrices=False)
    held = values > rounding
    return right[held].T @ ((left[:, held].T @ b) / values[held, None])
