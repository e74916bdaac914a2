"""Generation token by token on the streaming state: each token costs the same, however many came before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bmojo.models.sampling import Sampler
from bmojo.state import BMojoState

if TYPE_CHECKING:
    from bmojo.models.language_model import BMojoLM

__all__ = ["Generated", "LMState", "generated"]

LMState = tuple[BMojoState, ...]


@dataclass(frozen=True, eq=False)
class Generated:
    """What `BMojoLM.generate` gives.

    Parameters
    ----------
    tokens : Tensor of int64, shape (B, N)
        The new ones; after the token that stops a sequence, only that one.
    log_probabilities : Tensor, shape (B, N)
        Of each new token, in nats, as the model has them (before temperature, top-k and top-p); 0 after the
        stop.
    state : tuple of BMojoState
        After all but the last of the new tokens: to go on, give `tokens[:, -1:]` with it.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig, BMojoLM
    >>> model, prompt = BMojoLM(9, [BMojoConfig(d_model=16)]), torch.tensor([[1, 2, 3]])
    >>> first = model.generate(prompt, 2)
    >>> rest = model.generate(first.tokens[:, -1:], 3, state=first.state)
    >>> bool(torch.equal(torch.cat([first.tokens, rest.tokens], 1), model.generate(prompt, 5).tokens))
    True
    """

    tokens: Tensor
    log_probabilities: Tensor
    state: LMState


def generated(
    model: BMojoLM,
    tokens: Tensor,
    count: int,
    sampler: Sampler,
    *,
    seed: int | None = None,
    stop: int | None = None,
    state: LMState | None = None,
    mask: Tensor | None = None,
) -> Generated:
    """Go on from a prompt; the arguments are those of `BMojoLM.generate`.

    Parameters
    ----------
    model : BMojoLM
    tokens : Tensor of int64, shape (B, T)
    count : int
    sampler : Sampler
    seed : int, optional
    stop : int, optional
    state : tuple of BMojoState, optional
    mask : Tensor of bool, shape (B, T), optional
    """
    _check(count, sampler, seed, mask)
    generator = None if seed is None else torch.Generator(tokens.device).manual_seed(seed)
    state = model.init_state(len(tokens)) if state is None else state
    hidden, state = model.hidden(tokens, state, mask=mask)
    logits = model.readout(hidden[:, -1])
    done = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    chosen: list[Tensor] = []
    told: list[Tensor] = []
    for _ in range(count):
        if chosen:
            hidden, state = model.hidden(chosen[-1].unsqueeze(1), state)
            logits = model.readout(hidden[:, -1])
        token = sampler.draw(logits, generator)
        told.append(logits.float().log_softmax(-1).gather(-1, token.unsqueeze(-1)).squeeze(-1))
        if stop is not None:
            token, told[-1] = token.masked_fill(done, stop), told[-1].masked_fill(done, 0.0)
            done = done | (token == stop)
        chosen.append(token)
        if stop is not None and bool(done.all()):
            break
    return Generated(torch.stack(chosen, dim=1), torch.stack(told, dim=1), state)


def _check(count: int, sampler: Sampler, seed: int | None, mask: Tensor | None) -> None:
    if count < 1:
        raise ValueError(f"generate: count={count} came; at least 1 token is to be generated.")
    if sampler.greedy and seed is not None:
        raise ValueError(
            f"generate: seed={seed} came with temperature=0, where nothing is drawn; leave it out."
        )
    if mask is not None and not bool(mask[:, -1].all()):
        raise ValueError(
            "generate: a mask came that hides the last token of a sequence, from which it goes on; put the "
            "padding in front."
        )
