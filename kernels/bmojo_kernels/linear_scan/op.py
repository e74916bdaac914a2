"""`linear_scan`: the diagonal linear recurrence."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bmojo_kernels.backends import choose, is_tensor, task_width, thread_count
from bmojo_kernels.checks import need_tensors, state_dtype
from bmojo_kernels.linear_scan.naive import linear_scan_naive
from bmojo_kernels.linear_scan.numba_cpu import forward
from bmojo_kernels.packing import apart, check_packing, offsets, sequence_count
from bmojo_kernels.tasks import run_tasks, task_count

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["linear_scan", "linear_step"]

DTYPES = ("float32", "float64", "complex64", "complex128", "bfloat16")


@overload
def linear_scan(
    a: Tensor,
    b: Tensor,
    h0: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...
@overload
def linear_scan(
    a: ArrayLike,
    b: ArrayLike,
    h0: ArrayLike | None = None,
    *,
    cu_seqlens: ArrayLike | None = None,
    backend: str | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
def linear_scan(
    a: Any, b: Any, h0: Any = None, *, cu_seqlens: Any = None, backend: str | None = None
) -> tuple[Any, Any]:
    r"""States of the diagonal recurrence $h_t = a_t \odot h_{t-1} + b_t$.

    Its gradients are the same recurrence backwards in time,
    $g_t = \bar h_t + \bar a_{t+1} g_{t+1},\ \partial b_t = g_t,\ \partial a_t = g_t \odot \bar h_{t-1}$,
    so both directions run at the speed of memory.

    Parameters
    ----------
    a, b : array_like or Tensor, shape (B, T, C)
        Of one dtype: float32, float64, complex64, complex128; tensors also bfloat16, whose state is carried
        in float32.
    h0 : array_like or Tensor, shape (B, C), optional
        State before the first step, one for each sequence; zero when left out.
    cu_seqlens : array_like or Tensor, shape (S + 1,), optional
        Where packed sequences begin, and the end: int32 or int64, from 0 to T, with a batch of 1. There are S
        states then, (S, C).
    backend : {None, "naive", "numba", "triton"}
        What runs it; the compiled kernel of the device when left out.

    Returns
    -------
    h : ndarray or Tensor, shape (B, T, C)
        $h_0, \dots$: the state *after* each step.
    h_last : ndarray or Tensor, shape (B, C)
        The last of them (float32 for bfloat16), from which the next chunk goes on.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit together, or no kernel takes them.

    References
    ----------
    G. E. Blelloch, *Prefix sums and their applications*, CMU-CS-90-190, 1990, section 1.4.

    Examples
    --------
    >>> import numpy as np, bmojo_kernels as bk
    >>> h, last = bk.linear_scan(np.full((1, 3, 1), 0.5), np.ones((1, 3, 1)))
    >>> h[0, :, 0], last[0]
    (array([1.  , 1.5 , 1.75]), array([1.75]))
    """
    if is_tensor(a):
        return _of_tensors(a, b, h0, cu_seqlens, backend)
    chosen = choose("linear_scan", "cpu", backend)
    if chosen == "triton":
        raise ValueError("linear_scan: arrays came with backend='triton', which takes tensors.")
    a, b = (np.ascontiguousarray(x) for x in (a, b))
    h0 = None if h0 is None else np.asarray(h0)
    cu_seqlens = None if cu_seqlens is None else np.asarray(cu_seqlens)
    _check(a, b, h0, cu_seqlens)
    (batch, length, channels), h = a.shape, np.empty_like(a)
    bounds = offsets("linear_scan", batch, length, cu_seqlens)
    state = np.zeros((len(bounds) - 1, channels), a.dtype) if h0 is None else h0.astype(a.dtype, order="C")
    x, y, states = (m.reshape(batch * length, channels) for m in (a, b, h))
    if chosen == "naive":
        for i, (low, high) in enumerate(pairwise(bounds)):
            found, state[i : i + 1] = linear_scan_naive(
                x[None, low:high], y[None, low:high], state[i : i + 1]
            )
            states[low:high] = np.concatenate(found) if found else 0
        return h, state
    threads = thread_count(a.size)
    width = task_width(len(state), channels, threads)
    run_tasks(forward, (x, y, state, states, bounds, width), task_count(len(state), channels, width), threads)
    return h, state


@overload
def linear_step(a: Tensor, b: Tensor, state: Tensor) -> tuple[Tensor, Tensor]: ...
@overload
def linear_step(a: ArrayLike, b: ArrayLike, state: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]: ...
def linear_step(a: Any, b: Any, state: Any) -> tuple[Any, Any]:
    r"""One step $h_t = a_t \odot h_{t-1} + b_t$ of `linear_scan`, for decoding.

    Parameters
    ----------
    a, b : array_like or Tensor, shape (B, C)
    state : array_like or Tensor, shape (B, C)
        Before the step; it is not changed.

    Returns
    -------
    h : ndarray or Tensor, shape (B, C)
        In the dtype of `a`.
    state : ndarray or Tensor, shape (B, C)
        The same, float32 for bfloat16, for the next step.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit together.

    Examples
    --------
    >>> import numpy as np, bmojo_kernels as bk
    >>> h, state = bk.linear_step([[0.5]], [[1.0]], [[2.0]])
    >>> h.item(), state.item()
    (2.0, 2.0)
    """
    if is_tensor(a):
        need_tensors("linear_step", b=b, state=state)
    else:
        a, b, state = (np.asarray(x) for x in (a, b, state))
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError(f"linear_step: a {tuple(a.shape)}, b {tuple(b.shape)} came; (B, C) is needed.")
    _check(a[:, None], b[:, None], state, None)
    if not is_tensor(a):
        found = a * state.astype(a.dtype) + b
        return found, found.copy()
    import torch

    kind = state_dtype(a)
    found = torch.addcmul(b.to(kind), a.to(kind), state.to(kind))
    return found.to(a.dtype), found


def _of_tensors(
    a: Tensor, b: Tensor, h0: Tensor | None, cu_seqlens: Tensor | None, backend: str | None
) -> tuple[Tensor, Tensor]:
    need_tensors("linear_scan", b=b, h0=h0, cu_seqlens=cu_seqlens)
    _check(a, b, h0, cu_seqlens)
    chosen = choose("linear_scan", a.device.type, backend, a.dtype)
    if chosen == "naive":
        wide, count = state_dtype(a), sequence_count(a.shape[0], cu_seqlens)
        start = a.new_zeros(count, a.shape[2], dtype=wide) if h0 is None else h0.to(wide)
        h, last = apart("linear_scan", _stacked, [a.to(wide), b.to(wide)], [start], cu_seqlens)
        return h.to(a.dtype), last
    from bmojo_kernels.linear_scan.torch_op import linear_scan_tensor

    return linear_scan_tensor(a, b, h0, cu_seqlens, chosen)


def _stacked(a: Tensor, b: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    states, last = linear_scan_naive(a, b, h0)
    return (torch.stack(states, 1) if states else torch.empty_like(a)), last


def _check(a: Any, b: Any, h0: Any, cu_seqlens: Any) -> None:
    if a.ndim == 3:
        check_packing("linear_scan", a.shape[0], cu_seqlens)
    count = a.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    if a.ndim != 3 or a.shape != b.shape or (h0 is not None and tuple(h0.shape) != (count, a.shape[2])):
        came = "" if h0 is None else f", h0 {tuple(h0.shape)}"
        raise ValueError(
            f"linear_scan: a {tuple(a.shape)}, b {tuple(b.shape)}{came} came; (B, T, C) twice, and a state "
            "(C,) for each sequence, are needed."
        )
    if h0 is not None and "complex" in str(h0.dtype) and "complex" not in str(a.dtype):
        raise ValueError(f"linear_scan: a state of {h0.dtype} came with a of {a.dtype}; it must be real too.")
    name = str(a.dtype).removeprefix("torch.")
    if a.dtype != b.dtype or name not in DTYPES:
        raise ValueError(
            f"linear_scan: a of {a.dtype} and b of {b.dtype} came; one dtype of "
            f"{', '.join(DTYPES)} is needed."
        )
