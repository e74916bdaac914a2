"""The bilinear transformation between discrete and continuous time, which keeps gramians and gains."""

from __future__ import annotations

import numpy as np

from realization.errors import ConvergenceError
from realization.systems.lyapunov import EPS
from realization.systems.projection import System

__all__ = ["to_continuous", "to_discrete"]


def to_continuous(system: System, caller: str, rate: float = 1.0) -> System:
    r"""Continuous system with $G_c(s) = G(z)$ for $s = \gamma (z - 1) / (z + 1)$, and the same gramians."""
    n = len(system.A)
    plus = system.A + np.eye(n)
    if n and np.linalg.cond(plus) > 1e-2 / EPS:
        raise ConvergenceError(
            f"{caller}: a pole lies on -1, the point that the bilinear transformation takes to infinity, up "
            "to rounding. Split it off with stable_antistable_split and a margin."
        )
    reached = np.asarray(np.linalg.solve(plus, np.hstack([system.A - np.eye(n), system.B])), dtype=float)
    A, B = reached[:, :n], reached[:, n:]
    C = np.asarray(np.linalg.solve(plus.T, system.C.T).T, dtype=float)
    scale = float(np.sqrt(2.0 * rate))
    return System(rate * A, scale * B, scale * C, system.D - system.C @ B, system.weight)


def to_discrete(system: System, rate: float = 1.0) -> System:
    r"""Discrete system with $G(z) = G_c(s)$ for $s = \gamma (z - 1) / (z + 1)$, and the same gramians.

    Its direct term is the gain at $s = \gamma$, the `rate`.
    """
    n = len(system.A)
    minus = rate * np.eye(n) - system.A
    reached = np.asarray(
        np.linalg.solve(minus, np.hstack([rate * np.eye(n) + system.A, system.B])), dtype=float
    )
    A, B = reached[:, :n], reached[:, n:]
    C = np.asarray(np.linalg.solve(minus.T, system.C.T).T, dtype=float)
    scale = float(np.sqrt(2.0 * rate))
    return System(A, scale * B, scale * C, system.D + system.C @ B, system.weight)
