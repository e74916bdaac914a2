"""`BMojoLM`: a language model made of B'MOJO layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from bmojo.config import BMojoConfig
from bmojo.layer import BMojo
from bmojo.state import BMojoState
from bmojo.trace import BMojoTrace

__all__ = ["BMojoLM", "LMState"]

LMState = tuple[BMojoState, ...]


class _Block(nn.Module):
    """Pre-norm residual block: the layer, then (where it has a width) a gated perceptron."""

    def __init__(self, config: BMojoConfig, hidden: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=1e-6)
        self.layer = BMojo(config)
        self.hidden = hidden
        if hidden:
            self.mlp_norm = nn.RMSNorm(config.d_model, eps=1e-6)
            self.mlp_in = nn.Linear(config.d_model, 2 * hidden, bias=False)
            self.mlp_out = nn.Linear(hidden, config.d_model, bias=False)

    def forward(self, x: Tensor, state: BMojoState | None) -> tuple[Tensor, BMojoState | None]:
        if state is None:
            return self.after(x, self.layer(self.norm(x))), None
        mixed, state = self.layer(self.norm(x), state)
        return self.after(x, mixed), state

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The residual stream once the layer's output is added and the perceptron has acted."""
        x = x + mixed
        if self.hidden:
            value, gate = self.mlp_in(self.mlp_norm(x)).chunk(2, dim=-1)
            x = x + self.mlp_out(nn.functional.silu(gate) * value)
        return x


class BMojoLM(nn.Module):
    r"""Token embedding, residual blocks of `BMojo` layers, norm, and logits through the embedding.

    Parameters
    ----------
    vocabulary : int
    layers : sequence of BMojoConfig
        One per block, all of one width. Configurations may differ: a stacked hybrid is a list in which a
        mixer alone (`window=0`) and a window alone (`mixer="none"`, `eidetic=0`) take turns.
    mlp_ratio : float
        Width of the gated perceptron after each layer, over `d_model`; 0 leaves it out.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig, BMojoLM
    >>> model = BMojoLM(50, [BMojoConfig(d_model=32, window=8, eidetic=4, state_size=4)] * 2)
    >>> logits = model(torch.randint(50, (3, 20)))
    >>> logits.shape
    torch.Size([3, 20, 50])
    """

    def __init__(self, vocabulary: int, layers: Sequence[BMojoConfig], *, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        widths = {config.d_model for config in layers}
        if len(widths) != 1:
            raise ValueError(f"BMojoLM: layers of widths {sorted(widths)} came; one width is needed.")
        width = widths.pop()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width))
        self.blocks = nn.ModuleList(_Block(config, round(mlp_ratio * width)) for config in layers)
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def init_state(self, batch: int, *, eidetic: int | None = None) -> LMState:
        """State before the first token, by layer; `eidetic` is the budget of the layers that have one."""

        def places(config: BMojoConfig) -> int | None:
            return eidetic if config.eidetic else None

        return tuple(
            block.layer.init_state(batch, eidetic=places(block.layer.config)) for block in self._blocks()
        )

    def forward(self, tokens: Tensor, state: LMState | None = None) -> Tensor | tuple[Tensor, LMState]:
        """Logits (B, T, vocabulary) for tokens (B, T); with the new state where one came in."""
        if state is None:
            return self.readout(self.hidden(tokens))
        hidden, new_state = self.hidden(tokens, state)
        return self.readout(hidden), new_state

    if TYPE_CHECKING:

        @overload
        def __call__(self, tokens: Tensor, state: None = None) -> Tensor: ...
        @overload
        def __call__(self, tokens: Tensor, state: LMState) -> tuple[Tensor, LMState]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run `forward`."""

    @torch.no_grad()
    def trace(self, tokens: Tensor) -> list[BMojoTrace]:
        """What each layer does along tokens (B, T): scores, sets, and where attention goes."""
        x, traces = self.embedding(tokens), []
        for block in self._blocks():
            traces.append(block.layer.trace(block.norm(x)))
            x = block.after(x, traces[-1].output)
        return traces

    @overload
    def hidden(self, tokens: Tensor, state: None = None) -> Tensor: ...
    @overload
    def hidden(self, tokens: Tensor, state: LMState) -> tuple[Tensor, LMState]: ...
    def hidden(self, tokens: Tensor, state: LMState | None = None) -> Tensor | tuple[Tensor, LMState]:
        """Normed hidden states (B, T, D) before the read-out; with the new state where one came in."""
        x, states = self.embedding(tokens), []
        for i, block in enumerate(self._blocks()):
            x, part = block(x, None if state is None else state[i])
            states.append(part)
        return self.norm(x) if state is None else (self.norm(x), tuple(states))

    def readout(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of hidden states (..., D)."""
        return hidden @ self.embedding.weight.mT

    def _blocks(self) -> list[_Block]:
        return [block for block in self.blocks if isinstance(block, _Block)]
