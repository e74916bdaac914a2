"""Training step and decode step of a B'MOJO block and of a four-block model, beside blocks of the same size.

A block is a layer and a gated perceptron. The peers are a Transformer (full causal attention by torch's
`scaled_dot_product_attention`), a stack of mixers and windows in turn, and B'MOJO-F, the layer without
places. The first two get wider perceptrons, so that all have the same number of parameters.

Run: python benchmarks/bench_layer_speed.py [--device cuda] [--compile] [--lengths 512 2048 8192]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from _results import Row, write_results
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo import BMojoConfig, BMojoLM, stacked_hybrid
from bmojo.rotary import rotate

DEPTH, VOCABULARY = 4, 512


@dataclass(frozen=True)
class Setting:
    """Sizes of a run."""

    device: str
    config: BMojoConfig
    tokens: int  # of a training step: batch times length
    lengths: tuple[int, ...]
    decoding: tuple[int, ...]
    rounds: int
    compiled: bool

    @property
    def what(self) -> str:
        """In words."""
        c = self.config
        kind = "bfloat16" if self.device == "cuda" else "float32"
        mode = ", compiled" if self.compiled else ""
        return f"D = {c.d_model}, w = {c.window}, m = {c.eidetic}, {c.mixer}, {kind}{mode}"


class FullAttention(nn.Module):
    """Causal attention with rotary positions over everything, and its cache when decoding."""

    def __init__(self, config: BMojoConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.in_proj = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.query_norm, self.key_norm = (nn.RMSNorm(config.d_model // config.heads) for _ in range(2))

    def forward(self, u: Tensor) -> Tensor:
        """All tokens (B, T, D)."""
        q, k, v = self._heads(u, torch.arange(u.shape[1], device=u.device))
        return self._out(F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def decode(self, u: Tensor, cache: tuple[Tensor, Tensor], position: int) -> Tensor:
        """One token (B, 1, D), written into the cache."""
        q, k, v = self._heads(u, torch.full((1,), position, device=u.device))
        for held, new in zip(cache, (k, v), strict=True):
            held[:, :, position : position + 1] = new
        keys, values = (held[:, :, : position + 1] for held in cache)
        return self._out(F.scaled_dot_product_attention(q, keys, values))

    def _heads(self, u: Tensor, at: Tensor) -> list[Tensor]:
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in self.in_proj(u).chunk(3, dim=-1))
        q, k = rotate(self.query_norm(q), at), rotate(self.key_norm(k), at)
        return [x.transpose(1, 2).to(v.dtype) for x in (q, k, v)]

    def _out(self, read: Tensor) -> Tensor:
        return self.out_proj(read.transpose(1, 2).flatten(-2))


class Transformer(nn.Module):
    """Blocks of full attention and a gated perceptron, with as many parameters as asked for."""

    def __init__(self, config: BMojoConfig, depth: int, parameters: int) -> None:
        super().__init__()
        width = config.d_model
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.attention = nn.ModuleList(FullAttention(config) for _ in range(depth))
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2 * depth + 1))
        left = parameters - sum(p.numel() for p in self.parameters())
        hidden = max(16, left // (3 * width * depth) // 16 * 16)
        self.mlp_in = nn.ModuleList(nn.Linear(width, 2 * hidden, bias=False) for _ in range(depth))
        self.mlp_out = nn.ModuleList(nn.Linear(hidden, width, bias=False) for _ in range(depth))

    def forward(self, tokens: Tensor, read: Callable[[int, Tensor], Tensor] | None = None) -> Tensor:
        """Logits of tokens (B, T); `read` in place of each block's attention."""
        x = self.embedding(tokens)
        for i, attention in enumerate(self.attention):
            u = self.norms[2 * i](x)
            x = x + (attention(u) if read is None else read(i, u))
            value, gate = self.mlp_in[i](self.norms[2 * i + 1](x)).chunk(2, dim=-1)
            x = x + self.mlp_out[i](F.silu(gate) * value)
        return self.norms[-1](x) @ self.embedding.weight.mT


