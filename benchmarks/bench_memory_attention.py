"""Attention over window, fading and eidetic keys on the CPU, float32, 1 x 8 x 8192 x 64, one thread.

The peer is torch's compiled flex_attention on the window alone: it has no gradient on the CPU, and gets no
keys by index. The time of more memories stands against its time in proportion to the keys a query sees.
Processor time is taken, not time on the clock, so that a shared machine says nothing about the ratio.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import bmojo_kernels as bk
import numba
import torch
from _results import Row, write_results
from _timing import in_turn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

B, H, T, D, WINDOW, PLACES = 1, 8, 8192, 64, 256, 256
ROUNDS = 9


def flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Callable[[], object]:
    mask = create_block_mask(lambda b, h, i, j: (i >= j) & (i - j < WINDOW), None, None, T, T, device="cpu")
    compiled: Any = torch.compile(flex_attention)
    turned = [x.transpose(1, 2).contiguous() for x in (q, k, v)]

    def call() -> object:
        with torch.no_grad():
            return compiled(*turned, block_mask=mask)

    return call


def backward(tensors: list[torch.Tensor], **options: Any) -> Callable[[], object]:
    q, k, v, *fading = (x.clone().requires_grad_() for x in tensors)
    if fading:
        options["fading"] = tuple(fading)
    out, _ = bk.memory_attention(q, k, v, window=WINDOW, **options)
    weight = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, (q, k, v, *fading), weight, retain_graph=True)


def seen(index: torch.Tensor | None, fading: bool) -> float:
    """Keys that a query sees, on average."""
    t = torch.arange(T)
    count = (t + 1).clamp_max(WINDOW).sum()
    if fading:
        count = count + (t + 1 - WINDOW).clamp(0, WINDOW).sum()
    if index is not None:
        kept = index.repeat_interleave(WINDOW, 1)[:, :T]
        count = count + ((kept >= 0) & (kept <= t[:, None] - WINDOW)).sum()
    return float(count) / T


def main() -> None:
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    torch.manual_seed(0)
    q, k, v, *fading = (torch.randn(B, T, H, D) for _ in range(5))
    index = bk.innovation_topk(torch.rand(B, T), budget=PLACES, window=WINDOW, chunk=WINDOW)
    cases: dict[str, dict[str, Any]] = {
        "window": {},
        "window and fading": {"fading": tuple(fading)},
        "window, fading and eidetic": {"fading": tuple(fading), "eidetic_index": index, "chunk": WINDOW},
    }
    calls = {
        name: lambda options=options: bk.memory_attention(q, k, v, window=WINDOW, **options)
        for name, options in cases.items()
    }
    times = in_turn(calls | {"flex": flex(q, k, v)}, ROUNDS, clock=time.process_time)
    back = in_turn(
        {name: backward([q, k, v, *(fading if "fading" in options else [])], **options)
         for name, options in cases.items()}, ROUNDS, clock=time.process_time
    )  # fmt: skip
    rows, what = [], f"{B} x {H} x {T} x {D}, w = {WINDOW}, float32"
    alone = seen(None, fading=False)
    for name, options in cases.items():
        keys = seen(options.get("eidetic_index"), "fading" in options)
        peer = times["flex"] * keys / alone
        rows.append(
            Row(
                f"forward {name}, {what}, time over flex_attention's in proportion",
                times[name] / peer,
                "",
                "compiled flex_attention on the window, ratio of seconds",
                1.0,
                goal=1.1,
                larger_is_better=False,
            )
        )
        case = f"forward {name}, {what}, {keys:.0f} keys a query"
        rows.append(Row(case, 1e3 * times[name], "ms", "flex_attention in proportion", 1e3 * peer))
        rate = 4e-9 * keys * B * H * T * D / times[name]
        rows.append(Row(f"forward {name}, {what}, products of visible keys", rate, "GFLOP/s"))
        ratio = back[name] / times[name]
        case = f"backward {name}, {what}, time over forward's"
        rows.append(Row(case, ratio, "", goal=2.5, larger_is_better=False))
        rows.append(Row(f"backward {name}, {what}", 1e3 * back[name], "ms"))
    ring, far = torch.randn(B, WINDOW, H, D), torch.randn(B, 2 * WINDOW, H, D)
    pool, places = torch.randn(B, PLACES, H, D), torch.arange(PLACES).unsqueeze(0)
    options = {"fading": (far, far), "eidetic_index": places, "eidetic": (pool, pool)}

    def step() -> object:
        return bk.memory_attention_step(q[:, 0], ring, ring, window=WINDOW, position=T, **options)

    one = in_turn({"step": step}, 200, clock=time.process_time)["step"]
    rows.append(Row(f"one decoding step over {2 * WINDOW + PLACES} keys, {H} heads of {D}", 1e6 * one, "us"))
    write_results("memory_attention", rows)


if __name__ == "__main__":
    main()
