"""Selection of tokens: the streaming rule of signals, with positions turned into rows of a pool of keys."""

from __future__ import annotations

from dataclasses import dataclass

import bmojo_kernels as bk
import numpy as np
import torch
from torch import Tensor

from realization.filtering.innovations import chi_squared_quantile

__all__ = ["Judged", "advance_set", "pool_rows", "take", "token_priority"]


@dataclass(frozen=True, eq=False)
class Judged:
    """What a piece's tokens were worth, and the sets that follow from it.

    Parameters
    ----------
    scores : Tensor, shape (B, T)
    priority : Tensor, shape (B, w + T)
        What the rule ranks by, of the window before the piece and of the piece.
    log_gate : Tensor, shape (B, m + w + T), or None
        Of the places, that window, and the piece; where there is a write gate.
    index : Tensor of int64, shape (B, chunks, m)
        The set at the start of every chunk.
    kept, kept_priority : Tensor, shape (B, m)
        The set that the next piece goes on from.
    predictor_tail : Tensor, shape (B, taps, D)
    loss : Tensor, a scalar
        Mean squared innovation; carries the predictor's gradient.
    """

    scores: Tensor
    priority: Tensor
    log_gate: Tensor | None
    index: Tensor
    kept: Tensor
    kept_priority: Tensor
    predictor_tail: Tensor
    loss: Tensor


def token_priority(
    score: Tensor, norm: Tensor, *, rule: str, start: int, degrees: int, false_alarm: float
) -> Tensor:
    """What `rule` ranks tokens by, in float64.

    Parameters
    ----------
    score : Tensor, shape (B, T)
        Normalized innovations squared.
    norm : Tensor, shape (B, T)
        Squared norms of the tokens, for the control of that name.
    rule : str
    start : int
        Position of the first token.
    degrees : int
        Channels: an ordinary token's score follows a chi-squared law of this many degrees of freedom.
    false_alarm : float
        Of `rule="threshold"`.
    """
    ranked = norm if rule == "norm" else score
    threshold = chi_squared_quantile(false_alarm, degrees) if rule == "threshold" else None
    values = ranked.detach().to("cpu", torch.float64).numpy()
    priority = bk.selection_priority(values, rule=rule, threshold=threshold, start=start)
    return torch.from_numpy(np.array(priority)).to(score.device)


def advance_set(
    index: Tensor, kept_priority: Tensor, priority: Tensor, *, position: int, window: int, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sets at the start of every chunk of a piece, and the set that the next piece goes on from.

    Parameters
    ----------
    index, kept_priority : Tensor, shape (B, m)
    priority : Tensor, shape (B, window + T)
        Of the last `window` positions, then of the piece.
    position : int
        Tokens seen before the piece.
    window, chunk : int

    Returns
    -------
    chunk_index : Tensor of int64, shape (B, chunks, m)
    index, kept_priority : Tensor, shape (B, m)
    """
    kept = bk.KeptSet(index.cpu().numpy(), kept_priority.cpu().numpy(), position)
    seen = priority[:, max(0, window - position) :].cpu().numpy()
    chunk_index, kept = kept.advance(seen, window=window, chunk=chunk)
    return (
        torch.from_numpy(chunk_index).to(index.device),
        torch.from_numpy(kept.index).to(index.device),
        torch.from_numpy(kept.priority).to(index.device),
    )


def pool_rows(index: Tensor, kept: Tensor, start: int) -> Tensor:
    """Rows of positions in a pool that holds the kept tokens first, then all positions from `start` on.

    Parameters
    ----------
    index : Tensor of int64, shape (B, chunks, m)
        Positions, -1 where empty.
    kept : Tensor of int64, shape (B, m)
        Positions of the pool's first `m` rows, ascending, empty places last.
    start : int

    Returns
    -------
    rows : Tensor of int64, shape (B, chunks, m)
        Row 0 stands in for an empty place.
    """
    recent = kept.shape[1] + index - start
    ascending = torch.where(kept < 0, torch.iinfo(kept.dtype).max, kept)
    match = torch.searchsorted(ascending, index.flatten(1)).view_as(index)
    return torch.where(index >= start, recent, match).clamp_min(0)


def take(pool: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, n, m) of a pool (B, L, ...), as (B, n, m, ...)."""
    batch, length = pool.shape[:2]
    offset = torch.arange(batch, device=pool.device)[:, None, None] * length
    return pool.flatten(0, 1).index_select(0, (rows + offset).flatten()).unflatten(0, rows.shape)
