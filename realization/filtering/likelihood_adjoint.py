r"""Derivatives of the likelihood by the filter's recursion read backward, with the adjoint of its covariance.

With $v = R_{e,t}^{-1} e_t$, $F = A - \Gamma_t C$ and the adjoints $\mu, \Lambda$ of $\hat x_{t+1}, P_{t+1}$,

$$\mu \leftarrow F^\top \mu + C^\top v, \qquad
\Lambda \leftarrow F^\top \Lambda F + \operatorname{sym}(F^\top \mu\, v^\top C)
+ \tfrac12 C^\top (v v^\top - R_{e,t}^{-1}) C .$$
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from realization.filtering.observations import Observations
from realization.filtering.recursion import transient
from realization.filtering.small_matrices import (
    cholesky,
    invert,
    multiply,
    multiply_transposed,
    transposed_multiply,
)
from realization.systems.models import InnovationsModel

__all__ = ["Derivatives", "likelihood_by_recursion"]

Array = NDArray[np.float64]


class Derivatives(NamedTuple):
    """Of the log-likelihood with respect to what it was computed from, each in its shape."""

    A: Array
    B: Array
    C: Array
    D: Array
    K: Array
    Re: Array
    u_mean: Array
    y_mean: Array
    x0: Array
    P0: Array


def likelihood_by_recursion(
    model: InnovationsModel, seen: Observations, x0: Array, P0: Array, gradient: bool
) -> tuple[float, Derivatives | None]:
    """Log-likelihood without its constant, and its derivatives; every sample has its own covariance."""
    # A first sample that is said to be incomplete keeps the recursion from stopping at a settled gain.
    whole = seen._replace(complete_from=seen.record.length)
    passed = transient(model, whole, x0, P0, square_root=False, caller="log_likelihood")
    value = -0.5 * float(passed.log_dets.sum() + passed.squared.sum())
    if not gradient:
        return value, None
    mu, e_bar, A, C, cross, R, Lambda_sum, Lambda = backward(
        model.A,
        seen.noises.C,
        seen.noises.R,
        seen.noises.present,
        seen.pattern,
        passed.states,
        passed.covariances,
        passed.gains,
        passed.innovations,
    )
    K, Re = model.K, model.Re
    Re_bar = R + K.T @ Lambda_sum @ K + (K.T @ cross + cross.T @ K) / 2
    return value, Derivatives(
        A=A,
        B=mu[1:].T @ seen.u,
        C=C,
        D=-e_bar.T @ seen.u,
        K=2 * Lambda_sum @ K @ Re + cross @ Re,
        Re=Re_bar,
        u_mean=model.D.T @ e_bar.sum(axis=0) - model.B.T @ mu[1:].sum(axis=0),
        y_mean=-e_bar.sum(axis=0),
        x0=mu[0],
        P0=Lambda,
    )


@numba.njit(cache=True)
def backward(
    A: Array,
    C: Array,
    R: Array,
    present: NDArray[np.bool_],
    pattern: NDArray[np.int64],
    states: Array,
    covariances: Array,
    gains: Array,
    innovations: Array,
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:
    """Adjoints of states, innovations, `A`, `C`, `cov(w, v)`, `cov v`, `cov w` and the first covariance."""
    T, n = states.shape
    p = innovations.shape[1]
    mu, e_bar = np.zeros((T + 1, n)), np.zeros((T, p))
    A_bar, C_bar, cross_bar = np.zeros((n, n)), np.zeros((p, n)), np.zeros((n, p))
    R_bar, total = np.zeros((p, p)), np.zeros((n, n))
    Lambda, moved = np.zeros((n, n)), np.empty((n, n))
    PC, CPC, LG, GLG = np.empty((n, p)), np.empty((p, p)), np.empty((n, p)), np.empty((p, p))
    factor, inverse = np.zeros((p, p)), np.zeros((p, p))
    F, LF, FP, N, CP = (
        np.empty((n, n)),
        np.empty((n, n)),
        np.empty((n, n)),
        np.empty((n, p)),
        np.empty((p, n)),
    )
    NP, AP, SC, SCP = np.empty((p, n)), np.empty((n, n)), np.empty((p, n)), np.empty((p, n))
    S, v, Gm, Cv, Fm = np.empty((p, p)), np.empty(p), np.empty(p), np.empty(n), np.empty(n)
    NC = np.empty((n, n))
    for t in range(T - 1, -1, -1):
        j, P, Gamma, m = pattern[t], covariances[t], gains[t], mu[t + 1]
        multiply_transposed(P, C[j], PC)
        multiply(C[j], PC, CPC)
        for i in range(p):
            for k in range(p):
                CPC[i, k] += R[j, i, k]
        cholesky(CPC, factor)
        invert(factor, inverse)
        for i in range(p):
            v[i], Gm[i] = 0.0, 0.0
            for k in range(p):
                v[i] += inverse[i, k] * innovations[t, k]
            for k in range(n):
                Gm[i] += Gamma[k, i] * m[k]
            e_bar[t, i] = Gm[i] - v[i]
        multiply(Gamma, C[j], F)
        for i in range(n):
            Cv[i] = 0.0
            for k in range(p):
                Cv[i] += C[j, k, i] * v[k]
            for k in range(n):
                F[i, k] = A[i, k] - F[i, k]
        for i in range(n):
            Fm[i] = 0.0
            for k in range(n):
                Fm[i] += F[k, i] * m[k]
            mu[t, i] = Fm[i] + Cv[i]
        multiply(Lambda, Gamma, LG)
        transposed_multiply(Gamma, LG, GLG)
        for i in range(n):
            for k in range(p):
                N[i, k] = m[i] * v[k] - 2 * LG[i, k]
                cross_bar[i, k] += N[i, k]
        for i in range(p):
            for k in range(p):
                S[i, k] = GLG[i, k] + 0.5 * (v[i] * v[k] - inverse[i, k] - Gm[i] * v[k] - Gm[k] * v[i])
                if present[j, i] and present[j, k]:
                    R_bar[i, k] += S[i, k]
        multiply(C[j], P, CP)
        multiply(A, P, AP)
        multiply(Lambda, F, LF)
        multiply(LF, P, FP)
        transposed_multiply(N, AP, NP)
        multiply(S, CP, SCP)
        for i in range(n):
            filtered = states[t, i]
            for k in range(p):
                filtered += PC[i, k] * v[k]
            for k in range(n):
                A_bar[k, i] += m[k] * filtered + 2 * FP[k, i]
                total[i, k] += Lambda[i, k]
            for k in range(p):
                if present[j, k]:
                    C_bar[k, i] += NP[k, i] + 2 * SCP[k, i] - e_bar[t, k] * states[t, i]
        transposed_multiply(F, LF, moved)
        multiply(inverse, C[j], SC)
        transposed_multiply(C[j], SC, NC)
        for i in range(n):
            for k in range(i + 1):
                value = 0.5 * (moved[i, k] + moved[k, i])
                value += 0.5 * (Fm[i] * Cv[k] + Fm[k] * Cv[i] + Cv[i] * Cv[k] - 0.5 * (NC[i, k] + NC[k, i]))
                Lambda[i, k] = Lambda[k, i] = value
    return mu, e_bar, A_bar, C_bar, cross_bar, R_bar, total, Lambda
