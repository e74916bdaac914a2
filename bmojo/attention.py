r"""In context: one softmax over all memories.

The keys come in segments (window, fading, eidetic, retrieved); their logits share one normalizer, so a query
divides its attention among the memories by what they hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bmojo.chunks import Chunks
from bmojo.state import KeyValueRing

__all__ = ["Positions", "Segment", "attend", "consecutive", "rotate"]


@dataclass(frozen=True)
class Positions:
    """How queries meet keys: turned to where they stand, or as if all keys stood at the window's edge.

    Parameters
    ----------
    kind : {"own", "edge", "none"}
        `"own"`: each at its position. `"edge"`: every key at 0, every query at `window`. `"none"`: unturned.
    window : int

    Examples
    --------
    >>> import torch
    >>> from bmojo.attention import Positions, rotate
    >>> x, at = torch.randn(1, 5, 2, 4), torch.arange(5)
    >>> edge = Positions("edge", window=3)
    >>> torch.equal(edge.keys(x, at), x), torch.equal(edge.queries(x, at)[:, 3], rotate(x, at)[:, 3])
    (True, True)
    """

    kind: str
    window: int

    def queries(self, x: Tensor, at: Tensor) -> Tensor:
        """Queries (B, T, H, d) of the positions `at` (T,), turned."""
        if self.kind == "none":
            return x
        return rotate(x, torch.full_like(at, self.window) if self.kind == "edge" else at)

    def keys(self, x: Tensor, at: Tensor) -> Tensor:
        """Keys (B, ..., G, d) of the positions `at` (...), turned."""
        return rotate(x, at) if self.kind == "own" else x


@dataclass(frozen=True, eq=False)
class Segment:
    """One memory's keys, as `n` chunks of `C` queries meet them.

    Parameters
    ----------
    name : str
    queries : Tensor, shape (B, n, C, H, d)
        Normed and rotated as this segment reads.
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


def consecutive(
    name: str,
    chunks: Chunks,
    queries: Tensor,
    ring: KeyValueRing,
    positions: Positions,
    *,
    ends: tuple[int, int],
) -> Segment:
    """Segment of the latest positions: each query `t` sees those from `t - ends[0]` to `t - ends[1]`.

    Parameters
    ----------
    name : str
    chunks : Chunks
    queries : Tensor, shape (B, T, H, d)
        Of the piece, not turned yet.
    ring : KeyValueRing
        Up to the piece's last position.
    positions : Positions
    ends : pair of int
    """
    oldest, newest = ends
    pooled = ring.keys.shape[1]
    first = chunks.position + chunks.length - pooled
    turned = positions.keys(ring.keys, torch.arange(first, first + pooled, device=queries.device))
    key_at = chunks.keys(oldest, oldest - newest + 1)
    rows = (key_at - first).clamp(0, pooled - 1)
    back = chunks.queries().unsqueeze(-1) - key_at.unsqueeze(1)
    visible = (back <= oldest) & (back >= newest) & (key_at >= 0).unsqueeze(1)
    keys, values = (x.index_select(1, rows.flatten()).unflatten(1, rows.shape) for x in (turned, ring.values))
    return Segment(
        name, chunks.cut(positions.queries(queries, chunks.tokens())), keys, values, visible.unsqueeze(0)
    )


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
    >>> from bmojo.attention import Segment, attend
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


def rotate(x: Tensor, position: Tensor, *, base: float = 10_000.0) -> Tensor:
    r"""Rotary positions: pair `i` of a head turns by the angle $t\, b^{-2i/d}$.

    Parameters
    ----------
    x : Tensor, shape (..., H, d)
    position : Tensor of int64, shape broadcastable to `x.shape[:-2]`
    base : float
        `b`.

    References
    ----------
    J. Su et al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, Neurocomputing 568 (2024).

    Examples
    --------
    >>> import torch
    >>> from bmojo.attention import rotate
    >>> x = torch.randn(5, 2, 8)
    >>> turned = rotate(x, torch.arange(5))
    >>> bool(torch.allclose(turned.norm(dim=-1), x.norm(dim=-1))), bool(torch.equal(turned[0], x[0]))
    (True, True)
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = (position.unsqueeze(-1) * frequency).unsqueeze(-2)
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
