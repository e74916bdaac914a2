"""Gramians by their definition: sums, exact fractions; systems whose Hankel singular values are given."""

from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int

__all__ = ["bilinear", "gramian_exact", "gramian_sum", "largest_gain_on_a_grid", "with_hankel_values"]

StateMatrix = Float[np.ndarray, "n n"]
InputMatrix = Float[np.ndarray, "n m"]
OutputMatrix = Float[np.ndarray, "p n"]
States = Float[np.ndarray, " n"]
Points = Float[np.ndarray, " N"]
DirectMatrix = Float[np.ndarray, "p m"]
System = tuple[StateMatrix, InputMatrix, OutputMatrix, DirectMatrix]
WholeStateMatrix = Int[np.ndarray, "n n"]
WholeInputMatrix = Int[np.ndarray, "n m"]


def gramian_sum(A: StateMatrix, B: InputMatrix, count: int) -> StateMatrix:
    """`B Bᵀ + A B Bᵀ Aᵀ + ...`, term by term."""
    total, reached = np.zeros(A.shape), B
    for _ in range(count):
        total = total + reached @ reached.T
        reached = A @ reached
    return total


def gramian_exact(
    A: WholeStateMatrix, B: WholeInputMatrix, denominator: int, *, discrete: bool
) -> StateMatrix:
    """Solution of the Lyapunov equation of `(A / denominator, B)` in fractions, rounded at the end."""
    n = len(A)
    a = [[Fraction(int(x), denominator) for x in row] for row in A]
    rows = []
    for i in range(n):
        for j in range(n):
            row = [Fraction(0)] * (n * n + 1)
            for k in range(n):
                if discrete:
                    for l in range(n):
                        row[k * n + l] += a[i][k] * a[j][l]
                else:
                    row[k * n + j] += a[i][k]
                    row[i * n + k] += a[j][k]
            if discrete:
                row[i * n + j] -= 1
            row[-1] = -sum((Fraction(int(x) * int(y)) for x, y in zip(B[i], B[j])), Fraction(0))
            rows.append(row)
    return np.array([float(x) for x in _solved(rows)]).reshape(n, n)


def _solved(rows: list[list[Fraction]]) -> list[Fraction]:
    for k in range(len(rows)):
        pivot = next(i for i in range(k, len(rows)) if rows[i][k] != 0)
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [x / rows[k][k] for x in rows[k]]
        for i in range(len(rows)):
            if i != k and rows[i][k] != 0:
                rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k])]
    return [row[-1] for row in rows]


def with_hankel_values(hsv: States, gains: States, signs: States) -> System:
    """Balanced form (Ober): `A[i, j] = -g[i] g[j] / (s[i] s[j] σ[i] + σ[j])`, `B = g`, `C = s g`."""
    A = -np.outer(gains, gains) / (np.outer(signs, signs) * hsv[:, None] + hsv)
    return A, gains[:, None], (signs * gains)[None], np.zeros((1, 1))


def bilinear(A: StateMatrix, B: InputMatrix, C: OutputMatrix, D: DirectMatrix) -> System:
    """Discrete system with the same gramians and gains: `s = (z - 1) / (z + 1)`."""
    inverse = np.linalg.inv(np.eye(len(A)) - A)
    return (
        (np.eye(len(A)) + A) @ inverse,
        np.sqrt(2) * inverse @ B,
        np.sqrt(2) * C @ inverse,
        D + C @ inverse @ B,
    )


def largest_gain_on_a_grid(
    A: StateMatrix,
    B: InputMatrix,
    C: OutputMatrix,
    D: DirectMatrix,
    points: Points,
    discrete: bool,
) -> float:
    """Largest singular value of the response over the frequencies, one at a time."""
    gains = [np.linalg.norm(D, 2)]
    for omega in points:
        z = np.exp(1j * omega) if discrete else 1j * omega
        gains.append(np.linalg.norm(C @ np.linalg.inv(z * np.eye(len(A)) - A) @ B + D, 2))
    return float(max(gains))
