"""Priming: attention layers of a loaded model replaced by B'MOJO layers that start from their projections."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache, StaticLayer

from bmojo.config import BMojoConfig
from bmojo.hf.cache import StateLayer
from bmojo.hf.reading import PROJECTIONS, Attention, read_attention, rotary_of
from bmojo.layer import BMojo
from bmojo.models.attention_like import AttentionLike
from bmojo.models.headwise import start_from_attention

__all__ = ["PrimedAttention", "install", "load_primed", "prime", "restore_buffers"]

READ = ("d_model", "heads", "kv_heads", "head_dim", "qk_norm", "rotary", "rotary_base")


class PrimedAttention(nn.Module):
    """A B'MOJO layer in the place of an attention layer of transformers.

    Parameters
    ----------
    layer : BMojo
    layer_idx : int
        Number of the decoder layer, under which a cache keeps its state.
    masks : bool
        `False` promises that nothing is padded and nothing packed: masks are not looked at, so that a
        compiled model is one graph (their values would decide what is done).

    Examples
    --------
    >>> import torch
    >>> from bmojo import BMojo, BMojoConfig
    >>> from bmojo.hf import PrimedAttention
    >>> attention = PrimedAttention(BMojo(BMojoConfig(d_model=16, heads=2, window=4)), layer_idx=0)
    >>> output, weights = attention(torch.randn(2, 10, 16))
    >>> output.shape, weights
    (torch.Size([2, 10, 16]), None)
    """

    def __init__(self, layer: BMojo, layer_idx: int, *, masks: bool = True) -> None:
        super().__init__()
        self.layer, self.layer_idx, self.masks = layer, layer_idx, masks

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: Any = None,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """Outputs (B, T, D) for hidden states (B, T, D), as decoder layers call their attention.

        Parameters
        ----------
        hidden_states : Tensor, shape (B, T, D)
        position_embeddings
            Not needed: the layer counts positions itself.
        attention_mask : Tensor, shape (B, T) or (B, 1, T, S), optional
            Of it padding is read, and where packed sequences begin.
        cache, past_key_values : Cache, optional
            Keeps the layer's state. The one or the other name.
        options
            What decoder layers hand to every attention layer.
        """
        cache = cache if past_key_values is None else past_key_values
        kept = None if cache is None else _place(cache, self.layer_idx)
        seen = 0 if kept is None else kept.seen
        packing: dict[str, Any] = {}
        if self.masks or not torch.compiler.is_compiling():
            packing = _packing(attention_mask, hidden_states, seen)
        if packing and not self.masks:
            raise ValueError(
                "PrimedAttention: padded or packed sequences came with masks=False, which excludes them."
            )
        if kept is None:
            return self.layer(hidden_states, None, **packing), None
        if "cu_seqlens" in packing:
            raise ValueError("PrimedAttention: packed sequences came with a cache; give use_cache=False.")
        return kept.run(self.layer, hidden_states, packing.get("mask")), None


def _place(cache: Cache, index: int) -> StateLayer:
    """Where a cache keeps the state of a layer; the place of keys and values is taken over."""
    layers: list[Any] = cache.layers
    while len(layers) <= index:
        make: Any = cache.layer_class_to_replicate
        if make is None:
            raise ValueError(
                f"PrimedAttention: a cache of {len(layers)} layers came; layer {index} needs one."
            )
        layers.append(make())
    found = layers[index]
    if not isinstance(found, StateLayer):
        if isinstance(found, StaticLayer) or found.get_seq_length():
            raise ValueError(
                f"PrimedAttention: layer {index} of the cache is a {type(found).__name__} of "
                f"{found.get_seq_length()} tokens; a fresh DynamicCache is needed."
            )
        found = layers[index] = StateLayer()
    return found


def _packing(mask: Tensor | None, x: Tensor, seen: int) -> dict[str, Any]:
    """Padding or packed sequences that a mask of attention tells, as options of a layer."""
    length = x.shape[1]
    if mask is None or (seen and length == 1):
        return {}
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise ValueError(
            f"PrimedAttention: a mask of type {type(mask).__name__} came; load the model with "
            "attn_implementation='sdpa' or 'eager'."
        )
    if mask.ndim == 2:
        visible, before = mask[:, -length:].to(torch.bool), None
    else:
        shown = mask[:, 0] if mask.dtype is torch.bool else mask[:, 0] == 0
        shown = shown.expand(len(x), -1, -1)[..., seen : seen + length]
        visible = shown.diagonal(dim1=-2, dim2=-1)
        before = shown.diagonal(offset=-1, dim1=-2, dim2=-1) | ~visible[:, 1:] | ~visible[:, :-1]
    if before is not None and not bool(before.all()):
        if len(x) > 1:
            raise ValueError(
                "PrimedAttention: packed sequences came in a batch of several; give a batch of 1."
            )
        starts = (~before[0]).nonzero().flatten() + 1
        return {"cu_seqlens": torch.cat([starts.new_zeros(1), starts, starts.new_full((1,), length)])}
    if bool(visible.all()):
        return {}
    if seen:
        raise ValueError("PrimedAttention: a mask hides tokens after others were absorbed; pad in front.")
    return {"mask": visible}


def prime(
    model: PreTrainedModel,
    *,
    window: int,
    layers: Iterable[int] | None = None,
    check: bool = True,
    masks: bool = True,
    **options: Any,
) -> PreTrainedModel:
    r"""Replace attention layers of a Llama- or Qwen-style model by B'MOJO layers, in place.

    Each starts from the projections to queries, keys, values and outputs, the norms and the rotary positions
    of the layer that it replaces. A mixer starts silent (the projection behind it is zero) and a short
    convolution as the identity, so that the outputs of the model are unchanged for sequences of up to
    `window` tokens, whatever memories are asked for. From there training goes on. Mixers at the widths of
    attention (`"headwise_mamba2"`, `"headwise_mamba2_normed"`, `"headwise_gated_deltanet"`,
    `"headwise_gated_kalmanet"`, with `state_size=head_dim`) ask, write and tell what attention did.

    Parameters
    ----------
    model : PreTrainedModel
        With decoder layers that have `q_proj`, `k_proj`, `v_proj`, `o_proj`: Llama, Mistral, Qwen2, Qwen3.
    window : int
        Tokens in context; where the layer had a sliding window, at most that.
    layers : iterable of int, optional
        Decoder layers to replace; all when left out.
    check : bool
        Hold each layer against the one that it replaces, on a short random sequence.
    masks : bool
        `False` where no sequence will be padded or packed; then the model compiles to one graph.
    options
        Those of `BMojoConfig` that the model does not tell, such as `mixer`, `state_size`, `eidetic`. Other
        than there, `short_conv` is 0 when left out.

    Returns
    -------
    model : PreTrainedModel
        The same. Its configuration tells what was replaced; `save_pretrained` writes it, and `load_primed`
        reads it (transformers' own `from_pretrained` would build the old layers, and start them anew).

    Raises
    ------
    ValueError
        If an option is told by the model, a layer is not there, or does what a B'MOJO layer does not.

    Examples
    --------
    >>> import torch
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> from bmojo.hf import prime
    >>> sizes = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2)
    >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=2, **sizes)).eval()
    >>> tokens = torch.randint(50, (2, 20))
    >>> before = model(tokens).logits
    >>> primed = prime(model, window=20, eidetic=8, state_size=8)
    >>> bool(torch.allclose(primed(tokens).logits, before, atol=1e-5))
    True
    """
    told = sorted(set(options) & set(READ))
    if told:
        raise ValueError(f"prime: {', '.join(told)} came, which the model tells; leave them out.")
    found = _attention_layers(model)
    chosen = sorted(found) if layers is None else sorted(set(layers))
    missing = [index for index in chosen if index not in found]
    if missing or not chosen:
        raise ValueError(
            f"prime: layers {missing or chosen} came; {type(model).__name__} has attention layers with "
            f"{', '.join(PROJECTIONS)} at {sorted(found)}."
        )
    rotary = rotary_of(model)
    made: dict[int, PrimedAttention] = {}
    for index in chosen:
        attention: Any = model.get_submodule(found[index])
        about = read_attention(attention, rotary, model.config)
        width = window if about.window is None else min(window, about.window)
        chosen_options: dict[str, Any] = {"short_conv": 0} | options | about.options() | {"window": width}
        config = BMojoConfig(**chosen_options)
        layer = AttentionLike(config, bias=about.bias, out_bias=about.out_bias, frequencies=about.frequencies)
        _start(layer, attention, about)
        reference = attention.q_proj.weight
        made[index] = PrimedAttention(layer.to(reference.device, reference.dtype), index, masks=masks)
        made[index].train(attention.training)
        if check:
            _hold(made[index], attention, rotary)
    return _placed(model, made, found)


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
    found = _attention_layers(model)
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
    return _placed(model, {index: PrimedAttention(layer, index) for index, layer in layers.items()}, found)


def _placed(
    model: PreTrainedModel, made: Mapping[int, PrimedAttention], found: dict[int, str]
) -> PreTrainedModel:
    """The model with the layers in their places, and with what its configuration says of them."""
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
        found = _attention_layers(self)
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


def _attention_layers(model: nn.Module) -> dict[int, str]:
    """Names of the attention layers by the number of their decoder layer."""
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


@torch.no_grad()
def _start(layer: AttentionLike, attention: Any, about: Attention) -> None:
    """Parameters of the attention layer into the B'MOJO layer, whose other memories are silent."""
    heads = [getattr(attention, name) for name in PROJECTIONS[:3]]
    factor = [1.0 if about.qk_norm else about.scale, 1.0, 1.0]
    streams = [layer.in_proj] + ([layer.fading_proj] if hasattr(layer, "fading_proj") else [])
    for stream in streams:
        stream.weight.copy_(torch.cat([x.weight * s for x, s in zip(heads, factor, strict=True)]))
        if about.bias:
            stream.bias.copy_(torch.cat([x.bias * s for x, s in zip(heads, factor, strict=True)]))
    layer.out_proj.weight.copy_(attention.o_proj.weight)
    if about.out_bias:
        layer.out_proj.bias.copy_(attention.o_proj.bias)
    if about.qk_norm:
        layer.query_norm.weight.copy_(attention.q_norm.weight * about.scale)
        layer.key_norm.weight.copy_(attention.k_norm.weight)
    if layer.config.short_conv:
        layer.short_conv.weight.zero_()
        layer.short_conv.weight[:, -1] = 1.0
        layer.short_conv.bias.zero_()
    if layer.mixer is None:
        return
    norms = (layer.query_norm.weight, layer.key_norm.weight) if about.qk_norm else None
    q, k, v = (x.weight for x in heads)
    started = start_from_attention(layer.mixer, q, k, v, norms)
    if layer.config.fading_readout == "add":
        _silence(layer.mixer, layer.config.mixer)
    elif started:
        layer.mixer.out_proj.weight.copy_(attention.o_proj.weight)


