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
    factor = width**-0.5 if scale is None else scale
    chunk = window if chunk is None else chunk
    edges = [0, length] if cu_seqlens is None else [int(edge) for edge in cu_seqlens]
    outputs, normalizers = [], []
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
                shown = added.detach() > -math.inf  # what is hidden takes no part, in the gradient either
                key, value, added = key[shown], value[shown], added[shown]
                reader = queries.get(name)
                query = (q if reader is None else reader)[b, row].unflatten(0, (key.shape[1], -1))
                logits.append(torch.einsum("grd,jgd->grj", query, key).flatten(0, 1) * factor + added)
                values.append(value.repeat_interleave(heads // value.shape[1], dim=1))
            total = torch.cat(logits, dim=-1)  # (H, keys)
            if not total.shape[1]:
                normalizers.append(total.new_full((heads,), -math.inf))
                outputs.append(total.new_zeros(heads, v.shape[-1]))
                continue
            normalizers.append(total.logsumexp(-1))
            outputs.append(torch.einsum("hj,jhd->hd", total.softmax(-1), torch.cat(values)))
        chunks_before += -(-(high - low) // chunk)
    if not outputs:
        return q.new_zeros(batch, length, heads, v.shape[-1]), q.new_zeros(batch, heads, length)
    # Sequences lie behind one another, and several of them only in a batch of one: order is (batch, time).
    out = torch.stack(outputs).unflatten(0, (batch, length))
    return out, torch.stack(normalizers).unflatten(0, (batch, length)).mT


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
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """What query `t` of chunk `c` sees: the memory, keys (n, G, d), values (n, G, d_v), added logits (n,)."""

    def found(name: str, pair: tuple[Tensor, ...], row: int, where: Any, added: Tensor | None = None):
        key, value = pair[0][row, where], pair[1][row, where]
        return name, key, value, key.new_zeros(len(key)) if added is None else added[row, where]

    oldest = max(t - window + 1, begin, first_key)
    yield found("window", keys, b, slice(oldest - first_key, t + 1 - first_key))
    if fading is not None:
        oldest = max(t - 2 * window + 1, begin, first_fading)
        newest = max(oldest, t - window + 1)
        yield found("fading", fading, b, slice(oldest - first_fading, newest - first_fading))
    if index is not None:
        kept = (index[b, c] >= begin) & (index[b, c] <= t - window)
        where = index[b, c] - first_key if rows is None else rows[b, c]
        yield found("eidetic", eidetic, b, where[kept], bias)
    if retrieved is not None:
        yield found("retrieved", retrieved, entry, slice(None), retrieved[2] if len(retrieved) > 2 else None)
