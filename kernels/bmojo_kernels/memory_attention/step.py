"""`memory_attention_step`: one query against rings of keys, for decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bmojo_kernels.backends import as_numpy, empty_like
from bmojo_kernels.checks import check_count, compiled_step, need_tensors, state_dtype

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["memory_attention_step"]


def memory_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    position: int,
    fading: tuple[Tensor, Tensor] | None = None,
    q_fading: Tensor | None = None,
    eidetic_index: Tensor | None = None,
    eidetic: tuple[Tensor, Tensor] | None = None,
    q_eidetic: Tensor | None = None,
    eidetic_bias: Tensor | None = None,
    retrieved: tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor] | None = None,
    q_retrieved: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    r"""One query of `memory_attention` against rings, for decoding: no torch operator, nothing is moved.

    In a ring of `S` rows position `p` lies in row $p \bmod S$: a new key takes the place of the oldest.

    Parameters
    ----------
    q : Tensor, shape (B, H, d)
        The query of position `position`.
    k, v : Tensor, shapes (B, S >= window, G, d) and (B, S, G, d_v)
        Rings of keys and values, the query's own among them.
    window, position : int
    fading : pair of Tensor, shapes (B, S_f >= 2 window, G, d) and (B, S_f, G, d_v), optional
        Rings of fading keys and values.
    q_fading, q_eidetic, q_retrieved : Tensor, shape (B, H, d), optional
        Queries that meet those keys in place of `q`.
    eidetic_index : Tensor of int64, shape (B, m), optional
        Positions of the kept keys; -1 is an empty place.
    eidetic : pair of Tensor, shapes (B, m, G, d) and (B, m, G, d_v), optional
        Those keys and values, needed with the index.
    eidetic_bias : Tensor, shape (B, m), optional
    retrieved : tuple of Tensor, shapes (B, R, G, d), (B, R, G, d_v) and, optional, (B, R)
    scale : float, optional
        $d^{-1/2}$ when left out.

    Returns
    -------
    out : Tensor, shape (B, H, d_v)
    lse : Tensor, shape (B, H)
        In float32, in float64 for float64.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together.

    Examples
    --------
    >>> import torch, bmojo_kernels as bk
    >>> ring = torch.randn(1, 4, 2, 8)
    >>> out, lse = bk.memory_attention_step(torch.randn(1, 2, 8), ring, ring, window=4, position=9)
    >>> out.shape, lse.shape
    (torch.Size([1, 2, 8]), torch.Size([1, 2]))
    """
    import torch

    need_tensors(
        "memory_attention_step", q=q, k=k, v=v, fading=fading, q_fading=q_fading, q_eidetic=q_eidetic,
        q_retrieved=q_retrieved, eidetic_index=eidetic_index, eidetic=eidetic, eidetic_bias=eidetic_bias,
        retrieved=retrieved,
    )  # fmt: skip
    parts = {"k": (k, v), "fading": fading, "eidetic": eidetic, "retrieved": retrieved}
    _check(q, parts, window, position, eidetic_index, eidetic_bias, (q_fading, q_eidetic, q_retrieved))
    readers = [q, *(q if x is None else x for x in (q_fading, q_eidetic, q_retrieved))]
    nothing = (k[:, :0], v[:, :0])
    pairs = [nothing if pair is None else pair for pair in parts.values()]
    biases = [eidetic_bias, None if retrieved is None or len(retrieved) < 3 else retrieved[2]]
    kind, factor = state_dtype(q), float(q.shape[-1] ** -0.5 if scale is None else scale)
    biases = [q.new_zeros(len(q), 0, dtype=kind) if x is None else x.to(kind) for x in biases]
    index = q.new_zeros(len(q), 0, dtype=torch.int64) if eidetic_index is None else eidetic_index
    if not compiled_step(*readers, *(x for pair in pairs for x in pair[:2]), *biases):
        return _by_torch(readers, pairs, biases, index, window, position, factor)
    from bmojo_kernels.memory_attention import numba_step

    out, lse = empty_like(v[:, 0, :1].expand(-1, q.shape[1], -1)), torch.empty(q.shape[:2], dtype=kind)
    memories = [tuple(as_numpy(x) for x in readers)]
    memories += [tuple(as_numpy(pair[part]) for pair in pairs) for part in range(2)]
    numbers: list[Any] = [window, position, as_numpy(lse).dtype.type(factor)]
    sets = [as_numpy(x) for x in (index, *biases)]
    arguments: list[Any] = [*memories, *sets, *numbers, as_numpy(out), as_numpy(lse)]
    numba_step.step(*arguments)
    return out, lse


def _by_torch(
    readers: Any, pairs: Any, biases: Any, index: Tensor, window: int, position: int, scale: float
) -> tuple[Tensor, Tensor]:
    """The same with torch's own operations, for gradients, other devices and tracing."""
    import torch

    kind = biases[0].dtype
    logits, values = [], []
    for memory, (reader, pair) in enumerate(zip(readers, pairs, strict=True)):
        keys, value = pair[:2]
        if keys.shape[1] == 0:
            continue
        added = torch.zeros(len(keys), 1, dtype=kind, device=keys.device)
        if memory < 2:
            newest = position - memory * window
            oldest = max(0, newest - window + 1)
            seen = torch.arange(oldest, max(oldest, newest + 1), device=keys.device) % keys.shape[1]
            keys, value = keys[:, seen], value[:, seen]
        else:
            added = biases[memory - 2] if biases[memory - 2].shape[1] else added
            if memory == 2:
                added = added.masked_fill((index < 0) | (index > position - window), -torch.inf)
        query = reader.to(kind).unflatten(1, (keys.shape[2], -1))
        logits.append(torch.einsum("bgrd,bjgd->bgrj", query, keys.to(kind)) * scale + added[:, None, None])
        values.append(value.to(kind))
    total = torch.cat(logits, -1)
    lse = total.logsumexp(-1)
    weights = (total - lse.clamp_min(torch.finfo(kind).min).unsqueeze(-1)).exp()
    out = torch.einsum("bgrj,bjgd->bgrd", weights, torch.cat(values, 1)).flatten(1, 2)
    return out.to(readers[0].dtype), lse.flatten(1)


