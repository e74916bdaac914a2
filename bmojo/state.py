"""The state of a layer: everything that outlives a token, constant in size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from bmojo.fading import MixerState

__all__ = ["BMojoState", "KeyValueRing", "closed", "ordered", "renewed", "written"]


def ordered(ring: Tensor, position: int) -> Tensor:
    """A ring's rows (B, S, ...) from the oldest position to `position - 1`."""
    return ring.roll(-(position % ring.shape[1]), 1) if ring.shape[1] else ring


def closed(rows: Tensor, position: int) -> Tensor:
    """The ring (B, S, ...) of the rows up to `position - 1`, in order of time."""
    return rows.roll(position % rows.shape[1], 1) if rows.shape[1] else rows


def renewed(ring: Tensor, past: Tensor, piece: Tensor, position: int) -> Tensor:
    """The ring after a piece (B, T, ...) from `position` on; `past` is the ring in order of time."""
    size, length = ring.shape[1], piece.shape[1]
    rows = piece[:, max(0, length - size) :].to(ring.dtype)
    if length < size:
        rows = torch.cat([past[:, length:], rows], dim=1)
    return closed(rows, position + length).clone()


def written(ring: Tensor, x: Tensor, position: int) -> Tensor:
    """The ring with `x` (B, ...) in the row of `position`, in place of the oldest."""
    ring = ring.clone()
    ring[:, position % ring.shape[1]] = x.to(ring.dtype)
    return ring


@dataclass(frozen=True, eq=False)
class KeyValueRing:
    """Keys and values in rows: position `p` lies in row `p mod length`, where a new one replaces the oldest.

    Parameters
    ----------
    keys, values : Tensor, shape (B, length, kv_heads, head_dim)
    """

    keys: Tensor
    values: Tensor

    def ordered(self, position: int) -> tuple[Tensor, Tensor]:
        """Keys and values from the oldest to those of `position - 1`."""
        return ordered(self.keys, position), ordered(self.values, position)

    def renewed(
        self, past: tuple[Tensor, Tensor], piece: tuple[Tensor, Tensor], position: int
    ) -> KeyValueRing:
        """After the keys and values of a piece."""
        old = self.keys, self.values
        return KeyValueRing(*(renewed(*three, position) for three in zip(old, past, piece, strict=True)))

    def written(self, keys: Tensor, values: Tensor, position: int) -> KeyValueRing:
        """After one key and value (B, kv_heads, head_dim)."""
        return KeyValueRing(written(self.keys, keys, position), written(self.values, values, position))

    def at(self, position: int) -> tuple[Tensor, Tensor]:
        """Key and value (B, kv_heads, head_dim) in the row of `position`."""
        row = position % self.keys.shape[1]
        return self.keys[:, row], self.values[:, row]


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
    predictor : tuple of Tensor
        State of the predictor, batch first.
    window : KeyValueRing
        Of the last `window` tokens.
    fading : KeyValueRing
        Of the last `2 window` fading tokens: a query meets those that are `window` to `2 window` old.
    window_priority, window_gate : Tensor, shape (B, window)
        Rings like that of the window.
    eidetic : KeyValueRing
        Keys, as they are read, and values of the kept tokens, in order of position, empty places in front.
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
    predictor: tuple[Tensor, ...]
    window: KeyValueRing
    fading: KeyValueRing
    window_priority: Tensor
    window_gate: Tensor
    eidetic: KeyValueRing
    eidetic_index: Tensor
    eidetic_priority: Tensor
    eidetic_gate: Tensor

    @property
    def batch(self) -> int:
        """Number of sequences."""
        return len(self.eidetic_index)

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
        """The state of the batch rows `rows` (int64, shape (B',)): reorder (beams), repeat or drop."""
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
        tails = [self.conv_tail, *self.predictor, self.window_priority, self.window_gate]
        kept = [
            self.eidetic.keys,
            self.eidetic.values,
            self.eidetic_index,
            self.eidetic_priority,
            self.eidetic_gate,
        ]
        return {"in_context": size(*rings, *tails), "in_state": size(*self.mixer), "eidetic": size(*kept)}
