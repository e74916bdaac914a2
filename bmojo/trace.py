"""What a layer did: the result of `BMojo.trace`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["BMojoTrace"]


@dataclass(frozen=True, eq=False)
class BMojoTrace:
    """What a layer did along a sequence of `T` tokens.

    Parameters
    ----------
    output : Tensor, shape (B, T, D)
    fading : Tensor, shape (B, T, D)
        Fading tokens; zero without a mixer.
    scores : Tensor, shape (B, T)
        Normalized innovations squared, the write gate included.
    eidetic_index : Tensor of int64, shape (B, chunks, m)
        Positions in the set at the start of each chunk; -1 is an empty place.
    segments : tuple of str
    attention_mass : Tensor, shape (B, H, T, segments)
        How each query's attention is divided among the memories.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig
    >>> layer = BMojo(BMojoConfig(d_model=8, heads=2, window=2, eidetic=1, rule="fifo", state_size=2))
    >>> trace = layer.trace(torch.randn(1, 6, 8))
    >>> trace.segments, trace.attention_mass.shape
    (('window', 'fading', 'eidetic'), torch.Size([1, 2, 6, 3]))
    >>> trace.eidetic_index[0, :, 0].tolist()
    [-1, 1, 3]
    """

    output: Tensor
    fading: Tensor
    scores: Tensor
    eidetic_index: Tensor
    segments: tuple[str, ...]
    attention_mass: Tensor
