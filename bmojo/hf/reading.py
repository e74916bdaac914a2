"""What an attention layer of transformers is made of, as options of a B'MOJO layer."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bmojo.projections import EPS

__all__ = ["Attention", "read_attention", "rotary_of"]

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
STATIC = ("default", "linear", "llama3", "yarn")  # rotary positions whose angles do not depend on the length


@dataclass(frozen=True)
class Attention:
    """Sizes and peculiarities of an attention layer.

    Parameters
    ----------
    d_model, heads, kv_heads, head_dim : int
    qk_norm, bias, out_bias : bool
    rotary_base : float
    frequencies : tuple of float, optional
        Angles per token where they are not those of the base.
    scale : float
        Factor of its logits over $d^{-1/2}$, which queries are to carry.
    window : int, optional
        Of a sliding window.
    """

    d_model: int
    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: bool
    bias: bool
    out_bias: bool
    rotary_base: float
    frequencies: tuple[float, ...] | None
    scale: float
    window: int | None

    def options(self) -> dict[str, Any]:
        """Those that `BMojoConfig` takes."""
        names = ("d_model", "heads", "kv_heads", "head_dim", "qk_norm", "rotary_base")
        return {name: value for name, value in asdict(self).items() if name in names}


def rotary_of(model: nn.Module) -> nn.Module:
    """The module of a model that makes rotary positions.

    Parameters
    ----------
    model : torch.nn.Module

    Raises
    ------
    ValueError
        If there is none, or one whose angles depend on the length of the sequence.
    """
    found = [m for m in model.modules() if hasattr(m, "inv_freq") and hasattr(m, "attention_scaling")]
    if len(found) != 1:
        raise ValueError(
            f"prime: {len(found)} modules with rotary frequencies came in {type(model).__name__}; one is "
            "needed, as in Llama, Mistral, Qwen2 and Qwen3."
        )
    kind = getattr(found[0], "rope_type", "default")
    if kind not in STATIC:
        raise ValueError(
            f"prime: rotary positions of type {kind!r} came, whose angles depend on the sequence's length; "
            f"those of type {', '.join(map(repr, STATIC))} do not."
        )
    return found[0]


def read_attention(attention: Any, rotary: Any, config: Any) -> Attention:
    """What is needed to build a layer that does the same.

    Parameters
    ----------
    attention : torch.nn.Module
        With `q_proj`, `k_proj`, `v_proj`, `o_proj`, and `q_norm`, `k_norm` where it has them.
    rotary : torch.nn.Module
        Its rotary positions.
    config : PretrainedConfig
        Of the model.

    Raises
    ------
    ValueError
        If the layer does something that a B'MOJO layer does not.
    """
    q, k, v, o = (getattr(attention, name) for name in PROJECTIONS)
    head_dim = attention.head_dim
    qk_norm = getattr(attention, "q_norm", None) is not None
    dropout = getattr(attention, "attention_dropout", 0.0)
    if dropout:
        raise ValueError(
            f"prime: attention_dropout={dropout} came; a B'MOJO layer drops outputs, not weights of "
            "attention. Set it to 0 before, and `dropout` of prime instead."
        )
    if len({x.bias is None for x in (q, k, v)}) != 1:
        raise ValueError("prime: some of q_proj, k_proj, v_proj have a bias and some have none.")
    if qk_norm:
        _check_norms(attention, head_dim)
    pairs = rotary.inv_freq.float().cpu()
    if len(pairs) != head_dim // 2:
        raise ValueError(
            f"prime: rotary positions of {2 * len(pairs)} of {head_dim} numbers of a head came; all are "
            "needed."
        )
    base = _base(config)
    powers = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    plain = bool(torch.allclose(pairs.double(), powers, rtol=1e-5, atol=0.0))
    scaling = getattr(attention, "scaling", head_dim**-0.5) * math.sqrt(head_dim)
    return Attention(
        d_model=q.in_features,
        heads=q.out_features // head_dim,
        kv_heads=k.out_features // head_dim,
        head_dim=head_dim,
        qk_norm=qk_norm,
        bias=q.bias is not None,
        out_bias=o.bias is not None,
        rotary_base=base,
        frequencies=None if plain else tuple(pairs.double().tolist()),
        scale=scaling * float(rotary.attention_scaling) ** 2,
        window=getattr(attention, "sliding_window", getattr(config, "sliding_window", None)),
    )


def _base(config: Any) -> float:
    parameters = getattr(config, "rope_parameters", None) or {}
    base = parameters.get("rope_theta", getattr(config, "rope_theta", None))
    if base is None:
        raise ValueError("prime: the model's configuration tells no `rope_theta`, the base of its positions.")
    return float(base)


def _check_norms(attention: Any, head_dim: int) -> None:
    for name in ("q_norm", "k_norm"):
        norm = getattr(attention, name)
        weight: Tensor = norm.weight
        eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        if tuple(weight.shape) != (head_dim,) or eps != EPS:
            raise ValueError(
                f"prime: {name} over {tuple(weight.shape)} with eps={eps} came; norms of queries and keys "
                f"act on heads, ({head_dim},), with eps={EPS}."
            )
