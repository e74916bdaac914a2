"""Ridge regression at each step as it is written: the oracle of `gated_kalman_scan`, for autograd too."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["SMALLEST", "chebyshev", "kalman_solve_naive", "ridge_of"]

# The ridge where nothing has been seen yet, or all has faded: it keeps H + lambda I invertible.
SMALLEST = 1e-6


def ridge_of(H: Tensor, ridge: float) -> Tensor:
    """Of each matrix: lambda = max(ridge |H|_F, SMALLEST), for `H` (..., K, K)."""
    return torch.linalg.vector_norm(H, dim=(-2, -1)).mul(ridge).clamp_min(SMALLEST)


def chebyshev(H: Tensor, ridge: float, b: Tensor, steps: int) -> Tensor:
    """Solution (..., R, K) of `(H + lambda I) x = b` for each row, after so many steps.

    The eigenvalues of `H + lambda I` lie in [lambda, |H|_F + lambda], so the iteration needs no inner
    products.
    """
    norm = torch.linalg.vector_norm(H, dim=(-2, -1))[..., None, None]
    small = ridge_of(H, ridge)[..., None, None]
    mean = (norm + 2 * small) / 2  # half of L + mu
    rho = norm / (2 * mean)
    before, x, omega = torch.zeros_like(b), b / mean, torch.full_like(mean, 2.0)
    for _ in range(steps):
        omega = 4 / (4 - rho.square() * omega)
        residual = x @ H + small * x - b
        before, x = x, x - omega / mean * residual + (omega - 1) * (x - before)
    return x


def kalman_solve_naive(
    k: Tensor, log_decay: Tensor, r: Tensor, H0: Tensor, ridge: float, steps: int | None
) -> tuple[Tensor, Tensor]:
    """Solutions `x` (B, T, H, R, K) of `(H_t + lambda_t I) x = r` and the last `H` (B, H, K, K).

    `r` is (B, T, H, R, K): R right sides for each step. `steps=None` solves directly.
    """
    H, solutions = H0, [r[:, :0]]
    for t in range(k.shape[1]):
        H = torch.exp(log_decay[:, t, :, None, None]) * H + k[:, t, :, :, None] * k[:, t, :, None, :]
        if steps is None:
            identity = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
            x = torch.linalg.solve(H + ridge_of(H, ridge)[..., None, None] * identity, r[:, t].mT).mT
        else:
            x = chebyshev(H, ridge, r[:, t], steps)
        solutions.append(x.unsqueeze(1))
    return torch.cat(solutions, dim=1), H
