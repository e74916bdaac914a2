"""Mixers and predictors by their definitions, one token and one head at a time, in NumPy.

They read parameters by name and call none of the package's code. Each returns the fading tokens and, where
the mixer has them, the innovations of every head.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = [
    "MIXER_LOOPS",
    "Parameters",
    "convolved",
    "delta_loop",
    "kalman_errors",
    "kalman_loop",
    "lti_loop",
    "mamba2_loop",
    "mamba_loop",
    "rms_norm",
    "schur_matrix",
    "sigmoid",
    "silu",
]

Tokens = Float[np.ndarray, "T D"]
Inputs = Float[np.ndarray, "T m"]
Outputs = Float[np.ndarray, "T p"]
StateMatrix = Float[np.ndarray, "n n"]
Vector = Float[np.ndarray, " D"]
Taps = Float[np.ndarray, "D K"]
Heads = Float[np.ndarray, "T H V"]
Parameters = dict[str, np.ndarray]


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def silu(x: Vector) -> Vector:
    return x / (1 + np.exp(-x))


def rms_norm(x: Vector, weight: Vector, eps: float) -> Vector:
    return x / np.sqrt(np.mean(x * x) + eps) * weight


def convolved(weight: Taps, bias: Vector, u: Tokens) -> Tokens:
    """Outputs that see the current token by the last tap and those before it, each tap by hand."""
    y = np.empty_like(u)
    for t in range(len(u)):
        y[t] = bias
        for k in range(weight.shape[1]):
            if t - k >= 0:
                y[t] = y[t] + weight[:, -1 - k] * u[t - k]
    return y


def schur_matrix(rho: Vector, theta: Vector, skew: Vector, upper: StateMatrix) -> StateMatrix:
    """Two rows per parameter triple, and one for the last where the order is odd."""
    A = np.triu(upper, k=1)
    for block in range(len(rho)):
        i, radius = 2 * block, np.tanh(rho[block])
        if i + 1 == len(upper):
            A[i, i] = radius
            continue
        turn = radius * np.exp(1j * theta[block])
        A[i, i] = A[i + 1, i + 1] = turn.real
        A[i, i + 1], A[i + 1, i] = turn.imag * np.exp(skew[block]), -turn.imag * np.exp(-skew[block])
    return A


def lti_loop(p: Parameters, u: Inputs) -> Outputs:
    """`x[t+1] = A x[t] + B u[t]`, one sample at a time."""
    A = schur_matrix(p["rho"], p["theta"], p["skew"], p["upper"])
    x, y = np.zeros(len(A)), []
    for sample in u:
        y.append(p["C"] @ x + p["D"] @ sample)
        x = A @ x + p["B"] @ sample
    return np.array(y)


def apart_loop(p: Parameters, u: Inputs) -> Outputs:
    """The same where blocks do not act on each other, and need not be stretched."""
    zero = {"upper": np.zeros((len(p["B"]),) * 2), "skew": np.zeros_like(p["rho"])}
    return lti_loop(zero | p | {"upper": zero["upper"]}, u)


def mamba2_loop(p: Parameters, u: Tokens) -> Tokens:
    """The selective recurrence, one token and one head at a time."""
    width, heads = u.shape[1], len(p["A_log"])
    head_dim, N = width // heads, (len(p["conv.weight"]) - width) // 2
    projected = u @ p["in_proj.weight"].T
    z, xBC, dt = (
        projected[:, :width],
        projected[:, width : 2 * width + 2 * N],
        projected[:, 2 * width + 2 * N :],
    )
    xBC = silu_rows(convolved(p["conv.weight"], p["conv.bias"], xBC))
    h, f = np.zeros((heads, head_dim, N)), np.empty_like(u)
    for t in range(len(u)):
        x, B, C = xBC[t, :width], xBC[t, width : width + N], xBC[t, width + N :]
        y = np.empty(width)
        for k in range(heads):
            part = slice(k * head_dim, (k + 1) * head_dim)
            step = np.log1p(np.exp(dt[t, k] + p["dt_bias"][k]))
            h[k] = np.exp(-step * np.exp(p["A_log"][k])) * h[k] + step * np.outer(x[part], B)
            y[part] = h[k] @ C + p["D"][k] * x[part]
        f[t] = p["out_proj.weight"] @ rms_norm(y * silu(z[t]), p["norm.weight"], 1e-5)
    return f


def silu_rows(x: Tokens) -> Tokens:
    return np.array([silu(row) for row in x])


def softplus(x: np.ndarray | float) -> np.ndarray | float:
    return np.log1p(np.exp(x))


def mamba_loop(p: Parameters, u: Tokens) -> Tokens:
    """Every channel and state with a decay of its own, one token at a time."""
    d, N = p["A_log"].shape
    projected = u @ p["in_proj.weight"].T
    x = silu_rows(convolved(p["conv.weight"], p["conv.bias"], projected[:, :d]))
    h, f = np.zeros((d, N)), np.empty((len(u), len(p["out_proj.weight"])))
    for t in range(len(u)):
        low = p["x_proj.weight"] @ x[t]
        rank = len(low) - 2 * N
        step = softplus(p["dt_proj.weight"] @ low[:rank] + p["dt_proj.bias"])
        for i in range(d):
            h[i] = np.exp(-step[i] * np.exp(p["A_log"][i])) * h[i] + step[i] * x[t, i] * low[rank : rank + N]
        y = (h @ low[rank + N :] + p["D"] * x[t]) * silu(projected[t, d:])
        f[t] = p["out_proj.weight"] @ y
    return f


def associations(p: Parameters, u: Tokens, gates: int) -> tuple[np.ndarray, ...]:
    """Queries, keys (T, H, K), values (T, H, V), output gates (T, D), numbers of the heads (T, gates, H)."""
    H, D = len(p["A_log"]), u.shape[1]
    mixed = len(p["conv.weight"])
    K = (mixed - D) // (2 * H)
    projected = u @ p["in_proj.weight"].T
    heads = silu_rows(convolved(p["conv.weight"], p["conv.bias"], projected[:, :mixed]))
    q, k = heads[:, : H * K].reshape(-1, H, K), heads[:, H * K : 2 * H * K].reshape(-1, H, K)
    v = heads[:, 2 * H * K :].reshape(-1, H, D // H)
    q, k = (x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6) for x in (q, k))
    return q, k, v, projected[:, mixed : mixed + D], projected[:, mixed + D :].reshape(-1, gates, H)


def told(p: Parameters, o: Heads, z: Tokens) -> Tokens:
    """Norm of each head, gate, projection."""
    rows = [np.concatenate([rms_norm(head, p["norm.weight"], 1e-5) for head in token]) for token in o]
    return np.array([p["out_proj.weight"] @ (row * silu(gate)) for row, gate in zip(rows, z, strict=True)])


def delta_loop(p: Parameters, u: Tokens) -> tuple[Tokens, Heads]:
    """Fade, compare, correct."""
    q, k, v, z, gates = associations(p, u, 2)
    o, e = np.empty_like(v), np.empty_like(v)
    for h in range(v.shape[1]):
        S = np.zeros((v.shape[2], k.shape[2]))
        for t in range(len(u)):
            decay = np.exp(-np.exp(p["A_log"][h]) * softplus(gates[t, 1, h] + p["dt_bias"][h]))
            S = decay * S
            e[t, h] = sigmoid(gates[t, 0, h]) * (v[t, h] - S @ k[t, h])
            S = S + np.outer(e[t, h], k[t, h])
            o[t, h] = S @ q[t, h] / np.sqrt(k.shape[2])
    return told(p, o, z), e


def chebyshev(H: StateMatrix, ridge: float, b: Vector, steps: int = 30) -> Vector:
    """So many steps towards the solution of `(H + ridge I) x = b`."""
    L, mu = np.linalg.norm(H) + ridge, ridge
    rho, omega = (L - mu) / (L + mu), 2.0
    before, x = np.zeros_like(b), 2 * b / (L + mu)
    for _ in range(steps):
        omega = 4 / (4 - rho**2 * omega)
        after = x - 2 * omega / (L + mu) * (H @ x + ridge * x - b) + (omega - 1) * (x - before)
        before, x = x, after
    return x


def kalman_loop(p: Parameters, u: Tokens) -> tuple[Tokens, Heads]:
    """The regression of all values on all keys, solved anew at every token."""
    q, k, v, z, gates = associations(p, u, 3)
    o, e = np.empty_like(v), np.empty_like(v)
    for h in range(v.shape[1]):
        H, U = np.zeros((k.shape[2],) * 2), np.zeros((v.shape[2], k.shape[2]))
        for t in range(len(u)):
            beta, alpha = sigmoid(gates[t, 0, h]), sigmoid(gates[t, 2, h])
            decay = np.exp(-np.exp(p["A_log"][h]) * softplus(gates[t, 1, h] + p["dt_bias"][h]))
            key, value = beta * k[t, h], beta * v[t, h]
            H, U = decay * H + np.outer(key, key), decay * U + np.outer(value, key)
            ridge = max(0.02 * np.linalg.norm(H), 1e-6)
            x = chebyshev(H, ridge, q[t, h])
            o[t, h] = U @ (q[t, h] + alpha * (x - q[t, h]))
            e[t, h] = value - U @ chebyshev(H, ridge, key)
    return told(p, o, z), e


def kalman_errors(p: Parameters, u: Tokens, heads: int, memory: float) -> tuple[Tokens, Tokens]:
    """Errors of recursive least squares on the token before, and the inverse of their variance's growth."""
    errors, weights = np.empty_like(u), np.empty_like(u)
    K, V = len(p["project.weight"]) // heads, u.shape[1] // heads
    for h in range(heads):
        H, U, part = np.zeros((K, K)), np.zeros((V, K)), slice(h * V, (h + 1) * V)
        for t in range(len(u)):
            known = p["project.weight"][h * K : (h + 1) * K] @ (u[t - 1] if t else np.zeros(u.shape[1]))
            known = known / max(np.linalg.norm(known), 1e-6)
            H = np.exp(-1 / memory) * H + np.outer(known, known)
            U = np.exp(-1 / memory) * U + np.outer(u[t, part], known)
            gain = chebyshev(H, max(0.02 * np.linalg.norm(H), 1e-6), known)
            weight = max(1 - known @ gain, 1e-4)
            errors[t, part], weights[t, part] = (u[t, part] - U @ gain) / weight, weight
    return errors, weights


MIXER_LOOPS = {
    "lti": lambda p, u: (lti_loop(p, u), None),
    "lti_modal": lambda p, u: (apart_loop(p, u), None),
    "lti_diagonal": lambda p, u: (apart_loop(p, u), None),
    "mamba": lambda p, u: (mamba_loop(p, u), None),
    "mamba2": lambda p, u: (mamba2_loop(p, u), None),
    "gated_deltanet": delta_loop,
    "gated_kalmanet": kalman_loop,
}
