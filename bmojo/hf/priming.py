"""Priming: attention layers of a loaded model replaced by B'MOJO layers that start from their projections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from bmojo.config import BMojoConfig
from bmojo.hf.placing import attention_layers, placed
from bmojo.hf.primed import PrimedAttention
from bmojo.hf.reading import PROJECTIONS, Attention, read_attention, rotary_of
from bmojo.models.attention_like import AttentionLike
from bmojo.models.headwise import start_from_attention

__all__ = ["prime"]

READ = ("d_model", "heads", "kv_heads", "head_dim", "qk_norm", "rotary", "rotary_base")


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
    found = attention_layers(model)
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
    return placed(model, made, found)


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
