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
from tests.oracles.dense_mixers import (
    MIXER_LOOPS,
    Parameters,
    convolved,
    kalman_errors,
    rms_norm,
    sigmoid,
)

__all__ = ["Dense", "dense_bmojo", "rotated"]

Tokens = Float[np.ndarray, "T D"]
Head = Float[np.ndarray, " d"]
Retrieved = Float[np.ndarray, "R G d"]


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


def rotated(x: Head, position: int) -> Head:
    """Component `i` and its partner half a head away are one complex number, turned by `position * f_i`."""
    half = len(x) // 2
    turned = np.empty_like(x)
    for i in range(half):
        z = complex(x[i], x[i + half]) * np.exp(1j * position / 10_000.0 ** (2 * i / len(x)))
        turned[i], turned[i + half] = z.real, z.imag
    return turned


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

    def fading(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Fading tokens, and what the mixer's state failed to predict where it tells."""
        if self.config.mixer == "none":
            return np.zeros_like(u), None
        return MIXER_LOOPS[self.config.mixer](self.below("mixer."), u)

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

    def scores(self, u: np.ndarray, f: np.ndarray, innovations: np.ndarray | None) -> np.ndarray:
        """Squared innovations, each channel over its variance."""
        p, weights = self.below("predictor."), np.ones(1)
        if self.config.predictor == "conv":
            errors = u - convolved(np.hstack([p["weight"], 0 * p["weight"][:, :1]]), p["bias"], u)
        elif self.config.predictor == "state":
            before = np.vstack([np.zeros_like(f[:1]), f[:-1]])
            errors = u - (before @ p["readout.weight"].T + p["readout.bias"])
        elif self.config.predictor == "kalman":
            errors, weights = kalman_errors(p, u, self.config.heads, 256.0)
        else:
            assert innovations is not None
            errors = innovations.reshape(len(u), -1)
        return np.sum(errors**2 * weights / np.exp(p["score.log_variance"]), axis=1)

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
    without: frozenset[str] = frozenset(),
) -> Dense:
    """The layer along one sequence; `budget` is the places of its state, `without` what is taken away."""
    self, config, w = Layer(layer), layer.config, layer.config.window
    f, innovations = self.fading(u)
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
        scores = self.scores(u, f, innovations) * np.exp(log_gate)
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
            seen = [key for key in seen if key.segment not in without]
            weights = softmax([key.query @ key.key / np.sqrt(len(own)) + key.bias for key in seen])
            read = (weight * key.value for weight, key in zip(weights, seen, strict=True))
            heads.append(sum(read, start=np.zeros(len(q[t, h]))))
            for weight, key in zip(weights, seen, strict=True):
                mass[t, h, names.index(key.segment)] += weight
        outputs.append(self.all["out_proj.weight"] @ np.concatenate(heads))
    output = np.array(outputs)
    added = config.fading_readout == "add" and "readout" not in without
    return Dense(output + f if added else output, f, scores, sets, mass)


def softmax(logits: Sequence[float]) -> list[float]:
    exponentials = [float(np.exp(x - max(logits))) for x in logits]
    return [x / sum(exponentials) for x in exponentials]
