"""What was found in storage, and how it joins a softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bmojo.storage.protocol import Found

__all__ = ["Retrieved", "assembled", "best_of_all", "joint_softmax"]


@dataclass(frozen=True, eq=False)
class Retrieved:
    r"""Keys and values from storage, `r` for each query and head, without gradient.

    Parameters
    ----------
    keys : Tensor, shape (B, T, H, r, d)
        `T` is 1 where all queries share what was found.
    values : Tensor, shape (B, T, H, r, d_v)
    bias : Tensor, shape (B, T, H, r)
        Added to the logits: 0, or $-\infty$ where there is none, or one that the window still shows.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor

    def to(self, device: torch.device) -> Retrieved:
        """On a device, by the thread and stream that go on to use it."""
        return Retrieved(self.keys.to(device), self.values.to(device), self.bias.to(device))


def joint_softmax(
    out: Tensor, lse: Tensor, queries: Tensor, retrieved: Retrieved, *, scale: float
) -> tuple[Tensor, Tensor]:
    r"""One softmax over what attention has read and what storage has given.

    With the attention's own output `o` and the logarithm `L` of its normalizer,

    $$o'_t = p_0\, o_t + \sum_j p_j v_j, \qquad
    p = \operatorname{softmax}\big(L_t, \; \sigma q_t^\top k_1 + b_1, \; \dots\big)$$

    is what one softmax over all keys gives.

    Parameters
    ----------
    out : Tensor, shape (B, T, H, d_v)
    lse : Tensor, shape (B, T, H)
        $-\infty$ where a query saw nothing.
    queries : Tensor, shape (B, T, H, d)
    retrieved : Retrieved
    scale : float
        $\sigma$.

    Returns
    -------
    out : Tensor, shape (B, T, H, d_v)
        It carries the gradient of `out`, `lse` and `queries`.
    mass : Tensor, shape (B, T, H)
        How much of each query's attention went to storage.

    Examples
    --------
    >>> import torch
    >>> from bmojo.storage.retrieved import Retrieved, joint_softmax
    >>> found = Retrieved(torch.ones(1, 1, 1, 2, 4), torch.ones(1, 1, 1, 2, 4), torch.zeros(1, 1, 1, 2))
    >>> nothing = torch.zeros(1, 1, 1, 4)
    >>> out, mass = joint_softmax(nothing, torch.zeros(1, 1, 1), nothing, found, scale=0.5)
    >>> out.flatten(), mass.item()
    (tensor([0.6667, 0.6667, 0.6667, 0.6667]), 0.6666...)
    """
    kind = lse.dtype
    keys, values, queries = retrieved.keys.to(kind), retrieved.values.to(kind), queries.to(kind)
    shared = keys.shape[1] == 1
    if shared:
        logits = (queries.transpose(1, 2) @ keys.squeeze(1).mT).transpose(1, 2)
    else:
        logits = (keys @ queries.unsqueeze(-1)).squeeze(-1)
    logits = torch.cat([lse.unsqueeze(-1), logits * scale + retrieved.bias.to(kind)], dim=-1)
    own, weights = logits.softmax(dim=-1).split([1, logits.shape[-1] - 1], dim=-1)
    if shared:
        read = (weights.transpose(1, 2) @ values.squeeze(1)).transpose(1, 2)
    else:
        read = (weights.unsqueeze(-2) @ values).squeeze(-2)
    return (own * out + read).to(out.dtype), weights.sum(-1)


def best_of_all(found: Found) -> Found:
    """What was found for several queries (n, H, r), as one answer (1, H, r) for all of them.

    Parameters
    ----------
    found : Found
    """
    heads, count = found.scores.shape[1:]
    chosen = torch.zeros(heads, count, dtype=torch.int64)
    valid = torch.zeros(heads, count, dtype=torch.bool)
    for head in range(heads):
        scores, ordinals = found.scores[:, head].flatten(), found.ordinals[:, head].flatten()
        order = scores.argsort(descending=True, stable=True)
        _, first = np.unique(ordinals[order].numpy(), return_index=True)  # where each row is at its best
        best = order[torch.from_numpy(np.sort(first))]
        best = best[ordinals[best] >= 0][:count]
        chosen[head, : len(best)], valid[head, : len(best)] = best, True
    query, rank, head = chosen // count, chosen % count, torch.arange(heads)[:, None]
    return Found(
        found.scores[query, head, rank].masked_fill(~valid, -torch.inf).unsqueeze(0),
        found.ordinals[query, head, rank].masked_fill(~valid, -1).unsqueeze(0),
        found.positions[query, head, rank].masked_fill(~valid, -1).unsqueeze(0),
        found.keys[query, head, rank].unsqueeze(0),
        found.values[query, head, rank].unsqueeze(0),
    )


def assembled(
    found: list[list[Any]], heads: int, count: int, newest: Tensor, like: Tensor
) -> Retrieved | None:
    """Answers for runs of queries as one for all of them, on the CPU."""
    answers = [answer for runs in found for _, answer in runs if answer is not None]
    if not answers:
        return None
    kind = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    # To a device they will go as they are stored, and be widened there; on the CPU one copy does both.
    laid = kind if like.device.type == "cpu" else torch.float16
    widths = answers[0].keys.shape[-1], answers[0].values.shape[-1]
    shape = (*newest.shape, heads, count)
    keys, values = (torch.empty(*shape, width, dtype=laid) for width in widths)
    bias = torch.full(shape, -torch.inf)
    for entry, runs in enumerate(found):
        begin = 0
        for length, answer in runs:
            part = (entry, slice(begin, begin + length))
            if answer is None:
                keys[part], values[part] = 0.0, 0.0
            else:
                keys[part], values[part] = answer.keys, answer.values
                seen = (answer.ordinals >= 0) & (answer.positions <= newest[part].view(-1, 1, 1))
                bias[part].masked_fill_(seen, 0.0)
            begin += length
    return Retrieved(keys, values, bias)
