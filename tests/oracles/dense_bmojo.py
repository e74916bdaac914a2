"""The B'MOJO layer by its definition: token by token, in NumPy, with a list of visible keys for every query.

It reads the parameters of a `BMojo` module and its options, and calls none of its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import chi2

from bmojo import BMojo

__all__ = ["Dense", "dense_bmojo", "lti_loop", "mamba2_loop", "rotated", "schur_matrix"]

Tokens = Float[np.ndarray, "T D"]
Inputs = Float[np.ndarray, "T m"]
Outputs = Float[np.ndarray, "T p"]
StateMatrix = Float[np.ndarray, "n n"]
Vector = Float[np.ndarray, " D"]
Head = Float[np.ndarray, " d"]
Taps = Float[np.ndarray, "D K"]
Retrieved = Float[np.ndarray, "R G d"]
Parameters = dict[str, np.ndarray]


@dataclass(frozen=True)
class Dense:
    """What the layer does along one sequence.

    `sets` holds the positions kept at the start of every chunk; `mass` is by query, head and segment.
    """

    output: np.ndarray
    fading: np.ndarray
    scores: np.ndarray
    sets: list[list[int]]
    mass: np.ndarray


@dataclass(frozen=True)
class Key:
    """One visible key, with its value, the query that reads it, and what is added to the logit."""

    segment: str
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    bias: float


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


def rotated(x: Head, position: int) -> Head:
    """Component `i` and its partner half a head away are one complex number, turned by `position * f_i`."""
    half = len(x) // 2
    turned = np.empty_like(x)
    for i in range(half):
        z = complex(x[i], x[i + half]) * np.exp(1j * position / 10_000.0 ** (2 * i / len(x)))
        turned[i], turned[i + half] = z.real, z.imag
    return turned


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


def hashed(seed: int, position: int) -> float:
    """The splitmix64 finalizer in whole numbers: what the rule `random` ranks by."""
    size = 2**64
    z = (position + 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03) % size
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % size
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % size
    z ^= z >> 31
    return (z >> 11) / 2**53


class Layer:
    """Parameters of a layer by name, and the pieces of its definition that a query needs."""

    def __init__(self, layer: BMojo) -> None:
        self.config = layer.config
        self.all = {name: value.double().numpy() for name, value in layer.state_dict().items()}

    def below(self, prefix: str) -> Parameters:
        return {name.removeprefix(prefix): v for name, v in self.all.items() if name.startswith(prefix)}

    def fading(self, u: np.ndarray) -> np.ndarray:
        if self.config.mixer == "none":
            return np.zeros_like(u)
        return {"mamba2": mamba2_loop, "lti": lti_loop}[self.config.mixer](self.below("mixer."), u)

    def projected(self, name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries (T, H, d), keys and values (T, G, d); queries and keys normed where that is asked for."""
        config, d = self.config, int(self.config.head_dim or 0)
        rows = x @ self.all[f"{name}.weight"].T
        H, G = config.heads, int(config.kv_heads or 0)
        q, k, v = (
            rows[:, : H * d].reshape(-1, H, d),
            rows[:, H * d : (H + G) * d].reshape(-1, G, d),
            rows[:, (H + G) * d :].reshape(-1, G, d),
        )
        if config.qk_norm:
            q, k = self.normed(q, "query_norm"), self.normed(k, "key_norm")
        return q, k, v

    def normed(self, x: np.ndarray, name: str) -> np.ndarray:
        weight = self.all[f"{name}.weight"]
        return np.array([[rms_norm(head, weight, 1e-6) for head in token] for token in x])

    def scores(self, u: np.ndarray) -> np.ndarray:
        """Squared one-step prediction errors, each channel over its variance."""
        weight, bias = self.all["predictor.weight"], self.all["predictor.bias"]
        scores = np.empty(len(u))
        for t in range(len(u)):
            guess = bias.copy()
            for k in range(1, weight.shape[1] + 1):
                if t - k >= 0:
                    guess = guess + weight[:, -k] * u[t - k]
            scores[t] = np.sum((u[t] - guess) ** 2 / np.exp(self.all["predictor.score.log_variance"]))
        return scores

    def log_gate(self, u: np.ndarray) -> np.ndarray:
        if not self.config.write_gate:
            return np.zeros(len(u))
        weight, bias = self.all["gate.weight"][0], self.all["gate.bias"][0]
        return np.array([np.log(sigmoid(weight @ token + bias)) for token in u])

    def sets(self, u: np.ndarray, scores: np.ndarray, budget: int) -> list[list[int]]:
        """For every chunk: sort all that will have left the window by its end, keep the best."""
        config, w, C = self.config, self.config.window, int(self.config.chunk or 0)
        limit = np.inf if config.false_alarm is None else chi2.isf(config.false_alarm, config.d_model)
        seed = int(self.all["seed"]) if config.rule == "random" else 0
        worth = {
            "top": lambda j: scores[j],
            "norm": lambda j: u[j] @ u[j],
            "fifo": lambda j: j,
            "random": lambda j: hashed(seed, j),
            "threshold": lambda j: j if scores[j] > limit else -np.inf,
        }[config.rule]
        found = []
        for start in range(0, len(u), C):
            eligible = [j for j in range(max(0, start + C - w)) if worth(j) > -np.inf]
            found.append(sorted(sorted(eligible, key=lambda j: (-worth(j), j))[:budget]))
        return found

    def turned(self, x: np.ndarray, position: int, how: str) -> np.ndarray:
        if not self.config.rotary or how == "none":
            return x
        return rotated(x, position)

    def eidetic_query(self, q: np.ndarray, head: int) -> np.ndarray:
        if not self.config.eidetic_norm:
            return q
        return rms_norm(q, self.all["eidetic_query_norm.weight"], 1e-6) * self.all["eidetic_gain"][head]

    def eidetic_key(self, k: np.ndarray) -> np.ndarray:
        if not self.config.eidetic_norm:
            return k
        return rms_norm(k, self.all["eidetic_key_norm.weight"], 1e-6)


