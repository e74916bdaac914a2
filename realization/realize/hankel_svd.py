"""Leading singular values of a large block Hankel matrix, with a bound on what they leave out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, RankError, ShapeError
from realization.realize.hankel import as_sequence, hankel, rows_and_cols
from realization.realize.hankel_operator import HankelOperator

__all__ = ["HankelSvd", "decompose", "default_tolerance", "hankel_svd"]

Array = NDArray[np.float64]
OVERSAMPLING, ROUNDS, PROBES, FAILURE = 10, 40, 8, 1e-6
POWER, CONVERGED = 7, 1e-8
SMALL, LARGE = 400, 8000  # up to SMALL rows dense is as fast; beyond LARGE it takes minutes and gigabytes


class _Limit(NamedTuple):
    """Up to where singular values count as zero: relative to the largest, and absolute."""

    tol: float
    floor: float

    def count(self, s: Array) -> int:
        return int(np.sum(s > max(self.tol * s[0], self.floor)))

    def share(self, s: Array) -> float:
        return max(self.tol, self.floor / s[0]) if s[0] > 0 else self.tol


@dataclass(frozen=True, eq=False)
class HankelSvd:
    r"""Truncated singular value decomposition $H \approx U \operatorname{diag}(s) V^T$.

    Attributes
    ----------
    U : ndarray, shape (rows * p, n)
    s : ndarray, shape (n,)
        Singular values that were kept, largest first.
    V : ndarray, shape (cols * m, n)
    values : ndarray
        All singular values that were computed: every one if dense; else those of the sketch, n and some
        more, of which the last ones are estimates from below.
    bound : float
        $\left\| H - U \operatorname{diag}(s) V^T \right\|_2$ if dense; else a bound on it that holds with
        probability `1 - failure`, over the random numbers drawn.
    certain_bound : float
        A bound that always holds, from the Frobenius norm: not sharp where the tail is flat, and never below
        some $10^{-7}$ of that norm, since it is the root of a difference.
    failure : float
        Probability that `bound` does not hold; 0 if dense.
    method : {"dense", "randomized"}
    rounds : int
        Subspace iterations, each one a product with H and one with its transpose; 0 if dense.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> found = rz.hankel_svd(0.5 ** np.arange(19.0), 1)
    >>> found.s.round(9), found.bound < 1e-12, found.method
    (array([1.33333206]), True, 'dense')
    """

    U: Array
    s: Array
    V: Array
    values: Array
    bound: float
    certain_bound: float
    failure: float
    method: str
    rounds: int


def hankel_svd(
    h: ArrayLike,
    rank: int | None = None,
    *,
    rows: int | None = None,
    cols: int | None = None,
    tol: float | None = None,
    method: str = "auto",
    seed: int | np.random.Generator = 0,
) -> HankelSvd:
    r"""Truncated singular value decomposition of a block Hankel matrix, without forming it.

    Subspace iteration: a random $\Omega$ of $n + 10$ columns, $Q = \operatorname{orth}(H \Omega)$, then in
    turn

    $$Q^T H = W \operatorname{diag}(s) V^T, \qquad U = Q W, \qquad Q \leftarrow \operatorname{orth}(H V)$$

    until $\left\| H V_n - U_n \operatorname{diag}(s_n) \right\|$, which the next product tells, is
    $10^{-8} s_n$ or rounding (the error of singular values is its square). Products take
    $O(N \log N)$ (`HankelOperator`). What was left out, $E = H - U_n \operatorname{diag}(s_n) V_n^T$,
    meets $q = 8$ Gaussian vectors that it has not seen:

    $$\left\| E \right\|_2 \le \Bigl( \alpha \sqrt{2 / \pi}\, \max_i
    \left\| (E E^T)^3 E\, \omega_i \right\| \Bigr)^{1/7} \quad \text{with probability } 1 - \alpha^{-q},$$

    the lemma of Halko, Martinsson and Tropp for $(E E^T)^3 E$, whose norm is the seventh power of E's: what
    is lost to constants, and to the many directions of a flat tail, enters by its seventh root. And
    $\left\| E \right\|_F^2 = \left\| H \right\|_F^2 - \sum_{i \le n} s_i^2$
    holds without chance.

    Parameters
    ----------
    h : array_like, shape (N, p, m), (N, p) or (N,)
        Blocks, from the first one of the matrix, as for `hankel`: Markov parameters from `h[1]` on.
    rank : int, optional
        Number of singular values n; as many as exceed `tol` when left out.
    rows, cols : int, optional
        Block rows and columns, `rows + cols <= N + 1`; halves of `N + 1` when left out.
    tol : float, optional
        Singular values up to `tol` times the largest are cut; `4 * max(H.shape) * eps` when left out.
    method : {"auto", "dense", "randomized"}
        `"auto"` is dense for up to 400 rows or columns, and where the rank is more than a quarter of them.
    seed : int or numpy.random.Generator
        Of the random numbers; the same seed gives the same result.

    Returns
    -------
    HankelSvd
        `.U, .s, .V`, `.bound`, `.certain_bound`, `.values`.

    Raises
    ------
    ShapeError, DataError
        If the sequence or an option is not what is said above.
    RankError
        If `rank` exceeds the number of singular values above `tol`, or was left open and is too large to be
        found in a matrix of this size.

    References
    ----------
    N. Halko, P.-G. Martinsson, J. A. Tropp, *Finding structure with randomness: probabilistic algorithms for
    constructing approximate matrix decompositions*, SIAM Review 53 (2011) 217-288, sections 4.3 to 4.5.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> k = np.arange(1999)
    >>> h = 0.999**k * np.cos(0.3 * k) + 1e-3 * np.random.default_rng(0).standard_normal(1999)
    >>> found = rz.hankel_svd(h, 2)
    >>> true = rz.hankel_svd(h, 2, method="dense")
    >>> found.method, bool(np.abs(found.s / true.s - 1).max() < 1e-12)
    ('randomized', True)
    >>> 1 <= found.bound / true.bound < 2
    True
    """
    h = as_sequence(h, "hankel_svd")
    rows, cols = rows_and_cols(
        len(h) + 1, rows, cols, caller="hankel_svd", given=f"{len(h)} entries", limit=f"{len(h) + 1}"
    )
    return decompose(h, rank, rows, cols, tol, method, seed, caller="hankel_svd")


def decompose(
    h: Array,
    rank: int | None,
    rows: int,
    cols: int,
    tol: float | None,
    method: str,
    seed: int | np.random.Generator,
    *,
    caller: str,
    floor: float = 0.0,
) -> HankelSvd:
    """The same for a checked sequence, shape (N, p, m); singular values up to `floor` are cut too."""
    size = rows * h.shape[1], cols * h.shape[2]
    tol = _tolerance(tol, size, caller)
    if rank is not None and (not isinstance(rank, int | np.integer) or rank < 0):
        raise ShapeError(f"{caller}: order={rank!r} came; a whole number, at least 0, or None is needed.")
    if method not in ("auto", "dense", "randomized"):
        raise DataError(f"{caller}: method={method!r} came; 'auto', 'dense' or 'randomized' is needed.")
    smallest = min(size)
    small = smallest <= SMALL or (rank is not None and 4 * rank > smallest)
    if method == "dense" or (method == "auto" and small):
        return _dense(h, rank, rows, cols, _Limit(tol, floor), caller)
    found = _randomized(
        HankelOperator(h, rows, cols), rank, _Limit(tol, floor), method == "randomized", seed, caller
    )
    if found is not None:
        return found
    if smallest > LARGE:
        raise RankError(
            f"{caller}: more than a quarter of the {smallest} singular values exceed {tol:.1e} of the "
            "largest, and a dense decomposition of this size takes too long to be begun unasked. Give order "
            "or tol, or method='dense'."
        )
    return _dense(h, rank, rows, cols, _Limit(tol, floor), caller)


def _dense(h: Array, rank: int | None, rows: int, cols: int, limit: _Limit, caller: str) -> HankelSvd:
    H = hankel(h, rows, cols)
    try:
        U, s, Vt = scipy.linalg.svd(H, full_matrices=False, check_finite=False)
    except scipy.linalg.LinAlgError:  # divide and conquer may fail where the slower iteration does not
        U, s, Vt = scipy.linalg.svd(H, full_matrices=False, check_finite=False, lapack_driver="gesvd")
    n = _cut(rank, s, len(s), limit, caller)
    left = float(s[n]) if n < len(s) else 0.0
    return HankelSvd(U[:, :n], s[:n], Vt[:n].T, s, left, left, 0.0, "dense", 0)


def _randomized(
    H: HankelOperator,
    rank: int | None,
    limit: _Limit,
    insist: bool,
    seed: int | np.random.Generator,
    caller: str,
) -> HankelSvd | None:
    """Sketches of growing width until the rank fits in; None where it is no small part of the matrix."""
    rng, smallest = np.random.default_rng(seed), min(H.shape)
    width = min(smallest, (30 if rank is None else int(rank)) + OVERSAMPLING)
    Q = _orthonormal(H @ rng.standard_normal((H.shape[1], width)))
    while True:
        U, s, V, n, rounds = _iterate(H, Q, rank, limit)
        if rank is not None or width == smallest or n + OVERSAMPLING // 2 <= width:
            break
        if 8 * width > smallest and not insist:
            return None
        more = min(2 * width, smallest) - width
        Q = _orthonormal(np.hstack([U, H @ rng.standard_normal((H.shape[1], more))]))
        width += more
    n = _cut(rank, s, smallest, limit, caller)
    U, V = np.ascontiguousarray(U[:, :n]), np.ascontiguousarray(V[:, :n])
    bound = _probed(H, U, s[:n], V, rng)
    # The squares are known to some roundings of the Frobenius norm; so much is added before the root.
    left = max(H.frobenius**2 - float(s[:n] @ s[:n]), 0.0) + 4 * H.rounding * H.frobenius
    return HankelSvd(U, s[:n], V, s, bound, float(np.sqrt(left)), FAILURE, "randomized", rounds)


def _iterate(
    H: HankelOperator, Q: Array, rank: int | None, limit: _Limit
) -> tuple[Array, Array, Array, int, int]:
    transposed, rounds = H.T, 0
    while True:
        rounds += 1
        back, triangle = scipy.linalg.qr(transposed @ Q, mode="economic", check_finite=False)
        V, s, Wt = scipy.linalg.svd(triangle, check_finite=False)
        U, V = Q @ Wt.T, back @ V
        n = limit.count(s) if rank is None else min(int(rank), int(np.sum(s > 0)))
        # Values from within a subspace are never too large: if all exceed the limit, the rank is higher.
        if n == 0 or rounds == ROUNDS or (rank is None and n == len(s) < min(H.shape)):
            return U, s, V, n, rounds
        forth = H @ V
        residual = np.linalg.norm(forth[:, :n] - U[:, :n] * s[:n], axis=0)
        if (residual <= np.maximum(CONVERGED * s[:n], 4 * H.rounding)).all():
            return U, s, V, n, rounds
        Q = _orthonormal(forth)


def _orthonormal(Y: Array) -> Array:
    return np.asarray(scipy.linalg.qr(Y, mode="economic", overwrite_a=True, check_finite=False)[0], float)


def _probed(H: HankelOperator, U: Array, s: Array, V: Array, rng: np.random.Generator) -> float:
    """Bound on what the factors leave, from Gaussian vectors that had no part in finding them."""
    transposed = H.T
    probe = rng.standard_normal((H.shape[1], PROBES))
    size = 1.0
    for step in range(POWER):
        if step % 2:
            probe = transposed @ probe - V @ (s[:, None] * (U.T @ probe))
        else:
            probe = H @ probe - U @ (s[:, None] * (V.T @ probe))
        # Scaled at each step: the power of a small error would be lost below the smallest number.
        largest = float(np.linalg.norm(probe, axis=0).max())
        if largest == 0:
            return 0.0
        probe, size = probe / largest, size * largest ** (1 / POWER)
    alpha = FAILURE ** (-1 / PROBES)
    return float((alpha * np.sqrt(2 / np.pi)) ** (1 / POWER) * size + H.rounding)


def default_tolerance(shape: tuple[int, int]) -> float:
    """Rounding only."""
    return 4 * max(shape) * float(np.finfo(float).eps)


def _tolerance(tol: float | None, shape: tuple[int, int], caller: str) -> float:
    if tol is None:
        return default_tolerance(shape)
    if not 0 <= tol < 1:
        raise DataError(
            f"{caller}: tol={tol} came; a share of the largest singular value, 0 <= tol < 1, is needed."
        )
    return float(tol)


def _cut(order: int | None, s: Array, largest: int, limit: _Limit, caller: str) -> int:
    rank = limit.count(s)
    if order is None:
        return rank
    if order > rank:
        raise RankError(
            f"{caller}: order {order} is asked, but only {rank} of the Hankel matrix's {largest} singular "
            f"values exceed {limit.share(s):.1e} of the largest. Ask for order <= {rank}, lower tol, or give "
            "a longer sequence."
        )
    return int(order)
