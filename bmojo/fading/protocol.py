"""What a mixer is: any causal recurrence with a state."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["Innovative", "Mixer", "MixerState"]

MixerState = tuple[Tensor, ...]


class Mixer(Protocol):
    r"""A causal recurrence $s_{t+1} = F(s_t, u_t),\ f_t = G(s_t, u_t)$ with a state of constant size.

    Any `torch.nn.Module` with these two methods serves as the fading memory of a `BMojo` layer;
    `bmojo.fading.register_mixer` gives it a name for `BMojoConfig.mixer`. Three things may be added: a
    keyword `cu_seqlens` of `forward` (packed sequences along `T` in a batch of one, states then one for each
    sequence), a method `step(u_t, state)` for tokens (B, D) where decoding can be faster than a pass over one
    token, and `innovations` (see `Innovative`) for `predictor="residual"`.

    Examples
    --------
    An exponential average per channel, of one's own:

    >>> import torch
    >>> from torch import nn
    >>> import bmojo_kernels as bk
    >>> from bmojo import BMojo, BMojoConfig
    >>> from bmojo.fading import register_mixer
    >>> class Average(nn.Module):
    ...     def __init__(self, d_model, heads, state_size):
    ...         super().__init__()
    ...         self.rate = nn.Parameter(torch.zeros(d_model))
    ...
    ...     def init_state(self, batch):
    ...         return (self.rate.new_zeros(batch, len(self.rate)),)
    ...
    ...     def forward(self, u, state=None, *, cu_seqlens=None):
    ...         a = torch.sigmoid(self.rate).expand_as(u)
    ...         h, last = bk.linear_scan(a, (1 - a) * u, None if state is None else state[0],
    ...                                  cu_seqlens=cu_seqlens)
    ...         return h, (last,)
    >>> register_mixer("running_mean", Average)
    >>> layer = BMojo(BMojoConfig(d_model=8, heads=2, window=4, eidetic=2, mixer="running_mean"))
    >>> layer(torch.randn(1, 9, 8)).shape
    torch.Size([1, 9, 8])
    """

    def init_state(self, batch: int) -> MixerState:
        """State before the first token: tensors whose first axis is the batch."""
        ...

    def __call__(self, u: Tensor, state: MixerState | None = None) -> tuple[Tensor, MixerState]:
        """Fading tokens (B, T, D) for tokens (B, T, D), and the state after the last of them.

        Without a state the sequence begins here.
        """
        ...


@runtime_checkable
class Innovative(Protocol):
    """A mixer whose state predicts what it is about to be told, such as a delta rule."""

    def innovations(
        self, u: Tensor, state: MixerState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MixerState, Tensor]:
        """As a call of the mixer, and what the state failed to predict, (B, T, H, V) with H V = D."""
        ...
