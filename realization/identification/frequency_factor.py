"""What frequency-domain subspace identification computes: a polynomial basis, a projection, least squares."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["FrequencyFactor", "InputSide", "Samples", "factorize_samples", "input_side"]

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
EPS = float(np.finfo(float).eps)
# A direction of the inputs below this share of the largest is rounding.
RESOLVED = 1e-13


class Samples(NamedTuple):
    r"""Spectra at points of the frequency axis; a frequency response is the outputs for unit inputs.

    Attributes
    ----------
    z : ndarray, shape (F,)
        On the unit circle, or on the imaginary axis in units of the bilinear map's rate.
    w : ndarray, shape (F,)
        The same points on a circle that they are spread over: $(z - a) / (1 - a z)$ or $(1 + z) / (1 - z)$.
    a : float or None
        Of the map; `None` in continuous time.
    U : ndarray, shape (F, m, c)
        `c` input vectors at each point.
    Y : ndarray, shape (F, p, c)
    weights : ndarray, shape (F,)
        Of squared errors, all positive.
    noise : ndarray, shape (F, p, p), or None
        Covariance of the outputs' errors; the identity over `weights` where it is `None`.
    experiment : ndarray of int, shape (F,), or None
        Which transient each point has a share in; `None` where there are none.
    unit : bool
        Whether `U` is the identity at every point.
    """

    z: Complex
    w: Complex
    a: float | None
    U: Complex
    Y: Complex
    weights: Array
    noise: Array | None
    experiment: NDArray[np.intp] | None
    unit: bool

    @property
    def equations(self) -> int:
        """Real equations for each output: two at a complex point, one at a real one."""
        return int(_multiplicity(self.w).sum()) * self.U.shape[2]

    @property
    def dimension(self) -> int:
        """Independent real polynomials on the points, which may come several times."""
        return int(_multiplicity(np.unique(self.w.round(13))).sum())

    def turned(self, A: Array, C: Array) -> tuple[Array, Array]:
        """`A` and `C` on the frequency axis from those on the circle of `w`."""
        eye = np.eye(len(A))
        if self.a is None:
            plus, minus = eye + A, A - eye
        else:
            plus, minus = eye + self.a * A, self.a * eye + A
        return np.asarray(np.linalg.solve(plus, minus), float), np.asarray(
            np.linalg.solve(plus.T, C.T).T, float
        )

    @property
    def transients(self) -> int:
        """Number of experiments whose first and last states enter."""
        return 0 if self.experiment is None else int(self.experiment.max()) + 1

    @property
    def entries(self) -> Complex:
        """Inputs of each transient, shape (F, E, c): one in the rows of its experiment."""
        if self.experiment is None:
            return np.zeros((len(self.z), 0, self.U.shape[2]), dtype=complex)
        marks = self.experiment[:, None] == np.arange(self.transients)
        return np.repeat(marks[:, :, None].astype(complex), self.U.shape[2], axis=2)


def _multiplicity(z: Complex) -> NDArray[np.intp]:
    """One for a real point, two for the others, whose conjugates are known too."""
    return np.where(np.abs(z.imag) <= 8 * EPS, 1, 2)


class FrequencyFactor(NamedTuple):
    """The outputs' share that only states explain, and what turns its directions into `A` and `C`."""

    directions: Array
    values: Array
    recurrence: Array
    leading: float
    outputs: int

    def matrices(self, order: int) -> tuple[Array, Array]:
        r"""`A` and `C` of the first `order` directions, on the circle of `w`.

        The block rows are $C \varphi_j(A)$, and $z \varphi_j = \sum_l h_{lj} \varphi_l$ turns into
        $C \varphi_j(A) A = \sum_l h_{lj} C \varphi_l(A)$.
        """
        p, rows = self.outputs, len(self.recurrence)
        O = self.directions[:, :order]
        if not order:
            return np.zeros((0, 0)), np.zeros((p, 0))
        later = np.einsum("lj,lpn->jpn", self.recurrence, O.reshape(rows, p, order)).reshape(-1, order)
        return scipy.linalg.lstsq(O[:-p], later, check_finite=False)[0], O[:p] * self.leading


