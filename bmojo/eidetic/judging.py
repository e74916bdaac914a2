"""What tokens are worth: the predictor's innovations, the gate, the rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bmojo.backends import state_dtype
from bmojo.eidetic.predictor import Evidence
from bmojo.eidetic.selection import priorities

__all__ = ["Judged", "judged"]


@dataclass(frozen=True, eq=False)
class Judged:
    """What a piece's tokens were worth.

    Parameters
    ----------
    scores, priority : Tensor, shape (B, T)
    log_gate : Tensor, shape (B, T), or None
    predictor : tuple of Tensor
        Its state.
    loss : Tensor, a scalar of shape ()
        Code length of the innovations; carries the predictor's gradient.
    """

    scores: Tensor
    priority: Tensor
    log_gate: Tensor | None
    predictor: tuple[Tensor, ...]
    loss: Tensor


def judged(
    layer: Any,
    u: Tensor,
    position: Tensor,
    *,
    fading: Tensor | None,
    innovations: Tensor | None,
    state: tuple[Tensor, ...] | None,
    cu_seqlens: Tensor | None = None,
) -> Judged:
    """Judge tokens.

    Parameters
    ----------
    layer : BMojo
    u : Tensor, shape (B, T, D)
    position : Tensor of int64, shape (T,) or (B, T)
    fading : Tensor, shape (B, T, D), optional
    innovations : Tensor, shape (B, T, H, V), optional
        Of the mixer.
    state : tuple of Tensor, optional
        The predictor's.
    cu_seqlens : Tensor, shape (S + 1,), optional
    """
    faded, surprise = (None if x is None else x.detach() for x in (fading, innovations))
    seen = Evidence(u.detach(), faded, surprise)
    scores, loss, predictor = layer.predictor(seen, state, cu_seqlens=cu_seqlens)
    log_gate = None
    if layer.config.write_gate:
        log_gate = F.logsigmoid(layer.gate(u).squeeze(-1).to(state_dtype(u.dtype)))
        scores = scores * log_gate.detach().exp()
    rule = layer.config.rule
    norms = u.detach().to(scores.dtype).square().sum(-1) if rule == "norm" else scores
    with torch.no_grad():
        priority = priorities(scores, norms, position, rule=rule, threshold=layer.threshold, seed=layer.seed)
        # What is no number is never kept; the output tells that it came.
        priority = priority.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return Judged(scores, priority, log_gate, predictor, loss)
