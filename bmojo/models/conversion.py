r"""Weights of the authors' B'MOJO-F layers, by their names.

A decoder layer `model.layers.3` of theirs holds, under `model.layers.3.bmojo_f.`,

- `bmojo_attn.{q,k,v,o}_proj`, and `q_norm`, `k_norm` where the model has them; with an underscore behind
  (`q_proj_`, `k_proj_`, `v_proj_`, `q_norm_`, `k_norm_`) those of the fading stream where it has its own;
- one mixer: `mamba.*`, `gdn.*` (Gated DeltaNet) or `gka.*` (Gated KalmaNet).

Their mixers are as wide as attention and share keys and values among groups of heads. Here each head has its
own, so rows of a group are repeated: the function is the same, and training may tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bmojo.config import BMojoConfig
from bmojo.models.attention_like import AttentionLike
from realization.errors import RealizationError

__all__ = ["ConversionError", "convert_layer", "convert_layers"]

MIXERS = {
    "mamba": "headwise_mamba2",
    "gdn": "headwise_gated_deltanet",
    "gka": "headwise_gated_kalmanet",
}
LAYER = re.compile(r"^(?P<prefix>(?:.*\.)?layers\.(?P<index>\d+)\.bmojo_f)\.")
TAPS = 4


class ConversionError(RealizationError):
    """Weights do not have the authors' layout; the message lists what is missing, left over or misshapen."""


