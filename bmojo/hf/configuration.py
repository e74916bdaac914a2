"""The configuration of a B'MOJO language model as transformers stores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PretrainedConfig

from bmojo.config import BMojoConfig

__all__ = ["BMojoModelConfig"]

Options = BMojoConfig | Mapping[str, Any]


class BMojoModelConfig(PretrainedConfig):
    """Vocabulary and layers of a `BMojoForCausalLM`.

    Parameters
    ----------
    vocab_size : int
    layers : BMojoConfig, dict of its options, or a sequence of either
        One for each block; a single one is that of all blocks.
    num_hidden_layers : int, optional
        Number of blocks; 2 where `layers` is a single one and none is told.
    mlp_ratio : float
        Width of the gated perceptron after each layer, over `d_model`; 0 leaves it out.
    use_cache : bool
        Whether the model hands out its state outside of training.
    options
        Those of every transformers configuration, such as `eos_token_id`.

    Raises
    ------
    ValueError
        If the number of blocks contradicts `layers`, or options of a layer do not fit together.

    Examples
    --------
    >>> from bmojo import BMojoConfig
    >>> from bmojo.hf import BMojoModelConfig
    >>> config = BMojoModelConfig(vocab_size=50, layers=BMojoConfig(d_model=32), num_hidden_layers=2)
    >>> config.hidden_size, len(config.layers), config.layer_configs()[1].window
    (32, 2, 64)
    """

    model_type = "bmojo"

    def __init__(
        self,
        vocab_size: int = 50_304,
        layers: Options | Sequence[Options] | None = None,
        num_hidden_layers: int | None = None,
        mlp_ratio: float = 2.0,
        use_cache: bool = True,
        **options: Any,
    ) -> None:
        found = _blocks({"d_model": 256} if layers is None else layers, num_hidden_layers)
        first = found[0]
        self.vocab_size, self.mlp_ratio, self.use_cache = vocab_size, mlp_ratio, use_cache
        self.layers = [config.to_dict() for config in found]
        self.num_hidden_layers = len(found)
        for name, value in (("hidden_size", first.d_model), ("num_attention_heads", first.heads)):
            if options.pop(name, value) != value:
                raise ValueError(f"BMojoModelConfig: {name} is that of the layers, {value}; leave it out.")
            setattr(self, name, value)
        if not options.setdefault("tie_word_embeddings", True):
            raise ValueError("BMojoModelConfig: tie_word_embeddings=False came; the head is the embedding.")
        super().__init__(**options)

    def layer_configs(self) -> list[BMojoConfig]:
        """The options of each block."""
        return [BMojoConfig(**options) for options in self.layers]


def _blocks(layers: Options | Sequence[Options], count: int | None) -> list[BMojoConfig]:
    if isinstance(layers, BMojoConfig | Mapping):
        layers = [layers] * (2 if count is None else count)
    if not layers or (count is not None and len(layers) != count):
        raise ValueError(
            f"BMojoModelConfig: num_hidden_layers={count} came with {len(layers)} layers; at least one is "
            "needed, and as many as are told."
        )
    return [c if isinstance(c, BMojoConfig) else BMojoConfig(**c) for c in layers]
