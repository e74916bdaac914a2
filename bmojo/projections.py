"""What queries, keys and values are made of, and how each memory is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.backends import normed, state_dtype
from bmojo.config import BMojoConfig
from bmojo.rotary import Table, table, turn

__all__ = ["Angles", "Heads", "Projections"]

EPS = 1e-6


@dataclass(frozen=True, eq=False)
class Heads:
    """Queries, keys and values of tokens.

    Parameters
    ----------
    queries, keys : Tensor, shapes (B, T, H, d) and (B, T, G, d)
        Normed where the configuration says so, turned to where they stand.
    values : Tensor, shape (B, T, G, d)
    plain_queries, plain_keys : Tensor
        The same, not turned.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    plain_queries: Tensor
    plain_keys: Tensor


@dataclass(frozen=True, eq=False)
class Angles:
    """Rotations of a piece's tokens, and of a query at the window's edge; `None` without rotary."""

    own: Table | None
    edge: Table | None


class Projections(nn.Module):
    """Projections and norms of a layer, by the names under which they are stored.

    Parameters
    ----------
    config : BMojoConfig
    """

    def __init__(self, config: BMojoConfig) -> None:
        super().__init__()
        self.config = config
        self.groups, self.head_dim = cast(int, config.kv_heads), cast(int, config.head_dim)
        if not config.window:
            return
        width, kv = config.d_model, self.groups * self.head_dim
        self.widths = [config.heads * self.head_dim, kv, kv]
        self.in_proj = nn.Linear(width, sum(self.widths), bias=False)
        if config.mixer != "none" and not config.tie_projections:
            self.fading_proj = nn.Linear(width, sum(self.widths), bias=False)
        self.out_proj = nn.Linear(config.heads * self.head_dim, width, bias=False)
        if config.qk_norm:
            self.query_norm = nn.RMSNorm(self.head_dim, eps=EPS)
            self.key_norm = nn.RMSNorm(self.head_dim, eps=EPS)
        if config.eidetic and config.eidetic_norm:
            self.eidetic_query_norm = nn.RMSNorm(self.head_dim, eps=EPS)
            self.eidetic_key_norm = nn.RMSNorm(self.head_dim, eps=EPS)
            self.eidetic_gain = nn.Parameter(torch.ones(config.heads))

    @property
    def far(self) -> str:
        """Where fading and eidetic keys stand: `"own"`, `"edge"` or `"none"`."""
        return self.config.eidetic_position if self.config.rotary else "none"

    @property
    def plainly_kept(self) -> bool:
        """Whether a kept key is read as it was in the window."""
        own = self.far == "own" or not self.config.rotary
        return own and not self.config.eidetic_norm

    def angles(self, position: Tensor, dtype: torch.dtype) -> Angles:
        """Rotations for tokens at `position` (T,) or (B, T)."""
        if not self.config.rotary:
            return Angles(None, None)
        base, kind = self.config.rotary_base, state_dtype(dtype)
        own = table(position, self.head_dim, base=base, dtype=kind)
        if self.far != "edge":
            return Angles(own, None)
        edge = torch.full((1,), self.config.window, device=position.device)
        return Angles(own, table(edge, self.head_dim, base=base, dtype=kind))

    def heads(self, tokens: Tensor, angles: Angles) -> Heads:
        """Queries, keys and values of tokens (B, T, D)."""
        counts = (self.config.heads, self.groups)
        mixed, values = self.in_proj(tokens).split([sum(self.widths[:2]), self.widths[2]], dim=-1)
        both = mixed.unflatten(-1, (-1, self.head_dim))
        if self.config.qk_norm:
            # Queries and keys lie side by side: one norm and one turn for both.
            norms = self.query_norm.weight, self.key_norm.weight
            scale = torch.cat([w.expand(n, -1) for w, n in zip(norms, counts, strict=True)])
            both = F.rms_norm(both, (self.head_dim,), eps=EPS).to(values.dtype) * scale.to(values.dtype)
        turned = both if angles.own is None else turn(both, angles.own)
        queries, keys = turned.split(counts, dim=-2)
        plain_queries, plain_keys = both.split(counts, dim=-2)
        return Heads(queries, keys, values.unflatten(-1, (-1, self.head_dim)), plain_queries, plain_keys)

    def fading_pair(self, fading: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
        """Keys, turned as they are read, and values of fading tokens (B, T, D)."""
        projection = self.in_proj if self.config.tie_projections else self.fading_proj
        both = F.linear(fading, projection.weight[self.widths[0] :])
        keys, values = (part.unflatten(-1, (-1, self.head_dim)) for part in both.chunk(2, dim=-1))
        keys = normed(self.key_norm, keys) if self.config.qk_norm else keys
        return self.far_keys(keys, angles), values

    def fading_queries(self, heads: Heads, tokens: Tensor, angles: Angles) -> Tensor | None:
        """Queries that meet fading keys; `None` where they are those of the window."""
        if self.config.tie_projections:
            same = self.far == "own" or not self.config.rotary
            return None if same else self.far_queries(heads.plain_queries, angles)
        queries = F.linear(tokens, self.fading_proj.weight[: self.widths[0]])
        queries = queries.unflatten(-1, (-1, self.head_dim))
        queries = normed(self.query_norm, queries) if self.config.qk_norm else queries
        return self.far_queries(queries, angles)

    def eidetic_queries(self, heads: Heads, angles: Angles) -> Tensor | None:
        """Queries that meet kept keys; `None` where they are those of the window."""
        if self.plainly_kept:
            return None
        queries = heads.plain_queries
        if self.config.eidetic_norm:
            gain = self.eidetic_gain.unsqueeze(-1)
            queries = (normed(self.eidetic_query_norm, queries) * gain).to(queries.dtype)
        return self.far_queries(queries, angles)

    def eidetic_keys(self, heads: Heads, angles: Angles) -> Tensor:
        """Keys of tokens as they are read once they are kept."""
        return heads.keys if self.plainly_kept else self._as_kept(heads.plain_keys, angles)

    def kept_keys(self, keys: Tensor, position: Tensor) -> Tensor:
        """Keys of the window (B, T, G, d), turned where they stand, as they are read once they are kept."""
        if self.plainly_kept:
            return keys
        angles = self.angles(position, keys.dtype)
        plain = keys if angles.own is None else turn(keys, angles.own, back=True)
        return self._as_kept(plain, angles)

    def far_queries(self, queries: Tensor, angles: Angles) -> Tensor:
        """Queries turned as they meet far keys."""
        found = {"own": angles.own, "edge": angles.edge, "none": None}[self.far]
        return queries if found is None else turn(queries, found)

    def far_keys(self, keys: Tensor, angles: Angles) -> Tensor:
        """Far keys, turned."""
        return turn(keys, angles.own) if self.far == "own" and angles.own is not None else keys

    def _as_kept(self, plain: Tensor, angles: Angles) -> Tensor:
        keys = normed(self.eidetic_key_norm, plain) if self.config.eidetic_norm else plain
        return self.far_keys(keys, angles)
