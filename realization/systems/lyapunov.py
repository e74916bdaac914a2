r"""Factors of Lyapunov solutions without forming the solution: Hammarling's method on a Schur form.

The gramian $P$ of a stable pair has eigenvalues over many decades, and a solver that returns $P$ loses those
below `eps` of the largest: half the digits of the Hankel singular values. Here $P = R R^\top$ is never
formed; $R$ comes column by column, so that what is small is right relative to $\sqrt{\lVert P\rVert}$, not to
$\lVert P\rVert$.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numba
import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import ConvergenceError

__all__ = ["SchurForm", "balance", "complex_schur", "discrete_lyapunov", "lyapunov_factor"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
EPS = float(np.finfo(float).eps)
DIRECT = 10  # states from which on the equation is not written out


def balance(A: Array) -> tuple[Array, Array]:
    """Scale states by powers of two until rows and columns are alike in size: `S⁻¹ A S`, and `S` as (n,).

    LAPACK's `gebal` without permutations; SciPy's `matrix_balance` would take a scale past 2^63 for a place.
    """
    balanced, _, _, scale, info = scipy.linalg.lapack.dgebal(A, scale=1, permute=0)
    if info:
        raise ConvergenceError(f"LAPACK's gebal ended with {info}: the matrix cannot be balanced.")
    return balanced, scale


def discrete_lyapunov(A: Array, Q: Array) -> Array:
    r"""The solution of $X = A X A^\top + Q$, as SciPy finds it, without its warnings.

    A warning of SciPy's can be kept from the user only by filters that belong to the whole process.

    Parameters
    ----------
    A, Q : ndarray, shape (n, n)
        `A` with all eigenvalues inside the unit circle.

    Raises
    ------
    LinAlgError
        If the equation is singular.

    Examples
    --------
    >>> import numpy as np
    >>> from realization.systems.lyapunov import discrete_lyapunov
    >>> discrete_lyapunov(np.array([[0.5]]), np.array([[3.0]]))
    array([[4.]])
    """
    n = len(A)
    if n < DIRECT:
        x = np.linalg.solve(np.eye(n * n) - np.kron(A, A), Q.reshape(-1))
        return np.asarray(x, dtype=np.float64).reshape(n, n)
    eye = np.eye(n)
    back = np.linalg.inv(A.T + eye)  # bilinear, to continuous time
    right = -2 * np.linalg.inv(A + eye) @ Q @ back
    found = scipy.linalg.solve_continuous_lyapunov(((A.T - eye) @ back).T, right)
    return np.asarray(found, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class SchurForm:
    r"""Real Schur form of a balanced matrix, $S^{-1} A S = Z T Z^\top$ with $S$ diagonal, powers of two.

    Attributes
    ----------
    T : ndarray, shape (n, n)
        Upper quasi-triangular, in LAPACK's standard form: 2 by 2 blocks have equal diagonal entries.
    Z : ndarray, shape (n, n)
        Orthogonal.
    scale : ndarray, shape (n,)
        Diagonal of `S`.
    """

    T: Array
    Z: Array
    scale: Array

    @classmethod
    def of(cls, A: Array) -> Self:
        """Balance, then LAPACK's `gees`."""
        if len(A) == 0:
            return cls(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0))
        balanced, scale = balance(A)
        T, Z = scipy.linalg.schur(balanced, output="real", check_finite=False)[:2]
        return cls(T, Z, scale)

    @property
    def eigenvalues(self) -> Complex:
        """Eigenvalues in the order of the blocks, shape (n,)."""
        values = self.T.diagonal().astype(complex)
        first, frequency = _pairs(self.T)
        values[first] += 1j * frequency
        values[first + 1] -= 1j * frequency
        return values

    def inward(self, B: Array) -> Array:
        """Input matrix in the coordinates of `T`."""
        return self.Z.T @ (B / self.scale[:, None])

    def outward(self, C: Array) -> Array:
        """Output matrix in the coordinates of `T`."""
        return (C * self.scale) @ self.Z


def complex_schur(T: Array, B: Array, C: Array) -> tuple[Complex, Complex, Complex]:
    """Upper triangular complex form of a system in real Schur coordinates.

    Parameters
    ----------
    T : ndarray, shape (n, n)
        Quasi-triangular, in standard form.
    B : ndarray, shape (n, m)
    C : ndarray, shape (p, n)

    Returns
    -------
    S : ndarray, shape (n, n)
    B : ndarray, shape (n, m)
    C : ndarray, shape (p, n)

    Examples
    --------
    >>> import numpy as np
    >>> from realization.systems.lyapunov import complex_schur
    >>> rotation = np.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> complex_schur(rotation, np.eye(2), np.eye(2))[0].round(12).diagonal().imag
    array([ 1., -1.])
    """
    S, drive, (first, p, q) = _complex_form(T, B)
    read = C.astype(complex)
    left, right = read[:, first].copy(), read[:, first + 1].copy()
    read[:, first], read[:, first + 1] = left * p + right * 1j * q, left * 1j * q + right * p
    return S, drive, read