def contenders(setting: Setting, depth: int) -> dict[str, nn.Module]:
    whole = setting.config
    without = replace(whole, eidetic=0)
    found: dict[str, nn.Module] = {
        "B'MOJO": BMojoLM(VOCABULARY, [whole] * depth),
        "B'MOJO-F": BMojoLM(VOCABULARY, [without] * depth),
    }
    size = sum(p.numel() for p in found["B'MOJO"].parameters())
    if depth > 1:
        stack = stacked_hybrid(
            whole.d_model, layers=depth, window=whole.window, mixer=whole.mixer, heads=whole.heads,
            state_size=whole.state_size, short_conv=whole.short_conv, qk_norm=True,
        )  # fmt: skip
        bare = sum(p.numel() for p in BMojoLM(VOCABULARY, stack, mlp_ratio=0.0).parameters())
        ratio = (size - bare) / (3 * whole.d_model**2 * depth)
        found["stacked hybrid"] = BMojoLM(VOCABULARY, stack, mlp_ratio=ratio)
    found["Transformer"] = Transformer(whole, depth, size)
    return {name: model.to(setting.device) for name, model in found.items()}


def milliseconds(
    setting: Setting, calls: dict[str, Callable[[], object]], rounds: int | None = None
) -> dict[str, float]:
    """Median time of each call, in turn; on a GPU between events, on a CPU what the process computed."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(3 if setting.device == "cuda" else 1):
        for call in calls.values():
            call()
    for _ in range(rounds or setting.rounds):
        for name, call in calls.items():
            taken[name].append(_once(setting, call))
    return {name: sorted(times)[len(times) // 2] for name, times in taken.items()}


def _once(setting: Setting, call: Callable[[], object]) -> float:
    if setting.device != "cuda":
        start = time.process_time()  # one thread: a shared machine says nothing about the ratio
        call()
        return 1e3 * (time.process_time() - start)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def training(setting: Setting, model: nn.Module, length: int) -> Callable[[], object]:
    batch = max(1, setting.tokens // length)
    tokens = torch.randint(VOCABULARY, (batch, length), device=setting.device)
    # A graph for each length: compiled for one, not for any.
    run: Any = torch.compile(model, dynamic=False) if setting.compiled else model

    def call() -> object:
        with torch.autocast(setting.device, torch.bfloat16, enabled=setting.device == "cuda"):
            logits = run(tokens)
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten())
        model.zero_grad(set_to_none=True)
        loss.backward()
        return loss

    return call


def decoding(setting: Setting, model: nn.Module, length: int, batch: int = 1) -> Callable[[], object]:
    """One token after `length` others; what they left is made up, for it does not matter to the time."""
    token = torch.randint(VOCABULARY, (batch, 1), device=setting.device)
    autocast = torch.autocast(setting.device, torch.bfloat16, enabled=setting.device == "cuda")
    if isinstance(model, Transformer):
        first: Any = model.attention[0]
        shape = (batch, first.heads, length + 1, first.out_proj.in_features // first.heads)
        kind = torch.bfloat16 if setting.device == "cuda" else torch.float32
        caches = [
            tuple(torch.randn(shape, device=setting.device, dtype=kind) for _ in range(2))
            for _ in model.attention
        ]

        def read(i: int, u: Tensor) -> Tensor:
            layer: Any = model.attention[i]
            return layer.decode(u, caches[i], length)

        def call() -> object:
            with torch.no_grad(), autocast:
                return model(token, read)

        return call
    assert isinstance(model, BMojoLM)
    state = tuple(replace(part, position=length) for part in model.init_state(batch))

    def step() -> object:
        with torch.no_grad(), autocast:
            return model(token, state)

    return step


def rows(setting: Setting) -> Iterator[Row]:
    for depth in (1, DEPTH):
        name = "one block" if depth == 1 else f"{depth} blocks"
        models = contenders(setting, depth)
        for length in setting.lengths:
            yield from _training_rows(setting, models, f"{name}, T = {length}", length, depth)
        yield from _decoding_rows(setting, models, name)


def _training_rows(
    setting: Setting, models: dict[str, nn.Module], name: str, length: int, depth: int
) -> Iterator[Row]:
    calls = {key: training(setting, model.train(), length) for key, model in models.items()}
    times = milliseconds(setting, calls)
    ours = times.pop("B'MOJO")
    for peer, taken in times.items():
        goal = {"Transformer": 0.9 if length == 8192 else None, "B'MOJO-F": 1.15}.get(peer)
        yield ratio_row(f"training step, {name}, {setting.what}", ours, "ms", peer, taken, goal)
    if setting.device != "cuda":
        return
    peaks = {}
    for key in ("B'MOJO", "Transformer"):
        torch.cuda.reset_peak_memory_stats()
        calls[key]()
        peaks[key] = torch.cuda.max_memory_allocated() / 2**20
    yield Row(f"training memory, {name}, {setting.what}", peaks["B'MOJO"], "MiB", "Transformer",
              peaks["Transformer"])  # fmt: skip


def _decoding_rows(setting: Setting, models: dict[str, nn.Module], name: str) -> Iterator[Row]:
    rounds = 10 * setting.rounds
    for length in setting.decoding:
        calls = {key: decoding(setting, model.eval(), length) for key, model in models.items()}
        times = milliseconds(setting, calls, rounds)
        case = f"decode step, {name}, after {length} tokens, {setting.what}"
        for peer in [key for key in times if key != "B'MOJO"]:
            yield ratio_row(case, times["B'MOJO"], "ms", peer, times[peer], None)
    short, long = min(setting.decoding), max(setting.decoding)
    calls = {
        f"after {length} tokens": decoding(setting, models["B'MOJO"], length) for length in (short, long)
    }
    early, late = milliseconds(setting, calls, rounds).values()
    case = f"decode step, {name}, after {long} tokens, {setting.what}"
    yield ratio_row(case, late, "ms", f"after {short} tokens", early, 1.1)
    model: Any = models["B'MOJO"]
    held, cached = sum(part.nbytes for part in model.init_state(1)), {}
    width, depth = setting.config.d_model, len(model.blocks)
    for length in setting.decoding:
        cached[length] = 2 * 4 * width * length * depth
        yield Row(f"state, {name}, after {length} tokens, {setting.what}", held, "bytes", "cache (float32)",
                  cached[length])  # fmt: skip


def ratio_row(case: str, ours: float, unit: str, peer: str, theirs: float, goal: float | None) -> Row:
    """A time beside a peer's; the goal is one of their ratio."""
    limit = None if goal is None else goal * theirs
    return Row(case, ours, unit, peer, theirs, ours / theirs, limit, larger_is_better=False)


def setting_of(options: argparse.Namespace) -> Setting:
    if options.device == "cuda":
        sizes = {"d_model": 1024, "heads": 16, "window": 512, "eidetic": 256, "state_size": 64}
        tokens, lengths, decoded, rounds = 16384, (512, 2048, 8192, 16384), (512, 4096, 16384), 9
    else:
        sizes = {"d_model": 256, "heads": 4, "window": 128, "eidetic": 64, "state_size": 16}
        tokens, lengths, decoded, rounds = 4096, (512, 2048, 8192), (512, 4096, 16384), 5
    return Setting(
        options.device,
        BMojoConfig(mixer=options.mixer, **sizes),
        tokens,
        tuple(options.lengths or lengths),
        decoded,
        options.rounds or rounds,
        options.compile,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--mixer", default="mamba2")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--lengths", type=int, nargs="*")
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.device == "cpu":
        torch.set_num_threads(1)
    else:
        torch.set_float32_matmul_precision("high")
    setting = setting_of(options)
    kind = "_compiled" if options.compile else ""
    write_results(f"layer_speed_{options.device}{kind}", list(rows(setting)))


if __name__ == "__main__":
    main()
