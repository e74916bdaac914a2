"""`selective_scan`: the recurrence of Mamba."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bmojo_kernels.backends import as_numpy, choose, empty_like
from bmojo_kernels.checks import alike, compiled_step, learning, need_tensors
from bmojo_kernels.exponential import LOG2_E
from bmojo_kernels.packing import apart, check_packing, sequence_count

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["selective_scan", "selective_step"]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    h0: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Selective state-space scan: `N` states for each of `d` channels, driven and read through the input.

    $$h_t = e^{\Delta_t A} \odot h_{t-1} + \Delta_t u_t B_t^\top, \qquad
    y_t = \big(h_t C_t + D \odot u_t\big) \odot \mathrm{SiLU}(z_t),$$

    where $\Delta_t$ is `delta`, plus `delta_bias`, through a softplus where asked.

    Parameters
    ----------
    u, delta : Tensor, shape (B, T, d)
        Float32, float64 or bfloat16; computed in float32 where they are bfloat16.
    A : Tensor, shape (d, N)
        Rates, not positive where the state is to fade.
    B, C : Tensor, shape (B, T, N)
    D : Tensor, shape (d,), optional
        Skip connection.
    z : Tensor, shape (B, T, d), optional
        Gate.
    delta_bias : Tensor, shape (d,), optional
    delta_softplus : bool
    h0 : Tensor, shape (B, d, N), optional
        State before the first step, one for each sequence; zero when left out.
    cu_seqlens : Tensor, shape (S + 1,), optional
        Where packed sequences begin, and the end: int32 or int64, from 0 to T, with a batch of 1. There are S
        states then, (S, d, N).
    backend : {None, "naive", "numba", "triton"}
        What runs it; the compiled kernel of the device when left out.

    Returns
    -------
    y : Tensor, shape (B, T, d)
        Of the dtype of `u`.
    h_last : Tensor, shape (B, d, N)
        From which the next chunk goes on; float32 where `u` is bfloat16.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit together, or no kernel takes them.

    References
    ----------
    A. Gu, T. Dao, *Mamba: Linear-time sequence modeling with selective state spaces*, COLM 2024, section 3.

    Examples
    --------
    >>> import torch, bmojo_kernels as bk
    >>> one = torch.ones(1, 3, 1)
    >>> y, last = bk.selective_scan(one, one, torch.zeros(1, 1), one, one)
    >>> y.flatten().tolist(), last.item()
    ([1.0, 2.0, 3.0], 3.0)
    """
    import torch
    from torch.nn import functional as F

    need_tensors(
        "selective_scan",
        u=u,
        delta=delta,
        A=A,
        B=B,
        C=C,
        D=D,
        z=z,
        delta_bias=delta_bias,
        h0=h0,
        cu_seqlens=cu_seqlens,
    )
    delta, B, C = alike(u, delta, B, C)
    _check(u, delta, A, B, C, D, z, delta_bias, h0, cu_seqlens)
    state = torch.float32 if u.dtype is torch.bfloat16 else u.dtype
    count = sequence_count(u.shape[0], cu_seqlens)
    step = delta if delta_bias is None else delta + delta_bias.to(delta.dtype)
    step = F.softplus(step) if delta_softplus else step
    start = u.new_zeros(count, *A.shape, dtype=state) if h0 is None else h0.to(state)
    inputs = (u, step, A.to(state), B, C, start)
    chosen = choose("selective_scan", u.device.type, backend, u.dtype)
    if chosen == "naive":
        from bmojo_kernels.selective_scan.naive import selective_scan_naive

        def scan(u: Tensor, step: Tensor, B: Tensor, C: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
            return selective_scan_naive(u, step, A.to(state), B, C, h0)

        wide = [x.to(state) for x in (u, step, B, C)]
        y, last = apart("selective_scan", scan, wide, [start], cu_seqlens)
        y = y.to(u.dtype)
    else:
        from bmojo_kernels.dispatch import through
        from bmojo_kernels.selective_scan.torch_op import selective_scan_core

        y, last, _ = through(selective_scan_core, chosen, u)(*inputs, learning(*inputs), cu_seqlens)
    if D is not None:
        y = y + D.to(u.dtype) * u
    return (y if z is None else y * F.silu(z)), last


def selective_step(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""One step of `selective_scan`, for decoding: compiled code is called directly, without an operator.

    Parameters
    ----------
    u, delta : Tensor, shape (B, d)
    A : Tensor, shape (d, N)
    B, C : Tensor, shape (B, N)
    state : Tensor, shape (B, d, N)
        Before the step; it is not changed.
    D : Tensor, shape (d,), optional
    z : Tensor, shape (B, d), optional
    delta_bias : Tensor, shape (d,), optional
    delta_softplus : bool

    Returns
    -------
    y : Tensor, shape (B, d)
    state : Tensor, shape (B, d, N)
        After the step.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit together.

    Examples
    --------
    >>> import torch, bmojo_kernels as bk
    >>> one = torch.ones(1, 1)
    >>> y, state = bk.selective_step(one, one, 0 * one, one, one, torch.ones(1, 1, 1))
    >>> y.item(), state.item()
    (2.0, 2.0)
    """
    import torch
    from torch.nn import functional as F

    need_tensors(
        "selective_step", u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, state=state
    )
    delta, B, C = alike(u, delta, B, C)
    along = [x.unsqueeze(1) for x in (u, delta, B, C)]
    gate = None if z is None else z.unsqueeze(1)
    _check(along[0], along[1], A, along[2], along[3], D, gate, delta_bias, state, None)
    kind = torch.float32 if u.dtype is torch.bfloat16 else u.dtype
    length = delta if delta_bias is None else delta + delta_bias.to(delta.dtype)
    length = F.softplus(length) if delta_softplus else length
    A, state = A.to(kind), state.to(kind)
    if compiled_step(u, length, A, B, C, state):
        from bmojo_kernels.selective_scan.numba_cpu import step

        y, state = empty_like(u), state.clone(memory_format=torch.contiguous_format)
        arrays: Any = [as_numpy(x) for x in (u, length, A * LOG2_E, B, C, state, y)]
        step(*arrays)
    else:
        from bmojo_kernels.selective_scan.naive import selective_scan_naive

        u1, length1, B1, C1 = (x.to(kind).unsqueeze(1) for x in (u, length, B, C))
        found, state = selective_scan_naive(u1, length1, A, B1, C1, state)
        y = found[:, 0].to(u.dtype)
    if D is not None:
        y = y + D.to(u.dtype) * u
    return (y if z is None else y * F.silu(z)), state


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
) -> None:
    if u.ndim != 3 or A.ndim != 2:
        raise ValueError(
            f"selective_scan: u {tuple(u.shape)} and A {tuple(A.shape)} came; (B, T, d) and (d, N) are "
            "needed."
        )
    check_packing("selective_scan", u.shape[0], cu_seqlens)
    (batch, length, channels), states = u.shape, A.shape[1]
    if z is not None and not z.is_floating_point():
        raise ValueError(f"selective_scan: z of {z.dtype} came; a floating-point dtype is needed.")
    needed = {
        "delta": (delta, (batch, length, channels)),
        "A": (A, (channels, states)),
        "B": (B, (batch, length, states)),
        "C": (C, (batch, length, states)),
        "D": (D, (channels,)),
        "z": (z, (batch, length, channels)),
        "delta_bias": (delta_bias, (channels,)),
        "h0": (h0, (sequence_count(batch, cu_seqlens), channels, states)),
    }
    for name, (x, shape) in needed.items():
        if x is not None and tuple(x.shape) != shape:
            raise ValueError(f"selective_scan: {name} has shape {tuple(x.shape)}; here it must be {shape}.")
    kinds = {str(x.dtype).removeprefix("torch.") for x in (u, delta, B, C)}
    if len(kinds) > 1 or not kinds <= {"float32", "float64", "bfloat16"}:
        raise ValueError(
            f"selective_scan: u, delta, B and C of {', '.join(sorted(kinds))} came; one dtype of float32, "
            "float64, bfloat16 is needed."
        )
