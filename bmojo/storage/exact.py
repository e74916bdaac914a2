"""Exact search: the rows of largest inner product, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bmojo.storage.products import FEW, few_products
from bmojo.storage.protocol import Found, Rows

__all__ = ["exact_top", "found_rows"]

BLOCK = 4096  # rows whose keys are held in float32 at a time: what a processor's cache has room for
READERS = 2048  # queries times heads that are answered at a time
GROUP = 64  # scores of which the largest is looked at first


def exact_top(pieces: Sequence[Rows], queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""Scores and ordinals of the `r` rows of largest $q^\top k$ for each query and head.

    Parameters
    ----------
    pieces : sequence of Rows
        Disjoint; of any number of rows.
    queries : Tensor of float32, shape (n, H, d)
    count : int
        `r`.

    Returns
    -------
    scores : Tensor, shape (n, H, r)
        Descending; $-\infty$ where there are fewer rows.
    ordinals : Tensor of int64, shape (n, H, r)
        -1 where there are fewer rows.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from bmojo.storage.exact import exact_top
    >>> from bmojo.storage.protocol import Rows
    >>> keys = np.eye(3, dtype=np.float16)[:, None]
    >>> rows = Rows(10, keys, keys, np.arange(3))
    >>> exact_top([rows], torch.tensor([[[0.0, 2.0, 1.0]]]), 2)
    (tensor([[[2., 1.]]]), tensor([[[11, 12]]]))
    """
    if not len(queries) or not pieces:
        none = torch.full((*queries.shape[:2], count), -1)
        return torch.full(none.shape, -torch.inf), none
    parts = [_top(pieces, part, count) for part in queries.split(max(1, READERS // queries.shape[1]))]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _top(pieces: Sequence[Rows], queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    n, groups = len(queries), pieces[0].shape[0]
    readers = queries.unflatten(1, (groups, -1)).permute(1, 2, 0, 3).flatten(1, 2).contiguous()
    size = min(BLOCK, max(map(len, pieces)))
    keys = torch.empty(size, groups, queries.shape[2])
    product = torch.empty(groups, readers.shape[1], size)
    best = _Best(groups * readers.shape[1], count)
    for block in _blocks(pieces, size):
        scores = product[..., : len(block)]
        if readers.shape[1] <= FEW:
            few_products(np.asarray(block.keys).view(np.uint16), readers.numpy(), scores.numpy())
        else:
            keys[: len(block)].copy_(torch.from_numpy(block.keys))
            for group in range(groups):
                torch.mm(readers[group], keys[: len(block), group].T, out=scores[group])
        best.offer(scores.flatten(0, 1), block.first)
    scores, ordinals = best.ordered()
    return tuple(x.view(-1, n, count).transpose(0, 1) for x in (scores, ordinals))  # pyright: ignore


def _blocks(pieces: Sequence[Rows], size: int) -> Iterator[Rows]:
    for piece in pieces:
        for low in range(piece.first, piece.end, size):
            yield piece.between(low, low + size)


class _Best:
    """The largest scores seen so far, and their ordinals, for a number of readers."""

    def __init__(self, readers: int, count: int) -> None:
        self.scores = torch.full((readers, count), -torch.inf)
        self.ordinals = torch.full((readers, count), -1)

    def offer(self, scores: Tensor, first: int) -> None:
        """Take in the scores (readers, L) of the rows from `first` on; equal ones stay with the older."""
        (readers,) = torch.nonzero(scores.amax(1) > self.scores[:, -1], as_tuple=True)
        if not len(readers):
            return
        best, rows = _largest(scores[readers], min(self.scores.shape[1], scores.shape[1]))
        joined = torch.cat([self.scores[readers], best], dim=1)
        ordinals = torch.cat([self.ordinals[readers], rows + first], dim=1)
        joined, place = joined.topk(self.scores.shape[1])
        self.scores[readers], self.ordinals[readers] = joined, ordinals.gather(1, place)

    def ordered(self) -> tuple[Tensor, Tensor]:
        """Scores, descending, and ordinals; equal ones by age, so that the answer is always the same."""
        ordinals, order = self.ordinals.sort(dim=-1)
        scores, again = self.scores.gather(-1, order).sort(dim=-1, descending=True, stable=True)
        return scores, ordinals.gather(-1, again)


def _largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Top `count` of the scores (readers, L): the groups with the highest peaks hold all of them."""
    whole = scores.shape[1] // GROUP
    if whole < 4 * count or len(scores) < GROUP:
        return scores.topk(count)
    groups = scores[:, : whole * GROUP].unflatten(1, (whole, GROUP))
    chosen = groups.amax(-1).topk(count).indices
    inside = groups.gather(1, chosen.unsqueeze(-1).expand(-1, -1, GROUP)).flatten(1)
    rows = (chosen.unsqueeze(-1) * GROUP + torch.arange(GROUP)).flatten(1)
    rest = torch.arange(whole * GROUP, scores.shape[1]).expand(len(scores), -1)
    best, place = torch.cat([inside, scores[:, whole * GROUP :]], dim=1).topk(count)
    return best, torch.cat([rows, rest], dim=1).gather(1, place)


def found_rows(
    pieces: Sequence[Rows], scores: Tensor, ordinals: Tensor, shape: tuple[int, int, int]
) -> Found:
    """Scores and ordinals with the rows that they name.

    Parameters
    ----------
    pieces : sequence of Rows
    scores : Tensor, shape (n, H, r)
    ordinals : Tensor of int64, shape (n, H, r)
        -1 where there is none.
    shape : tuple of int
        Heads `G`, key width `d`, value width `d_v`.
    """
    groups, key_width, value_width = shape
    heads = torch.arange(ordinals.shape[1]) // max(1, ordinals.shape[1] // groups)
    heads = heads[:, None].expand_as(ordinals)
    keys = torch.zeros(*ordinals.shape, key_width, dtype=torch.float16)
    values = torch.zeros(*ordinals.shape, value_width, dtype=torch.float16)
    positions = torch.full_like(ordinals, -1)
    for piece in pieces:
        inside = (ordinals >= piece.first) & (ordinals < piece.end)
        rows, group = (ordinals[inside] - piece.first).numpy(), heads[inside].numpy()
        keys[inside] = torch.from_numpy(piece.keys[rows, group])
        values[inside] = torch.from_numpy(piece.values[rows, group])
        positions[inside] = torch.from_numpy(piece.positions[rows])
    return Found(scores, ordinals, positions, keys, values)
