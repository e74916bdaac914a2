"""`innovation_topk` as an operator that torch knows, traced and exported like its own; without a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from bmojo_kernels.dispatch import register_triton
from bmojo_kernels.innovation_topk.sets import sets

__all__ = ["innovation_topk_core"]


@torch.library.custom_op("bmojo::innovation_topk", mutates_args=(), device_types="cpu")
def innovation_topk_core(
    scores: Tensor,
    cu_seqlens: Tensor | None,
    budget: int,
    window: int,
    chunk: int,
    rule: str,
    threshold: float | None,
    seed: int,
    check: bool = True,
) -> Tensor:
    """Sets (B, chunks, m) of int64."""
    edges = None if cu_seqlens is None else cu_seqlens.numpy()
    values = scores.detach().double().contiguous().numpy()
    return torch.from_numpy(
        sets(
            values,
            edges,
            budget=budget,
            window=window,
            chunk=chunk,
            rule=rule,
            threshold=threshold,
            seed=seed,
        )
    )


@innovation_topk_core.register_fake
def _(scores, cu_seqlens, budget, window, chunk, rule, threshold, seed, check=True) -> Tensor:
    # How many chunks packed sequences have depends on where they end.
    chunks = (
        -(-scores.shape[1] // chunk) if cu_seqlens is None else torch.library.get_ctx().new_dynamic_size()
    )
    return scores.new_empty(scores.shape[0], chunks, budget, dtype=torch.int64)


register_triton(innovation_topk_core, None, "innovation_topk")
