r"""Mamba: a state of `N` numbers for every channel; steps, inputs and read-outs depend on the tokens."""

from __future__ import annotations

import math
from typing import Any

import bmojo_kernels as bk
import torch
from torch import Tensor, nn

from bmojo.backends import backend_of, state_dtype
from bmojo.convolution import CausalConv
from bmojo.fading.mamba2 import start_of_steps
from bmojo.fading.protocol import MixerState

__all__ = ["Mamba"]


class Mamba(nn.Module):
    r"""Mamba block as a mixer: projection, causal convolution, selective scan, gate, projection.

    $$h_t = e^{-\Delta_t e^{A}} \odot h_{t-1} + \Delta_t x_t B_t^\top, \qquad
    f_t = W_o\,\big((h_t C_t + D \odot x_t) \odot \mathrm{SiLU}(z_t)\big)$$

    with $\Delta_t \in \mathbb R^d$ through a projection of low rank and a softplus, and decay rates of their
    own for every channel and state.

    Parameters
    ----------
    d_model : int
        Width of the tokens.
    state_size : int
        `N`.
    expand : int
        Inner width, over `d_model`.
    conv : int
        Taps of the causal convolution over `x`.

    References
    ----------
    A. Gu, T. Dao, *Mamba: Linear-time sequence modeling with selective state spaces*, COLM 2024, section 3.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading import Mamba
    >>> mixer = Mamba(d_model=16, state_size=4)
    >>> f, (tail, state) = mixer(torch.randn(3, 10, 16))
    >>> f.shape, state.shape
    (torch.Size([3, 10, 16]), torch.Size([3, 16, 4]))
    """

    def __init__(self, d_model: int, state_size: int, *, expand: int = 1, conv: int = 4) -> None:
        super().__init__()
        inner, self.rank, self.state_size = expand * d_model, -(-d_model // 16), state_size
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv = CausalConv(inner, conv, activation="silu")
        self.x_proj = nn.Linear(inner, self.rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        bound = 1 / math.sqrt(self.rank)
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        with torch.no_grad():
            self.dt_proj.bias.copy_(start_of_steps(inner))
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, state_size + 1)).repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def init_state(self, batch: int) -> MixerState:
        """The convolution's tail (B, taps - 1, d) and the state (B, d, N), both zero."""
        kind = state_dtype(self.A_log.dtype)
        return self.conv.init_tail(batch), self.A_log.new_zeros(batch, *self.A_log.shape, dtype=kind)

    def forward(
        self, u: Tensor, state: MixerState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        """Fading tokens (B, T, D) for tokens (B, T, D), and the state after them."""
        tail, start = (None, None) if state is None else state
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x, tail = self.conv(x, tail, cu_seqlens=cu_seqlens)
        inputs, options = self._inputs(x, z)
        y, last = bk.selective_scan(
            *inputs, **options, h0=start, cu_seqlens=cu_seqlens, backend=backend_of(x)
        )
        return self.out_proj(y), (tail, last)

    def step(self, u_t: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """One token (B, D) from a state: its fading token, and the state after it."""
        x, z = self.in_proj(u_t).chunk(2, dim=-1)
        x, tail = self.conv.step(x, state[0])
        inputs, options = self._inputs(x, z)
        y, last = bk.selective_step(*inputs, state=state[1], **options)
        return self.out_proj(y), (tail, last)

    def _inputs(self, x: Tensor, z: Tensor) -> tuple[Any, dict[str, Any]]:
        """What drives the scan, and what is done to its steps and outputs."""
        low, B, C = self.x_proj(x).split([self.rank, self.state_size, self.state_size], dim=-1)
        delta = nn.functional.linear(low, self.dt_proj.weight)
        A = -torch.exp(self.A_log.to(state_dtype(x.dtype)))
        options: dict[str, Any] = {
            "D": self.D,
            "z": z,
            "delta_bias": self.dt_proj.bias,
            "delta_softplus": True,
        }
        return (x, delta, A, B, C), options
