"""Gaussian regression of impulse responses: kernels, and their scales by maximal evidence."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["Group", "Kernel", "Posterior", "kernel_matrix", "posterior"]

Array = NDArray[np.float64]
Kernel = Literal["TC", "DC", "SS"]
DECAYS = (1e-3, 0.999)


class Group(NamedTuple):
    """Consecutive columns of the regression that hold one impulse response, and whose decay it shares."""

    size: int
    decay: int


class Posterior(NamedTuple):
    """What the evidence makes of a regression.

    `mean` (d,) and `root` (d, d), `covariance = root rootᵀ`, of the coefficients; noise variance; scales and
    decays of the kernels; twice the negative logarithm of the evidence, less a constant.
    """

    mean: Array
    root: Array
    noise: float
    scales: Array
    decays: Array
    cost: float


def kernel_matrix(
    kind: Kernel, size: int, decay: float, correlation: float = 0.99
) -> tuple[Array, Array, Array]:
    r"""Prior covariance of an impulse response and its derivatives to the decay and to the correlation.

    $$\text{TC: } \beta^{\max(i,j)}, \qquad \text{DC: } \beta^{(i+j)/2} \rho^{|i-j|}, \qquad
    \text{SS: } \beta^{i+j+\max(i,j)} / 2 - \beta^{3 \max(i,j)} / 6, \qquad i, j = 1, \dots$$
    """
    i = np.arange(1.0, size + 1)
    later, total, apart = np.maximum.outer(i, i), np.add.outer(i, i), np.abs(np.subtract.outer(i, i))
    if kind == "TC":
        value = decay**later
        return value, later * value / decay, np.zeros_like(value)
    if kind == "DC":
        value = decay ** (total / 2) * correlation**apart
        return value, total / 2 * value / decay, apart * value / correlation
    first, second = decay ** (total + later) / 2, decay ** (3 * later) / 6
    slope = ((total + later) * first - 3 * later * second) / decay
    return first - second, slope, np.zeros_like(first)


def posterior(
    regressors: Array, target: Array, groups: tuple[Group, ...], kind: Kernel, *, iterations: int = 80
) -> Posterior:
    r"""Coefficients and their covariance, with scales, decays and noise of maximal evidence.

    $$y = \Phi \theta + e, \qquad \theta \sim N(0, P(\eta)), \qquad
    \min_{\eta, \sigma} \log\det \Sigma + y^\top \Sigma^{-1} y, \quad
    \Sigma = \Phi P \Phi^\top + \sigma^2 I$$

    One triangular factor of $[\Phi\; y]$ serves every evaluation, which costs $O(d^3)$ whatever the
    record's length.

    References
    ----------
    T. Chen, L. Ljung, Implementation of algorithms for tuning parameters in regularized least squares
    problems in system identification, Automatica 49 (2013) 2213-2220.
    """
    length, d = regressors.shape
    stacked = np.column_stack([regressors, target])
    factor = np.asarray(scipy.linalg.qr(stacked, mode="r", check_finite=False)[0], dtype=float)
    rows = min(length, d)
    problem = _Problem(
        factor[:rows, :d],
        factor[:rows, d],
        float(factor[d, d] ** 2) if len(factor) > d else 0.0,
        length - rows,
        groups,
        kind,
    )
    start, bounds = problem.start(float(target @ target) / length)
    from scipy.optimize import minimize

    found = minimize(
        problem.cost, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": iterations}
    )
    return problem.posterior(found.x, float(found.fun))


class _Problem(NamedTuple):
    """Triangular factor, what is left of the target, and the prior's structure."""

    R: Array
    r: Array
    rest: float
    surplus: int
    groups: tuple[Group, ...]
    kind: Kernel

    def start(self, level: float) -> tuple[Array, list[tuple[float, float]]]:
        """Where the search begins: log noise, log scales, decays, and for DC the correlation."""
        decays = 1 + max(group.decay for group in self.groups)
        level = max(level, 1e-24)
        columns = np.maximum((self.R**2).sum(axis=0) / (len(self.r) + self.surplus), 1e-300)
        scales, place = [], 0
        for group in self.groups:
            scales.append(np.log(0.1 * level / columns[place : place + group.size].mean()))
            place += group.size
        values = [np.log(0.3 * level), *scales, *([0.8] * decays)]
        bounds = [(np.log(1e-12 * level), np.log(10 * level))]
        bounds += [(scale - 16, scale + 12) for scale in scales]
        bounds += [DECAYS] * decays
        if self.kind == "DC":
            values, bounds = [*values, 0.9], [*bounds, (-0.995, 0.995)]
        return np.array(values), bounds

    def prior(self, eta: Array) -> list[tuple[Array, Array, Array]]:
        """Kernel of each group, scaled, with its two derivatives."""
        count = len(self.groups)
        scales, decays = np.exp(eta[1 : 1 + count]), eta[1 + count :]
        rho = float(eta[-1]) if self.kind == "DC" else 0.0
        return [
            tuple(scale * part for part in kernel_matrix(self.kind, g.size, float(decays[g.decay]), rho))  # pyright: ignore[reportReturnType]
            for g, scale in zip(self.groups, scales)
        ]

    def cost(self, eta: Array) -> tuple[float, Array]:
        """Twice the negative log evidence, and its gradient."""
        noise, prior = float(np.exp(eta[0])), self.prior(eta)
        M = noise * np.eye(len(self.r))
        place = 0
        for K, _, _ in prior:
            part = self.R[:, place : place + len(K)]
            M += part @ K @ part.T
            place += len(K)
        try:
            root = scipy.linalg.cho_factor(M, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e100, np.zeros_like(eta)
        weighted = scipy.linalg.cho_solve(root, self.r)
        inverse = scipy.linalg.cho_solve(root, np.eye(len(self.r)))
        value = 2 * np.log(np.diag(root[0])).sum() + self.surplus * eta[0]
        value += self.r @ weighted + self.rest / noise
        gradient = np.zeros_like(eta)
        gradient[0] = noise * (np.trace(inverse) - weighted @ weighted) + self.surplus - self.rest / noise
        place, count = 0, len(self.groups)
        for k, (K, by_decay, by_rho) in enumerate(prior):
            part = self.R[:, place : place + len(K)]
            pull = part.T @ weighted
            S = part.T @ inverse @ part - np.outer(pull, pull)
            gradient[1 + k] = (S * K).sum()
            gradient[1 + count + self.groups[k].decay] += (S * by_decay).sum()
            if self.kind == "DC":
                gradient[-1] += (S * by_rho).sum()
            place += len(K)
        return float(value), gradient

    def posterior(self, eta: Array, cost: float) -> Posterior:
        """Mean and covariance of the coefficients at these scales and decays."""
        noise, count = float(np.exp(eta[0])), len(self.groups)
        P = scipy.linalg.block_diag(*[K for K, _, _ in self.prior(eta)])
        values, vectors = np.linalg.eigh(P)
        L = vectors * np.sqrt(np.maximum(values, 0.0))
        shown = self.R @ L
        values, vectors = np.linalg.eigh(shown.T @ shown + noise * np.eye(L.shape[1]))
        spread = L @ (vectors / np.sqrt(np.maximum(values, 1e-300)))
        mean = spread @ (spread.T @ (self.R.T @ self.r))
        decays = 1 + max(group.decay for group in self.groups)
        return Posterior(
            mean,
            np.sqrt(noise) * spread,
            noise,
            np.exp(eta[1 : 1 + count]),
            eta[1 + count : 1 + count + decays],
            cost,
        )
