"""The definition: each query gathers what it sees of every memory, then one softmax. The oracle.

Written in torch, so that autograd gives the oracle of every gradient too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["memory_attention_naive", "seen"]


def memory_attention_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    fading: tuple[Tensor, Tensor] | None = None,
    q_fading: Tensor | None = None,
    eidetic_index: Tensor | None = None,
    chunk: int | None = None,
    eidetic: tuple[Tensor, Tensor] | None = None,
    q_eidetic: Tensor | None = None,
    eidetic_rows: Tensor | None = None,
    eidetic_bias: Tensor | None = None,
    retrieved: tuple[Tensor, ...] | None = None,
    q_retrieved: Tensor | None = None,
    scale: float | None = None,
    start: int = 0,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`memory_attention`, query by query."""
    batch, length, heads, width = q.shape
    scale = width**-0.5 if scale is None else scale
    chunk = window if chunk is None else chunk
    edges = [0, length] if cu_seqlens is None else [int(edge) for edge in cu_seqlens]
    out, lse = q.new_zeros(batch, length, heads, v.shape[-1]), q.new_zeros(batch, heads, length)
    chunks_before = 0
    for sequence, (low, high) in enumerate(itertools.pairwise(edges)):
        for b, row in itertools.product(range(batch), range(low, high)):
            # `t` counts from the start of the axis that the keys lie on; chunks count from the sequence's.
            t = start + row
            c = chunks_before + (t - low) // chunk - start // chunk
            parts = seen(
                b, t, c, low,
                first_key=start + length - k.shape[1],
                first_fading=start + length - (k if fading is None else fading[0]).shape[1],
                window=window, keys=(k, v), fading=fading, index=eidetic_index,
                eidetic=(k, v) if eidetic is None else eidetic,
                rows=eidetic_rows, bias=eidetic_bias, retrieved=retrieved,
                entry=sequence if cu_seqlens is not None else b,
            )  # fmt: skip
            queries = {"fading": q_fading, "eidetic": q_eidetic, "retrieved": q_retrieved}
            logits, values = [], []
            for name, key, value, added in parts:
                if math.isinf(float(added)):  # a weight of zero
                    continue
                reader = queries.get(name)
                query = (q if reader is None else reader)[b, row].unflatten(0, (key.shape[0], -1))
                logits.append(torch.einsum("grd,gd->gr", query, key).flatten() * scale + added)
                values.append(value.repeat_interleave(heads // len(value), dim=0))
            if not logits:
                lse[b, :, row] = -math.inf
                continue
            total = torch.stack(logits, dim=-1)  # (H, keys)
            lse[b, :, row] = total.logsumexp(-1)
            out[b, row] = torch.einsum("hj,jhd->hd", total.softmax(-1), torch.stack(values))
        chunks_before += -(-(high - low) // chunk)
    return out, lse


def seen(
    b: int,
    t: int,
    c: int,
    begin: int,
    *,
    first_key: int,
    first_fading: int,
    window: int,
    keys: tuple[Tensor, Tensor],
    fading: tuple[Tensor, Tensor] | None,
    index: Tensor | None,
    eidetic: tuple[Tensor, Tensor],
    rows: Tensor | None,
    bias: Tensor | None,
    retrieved: tuple[Tensor, ...] | None,
    entry: int,
) -> Iterator[tuple[str, Tensor, Tensor, Any]]:
    """What query `t` of chunk `c` sees: the memory's name, key (G, d), value (G, d) and added logit."""
    for j in range(max(t - window + 1, begin, first_key), t + 1):
        yield "window", keys[0][b, j - first_key], keys[1][b, j - first_key], 0.0
    if fading is not None:
        for j in range(max(t - 2 * window + 1, begin, first_fading), t - window + 1):
            yield "fading", fading[0][b, j - first_fading], fading[1][b, j - first_fading], 0.0
    if index is not None:
        for i in range(index.shape[-1]):
            j = int(index[b, c, i])
            if j < begin or j > t - window:
                continue
            row = j - first_key if rows is None else int(rows[b, c, i])
            yield "eidetic", eidetic[0][b, row], eidetic[1][b, row], 0.0 if bias is None else bias[b, row]
    if retrieved is not None:
        for i in range(retrieved[0].shape[1]):
            added = retrieved[2][entry, i] if len(retrieved) > 2 else 0.0
            yield "retrieved", retrieved[0][entry, i], retrieved[1][entry, i], added
