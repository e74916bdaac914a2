r"""The spectral factor $V V^* = G G^*$ and the gramian factor of the phase, without squaring the gain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from realization.errors import ConvergenceError
from realization.systems.bilinear import to_discrete
from realization.systems.doubling import doubled
from realization.systems.lyapunov import EPS, SchurForm, lyapunov_factor
from realization.systems.projection import System

__all__ = ["SpectralFactor", "inverse_sight", "phase_factor", "spectral_factor"]

Array = NDArray[np.float64]
REFINEMENTS = 6
RATES = 5


class SpectralFactor(NamedTuple):
    r"""$V$ with $V V^* = G G^*$, itself and its inverse stable, in discrete time, with the states of $G$.

    `system` is $G$ moved there at `rate`, `write` and `root` are the input matrix and direct term of $V$;
    `read` and `form` are output matrix and Schur form of its inverse; `missing` is a factor of the gramian
    of $G$ less that of $V$.
    """

    system: System
    rate: float
    write: Array
    root: Array
    read: Array
    form: SchurForm
    missing: Array

    def whitened(self, reduced: System) -> System:
        r"""$V^{-1} (G - G_r)$, with the states of $V^{-1}$ and of $G_r$; those of $G$ cancel."""
        full, form, r = self.system, self.form, len(reduced.A)
        seen = _divided(self.root, np.hstack([-reduced.C, full.D - reduced.D]))
        C_r, D = seen[:, :r], seen[:, r:]
        corner = -form.inward(self.write @ C_r)
        A = np.block([[form.T, corner], [np.zeros((r, len(form.T))), reduced.A]])
        B = np.vstack([form.inward(full.B - self.write @ D), reduced.B])
        return System(A, B, np.hstack([form.outward(self.read), C_r]), D, full.weight)

    def coprime(self) -> System:
        r"""$V^{-1} G$, with the states of $G$."""
        A, B, C, D, weight = self.system
        K = _divided(self.root.T, self.write.T, lower=False).T
        return System(A - K @ C, B - K @ D, self.read, _divided(self.root, D), weight)


def spectral_factor(system: System, caller: str) -> SpectralFactor:
    r"""Factor $G G^*$ of a continuous system whose inputs have unit scale, `D` of full row rank.

    At a rate $\gamma$ at which $G(\gamma)$ is well conditioned, the bilinear transformation makes it the
    direct term of a discrete system, whose Kalman filter's Riccati equation

    $$P = A P A^\top + B B^\top - K R K^\top, \quad R = D D^\top + C P C^\top, \quad
    K R = A P C^\top + B D^\top$$

    takes no square of the gain apart: its solution is the gramian of what the zeros beyond the limit and the
    surplus inputs hide, zero for a square model without such zeros. It is found by doubling, for square
    models from the zeros' invariant subspace, and refined by Newton's method with factors,
    $P = (A - K C) P (A - K C)^\top + (B - K D) (B - K D)^\top$.
    """
    rate = _rate(system)
    moved = to_discrete(system, rate)
    A, B, C, D, _ = moved
    form, missing = _start(moved)
    change = 0.0 if form is not None else np.inf
    for _ in range(REFINEMENTS):
        write, root = _updated(moved, missing)
        if change == 0.0:
            break
        K = _divided(root.T, write.T, lower=False).T
        form = SchurForm.of(A - K @ C)
        if not np.abs(form.eigenvalues).max(initial=0.0) < 1:
            break
        drive = lyapunov_factor(form.T, form.inward(B - K @ D), discrete=True)
        refined = form.scale[:, None] * (form.Z @ drive)
        step = np.linalg.norm(refined @ refined.T - missing @ missing.T)
        before, change = change, step / max(float(np.linalg.norm(refined)) ** 2, np.finfo(float).tiny)
        missing = refined
        if not 1e-13 < change < 0.5 * before:
            break
    write, root = _updated(moved, missing)
    if form is None or not change <= 1e-6:
        raise ConvergenceError(
            f"{caller}: the Riccati equation of the spectral factor has no stabilizing solution that can be "
            f"found (the last step changed it by {change:.2g} of itself). The spectrum vanishes at some "
            "frequency, or nearly so: give alpha > 0, a gain below which the error may be absolute."
        )
    return SpectralFactor(moved, rate, write, root, _divided(root, C), _inside(form), missing)


def phase_factor(factor: SpectralFactor) -> Array:
    r"""Factor of the observability gramian $Q$ of $W$, $W^* W = V V^*$, in the coordinates of the states.

    With $N$ the observability gramian of $V^{-1}$ and $P_v$ the controllability gramian of $V$, the backward
    factor has $Q^{-1} = P_v + N^{-1}$. From $N = R R^\top$, $P_v = L L^\top$ and $R^\top L = U S Z^\top$,
    $Q$ has the factor $R\, U (I + S^2)^{-1/2}$, so that the values of the phase of $V$ are
    $s / \sqrt{1 + s^2}$, below one whatever the rounding.
    """
    R = inverse_sight(factor)
    L = lyapunov_factor(factor.system.A, factor.write, discrete=True)
    U, s, _ = scipy.linalg.svd(R.T @ L, check_finite=False)
    return np.asarray(R @ U / np.sqrt(1 + s**2), dtype=float)


def inverse_sight(factor: SpectralFactor) -> Array:
    """Factor of the observability gramian of the inverse of `V`."""
    form = factor.form
    seen = lyapunov_factor(form.T, form.outward(factor.read).T, discrete=True, transposed=True)
    return np.asarray((form.Z @ seen) / form.scale[:, None], dtype=float)


def _rate(system: System) -> float:
    """Where the inverse of the gain, and with it the matrix of the zeros, is smallest."""
    moduli = np.abs(SchurForm(system.A, system.A, system.A[0]).eigenvalues) if len(system.A) else np.ones(1)
    # Not the moduli themselves: a real pole beyond the limit may lie there.
    largest = float(moduli.max()) or 1.0
    rates = np.geomspace(0.37 * max(moduli.min(), 1e-8 * largest), 1.7 * largest, RATES)

    def size(rate: float) -> float:
        shifted = rate * np.eye(len(system.A)) - system.A
        try:
            B, C = np.linalg.solve(shifted, system.B), np.linalg.solve(shifted.T, system.C.T).T
        except np.linalg.LinAlgError:
            return np.inf
        U, values, Vt = np.linalg.svd(system.D + system.C @ B, full_matrices=False)
        if not values.min(initial=np.inf) > 0:
            return np.inf
        inverted = np.linalg.norm((B @ Vt.T / values) @ (U.T @ C))
        return float(2 * rate * inverted * (1 + 1e-8 * values[0] / values[-1]))

    return float(min(rates, key=size))


def _start(system: System) -> tuple[SchurForm | None, Array]:
    """A factor of the Riccati solution, right to some digits; with the zeros' Schur form where it is zero."""
    A, B, C, D, _ = system
    basis, triangle = scipy.linalg.qr(D.T, mode="economic", check_finite=False)[:2]
    along, read = B @ basis, _divided(np.asarray(triangle, dtype=float).T, C)
    F = A - along @ read
    if B.shape[1] > len(C):
        across = B - along @ basis.T
        H = doubled(F.T, read.T @ read, across @ across.T)[0]
        if not np.isfinite(H).all():
            return None, np.zeros(A.shape)
        values, vectors = np.linalg.eigh(H)
        return None, vectors * np.sqrt(np.maximum(values, 0.0))
    form = SchurForm.of(F)
    if len(F) == 0 or np.abs(form.eigenvalues).max() <= 1 + 10 * len(F) * EPS * np.linalg.norm(form.T):
        return form, np.zeros((len(F), 0))
    T, Z, count = scipy.linalg.schur(form.T, sort="ouc", check_finite=False)
    V = form.scale[:, None] * (form.Z @ Z[:, :count])
    back = np.asarray(np.linalg.inv(T[:count, :count]), dtype=float)
    inner = SchurForm.of(back)
    seen = lyapunov_factor(inner.T, inner.outward(read @ V @ back).T, discrete=True, transposed=True)
    M = (inner.Z @ seen) / inner.scale[:, None]
    return None, np.asarray(np.linalg.solve(M, V.T).T, dtype=float)


def _updated(system: System, missing: Array) -> tuple[Array, Array]:
    """Input matrix and triangular direct term of the factor, by one orthogonal transformation."""
    A, B, C, D, _ = system
    p = len(C)
    before = np.vstack([np.hstack([D, C @ missing]), np.hstack([B, A @ missing])])
    after = scipy.linalg.qr(before.T, mode="r", check_finite=False)[0].T
    return np.asarray(after[p:, :p], dtype=float), np.asarray(after[:p, :p], dtype=float)


def _inside(form: SchurForm) -> SchurForm:
    """Poles that rounding puts on the unit circle or beyond, moved back by as much."""
    limit = 1 - len(form.T) * EPS * max(1.0, float(np.linalg.norm(form.T)))
    moduli = np.abs(form.eigenvalues)
    if not moduli.max(initial=0.0) > limit:
        return form
    T = form.T.copy()
    T[moduli > limit] *= (limit / moduli[moduli > limit])[:, None]
    return SchurForm(T, form.Z, form.scale)


def _divided(root: Array, matrix: Array, *, lower: bool = True) -> Array:
    return np.asarray(scipy.linalg.solve_triangular(root, matrix, lower=lower), dtype=float)
