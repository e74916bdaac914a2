r"""The filter as a product of samples in any bracketing: what a machine with many cores computes.

A stretch of samples from $t$ to $t'$ says two things: where the state goes,
$x_{t'} \sim N(\Phi x_t + b, Q)$ given its outputs, and what its outputs say about the state that it began
with, a likelihood $\exp(\eta^\top x_t - \tfrac12 x_t^\top J x_t)$. Two stretches join into one,

$$\Phi = \Phi_2 M \Phi_1, \quad b = \Phi_2 M (b_1 + Q_1 \eta_2) + b_2, \quad
Q = \Phi_2 M Q_1 \Phi_2^\top + Q_2, \quad
\eta = \Phi_1^\top M^\top (\eta_2 - J_2 b_1) + \eta_1, \quad J = \Phi_1^\top M^\top J_2 \Phi_1 + J_1,$$

$M = (I + Q_1 J_2)^{-1}$, and joining is associative. Prefixes give the filter; suffixes give what the future
says about each state, and with it the smoother, without the inverse of any covariance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from realization.filtering.observations import Observations
from realization.filtering.recursion import Transient
from realization.systems.models import InnovationsModel

__all__ = ["Stretches", "join", "parallel_filter", "prefixes", "stretches", "suffixes"]

Array = NDArray[np.float64]


class Stretches(NamedTuple):
    """`N` stretches of samples."""

    Phi: Array
    """(N, n, n)"""
    b: Array
    """(N, n)"""
    Q: Array
    """(N, n, n)"""
    eta: Array
    """(N, n)"""
    J: Array
    """(N, n, n)"""

    def rows(self, chosen: slice) -> Stretches:
        """Some of them."""
        return Stretches(*(part[chosen] for part in self))


def stretches(model: InnovationsModel, seen: Observations) -> Stretches:
    """Each sample as a stretch of its own."""
    T, noises, which = seen.record.length, seen.noises, seen.pattern
    direct = seen.direct(model, 0, T)
    sight = np.linalg.solve(noises.R, noises.C)
    moved = np.einsum("tij,tj->ti", noises.G[which], direct)
    return Stretches(
        Phi=noises.F[which],
        b=seen.drive(model, 0, T) + moved,
        Q=noises.Q[which],
        eta=np.einsum("tji,tj->ti", sight[which], direct),
        J=(noises.C.transpose(0, 2, 1) @ sight)[which],
    )


def join(first: Stretches, second: Stretches) -> Stretches:
    """Each of the first stretches with the one that follows it."""
    n = first.b.shape[1]
    known = np.eye(n) + first.Q @ second.J
    # One factorization for all that M = (I + Q₁ J₂)⁻¹ is applied to.
    right = np.concatenate([first.Phi, first.Q, (first.b + _apply(first.Q, second.eta))[..., None]], axis=2)
    moved = np.linalg.solve(known, right).astype(float) if n else right
    Phi, Q, b = moved[..., :n], moved[..., n : 2 * n], moved[..., -1]
    forward = second.Phi.transpose(0, 2, 1)
    # Mᵀ (η₂ - J₂ b₁) = η₂ - J₂ M (b₁ + Q₁ η₂), because Mᵀ J₂ = J₂ M.
    told = second.eta - _apply(second.J, b)
    J = first.Phi.transpose(0, 2, 1) @ second.J @ Phi + first.J
    Q = second.Phi @ Q @ forward + second.Q
    return Stretches(
        Phi=second.Phi @ Phi,
        b=_apply(second.Phi, b) + second.b,
        Q=(Q + Q.transpose(0, 2, 1)) / 2,
        eta=_apply(first.Phi.transpose(0, 2, 1), told) + first.eta,
        J=(J + J.transpose(0, 2, 1)) / 2,
    )


def prefixes(samples: Stretches) -> Stretches:
    """From the first sample up to each: pairs first, then pairs of pairs; depth `2 log2 N`, work `2 N`."""
    count = len(samples.b)
    if count < 2:
        return samples
    pairs = join(samples.rows(slice(0, count - 1, 2)), samples.rows(slice(1, count, 2)))
    odd = prefixes(pairs)
    later = join(odd.rows(slice(0, (count - 1) // 2)), samples.rows(slice(2, count, 2)))
    whole = Stretches(*(np.empty_like(part) for part in samples))
    for into, ends, middles, first in zip(whole, odd, later, samples, strict=True):
        into[1::2], into[2::2], into[0] = ends, middles, first[0]
    return whole


def suffixes(samples: Stretches) -> Stretches:
    """From each sample up to the last."""
    count = len(samples.b)
    if count < 2:
        return samples
    # Paired from the end, so that every pair ends where a suffix ends.
    odd = count % 2
    pairs = join(samples.rows(slice(odd, None, 2)), samples.rows(slice(odd + 1, None, 2)))
    even = suffixes(pairs)
    middles = join(samples.rows(slice(1 - odd, count - 1, 2)), even.rows(slice(1 - odd, None)))
    whole = Stretches(*(np.empty_like(part) for part in samples))
    for into, starts, between, last in zip(whole, even, middles, samples, strict=True):
        into[odd::2], into[1 - odd : count - 1 : 2], into[-1] = starts, between, last[-1]
    return whole


def parallel_filter(model: InnovationsModel, seen: Observations, x0: Array, P0: Array) -> Transient:
    """Predicted states and covariances of every sample by a scan."""
    T, n, noises, which = seen.record.length, model.n_states, seen.noises, seen.pattern
    samples = stretches(model, seen)
    first = Stretches(np.zeros((1, n, n)), x0[None], P0[None], np.zeros((1, n)), np.zeros((1, n, n)))
    reached = prefixes(Stretches(*(np.concatenate(pair) for pair in zip(first, samples, strict=True))))
    states, covariances = reached.b[:T], reached.Q[:T]
    C = noises.C[which]
    cross = covariances @ C.transpose(0, 2, 1)
    Re = C @ cross + noises.R[which]
    factors = np.linalg.cholesky(Re)
    innovations = seen.direct(model, 0, T) - _apply(C, states)
    white = np.linalg.solve(factors, innovations[..., None])[..., 0]
    gains = noises.G[which] + noises.F[which] @ np.linalg.solve(Re, cross.transpose(0, 2, 1)).transpose(
        0, 2, 1
    )
    return Transient(
        states=states,
        innovations=innovations,
        squared=(white**2).sum(axis=1),
        log_dets=2 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1),
        covariances=covariances,
        gains=gains,
        following=reached.b[T],
    )


def _apply(matrices: Array, vectors: Array) -> Array:
    return np.einsum("tij,tj->ti", matrices, vectors)
