r"""One sequence over several processes: the streaming state is all that one part needs of those before it.

A layer's full pass equals its pass in pieces, and the gradient flows from piece to piece through the state.
So process `r` takes the state after the part of `r - 1`, layer by layer, and gives its own on; in the
backward pass the gradient of each state goes the other way. The state holds the mixer's state, the tails of
convolutions, the last `w` keys and values of the window and the last `2w` of the fading memory, and the
eidetic set with its priorities: its size, and so every message, does not depend on the sequence's length.

While process `r` computes layer `l`, process `r + 1` computes layer `l - 1`: a wave runs over layers and
pieces of the batch, and of `L` layers, `M` pieces and `P` processes the share $LM / (LM + P - 1)$ of the time
is work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bmojo.layer import BMojo
from bmojo.state import BMojoState
from bmojo.training.parallel.stretches import Laid, masked, packed

__all__ = ["ContextParallel", "message_bytes"]

RANKED = ("window_priority", "eidetic_priority")  # floating, and without gradient


class ContextParallel:
    """The processes along one sequence, in order.

    Parameters
    ----------
    group : process group, optional
        Rank `r` of it holds the part `r` of every sequence; all processes when left out.

    Examples
    --------
    Alone, a part is the whole:

    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig
    >>> from bmojo.training.parallel import ContextParallel
    >>> layer, u = BMojo(BMojoConfig(d_model=16, window=4, state_size=4)).eval(), torch.randn(2, 12, 16)
    >>> context = ContextParallel()
    >>> with context.along(layer, length=12) as part:
    ...     output = layer(u[:, part])
    >>> bool(torch.equal(output, layer(u)))
    True
    """

    def __init__(self, group: Any = None) -> None:
        self.group = group
        there = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(group), dist.get_world_size(group)) if there else (0, 1)
        self.piece = 0
        """Which part of the batch is passed, or whose gradient is computed, where there are several."""
        self.sent: Counter[str] = Counter()
        """Bytes and messages that this process sent, `forward` and `backward`."""
        self._on_the_way: list[tuple[Any, Tensor]] = []
        self._received: dict[tuple[int, int], list[Tensor]] = {}
        self._anchor = torch.zeros((), requires_grad=True)

    def part(self, length: int) -> slice:
        """Positions of a sequence that are this process's.

        Parameters
        ----------
        length : int
            At least 2 for each process.

        Raises
        ------
        ValueError
            If the sequence is shorter.
        """
        if self.size > 1 and length < 2 * self.size:
            raise ValueError(
                f"ContextParallel: sequences of {length} tokens came for {self.size} processes; at least 2 "
                "for each are needed."
            )
        return self._of(self.rank, length)

    def _of(self, rank: int, length: int) -> slice:
        return slice(rank * length // self.size, (rank + 1) * length // self.size)

    @contextmanager
    def along(
        self,
        model: nn.Module,
        *,
        length: int | None = None,
        cu_seqlens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Iterator[slice]:
        """While it is entered, the layers of a model pass states from process to process.

        The backward pass belongs inside. Each process gets the gradient of its own part; summed over the
        processes, parameters have that of the whole sequence.

        Parameters
        ----------
        model : torch.nn.Module
            With `BMojo` layers in it, called on `tokens[:, part]`, the same model in every process.
        length : int, optional
            Tokens of the whole sequence. One of the three is given.
        cu_seqlens : Tensor of int, shape (S + 1,), optional
            Edges of packed sequences in a batch of 1, of all parts together. The model is called without
            them; a state is passed only where a sequence is cut.
        mask : Tensor of bool, shape (B, T), optional
            False where there is padding, of all parts together; the model is called without it, and its
            layers' outputs there are zero.

        Yields
        ------
        part : slice

        Raises
        ------
        ValueError
            If a layer asks a storage; if packed or masked sequences come to the model, or a mask leaves a
            process without tokens.
        """
        part, laid = self._laid(length, cu_seqlens, mask)
        layers = [layer for layer in model.modules() if isinstance(layer, BMojo)]
        if self.size > 1 and any(layer.storage is not None for layer in layers):
            raise ValueError(
                "ContextParallel: a layer with storage came; its streams are written by the one process that "
                "has seen all that came before. Train without it (bmojo.storage.detach), attach it for "
                "inference on one process, or share out the batch alone (context = 1)."
            )
        shares = [layer.prediction_share for layer in layers]
        own = (part.stop - part.start) / cast(int, length) if laid is None else laid.tokens / laid.total
        for number, layer in enumerate(layers):
            layer.prediction_share *= own
            if self.size > 1 or laid is not None:
                passes = _Passes(self, layer, number, part, laid)
                layer.forward = passes  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield part
            self.settle()
        finally:
            for layer, share in zip(layers, shares, strict=True):
                layer.__dict__.pop("forward", None)
                layer.prediction_share = share
            self._received.clear()

    def _laid(
        self, length: int | None, cu_seqlens: Tensor | None, mask: Tensor | None
    ) -> tuple[slice, Laid | None]:
        """The part, and how it is laid out where sequences are of several lengths."""
        if sum(given is not None for given in (length, cu_seqlens, mask)) != 1:
            raise ValueError("ContextParallel.along: one of length, cu_seqlens and mask is needed.")
        if cu_seqlens is not None:
            part = self.part(int(cu_seqlens[-1]))
            return part, packed(cu_seqlens, part)
        if mask is not None:
            parts = [self._of(rank, mask.shape[1]) for rank in range(self.size)]
            return self.part(mask.shape[1]), masked(mask, parts, self.rank)
        return self.part(cast(int, length)), None

    def settle(self) -> None:
        """Wait until everything that was sent has left."""
        for work, _ in self._on_the_way:
            work.wait()
        self._on_the_way.clear()

    def receive(self, like: BMojoState, number: int, position: int) -> BMojoState:
        """The state after the part before; `like` itself in the first process.

        Parameters
        ----------
        like : BMojoState
            Of the same shapes.
        number : int
            Of the layer.
        position : int
            Where the part begins.
        """
        if self.rank == 0:
            return like
        tensors = iter(_Received.apply(self, number, like, self._anchor))
        return replace(like.apply(lambda _: next(tensors)), position=position)

    def send(self, output: Tensor, state: BMojoState, like: BMojoState, number: int) -> Tensor:
        """Give a state on; the output carries its gradient's way back.

        Parameters
        ----------
        output : Tensor, shape (B, T, D)
        state : BMojoState
        like : BMojoState
            Whose dtypes the message has; a pass in bfloat16 may leave others.
        number : int
            Of the layer.
        """
        if self.rank == self.size - 1:
            return output
        names, kinds = zip(*like.tensors().items(), strict=True)
        tensors = [x.to(of.dtype) for x, of in zip(state.tensors().values(), kinds, strict=True)]
        return _Sent.apply(self, number, names, output, self._anchor, *tensors)  # pyright: ignore[reportReturnType]

    def post(self, tensors: list[Tensor], to: int, way: str) -> None:
        """Send tensors as one message, without waiting.

        Parameters
        ----------
        tensors : list of Tensor
        to : int
            Rank in the group.
        way : str
            Under which it is counted.
        """
        message = torch.cat([x.detach().contiguous().view(-1).view(torch.uint8) for x in tensors])
        self._on_the_way = [(work, kept) for work, kept in self._on_the_way if not work.is_completed()]
        self._on_the_way.append((dist.isend(message, group=self.group, group_dst=to), message))  # pyright: ignore
        self.sent[f"{way} bytes"] += len(message)
        self.sent[f"{way} messages"] += 1

    def fetch(self, like: list[Tensor], source: int) -> list[Tensor]:
        """Tensors of one message.

        Parameters
        ----------
        like : list of Tensor
            Of their shapes and dtypes.
        source : int
            Rank in the group.
        """
        sizes = [x.numel() * x.element_size() for x in like]
        message = torch.empty(sum(sizes), dtype=torch.uint8, device=like[0].device)
        dist.recv(message, group=self.group, group_src=source)
        parts = message.split(sizes)
        return [part.clone().view(x.dtype).view(x.shape) for part, x in zip(parts, like, strict=True)]


class _Passes:
    """A layer's forward pass along its part: from the state that comes, to the one that is given on."""

    def __init__(
        self, context: ContextParallel, layer: BMojo, number: int, part: slice, laid: Laid | None
    ) -> None:
        self.context, self.layer, self.number, self.part, self.laid = context, layer, number, part, laid
        self.plain: Any = layer.forward

    def __call__(self, u: Tensor, state: BMojoState | None = None, **options: Any) -> Any:
        part, laid = self.part, self.laid
        if options.get("mask") is not None or options.get("cu_seqlens") is not None:
            raise ValueError(
                "ContextParallel: packed or masked sequences came to a layer; give `cu_seqlens` or `mask` of "
                "the whole sequences to `ContextParallel.along`, and call the model without."
            )
        due = (len(u), part.stop - part.start) if laid is None else laid.shape
        if u.shape[:2] != due:
            raise ValueError(f"ContextParallel: tokens {tuple(u.shape)} came; {part} of {due[0]} is due.")
        if laid is not None:
            if state is not None or any(given is not None for given in options.values()):
                raise ValueError(
                    "ContextParallel: a state or retrieved keys came with packed or masked sequences, which "
                    "begin anew; leave them out."
                )
            return self._in_stretches(u, laid)
        like = _whole(self.layer.init_state(len(u)) if state is None else state)
        before = self.context.receive(like, self.number, part.start)
        output, after = self.plain(u, before, **options)
        output = self.context.send(output, after, like, self.number)
        return output if state is None else (output, after)

    def _in_stretches(self, u: Tensor, laid: Laid) -> Tensor:
        layer, context, share = self.layer, self.context, self.layer.prediction_share
        like = _whole(layer.init_state(laid.states))
        before = None if laid.comes else like
        flat, outputs, after = u.flatten(0, 1), [], []
        going = [stretch for stretch in laid.stretches if stretch.goes]
        all_anew = sum(len(stretch.lines) for stretch in going) == laid.states
        try:
            for stretch in laid.stretches:
                tokens = flat[stretch.rows]
                layer.prediction_share = share * stretch.rows.numel() / laid.tokens
                if stretch.edges is not None:
                    output = self.plain(tokens, cu_seqlens=stretch.edges)
                else:
                    last = going[-1:] == [stretch]
                    if before is None and (stretch.start or (last and not all_anew)):
                        before = context.receive(like, self.number, 0)
                    front = cast(BMojoState, before) if stretch.start else like
                    front = replace(front.select(stretch.lines), position=stretch.start)
                    output, state = self.plain(tokens, front)
                    after.append((stretch.lines, state))
                    if last:
                        base = like if before is None else before
                        output = context.send(output, _joined(base, after), like, self.number)
                outputs.append(output.flatten(0, 1))
        finally:
            layer.prediction_share = share
        rows = torch.cat([stretch.rows.flatten() for stretch in laid.stretches])
        found = torch.cat(outputs)
        return found.new_zeros(len(flat), found.shape[1]).index_copy(0, rows, found).view(*u.shape[:2], -1)


