"""The state of a layer: everything that outlives a token, constant in size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from bmojo.convolution import latest
from bmojo.eidetic.selection import take
from bmojo.fading import MixerState

__all__ = ["BMojoState", "KeyValueRing"]


@dataclass(frozen=True, eq=False)
class KeyValueRing:
    """Keys and values of the latest positions, oldest first; those before the first token are zero.

    Parameters
    ----------
    keys, values : Tensor, shape (B, length, kv_heads, head_dim)
    """

    keys: Tensor
    values: Tensor

    def extended(self, keys: Tensor, values: Tensor) -> KeyValueRing:
        """With new positions (B, T, kv_heads, head_dim) behind."""
        return KeyValueRing(torch.cat([self.keys, keys], dim=1), torch.cat([self.values, values], dim=1))

    def latest(self, length: int) -> KeyValueRing:
        """The last `length` positions."""
        return KeyValueRing(latest(self.keys, length), latest(self.values, length))

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, n, m, kv_heads, head_dim) of the rows (B, n, m)."""
        return take(self.keys, rows), take(self.values, rows)


@dataclass(frozen=True, eq=False)
class BMojoState:
    """What a `BMojo` layer carries from one piece of a sequence to the next.

    Parameters
    ----------
    position : int
        Tokens seen so far.
    mixer : tuple of Tensor
        State of the fading memory, batch first.
    conv_tail : Tensor, shape (B, short_conv - 1, D)
    predictor_tail : Tensor, shape (B, taps, D)
    window : KeyValueRing
        Of the last `window` tokens.
    fading : KeyValueRing
        Of the last `2 window` fading tokens: a query meets those that are `window` to `2 window` old.
    window_priority, window_gate : Tensor, shape (B, window)
    eidetic : KeyValueRing
        Of the kept tokens, in order of position.
    eidetic_index : Tensor of int64, shape (B, m)
        Their positions; -1 is an empty place.
    eidetic_priority, eidetic_gate : Tensor, shape (B, m)

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig
    >>> layer = BMojo(BMojoConfig(d_model=16, heads=2, window=4, eidetic=4, state_size=4))
    >>> _, early = layer(torch.randn(1, 10, 16), state=layer.init_state(1))
    >>> _, late = layer(torch.randn(1, 100, 16), state=early)
    >>> late.position, late.nbytes == early.nbytes
    (110, True)
    """

    position: int
    mixer: MixerState
    conv_tail: Tensor
    predictor_tail: Tensor
    window: KeyValueRing
    fading: KeyValueRing
    window_priority: Tensor
    window_gate: Tensor
    eidetic: KeyValueRing
    eidetic_index: Tensor
    eidetic_priority: Tensor
    eidetic_gate: Tensor

    def apply(self, function: Callable[[Tensor], Tensor]) -> BMojoState:
        """The state with `function` applied to each tensor (such as a choice of batch rows)."""

        def mapped(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, tuple):
                return tuple(mapped(part) for part in value)
            if isinstance(value, KeyValueRing):
                return KeyValueRing(function(value.keys), function(value.values))
            return value

        return replace(self, **{item.name: mapped(getattr(self, item.name)) for item in fields(self)})

    def detach(self) -> BMojoState:
        """The state cut from the graph that made it."""
        return self.apply(torch.Tensor.detach)

    def select(self, rows: Tensor) -> BMojoState:
        """The state of the batch rows `rows` (int64, shape (B',)): reorder, repeat or drop."""
        return self.apply(lambda tensor: tensor.index_select(0, rows))

    @property
    def nbytes(self) -> int:
        """Bytes of every tensor that outlives a token."""
        return sum(self.memory().values())

    def memory(self) -> dict[str, int]:
        """Bytes by memory: `in_context` (rings, tails), `in_state` (the mixer), `eidetic` (the kept set)."""

        def size(*tensors: Tensor) -> int:
            return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

        rings = [self.window.keys, self.window.values, self.fading.keys, self.fading.values]
        tails = [self.conv_tail, self.predictor_tail, self.window_priority, self.window_gate]
        kept = [
            self.eidetic.keys,
            self.eidetic.values,
            self.eidetic_index,
            self.eidetic_priority,
            self.eidetic_gate,
        ]
        return {"in_context": size(*rings, *tails), "in_state": size(*self.mixer), "eidetic": size(*kept)}
