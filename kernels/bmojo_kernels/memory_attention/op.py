"""`memory_attention`: one softmax over window, fading, eidetic and retrieved keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bmojo_kernels.backends import choose, is_tensor
from bmojo_kernels.checks import alike, check_count, need_tensors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["memory_attention"]

DTYPES = ("float32", "float64", "bfloat16")


def memory_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    fading: tuple[Tensor, Tensor] | None = None,
    q_fading: Tensor | None = None,
    eidetic_index: Tensor | None = None,
    chunk: int | None = None,
    eidetic: tuple[Tensor, Tensor] | None = None,
    q_eidetic: Tensor | None = None,
    eidetic_rows: Tensor | None = None,
    eidetic_bias: Tensor | None = None,
    retrieved: tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor] | None = None,
    q_retrieved: Tensor | None = None,
    scale: float | None = None,
    start: int = 0,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Attention of each query over four memories, under one normalizer.

    $$o_t = \sum_j p_{tj} v_j, \qquad p_{tj} = e^{\ell_{tj} - L_t}, \qquad
    \ell_{tj} = \sigma\, q_t^\top k_j + b_j, \qquad L_t = \log \sum_j e^{\ell_{tj}}$$

    where `j` runs over the window $(t-w, t]$ of `k, v`, the fading keys at $(t-2w, t-w]$, those of the
    chunk's eidetic set that have left the window, $j \in M_{c(t)}$ and $j \le t-w$, and all retrieved keys.
    The eidetic set is an index into keys that are there anyway: nothing is copied. A query that sees no key
    gives 0 and $L_t = -\infty$.

    Parameters
    ----------
    q : Tensor, shape (B, T, H, d)
        Queries of the positions `start` to `start + T - 1`.
    k, v : Tensor, shapes (B, S, G, d) and (B, S, G, d_v)
        Keys and values of the last `S >= T` positions up to the last query's. Each of the `G` heads serves
        `H / G` query heads in a row.
    window : int
        `w`, the query's own position included.
    fading : pair of Tensor, shapes (B, S_f, G, d) and (B, S_f, G, d_v), optional
        Keys and values of the last `S_f >= T` fading tokens.
    q_fading, q_eidetic, q_retrieved : Tensor, shape (B, T, H, d), optional
        Queries that meet those keys in place of `q`.
    eidetic_index : Tensor of int64, shape (B, chunks, m), optional
        Positions in the set of every chunk of `chunk` positions that the queries touch; -1 is an empty place.
    chunk : int, optional
        Positions between two changes of the set, `C`; `window` when left out.
    eidetic : pair of Tensor, shapes (B, P, G, d) and (B, P, G, d_v), optional
        Where the set's keys and values are; `k, v` when left out. With `v` itself as the second, its
        gradient is that of both uses.
    eidetic_rows : Tensor of int64, shape (B, chunks, m), optional
        Row of `eidetic` that holds each position of the index. When left out, rows are those of `k`:
        position `j` lies in row `j - (start + T - S)`.
    eidetic_bias : Tensor, shape (B, P), optional
        Added to the logits of each row of `eidetic`, such as the logarithm of a write gate.
    retrieved : tuple of Tensor, shapes (B, R, G, d), (B, R, G, d_v) and, optional, (B, R)
        Keys and values that every query sees, and what is added to their logits ($-\infty$ hides one).
    scale : float, optional
        $\sigma > 0$; $d^{-1/2}$ when left out.
    start : int
        Position of the first query.
    cu_seqlens : Tensor of int32 or int64, shape (sequences + 1,), optional
        Edges of sequences that lie behind one another along `T` (then `B` is 1, `S = T`, `start = 0`): each
        gives what it alone would give. Chunks begin anew with each sequence and their sets follow each other
        along `eidetic_index`, whose positions count along `T`. `retrieved` has an entry for each sequence.
    backend : {None, "naive", "numba", "triton"}

    Returns
    -------
    out : Tensor, shape (B, T, H, d_v)
        In the dtype of `q`.
    lse : Tensor, shape (B, H, T)
        $L_t$ in float32, in float64 for float64.

    Raises
    ------
    ValueError
        If shapes, dtypes or options do not fit together, or no kernel takes them.

    References
    ----------
    L. Zancato et al., *B'MOJO*, NeurIPS 2024, section 3.
    T. Dao, D. Fu, S. Ermon, A. Rudra, C. Ré, *FlashAttention*, NeurIPS 2022 (the softmax by tiles).

    Examples
    --------
    >>> import torch, bmojo_kernels as bk
    >>> q, k, v = (torch.randn(1, 6, 2, 4) for _ in range(3))
    >>> index = bk.innovation_topk(torch.tensor([[3.0, 9.0, 1.0, 2.0, 0.0, 0.0]]), budget=1, window=2)
    >>> out, lse = bk.memory_attention(q, k, v, window=2, eidetic_index=index, chunk=1)
    >>> out.shape, lse.shape
    (torch.Size([1, 6, 2, 4]), torch.Size([1, 2, 6]))
    """
    need_tensors(
        "memory_attention", q=q, k=k, v=v, fading=fading, q_fading=q_fading, q_eidetic=q_eidetic,
        q_retrieved=q_retrieved, eidetic_index=eidetic_index, eidetic=eidetic, eidetic_rows=eidetic_rows,
        eidetic_bias=eidetic_bias, retrieved=retrieved, cu_seqlens=cu_seqlens,
    )  # fmt: skip
    chunk = window if chunk is None else chunk
    k, v, fading, eidetic, retrieved, q_fading, q_eidetic, q_retrieved = _in_one_dtype(
        q, k, v, fading, eidetic, retrieved, q_fading, q_eidetic, q_retrieved
    )
    _check_numbers(window, chunk, start, scale)
    _check_keys(q, k, v, fading, eidetic, retrieved)
    _check_queries(q, q_fading=q_fading, q_eidetic=q_eidetic, q_retrieved=q_retrieved)
    _check_kinds(q, k, v, *(fading or ()), *(eidetic or ()), *(retrieved or ()), eidetic_bias,
                 q_fading, q_eidetic, q_retrieved)  # fmt: skip
    _check_set(q, k, eidetic, eidetic_index, eidetic_rows, eidetic_bias, chunk, start, cu_seqlens)
    _check_packing(q, k, fading, retrieved, start, cu_seqlens)
    chosen = choose("memory_attention", q.device.type, backend, q.dtype)
    memories = {
        "fading": fading,
        "q_fading": q_fading,
        "eidetic_index": eidetic_index,
        "eidetic": eidetic,
        "q_eidetic": q_eidetic,
        "eidetic_rows": eidetic_rows,
        "eidetic_bias": eidetic_bias,
        "retrieved": retrieved,
        "q_retrieved": q_retrieved,
    }
    options = {"window": window, "chunk": chunk, "scale": scale, "start": start, "cu_seqlens": cu_seqlens}
    if chosen == "naive":
        from bmojo_kernels.memory_attention.naive import memory_attention_naive

        return memory_attention_naive(q, k, v, **memories, **options)
    from bmojo_kernels.memory_attention.torch_op import memory_attention_tensor

    return memory_attention_tensor(q, k, v, **memories, **options, backend=chosen)


