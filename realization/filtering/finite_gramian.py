r"""Observability Gramian of $T$ samples, $O_T = \sum_{t<T} (F^t)^\top W F^t$, by doubling; its derivative."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["finite_gramian", "finite_gramian_adjoint"]

Array = NDArray[np.float64]
Step = tuple[Array, Array, Array, Array]


def finite_gramian(F: Array, W: Array, T: int) -> tuple[Array, list[Step]]:
    r"""`O_T`, and the steps to it: $O_{a+b} = O_a + \Phi_a^\top O_b \Phi_a$, $\Phi_{a+b} = \Phi_b \Phi_a$.

    The binary digits of `T` say what is joined, so that it takes at most $2 \log_2 T$ steps for any `T`.
    """
    steps: list[Step] = []

    def joined(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        steps.append((*a, *b))
        O = a[0] + a[1].T @ b[0] @ a[1]
        return (O + O.T) / 2, b[1] @ a[1]

    single = total = (W, F)
    for digit in bin(T)[3:]:
        total = joined(total, total)
        if digit == "1":
            total = joined(total, single)
    return total[0], steps


def finite_gramian_adjoint(
    F: Array, W: Array, T: int, steps: list[Step], weight: Array
) -> tuple[Array, Array]:
    r"""Derivatives of $\operatorname{tr}(\text{weight}\, O_T)$ by `F` and `W`, for a symmetric `weight`."""
    single_F, single_W = np.zeros_like(F), np.zeros_like(W)
    O_bar, Phi_bar = weight, np.zeros_like(F)
    position = len(steps)
    for digit in reversed(bin(T)[3:]):
        if digit == "1":
            position -= 1
            O_bar, Phi_bar, W_part, F_part = _joined_adjoint(steps[position], O_bar, Phi_bar)
            single_W, single_F = single_W + W_part, single_F + F_part
        position -= 1
        first_O, first_Phi, second_O, second_Phi = _joined_adjoint(steps[position], O_bar, Phi_bar)
        O_bar, Phi_bar = first_O + second_O, first_Phi + second_Phi
    return single_F + Phi_bar, single_W + O_bar


def _joined_adjoint(step: Step, O_bar: Array, Phi_bar: Array) -> tuple[Array, Array, Array, Array]:
    _, Phi_a, O_b, Phi_b = step
    return (
        O_bar,
        2 * O_b @ Phi_a @ O_bar + Phi_b.T @ Phi_bar,
        Phi_a @ O_bar @ Phi_a.T,
        Phi_bar @ Phi_a.T,
    )
