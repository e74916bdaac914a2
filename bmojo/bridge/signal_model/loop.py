"""A linear model in a loop with a static nonlinearity: its simulation, sensitivities and adjoint."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["Loop", "loop_adjoint", "loop_sensitivities", "loop_simulation"]

Array = NDArray[np.float64]
MATRICES = ("A", "B", "C", "D", "W", "b", "E", "F")


@numba.njit(cache=True)
def _activations(W: Array, b: Array, x: Array, u_t: Array, h: Array) -> None:
    """`h = tanh(W [x, u] + b)`."""
    n = len(x)
    for j in range(len(b)):
        s = b[j]
        for k in range(n):
            s += W[j, k] * x[k]
        for k in range(len(u_t)):
            s += W[j, n + k] * u_t[k]
        h[j] = np.tanh(s)


@numba.njit(cache=True)
def _affine(out: Array, M: Array, x: Array, N: Array, u_t: Array, E: Array, h: Array) -> None:
    """`out += M x + N u + E h`."""
    for i in range(len(out)):
        s = out[i]
        for k in range(len(x)):
            s += M[i, k] * x[k]
        for k in range(len(u_t)):
            s += N[i, k] * u_t[k]
        for j in range(len(h)):
            s += E[i, j] * h[j]
        out[i] = s


@numba.njit(cache=True)
def _tangent(out: Array, M: Array, E: Array, h: Array, W: Array) -> None:
    """`M + E diag(1 - h²) W` on the state's columns."""
    for i in range(out.shape[0]):
        for k in range(out.shape[1]):
            s = M[i, k]
            for j in range(len(h)):
                s += E[i, j] * (1 - h[j] * h[j]) * W[j, k]
            out[i, k] = s


