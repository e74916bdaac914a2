"""`innovation_topk`: the streaming choice of what is worth a place, for signals and for tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmojo_kernels.backends import choose, is_tensor
from bmojo_kernels.checks import as_real, check_count, need_tensors
from bmojo_kernels.innovation_topk.sets import RULES, KeptSet, check_window, selection_priority, sets

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RULES", "KeptSet", "innovation_topk", "selection_priority"]


@overload
def innovation_topk(
    scores: Tensor,
    *,
    budget: int,
    window: int = 1,
    chunk: int = 1,
    rule: str = "top",
    threshold: float | None = None,
    seed: int = 0,
    cu_seqlens: Any = None,
    check: bool = True,
    backend: str | None = None,
) -> Tensor: ...
@overload
def innovation_topk(
    scores: ArrayLike,
    *,
    budget: int,
    window: int = 1,
    chunk: int = 1,
    rule: str = "top",
    threshold: float | None = None,
    seed: int = 0,
    cu_seqlens: Any = None,
    check: bool = True,
    backend: str | None = None,
) -> NDArray[np.int64]: ...
def innovation_topk(
    scores: Any,
    *,
    budget: int,
    window: int = 1,
    chunk: int = 1,
    rule: str = "top",
    threshold: float | None = None,
    seed: int = 0,
    cu_seqlens: Any = None,
    check: bool = True,
    backend: str | None = None,
) -> Any:
    r"""Sets of kept positions at the start of each chunk, causal and streaming.

    $$M_c = \text{the } m \text{ best of } \{ j : j \le cC - (w - C + 1) \}$$

    those that will have left the window of $w$ by the end of chunk $c$ of $C$ samples.

    Parameters
    ----------
    scores : array_like or Tensor, shape (B, T)
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
    cu_seqlens : array_like or Tensor of int, shape (sequences + 1,), optional
        Edges of sequences that lie behind one another along `T` (then `B` is 1): each gives what it alone
        would give, its sets follow those of the sequence before, and positions count along `T`.
    check : bool
        Whether a score that is not a number is refused. The host then waits for a GPU; where scores are known
        to be numbers it need not.
    backend : {None, "naive", "numba", "triton"}

    Returns
    -------
    index : ndarray or Tensor of int64, shape (B, ceil(T / chunk), budget)
        Kept positions, ascending; -1 is an empty place. It carries no gradient.

    Raises
    ------
    ValueError
        If a shape, the budget, the window or the rule is not usable, or a score is not a number.

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
    tensors = is_tensor(scores)
    if tensors:
        need_tensors("innovation_topk", cu_seqlens=cu_seqlens)
    else:
        scores = as_real("innovation_topk", "scores", scores)
    device, kind = (scores.device.type, scores.dtype) if tensors else ("cpu", None)
    if scores.ndim != 2:
        raise ValueError(f"innovation_topk: scores has shape {tuple(scores.shape)}; (B, T) is needed.")
    check_count("innovation_topk", "budget", budget, 0)
    check_window("innovation_topk", window, chunk)
    if cu_seqlens is not None and len(scores) != 1:
        raise ValueError(
            f"innovation_topk: a batch of {len(scores)} came with cu_seqlens; they lie in a batch of 1."
        )
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} came; the rules are {', '.join(RULES)}.")
    if rule == "threshold" and threshold is None:
        raise ValueError("rule='threshold' needs a threshold.")
    chosen = choose("innovation_topk", device, backend, kind)
    if tensors and chosen != "naive":
        from bmojo_kernels.dispatch import through
        from bmojo_kernels.innovation_topk.torch_op import innovation_topk_core

        level = None if threshold is None else float(threshold)
        run = through(innovation_topk_core, chosen, scores)
        return run(scores.detach(), cu_seqlens, budget, window, chunk, rule, level, seed, check)
    options = {"budget": budget, "window": window, "chunk": chunk, "rule": rule, "threshold": threshold}
    edges = None
    if cu_seqlens is not None:
        edges = np.asarray(cu_seqlens.cpu() if is_tensor(cu_seqlens) else cu_seqlens)
    if not tensors:
        return sets(scores, edges, **options, seed=seed, naive=chosen == "naive")
    import torch

    values = scores.detach().cpu().double().numpy()
    return torch.from_numpy(sets(values, edges, **options, seed=seed, naive=True)).to(scores.device)
