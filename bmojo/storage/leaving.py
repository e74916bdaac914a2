"""What leaves the eidetic set, chunk by chunk: the rows that go into a store."""

from __future__ import annotations

from dataclasses import dataclass

import bmojo_kernels as bk
import torch
from torch import Tensor

__all__ = ["Leaving", "leaving"]


@dataclass(frozen=True, eq=False)
class Leaving:
    """Rows that leave at the chunk starts of a piece.

    Parameters
    ----------
    rows : Tensor of int64, shape (B, starts, m + C)
        For each chunk that starts in the piece, in order of time: rows of the pool [places, window, piece]
        that are in the set no longer, or found no place in it; -1 where there is none.
    limit : Tensor of int64, shape (B, chunks)
        For each chunk that the piece touches, how many have left up to its start since the piece began.
    """

    rows: Tensor
    limit: Tensor


def leaving(
    kept: Tensor, priority: Tensor, *, position: int, window: int, chunk: int, floor: float = -torch.inf
) -> Leaving:
    r"""What is in the set no longer at each chunk start, of what was in it or came to its door.

    $$L_c = \big(M_{c-1} \cup \{ j : e_{c-1} < j \le e_c \}\big) \setminus M_c$$

    with $e_c = cC - (w - C + 1)$ as in `bmojo_kernels.innovation_topk`. So each position up to $e_c$ whose
    priority reaches the floor is in the set, or has left it in one of the chunks up to `c`, whether they
    came at once, in pieces or one by one.

    Parameters
    ----------
    kept : Tensor, shape (B, m)
        Priorities of the places, in order of position; $-\infty$ where empty.
    priority : Tensor, shape (B, window + T)
        Of the last `window` positions ($-\infty$ before the first), then of the piece.
    position : int
        Of the piece's first token.
    window, chunk : int
    floor : float
        Priority below which what leaves is worth nothing.

    Returns
    -------
    Leaving

    Examples
    --------
    >>> import torch
    >>> from bmojo.storage.leaving import leaving
    >>> inf = torch.inf
    >>> priority = torch.tensor([[-inf, -inf, 3.0, 5.0, 4.0, 1.0, 0.0, 0.0]])  # two before the first token
    >>> found = leaving(torch.tensor([[-inf]]), priority, position=0, window=2, chunk=2)
    >>> found.rows[0].tolist(), found.limit[0].tolist()  # row 0 is the place, row 3 the first token
    ([[-1, -1, -1], [-1, 3, -1], [-1, 5, 6]], [0, 1, 3])
    """
    places, length = kept.shape[1], priority.shape[1] - window
    first, last = -(-position // chunk), (position + length - 1) // chunk
    starts = last - first + 1
    stream = torch.cat([kept, priority.to(kept.dtype)], dim=1)
    low = places + first * chunk - position  # row of the first position that is judged at the first start
    front = -low % chunk
    blank = stream.new_full((len(stream), max(front, 1)), -torch.inf)
    padded = torch.cat([blank[:, :front], stream[:, : low + starts * chunk], blank[:, :1]], dim=1)
    sets = bk.innovation_topk(padded, budget=places, window=chunk, chunk=chunk)
    begin = (low + front) // chunk
    sets = torch.where(sets < 0, sets, sets - front)[:, begin : begin + starts + 1]
    came = torch.arange(low, low + starts * chunk, device=kept.device).view(1, starts, chunk)
    judged = torch.cat([sets[:, :-1], came.expand(len(kept), -1, -1)], dim=2)
    stays = (judged.unsqueeze(-1) == sets[:, 1:].unsqueeze(-2)).any(-1)
    worth = stream.gather(1, judged.clamp_min(0).flatten(1)).view_as(judged)
    gone = (judged >= 0) & ~stays & (worth > -torch.inf) & (worth >= floor)
    limit = gone.sum(-1).cumsum(1)
    if position % chunk:  # the piece begins inside a chunk, for which all has been done
        limit = torch.cat([limit.new_zeros(len(limit), 1), limit], dim=1)
    return Leaving(torch.where(gone, judged, -1), limit)