def lyapunov_factor(T: Array, B: Array, *, discrete: bool, transposed: bool = False) -> Array:
    r"""Factor $R$ of the solution $P = R R^\top$ of a Lyapunov equation in Schur coordinates.

    $$T P + P T^\top + B B^\top = 0 \qquad\text{or}\qquad T P T^\top - P + B B^\top = 0$$

    Parameters
    ----------
    T : ndarray, shape (n, n)
        Quasi-triangular, in standard form, all eigenvalues stable.
    B : ndarray, shape (n, m)
    discrete : bool
        Which of the two equations.
    transposed : bool
        Take $T^\top$ in the place of $T$.

    Returns
    -------
    R : ndarray, shape (n, n)

    Raises
    ------
    ConvergenceError
        If the solution does not satisfy its equation: numbers out of range.

    References
    ----------
    S. J. Hammarling, Numerical solution of the stable, non-negative definite Lyapunov equation, IMA J. Numer.
    Anal. 2 (1982) 303-323.
    D. C. Sorensen, Y. Zhou, Direct methods for matrix Sylvester and Lyapunov equations, J. Appl. Math. 2003,
    section 4.

    Examples
    --------
    >>> import numpy as np
    >>> from realization.systems.lyapunov import lyapunov_factor
    >>> lyapunov_factor(np.array([[-2.0]]), np.array([[2.0]]), discrete=False)
    array([[1.]])
    """
    n = len(T)
    if n == 0 or B.shape[1] == 0:
        return np.zeros((n, n))
    with np.errstate(all="ignore"):
        S, drive, rotation = _complex_form(T, B)
        if transposed:
            S, drive = S.conj().T[::-1, ::-1], drive[::-1]
        if drive.shape[1] > n:
            drive = scipy.linalg.qr(drive.conj().T, mode="r", check_finite=False)[0][:n].conj().T
        columns = _solve(
            np.ascontiguousarray(S.real.T),
            np.ascontiguousarray(S.imag.T),
            np.ascontiguousarray(drive.real.T),
            np.ascontiguousarray(drive.imag.T),
            discrete,
        )
        factor = _back(columns, rotation, reverse=transposed)
        residual = _residual(T.T if transposed else T, B, factor, discrete)
    if not residual <= 1e-11 * max(n, 10):
        raise ConvergenceError(
            f"lyapunov_factor: the solution misses its equation by {residual:.2g} of its largest term. "
            "Entries of the model are too large or too small for floating point: change the units of states, "
            "inputs or outputs."
        )
    return factor


def _pairs(T: Array) -> tuple[NDArray[np.intp], Array]:
    """First index of each 2 by 2 block, and the imaginary part of its eigenvalues."""
    first = np.flatnonzero(T.diagonal(-1))
    return first, np.sqrt(np.abs(T[first, first + 1])) * np.sqrt(np.abs(T[first + 1, first]))


Rotation = tuple[NDArray[np.intp], Array, Array]


def _complex_form(T: Array, B: Array) -> tuple[Complex, Complex, Rotation]:
    """Upper triangular `Gᴴ T G` and `Gᴴ B`, with `G` unitary and 2 by 2 block diagonal.

    In standard form a block's eigenvector is `(b, i ω)`, whose normalized parts `p, q` make the rotation.
    """
    first, frequency = _pairs(T)
    length = np.hypot(T[first, first + 1], frequency)
    p, q = T[first, first + 1] / length, frequency / length
    S, drive = T.astype(complex), B.astype(complex)
    left, right = S[:, first].copy(), S[:, first + 1].copy()
    S[:, first], S[:, first + 1] = left * p + right * 1j * q, left * 1j * q + right * p
    for matrix in (S, drive):
        upper, lower = matrix[first].copy(), matrix[first + 1].copy()
        matrix[first] = upper * p[:, None] - lower * 1j * q[:, None]
        matrix[first + 1] = lower * p[:, None] - upper * 1j * q[:, None]
    S[first + 1, first] = 0.0
    return S, drive, (first, p, q)


def _back(columns: tuple[Array, Array], rotation: Rotation, *, reverse: bool) -> Array:
    """Real factor in the coordinates of `T` of the complex one: `P = Re(W Wᴴ)` for `W = G U`."""
    W = (columns[0] + 1j * columns[1]).T
    if reverse:
        W = W[::-1]
    first, p, q = rotation
    upper, lower = W[first].copy(), W[first + 1].copy()
    W[first] = upper * p[:, None] + lower * 1j * q[:, None]
    W[first + 1] = upper * 1j * q[:, None] + lower * p[:, None]
    if len(first) == 0:
        return W.real
    stacked = np.vstack([W.real.T, W.imag.T])
    R = scipy.linalg.qr(stacked, mode="r", overwrite_a=True, check_finite=False)[0]
    return np.asarray(R, dtype=float)[: len(W)].T