def _in_one_dtype(q: Any, *others: Any) -> Any:
    """Under autocast the others in the dtype of the queries; elsewhere as they came, to be checked."""
    return [
        x if x is None else alike(q, x)[0] if is_tensor(x) else (*alike(q, *x[:2]), *x[2:]) for x in others
    ]


def _shapes(**tensors: Any) -> str:
    return ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())


def _check_numbers(window: int, chunk: int, start: int, scale: float | None) -> None:
    check_count("memory_attention", "window", window, 1)
    check_count("memory_attention", "start", start, 0)
    if not 1 <= chunk <= window:
        raise ValueError(
            f"memory_attention: window={window}, chunk={chunk} came; 1 <= chunk <= window is needed, so that "
            "no position is neither in the window nor eligible."
        )
    if scale is not None and not scale > 0:
        raise ValueError(f"memory_attention: scale={scale} came; a positive number is needed.")


def _check_keys(q: Any, k: Any, v: Any, fading: Any, eidetic: Any, retrieved: Any) -> None:
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4 or k.shape[1] < q.shape[1] or k.shape[3] != q.shape[3]:
        raise ValueError(
            f"memory_attention: {_shapes(q=q, k=k, v=v)} came; (B, T, H, d), (B, S >= T, G, d) and "
            "(B, S, G, d_v) are needed."
        )
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"memory_attention: {q.shape[2]} query heads and {k.shape[2]} key heads came; the second must "
            "divide the first."
        )
    batch, _, groups, width = k.shape
    if batch != len(q) or v.shape[:3] != k.shape[:3]:
        raise ValueError(f"memory_attention: {_shapes(q=q, k=k, v=v)} came; B, S and G must be the same.")
    for name, pair in {"fading": fading, "eidetic": eidetic, "retrieved": retrieved}.items():
        if pair is None:
            continue
        if len(pair) not in ((2, 3) if name == "retrieved" else (2,)):
            raise ValueError(
                f"memory_attention: {name} came with {len(pair)} tensors; keys and values are needed."
            )
        entries = "sequences" if name == "retrieved" else "B"
        keys, values = pair[:2]
        if (
            keys.ndim != 4
            or keys.shape[2:] != (groups, width)
            or values.shape != (*keys.shape[:3], v.shape[3])
            or (name != "retrieved" and len(keys) != batch)
            or (name == "fading" and keys.shape[1] < q.shape[1])
            or (len(pair) == 3 and pair[2].shape != keys.shape[:2])
        ):
            came = _shapes(**dict(zip(("keys", "values", "bias"), pair, strict=False)))
            rows = "S_f >= T" if name == "fading" else "rows"
            raise ValueError(
                f"memory_attention: {name} with {came} came; keys ({entries}, {rows}, {groups}, {width}) and "
                f"values ({entries}, {rows}, {groups}, {v.shape[3]}) are needed"
                + (", and (sequences, rows) for the bias." if len(pair) == 3 else ".")
            )


