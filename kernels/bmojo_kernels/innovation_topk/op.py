"""`innovation_topk`: the streaming choice of what is worth a place, for signals and for tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmojo_kernels.innovation_topk.numba_cpu import advance

__all__ = ["RULES", "KeptSet", "innovation_topk", "selection_priority"]

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
        _check_window("KeptSet.advance", window, chunk)
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
    scores = np.asarray(scores, dtype=np.float64)
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


def innovation_topk(
    scores: ArrayLike,
    *,
    budget: int,
    window: int = 1,
    chunk: int = 1,
    rule: str = "top",
    threshold: float | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    r"""Sets of kept positions at the start of each chunk, causal and streaming.

    $$M_c = \text{the } m \text{ best of } \{ j : j \le cC - (w - C + 1) \}$$

    those that will have left the window of $w$ by the end of chunk $c$ of $C$ samples.

    Parameters
    ----------
    scores : array_like, shape (B, T)
        Normalized innovations squared (or what the rule ranks by).
    budget : int
        Places `m`.
    window : int
        Window `w`, at least `chunk`.
    chunk : int
        Samples between two changes of the set, `C`; 1 is the definition per sample.
    rule : {"top", "threshold", "fifo", "random", "norm", "oracle"}
    threshold : float, optional
        For `rule="threshold"`.
    seed : int
        For `rule="random"`.

    Returns
    -------
    index : ndarray of int64, shape (B, ceil(T / chunk), budget)
        Kept positions, ascending; -1 is an empty place.

    Raises
    ------
    ValueError
        If a shape, the budget, the window or the rule is not usable.

    References
    ----------
    L. Zancato et al., *B'MOJO*, NeurIPS 2024, section 3.

    Examples
    --------
    >>> import bmojo_kernels as bk
    >>> bk.innovation_topk([[1.0, 9.0, 2.0, 8.0, 3.0]], budget=2)[0]
    array([[-1, -1],
           [ 0, -1],
           [ 0,  1],
           [ 1,  2],
           [ 1,  3]])
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2:
        raise ValueError(f"innovation_topk: scores has shape {scores.shape}; (B, T) is needed.")
    if np.isnan(scores).any():
        raise ValueError("innovation_topk: scores has NaN; every sample needs a number (-inf is never kept).")
    if budget < 0:
        raise ValueError(f"innovation_topk: budget={budget} came; it must be at least 0.")
    _check_window("innovation_topk", window, chunk)
    priority = selection_priority(scores, rule=rule, threshold=threshold, seed=seed)
    index, _ = KeptSet.empty(len(scores), budget).advance(priority, window=window, chunk=chunk)
    return index


def _check_window(name: str, window: int, chunk: int) -> None:
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
