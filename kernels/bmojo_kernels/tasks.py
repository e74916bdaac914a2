"""Tasks of a compiled kernel on several threads.

Numba's own parallel loops compile everything they call three times over; a kernel that releases the
interpreter lock and takes a range of its tasks is compiled once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

__all__ = ["run_tasks", "task_count"]

# Ranges for each thread, so that a thread that is done early takes another.
RANGES = 4

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def task_count(batch: int, channels: int, width: int) -> int:
    """Tasks of `width` channels for so many sequences or runs of rows."""
    return batch * -(-channels // width)


def run_tasks(kernel: Callable[..., None], arguments: Sequence[Any], count: int, threads: int) -> None:
    """Call `kernel(*arguments, first, last)` so that all tasks `0 ... count - 1` are done, in ranges."""
    threads = min(threads, count)
    if threads <= 1:
        kernel(*arguments, 0, count)
        return
    ranges = min(count, RANGES * threads)
    ends = [count * i // ranges for i in range(ranges + 1)]
    parts, pool = list(pairwise(ends)), _pool(threads - 1)
    futures = [pool.submit(kernel, *arguments, *part) for part in parts]
    # The calling thread takes from the end what the others have not begun.
    for future, part in reversed(list(zip(futures, parts, strict=True))):
        if future.cancel():
            kernel(*arguments, *part)
    for future in futures:
        if not future.cancelled():
            future.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    """So many threads, kept; a forked process makes its own."""
    place = (os.getpid(), threads)
    if place not in _pools:
        _pools[place] = ThreadPoolExecutor(threads, thread_name_prefix="bmojo_kernels")
    return _pools[place]
