"""B'MOJO layers put into models of transformers, and such models read from files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from bmojo.config import BMojoConfig
from bmojo.hf.primed import PrimedAttention
from bmojo.hf.reading import PROJECTIONS
from bmojo.layer import BMojo
from bmojo.models.attention_like import AttentionLike

__all__ = ["attention_layers", "install", "load_primed", "placed", "restore_buffers"]


def install(model: PreTrainedModel, layers: Mapping[int, AttentionLike]) -> PreTrainedModel:
    """Put layers that are there into a model, in place of its attention layers.

    Parameters
    ----------
    model : PreTrainedModel
        With decoder layers as `prime` takes them.
    layers : dict of int to AttentionLike
        By the number of the decoder layer, such as `bmojo.models.convert_layers` gives them.

    Returns
    -------
    model : PreTrainedModel
        The same; `save_pretrained` writes it, `load_primed` reads it.

    Raises
    ------
    ValueError
        If a decoder layer is not there, or of another width.

    Examples
    --------
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from bmojo import BMojoConfig
    >>> from bmojo.hf import install
    >>> from bmojo.models import AttentionLike
    >>> sizes = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=2)
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
    >>> model = install(model, {1: AttentionLike(BMojoConfig(d_model=32, window=8))})
    >>> model(torch.randint(50, (2, 20))).logits.shape
    torch.Size([2, 20, 50])
    """
    found = attention_layers(model)
    for index, layer in layers.items():
        if index not in found:
            raise ValueError(
                f"install: layer {index} came; {type(model).__name__} has attention layers at "
                f"{sorted(found)}."
            )
        width = model.get_submodule(found[index]).get_submodule("q_proj").in_features
        if layer.config.d_model != width:
            raise ValueError(
                f"install: layer {index} of width {layer.config.d_model} came; the model's is {width}."
            )
    return placed(model, {index: PrimedAttention(layer, index) for index, layer in layers.items()}, found)


def placed(
    model: PreTrainedModel, made: Mapping[int, PrimedAttention], found: dict[int, str]
) -> PreTrainedModel:
    """The model with the layers in their places, and with what its configuration says of them.

    Parameters
    ----------
    model : PreTrainedModel
    made : dict of int to PrimedAttention
        By the number of the decoder layer.
    found : dict of int to str
        What `attention_layers` tells.
    """
    told = dict(getattr(model.config, "bmojo", None) or {})
    for index, replacement in made.items():
        model.set_submodule(found[index], replacement)
        told[str(index)] = _told(replacement)
    model.config.bmojo = told
    return model


def load_primed(folder: str | os.PathLike[str], **options: Any) -> PreTrainedModel:
    """Read a primed model that `save_pretrained` wrote.

    Parameters
    ----------
    folder : path or name on the hub
    options
        Those of `from_pretrained`, such as `dtype` and `device_map`.

    Raises
    ------
    ValueError
        If the folder holds no primed model, or weights are missing.

    Examples
    --------
    >>> import tempfile, torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from bmojo.hf import load_primed, prime
    >>> sizes = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=1)
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
    >>> model = prime(model, window=8, eidetic=4, state_size=4)
    >>> tokens = torch.randint(50, (1, 20))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_pretrained(folder)
    ...     again = load_primed(folder)
    >>> bool(torch.equal(again(tokens).logits, model.eval()(tokens).logits))
    True
    """
    config = options.pop("config", None) or AutoConfig.from_pretrained(folder)
    if not getattr(config, "bmojo", None):
        raise ValueError(f"load_primed: {os.fspath(folder)} holds no primed model; `prime` makes one.")
    base: Any = AutoModelForCausalLM._model_mapping[type(config)]

    def __init__(self: Any, config: Any, *given: Any, **more: Any) -> None:
        base.__init__(self, config, *given, **more)
        found = attention_layers(self)
        for index, told in config.bmojo.items():
            self.set_submodule(found[int(index)], _built(told, int(index)))

    shaped: Any = type(base.__name__, (base,), {"__init__": __init__, "__module__": base.__module__})
    model, info = shaped.from_pretrained(folder, config=config, output_loading_info=True, **options)
    if info["missing_keys"]:
        raise ValueError(
            f"load_primed: {os.fspath(folder)} lacks {', '.join(sorted(info['missing_keys']))}; another "
            "configuration wrote it."
        )
    restore_buffers(model)
    model.__class__ = base
    return model


def restore_buffers(model: nn.Module) -> None:
    """Make anew what layers hold and files do not: constant tables, lost where a model is built empty.

    Parameters
    ----------
    model : torch.nn.Module
    """
    for layer in model.modules():
        lost = (
            [m for m in layer.modules() if m._non_persistent_buffers_set] if isinstance(layer, BMojo) else []
        )
        if not lost or not isinstance(layer, BMojo):
            continue
        with torch.device("cpu"):
            fresh = dict(BMojo(layer.config).named_buffers())
        for name, module in layer.named_modules():
            for own in module._non_persistent_buffers_set:
                there = module.get_buffer(own)
                whole = f"{name}.{own}" if name else own
                setattr(module, own, fresh[whole].to(there.device, there.dtype))


def attention_layers(model: nn.Module) -> dict[int, str]:
    """Names of the attention layers by the number of their decoder layer.

    Parameters
    ----------
    model : torch.nn.Module
    """
    return {
        int(module.layer_idx): name  # pyright: ignore[reportArgumentType]
        for name, module in model.named_modules()
        if all(isinstance(getattr(module, p, None), nn.Linear) for p in PROJECTIONS)
        and getattr(module, "layer_idx", None) is not None
    }


def _told(primed: PrimedAttention) -> dict[str, Any]:
    """What a configuration file says of one layer."""
    layer = primed.layer
    assert isinstance(layer, AttentionLike)
    return {
        "config": layer.config.to_dict(),
        "bias": layer.in_proj.bias is not None,
        "out_bias": layer.out_proj.bias is not None,
        "frequencies": None if layer.frequencies is None else list(layer.frequencies),
        "fading_norms": layer.fading_norms,
        "masks": primed.masks,
    }


def _built(told: dict[str, Any], index: int) -> PrimedAttention:
    """The layer of which a configuration file says that."""
    names = ("bias", "out_bias", "frequencies", "fading_norms")
    layer = AttentionLike(BMojoConfig(**told["config"]), **{name: told[name] for name in names})
    return PrimedAttention(layer, index, masks=told["masks"])