def _check(q: Any, parts: Any, window: int, position: int, index: Any, bias: Any, queries: Any) -> None:
    k, v = parts["k"]
    check_count("memory_attention_step", "window", window, 1)
    check_count("memory_attention_step", "position", position, 0)
    if q.ndim != 3 or k.ndim != 4 or v.ndim != 4 or k.shape[2] == 0 or q.shape[1] % k.shape[2]:
        raise ValueError(
            f"memory_attention_step: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} came; "
            "(B, H, d) and (B, S, G, d) are needed, G dividing H."
        )
    least = {"k": window, "fading": 2 * window}
    places = 0 if index is None else index.shape[-1]
    for name, pair in parts.items():
        if pair is None:
            continue
        rows = pair[0].shape[1]
        needed = (len(q), rows, k.shape[2])
        shapes = [tuple(x.shape) for x in pair]
        if shapes[:2] != [(*needed, q.shape[2]), (*needed, v.shape[3])] or rows < least.get(name, 0):
            raise ValueError(
                f"memory_attention_step: {name} of shapes {shapes} came; keys need "
                f"(B, rows, G, d) with B={len(q)}, rows >= {least.get(name, 0)}, G={k.shape[2]}, "
                f"d={q.shape[2]}, and values d_v={v.shape[3]}."
            )
        if any(x.device != q.device or (x.ndim == 4 and x.dtype != q.dtype) for x in pair):
            raise ValueError(
                f"memory_attention_step: {name} is of another dtype or device than q ({q.dtype})."
            )
    stored = 0 if parts["eidetic"] is None else parts["eidetic"][0].shape[1]
    if places != stored or (index is not None and index.shape != (len(q), places)):
        raise ValueError(
            f"memory_attention_step: eidetic keys of {stored} places came with an index of "
            f"{None if index is None else tuple(index.shape)}; (B, m, G, d) and (B, m) go together."
        )
    if bias is not None and bias.shape != (len(q), places):
        raise ValueError(f"memory_attention_step: eidetic_bias {tuple(bias.shape)} came; (B, m) is needed.")
    for x in queries:
        if x is not None and (x.shape != q.shape or x.dtype != q.dtype):
            raise ValueError(
                f"memory_attention_step: a query {tuple(x.shape)} of {x.dtype} came beside q "
                f"{tuple(q.shape)} of {q.dtype}; one shape and dtype are needed."
            )
