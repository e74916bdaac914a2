"""`memory_attention` on a GPU: against compiled flex_attention on its mask, two calls merged, and SDPA."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module

import torch
from _results import Row
from gpu_timing import Bench, Device
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["CASES"]


def ours(q, k, v, kf, vf, index, window, chunk):
    import bmojo_kernels as bk

    options = {} if index is None else {"eidetic_index": index, "chunk": chunk}
    return bk.memory_attention(q, k, v, window=window, fading=(kf, vf), backend="triton", **options)[0]


def problem(device: Device, width: int) -> dict[str, Tensor]:
    B, T, H, G = 2, device.size(8192, 24), device.size(16, 2), device.size(4, 1)
    width = device.size(width, 4)
    shapes = {"q": H, "k": G, "v": G, "kf": G, "vf": G}
    return {name: device.numbers(B, T, heads, width, grad=True) for name, heads in shapes.items()}


def bench(device: Device, width: int) -> Bench:
    """With a set of 256, as `attention` measures it."""
    q, k, v, kf, vf = problem(device, width).values()
    window, chunk, places = device.size(1024, 6), device.size(256, 4), device.size(256, 3)
    index = eidetic_index(q.shape[1], window, chunk, places, q.shape[0], device)
    return Bench(lambda *a: ours(*a, index, window, chunk), (q, k, v, kf, vf))


def eidetic_index(T: int, window: int, chunk: int, places: int, batch: int, device: Device) -> Tensor:
    """The positions of the largest of random scores, as the layer would keep them."""
    topk = import_module("bmojo_kernels.innovation_topk.op").innovation_topk
    scores = torch.rand(batch, T).numpy()
    index = topk(scores, budget=places, window=window, chunk=chunk)
    return torch.from_numpy(index).to(device.name)


def flex(T: int, window: int, device: Device, member: Tensor | None, chunk: int, parts: str):
    """flex_attention over the keys laid one after the other: window, fading, eidetic."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def mask(b, h, i, j):
        kind, at = j // T, j % T
        age = i - at
        near = (age >= 0) & (age < window)
        if parts == "window":
            return near
        if parts == "fading":
            return (age >= window) & (age < 2 * window)
        seen = torch.where(kind == 0, near, (age >= window) & (age < 2 * window))
        if member is None:
            return seen
        return torch.where(kind == 2, member[b, i // chunk, at] & (age >= window), seen)

    # Masks of several kinds are compiled one after the other.
    torch._dynamo.config.recompile_limit = 64
    count = 1 if parts in ("window", "fading") else 2 if member is None else 3
    batch = None if member is None else member.shape[0]
    blocks = create_block_mask(mask, batch, None, T, count * T, device=device.name, _compile=not device.dry)
    run = flex_attention if device.dry else torch.compile(flex_attention)

    def call(q, *keys_values, lse=False):
        half = len(keys_values) // 2
        keys, values = torch.cat(keys_values[:half], 1), torch.cat(keys_values[half:], 1)
        turned = [x.transpose(1, 2) for x in (q, keys, values)]
        turned = [x.detach() for x in turned] if device.dry else turned  # it has no gradient on the CPU
        found = run(*turned, block_mask=blocks, enable_gqa=True, return_lse=lse)
        return found if lse else found.transpose(1, 2)

    return call


def attention(device: Device, width: int, part: str) -> Iterator[Row]:
    """Rows of one head width: beside SDPA of all keys, or against others with the set or without."""
    x = problem(device, width)
    q, k, v, kf, vf = x.values()
    (B, T), window = q.shape[:2], device.size(1024, 6)
    case = f"memory_attention {' x '.join(map(str, q.shape))}, window {window}"
    if part == "fading":
        yield from without_set(device, case, (q, k, v, kf, vf), window)
        return
    chunk, places = device.size(256, 4), device.size(256, 3)
    index = eidetic_index(T, window, chunk, places, B, device)
    if part == "set":
        yield from with_set(device, case, (q, k, v, kf, vf), index, window, chunk)
        return
    benches = {
        "fading": Bench(lambda *a: ours(*a, None, window, window), (q, k, v, kf, vf)),
        f"fading and set of {places}": Bench(lambda *a: ours(*a, index, window, chunk), (q, k, v, kf, vf)),
    }
    for what, name in (("forward", "forward"), ("both", "forward and backward")):
        taken = device.milliseconds(getattr(Bench(full, (q, k, v)), what))
        for kind, mine in benches.items():
            time = device.milliseconds(getattr(mine, what))
            yield Row(f"{case}, {kind}, {name}", time, "ms", "SDPA, all keys", taken)


def full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    turned = [x.transpose(1, 2) for x in (q, k, v)]
    return scaled_dot_product_attention(*turned, is_causal=True, enable_gqa=True)


def without_set(device: Device, case: str, inputs: tuple[Tensor, ...], window: int) -> Iterator[Row]:
    q = inputs[0]
    mine = Bench(lambda *a: ours(*a, None, window, window), inputs)
    one = flex(q.shape[1], window, device, None, window, "both")
    near, far = (flex(q.shape[1], window, device, None, window, part) for part in ("window", "fading"))

    def merged(q, k, v, kf, vf):
        (a, la), (b, lb) = near(q, k, v, lse=True), far(q, kf, vf, lse=True)
        share = torch.sigmoid(la - lb).unsqueeze(-1)
        return (share * a + (1 - share) * b).to(q.dtype).transpose(1, 2)

    peers = {"flex_attention": (Bench(lambda q, k, v, kf, vf: one(q, k, kf, v, vf), inputs), 1.0)}
    if q.shape[3] == 64:  # two more to compile
        peers["two calls merged"] = (Bench(merged, inputs), 1.5)
    for what, name in (("forward", "forward"), ("both", "forward and backward")):
        taken = device.milliseconds(getattr(mine, what))
        for peer, (bench, goal) in peers.items():
            theirs = device.milliseconds(getattr(bench, "forward" if device.dry else what))
            row = f"{case}, fading, {name}, speed against {peer}"
            yield Row(row, theirs / taken, "times", "ms", taken, ratio=theirs / taken, goal=goal)


def with_set(
    device: Device, case: str, inputs: tuple[Tensor, ...], index: Tensor, window: int, chunk: int
) -> Iterator[Row]:
    q = inputs[0]
    T = q.shape[1]
    member = torch.zeros(*index.shape[:2], T + 1, dtype=torch.bool, device=q.device)
    member.scatter_(2, torch.where(index < 0, T, index), True)
    call = flex(T, window, device, member, chunk, "all")
    peer = Bench(lambda q, k, v, kf, vf: call(q, k, kf, k, v, vf, v), inputs)
    mine = Bench(lambda *a: ours(*a, index, window, chunk), inputs)
    for what, name in (("forward", "forward"), ("both", "forward and backward")):
        taken = device.milliseconds(getattr(mine, what))
        theirs = device.milliseconds(getattr(peer, "forward" if device.dry else what))
        row = f"{case}, fading and set of {index.shape[2]}, {name}, speed against flex_attention"
        yield Row(row, theirs / taken, "times", "ms", taken, ratio=theirs / taken, goal=1.0)


CASES = {
    f"memory_attention {width} {part}": partial(attention, width=width, part=part)
    for width in (64, 128)
    for part in ("alone", "fading", "set")
}