def _residual(T: Array, B: Array, factor: Array, discrete: bool) -> float:
    P, drive = factor @ factor.T, B @ B.T
    moved = T @ P @ T.T if discrete else T @ P
    size = np.linalg.norm(P) * max(1.0, np.linalg.norm(T)) + np.linalg.norm(drive)
    left = moved - P if discrete else moved + moved.T
    return float(np.linalg.norm(left + drive) / size) if size > 0 else 0.0


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def _add(xr: Array, xi: Array, gr: float, gi: float, yr: Array, yi: Array, count: int) -> None:
    """`x += g y` on the first `count` entries, parts of complex numbers apart so that the loop vectorizes."""
    for t in range(count):
        xr[t] += gr * yr[t] - gi * yi[t]
        xi[t] += gr * yi[t] + gi * yr[t]


@numba.njit(cache=True, fastmath={"contract", "reassoc"})
def _solve(Sr: Array, Si: Array, Br: Array, Bi: Array, discrete: bool) -> tuple[Array, Array]:
    r"""Columns of the upper triangular factor, as rows; all matrices come transposed, `B` is used up.

    With $S = [S_1\ s;\ 0\ \lambda]$, $U = [U_1\ u;\ 0\ \tau]$ and $b$ the last row of $B$:
    $\tau = \lVert b\rVert / w$ and $\alpha = b / \tau$ with $w^2 = -2\operatorname{Re}\lambda$ (discrete:
    $1 - |\lambda|^2$); then $(c I + d S_1) u = -(B_1 \alpha^* + d s \tau)$ with $c, d = \bar\lambda, 1$
    (discrete: $-1, \bar\lambda$). What is left has the same form with $B_1 - u \alpha$ (discrete:
    $B_1 - (u + \varphi v) \alpha / (1 + |\lambda|)$, a reflection of $[v\ B_1]$ with $v = S_1 u + s \tau$ and
    $\varphi = \bar\lambda / |\lambda|$).
    """
    n, m = Sr.shape[0], Br.shape[0]
    Ur, Ui = np.zeros((n, n)), np.zeros((n, n))
    ar, ai = np.empty(m), np.empty(m)
    vr, vi = np.empty(n), np.empty(n)
    for k in range(n - 1, -1, -1):
        largest = 0.0
        for j in range(m):
            largest = max(largest, abs(Br[j, k]), abs(Bi[j, k]))
        if largest == 0.0:
            continue
        total = 0.0
        for j in range(m):
            ar[j], ai[j] = Br[j, k] / largest, Bi[j, k] / largest
            total += ar[j] * ar[j] + ai[j] * ai[j]
        lr, li = Sr[k, k], Si[k, k]
        modulus = np.hypot(lr, li)
        width = np.sqrt((1.0 - modulus) * (1.0 + modulus)) if discrete else np.sqrt(-2.0 * lr)
        tau = np.sqrt(total) * largest / width
        for j in range(m):
            ar[j] *= width / np.sqrt(total)
            ai[j] *= width / np.sqrt(total)
        cr, ci, dr, di = (-1.0, 0.0, lr, -li) if discrete else (lr, -li, 1.0, 0.0)
        ur, ui = Ur[k], Ui[k]
        _add(ur, ui, -tau * dr, -tau * di, Sr[k], Si[k], k)
        for j in range(m):
            _add(ur, ui, -ar[j], ai[j], Br[j], Bi[j], k)
        for i in range(k - 1, -1, -1):
            pr, pi = cr + dr * Sr[i, i] - di * Si[i, i], ci + dr * Si[i, i] + di * Sr[i, i]
            size = pr * pr + pi * pi
            xr, xi = (ur[i] * pr + ui[i] * pi) / size, (ui[i] * pr - ur[i] * pi) / size
            ur[i], ui[i] = xr, xi
            _add(ur, ui, di * xi - dr * xr, -dr * xi - di * xr, Sr[i], Si[i], i)
        if discrete:
            vr[:k], vi[:k] = tau * Sr[k, :k], tau * Si[k, :k]
            for i in range(k):
                _add(vr, vi, ur[i], ui[i], Sr[i], Si[i], i + 1)
            fr, fi = (lr / modulus, -li / modulus) if modulus > 0.0 else (1.0, 0.0)
            for i in range(k):
                xr = (ur[i] + fr * vr[i] - fi * vi[i]) / (1.0 + modulus)
                vi[i] = (ui[i] + fr * vi[i] + fi * vr[i]) / (1.0 + modulus)
                vr[i] = xr
        else:
            vr[:k], vi[:k] = ur[:k], ui[:k]
        for j in range(m):
            _add(Br[j], Bi[j], -ar[j], -ai[j], vr, vi, k)
        ur[k] = tau
    return Ur, Ui