class InputSide(NamedTuple):
    """What is linear once `A` and `C` are known, the errors (F, p, c), and their weighted squares."""

    B: Array
    D: Array
    transients: Array
    errors: Complex
    squares: float


def factorize_samples(samples: Samples, rows: int) -> tuple[FrequencyFactor, int]:
    r"""Project the inputs out of $\varphi_j(w_k) Y_k$, whose state part is $C \varphi_j(A) X_k$.

    $\varphi_0, \dots$ are the real polynomials that are orthonormal on the points under the weights, in
    place of the powers $z^j$, which are all but dependent on points that fill a part of the circle. Rows
    count in units of the noise: its covariance over the points, $\sum_k \operatorname{Re}(\varphi_i
    \bar\varphi_j) \otimes R_k$, is the identity for white noise as it is.

    Returns the factor, and the rank of the inputs' block.
    """
    basis, recurrence = orthonormal_polynomials(samples.w, np.sqrt(samples.weights), rows)
    inputs = _stacked(basis, np.concatenate([samples.U, samples.entries], axis=1))
    outputs = _stacked(basis, samples.Y)
    triangle, pivots = scipy.linalg.qr(inputs, mode="economic", pivoting=True, check_finite=False)[1:]
    sizes = np.abs(np.diag(triangle))
    rank = int((sizes > RESOLVED * sizes[0] * np.sqrt(len(inputs))).sum()) if sizes.size else 0
    span = scipy.linalg.qr(inputs[:, pivots[:rank]], mode="economic", check_finite=False)[0]
    for _ in range(2):  # twice is enough: what is left is orthogonal to rounding
        outputs = outputs - span @ (span.T @ outputs)
    left = scipy.linalg.qr(outputs, mode="r", check_finite=False)[0][: outputs.shape[1]].T
    spread = _noise_root(basis, samples)
    if spread is not None:
        left = scipy.linalg.solve_triangular(spread, left, lower=True, check_finite=False)
    directions, values, _ = scipy.linalg.svd(left, full_matrices=False, check_finite=False)
    if spread is not None:
        directions = spread @ directions
    leading = float(np.sqrt(samples.weights.sum()))
    return FrequencyFactor(directions, values, recurrence, leading, samples.Y.shape[1]), rank


def orthonormal_polynomials(z: Complex, root_weights: Array, count: int) -> tuple[Complex, Array]:
    r"""Values $\varphi_j(z_k) \sqrt{w_k}$, shape (count, F), and `h` (count, count - 1) of the recurrence.

    Arnoldi's iteration with the diagonal matrix of the points, in the real inner product
    $\operatorname{Re} \sum_k w_k f(z_k) \overline{g(z_k)}$, so that all coefficients are real.

    References
    ----------
    P. D. Brubeck, Y. Nakatsukasa, L. N. Trefethen, Vandermonde with Arnoldi, SIAM Review 63 (2021) 405-415.
    """
    basis = np.empty((count, len(z)), dtype=complex)
    recurrence = np.zeros((count, count - 1))
    basis[0] = root_weights / np.linalg.norm(root_weights)
    for j in range(count - 1):
        v = z * basis[j]
        for _ in range(2):
            share = (basis[: j + 1].conj() @ v).real
            v = v - share @ basis[: j + 1]
            recurrence[: j + 1, j] += share
        recurrence[j + 1, j] = np.linalg.norm(v)
        basis[j + 1] = v / recurrence[j + 1, j]
    return basis, recurrence


def _stacked(basis: Complex, spectra: Complex) -> Array:
    r"""$\varphi_j(z_k)$ times each spectrum, real over imaginary part, shape (2 F c, rows width)."""
    product = np.einsum("jk,kpc->kcjp", basis, spectra).reshape(len(spectra) * spectra.shape[2], -1)
    return np.vstack([product.real, product.imag])