@numba.njit(cache=True)
def loop_simulation(
    A: Array, B: Array, C: Array, D: Array, W: Array, b: Array, E: Array, F: Array,
    u: Array, w: Array, v: Array, x0: Array, low: Array, high: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Outputs (T, p) and states (T + 1, n) of the loop.

    Parameters
    ----------
    A, B, C, D, W, b, E, F : ndarray, of the shapes (...) of `Loop`
    u : ndarray, shape (T, m)
    w : ndarray, shape (T, n)
        Added to the next state.
    v : ndarray, shape (T, p)
        Added to the output.
    x0 : ndarray, shape (n,)
    low, high : ndarray, shape (p,)
    """
    T, h = len(u), np.empty(len(b))
    y, x = v.copy(), np.zeros((T + 1, len(x0)))
    x[0] = x0
    for t in range(T):
        _activations(W, b, x[t], u[t], h)
        _affine(y[t], C, x[t], D, u[t], F, h)
        for i in range(len(low)):
            y[t, i] = min(max(y[t, i], low[i]), high[i])
        x[t + 1] = w[t]
        _affine(x[t + 1], A, x[t], B, u[t], E, h)
    return y, x


@numba.njit(cache=True)
def _direct(
    S: Array, x: Array, u_t: Array, h: Array, E: Array, state: int, inputs: int, W: int, b: int, own: int
) -> None:
    """Adds what `M x + N u + E tanh(W [x, u] + b)` owes to its parameters, from these columns on."""
    n, m, H = len(x), len(u_t), len(h)
    for i in range(S.shape[0]):
        for k in range(n):
            S[i, state + i * n + k] += x[k]
        for k in range(m):
            S[i, inputs + i * m + k] += u_t[k]
        for j in range(H):
            S[i, own + i * H + j] += h[j]
            slope = E[i, j] * (1 - h[j] * h[j])
            S[i, b + j] += slope
            for k in range(n):
                S[i, W + j * (n + m) + k] += slope * x[k]
            for k in range(m):
                S[i, W + j * (n + m) + n + k] += slope * u_t[k]


@numba.njit(cache=True)
def _onward(out: Array, M: Array, S: Array) -> None:
    """`out = M S`."""
    for i in range(out.shape[0]):
        for q in range(out.shape[1]):
            s = 0.0
            for k in range(S.shape[0]):
                s += M[i, k] * S[k, q]
            out[i, q] = s


@numba.njit(cache=True)
def loop_sensitivities(
    A: Array, B: Array, C: Array, D: Array, W: Array, b: Array, E: Array, F: Array,
    u: Array, x: Array, y: Array, low: Array, high: Array,
) -> Array:  # fmt: skip
    """Derivatives (T, p, P + n) of the outputs by all parameters, in order, and by the first state.

    Parameters
    ----------
    A, B, C, D, W, b, E, F : ndarray, of the shapes (...) of `Loop`
    u : ndarray, shape (T, m)
    x : ndarray, shape (T + 1, n)
    y : ndarray, shape (T, p)
        As `loop_simulation` gave them.
    low, high : ndarray, shape (p,)
    """
    T, m = u.shape
    p, n, H = C.shape[0], A.shape[0], len(b)
    at_B = n * n
    at_C = at_B + n * m
    at_D = at_C + p * n
    at_W = at_D + p * m
    at_b = at_W + H * (n + m)
    at_E = at_b + H
    at_F = at_E + n * H
    count = at_F + p * H
    J, h = np.zeros((T, p, count + n)), np.empty(H)
    S, after = np.zeros((n, count + n)), np.zeros((n, count + n))
    to_state, to_output = np.empty((n, n)), np.empty((p, n))
    for i in range(n):
        S[i, count + i] = 1.0
    for t in range(T):
        _activations(W, b, x[t], u[t], h)
        _tangent(to_output, C, F, h, W)
        _tangent(to_state, A, E, h, W)
        _onward(J[t], to_output, S)
        _direct(J[t], x[t], u[t], h, F, at_C, at_D, at_W, at_b, at_F)
        for i in range(p):
            if y[t, i] <= low[i] or y[t, i] >= high[i]:
                J[t, i] = 0.0
        _onward(after, to_state, S)
        _direct(after, x[t], u[t], h, E, 0, at_B, at_W, at_b, at_E)
        S, after = after, S
    return J


@numba.njit(cache=True)
def loop_adjoint(
    A: Array, C: Array, W: Array, b: Array, E: Array, F: Array,
    u: Array, x: Array, y: Array, slope: Array, low: Array, high: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Gradients by `w` (T, n) and by `v` (T, p), for the gradient `slope` (T, p) by the outputs.

    Parameters
    ----------
    A, C, W, b, E, F : ndarray, of the shapes (...) of `Loop`
    u : ndarray, shape (T, m)
    x : ndarray, shape (T + 1, n)
    y, slope : ndarray, shape (T, p)
    low, high : ndarray, shape (p,)
    """
    T, n, p = len(u), A.shape[0], C.shape[0]
    by_w, by_v, h = np.zeros((T, n)), slope.copy(), np.empty(len(b))
    to_state, to_output, costate = np.empty((n, n)), np.empty((p, n)), np.zeros(n)
    for t in range(T - 1, -1, -1):
        _activations(W, b, x[t], u[t], h)
        _tangent(to_output, C, F, h, W)
        _tangent(to_state, A, E, h, W)
        for i in range(p):
            if y[t, i] <= low[i] or y[t, i] >= high[i]:
                by_v[t, i] = 0.0
        by_w[t] = costate
        before = np.zeros(n)
        for k in range(n):
            for i in range(n):
                before[k] += to_state[i, k] * costate[i]
            for i in range(p):
                before[k] += to_output[i, k] * by_v[t, i]
        costate = before
    return by_w, by_v


@dataclass(frozen=True, eq=False)
class Loop:
    r"""A linear model with a static correction that is fed back into its state.

    $$x_{t+1} = A x_t + B u_t + E h_t + w_t, \qquad y_t = \operatorname{clip}(C x_t + D u_t + F h_t + v_t),
    \qquad h_t = \tanh(W [x_t; u_t] + b)$$

    The correction is bounded: where `A` is stable, so is the loop, for every input and every parameter.

    Parameters
    ----------
    A : ndarray, shape (n, n)
    B : ndarray, shape (n, m)
    C : ndarray, shape (p, n)
    D : ndarray, shape (p, m)
    W : ndarray, shape (H, n + m)
    b : ndarray, shape (H,)
    E : ndarray, shape (n, H)
    F : ndarray, shape (p, H)
    low, high : ndarray, shape (p,)
        Where the outputs saturate; infinite where they do not.
    """

    A: Array
    B: Array
    C: Array
    D: Array
    W: Array
    b: Array
    E: Array
    F: Array
    low: Array
    high: Array

    @property
    def matrices(self) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:
        """`A, B, C, D, W, b, E, F`."""
        return self.A, self.B, self.C, self.D, self.W, self.b, self.E, self.F

    @property
    def parameters(self) -> Array:
        """All entries of the matrices in one vector, shape (P,)."""
        return np.concatenate([matrix.ravel() for matrix in self.matrices])

    def with_parameters(self, vector: Array) -> Loop:
        """The loop whose `parameters` are `vector`, of shape (P,)."""
        parts, start = {}, 0
        for name, matrix in zip(MATRICES, self.matrices, strict=True):
            parts[name] = vector[start : start + matrix.size].reshape(matrix.shape).copy()
            start += matrix.size
        return Loop(**parts, low=self.low, high=self.high)

    def drives(self, u: Array) -> tuple[Array, Array]:
        """Zero drives of the state (T, n) and of the output (T, p), for inputs (T, m)."""
        return np.zeros((len(u), len(self.A))), np.zeros((len(u), len(self.C)))

    def simulate(self, u: Array, x0: Array, drives: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
        """Outputs (T, p) and states (T + 1, n), for inputs (T, m), a first state (n,) and drives."""
        w, v = self.drives(u) if drives is None else drives
        return loop_simulation(*self.matrices, u, w, v, x0, self.low, self.high)

    def sensitivities(self, u: Array, x: Array, y: Array) -> Array:
        """Derivatives (T, p, P + n) of a simulation's outputs by `parameters` and its first state."""
        return loop_sensitivities(*self.matrices, u, x, y, self.low, self.high)

    def adjoint(self, u: Array, x: Array, y: Array, slope: Array) -> tuple[Array, Array]:
        """Gradients by the drives, for that by the outputs (T, p) of a simulation."""
        A, _, C, _, W, b, E, F = self.matrices
        return loop_adjoint(A, C, W, b, E, F, u, x, y, slope, self.low, self.high)

    def first_state(
        self,
        u: Array,
        y: Array,
        *,
        start: Array | None = None,
        drives: tuple[Array, Array] | None = None,
        iterations: int = 20,
    ) -> Array:
        """Least-squares first state (n,) by damped Gauss-Newton steps.

        Parameters
        ----------
        u : ndarray, shape (T, m)
        y : ndarray, shape (T, p)
        start : ndarray, shape (n,), optional
        drives : tuple of ndarray, shapes (T, n) and (T, p), optional
        iterations : int
        """
        x0 = np.zeros(len(self.A)) if start is None else start
        found, x = self.simulate(u, x0, drives)
        error, damping = y - found, 1e-3
        for _ in range(iterations):
            columns = self.sensitivities(u, x, found)[..., -len(x0) :].reshape(-1, len(x0))
            gram, slope = columns.T @ columns, columns.T @ error.ravel()
            size, cost = max(np.trace(gram) / len(x0), 1e-12), np.sum(error**2)
            gained = 0.0
            for _ in range(8):
                tried = x0 + np.linalg.solve(gram + damping * size * np.eye(len(x0)), slope)
                found_, x_ = self.simulate(u, tried, drives)
                gained = cost - np.sum((y - found_) ** 2)
                if gained > 0:
                    x0, found, x, error = tried, found_, x_, y - found_
                    damping *= 0.2
                    break
                damping *= 5
            if not gained > 1e-9 * cost:
                break
        return x0
