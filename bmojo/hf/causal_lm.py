"""`BMojoForCausalLM`: the language model as transformers knows models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from bmojo.hf.cache import CACHE, BMojoCache, StateLayer
from bmojo.hf.configuration import BMojoModelConfig
from bmojo.hf.placing import restore_buffers
from bmojo.models.language_model import BMojoLM

__all__ = ["BMojoForCausalLM"]


class BMojoForCausalLM(PreTrainedModel, GenerationMixin):
    """A `BMojoLM` with transformers' loss, generation, files and hub.

    Parameters
    ----------
    config : BMojoModelConfig

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojoConfig
    >>> from bmojo.hf import BMojoForCausalLM, BMojoModelConfig
    >>> layer = BMojoConfig(d_model=32, window=8, eidetic=4, state_size=4)
    >>> model = BMojoForCausalLM(BMojoModelConfig(vocab_size=50, layers=layer, num_hidden_layers=2)).eval()
    >>> tokens = torch.randint(50, (2, 20))
    >>> model(tokens, labels=tokens).loss.shape, model.generate(tokens, max_new_tokens=5).shape
    (torch.Size([]), torch.Size([2, 25]))
    """

    config_class = BMojoModelConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["_Block"]  # noqa: RUF012

    def __init__(self, config: BMojoModelConfig) -> None:
        super().__init__(config)
        self.model = BMojoLM(config.vocab_size, config.layer_configs(), mlp_ratio=config.mlp_ratio)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the layers start as they were made."""

    @classmethod
    def from_pretrained(cls, *arguments: Any, output_loading_info: bool = False, **options: Any) -> Any:
        """As in transformers, but a missing weight is an error: the layers would start from nothing.

        Raises
        ------
        ValueError
            If weights are missing in the files.
        """
        loaded: Any = super().from_pretrained(*arguments, output_loading_info=True, **options)
        model, info = loaded
        if info["missing_keys"]:
            raise ValueError(
                f"BMojoForCausalLM: the files lack {', '.join(sorted(info['missing_keys']))}; another "
                "configuration wrote them."
            )
        restore_buffers(model)
        return (model, info) if output_loading_info else model

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False  # the model makes its own

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, which is the head too."""
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding, and the head with it."""
        assert isinstance(value, nn.Embedding)
        self.model.embedding = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        cache: BMojoCache | None = None,
        past_key_values: BMojoCache | None = None,
        logits_to_keep: int | Tensor = 0,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss where labels came.

        Parameters
        ----------
        input_ids : Tensor of int64, shape (B, T)
        attention_mask : Tensor, shape (B, S), optional
            0 where there is padding, of these tokens and of all before; padding has its place before the
            first tokens are absorbed, in the first piece.
        inputs_embeds : Tensor, shape (B, T, D), optional
            In place of `input_ids`.
        labels : Tensor of int64, shape (B, T), optional
            The tokens themselves; each is compared with the logits before it, -100 with none.
        use_cache : bool, optional
            Hand out the state; left out, as configured, and never in training.
        cache, past_key_values : BMojoCache, optional
            From the piece before. The one or the other name.
        logits_to_keep : int or Tensor
            Logits of the last so many places alone, or of those places; 0: of all.
        options
            `num_items_in_batch`, for the loss.

        Raises
        ------
        ValueError
            If an option came that the model does not know, or tokens are missing.
        """
        self._check(input_ids, inputs_embeds, options)
        x = self.model.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        cache = cache if past_key_values is None else past_key_values
        wanted = use_cache if use_cache is not None else self.config.use_cache and not self.training
        if cache is None and wanted:
            cache = BMojoCache(self.config.num_hidden_layers)
        hidden = self._hidden(x, _padding(attention_mask, x, cache), cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.model.readout(hidden[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **options
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})  # pyright: ignore[reportArgumentType]

    def _hidden(self, x: Tensor, mask: Tensor | None, cache: BMojoCache | None) -> Tensor:
        if cache is None:
            return self.model.hidden_of(x, mask=mask)
        layers = [layer for layer in getattr(cache, "layers", ()) if isinstance(layer, StateLayer)]
        if len(layers) != self.config.num_hidden_layers:
            raise ValueError(
                f"BMojoForCausalLM: {cache} came as cache; BMojoCache({self.config.num_hidden_layers}) is "
                "needed."
            )
        carried = tuple(layer.state for layer in layers if layer.state is not None)
        state = carried or self.model.init_state(len(x))
        hidden, state = self.model.hidden_of(x, state, mask=mask)
        for layer, part in zip(layers, state, strict=True):
            layer.keep(part, x.shape[1])
        return hidden

    def _check(self, tokens: Tensor | None, embedded: Tensor | None, options: dict[str, Any]) -> None:
        if (tokens is None) == (embedded is None):
            raise ValueError("BMojoForCausalLM: give input_ids or inputs_embeds, one of the two.")
        silent = {"output_attentions", "output_hidden_states"}
        unknown = [
            name
            for name, value in options.items()
            if name != "num_items_in_batch" and value is not None and not (name in silent and not value)
        ]
        if unknown:
            raise ValueError(
                f"BMojoForCausalLM: {', '.join(sorted(unknown))} came, which it does not know. Positions "
                "follow from the mask; what the layers do is told by `model.model.trace(tokens)`."
            )


def _padding(mask: Tensor | None, x: Tensor, cache: BMojoCache | None) -> Tensor | None:
    """Where there is no padding, (B, T) of bool; `None` where there is none at all."""
    if mask is None:
        return None
    length, seen = x.shape[1], 0 if cache is None else cache.get_seq_length()
    if mask.ndim != 2 or mask.shape[0] != len(x) or mask.shape[1] not in (length, seen + length):
        raise ValueError(
            f"BMojoForCausalLM: attention_mask {tuple(mask.shape)} came with {length} tokens after {seen}; "
            "(B, T) is needed, of these tokens or of all."
        )
    if seen and length == 1:  # a new token is none of the padding
        return None
    mask = mask[:, -length:].to(torch.bool)
    if bool(mask.all()):
        return None
    if seen:
        raise ValueError(
            "BMojoForCausalLM: attention_mask hides tokens after others were absorbed; padding belongs "
            "into the first piece."
        )
    return mask
