r"""Selection of tokens: what a rule ranks by, the sets of a piece, and the set that is carried on.

A set is carried as places: positions (-1 is empty), priorities ($-\infty$ where empty), keys and values, in
order of position with the empty places in front. It holds the best of the positions that have left the
window; those that are still in it are judged by the priorities of the window's ring.
"""

from __future__ import annotations

import bmojo_kernels as bk
import torch
from torch import Tensor

__all__ = ["absorbed", "advanced", "chunk_rows", "hashed", "priorities", "seen_places", "take"]


def priorities(
    scores: Tensor,
    norms: Tensor,
    position: Tensor,
    *,
    rule: str,
    threshold: float | None,
    seed: Tensor | None,
) -> Tensor:
    r"""What `rule` ranks by, so that every rule is "keep the `m` largest, ties to the older".

    Parameters
    ----------
    scores : Tensor, shape (B, T)
        Normalized innovations squared.
    norms : Tensor, shape (B, T)
        Squared norms of the tokens, for the control of that name.
    position : Tensor of int64, shape (T,) or (B, T)
        In the sequence itself.
    rule : {"top", "threshold", "fifo", "random", "norm"}
    threshold : float, optional
        That a score has to exceed, for the rule of that name.
    seed : Tensor of int64, shape (), optional
        For `random`.

    Returns
    -------
    priority : Tensor, shape (B, T)
        $-\infty$ is never kept.
    """
    if rule == "top":
        return scores
    if rule == "norm":
        return norms
    time = position.expand_as(scores).double()
    if rule == "fifo":
        return time
    if rule == "threshold" and threshold is not None:
        return torch.where(scores > threshold, time, -torch.inf)
    return hashed(position, seed).expand_as(time)


def hashed(position: Tensor, seed: Tensor | None) -> Tensor:
    """Uniform numbers in [0, 1) from position and seed, those of `bmojo_kernels.selection_priority`.

    Parameters
    ----------
    position : Tensor of int64, shape (...)
    seed : Tensor of int64, shape (), optional
    """
    z = position + _signed(0x9E3779B97F4A7C15)
    if seed is not None:
        z = z + seed * _signed(0xD1B54A32D192ED03)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return _shifted(z ^ _shifted(z, 31), 11).double() / 2.0**53


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right: int64 shifts its sign in."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def chunk_rows(kept: Tensor, priority: Tensor, *, position: int, window: int, chunk: int) -> Tensor:
    """Sets at the start of every chunk that a piece touches, as rows of the pool [places, window, piece].

    The pool's priorities are one stream, moved so that chunks begin where they begin.

    Parameters
    ----------
    kept : Tensor, shape (B, m)
        Priorities of the places.
    priority : Tensor, shape (B, window + T)
        Of the last `window` positions, then of the piece.
    position : int
        Of the piece's first token.
    window, chunk : int

    Returns
    -------
    rows : Tensor of int64, shape (B, chunks, m)
        -1 is an empty place.
    """
    places, length = kept.shape[1], priority.shape[1] - window
    front = (position - window - places) % chunk
    blank = kept.new_full((len(kept), front), -torch.inf)
    stream = torch.cat([blank, kept, priority.to(kept.dtype)], dim=1)
    found = bk.innovation_topk(stream, budget=places, window=window, chunk=chunk)
    first = (position // chunk * chunk - position + window + places + front) // chunk
    count = -(-(position + length) // chunk) - position // chunk
    rows = found[:, first : first + count]
    return torch.where(rows < 0, rows, rows - front)


def absorbed(index: Tensor, priority: Tensor, places: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best `places` of positions in order of time, and where they were.

    Parameters
    ----------
    index : Tensor of int64, shape (B, L)
        Positions, ascending, -1 where there is none.
    priority : Tensor, shape (B, L)
    places : int

    Returns
    -------
    rows : Tensor of int64, shape (B, places)
        In `index`.
    index : Tensor of int64, shape (B, places)
    priority : Tensor, shape (B, places)
    """
    best = priority.argsort(dim=1, descending=True, stable=True)[:, :places]
    worth = priority.gather(1, best)
    found = torch.where(worth > -torch.inf, index.gather(1, best), -1)
    found, order = found.sort(dim=1, stable=True)
    return best.gather(1, order), found, worth.gather(1, order)


def advanced(index: Tensor, priority: Tensor, leaving: int, worth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The set once the position `leaving` has left the window: the least of both is dropped.

    Parameters
    ----------
    index : Tensor of int64, shape (B, m)
    priority : Tensor, shape (B, m)
    leaving : int
    worth : Tensor, shape (B,)
        Its priority.

    Returns
    -------
    rows : Tensor of int64, shape (B, m)
        In the places with the new one behind them.
    index : Tensor of int64, shape (B, m)
    priority : Tensor, shape (B, m)
    """
    places = index.shape[1]
    index = torch.cat([index, index.new_full((len(index), 1), leaving)], dim=1)
    priority = torch.cat([priority, worth.to(priority.dtype).unsqueeze(1)], dim=1)
    dropped = places - priority.flip(1).argmin(1, keepdim=True)  # of the least ones the latest
    rows = torch.arange(places, device=index.device)
    rows = rows + (rows >= dropped)
    return rows, index.gather(1, rows), priority.gather(1, rows)


def take(pool: Tensor, rows: Tensor) -> Tensor:
    """Rows (B, m) of a pool (B, L, ...), as (B, m, ...)."""
    wide = rows.view(*rows.shape, *(1,) * (pool.ndim - 2)).expand(-1, -1, *pool.shape[2:])
    return pool.gather(1, wide)


def seen_places(priority: Tensor, pending: Tensor) -> Tensor:
    """Places that stay in the set of a chunk when those that leave the window before it ends are counted in.

    Parameters
    ----------
    priority : Tensor, shape (B, m)
        Of the places, in order of position.
    pending : Tensor, shape (B, r)
        Of the positions that will leave the window; they are younger than all places.

    Returns
    -------
    seen : Tensor of bool, shape (B, m)
    """
    places = priority.shape[1]
    order = priority.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(places, device=order.device).expand_as(order)
    )
    better = (pending.unsqueeze(1) > priority.unsqueeze(2)).sum(-1)
    return rank + better < places
