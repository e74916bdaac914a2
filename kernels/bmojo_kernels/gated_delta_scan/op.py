"""`gated_delta_scan`: the recurrence of Gated DeltaNet, and its single step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from bmojo_kernels.backends import as_numpy, choose, empty_like
from bmojo_kernels.checks import (
    alike,
    check_shapes,
    check_tensors,
    compiled_step,
    learning,
    need_tensors,
    state_dtype,
)
from bmojo_kernels.packing import apart, check_packing, sequence_count

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["gated_delta_scan", "gated_delta_step"]


@overload
def gated_delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    h0: Tensor | None = None,
    *,
    scale: float | None = None,
    innovations: Literal[False] = False,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def gated_delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    h0: Tensor | None = None,
    *,
    scale: float | None = None,
    innovations: Literal[True],
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]: ...
def gated_delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    h0: Tensor | None = None,
    *,
    scale: float | None = None,
    innovations: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    r"""Gated delta rule: the state fades, then what it fails to predict of the value is written at the key.

    $$S_t = e^{g_t} S_{t-1} (I - \beta_t k_t k_t^\top) + \beta_t v_t k_t^\top
    = e^{g_t} S_{t-1} + e_t k_t^\top,$$
    $$e_t = \beta_t \big(v_t - e^{g_t} S_{t-1} k_t\big), \qquad o_t = c\, S_t q_t$$

    The innovation $e_t$ is held against the state as it has faded *to* step $t$, not as it was left at
    $t - 1$. In chunks it is the solution of one unit lower triangular system (the WY form), the rest is
    products of matrices.

    Parameters
    ----------
    q, k : Tensor, shape (B, T, H, K)
        Queries and keys; keys of unit length keep the rule stable for $0 \le \beta \le 2$. Float32, float64
        or bfloat16; the state is carried in float32 where they are bfloat16.
    v : Tensor, shape (B, T, H, V)
    log_decay : Tensor, shape (B, T, H)
        $g_t \le 0$; taken in the state's dtype.
    beta : Tensor, shape (B, T, H)
        Write strength; taken in the state's dtype.
    h0 : Tensor, shape (B, H, V, K), optional
        State before the first step, one for each sequence; zero when left out.
    scale : float, optional
        $c$; 1 when left out.
    innovations : bool
        Whether $e_t$ is returned too.
    cu_seqlens : Tensor, shape (S + 1,), optional
        Where packed sequences begin, and the end: int32 or int64, from 0 to T, with a batch of 1. States then
        are (S, H, V, K).
    backend : {None, "naive", "numba", "triton"}
        What runs it; the compiled kernel of the device when left out.

    Returns
    -------
    o : Tensor, shape (B, T, H, V)
        Of the dtype of `v`.
    h_last : Tensor, shape (B, H, V, K)
        From which the next chunk goes on.
    e : Tensor, shape (B, T, H, V)
        Only with `innovations`; in the state's dtype.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together.

    References
    ----------
    S. Yang, J. Kautz, A. Hatamizadeh, *Gated delta networks: Improving Mamba2 with delta rule*, ICLR 2025,
    section 3.

    Examples
    --------
    A key that comes again is not surprising:

    >>> import torch, bmojo_kernels as bk
    >>> k, v, one = torch.eye(2)[[0, 1, 0]].view(1, 3, 1, 2), torch.ones(1, 3, 1, 1), torch.ones(1, 3, 1)
    >>> o, last, e = bk.gated_delta_scan(k, k, v, 0 * one, one, innovations=True)
    >>> o.flatten().tolist(), e.flatten().tolist()
    ([1.0, 1.0, 1.0], [1.0, 1.0, 0.0])
    """
    need_tensors(
        "gated_delta_scan", q=q, k=k, v=v, log_decay=log_decay, beta=beta, h0=h0, cu_seqlens=cu_seqlens
    )
    k, v = alike(q, k, v)
    _check(q, k, v, log_decay, beta, h0, cu_seqlens)
    state = state_dtype(q)
    shape = (sequence_count(q.shape[0], cu_seqlens), q.shape[2], v.shape[-1], q.shape[-1])
    start = q.new_zeros(shape, dtype=state) if h0 is None else h0.to(state)
    log_decay, beta = log_decay.to(state), beta.to(state)
    factor = 1.0 if scale is None else scale
    chosen = choose("gated_delta_scan", q.device.type, backend, q.dtype)
    if chosen == "naive":
        from bmojo_kernels.gated_delta_scan.naive import gated_delta_scan_naive

        wide = [m.to(state) for m in (q * factor, k, v, log_decay, beta)]
        o, e, last = apart("gated_delta_scan", gated_delta_scan_naive, wide, [start], cu_seqlens)
        o = o.to(v.dtype)
    else:
        from bmojo_kernels.dispatch import through
        from bmojo_kernels.gated_delta_scan.torch_op import gated_delta_scan_core

        keep = learning(q, k, v, log_decay, beta, start)
        scan = through(gated_delta_scan_core, chosen, q)
        o, errors, last, _ = scan(q, k, v, log_decay, beta, start, cu_seqlens, factor, keep)
        e = beta.unsqueeze(-1) * errors if innovations else errors
    return (o, last, e) if innovations else (o, last)


def gated_delta_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    state: Tensor,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""One step of `gated_delta_scan`, for decoding: compiled code is called directly.

    Parameters
    ----------
    q, k : Tensor, shape (B, H, K)
    v : Tensor, shape (B, H, V)
    log_decay, beta : Tensor, shape (B, H)
    state : Tensor, shape (B, H, V, K)
        Before the step; it is not changed.
    scale : float, optional
        1 when left out.

    Returns
    -------
    o : Tensor, shape (B, H, V)
    state : Tensor, shape (B, H, V, K)
        After the step.
    e : Tensor, shape (B, H, V)
        Innovation, in the state's dtype.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together.

    Examples
    --------
    >>> import torch, bmojo_kernels as bk
    >>> k, one = torch.eye(2)[:1].view(1, 1, 2), torch.ones(1, 1)
    >>> o, state, e = bk.gated_delta_step(k, k, 3 * one.unsqueeze(-1), 0 * one, one, torch.ones(1, 1, 1, 2))
    >>> o.item(), state.flatten().tolist(), e.item()
    (3.0, [3.0, 1.0], 2.0)
    """
    import torch

    need_tensors("gated_delta_step", q=q, k=k, v=v, log_decay=log_decay, beta=beta, state=state)
    k, v = alike(q, k, v)
    q1, k1, v1, log1, beta1 = one = tuple(m.unsqueeze(1) for m in (q, k, v, log_decay, beta))
    _check(q1, k1, v1, log1, beta1, state, None)
    number, factor = state_dtype(q), 1.0 if scale is None else scale
    log_decay, beta, state = (m.to(number) for m in (log_decay, beta, state))
    if compiled_step(q, k, v, log_decay, beta, state):
        from bmojo_kernels.gated_delta_scan.numba_cpu import step

        state = state.clone(memory_format=torch.contiguous_format)
        o, e = empty_like(v), empty_like(state.new_empty(v.shape))
        step(*[*(as_numpy(m) for m in (q, k, v, log_decay, beta, state, o, e)), factor])
        return o, state, e
    from bmojo_kernels.gated_delta_scan.naive import gated_delta_scan_naive

    q1, k1, v1, log1, beta1 = (m.to(number) for m in one)
    o, e, state = gated_delta_scan_naive(q1, k1, v1, log1, beta1, state)
    return (factor * o[:, 0]).to(v.dtype), state, e[:, 0]


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    if q.ndim != 4 or v.ndim != 4:
        raise ValueError(
            f"gated_delta_scan: q {tuple(q.shape)} and v {tuple(v.shape)} came; (B, T, H, K) and (B, T, H, "
            "V) are needed."
        )
    check_packing("gated_delta_scan", q.shape[0], cu_seqlens)
    batch, length, heads, width = q.shape
    needed = {
        "k": (k, (batch, length, heads, width)),
        "v": (v, (batch, length, heads, v.shape[-1])),
        "log_decay": (log_decay, (batch, length, heads)),
        "beta": (beta, (batch, length, heads)),
        "h0": (h0, (sequence_count(batch, cu_seqlens), heads, v.shape[-1], width)),
    }
    check_shapes("gated_delta_scan", needed)
    check_tensors(
        "gated_delta_scan", {"q": q, "k": k, "v": v}, {"log_decay": log_decay, "beta": beta, "h0": h0}
    )
