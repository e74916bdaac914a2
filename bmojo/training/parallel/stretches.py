"""Sequences of several lengths over several processes: which tokens of a part a layer passes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["Laid", "Stretch", "masked", "packed"]


@dataclass(frozen=True, eq=False)
class Stretch:
    """Tokens of a part that a layer passes at once: from one state, or whole sequences packed.

    Parameters
    ----------
    rows : Tensor of int64, shape (b, n)
        Where they lie in the flattened part.
    start : int
        Tokens of their sequences in the parts before.
    lines : Tensor of int64, shape (b,)
        Which rows of the state are theirs.
    goes : bool
        Whether the state after them is given on.
    edges : Tensor of int64, shape (S + 1,), optional
        Of sequences that begin and end in the part.
    """

    rows: Tensor
    start: int
    lines: Tensor
    goes: bool
    edges: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Laid:
    """A process's part of sequences that begin and end anywhere.

    Parameters
    ----------
    shape : tuple of int
        `(B, T)` of the part.
    stretches : tuple of Stretch
        Those that need nothing of the part before come first.
    states : int
        Rows of the state that is passed.
    comes, goes : bool
        Whether a state comes from the part before, and goes to the next.
    tokens, total : int
        Without padding, of the part and of all parts.
    """

    shape: tuple[int, int]
    stretches: tuple[Stretch, ...]
    states: int
    comes: bool
    goes: bool
    tokens: int
    total: int


def packed(cu_seqlens: Tensor, part: slice) -> Laid:
    """Of sequences packed behind one another.

    A state is passed only where a sequence is cut, and what is cut off at the end is computed first: it does
    not wait for what was cut off at the beginning.

    Parameters
    ----------
    cu_seqlens : Tensor of int, shape (S + 1,)
    part : slice
        Of the packed tokens.

    Raises
    ------
    ValueError
        If the edges do not begin at 0, or fall.

    Examples
    --------
    >>> import torch
    >>> from bmojo.training.parallel.stretches import packed
    >>> laid = packed(torch.tensor([0, 3, 5, 9, 16]), slice(4, 12))
    >>> [(s.rows.tolist(), s.start, s.goes) for s in laid.stretches]
    [([[5, 6, 7]], 0, True), ([[1, 2, 3, 4]], 0, False), ([[0]], 1, False)]
    """
    edges, device = cu_seqlens.tolist(), cu_seqlens.device
    if cu_seqlens.ndim != 1 or len(edges) < 2 or edges[0] or edges != sorted(edges):
        raise ValueError(f"ContextParallel: cu_seqlens {edges} came; edges begin at 0 and never fall.")
    first, last = part.start, part.stop
    line = torch.zeros(1, dtype=torch.int64, device=device)

    def rows(low: int, high: int) -> Tensor:
        return torch.arange(low - first, high - first, device=device).unsqueeze(0)

    stretches, inside = [], []
    for low, high in pairwise(edges):
        if high <= first or low >= last or low == high:
            continue
        if first <= low and high <= last:
            inside.append((low, high))
            continue
        own = rows(max(low, first), min(high, last))
        stretches.append(Stretch(own, max(first - low, 0), line, goes=high > last))
    if inside:
        whole = torch.tensor([low for low, _ in inside] + [inside[-1][1]], device=device)
        own = rows(inside[0][0], inside[-1][1])
        stretches.append(Stretch(own, 0, line, goes=False, edges=whole - inside[0][0]))
    stretches.sort(key=lambda stretch: (stretch.start > 0, not stretch.goes))
    comes, goes = any(s.start for s in stretches), any(s.goes for s in stretches)
    return Laid((1, last - first), tuple(stretches), 1, comes, goes, last - first, edges[-1])


def masked(mask: Tensor, parts: Sequence[slice], rank: int) -> Laid:
    """Of padded sequences: rows with as many tokens before and in the part go together.

    Parameters
    ----------
    mask : Tensor of bool, shape (B, T)
        Of the whole sequences; False where there is padding.
    parts : sequence of slice
        Of all processes.
    rank : int
        Whose part is laid.

    Raises
    ------
    ValueError
        If a process has padding alone.

    Examples
    --------
    >>> import torch
    >>> from bmojo.training.parallel.stretches import masked
    >>> mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    >>> laid = masked(mask, [slice(0, 2), slice(2, 4)], 1)
    >>> [(s.rows.tolist(), s.start, s.lines.tolist()) for s in laid.stretches]
    [([[2, 3]], 0, [1]), ([[0, 1]], 2, [0])]
    """
    for number, part in enumerate(parts):
        if not bool(mask[:, part].any()):
            raise ValueError(
                f"ContextParallel: a mask came that leaves process {number}, with tokens {part.start} to "
                f"{part.stop - 1}, padding alone; pack the sequences (cu_seqlens), so that tokens are shared "
                "out evenly."
            )
    part, device = parts[rank], mask.device
    before, own, behind = (
        mask[:, low:high].sum(1).tolist()
        for low, high in ((0, part.start), (part.start, part.stop), (part.stop, None))
    )
    comes = any(b and (n or a) for b, n, a in zip(before, own, behind, strict=True))
    goes = any((b or n) and a for b, n, a in zip(before, own, behind, strict=True))
    groups: dict[tuple[int, int], list[int]] = {}
    for line, (start, count) in enumerate(zip(before, own, strict=True)):
        if count:
            groups.setdefault((start, count), []).append(line)
    there, width = mask[:, part], part.stop - part.start
    places = torch.arange(there.numel(), device=device).view_as(there)
    stretches = []
    for (start, count), lines in sorted(groups.items(), key=lambda item: item[0][0]):
        chosen = torch.tensor(lines, device=device)
        rows = places[chosen][there[chosen]].view(len(lines), count)
        stretches.append(Stretch(rows, start, chosen, goes))
    return Laid((len(mask), width), tuple(stretches), len(mask), comes, goes, sum(own), int(mask.sum()))
