"""The state of a layer: everything that outlives a token, constant in size."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bmojo.fading import MixerState
from bmojo.tensors import read_tensors, safetensors
from realization.errors import DataError

__all__ = ["BMojoState", "KeyValueRing", "closed", "held", "ordered", "renewed", "written"]


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
    row = position % ring.shape[1]
    if torch.compiler.is_compiling():  # one graph for all rows
        return ring.index_copy(1, torch.full((1,), row, device=ring.device), x.to(ring.dtype).unsqueeze(1))
    ring = ring.clone()
    ring[:, row] = x.to(ring.dtype)
    return ring


def held(ring: Tensor, position: int) -> Tensor:
    """What the ring holds in the row of `position`, (B, 1, ...)."""
    row = position % ring.shape[1]
    if torch.compiler.is_compiling():
        return ring.index_select(1, torch.full((1,), row, device=ring.device))
    return ring[:, row : row + 1]


def _numbered(name: str, tensors: dict[str, Tensor]) -> list[str]:
    """`name.0`, `name.1`, ... as far as they go."""
    return [f"{name}.{i}" for i in range(len(tensors)) if f"{name}.{i}" in tensors]


def _misfits(state: BMojoState) -> list[str]:
    """What in a state that came from outside does not fit the rest: kernels rely on it."""
    B, (m, w), t = state.batch, (_places(state.eidetic_index), _places(state.window.keys)), state.position
    heads = tuple(state.window.keys.shape[2:])
    needed: dict[str, tuple[tuple[int, ...], ...]] = {
        "eidetic_index": ((B, m),),
        "eidetic_priority": ((B, m),),
        "eidetic_gate": ((B, m), (B, 0)),
        "window_priority": ((B, w), (B, 0)),
        "window_gate": ((B, w), (B, 0)),
        "lacking": ((B,),),
        "place": ((B, 2),),
        **{f"window.{part}": ((B, w, *heads),) for part in ("keys", "values")},
        **{f"fading.{part}": ((B, 2 * w, *heads), (B, 0, *heads)) for part in ("keys", "values")},
        **{f"eidetic.{part}": ((B, m, *heads),) for part in ("keys", "values")},
    }
    faults = []
    for name, x in state.tensors().items():
        if x.ndim == 0 or len(x) != B or (name in needed and tuple(x.shape) not in needed[name]):
            faults.append(f"{name} of shape {tuple(x.shape)}")
        elif x.is_floating_point() == (name in ("eidetic_index", "lacking", "place")):
            faults.append(f"{name} of {x.dtype}")
    if faults or len(heads) != 2:
        return faults or ["window.keys has no heads"]
    index, lacking = state.eidetic_index, state.lacking
    if (
        index.dtype is not torch.int64
        or ((index < -1) | (index >= max(t, 1))).any()
        or (index.diff() < 0).any()
    ):
        faults.append(f"eidetic_index is not of positions before {t} in their order")
    if lacking is not None and ((lacking < 0) | (lacking > t)).any():
        faults.append(f"lacking is beyond {t} tokens")
    return faults


def _places(x: Tensor) -> int:
    """Places along the second axis; none where there is no such axis."""
    return x.shape[1] if x.ndim > 1 else 0


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

    def held(self, position: int) -> tuple[Tensor, Tensor]:
        """Key and value (B, 1, kv_heads, head_dim) in the row of `position`."""
        return held(self.keys, position), held(self.values, position)


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
    lacking : Tensor of int64, shape (B,), optional
        Where sequences are of several lengths: by how many tokens each is shorter than `position`.
    place : Tensor of int64, shape (B, 2), optional
        Stream of each sequence in the layer's storage, and rows that it counts.

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
    lacking: Tensor | None = None
    place: Tensor | None = None

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

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> BMojoState:
        """On a device; `dtype` is that of keys and values, recurrences and priorities keep theirs."""
        moved = self.apply(lambda tensor: tensor.to(device))
        if dtype is None:
            return moved
        rings = {
            name: KeyValueRing(ring.keys.to(dtype), ring.values.to(dtype))
            for name, ring in (("window", moved.window), ("fading", moved.fading), ("eidetic", moved.eidetic))
        }
        return replace(moved, conv_tail=moved.conv_tail.to(dtype), **rings)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by a name, such as `mixer.0` or `window.keys`."""
        found: dict[str, Tensor] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                found[item.name] = value
            elif isinstance(value, tuple):
                found |= {f"{item.name}.{i}": part for i, part in enumerate(value)}
            elif isinstance(value, KeyValueRing):
                found |= {f"{item.name}.keys": value.keys, f"{item.name}.values": value.values}
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file in the safetensors format; the file is there whole or not at all."""
        save_file = safetensors().save_file
        whole = Path(path)
        part = whole.with_name(f"{whole.name}.{os.getpid()}.part")
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.tensors().items()}
        try:
            save_file(tensors, part, metadata={"format": "bmojo state", "position": str(self.position)})
            os.replace(part, whole)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> BMojoState:
        """Read a state that `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        DataError
            If the file is damaged, holds no state, or tensors that do not fit each other.
        """
        tensors, about = read_tensors(path, device)
        position = about.get("position", "")
        if about.get("format") != "bmojo state" or not (position.isdecimal() and len(position) < 19):
            raise DataError(f"BMojoState.load: {os.fspath(path)} holds no state; `save` writes one.")
        values: dict[str, Any] = {"position": int(position)}
        for item in fields(cls):
            parts = [tensors.pop(key) for key in _numbered(item.name, tensors)]
            if item.name in ("mixer", "predictor"):
                values[item.name] = tuple(parts)
            elif f"{item.name}.keys" in tensors and f"{item.name}.values" in tensors:
                ring = (tensors.pop(f"{item.name}.{part}") for part in ("keys", "values"))
                values[item.name] = KeyValueRing(*ring)
            elif item.name in tensors:
                values[item.name] = tensors.pop(item.name)
        missing = [i.name for i in fields(cls) if i.name not in values and i.default is MISSING]
        faults = [f"missing {name}" for name in missing] + [f"left over {name}" for name in tensors]
        faults = faults or _misfits(cls(**values))
        if faults:
            raise DataError(f"BMojoState.load: {os.fspath(path)} holds no state: {'; '.join(faults)}.")
        return cls(**values)

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
        tails += [x for x in (self.lacking, self.place) if x is not None]
        kept = [
            self.eidetic.keys,
            self.eidetic.values,
            self.eidetic_index,
            self.eidetic_priority,
            self.eidetic_gate,
        ]
        return {"in_context": size(*rings, *tails), "in_state": size(*self.mixer), "eidetic": size(*kept)}
