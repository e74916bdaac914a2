"""Sequences of any length through a model piece by piece: the memory is that of a piece and a state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

__all__ = ["losses_of", "pieces_of"]


def pieces_of(model: Any, tokens: Tensor, piece: int, *, state: Any = None) -> Iterator[tuple[int, Tensor]]:
    """First position and hidden states (B, n, D) of each piece; nothing is kept but the state.

    Parameters
    ----------
    model : BMojoLM
    tokens : Tensor of int64, shape (B, T)
    piece : int
        Tokens at a time.
    state : tuple of BMojoState, optional
        What came before; nothing when left out.
    """
    state = model.init_state(len(tokens)) if state is None else state
    for start in range(0, tokens.shape[1], piece):
        hidden, state = model.hidden(tokens[:, start : start + piece], state)
        yield start, hidden


@torch.no_grad()
def losses_of(model: Any, drawn: Any, piece: int) -> tuple[Tensor, Tensor]:
    """Loss in nats at each position, NaN where nothing counts, and whether the answer is right, (B, T).

    Parameters
    ----------
    model : BMojoLM
    drawn : Batch
        As a task draws it.
    piece : int
        Tokens at a time.
    """
    device = next(model.parameters()).device
    losses = torch.full(drawn.tokens.shape, torch.nan)
    right = torch.zeros(drawn.tokens.shape, dtype=torch.bool)
    for start, hidden in pieces_of(model, drawn.tokens.to(device), piece):
        place = slice(start, start + hidden.shape[1])
        mask, targets = drawn.mask[:, place], drawn.targets[:, place]
        if not mask.any():
            continue
        logits = model.readout(hidden[mask.to(device)]).float()
        due = targets[mask]
        losses[:, place][mask] = cross_entropy(logits, due.to(device), reduction="none").cpu()
        right[:, place][mask] = logits.argmax(-1).cpu() == due
    return losses, right
