"""`ssd_scan`: the recurrence of Mamba-2, and its single step."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

__all__ = ["ssd_scan", "ssd_step"]


def ssd_scan(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    chunk: int = 64,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""State-space dual scan: a matrix for each head that fades by one number a step.

    $$h_t = e^{a_t} h_{t-1} + x_t B_t^\top, \qquad
    y_t = \big(h_t C_t + D \odot x_t\big) \odot \mathrm{SiLU}(z_t)$$

    Within a chunk this is a product of matrices, masked and weighted by $e^{a_{s+1} + \dots + a_t}$; between
    chunks the state is carried. Decays enter as exponentials of differences that are never positive where
    $a \le 0$, so nothing overflows.

    Parameters
    ----------
    x : Tensor, shape (B, T, H, P)
        Float32, float64 or bfloat16; the state is carried in float32 where it is bfloat16.
    log_decay : Tensor, shape (B, T, H)
        $a_t$, not positive where the state is to fade; taken in the state's dtype.
    B, C : Tensor, shape (B, T, N) or (B, T, G, N)
        What is written and read, shared by all heads or by `H / G` neighbours each. Of the dtype of `x`;
        under autocast they are cast to it.
    D : Tensor, shape (H,) or (H, P), optional
        Skip connection.
    z : Tensor, shape (B, T, H, P), optional
        Gate.
    h0 : Tensor, shape (B, H, P, N), optional
        State before the first step, one for each sequence; zero when left out.
    cu_seqlens : Tensor, shape (S + 1,), optional
        Where packed sequences begin, and the end: int32 or int64, from 0 to T, with a batch of 1. States then
        are (S, H, P, N).
    chunk : int
        Steps that one product of matrices takes, on a GPU at most 64 (32 of float32); changes the rounding,
        not the result.
    backend : {None, "naive", "numba", "triton"}
        What runs it; the compiled kernel of the device when left out.

    Returns
    -------
    y : Tensor, shape (B, T, H, P)
        Of the dtype of `x`.
    h_last : Tensor, shape (B, H, P, N)
        From which the next chunk goes on.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together.

    References
    ----------
    T. Dao, A. Gu, *Transformers are SSMs*, ICML 2024, section 6.

    Examples
    --------
    >>> import torch, bmojo_kernels as bk
    >>> one = torch.ones(1, 3, 1)
    >>> y, last = bk.ssd_scan(one.unsqueeze(-1), torch.zeros(1, 3, 1), one, one)
    >>> y.flatten().tolist(), last.item()
    ([1.0, 2.0, 3.0], 3.0)
    """
    from torch.nn import functional as F

    need_tensors("ssd_scan", x=x, log_decay=log_decay, B=B, C=C, D=D, z=z, h0=h0, cu_seqlens=cu_seqlens)
    B, C = (m.unsqueeze(2) if m.ndim == 3 else m for m in alike(x, B, C))
    _check(x, log_decay, B, C, D, z, h0, cu_seqlens, chunk)
    state = state_dtype(x)
    shape = (sequence_count(x.shape[0], cu_seqlens), *x.shape[2:], B.shape[-1])
    start = x.new_zeros(shape, dtype=state) if h0 is None else h0.to(state)
    log_decay = log_decay.to(state)
    chosen = choose("ssd_scan", x.device.type, backend, x.dtype)
    if chosen == "naive":
        from bmojo_kernels.ssd_scan.naive import ssd_scan_naive

        wide = [m.to(state) for m in (x, log_decay, B, C)]
        y, last = apart("ssd_scan", ssd_scan_naive, wide, [start], cu_seqlens)
        y = y.to(x.dtype)
    else:
        from bmojo_kernels.ssd_scan.torch_op import longest_chunk, ssd_scan_core, through

        keep = learning(x, log_decay, B, C, start)
        chunk = min(chunk, longest_chunk(x)) if chosen == "triton" else chunk
        scan = through(ssd_scan_core, chosen, x)
        y, last, _ = scan(x, log_decay, B, C, start, cu_seqlens, chunk, keep)
    if D is not None:
        y = y + (D if D.ndim == 2 else D.unsqueeze(-1)).to(x.dtype) * x
    return (y if z is None else y * F.silu(z)), last


