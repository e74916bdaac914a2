"""Selection of tokens: the streaming rule of signals, with positions turned into rows of a pool of keys."""

from __future__ import annotations

import bmojo_kernels as bk
import numpy as np
import torch
from scipy.special import chdtri
from torch import Tensor

__all__ = ["advance_set", "pool_rows", "token_priority"]


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
    threshold = float(chdtri(degrees, false_alarm)) if rule == "threshold" else None
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
        Positions of the pool's first `m` rows.
    start : int

    Returns
    -------
    rows : Tensor of int64, shape (B, chunks, m)
        Row 0 stands in for an empty place.
    """
    recent = kept.shape[1] + index - start
    match = (index.unsqueeze(-1) == kept[:, None, None]).long().argmax(-1)
    return torch.where(index >= start, recent, match).clamp_min(0)