@dataclass
class _Source:
    """Tensors of one layer, each taken once; what goes wrong is collected, to be told at once."""

    tensors: dict[str, Tensor]
    faults: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name, which must have that shape."""
        self.taken.add(name)
        found = self.tensors.get(name)
        if found is None:
            self.faults.append(f"missing {name} {shape}")
            return torch.zeros(shape)
        if tuple(found.shape) != shape:
            self.faults.append(f"{name}: {tuple(found.shape)} came, {shape} is needed")
            return torch.zeros(shape, dtype=found.dtype)
        return found

    def has(self, name: str) -> bool:
        return name in self.tensors

    def left_over(self) -> list[str]:
        return [f"left over {name}" for name in sorted(set(self.tensors) - self.taken)]


@dataclass(frozen=True)
class _Sizes:
    width: int
    heads: int
    groups: int
    head_dim: int

    @property
    def inner(self) -> int:
        return self.heads * self.head_dim

    @property
    def shared(self) -> int:
        return self.groups * self.head_dim

    def repeated(self, x: Tensor) -> Tensor:
        """Rows (G d, ...) of groups as rows (H d, ...) of heads."""
        grouped = x.unflatten(0, (self.groups, self.head_dim))
        return grouped.repeat_interleave(self.heads // self.groups, dim=0).flatten(0, 1)


def convert_layers(
    tensors: Mapping[str, Tensor], *, window: int, rotary_base: float, **options: Any
) -> dict[int, AttentionLike]:
    """Every B'MOJO-F layer in the weights of a model.

    Parameters
    ----------
    tensors : dict of str to Tensor, of any shape (...)
        All weights of the model, or a part of them.
    window : int
        The authors' `window_size`: each query meets as many tokens, and as many fading ones.
    rotary_base : float
        The model's `rope_theta`.
    options
        Those of `convert_layer`.

    Returns
    -------
    layers : dict of int to AttentionLike
        By the number of the decoder layer.

    Raises
    ------
    ConversionError
        If there is no such layer, or one has another layout.

    Examples
    --------
    >>> from bmojo.models.conversion import ConversionError, convert_layers
    >>> try:
    ...     convert_layers({"model.norm.weight": None}, window=4, rotary_base=1e4)
    ... except ConversionError as error:
    ...     print(error)
    convert_layers: no name holds 'layers.<number>.bmojo_f.', of 1 that came; give weights of the
    authors' model.
    """
    prefixes = {int(m["index"]): m["prefix"] for name in tensors if (m := LAYER.match(name))}
    if not prefixes:
        raise ConversionError(
            f"convert_layers: no name holds 'layers.<number>.bmojo_f.', of {len(tensors)} that came; give "
            "weights of the authors' model."
        )
    return {
        index: convert_layer(tensors, prefixes[index], window=window, rotary_base=rotary_base, **options)
        for index in sorted(prefixes)
    }


def convert_layer(
    tensors: Mapping[str, Tensor],
    prefix: str,
    *,
    window: int,
    rotary_base: float,
    frequencies: Sequence[float] | None = None,
    **options: Any,
) -> AttentionLike:
    """One B'MOJO-F layer.

    Parameters
    ----------
    tensors : dict of str to Tensor, of any shape (...)
        Weights that hold those of the layer.
    prefix : str
        What stands before `.bmojo_attn`, such as `"model.layers.3.bmojo_f"`.
    window : int
        The authors' `window_size`.
    rotary_base : float
        The model's `rope_theta`.
    frequencies : sequence of float, optional
        Angles per token where the model scales its rotary positions (its `inv_freq`).
    options
        Further ones of `BMojoConfig`, such as `eidetic=64` for a set that the authors' layer has not.

    Returns
    -------
    layer : AttentionLike
        In the dtype of the weights; norms of queries and keys with `eps = 1e-6`, as in Qwen3.

    Raises
    ------
    ConversionError
        If tensors are missing, left over or of another shape; the message lists all of them.

    Examples
    --------
    >>> from bmojo.models.conversion import ConversionError, convert_layer
    >>> try:
    ...     convert_layer({}, "model.layers.3.bmojo_f", window=4, rotary_base=1e4)
    ... except ConversionError as error:
    ...     print(str(error)[:72])
    model.layers.3.bmojo_f: one of mamba, gdn, gka is needed, none came; mis
    """
    own = {n[len(prefix) + 1 :]: x for n, x in tensors.items() if n.startswith(f"{prefix}.")}
    kind = _kind(own, prefix)
    source, sizes = _Source(own), _sizes(own, kind, prefix)
    normed = source.has("bmojo_attn.q_norm.weight")
    tied = not source.has("bmojo_attn.q_proj_.weight")
    told: dict[str, Any] = {
        "d_model": sizes.width,
        "heads": sizes.heads,
        "kv_heads": sizes.groups,
        "head_dim": sizes.head_dim,
        "state_size": sizes.head_dim,
        "mixer": MIXERS[kind] + ("_normed" if source.has("mamba.B_norm.weight") else ""),
        "qk_norm": normed,
        "tie_projections": tied,
    }
    refused = sorted(set(options) & set(told))
    if refused:
        raise ConversionError(f"{prefix}: {', '.join(refused)} came, which the weights tell; leave them out.")
    chosen = {"eidetic": 0, "short_conv": 0, "fading_readout": "none"} | options | told
    layer = AttentionLike(
        BMojoConfig(window=window, rotary_base=rotary_base, **chosen),
        bias=source.has("bmojo_attn.q_proj.bias"),
        out_bias=source.has("bmojo_attn.o_proj.bias"),
        frequencies=frequencies,
        fading_norms=normed and not tied,
    ).to(own["bmojo_attn.q_proj.weight"].dtype)
    found = _attention(source, sizes, layer)
    found |= {f"mixer.{name}": x for name, x in CONVERTED[kind](source, sizes).items()}
    faults = source.faults + source.left_over()
    if faults:
        raise ConversionError(f"{prefix}: {'; '.join(faults)}.")
    with torch.no_grad():
        parameters = dict(layer.named_parameters())
        for name, x in found.items():
            parameters[name].copy_(x)
    return layer


def _kind(own: dict[str, Tensor], prefix: str) -> str:
    """Which mixer the layer has, once what tells its sizes is there."""
    kinds = [kind for kind in MIXERS if any(name.startswith(f"{kind}.") for name in own)]
    known = [name for name in ("bmojo_attn.q_proj.weight", "bmojo_attn.k_proj.weight") if name not in own]
    if len(kinds) != 1 or known or f"{kinds[0]}.A_log" not in own:
        lacking = [*known, *(f"{kind}.A_log" for kind in kinds[:1] if f"{kind}.A_log" not in own)]
        raise ConversionError(
            f"{prefix}: one of {', '.join(MIXERS)} is needed, {' and '.join(kinds) or 'none'} came"
            + (f"; missing {', '.join(lacking)}." if lacking else ".")
        )
    return kinds[0]


def _sizes(own: dict[str, Tensor], kind: str, prefix: str) -> _Sizes:
    inner, width = own["bmojo_attn.q_proj.weight"].shape
    shared = own["bmojo_attn.k_proj.weight"].shape[0]
    heads = len(own[f"{kind}.A_log"])
    head_dim = inner // heads
    groups = shared // head_dim if head_dim else 0
    if heads * head_dim != inner or not groups or groups * head_dim != shared or heads % groups:
        raise ConversionError(
            f"{prefix}: {heads} heads ({kind}.A_log), {inner} rows of q_proj and {shared} of k_proj came, "
            "which do not fit together."
        )
    return _Sizes(width, heads, groups, head_dim)


def _attention(source: _Source, sizes: _Sizes, layer: AttentionLike) -> dict[str, Tensor]:
    """Parameters of the layer's own, by name."""
    rows = {"q": sizes.inner, "k": sizes.shared, "v": sizes.shared}

    def joined(part: str, suffix: str = "") -> Tensor:
        width = (sizes.width,) if part == "weight" else ()
        named = ((f"bmojo_attn.{x}_proj{suffix}.{part}", n) for x, n in rows.items())
        return torch.cat([source.take(name, n, *width) for name, n in named])

    found = {"in_proj.weight": joined("weight")}
    found["out_proj.weight"] = source.take("bmojo_attn.o_proj.weight", sizes.width, sizes.inner)
    streams = [("in_proj", "")]
    if not layer.config.tie_projections:
        streams.append(("fading_proj", "_"))
        found["fading_proj.weight"] = joined("weight", "_")
    if layer.in_proj.bias is not None:
        found |= {f"{name}.bias": joined("bias", suffix) for name, suffix in streams}
    if layer.out_proj.bias is not None:
        found["out_proj.bias"] = source.take("bmojo_attn.o_proj.bias", sizes.width)
    if layer.config.qk_norm:
        for (_, suffix), ours in zip(streams, ("", "fading_"), strict=False):
            for theirs, name in (("q", "query"), ("k", "key")):
                weight = source.take(f"bmojo_attn.{theirs}_norm{suffix}.weight", sizes.head_dim)
                found[f"{ours}{name}_norm.weight"] = weight
    return found