class _Received(torch.autograd.Function):
    """The state of the process before; its gradient goes back there."""

    @staticmethod
    def forward(ctx, context: ContextParallel, number: int, like: BMojoState, anchor: Tensor):  # pyright: ignore
        names, shapes = zip(*like.tensors().items(), strict=True)
        key = number, context.piece
        if not _computed_anew():
            context._received[key] = context.fetch(list(shapes), context.rank - 1)
        tensors = context._received[key]
        ctx.context, ctx.learned = context, [_learned(*item) for item in zip(names, tensors, strict=True)]
        ctx.mark_non_differentiable(*(x for x, yes in zip(tensors, ctx.learned, strict=True) if not yes))
        return tuple(x.view_as(x) if yes else x for x, yes in zip(tensors, ctx.learned, strict=True))

    @staticmethod
    def backward(ctx, *gradients: Tensor):  # pyright: ignore
        chosen = [g for g, yes in zip(gradients, ctx.learned, strict=True) if yes]
        ctx.context.post(chosen, ctx.context.rank - 1, "backward")
        return None, None, None, None


class _Sent(torch.autograd.Function):
    """An output, unchanged, behind which a state goes to the next process and its gradient comes back."""

    @staticmethod
    def forward(ctx, context: ContextParallel, number: int, names, output: Tensor, anchor, *tensors: Tensor):  # pyright: ignore
        if not _computed_anew():
            context.post(list(tensors), context.rank + 1, "forward")
        ctx.context = context
        learned = [_learned(*item) for item in zip(names, tensors, strict=True)]
        ctx.like = [x.to("meta") if yes else None for x, yes in zip(tensors, learned, strict=True)]
        return output.view_as(output)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore
        like = [torch.empty_like(x, device=gradient.device) for x in ctx.like if x is not None]
        found = iter(ctx.context.fetch(like, ctx.context.rank + 1))
        back = (None if x is None else next(found) for x in ctx.like)
        return None, None, None, gradient, None, *back