def ssd_step(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""One step of `ssd_scan`, for decoding: compiled code is called directly, without a torch operator.

    Parameters
    ----------
    x : Tensor, shape (B, H, P)
    log_decay : Tensor, shape (B, H)
    B, C : Tensor, shape (B, N) or (B, G, N)
    state : Tensor, shape (B, H, P, N)
        Before the step; it is not changed.
    D : Tensor, shape (H,) or (H, P), optional
    z : Tensor, shape (B, H, P), optional

    Returns
    -------
    y : Tensor, shape (B, H, P)
    state : Tensor, shape (B, H, P, N)
        After the step.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together.

    Examples
    --------
    >>> import torch, bmojo_kernels as bk
    >>> one = torch.ones(1, 1)
    >>> y, state = bk.ssd_step(one.unsqueeze(-1), 0 * one, one, one, torch.ones(1, 1, 1, 1))
    >>> y.item(), state.item()
    (2.0, 2.0)
    """
    import torch
    from torch.nn import functional as F

    need_tensors("ssd_step", x=x, log_decay=log_decay, B=B, C=C, D=D, z=z, state=state)
    B, C = (m.unsqueeze(1) if m.ndim == 2 else m for m in alike(x, B, C))
    x1, log1, B1, C1 = (m.unsqueeze(1) for m in (x, log_decay, B, C))
    _check(x1, log1, B1, C1, D, None if z is None else z.unsqueeze(1), state, None, 1)
    number = state_dtype(x)
    log_decay, state = log_decay.to(number), state.to(number)
    if compiled_step(x, log_decay, B, C, state):
        from bmojo_kernels.ssd_scan.numba_cpu import step

        y, state = empty_like(x), state.clone(memory_format=torch.contiguous_format)
        step(*(as_numpy(m) for m in (x, log_decay, B, C, state, y)))
    else:
        from bmojo_kernels.ssd_scan.naive import ssd_scan_naive

        x1, log1, B1, C1 = (m.to(number) for m in (x1, log1, B1, C1))
        y, state = ssd_scan_naive(x1, log1, B1, C1, state)
        y = y[:, 0].to(x.dtype)
    if D is not None:
        y = y + (D if D.ndim == 2 else D.unsqueeze(-1)).to(x.dtype) * x
    return (y if z is None else y * F.silu(z)), state


def _check(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    h0: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk: int,
) -> None:
    if x.ndim != 4 or B.ndim != 4 or B.shape[2] == 0 or x.shape[2] % B.shape[2]:
        raise ValueError(
            f"ssd_scan: x {tuple(x.shape)} and B {tuple(B.shape)} came; (B, T, H, P) and (B, T, N) or "
            "(B, T, G, N) with H a multiple of G are needed."
        )
    if chunk < 1:
        raise ValueError(f"ssd_scan: chunk={chunk} came; at least 1 step is needed.")
    check_packing("ssd_scan", x.shape[0], cu_seqlens)
    (batch, length, heads, width), (groups, states) = x.shape, B.shape[2:]
    needed = {
        "log_decay": (log_decay, (batch, length, heads)),
        "B": (B, (batch, length, groups, states)),
        "C": (C, (batch, length, groups, states)),
        "D": (D, (heads, width) if D is not None and D.ndim == 2 else (heads,)),
        "z": (z, (batch, length, heads, width)),
        "h0": (h0, (sequence_count(batch, cu_seqlens), heads, width, states)),
    }
    check_shapes("ssd_scan", needed)
    check_tensors("ssd_scan", {"x": x, "B": B, "C": C}, {"log_decay": log_decay, "h0": h0})
