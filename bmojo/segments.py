r"""The definition of the layer's attention, readable: segments of keys whose logits share one normalizer.

What `bmojo_kernels.memory_attention` computes in one pass is written out here chunk by chunk, so that the
mass of each memory can be seen (`BMojo.trace`) and the kernel held against it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bmojo.chunks import Chunks

__all__ = ["Segment", "attend", "consecutive", "everywhere", "placed"]

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Segment:
    """One memory's keys, as `n` chunks of `C` queries meet them.

    Parameters
    ----------
    name : str
    queries : Tensor, shape (B, n, C, H, d)
        Normed and turned as this segment reads.
    keys, values : Tensor, shape (B, n, S, G, d)
        `G` key and value heads, each shared by `H / G` query heads.
    visible : Tensor of bool, shape (1 or B, n, C, S)
        Which key each query sees.
    bias : Tensor, shape (B, n, S), optional
        Added to the logits.
    """

    name: str
    queries: Tensor
    keys: Tensor
    values: Tensor
    visible: Tensor
    bias: Tensor | None = None

    def logits(self, scale: float) -> Tensor:
        """Masked logits, shape (B, n, G, H / G, C, S)."""
        groups = self.keys.shape[-2]
        queries = self.queries.unflatten(-2, (groups, -1)).permute(0, 1, 3, 4, 2, 5)
        logits = (queries * scale) @ self.keys.permute(0, 1, 3, 4, 2).unsqueeze(3)
        if self.bias is not None:
            logits = logits + self.bias[:, :, None, None, None]
        return logits.masked_fill(~self.visible[:, :, None, None], torch.finfo(logits.dtype).min / 2)


def consecutive(name: str, chunks: Chunks, queries: Tensor, pair: Pair, *, ends: tuple[int, int]) -> Segment:
    """Segment of the latest positions: each query `t` sees those from `t - ends[0]` to `t - ends[1]`.

    Parameters
    ----------
    name : str
    chunks : Chunks
    queries : Tensor, shape (B, n, C, H, d)
    pair : pair of Tensor, shape (B, S, G, d)
        Keys and values up to the piece's last position.
    ends : pair of int
    """
    oldest, newest = ends
    pooled = pair[0].shape[1]
    first = chunks.position + chunks.length - pooled
    key_at = chunks.keys(oldest, oldest - newest + 1)
    rows = (key_at - first).clamp(0, pooled - 1)
    back = chunks.queries().unsqueeze(-1) - key_at.unsqueeze(1)
    visible = (back <= oldest) & (back >= newest) & (key_at >= 0).unsqueeze(1)
    keys, values = (x.index_select(1, rows.flatten()).unflatten(1, rows.shape) for x in pair)
    return Segment(name, queries, keys, values, visible.unsqueeze(0))


def placed(
    chunks: Chunks,
    queries: Tensor,
    pool: Pair,
    index: Tensor,
    rows: Tensor,
    bias: Tensor | None,
    *,
    window: int,
) -> Segment:
    """Segment of the kept tokens: query `t` sees those of its chunk's set at `t - window` or before.

    Parameters
    ----------
    chunks : Chunks
    queries : Tensor, shape (B, n, C, H, d)
    pool : pair of Tensor, shape (B, P, G, d)
    index, rows : Tensor of int64, shape (B, n, m)
        Positions of the set, -1 where empty, and their rows in the pool.
    bias : Tensor, shape (B, P), optional
    window : int
    """
    batch = torch.arange(len(index), device=index.device)[:, None, None]
    rows, places = rows.clamp_min(0), index.unsqueeze(2)
    visible = (places >= 0) & (places <= chunks.queries().unsqueeze(-1) - window)
    keys, values = (x[batch, rows] for x in pool)
    return Segment("eidetic", queries, keys, values, visible, None if bias is None else bias[batch, rows])


def everywhere(chunks: Chunks, queries: Tensor, retrieved: tuple[Tensor, ...]) -> Segment:
    """Segment of the retrieved keys, seen by every query.

    Parameters
    ----------
    chunks : Chunks
    queries : Tensor, shape (B, n, C, H, d)
    retrieved : tuple of Tensor, shapes (B, R, G, d), (B, R, G, d) and, optional, (B, R)
    """
    keys, values = (x.unsqueeze(1).expand(-1, chunks.count, -1, -1, -1) for x in retrieved[:2])
    bias = retrieved[2].unsqueeze(1).expand(-1, chunks.count, -1) if len(retrieved) > 2 else None
    visible = torch.ones(1, chunks.count, chunks.size, keys.shape[2], dtype=torch.bool, device=keys.device)
    return Segment("retrieved", queries, keys, values, visible, bias)


def attend(segments: list[Segment], *, scale: float) -> tuple[Tensor, Tensor]:
    r"""Attention of each query over all segments, under one normalizer.

    $$o_t = \frac{\sum_s \sum_j e^{\ell_{tj}^{(s)}} v_j^{(s)}}{\sum_s \sum_j e^{\ell_{tj}^{(s)}}}$$

    Parameters
    ----------
    segments : list of Segment
        Every query must see at least one key in one of them.
    scale : float
        Factor of the inner products.

    Returns
    -------
    out : Tensor, shape (B, n, C, H, d)
    mass : Tensor, shape (B, n, C, H, segments)
        How much of each query's attention went to each segment; sums to one.

    Examples
    --------
    >>> import torch
    >>> from bmojo.segments import Segment, attend
    >>> q, k = torch.zeros(1, 1, 2, 1, 4), torch.ones(1, 1, 3, 1, 4)
    >>> see = torch.tensor([[[[True, False, False], [True, True, False]]]])
    >>> out, mass = attend([Segment("window", q, k, k, see)], scale=0.5)
    >>> out.shape, mass.flatten().tolist()
    (torch.Size([1, 1, 2, 1, 4]), [1.0, 1.0])
    """
    logits = [segment.logits(scale) for segment in segments]
    sizes = [part.shape[-1] for part in logits]
    weights = torch.cat(logits, dim=-1).softmax(dim=-1).split(sizes, dim=-1)
    out = sum(
        (
            weight @ segment.values.transpose(2, 3).unsqueeze(3)
            for weight, segment in zip(weights, segments, strict=True)
        ),
        start=torch.zeros((), dtype=logits[0].dtype, device=logits[0].device),
    )
    mass = torch.stack([weight.sum(-1) for weight in weights], dim=-1)
    return out.permute(0, 1, 4, 2, 3, 5).flatten(3, 4), mass.permute(0, 1, 4, 2, 3, 5).flatten(3, 4)
