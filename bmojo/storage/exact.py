"""Exact search: the rows of largest inner product, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bmojo.storage.protocol import Found, Rows

__all__ = ["exact_top", "found_rows"]

SCORES = 1 << 22  # scores held at a time, in numbers
QUERIES = 256


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
    if not len(queries):
        return queries.new_empty(0, queries.shape[1], count), torch.empty(0, queries.shape[1], count).long()
    parts = [_top(pieces, part, count) for part in queries.split(QUERIES)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _top(pieces: Sequence[Rows], queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    n, heads, _ = queries.shape
    scores = torch.full((n, heads, count), -torch.inf)
    ordinals = torch.full((n, heads, count), -1)
    size = max(256, SCORES // max(1, n * heads))
    for block in _blocks(pieces, size):
        keys = torch.from_numpy(block.keys).float().permute(1, 2, 0)  # (G, d, rows)
        readers = queries.unflatten(1, (keys.shape[0], -1)).permute(1, 2, 0, 3).flatten(1, 2)
        product = (readers @ keys).unflatten(1, (-1, n)).flatten(0, 1).transpose(0, 1)
        best, rows = _largest(product, min(count, len(block)))
        scores, place = torch.cat([scores, best], dim=-1).topk(count)
        ordinals = torch.cat([ordinals, rows + block.first], dim=-1).gather(-1, place)
    # Equal scores stand in the order of their ordinals, so that the answer is the same every time.
    ordinals, order = ordinals.sort(dim=-1)
    scores, again = scores.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return scores, ordinals.gather(-1, again)


def _blocks(pieces: Sequence[Rows], size: int) -> Iterator[Rows]:
    for piece in pieces:
        for low in range(piece.first, piece.end, size):
            yield piece.between(low, low + size)


def _largest(scores: Tensor, count: int, group: int = 64) -> tuple[Tensor, Tensor]:
    """Top `count` along the last axis, in two steps: the best groups hold all of the best entries."""
    groups = scores.shape[-1] // group
    if groups < 4 * count:
        return scores.topk(count)
    whole = scores[..., : groups * group].unflatten(-1, (groups, group))
    chosen = whole.amax(-1).topk(count).indices
    inside = whole.gather(-2, chosen.unsqueeze(-1).expand(*chosen.shape, group)).flatten(-2)
    rows = (chosen.unsqueeze(-1) * group + torch.arange(group)).flatten(-2)
    rest = torch.arange(groups * group, scores.shape[-1]).expand(*scores.shape[:-1], -1)
    candidates = torch.cat([inside, scores[..., groups * group :]], dim=-1)
    best, place = candidates.topk(count)
    return best, torch.cat([rows, rest], dim=-1).gather(-1, place)


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
