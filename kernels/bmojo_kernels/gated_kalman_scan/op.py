"""`gated_kalman_scan`: the recurrence of Gated KalmaNet, and its single step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from bmojo_kernels.backends import as_numpy, choose, empty_like
from bmojo_kernels.checks import alike, check_shapes, check_tensors, compiled_step, need_tensors, state_dtype
from bmojo_kernels.packing import apart, check_packing, sequence_count
from bmojo_kernels.ssd_scan.op import ssd_scan, ssd_step

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["gated_kalman_scan", "gated_kalman_step"]


@overload
def gated_kalman_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    alpha: Tensor | None = None,
    h0: tuple[Tensor, Tensor] | None = None,
    *,
    ridge: float = 0.02,
    steps: int = 30,
    innovations: Literal[False] = False,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]: ...
@overload
def gated_kalman_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    alpha: Tensor | None = None,
    h0: tuple[Tensor, Tensor] | None = None,
    *,
    ridge: float = 0.02,
    steps: int = 30,
    innovations: Literal[True],
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor, Tensor]: ...
def gated_kalman_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    alpha: Tensor | None = None,
    h0: tuple[Tensor, Tensor] | None = None,
    *,
    ridge: float = 0.02,
    steps: int = 30,
    innovations: bool = False,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]] | tuple[Tensor, tuple[Tensor, Tensor], Tensor, Tensor]:
    r"""Ridge regression of values on keys at each step, older pairs weighted less: recursive least squares.

    $$H_t = \gamma_t H_{t-1} + k_t k_t^\top, \quad U_t = \gamma_t U_{t-1} + v_t k_t^\top, \quad
    \gamma_t = e^{g_t}, \quad \lambda_t = a \lVert H_t \rVert_F,$$
    $$(H_t + \lambda_t I)\, x_t = q_t, \qquad o_t = U_t \big(q_t + \alpha_t (x_t - q_t)\big)$$

    The system is solved by so many steps of Chebyshev iteration, which the bound $(1 + a) / a$ on its
    condition makes enough; gradients are those of the exact solution, by one more solve with the same matrix.

    With $P_t = (\gamma_t H_{t-1} + \lambda_t I)^{-1}$, the estimate before step $t$ predicts
    $\hat v_t = \gamma_t U_{t-1} P_t k_t$, and what is left after the step is
    $e_t = w_t (v_t - \hat v_t) = v_t - U_t (H_t + \lambda_t I)^{-1} k_t$ with
    $w_t = 1 / (1 + k_t^\top P_t k_t) = 1 - k_t^\top (H_t + \lambda_t I)^{-1} k_t$.

    Parameters
    ----------
    q, k : Tensor, shape (B, T, H, K)
        Queries and keys. Float32, float64 or bfloat16; states are carried in float32 where they are bfloat16.
    v : Tensor, shape (B, T, H, V)
    log_decay : Tensor, shape (B, T, H)
        $g_t \le 0$; taken in the state's dtype.
    alpha : Tensor, shape (B, T, H), optional
        How far the read goes from linear attention (0) to the regression (1); 1 when left out.
    h0 : tuple of Tensor, shapes (B, H, K, K) and (B, H, V, K), optional
        `H` (symmetric) and `U` before the first step, one of each for each sequence; zero when left out.
    ridge : float
        $a$. Where nothing has been seen, or all has faded, $\lambda$ stays at 1e-6.
    steps : int
        Of the iteration.
    innovations : bool
        Whether $e_t$ and $w_t$ are returned too.
    cu_seqlens : Tensor, shape (S + 1,), optional
        Where packed sequences begin, and the end: int32 or int64, from 0 to T, with a batch of 1. There are S
        states then.
    backend : {None, "naive", "numba", "triton"}
        What runs it; the compiled kernel of the device when left out.

    Returns
    -------
    o : Tensor, shape (B, T, H, V)
        Of the dtype of `v`.
    last : tuple of Tensor, shapes (B, H, K, K) and (B, H, V, K)
        `H` and `U` from which the next chunk goes on.
    e : Tensor, shape (B, T, H, V)
        Only with `innovations`, in the state's dtype: $w_t (v_t - \hat v_t)$.
    weight : Tensor, shape (B, T, H)
        Only with `innovations`: $w_t$, near 1 for a key that the past says nothing about.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together.

    References
    ----------
    L. Peng, A. Chattopadhyay, L. Zancato and others, *Gated KalmaNet: A fading memory layer through test-time
    ridge regression*, arXiv 2511.21016, 2025.

    Examples
    --------
    One pair seen, and asked for: ridge regression shrinks it by the ridge, here 0.02 of 1.

    >>> import torch, bmojo_kernels as bk
    >>> k, v = torch.eye(2)[:1].view(1, 1, 1, 2), torch.ones(1, 1, 1, 1)
    >>> o, (H, U) = bk.gated_kalman_scan(k, k, v, torch.zeros(1, 1, 1), steps=60)
    >>> round(o.item(), 4), round(1 / 1.02, 4)
    (0.9804, 0.9804)
    """
    import torch

    need_tensors(
        "gated_kalman_scan", q=q, k=k, v=v, log_decay=log_decay, alpha=alpha, h0=h0, cu_seqlens=cu_seqlens
    )
    k, v = alike(q, k, v)
    _check(q, k, v, log_decay, alpha, h0, ridge, steps, cu_seqlens)
    state = state_dtype(q)
    (heads, width), count = q.shape[2:], sequence_count(q.shape[0], cu_seqlens)
    H0 = q.new_zeros(count, heads, width, width, dtype=state) if h0 is None else h0[0].to(state)
    U0 = None if h0 is None else h0[1]
    log_decay = log_decay.to(state)
    right = torch.stack([q, k], 3) if innovations else q.unsqueeze(3)
    chosen = choose("gated_kalman_scan", q.device.type, backend, q.dtype)
    if chosen == "naive":
        from bmojo_kernels.gated_kalman_scan.naive import kalman_solve_naive

        wide = [m.to(state) for m in (k, log_decay, right)]
        solved, H = apart("gated_kalman_scan", kalman_solve_naive, wide, [H0], cu_seqlens, ridge, steps)
    else:
        from bmojo_kernels.gated_kalman_scan.torch_op import kalman_solve

        solved, H = kalman_solve(k, log_decay, right, H0, cu_seqlens, ridge, steps, chosen)

    def read(x: Tensor) -> tuple[Tensor, Tensor]:
        return ssd_scan(v.to(state), log_decay, k.to(state), x, h0=U0, cu_seqlens=cu_seqlens, backend=backend)

    x = solved[:, :, :, 0]
    query = x if alpha is None else torch.lerp(q.to(state), x, alpha.to(state).unsqueeze(-1))
    o, U = read(query)
    o = o.to(v.dtype)
    if not innovations:
        return o, (H, U)
    gain = solved[:, :, :, 1]
    return o, (H, U), v.to(state) - read(gain)[0], 1 - (k.to(state) * gain).sum(-1)


def gated_kalman_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: tuple[Tensor, Tensor],
    alpha: Tensor | None = None,
    *,
    ridge: float = 0.02,
    steps: int = 30,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor, Tensor]:
    r"""One step of `gated_kalman_scan`, for decoding: compiled code is called directly.

    Parameters
    ----------
    q, k : Tensor, shape (B, H, K)
    v : Tensor, shape (B, H, V)
    log_decay : Tensor, shape (B, H)
    state : tuple of Tensor, shapes (B, H, K, K) and (B, H, V, K)
        `H` and `U` before the step; they are not changed.
    alpha : Tensor, shape (B, H), optional
        1 when left out.
    ridge : float
    steps : int

    Returns
    -------
    o : Tensor, shape (B, H, V)
    state : tuple of Tensor, shapes (B, H, K, K) and (B, H, V, K)
        After the step.
    e : Tensor, shape (B, H, V)
        What the regression leaves of `v`, in the state's dtype.
    weight : Tensor, shape (B, H)

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together.

    Examples
    --------
    >>> import torch, bmojo_kernels as bk
    >>> k, v = torch.eye(2)[:1].view(1, 1, 2), torch.ones(1, 1, 1)
    >>> state = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 2)
    >>> o, state, e, weight = bk.gated_kalman_step(k, k, v, torch.zeros(1, 1), state, steps=60)
    >>> round(o.item() + e.item(), 4)
    1.0
    """
    import torch

    need_tensors("gated_kalman_step", q=q, k=k, v=v, log_decay=log_decay, alpha=alpha, state=state)
    k, v = alike(q, k, v)
    q1, k1, v1, log1 = (m.unsqueeze(1) for m in (q, k, v, log_decay))
    _check(q1, k1, v1, log1, None if alpha is None else alpha.unsqueeze(1), state, ridge, steps, None)
    number = state_dtype(q)
    log_decay, H, U = (m.to(number) for m in (log_decay, *state))
    right = torch.stack([q, k], 2).to(number)
    if compiled_step(q, k, v, log_decay, H, U):
        from bmojo_kernels.gated_kalman_scan.numba_cpu import forward

        H, x = H.clone(memory_format=torch.contiguous_format), empty_like(right)
        arrays = [as_numpy(m) for m in (k, log_decay, right, H, x, H[:0])]
        options = [np.arange(len(k) + 1), 1, ridge, steps, 0, len(k) * k.shape[1]]
        forward(*[*arrays, *options])
    else:
        from bmojo_kernels.gated_kalman_scan.naive import kalman_solve_naive

        k1, log1, right1 = (m.unsqueeze(1).to(number) for m in (k, log_decay, right))
        x, H = kalman_solve_naive(k1, log1, right1, H, ridge, steps)
        x = x[:, 0]
    read, gain = x[:, :, 0], x[:, :, 1]
    query = read if alpha is None else torch.lerp(q.to(number), read, alpha.to(number).unsqueeze(-1))
    o, U = ssd_step(v.to(number), log_decay, k.to(number), query, U)
    left = v.to(number) - (U @ gain.unsqueeze(-1)).squeeze(-1)
    return o.to(v.dtype), (H, U), left, 1 - (k.to(number) * gain).sum(-1)


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    alpha: Tensor | None,
    h0: tuple[Tensor, Tensor] | None,
    ridge: float,
    steps: int,
    cu_seqlens: Tensor | None,
) -> None:
    if q.ndim != 4 or v.ndim != 4:
        raise ValueError(
            f"gated_kalman_scan: q {tuple(q.shape)} and v {tuple(v.shape)} came; (B, T, H, K) and "
            "(B, T, H, V) are needed."
        )
    if ridge <= 0 or steps < 1:
        raise ValueError(
            f"gated_kalman_scan: ridge={ridge} and steps={steps} came; a positive ridge and at least 1 step "
            "are needed."
        )
    check_packing("gated_kalman_scan", q.shape[0], cu_seqlens)
    batch, length, heads, width = q.shape
    count = sequence_count(batch, cu_seqlens)
    H0, U0 = (None, None) if h0 is None else h0
    needed = {
        "k": (k, (batch, length, heads, width)),
        "v": (v, (batch, length, heads, v.shape[-1])),
        "log_decay": (log_decay, (batch, length, heads)),
        "alpha": (alpha, (batch, length, heads)),
        "h0[0]": (H0, (count, heads, width, width)),
        "h0[1]": (U0, (count, heads, v.shape[-1], width)),
    }
    check_shapes("gated_kalman_scan", needed)
    others = {"log_decay": log_decay, "alpha": alpha, "h0": H0, "U0": U0}
    check_tensors("gated_kalman_scan", {"q": q, "k": k, "v": v}, others)
