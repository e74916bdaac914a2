"""Controls of question 2: places for the pairs themselves, and choice at query time among all tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.convolution import CausalConv
from bmojo.eidetic.predictor import Evidence, PredictorState
from bmojo.eidetic.predictors import PREDICTORS
from bmojo.fading import Mamba2, register_mixer
from bmojo.rotary import rotate

__all__ = ["EarliestFirst", "QueryBlocks", "register"]


class EarliestFirst(nn.Module):
    """What a predictor would say that knew the task: the earlier a token, the higher its score.

    Gap recall begins with its pairs, so that places for as many tokens as the pairs have hold these and
    nothing else. It learns nothing.

    Examples
    --------
    >>> import torch
    >>> from bmojo.eidetic.predictor import Evidence
    >>> EarliestFirst()(Evidence(torch.zeros(1, 3, 2)))[0].tolist()
    [[0.0, -1.0, -2.0]]
    """

    def init_state(self, batch: int) -> PredictorState:
        """Tokens seen so far, int64 (B, 1)."""
        return (torch.zeros(batch, 1, dtype=torch.int64),)

    def forward(
        self, seen: Evidence, state: PredictorState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, PredictorState]:
        """Scores (B, T), a loss of zero, and the new state."""
        batch, length = seen.tokens.shape[:2]
        start = seen.tokens.new_zeros(batch, 1, dtype=torch.int64) if state is None else state[0]
        position = start.to(seen.tokens.device) + torch.arange(length, device=seen.tokens.device)
        return -position.to(seen.tokens.dtype), seen.tokens.new_zeros(()), (start + length,)


class QueryBlocks(nn.Module):
    r"""Attention that chooses when it is asked: over the window and the best blocks of all that left it.

    A block's worth to a query is the inner product with the mean of its keys; of the blocks that have left
    the window whole, each head of each query reads the best `m / block`, under one softmax with the window,
    and a fading token is added, as in the layer that it stands beside. It reads as many keys a query as that
    one, looks at a mean for every block besides, and keeps keys and values of *every* token: `2 T D` numbers
    after `T` tokens, without a bound. No gradient goes through the choice.

    Parameters
    ----------
    d_model, heads : int
    state_size : int
        Of the fading memory.
    window : int
    read : int
        `m`: keys beyond the window that a query reads.
    block : int
        Tokens of a block; must divide `read`.

    References
    ----------
    E. Lu et al., *MoBA: Mixture of Block Attention for Long-Context LLMs*, 2025 (choice by mean keys).

    Examples
    --------
    >>> layer = QueryBlocks(8, 2, 4, window=4, read=4, block=2)
    >>> out, _ = layer(torch.randn(3, 20, 8))
    >>> out.shape
    torch.Size([3, 20, 8])
    """

    def __init__(
        self, d_model: int, heads: int, state_size: int, *, window: int = 8, read: int = 16, block: int = 4
    ) -> None:
        super().__init__()
        self.heads, self.window, self.block, self.count = heads, window, block, read // block
        self.fading = Mamba2(d_model, heads, state_size)
        self.conv = CausalConv(d_model, 4)
        self.in_proj = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)
        self.query_norm, self.key_norm = (nn.RMSNorm(d_model // heads, eps=1e-6) for _ in range(2))

    def init_state(self, batch: int) -> tuple[Tensor, ...]:
        """The tokens seen so far, none: (B, 0, D)."""
        weight = self.out_proj.weight
        return (weight.new_zeros(batch, 0, weight.shape[0]),)

    def forward(
        self, u: Tensor, state: tuple[Tensor, ...] | None = None, **_: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs (B, T, D); from a state, all that was seen is gone through once more."""
        length = u.shape[1]
        u = u if state is None else torch.cat([state[0], u], dim=1)
        fading, _ = self.fading(u)
        tokens, _ = self.conv(u)
        q, k, v = (x.unflatten(-1, (self.heads, -1)) for x in self.in_proj(tokens).chunk(3, dim=-1))
        q, k = self.query_norm(q), self.key_norm(k)
        read = self.read(q, k, v).flatten(-2)
        return (self.out_proj(read) + fading)[:, -length:], (u,)

    def read(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the queries (B, T, H, d) read; near keys are turned, far ones are not."""
        position = torch.arange(q.shape[1], device=q.device)
        back = position[:, None] - position
        near = (back >= 0) & (back < self.window)
        turned = (rotate(x, position) for x in (q, k))
        close, far = (torch.einsum("bthd,bshd->bhts", *pair) for pair in (tuple(turned), (q, k)))
        logits = torch.where(near, close, far) / math.sqrt(q.shape[-1])
        logits = logits.masked_fill(~(near | self.chosen(q, k)), -torch.inf)
        return torch.einsum("bhts,bshd->bthd", logits.softmax(-1), v)

    @torch.no_grad()
    def chosen(self, q: Tensor, k: Tensor) -> Tensor:
        """Which keys each query reads beyond its window, bool (B, H, T, T)."""
        length, blocks = q.shape[1], q.shape[1] // self.block
        means = k[:, : blocks * self.block].unflatten(1, (blocks, self.block)).mean(2)
        worth = torch.einsum("bthd,bnhd->bhtn", q, means)
        last = torch.arange(1, blocks + 1, device=q.device) * self.block - 1
        left = last <= torch.arange(length, device=q.device)[:, None] - self.window
        worth = worth.masked_fill(~left, -torch.inf)
        best = worth.topk(min(self.count, blocks), dim=-1).indices
        kept = torch.zeros_like(worth, dtype=torch.bool).scatter(-1, best, True) & left
        return F.pad(kept.repeat_interleave(self.block, dim=-1), (0, length - blocks * self.block))


def register() -> None:
    """Let configurations name both: `predictor = "earliest"`, `mixer = "query_blocks"`."""
    PREDICTORS.setdefault("earliest", lambda config: EarliestFirst())
    register_mixer("query_blocks", QueryBlocks)