def _silence(mixer: Any, name: str) -> None:
    """The mixer puts out zeros, and learns from the first step."""
    if isinstance(getattr(mixer, "out_proj", None), nn.Linear):
        mixer.out_proj.weight.zero_()
    elif name == "lti":
        mixer.C.zero_()
        mixer.D.zero_()
    else:
        raise ValueError(
            f"prime: mixer={name!r} has no `out_proj` that could start at zero, and adds its tokens to the "
            "output; give fading_readout='none'."
        )


@torch.no_grad()
def _hold(primed: PrimedAttention, attention: Any, rotary: nn.Module) -> None:
    """Raise unless both do the same for a short sequence."""
    weight = attention.q_proj.weight
    length = min(12, primed.layer.config.window)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, length, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    positions = torch.arange(length, device=x.device).unsqueeze(0)
    mask = torch.full((length, length), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device).triu(1)
    was_training = primed.training
    for module in (primed, attention):
        module.eval()
    implementation = getattr(attention.config, "_attn_implementation", "sdpa")
    shown = mask[None, None] if implementation in ("eager", "sdpa") else None
    old = attention(x, position_embeddings=rotary(x, positions), attention_mask=shown)[0].float()
    new = primed(x)[0].float()
    for module in (primed, attention):
        module.train(was_training)
    bound = {torch.float64: 1e-5, torch.float32: 1e-4}.get(x.dtype, 5e-2)
    error, size = float((new - old).abs().max()), float(old.abs().max())
    if not error <= bound * max(size, 1e-6):
        raise ValueError(
            f"prime: the layer that is to replace {type(attention).__name__} {attention.layer_idx} differs "
            f"from it by {error:.2g} of {size:.2g}: it does something that a B'MOJO layer does not "
            "(check=False replaces it nevertheless)."
        )
