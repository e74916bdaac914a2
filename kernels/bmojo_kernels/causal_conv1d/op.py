"""`causal_conv1d`: a short causal convolution along time, channel by channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bmojo_kernels.backends import as_numpy, choose, empty_like
from bmojo_kernels.checks import alike, compiled_step, need_tensors

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["causal_conv1d", "causal_conv1d_step"]

DTYPES = ("float32", "float64", "bfloat16")


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Depthwise causal convolution that can be cut anywhere: the tail of one piece is the head of the next.

    $$y_t = f\Big(b + \sum_{i=0}^{K-1} w_i \odot x_{t-K+1+i}\Big)$$

    The last tap meets the present, as in `torch.nn.Conv1d` with `K - 1` zeros in front.

    Parameters
    ----------
    x : Tensor, shape (B, T, C)
    weight : Tensor, shape (C, K)
    bias : Tensor, shape (C,), optional
    activation : {None, "silu"}
        `f`.
    initial_state : Tensor, shape (B, K - 1, C), optional
        The inputs before the first; zero when left out.
    cu_seqlens : Tensor of int32 or int64, shape (sequences + 1,), optional
        Edges of sequences that lie behind one another along `T` (then `B` is 1): each gives what it alone
        would give; initial states and tails have one entry for each.
    backend : {None, "naive", "numba", "triton"}

    Returns
    -------
    y : Tensor, shape (B, T, C)
    tail : Tensor, shape (B, K - 1, C)
        The last inputs, from which the next piece goes on.

    Raises
    ------
    ValueError
        If shapes, dtypes or options do not fit together, or no kernel takes them.

    References
    ----------
    A. Gu, T. Dao, *Mamba*, arXiv 2312.00752, section 3.4.

    Examples
    --------
    >>> import torch, bmojo_kernels as bk
    >>> y, tail = bk.causal_conv1d(torch.tensor([[[1.0], [2.0], [4.0]]]), torch.tensor([[10.0, 1.0]]))
    >>> y.flatten().tolist(), tail.flatten().tolist()
    ([1.0, 12.0, 24.0], [4.0])
    """
    need_tensors(
        "causal_conv1d", x=x, weight=weight, bias=bias, initial_state=initial_state, cu_seqlens=cu_seqlens
    )
    (weight,) = alike(x, weight)
    bias, initial_state = (None if y is None else alike(x, y)[0] for y in (bias, initial_state))
    _check(x, weight, bias, activation, initial_state, cu_seqlens)
    chosen = choose("causal_conv1d", x.device.type, backend, x.dtype)
    if chosen == "naive":
        from bmojo_kernels.causal_conv1d.naive import causal_conv1d_naive

        return causal_conv1d_naive(
            x, weight, bias, activation=activation, initial_state=initial_state, cu_seqlens=cu_seqlens
        )
    from bmojo_kernels.causal_conv1d.torch_op import causal_conv1d_core
    from bmojo_kernels.dispatch import through

    run = through(causal_conv1d_core, chosen, x)
    return run(x, weight, bias, initial_state, cu_seqlens, activation == "silu")


def causal_conv1d_step(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, state: Tensor, activation: str | None = None
) -> tuple[Tensor, Tensor]:
    """One step of `causal_conv1d`, for decoding: compiled code is called directly, without a torch operator.

    Parameters
    ----------
    x : Tensor, shape (B, C)
    weight : Tensor, shape (C, K)
    bias : Tensor, shape (C,), optional
    state : Tensor, shape (B, K - 1, C)
        The inputs before `x`; it is not changed.
    activation : {None, "silu"}

    Returns
    -------
    y : Tensor, shape (B, C)
    state : Tensor, shape (B, K - 1, C)
        The inputs before the next step.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together.

    Examples
    --------
    >>> import torch, bmojo_kernels as bk
    >>> x, weight, state = torch.tensor([[2.0]]), torch.tensor([[10.0, 1.0]]), torch.ones(1, 1, 1)
    >>> y, state = bk.causal_conv1d_step(x, weight, state=state)
    >>> y.item(), state.item()
    (12.0, 2.0)
    """
    need_tensors("causal_conv1d_step", x=x, weight=weight, bias=bias, state=state)
    row = x.unsqueeze(1)
    weight, *rest = alike(row, weight, *(y for y in (state, bias) if y is not None))
    state, bias = rest[0], rest[1] if len(rest) > 1 else None
    _check(row, weight, bias, activation, state, None)
    if compiled_step(row, weight, state, *(() if bias is None else (bias,))):
        from bmojo_kernels.causal_conv1d.numba_cpu import step
        from bmojo_kernels.causal_conv1d.torch_op import weights

        y, state = empty_like(x), state.contiguous().clone()
        step(as_numpy(x), *weights(x, weight, bias), as_numpy(state), activation == "silu", as_numpy(y))
        return y, state
    from bmojo_kernels.causal_conv1d.naive import causal_conv1d_naive

    y, state = causal_conv1d_naive(row, weight, bias, activation=activation, initial_state=state)
    return y.squeeze(1), state


def _check(x: Any, weight: Any, bias: Any, activation: Any, initial_state: Any, cu_seqlens: Any) -> None:
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[0] != x.shape[2] or weight.shape[1] < 1:
        raise ValueError(
            f"causal_conv1d: x {tuple(x.shape)}, weight {tuple(weight.shape)} came; (B, T, C) and "
            "(C, K >= 1) are needed."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"causal_conv1d: bias {tuple(bias.shape)} came; ({len(weight)},) is needed.")
    if activation not in (None, "silu"):
        raise ValueError(f"causal_conv1d: activation={activation!r} came; None or 'silu' is needed.")
    if cu_seqlens is not None and (len(x) != 1 or cu_seqlens.ndim != 1 or len(cu_seqlens) < 1):
        raise ValueError(
            f"causal_conv1d: cu_seqlens {tuple(cu_seqlens.shape)} came with x {tuple(x.shape)}; packed "
            "sequences need B = 1 and edges of shape (sequences + 1,)."
        )
    entries = len(x) if cu_seqlens is None else len(cu_seqlens) - 1
    needed = (entries, weight.shape[1] - 1, x.shape[2])
    if initial_state is not None and initial_state.shape != needed:
        raise ValueError(
            f"causal_conv1d: initial_state {tuple(initial_state.shape)} came; (sequences, K - 1, C) = "
            f"{needed} is needed."
        )
    if str(x.dtype).removeprefix("torch.") not in DTYPES:
        raise ValueError(f"causal_conv1d: x of {x.dtype} came; one of {', '.join(DTYPES)} is needed.")
    for other in (weight, bias, initial_state):
        if other is not None and (other.dtype != x.dtype or other.device != x.device):
            raise ValueError(
                f"causal_conv1d: x of {x.dtype} on {x.device} and another tensor of {other.dtype} on "
                f"{other.device} came; one dtype and one device are needed."
            )
