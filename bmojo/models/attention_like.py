"""A B'MOJO layer with what attention layers of other models have and it has not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.backends import normed, state_dtype
from bmojo.config import BMojoConfig
from bmojo.layer import BMojo
from bmojo.projections import EPS, Angles, Heads
from bmojo.rotary import Table

__all__ = ["AttentionLike"]


class AttentionLike(BMojo):
    r"""`BMojo` with biases, other rotary frequencies, and norms of their own for the fading stream.

    Parameters
    ----------
    config : BMojoConfig
        With a window.
    bias : bool
        Of the projections to queries, keys and values, of both streams.
    out_bias : bool
        Of the projection behind attention.
    frequencies : sequence of float, optional
        Angle per token of each of the `head_dim / 2` pairs, in place of $b^{-2i/d}$, as models with scaled
        rotary positions have them.
    fading_norms : bool
        The fading stream's queries and keys have norms of their own (with projections of their own).

    Raises
    ------
    ValueError
        If an option would have no effect, or the frequencies are not as many as there are pairs.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig
    >>> from bmojo.models import AttentionLike
    >>> config = BMojoConfig(d_model=16, heads=2, window=4, short_conv=0)
    >>> layer = AttentionLike(config, bias=True, frequencies=[1.0, 0.1, 0.01, 0.001])
    >>> layer(torch.randn(1, 9, 16)).shape, layer.in_proj.bias.shape
    (torch.Size([1, 9, 16]), torch.Size([48]))
    """

    def __init__(
        self,
        config: BMojoConfig,
        *,
        bias: bool = False,
        out_bias: bool = False,
        frequencies: Sequence[float] | None = None,
        fading_norms: bool = False,
    ) -> None:
        super().__init__(config)
        separate = config.mixer != "none" and not config.tie_projections
        if not config.window:
            raise ValueError("AttentionLike: window=0 came, which leaves no attention; take BMojo.")
        if fading_norms and not (separate and config.qk_norm):
            raise ValueError(
                "AttentionLike: fading_norms=True came, and the fading stream has no projections of its own "
                "with norms; it needs qk_norm=True, tie_projections=False and a mixer."
            )
        if frequencies is not None and (not config.rotary or len(frequencies) != self.head_dim // 2):
            raise ValueError(
                f"AttentionLike: {len(frequencies)} frequencies came with rotary={config.rotary}, head_dim="
                f"{self.head_dim}; rotary positions need half of head_dim."
            )
        self.frequencies = None if frequencies is None else tuple(float(f) for f in frequencies)
        width, inner = config.d_model, config.heads * self.head_dim
        if bias:
            self.in_proj = nn.Linear(width, sum(self.widths))
            if separate:
                self.fading_proj = nn.Linear(width, sum(self.widths))
        if out_bias:
            self.out_proj = nn.Linear(inner, width)
        self.fading_norms = fading_norms
        if fading_norms:
            self.fading_query_norm = nn.RMSNorm(self.head_dim, eps=EPS)
            self.fading_key_norm = nn.RMSNorm(self.head_dim, eps=EPS)

    def angles(self, position: Tensor, dtype: torch.dtype) -> Angles:
        """Rotations for tokens at `position` (T,) or (B, T)."""
        if self.frequencies is None:
            return super().angles(position, dtype)
        kind = state_dtype(dtype)
        frequencies = torch.tensor(self.frequencies, dtype=torch.float64, device=position.device)

        def table(at: Tensor) -> Table:
            angle = (at.unsqueeze(-1) * frequencies).unsqueeze(-2)
            return angle.cos().to(kind), angle.sin().to(kind)

        if self.far != "edge":
            return Angles(table(position), None)
        return Angles(table(position), table(torch.full((1,), self.config.window, device=position.device)))

    def fading_pair(self, fading: Tensor, angles: Angles) -> tuple[Tensor, Tensor]:
        """Keys, turned as they are read, and values of fading tokens (B, T, D)."""
        projection = self.in_proj if self.config.tie_projections else self.fading_proj
        keys, values = self._projected(projection, fading, slice(self.widths[0], None)).chunk(2, dim=-2)
        if self.config.qk_norm:
            norm = self.fading_key_norm if self.fading_norms else self.key_norm
            keys = normed(norm, keys)
        return self.far_keys(keys, angles), values

    def fading_queries(self, heads: Heads, tokens: Tensor, angles: Angles) -> Tensor | None:
        """Queries that meet fading keys; `None` where they are those of the window."""
        if self.config.tie_projections:
            return super().fading_queries(heads, tokens, angles)
        queries = self._projected(self.fading_proj, tokens, slice(None, self.widths[0]))
        if self.config.qk_norm:
            norm = self.fading_query_norm if self.fading_norms else self.query_norm
            queries = normed(norm, queries)
        return self.far_queries(queries, angles)

    def _projected(self, projection: nn.Linear, x: Tensor, rows: slice) -> Tensor:
        """Heads (B, T, H', d) by some rows of a projection."""
        bias = None if projection.bias is None else projection.bias[rows]
        return F.linear(x, projection.weight[rows], bias).unflatten(-1, (-1, self.head_dim))
