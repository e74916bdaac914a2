"""Models by their definition: exact rational Markov parameters, simulation and prediction in plain loops."""

from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int

__all__ = ["hankel_loop", "markov_exact", "predict_loop", "simulate_loop"]

# Named here, because an annotation of several dimensions reads as a syntax error to a linter.
StateMatrix = Float[np.ndarray, "n n"]
InputMatrix = Float[np.ndarray, "n m"]
OutputMatrix = Float[np.ndarray, "p n"]
DirectMatrix = Float[np.ndarray, "p m"]
Gain = Float[np.ndarray, "n p"]
State = Float[np.ndarray, " n"]
Inputs = Float[np.ndarray, "T m"]
Outputs = Float[np.ndarray, "T p"]
States = Float[np.ndarray, "T n"]
HankelMatrix = Float[np.ndarray, "rows_p cols_m"]
Blocks = Float[np.ndarray, "N p m"]
WholeStateMatrix = Int[np.ndarray, "n n"]
WholeInputMatrix = Int[np.ndarray, "n m"]
WholeOutputMatrix = Int[np.ndarray, "p n"]
WholeDirectMatrix = Int[np.ndarray, "p m"]


def markov_exact(
    A: WholeStateMatrix,
    B: WholeInputMatrix,
    C: WholeOutputMatrix,
    D: WholeDirectMatrix,
    count: int,
    denominator: int = 1,
) -> Blocks:
    """`D, C B, C A B, ...` of the rational system `(A / denominator, B, C, D)`, rounded once, at the end."""
    exact_A = np.array([[Fraction(int(a), denominator) for a in row] for row in A], dtype=object)
    exact_A = exact_A.reshape(A.shape)
    reached = np.array([[Fraction(int(b)) for b in row] for row in B], dtype=object).reshape(B.shape)
    exact_C = np.array([[Fraction(int(c)) for c in row] for row in C], dtype=object).reshape(C.shape)
    h = np.empty((count, *D.shape))
    h[0] = D
    for k in range(1, count):
        h[k] = np.array(exact_C @ reached, dtype=float)
        reached = exact_A @ reached
    return h


def hankel_loop(h: Blocks, rows: int, cols: int) -> HankelMatrix:
    """Block by block."""
    return np.vstack([np.hstack([h[i + j] for j in range(cols)]) for i in range(rows)])


def simulate_loop(
    A: StateMatrix, B: InputMatrix, C: OutputMatrix, D: DirectMatrix, u: Inputs, x0: State
) -> tuple[Outputs, States]:
    """Outputs and states, one sample at a time."""
    y, states, x = [], [], x0
    for sample in u:
        states.append(x)
        y.append(C @ x + D @ sample)
        x = A @ x + B @ sample
    return np.array(y).reshape(len(u), len(C)), np.array(states).reshape(len(u), len(A))


def predict_loop(
    A: StateMatrix,
    B: InputMatrix,
    C: OutputMatrix,
    D: DirectMatrix,
    K: Gain,
    u: Inputs,
    y: Outputs,
    x0: State,
    horizon: int,
) -> Outputs:
    """Row t knows the outputs up to t - horizon and the inputs up to t; each row starts from x0 anew."""
    predictions = np.empty(y.shape)
    for t in range(len(y)):
        x = x0
        for s in range(t):
            innovation = y[s] - C @ x - D @ u[s] if s <= t - horizon else np.zeros(len(C))
            x = A @ x + B @ u[s] + K @ innovation
        predictions[t] = C @ x + D @ u[t]
    return predictions
