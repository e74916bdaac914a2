"""What the CPU kernels take: the memories' tensors as tuples of arrays, the sets, and the plan."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmojo_kernels.memory_attention.plan import make_plan
from bmojo_kernels.packing import offsets
from bmojo_kernels.vectors import vector_lanes

__all__ = ["Inputs", "plain", "state_dtype"]

BLOCK_VECTORS = 4  # queries of a block, in vectors

Array = NDArray[Any]
Four = tuple[Array, Array, Array, Array]


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """What is computed in: float32 for bfloat16."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def plain(x: Tensor) -> Array:
    """The tensor's memory, contiguous, in the dtype that is computed in."""
    return x.detach().to(state_dtype(x.dtype)).contiguous().numpy()


class Inputs(NamedTuple):
    """Arguments of the kernels, in their order.

    A memory that is absent has no rows; a reader that is not its `own` is the first; so are eidetic keys or
    values, which then are the window's, and their gradients are to be added there.
    """

    readers: Four
    keys: Four
    values: Four
    biases: tuple[Array, Array]
    sets: NDArray[np.int64]
    rows: NDArray[np.int64]
    blocks: NDArray[np.int64]
    tiles: NDArray[np.int64]
    own: NDArray[np.bool_]
    numbers: tuple[int, int, int, int]
    scale: np.floating[Any]

    @classmethod
    def of(
        cls, tensors: tuple[Tensor | None, ...], window: int, chunk: int, start: int, scale: float
    ) -> Inputs:
        """From the operator's arguments: seventeen tensors and the options."""
        q, k, v, q_fading, k_fading, v_fading, q_eidetic, k_eidetic, v_eidetic, bias = tensors[:10]
        q_retrieved, k_retrieved, v_retrieved, bias_retrieved, index, rows, cu_seqlens = tensors[10:]
        assert q is not None and k is not None and v is not None  # noqa: PT018
        reader, key, value = plain(q), plain(k), plain(v)
        bias_dtype = reader.dtype

        def other(x: Tensor | None, otherwise: Array) -> Array:
            return otherwise if x is None else plain(x).astype(bias_dtype, copy=False)

        no_bias = reader[:, :0, 0, 0]
        keys = (key, other(k_fading, key[:, :0]), other(k_eidetic, key), other(k_retrieved, key[:, :0]))
        values = (
            value,
            other(v_fading, value[:, :0]),
            other(v_eidetic, value),
            other(v_retrieved, value[:, :0]),
        )
        edges, step = offsets("memory_attention", 1, q.shape[1], cu_seqlens), vector_lanes(reader.itemsize)
        sets = np.empty((len(q), 0, 0), np.int64) if index is None else _whole(index)
        if index is not None and cu_seqlens is not None:
            _check_chunks(sets, edges, chunk)
        plan = make_plan(
            edges,
            packed=cu_seqlens is not None,
            lanes=BLOCK_VECTORS * step,
            step=step,
            window=window,
            chunk=chunk,
            start=start,
            keys=(key.shape[1], keys[1].shape[1], sets.shape[2], keys[3].shape[1]),
        )
        return cls(
            (reader, other(q_fading, reader), other(q_eidetic, reader), other(q_retrieved, reader)),
            keys,
            values,
            (other(bias, no_bias), other(bias_retrieved, no_bias)),
            sets,
            _rows(sets, rows, start + q.shape[1] - k.shape[1], keys[2].shape[1]),
            plan.blocks,
            plan.tiles,
            np.array([True, *(x is not None for x in (q_fading, q_eidetic, q_retrieved))]),
            (window, start, step, BLOCK_VECTORS * step),
            reader.dtype.type(scale),
        )


def _whole(x: Tensor) -> NDArray[np.int64]:
    return x.detach().to(torch.int64).contiguous().numpy()


def _check_chunks(sets: NDArray[np.int64], edges: NDArray[np.int64], chunk: int) -> None:
    chunks = int((-(-np.diff(edges) // chunk)).sum())
    if sets.shape[1] != chunks:
        raise ValueError(
            f"memory_attention: eidetic_index for {sets.shape[1]} chunks came; the packed sequences "
            f"have {chunks} of {chunk} positions."
        )


def _rows(sets: NDArray[np.int64], rows: Tensor | None, origin: int, available: int) -> NDArray[np.int64]:
    """Rows of the set's keys, 0 for an empty place; refuses rows that are not there."""
    found = np.where(sets < 0, 0, sets - origin if rows is None else _whole(rows))
    if found.size and (found.min() < 0 or found.max() >= available):
        raise ValueError(
            f"memory_attention: the eidetic set needs rows {found.min()} to {found.max()} of keys that have "
            f"{available}; give the pool that holds them as `eidetic` with `eidetic_rows`."
        )
    return found
