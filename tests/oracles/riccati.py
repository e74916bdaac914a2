"""The filter Riccati equation in sixty digits: the recursion from a large covariance, `2^k` steps in `k`."""

import mpmath
import numpy as np
from jaxtyping import Float

__all__ = ["limit_of_the_filter"]

StateMatrix = Float[np.ndarray, "n n"]
OutputMatrix = Float[np.ndarray, "p n"]
Gain = Float[np.ndarray, "n p"]
Covariance = Float[np.ndarray, "p p"]


def limit_of_the_filter(
    A: StateMatrix, C: OutputMatrix, Q: StateMatrix, R: Covariance, S: Gain
) -> tuple[Gain, Covariance]:
    """Gain and innovation covariance that the filter comes to when it starts knowing nothing."""
    with mpmath.workdps(60):
        n, p = len(A), len(C)
        a, c, q, r, s = (mpmath.matrix(matrix.tolist()) for matrix in (A, C, Q, R, S))
        P = mpmath.eye(n) * max(1, mpmath.mnorm(q, 1))
        Re, cross = c * P * c.T + r, a * P * c.T + s
        K = cross * Re**-1
        F, G, X = (a - K * c).T, c.T * Re**-1 * c, a * P * a.T + q - K * cross.T - P
        for _ in range(80):
            inverse = (mpmath.eye(n) + G * X) ** -1
            step = F.T * X * inverse * F
            F, G, X = F * inverse * F, G + F * inverse * G * F.T, X + step
            if mpmath.mnorm(step, 1) <= mpmath.mpf(10) ** -45 * mpmath.mnorm(X, 1):
                break
        P = P + X
        Re, cross = c * P * c.T + r, a * P * c.T + s
        gain = cross * Re**-1
    return (
        np.array(gain.tolist(), dtype=float).reshape(n, p),
        np.array(Re.tolist(), dtype=float).reshape(p, p),
    )