def _joined(base: BMojoState, parts: list[tuple[Tensor, BMojoState]]) -> BMojoState:
    """A state with some of its rows replaced."""
    lines = torch.cat([rows for rows, _ in parts])
    columns = zip(*(state.tensors().values() for _, state in parts), strict=True)
    found = iter([torch.cat(column) for column in columns])
    return base.apply(lambda x: x.index_copy(0, lines, next(found).to(x.dtype)))


def _learned(name: str, tensor: Tensor) -> bool:
    return tensor.is_floating_point() and name not in RANKED


def _computed_anew() -> bool:
    """Whether a forward pass runs within a backward one, for activations that were not kept."""
    return torch._C._current_graph_task_id() != -1  # pyright: ignore[reportAttributeAccessIssue]


def _whole(state: BMojoState) -> BMojoState:
    """The state in plain tensors, where the parameters that it was made after are shared out."""
    return state.apply(lambda x: x.full_tensor() if hasattr(x, "full_tensor") else x)  # pyright: ignore


def message_bytes(state: BMojoState) -> dict[str, int]:
    """Bytes that one layer sends to the next process in the forward pass, and back in the backward pass.

    Parameters
    ----------
    state : BMojoState
        Of the sequences that are passed.

    Examples
    --------
    >>> from bmojo import BMojo, BMojoConfig
    >>> from bmojo.training.parallel import message_bytes
    >>> layer = BMojo(BMojoConfig(d_model=16, heads=2, window=4, eidetic=4, state_size=4))
    >>> message_bytes(layer.init_state(1))
    {'forward': 3136, 'backward': 3040}
    """
    tensors = state.tensors()
    back = sum(x.numel() * x.element_size() for name, x in tensors.items() if _learned(name, x))
    return {"forward": state.nbytes, "backward": back}
