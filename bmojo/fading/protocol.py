"""What a mixer is: any causal recurrence with a state."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["Mixer", "MixerState"]

MixerState = tuple[Tensor, ...]


class Mixer(Protocol):
    r"""A causal recurrence $s_{t+1} = F(s_t, u_t),\ f_t = G(s_t, u_t)$ with a state of constant size.

    Any `torch.nn.Module` with these two methods serves as the fading memory of a `BMojo` layer.
    """

    def init_state(self, batch: int) -> MixerState:
        """State before the first token: tensors whose first axis is the batch."""
        ...

    def __call__(self, u: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """Fading tokens (B, T, D) for tokens (B, T, D), and the state after the last of them."""
        ...