def _noise_root(basis: Complex, samples: Samples) -> Array | None:
    """Lower Cholesky factor of the noise's covariance in the rows; `None` where it is the identity."""
    if samples.noise is None:
        return None
    gram = np.einsum("ik,jk,kpq->ipjq", basis, basis.conj(), samples.noise).real
    size = gram.shape[0] * gram.shape[1]
    gram = gram.reshape(size, size)
    return scipy.linalg.cholesky(gram + EPS * np.trace(gram) * np.eye(size), lower=True, check_finite=False)


def input_side(A: Array, C: Array, samples: Samples, feedthrough: bool) -> InputSide:
    r"""Least-squares `B`, `D` and transients of $Y = (C (zI - A)^{-1} B + D)\, U + z\, C (zI - A)^{-1} b$."""
    n, p, m, E = len(A), len(C), samples.U.shape[1], samples.transients
    z, count = samples.z, samples.U.shape[2]
    turned = np.linalg.solve(
        (z[:, None, None] * np.eye(n) - A).transpose(0, 2, 1),
        np.broadcast_to(C.T, (len(z), n, p)).astype(complex),
    )
    whiten = _whitening(samples)
    seen, aim = whiten @ turned.transpose(0, 2, 1), whiten @ samples.Y
    D = np.zeros((p, m))
    if samples.unit:  # each input has its own column of `B` and `D`, and all have the same regressors
        columns = [seen, whiten] if feedthrough else [seen]
        regressors = np.concatenate(columns, axis=2).reshape(len(z) * p, -1)
        both, residual = _complex_least_squares(regressors, aim.reshape(len(z) * p, m))
        B, b, D = both[:n], np.zeros((n, 0)), both[n:] if feedthrough else D
    else:
        parts = [np.einsum("kpn,kmc->kpcnm", seen, samples.U)]
        parts.append(np.einsum("kpn,kec->kpcne", z[:, None, None] * seen, samples.entries))
        if feedthrough:
            parts.append(np.einsum("kpq,kmc->kpcqm", whiten, samples.U))
        regressors = np.concatenate([part.reshape(len(z) * p * count, -1) for part in parts], axis=1)
        theta, residual = _complex_least_squares(regressors, aim.reshape(-1, 1))
        B, b, last = np.split(theta[:, 0], [n * m, n * (m + E)])
        B, b, D = B.reshape(n, m), b.reshape(n, E), last.reshape(p, m) if feedthrough else D
    errors = np.linalg.solve(whiten, residual.reshape(aim.shape)).astype(complex)
    return InputSide(B, D, b, errors, float((np.abs(residual) ** 2).sum()))


def _whitening(samples: Samples) -> Complex:
    """What brings the errors at each point to unit covariance, shape (F, p, p)."""
    p = samples.Y.shape[1]
    if samples.noise is None:
        return np.sqrt(samples.weights)[:, None, None] * np.eye(p, dtype=complex)
    floor = EPS * np.trace(samples.noise, axis1=1, axis2=2)[:, None, None] * np.eye(p)
    return np.linalg.inv(np.linalg.cholesky(samples.noise + floor)).astype(complex)


def _complex_least_squares(a: Complex, b: Complex) -> tuple[Array, Complex]:
    """Real solution of complex equations, with columns of unit length, and the residual."""
    if not a.shape[1]:
        return np.zeros((0, b.shape[1])), b
    sizes = np.linalg.norm(a, axis=0)
    sizes[sizes == 0] = 1.0
    width = a.shape[1]
    stacked = np.vstack([np.hstack([a.real / sizes, b.real]), np.hstack([a.imag / sizes, b.imag])])
    R = scipy.linalg.qr(stacked, mode="r", overwrite_a=True, check_finite=False)[0][: width + b.shape[1]]
    found = scipy.linalg.lstsq(R[:, :width], R[:, width:], cond=1e-13, check_finite=False)[0]
    found = found / sizes[:, None]
    return found, b - a @ found
