r"""Who carries what: a layer or a model with memories taken away, the softmax over the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bmojo.attention import Memories
from bmojo.layer import BMojo
from bmojo.models.language_model import BMojoLM
from bmojo.passes import Piece, Stored, piece_of
from bmojo.segments import attend

__all__ = ["MEMORIES", "MemoryShares", "ablate", "memory_shares"]

MEMORIES = ("window", "fading", "readout", "eidetic", "retrieved", "stored")
STATE = ("fading", "readout")

Array = NDArray[np.float64]
Loss = Callable[[Tensor], Any]


@torch.no_grad()
def ablate(
    layer: BMojo | BMojoLM,
    u: Tensor,
    remove: str | Iterable[str],
    *,
    layers: Iterable[int] | None = None,
    retrieved: Any = None,
) -> Tensor:
    r"""Output without some of the memories; the softmax renormalizes over what is left.

    With the sets of keys $\mathcal S$ that a query sees and those removed $\mathcal X$,

    $$o_t = W_o \sum_{j \in \mathcal S_t \setminus \mathcal X}
    \frac{e^{\ell_{tj}}}{\sum_{i \in \mathcal S_t \setminus \mathcal X} e^{\ell_{ti}}}\, v_j \; + \; f_t$$

    A query that sees nothing any more reads zero. What a layer keeps stays as it was: its mixer, its
    innovations and its eidetic set depend on its tokens, not on what its attention reads. In a model the
    layers behind go on with what they get, sets included.

    Parameters
    ----------
    layer : BMojo or BMojoLM
    u : Tensor
        Tokens (B, T, D), or of a model their numbers (B, T).
    remove : str or iterable of str
        `"window"`, `"fading"` (fading tokens in the softmax), `"readout"` (the fading token added to the
        output), `"state"` (both), `"eidetic"`, `"retrieved"`, `"stored"` (of an attached store).
    layers : iterable of int, optional
        Of a model, those in which to remove; all that have it where left out.
    retrieved : optional
        As the layer or model takes it.

    Returns
    -------
    Tensor
        Outputs (B, T, D), or logits (B, T, vocabulary).

    Raises
    ------
    ValueError
        If a memory is not known, or none of the layers has it.

    Notes
    -----
    A store that is attached is written to as in any pass.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig, ablate
    >>> layer = BMojo(BMojoConfig(d_model=16, heads=2, window=4, eidetic=2, state_size=4)).eval()
    >>> u = torch.randn(1, 20, 16)
    >>> bool(torch.allclose(ablate(layer, u, []), layer(u), atol=1e-5))
    True
    >>> changed = (ablate(layer, u, "eidetic") - layer(u)).abs().amax(dim=(0, 2)) > 1e-5
    >>> bool(changed[:4].any()), bool(changed[8:].any())  # at first nothing has left the window
    (False, True)
    """
    asked = {remove} if isinstance(remove, str) else set(remove)
    was_training = layer.training
    layer.eval()
    try:
        if isinstance(layer, BMojoLM):
            chosen = range(len(layer.blocks)) if layers is None else tuple(layers)
            there = {name for i in chosen for name in _those_of(layer._blocks()[i].layer, _at(retrieved, i))}
            return _logits(layer, u, dict.fromkeys(chosen, _named(asked, there)), retrieved)
        if layers is not None:
            raise ValueError(f"ablate: layers={layers!r} came with a single layer; leave it out.")
        names = _named(asked, set(_those_of(layer, retrieved)))
        return _without(layer, piece_of(layer, u, None, retrieved), names)
    finally:
        layer.train(was_training)


@dataclass(frozen=True, eq=False)
class MemoryShares:
    r"""How much each memory carries, measured by taking it away.

    Attributes
    ----------
    memories : tuple of str
        Names of the `S` memories.
    mass : ndarray, shape (L, S)
        Mean attention that goes to each, by layer; NaN where the layer has none, and for `"readout"`, which
        is added and not attended to.
    change : ndarray, shape (S,)
        Relative change of the output, in the Frobenius norm, once it is taken from all layers.
    change_by_layer : ndarray, shape (L, S)
        Once it is taken from one; NaN where the layer has none.
    loss : float
        Of the whole; NaN where no loss was given.
    loss_without : ndarray, shape (S,)
    loss_by_layer : ndarray, shape (L, S)

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig, memory_shares
    >>> layer = BMojo(BMojoConfig(d_model=16, heads=2, window=4, eidetic=2, state_size=4))
    >>> shares = memory_shares(layer, torch.randn(1, 20, 16))
    >>> shares.memories, shares.mass.shape
    (('window', 'fading', 'readout', 'eidetic'), (1, 4))
    """

    memories: tuple[str, ...]
    mass: Array
    change: Array
    change_by_layer: Array
    loss: float
    loss_without: Array
    loss_by_layer: Array

    def __repr__(self) -> str:
        parts = (f"{name} {change:.3g}" for name, change in zip(self.memories, self.change, strict=True))
        return f"MemoryShares({len(self.mass)} layers, change without: {', '.join(parts)})"


@torch.no_grad()
def memory_shares(
    layer: BMojo | BMojoLM,
    u: Tensor,
    *,
    loss: Loss | None = None,
    at: Sequence[int] | Tensor | None = None,
    retrieved: Any = None,
) -> MemoryShares:
    r"""What window, fading state, eidetic set and storage each carry: by attention, by change, by loss.

    Attention mass says where a layer looks, not what it needs: a memory can be looked at in vain, and what
    one holds another may hold too. So each is removed (`ablate`), from all layers and from one at a time.

    Parameters
    ----------
    layer : BMojo or BMojoLM
    u : Tensor
        Tokens (B, T, D), or of a model their numbers (B, T).
    loss : callable, optional
        From the output (B, T, D), or the logits, to a number.
    at : sequence of int, shape (Q,), optional
        Positions at which mass and change are measured; all where left out.
    retrieved : optional
        As the layer or model takes it.

    Returns
    -------
    MemoryShares

    Notes
    -----
    A pass for each memory and layer, and one more for each memory. A store that is attached is written to by
    each of them.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig, BMojoLM, memory_shares
    >>> model = BMojoLM(20, [BMojoConfig(d_model=16, heads=2, window=4, eidetic=2, state_size=4)] * 2)
    >>> shares = memory_shares(model, torch.randint(20, (2, 24)), at=[22, 23])
    >>> shares.change_by_layer.shape
    (2, 4)
    """
    layers = [block.layer for block in layer._blocks()] if isinstance(layer, BMojoLM) else [layer]
    of_each = [
        _those_of(one, retrieved if one is layer else _at(retrieved, i)) for i, one in enumerate(layers)
    ]
    memories = tuple(name for name in MEMORIES if any(name in found for found in of_each))
    place = slice(None) if at is None else torch.as_tensor(at, dtype=torch.int64, device=u.device)
    was_training = layer.training
    layer.eval()
    try:
        outcome = _Outcome(layer, u, retrieved, place, loss)
        whole = outcome({})
        shape = len(layers), len(memories)
        by_layer, alone = np.full((*shape, 2), np.nan), np.full((len(memories), 2), np.nan)
        for j, name in enumerate(memories):
            having = [i for i in range(len(layers)) if name in of_each[i]]
            alone[j] = outcome(dict.fromkeys(having, frozenset({name})), whole[0])[1:]
            for i in having:
                one = {i: frozenset({name})}
                by_layer[i, j] = alone[j] if len(layers) == 1 else outcome(one, whole[0])[1:]
        mass = _masses(layer, u, retrieved, place, memories)
    finally:
        layer.train(was_training)
    return MemoryShares(
        memories, mass, alone[:, 0], by_layer[..., 0], whole[2], alone[:, 1], by_layer[..., 1]
    )


@dataclass(frozen=True)
class _Outcome:
    """Output at the places, its relative change from that of the whole, and the loss."""

    layer: BMojo | BMojoLM
    u: Tensor
    retrieved: Any
    place: Any
    loss: Loss | None

    def __call__(
        self, removal: dict[int, frozenset[str]], whole: Tensor | None = None
    ) -> tuple[Tensor, float, float]:
        if isinstance(self.layer, BMojoLM):
            output = _logits(self.layer, self.u, removal, self.retrieved)
        else:
            done = piece_of(self.layer, self.u, None, self.retrieved)
            output = _without(self.layer, done, removal.get(0, frozenset()))
        loss = float("nan") if self.loss is None else float(self.loss(output))
        seen = output[:, self.place].double()
        change = 0.0 if whole is None else float((seen - whole).norm() / whole.norm())
        return seen, change, loss


def _masses(layer: BMojo | BMojoLM, u: Tensor, retrieved: Any, place: Any, names: tuple[str, ...]) -> Array:
    """Mean attention mass at the places, by layer and memory."""
    if isinstance(layer, BMojo):
        traces = [layer.trace(u, retrieved=retrieved)]
    else:
        x, traces = layer.embedding(u), []
        for i, block in enumerate(layer._blocks()):
            traces.append(block.layer.trace(block.norm(x), retrieved=_at(retrieved, i)))
            x = block.after(x, traces[-1].output)
    found = np.full((len(traces), len(names)), np.nan)
    for i, trace in enumerate(traces):
        mean = trace.attention_mass[:, :, place].double().mean(dim=(0, 1, 2)).cpu().numpy()
        for name, value in zip(trace.segments, mean, strict=True):
            found[i, names.index(name)] = value
    return found


def _logits(model: BMojoLM, tokens: Tensor, removal: dict[int, frozenset[str]], retrieved: Any) -> Tensor:
    """Logits of a model some of whose layers lack memories."""
    x = model.embedding(tokens)
    for i, block in enumerate(model._blocks()):
        done = piece_of(block.layer, block.norm(x), None, _at(retrieved, i))
        x = block.after(x, _without(block.layer, done, removal.get(i, frozenset())))
    return model.readout(model.norm(x))


def _without(layer: BMojo, done: Piece, removed: frozenset[str]) -> Tensor:
    """What a layer puts out after a piece, but for the memories removed."""
    read = None
    if done.memories is not None:
        in_context = removed & {"window", "fading", "eidetic", "retrieved", "stored"}
        read = _read(done.memories, in_context, **layer.steps)
    fading = None if "readout" in removed else done.fading
    if read is None and fading is None:
        return torch.zeros_like(cast(Tensor, done.fading))
    return layer.finished(read, fading, None)


def _read(memories: Memories, removed: frozenset[str], *, window: int, chunk: int) -> Tensor:
    """What the queries read of the memories that are left, (B, T, H, d)."""
    if not removed:
        return memories.read(window=window, chunk=chunk)
    chunks, segments = memories.segments(window=window, chunk=chunk)
    scale = memories.queries.shape[-1] ** -0.5
    kept = [segment for segment in segments if segment.name not in removed]
    out = memories.queries.new_zeros(*memories.queries.shape[:3], memories.window[1].shape[-1])
    lse = out.new_full(out.shape[:3], -torch.inf)
    if kept:
        seen = torch.stack([segment.visible.any(-1).expand(len(out), -1, -1) for segment in kept]).any(0)
        seen = chunks.join(seen)[..., None]
        logits = torch.cat([segment.logits(scale) for segment in kept], dim=-1).logsumexp(dim=-1)
        joined = chunks.join(logits.permute(0, 1, 4, 2, 3).flatten(3))
        lse = torch.where(seen, joined, -torch.inf)
        out = chunks.join(attend(kept, scale=scale)[0]).masked_fill(~seen[..., None], 0.0)
    if memories.stored is None or "stored" in removed:
        return out
    joined, mass = memories.stored.joined(out, lse)
    return torch.where(mass.isnan()[..., None] & lse.isinf()[..., None], 0.0, joined)  # saw nothing at all


def _those_of(layer: BMojo, retrieved: Stored | None) -> tuple[str, ...]:
    """Names of the memories that a layer has."""
    config = layer.config
    there = {
        "window": config.window > 0,
        "fading": config.window > 0 and layer.mixer is not None,
        "readout": layer.mixer is not None and config.fading_readout == "add",
        "eidetic": config.eidetic > 0,
        "retrieved": retrieved is not None,
        "stored": layer.storage is not None and config.eidetic > 0,
    }
    return tuple(name for name in MEMORIES if there[name])


def _named(asked: set[str], there: set[str]) -> frozenset[str]:
    """The memories asked for, of those that are there."""
    unknown = asked - {*MEMORIES, "state"}
    if unknown:
        raise ValueError(
            f"ablate: remove={sorted(unknown)} came; the memories are "
            f"{', '.join(map(repr, (*MEMORIES, 'state')))}."
        )
    names = asked
    if "state" in asked and there & set(STATE):  # the authors' layer has no read-out, a bare mixer no keys
        names = asked - {"state"} | (there & set(STATE))
    if names - there:
        raise ValueError(f"ablate: remove={sorted(names - there)} came; what is there is {sorted(there)}.")
    return frozenset(names)


def _at(retrieved: Any, i: int) -> Stored | None:
    return None if retrieved is None else retrieved[i]
