"""`BMojoLM`: a language model made of B'MOJO layers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bmojo.config import BMojoConfig
from bmojo.layer import BMojo
from bmojo.models.files import CONFIG, WEIGHTS, Hub, read_model, write_model
from bmojo.models.generation import Generated, LMState, generated
from bmojo.models.sampling import Sampler
from bmojo.passes import Stored
from bmojo.state import BMojoState
from bmojo.trace import BMojoTrace

__all__ = ["BMojoLM", "LMState"]


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

    def forward(
        self, x: Tensor, state: BMojoState | None, **options: Any
    ) -> tuple[Tensor, BMojoState | None]:
        if state is None:
            return self.after(x, self.layer(self.norm(x), **options)), None
        mixed, state = self.layer(self.norm(x), state, **options)
        return self.after(x, mixed), state

    def after(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The residual stream once the layer's output is added and the perceptron has acted."""
        x = x + mixed
        if self.hidden:
            value, gate = self.mlp_in(self.mlp_norm(x)).chunk(2, dim=-1)
            x = x + self.mlp_out(nn.functional.silu(gate) * value)
        return x


class BMojoLM(nn.Module, Hub, library_name="realization", tags=["bmojo"]):
    r"""Token embedding, residual blocks of `BMojo` layers, norm, and logits through the embedding.

    Parameters
    ----------
    vocabulary : int
    layers : sequence of BMojoConfig, or of their options as dict
        One per block, all of one width. Configurations may differ: a stacked hybrid is a list in which a
        mixer alone (`window=0`) and a window alone (`mixer="none"`, `eidetic=0`) take turns.
    mlp_ratio : float
        Width of the gated perceptron after each layer, over `d_model`; 0 leaves it out.

    Notes
    -----
    `save` and `load` take folders; `save_pretrained`, `from_pretrained` and `push_to_hub` are those of
    `huggingface_hub.PyTorchModelHubMixin` (extra `hf`). With `gradient_checkpointing = True` activations of
    the blocks are computed anew in the backward pass.

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig, BMojoLM
    >>> model = BMojoLM(50, [BMojoConfig(d_model=32, window=8, eidetic=4, state_size=4)] * 2)
    >>> logits = model(torch.randint(50, (3, 20)))
    >>> logits.shape
    torch.Size([3, 20, 50])
    >>> model.generate(torch.randint(50, (3, 20)), 5, temperature=0.8, top_p=0.9, seed=0).tokens.shape
    torch.Size([3, 5])
    """

    gradient_checkpointing = False

    def __init__(
        self,
        vocabulary: int,
        layers: Sequence[BMojoConfig | Mapping[str, Any]],
        *,
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        configs = [c if isinstance(c, BMojoConfig) else BMojoConfig(**c) for c in layers]
        widths = {config.d_model for config in configs}
        if len(widths) != 1:
            raise ValueError(f"BMojoLM: layers of widths {sorted(widths)} came; one width is needed.")
        if vocabulary < 1 or mlp_ratio < 0:
            raise ValueError(
                f"BMojoLM: vocabulary={vocabulary}, mlp_ratio={mlp_ratio} came; at least 1 and 0 are needed."
            )
        width = widths.pop()
        self.options = {
            "vocabulary": vocabulary,
            "layers": [config.to_dict() for config in configs],
            "mlp_ratio": mlp_ratio,
        }
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(width))
        self.blocks = nn.ModuleList(_Block(config, round(mlp_ratio * width)) for config in configs)
        self.norm = nn.RMSNorm(width, eps=1e-6)

    def init_state(self, batch: int, *, eidetic: int | None = None) -> LMState:
        """State before the first token, by layer; `eidetic` is the budget of the layers that have one."""

        def places(config: BMojoConfig) -> int | None:
            return eidetic if config.eidetic else None

        return tuple(
            block.layer.init_state(batch, eidetic=places(block.layer.config)) for block in self._blocks()
        )

    def forward(
        self,
        tokens: Tensor,
        state: LMState | None = None,
        *,
        retrieved: Sequence[Stored | None] | None = None,
        cu_seqlens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LMState]:
        """Logits (B, T, vocabulary) for tokens (B, T); with the new state where one came in.

        Parameters
        ----------
        tokens : Tensor of int64, shape (B, T)
        state : tuple of BMojoState, optional
            From `init_state` or from the piece before.
        retrieved : sequence, optional
            For each layer what `BMojo` takes under this name, or `None`.
        cu_seqlens : Tensor of int, shape (S + 1,), optional
            Edges of packed sequences in a batch of 1, as `BMojo` takes them.
        mask : Tensor of bool, shape (B, T), optional
            False where there is padding; logits there mean nothing.

        Raises
        ------
        ValueError
            If `retrieved` is not one for each layer, or a layer refuses what came.
        """
        found: Any = self.hidden(tokens, state, retrieved=retrieved, cu_seqlens=cu_seqlens, mask=mask)
        if state is None:
            return self.readout(found)
        hidden, new_state = found
        return self.readout(hidden), new_state

    if TYPE_CHECKING:

        @overload
        def __call__(self, tokens: Tensor, state: None = None, **options: Any) -> Tensor: ...
        @overload
        def __call__(self, tokens: Tensor, state: LMState, **options: Any) -> tuple[Tensor, LMState]: ...
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
    def hidden(self, tokens: Tensor, state: None = None, **options: Any) -> Tensor: ...
    @overload
    def hidden(self, tokens: Tensor, state: LMState, **options: Any) -> tuple[Tensor, LMState]: ...
    def hidden(
        self, tokens: Tensor, state: LMState | None = None, **options: Any
    ) -> Tensor | tuple[Tensor, LMState]:
        """Normed hidden states (B, T, D) before the read-out, for the arguments of `forward`."""
        return self.hidden_of(self.embedding(tokens), state, **options)

    def hidden_of(
        self,
        x: Tensor,
        state: LMState | None = None,
        *,
        retrieved: Sequence[Stored | None] | None = None,
        cu_seqlens: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Any:
        """The same for embedded tokens (B, T, D)."""
        blocks, states = self._blocks(), []
        if retrieved is not None and len(retrieved) != len(blocks):
            raise ValueError(
                f"BMojoLM: retrieved for {len(retrieved)} layers came, the model has {len(blocks)}; give one "
                "for each, None where there is nothing."
            )
        if state is not None and len(state) != len(blocks):
            raise ValueError(f"BMojoLM: a state of {len(state)} layers came, the model has {len(blocks)}.")
        anew = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        shared: dict[str, Any] = {
            name: v for name, v in (("cu_seqlens", cu_seqlens), ("mask", mask)) if v is not None
        }
        for i, block in enumerate(blocks):
            own: dict[str, Any] = (
                {} if retrieved is None or retrieved[i] is None else {"retrieved": retrieved[i]}
            )
            before = None if state is None else state[i]
            if anew and before is None:
                x, part = checkpoint(block, x, None, use_reentrant=False, **shared, **own)
            else:
                x, part = block(x, before, **shared, **own)
            states.append(part)
        return self.norm(x) if state is None else (self.norm(x), tuple(states))

    def readout(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocabulary) of hidden states (..., D)."""
        return hidden @ self.embedding.weight.mT

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        count: int,
        *,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: int | None = None,
        state: LMState | None = None,
        mask: Tensor | None = None,
    ) -> Generated:
        """Go on from a prompt, one token after the other, each in constant time and memory.

        Parameters
        ----------
        tokens : Tensor of int64, shape (B, T)
            The prompt.
        count : int
            New tokens at most.
        temperature, top_k, top_p
            Those of `Sampler`; temperature 0, the default, takes the likeliest token.
        seed : int, optional
            Of what is drawn; torch's own generator when left out.
        stop : int, optional
            Token that ends a sequence; all end, and no more is generated.
        state : tuple of BMojoState, optional
            What came before the prompt.
        mask : Tensor of bool, shape (B, T), optional
            False where a shorter prompt is padded, in front.

        Returns
        -------
        Generated

        Raises
        ------
        ValueError
            If an option is out of range or would have no effect.
        """
        was_training = self.training
        self.eval()
        try:
            sampler = Sampler(temperature=temperature, top_k=top_k, top_p=top_p)
            return generated(self, tokens, count, sampler, seed=seed, stop=stop, state=state, mask=mask)
        finally:
            self.train(was_training)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the configuration and the weights (safetensors) into a folder."""
        write_model(folder, self.options, self.state_dict())

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, device: str = "cpu") -> BMojoLM:
        """Read a model that `save` wrote.

        Raises
        ------
        FileNotFoundError
            If the folder holds no model.
        DataError
            If a file is damaged, or a weight is missing, left over or of another shape; the message lists
            them.
        """
        model: Any = read_model(folder, cls._of_options, device)
        return model

    @classmethod
    def _of_options(cls, config: dict[str, Any]) -> BMojoLM:
        return cls(config["vocabulary"], config["layers"], mlp_ratio=config["mlp_ratio"])

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)

    @classmethod
    def _from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, *, model_id: str, map_location: str = "cpu", **options: Any
    ) -> BMojoLM:
        if os.path.isdir(model_id):
            return cls.load(model_id, device=map_location)
        from huggingface_hub import hf_hub_download

        names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        asked = {name: options[name] for name in names}
        paths = [hf_hub_download(model_id, filename, **asked) for filename in (CONFIG, WEIGHTS)]
        return cls.load(Path(paths[0]).parent, device=map_location)

    def _blocks(self) -> list[_Block]:
        return [block for block in self.blocks if isinstance(block, _Block)]
