"""The authors' B'MOJO-F layer from a state dict of their layout: one token, one head at a time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["bmojo_f"]

Tokens = Float[np.ndarray, "T D"]
Weights = dict[str, np.ndarray]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def rms(x, weight, eps):
    return x / np.sqrt(np.mean(x**2) + eps) * weight


def convolved(x, w: Weights, name: str):
    """Causal convolution per channel with SiLU; `w[name.weight]` is (channels, 1, taps)."""
    kernel, bias = w[f"{name}.weight"][:, 0], w.get(f"{name}.bias", 0.0)
    taps = kernel.shape[1]
    padded = np.concatenate([np.zeros((taps - 1, x.shape[1])), x])
    return np.array([silu((padded[t : t + taps].T * kernel).sum(1) + bias) for t in range(len(x))])


def turned(x, angles):
    half = len(x) // 2
    a, b = x[:half], x[half:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)])


def mamba(u, w: Weights, d: int):
    H, T = len(w["A_log"]), len(u)
    inner = H * d
    fused = u @ w["in_proj.weight"].T
    shared = (fused.shape[1] - 2 * inner - H) // 2
    z, mixed, dt = fused[:, :inner], fused[:, inner:-H], fused[:, -H:]
    if "B_norm.weight" in w:
        mixed = mixed.copy()
        for t in range(T):
            for lo in range(shared, mixed.shape[1], d):
                norm = w["B_norm.weight"] if lo < 2 * shared else w["C_norm.weight"]
                mixed[t, lo : lo + d] = rms(mixed[t, lo : lo + d], norm, 1e-6)
    mixed = convolved(mixed, w, "conv1d")
    x, B, C = mixed[:, :shared], mixed[:, shared : 2 * shared], mixed[:, 2 * shared :]
    out = np.zeros((T, inner))
    for h in range(H):
        own, group = slice(h * d, (h + 1) * d), h // (inner // shared)
        theirs = slice(group * d, (group + 1) * d)
        state = np.zeros((d, d))
        for t in range(T):
            step = np.log1p(np.exp(dt[t, h] + w["dt_bias"][h]))
            state = np.exp(-step * np.exp(w["A_log"][h])) * state + step * np.outer(
                x[t, theirs], B[t, theirs]
            )
            y = state @ C[t, own] + w["D"][h] * x[t, theirs]
            out[t, own] = rms(y * silu(z[t, own]), w["norm.weight"][own], 1e-5)
    return out @ w["out_proj.weight"].T


def associative(u, w: Weights, d: int, kalman: bool):
    H, T = len(w["A_log"]), len(u)
    q, k, v = (convolved(u @ w[f"{x}_proj.weight"].T, w, f"{x}_conv1d") for x in "qkv")
    gate = u @ w["g_proj.weight"].T
    beta = sigmoid(u @ w["b_proj.weight"].T + w.get("b_proj.bias", 0.0))
    rate = u @ w["a_proj.weight" if kalman else "gk_proj.weight"].T
    decay = np.exp(-np.exp(w["A_log"]) * np.log1p(np.exp(rate + w["dt_bias"])))
    out = np.zeros((T, H * d))
    for h in range(H):
        own, group = slice(h * d, (h + 1) * d), h // (q.shape[1] // k.shape[1])
        theirs = slice(group * d, (group + 1) * d)
        S, M = np.zeros((d, d)), np.zeros((d, d))
        for t in range(T):
            query, key = (x / np.sqrt(x @ x) for x in (q[t, own], k[t, theirs]))
            value, g, b = v[t, theirs], decay[t, h], beta[t, h]
            if kalman:
                M = g * M + np.outer(b * key, b * key)
                S = g * S + np.outer(b * value, b * key)
                ridge = M + 0.02 * np.linalg.norm(M) * np.eye(d)
                alpha = sigmoid(u[t] @ w["alpha_proj.weight"][h] + w["alpha_proj.bias"][h])
                y = S @ (query + alpha * (np.linalg.solve(ridge, query) - query)) * d**-0.5
            else:
                S = g * S
                S = S + b * np.outer(value - S @ key, key)
                y = S @ query * d**-0.5
            normed = rms(y, w["o_norm.weight"], 1e-6 if kalman else 1e-5)
            out[t, own] = normed * silu(gate[t, own])
    return out @ w["o_proj.weight"].T


def projected(x, w: Weights, name: str):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def bmojo_f(u: Tokens, weights: Weights, *, window: int, base: float) -> Tokens:
    """Output for tokens: query `t` meets tokens in (t - w, t] and fading tokens in (t - 2w, t - w]."""

    def part(prefix: str) -> Weights:
        return {n[len(prefix) :]: x for n, x in weights.items() if n.startswith(prefix)}

    w = part("bmojo_attn.")
    kind = next(kind for kind in ("mamba", "gdn", "gka") if any(n.startswith(f"{kind}.") for n in weights))
    inner = {**part(f"{kind}.")}
    d = w["q_proj.weight"].shape[0] // len(inner["A_log"])
    f = mamba(u, inner, d) if kind == "mamba" else associative(u, inner, d, kind == "gka")
    own = "_" if "q_proj_.weight" in w else ""
    streams = [(u, ""), (f, own)]
    angles = np.outer(np.arange(len(u)), base ** (-np.arange(0, d, 2) / d))

    def heads(x, name, suffix):
        found = projected(x, w, f"{name}_proj{suffix}").reshape(len(x), -1, d)
        if name == "v":
            return found
        norm = w.get(f"{name}_norm{suffix}.weight")
        rows = [[h if norm is None else rms(h, norm, 1e-6) for h in row] for row in found]
        return np.array([[turned(h, angles[t]) for h in row] for t, row in enumerate(rows)])

    Q = [heads(u, "q", suffix) for _, suffix in streams]
    K, V = ([heads(x, name, suffix) for x, suffix in streams] for name in "kv")
    H, G = Q[0].shape[1], K[0].shape[1]
    out = np.zeros((len(u), H, d))
    for t in range(len(u)):
        met = [(0, j) for j in range(max(0, t - window + 1), t + 1)]
        met += [(1, j) for j in range(max(0, t - 2 * window + 1), t - window + 1)]
        for h in range(H):
            g = h // (H // G)
            logits = np.array([Q[s][t, h] @ K[s][j, g] * d**-0.5 for s, j in met])
            p = np.exp(logits - logits.max())
            out[t, h] = (p / p.sum()) @ np.array([V[s][j, g] for s, j in met])
    return projected(out.reshape(len(u), -1), w, "o_proj")