def _mamba(source: _Source, sizes: _Sizes) -> dict[str, Tensor]:
    """Gate, values, keys, read-outs and steps lie in one projection."""
    H, inner, shared = sizes.heads, sizes.inner, sizes.shared
    mixed = [shared, shared, inner]
    fused = source.take("mamba.in_proj.weight", inner + sum(mixed) + H, sizes.width)
    z, x, B, C, dt = fused.split([inner, *mixed, H])
    taps = source.take("mamba.conv1d.weight", sum(mixed), 1, TAPS).squeeze(1).split(mixed)
    bias = source.take("mamba.conv1d.bias", sum(mixed)).split(mixed)

    def heads(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([sizes.repeated(parts[0]), sizes.repeated(parts[1]), parts[2]])

    found = {
        "in_proj.weight": torch.cat([z, heads((x, B, C)), dt]),
        "conv.weight": heads(taps),
        "conv.bias": heads(bias),
        "head_norm": source.take("mamba.norm.weight", inner),
        "out_proj.weight": source.take("mamba.out_proj.weight", sizes.width, inner),
    }
    found |= {name: source.take(f"mamba.{name}", H) for name in ("dt_bias", "A_log", "D")}
    if source.has("mamba.B_norm.weight") or source.has("mamba.C_norm.weight"):
        for theirs, name in (("B", "write"), ("C", "read")):
            found[f"conv.{name}_norm.weight"] = source.take(f"mamba.{theirs}_norm.weight", sizes.head_dim)
    return found


def _associative(source: _Source, sizes: _Sizes, kind: str) -> dict[str, Tensor]:
    """Queries, keys, values, the output's gate, and numbers of each head: a delta rule or a Kalman one."""
    H, width, inner, shared = sizes.heads, sizes.width, sizes.inner, sizes.shared
    rows = {"q": inner, "k": shared, "v": shared}
    q, k, v = (source.take(f"{kind}.{x}_proj.weight", n, width) for x, n in rows.items())
    taps = [source.take(f"{kind}.{x}_conv1d.weight", n, 1, TAPS).squeeze(1) for x, n in rows.items()]
    told = {"gdn": ("b_proj", "gk_proj"), "gka": ("b_proj", "a_proj", "alpha_proj")}[kind]
    numbers = [source.take(f"{kind}.{name}.weight", H, width) for name in told]
    gate = source.take(f"{kind}.g_proj.weight", inner, width)
    found = {
        "in_proj.weight": torch.cat([q, sizes.repeated(k), sizes.repeated(v), gate, *numbers]),
        "conv.weight": torch.cat([taps[0], sizes.repeated(taps[1]), sizes.repeated(taps[2])]),
        "conv.bias": torch.zeros(3 * inner),
        "norm.weight": source.take(f"{kind}.o_norm.weight", sizes.head_dim),
        "out_proj.weight": source.take(f"{kind}.o_proj.weight", width, inner),
    }
    if kind == "gka":
        biases = [source.take("gka.b_proj.bias", H), torch.zeros(H), source.take("gka.alpha_proj.bias", H)]
        found["in_proj.bias"] = torch.cat([torch.zeros(4 * inner), *biases])
    return found | {name: source.take(f"{kind}.{name}", H) for name in ("dt_bias", "A_log")}


CONVERTED = {
    "mamba": _mamba,
    "gdn": lambda source, sizes: _associative(source, sizes, "gdn"),
    "gka": lambda source, sizes: _associative(source, sizes, "gka"),
}
