"""A B'MOJO layer where decoder layers of transformers call their attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, StaticLayer

from bmojo.hf.cache import StateLayer
from bmojo.layer import BMojo

__all__ = ["PrimedAttention"]


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