def _check_queries(q: Any, **others: Any) -> None:
    for name, x in others.items():
        if x is not None and x.shape != q.shape:
            raise ValueError(f"memory_attention: {_shapes(q=q, **{name: x})} came; one shape is needed.")


def _check_kinds(q: Any, *others: Any) -> None:
    if str(q.dtype).removeprefix("torch.") not in DTYPES:
        raise ValueError(f"memory_attention: q of {q.dtype} came; one of {', '.join(DTYPES)} is needed.")
    for x in others:
        # What is added to logits may be wider than they are: it comes from a gate that was kept in float32.
        if x is not None and (x.device != q.device or (x.dtype != q.dtype and x.ndim == 4)):
            raise ValueError(
                f"memory_attention: q of {q.dtype} on {q.device} and another tensor of {x.dtype} on "
                f"{x.device} came; one dtype and one device are needed."
            )


def _check_set(
    q: Any, k: Any, eidetic: Any, index: Any, rows: Any, bias: Any, chunk: int, start: int, cu_seqlens: Any
) -> None:
    if index is None:
        if eidetic is not None or rows is not None or bias is not None:
            raise ValueError(
                "memory_attention: eidetic, eidetic_rows or eidetic_bias came without eidetic_index, which "
                "says what the set is."
            )
        return
    chunks = (start + max(q.shape[1], 1) - 1) // chunk - start // chunk + 1 if q.shape[1] else 0
    fits = index.ndim == 3 and len(index) == len(q) and (cu_seqlens is not None or index.shape[1] == chunks)
    if not fits or "int" not in str(index.dtype) or (rows is not None and rows.shape != index.shape):
        given = {"eidetic_index": index} | ({} if rows is None else {"eidetic_rows": rows})
        raise ValueError(
            f"memory_attention: {_shapes(**given)} of {index.dtype} came; int64 of shape (B, chunks, m) with "
            f"B={len(q)}, chunks={chunks if cu_seqlens is None else 'those of all sequences'} is needed."
        )
    if rows is None and eidetic is not None and eidetic[0].shape[1] != k.shape[1]:
        raise ValueError(
            f"memory_attention: eidetic with {eidetic[0].shape[1]} rows came without eidetic_rows; without "
            f"them it must have the {k.shape[1]} rows of k."
        )
    pool = k if eidetic is None else eidetic[0]
    if bias is not None and bias.shape != pool.shape[:2]:
        raise ValueError(
            f"memory_attention: {_shapes(eidetic_bias=bias)} came; one number for each row, "
            f"{tuple(pool.shape[:2])}, is needed."
        )


def _check_packing(q: Any, k: Any, fading: Any, retrieved: Any, start: int, cu_seqlens: Any) -> None:
    entries = len(q)
    if cu_seqlens is not None:
        longest = max(k.shape[1], 0 if fading is None else fading[0].shape[1])
        if len(q) != 1 or start or longest != q.shape[1] or cu_seqlens.ndim != 1 or len(cu_seqlens) < 1:
            raise ValueError(
                f"memory_attention: cu_seqlens {tuple(cu_seqlens.shape)} came with {_shapes(q=q, k=k)}, "
                f"start={start}; packed sequences need B = 1, keys of just their T positions, and start = 0."
            )
        entries = len(cu_seqlens) - 1
    if retrieved is not None and len(retrieved[0]) != entries:
        raise ValueError(
            f"memory_attention: retrieved keys for {len(retrieved[0])} sequences came; {entries} are needed."
        )
