"""The set that a stream carries, what each rule ranks by, and the sets of a whole stream."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmojo_kernels.checks import as_real
from bmojo_kernels.innovation_topk.naive import innovation_topk_naive
from bmojo_kernels.innovation_topk.numba_cpu import advance

__all__ = ["RULES", "KeptSet", "check_window", "selection_priority", "sets"]

RULES = ("top", "threshold", "fifo", "random", "norm", "oracle")


@dataclass(frozen=True, eq=False)
class KeptSet:
    """The set that a stream carries: what was kept, and up to where the stream was judged.

    Parameters
    ----------
    index : ndarray, shape (B, m)
        Kept positions, ascending; -1 is an empty place.
    priority : ndarray, shape (B, m)
        Their priorities.
    position : int
        Number of samples seen so far.

    Examples
    --------
    >>> import bmojo_kernels as bk
    >>> bk.KeptSet.empty(batch=1, budget=2).index
    array([[-1, -1]])
    """

    index: NDArray[np.int64]
    priority: NDArray[np.float64]
    position: int = 0

    @classmethod
    def empty(cls, batch: int, budget: int) -> KeptSet:
        """A set with nothing in it."""
        return cls(np.full((batch, budget), -1, dtype=np.int64), np.full((batch, budget), -np.inf))

    def advance(
        self, priority: NDArray[np.float64], *, window: int, chunk: int
    ) -> tuple[NDArray[np.int64], KeptSet]:
        """Go on over a piece of the stream.

        Parameters
        ----------
        priority : ndarray, shape (B, min(window, position) + T)
            Priorities of the last `min(window, position)` samples before the piece, then of the piece.
        window, chunk : int
            As in `innovation_topk`.

        Returns
        -------
        index : ndarray, shape (B, chunks, m)
            The set at the start of every chunk that the piece touches.
        kept : KeptSet
            What the next piece goes on from.

        Raises
        ------
        ValueError
            If the priorities have another number of rows, or do not begin with the window before the piece.
        """
        check_window("KeptSet.advance", window, chunk)
        before = min(window, self.position)
        if priority.ndim != 2 or len(priority) != len(self.index) or priority.shape[1] < before:
            raise ValueError(
                f"KeptSet.advance: priority {priority.shape} came; ({len(self.index)}, {before} + T) is "
                "needed, that of the last samples before the piece in front."
            )
        length = priority.shape[1] - before
        first_chunk = self.position // chunk
        chunks = -(-(self.position + length) // chunk) - first_chunk
        considered = -1
        if self.position:
            considered = max(-1, (self.position - 1) // chunk * chunk - (window - chunk + 1))
        kept, kept_priority = self.index.copy(), self.priority.copy()
        index = np.empty((len(kept), chunks, kept.shape[1]), dtype=np.int64)
        advance(
            np.ascontiguousarray(priority, dtype=np.float64),
            self.position - before,
            self.position,
            considered,
            kept,
            kept_priority,
            index,
            window,
            chunk,
        )
        return index, KeptSet(kept, kept_priority, self.position + length)


def selection_priority(
    scores: NDArray[np.float64], *, rule: str, threshold: float | None = None, seed: int = 0, start: int = 0
) -> NDArray[np.float64]:
    r"""What each rule ranks by, so that every rule is "keep the `m` largest, ties to the older".

    Parameters
    ----------
    scores : ndarray, shape (B, T)
        Normalized innovations squared (`top`, `threshold`), norms (`norm`) or given worths (`oracle`).
    rule : {"top", "threshold", "fifo", "random", "norm", "oracle"}
        `threshold` ranks what exceeds it by time, so that the oldest leaves first; `random` ranks by a hash
        of the position, which makes a uniform sample of the past, the same however the stream is cut.
    threshold : float, optional
        Needed by `threshold`.
    seed : int
        For `random`.
    start : int
        Position of the first column.

    Returns
    -------
    priority : ndarray, shape (B, T)
        $-\infty$ is never kept.

    Raises
    ------
    ValueError
        If the scores have another shape, the rule is unknown, or its threshold is missing.

    Examples
    --------
    >>> import numpy as np, bmojo_kernels as bk
    >>> bk.selection_priority(np.array([[5.0, 1.0, 7.0]]), rule="threshold", threshold=4.0)
    array([[  0., -inf,   2.]])
    """
    scores = as_real("selection_priority", "scores", scores)
    if scores.ndim != 2:
        raise ValueError(f"selection_priority: scores has shape {scores.shape}; (B, T) is needed.")
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} came; the rules are {', '.join(RULES)}.")
    time = np.broadcast_to(np.arange(start, start + scores.shape[1], dtype=np.float64), scores.shape)
    if rule in ("top", "norm", "oracle"):
        return scores
    if rule == "fifo":
        return time
    if rule == "threshold":
        if threshold is None:
            raise ValueError("rule='threshold' needs a threshold.")
        return np.where(scores > threshold, time, -np.inf)
    return _hashed(time.astype(np.uint64), seed)


def sets(
    scores: NDArray[np.float64],
    edges: NDArray[Any] | None,
    *,
    budget: int,
    window: int,
    chunk: int,
    rule: str,
    threshold: float | None,
    seed: int,
    naive: bool = False,
) -> NDArray[np.int64]:
    """Sets (B, chunks, m) of streams (B, T), or of those that lie between `edges` in a batch of one."""
    if np.isnan(scores).any():
        raise ValueError("innovation_topk: scores has NaN; every sample needs a number (-inf is never kept).")
    bounds = [0, scores.shape[1]] if edges is None else [int(edge) for edge in edges]
    if bounds[0] != 0 or bounds[-1] != scores.shape[1] or any(low > high for low, high in pairwise(bounds)):
        raise ValueError(
            f"innovation_topk: cu_seqlens {bounds} came for {scores.shape[1]} scores; it must begin at 0, "
            f"end at {scores.shape[1]} and never fall."
        )
    found = [np.empty((len(scores), 0, budget), dtype=np.int64)]
    for low, high in pairwise(bounds):
        priority = selection_priority(scores[:, low:high], rule=rule, threshold=threshold, seed=seed)
        if naive:
            index = innovation_topk_naive(priority, budget, window, chunk)
        else:
            index, _ = KeptSet.empty(len(scores), budget).advance(priority, window=window, chunk=chunk)
        found.append(np.where(index >= 0, index + low, index))
    return np.concatenate(found, axis=1)


def check_window(name: str, window: int, chunk: int) -> None:
    """Refuse chunks longer than the window."""
    if not 1 <= chunk <= window:
        raise ValueError(
            f"{name}: window={window}, chunk={chunk} came; 1 <= chunk <= window is needed, so that no "
            "sample is neither in the window nor eligible."
        )


def _hashed(position: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) from (row, position, seed) by the splitmix64 finalizer."""
    row = np.arange(len(position), dtype=np.uint64)[:, None]
    with np.errstate(over="ignore"):
        z = position + (row + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = z + np.uint64(seed % 2**32) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53
