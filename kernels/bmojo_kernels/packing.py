"""Sequences packed one after the other along time: where each begins, and each on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bmojo_kernels.backends import empty_like, is_tensor

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["apart", "check_packing", "chunk_rows", "kept_rows", "offsets", "sequence_count"]


def check_packing(operation: str, batch: int, cu_seqlens: Any) -> None:
    """Refuse sequence bounds of a wrong shape or dtype, and packed sequences beside a batch."""
    if cu_seqlens is None:
        return
    kind = str(cu_seqlens.dtype).removeprefix("torch.")
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 1 or kind not in ("int32", "int64"):
        raise ValueError(
            f"{operation}: cu_seqlens {tuple(cu_seqlens.shape)} of {kind} came; (S + 1,) of int32 or int64, "
            "from 0 to T, is needed."
        )
    if batch != 1:
        raise ValueError(
            f"{operation}: a batch of {batch} came with cu_seqlens; packed sequences lie along time in a "
            "batch of 1: x.flatten(0, 1).unsqueeze(0)."
        )


def sequence_count(batch: int, cu_seqlens: Any) -> int:
    """Number of states: one for each sequence."""
    return batch if cu_seqlens is None else len(cu_seqlens) - 1


def offsets(operation: str, batch: int, length: int, cu_seqlens: Any) -> NDArray[np.int64]:
    """Rows (S + 1,) at which sequences begin when (B, T) is one axis; refuses bounds that do not part it."""
    if cu_seqlens is None:
        return np.arange(batch + 1, dtype=np.int64) * length
    bounds = np.asarray(cu_seqlens.detach().cpu() if is_tensor(cu_seqlens) else cu_seqlens).astype(np.int64)
    if bounds[0] != 0 or bounds[-1] != batch * length or (np.diff(bounds) < 0).any():
        raise ValueError(
            f"{operation}: cu_seqlens {bounds.tolist()} came for {length} steps; it must begin at 0, end at "
            f"{length} and never fall."
        )
    return bounds


def apart(
    operation: str,
    scan: Callable[..., tuple[Tensor, ...]],
    tensors: Sequence[Tensor],
    states: Sequence[Tensor],
    cu_seqlens: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    """What packed sequences mean: `scan(*tensors, *states, *options)` of each alone.

    Results whose second axis is time are put one after the other again, the others along the first axis.
    `scan` returns outputs along time first, then as many states as came.
    """
    import torch

    if cu_seqlens is None:
        return scan(*tensors, *states, *options)
    bounds = offsets(operation, 1, tensors[0].shape[1], cu_seqlens)
    parts = [
        scan(*(x[:, low:high] for x in tensors), *(h[i : i + 1] for h in states), *options)
        for i, (low, high) in enumerate(pairwise(bounds.tolist()))
    ]
    if not parts:
        return scan(*(x[:0] for x in tensors), *states, *options)
    along = len(parts[0]) - len(states)
    return tuple(torch.cat(piece, 1 if i < along else 0) for i, piece in enumerate(zip(*parts, strict=True)))


def chunk_rows(batch: int, length: int, cu_seqlens: Tensor | None, chunk: int) -> int:
    """Rows that hold one entry for each chunk; no fewer than chunks where sequences are packed."""
    if cu_seqlens is None:
        return batch * -(-length // chunk)
    return length // chunk + len(cu_seqlens) - 1


def kept_rows(state: Tensor, rows: int, cu_seqlens: Tensor | None) -> Tensor:
    """Room for so many states like those of `state` (S, ...); zero where packing may leave some unused."""
    room = state.new_empty(rows, *state.shape[1:])
    return empty_like(room) if cu_seqlens is None else room.zero_()