def dense_bmojo(
    layer: BMojo,
    u: Tokens,
    *,
    retrieved: tuple[Retrieved, Retrieved] | None = None,
    budget: int | None = None,
) -> Dense:
    """The layer along one sequence; `budget` is the places of its state."""
    self, config, w = Layer(layer), layer.config, layer.config.window
    f = self.fading(u)
    if w == 0:
        return Dense(f, f, np.zeros(len(u)), [], np.zeros((len(u), config.heads, 0)))
    tokens = (
        convolved(self.all["short_conv.weight"], self.all["short_conv.bias"], u) if config.short_conv else u
    )
    q, k, v = self.projected("in_proj", tokens)
    fading = None
    if config.mixer != "none":
        name = "in_proj" if config.tie_projections else "fading_proj"
        fading = (self.projected(name, tokens)[0], *self.projected(name, f)[1:])
    scores, log_gate, sets = np.zeros(len(u)), np.zeros(len(u)), []
    if config.eidetic:
        log_gate = self.log_gate(u)
        scores = self.scores(u) * np.exp(log_gate)
        sets = self.sets(u, scores, config.eidetic if budget is None else budget)
    names = ["window"] + ["fading"] * (fading is not None) + ["eidetic"] * (config.eidetic > 0)
    names += ["retrieved"] * (retrieved is not None)
    outputs, mass = [], np.zeros((len(u), config.heads, len(names)))
    shared = config.heads // int(config.kv_heads or 0)
    far = config.eidetic_position
    for t in range(len(u)):
        heads = []
        for h in range(config.heads):
            g, own = h // shared, self.turned(q[t, h], t, "own")
            seen = [
                Key("window", own, self.turned(k[j, g], j, "own"), v[j, g], 0.0)
                for j in range(max(0, t - w + 1), t + 1)
            ]
            if fading is not None:
                reader = self.turned(fading[0][t, h], w if far == "edge" else t, far)
                for j in range(max(0, t - 2 * w + 1), t - w + 1):
                    key = self.turned(fading[1][j, g], 0 if far == "edge" else j, far)
                    seen.append(Key("fading", reader, key, fading[2][j, g], 0.0))
            for j in sets[t // int(config.chunk or 0)] if sets else []:
                if j <= t - w:
                    reader = self.turned(self.eidetic_query(q[t, h], h), w if far == "edge" else t, far)
                    key = self.turned(self.eidetic_key(k[j, g]), 0 if far == "edge" else j, far)
                    seen.append(Key("eidetic", reader, key, v[j, g], float(log_gate[j])))
            for r in range(0 if retrieved is None else len(retrieved[0])):
                seen.append(Key("retrieved", q[t, h], retrieved[0][r, g], retrieved[1][r, g], 0.0))
            weights = softmax([key.query @ key.key / np.sqrt(len(own)) + key.bias for key in seen])
            heads.append(sum(weight * key.value for weight, key in zip(weights, seen, strict=True)))
            for weight, key in zip(weights, seen, strict=True):
                mass[t, h, names.index(key.segment)] += weight
        outputs.append(self.all["out_proj.weight"] @ np.concatenate(heads))
    output = np.array(outputs)
    return Dense(output + f if config.fading_readout == "add" else output, f, scores, sets, mass)


def softmax(logits: Sequence[float]) -> list[float]:
    exponentials = [float(np.exp(x - max(logits))) for x in logits]
    return [x / sum(exponentials) for x in exponentials]
