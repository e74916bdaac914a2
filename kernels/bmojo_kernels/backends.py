"""What the operations share: which backend runs, on how many threads, and where results are put."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import config, get_num_threads, set_num_threads

if TYPE_CHECKING:
    import torch

__all__ = ["as_numpy", "empty_like", "is_tensor", "run", "task_width", "thread_count"]


def is_tensor(x: Any) -> bool:
    """Whether `x` is a torch tensor; torch is not loaded to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def thread_count(work: int) -> int:
    """Threads for so many elementary steps: torch's number where torch is loaded, else Numba's.

    A few thousand steps are done before a second thread has woken up.
    """
    if work < 1 << 15:
        return 1
    torch = sys.modules.get("torch")
    wanted = get_num_threads() if torch is None else torch.get_num_threads()
    return max(1, min(wanted, config.NUMBA_NUM_THREADS))  # pyright: ignore[reportAttributeAccessIssue]


def task_width(batch: int, channels: int, threads: int, widest: int | None = None) -> int:
    """Channels that one task takes, so that each thread has one; whole cache lines of float32."""
    pieces, line = -(-threads // max(batch, 1)), 16
    wanted = -(-channels // pieces) if widest is None else min(widest, -(-channels // pieces))
    return max(line, -(-wanted // line) * line)


def run(kernel: Callable[..., None], arrays: Sequence[np.ndarray], width: int, threads: int) -> None:
    """Call a parallel kernel on so many threads of Numba's pool, and leave the pool as it was."""
    before = get_num_threads()
    set_num_threads(threads)
    try:
        kernel(*arrays, width)
    finally:
        set_num_threads(before)


def as_numpy(x: torch.Tensor) -> np.ndarray:
    """The tensor's own memory, contiguous; a bfloat16 tensor as its bits (uint16)."""
    import torch

    x = x.detach().contiguous()
    return (x.view(torch.uint16) if x.dtype is torch.bfloat16 else x).numpy()


def empty_like(x: torch.Tensor) -> torch.Tensor:
    """Uninitialized contiguous memory of a tensor's shape and dtype.

    NumPy asks the system for large pages and torch's own allocator does not: at tens of megabytes the first
    touch of a result would otherwise take longer than its computation.
    """
    import torch

    if x.dtype is torch.bfloat16:
        return torch.from_numpy(np.empty(tuple(x.shape), np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.empty(tuple(x.shape), as_numpy(x[:0]).dtype))
