r"""Mixers at the widths of attention: each head has its own keys, read-outs and values of `head_dim` numbers.

Fading memories that are trained beside, or started from, attention layers have queries, keys and values of
the same shapes as these. Their state is `(heads, head_dim, head_dim)`; `heads * head_dim` need not be the
width of the tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.backends import normed, state_dtype
from bmojo.convolution import CausalConv
from bmojo.fading import GatedDeltaNet, GatedKalmaNet, Mamba2, register_mixer
from bmojo.fading.mamba2 import start_of_steps

__all__ = ["HeadwiseDeltaNet", "HeadwiseKalmaNet", "HeadwiseMamba2", "start_from_attention"]


class _NormedConv(CausalConv):
    """A convolution whose inputs are normed per head: those from `first` on, in groups of `width`."""

    def __init__(self, channels: int, taps: int, *, first: int, width: int, eps: float) -> None:
        super().__init__(channels, taps, activation="silu")
        self.first = first
        self.write_norm, self.read_norm = nn.RMSNorm(width, eps=eps), nn.RMSNorm(width, eps=eps)

    def _normed(self, u: Tensor) -> Tensor:
        size = self.first
        plain, write, read = u.split([size, size, u.shape[-1] - 2 * size], dim=-1)
        parts = [plain]
        for part, norm in ((write, self.write_norm), (read, self.read_norm)):
            heads = part.unflatten(-1, (-1, norm.weight.shape[0]))
            parts.append(normed(norm, heads).flatten(-2))
        return torch.cat(parts, dim=-1)

    def forward(
        self, u: Tensor, tail: Tensor | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs (B, T, channels) and the new tail, of normed inputs."""
        return super().forward(self._normed(u), tail, cu_seqlens=cu_seqlens)

    def step(self, u_t: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """One output (B, channels) and the new tail."""
        return super().step(self._normed(u_t), tail)


class HeadwiseMamba2(Mamba2):
    r"""Mamba-2 with a $B_t$, a $C_t$ and an output norm for each head: values, keys and queries of attention.

    $$h_t^{(i)} = e^{-\Delta_t^{(i)} e^{A^{(i)}}} h_{t-1}^{(i)} + \Delta_t^{(i)} x_t^{(i)} B_t^{(i)\top},
    \qquad f_t = W_o\,\mathrm{norm}_i\big((h_t^{(i)} C_t^{(i)} + D^{(i)} x_t^{(i)}) \odot
    \mathrm{SiLU}(z_t^{(i)})\big)$$

    Parameters
    ----------
    d_model : int
        Width of the tokens.
    heads : int
    head_dim : int
        Of values, keys and read-outs.
    conv : int
        Taps of the causal convolution.
    norms : bool
        $B_t$ and $C_t$ pass a norm per head before the convolution, like keys and queries with `qk_norm`.

    Examples
    --------
    >>> import torch
    >>> from bmojo.models.headwise import HeadwiseMamba2
    >>> f, (tail, state) = HeadwiseMamba2(d_model=12, heads=2, head_dim=4)(torch.randn(3, 10, 12))
    >>> f.shape, state.shape
    (torch.Size([3, 10, 12]), torch.Size([3, 2, 4, 4]))
    """

    def __init__(
        self, d_model: int, heads: int, head_dim: int, *, conv: int = 4, norms: bool = False
    ) -> None:
        nn.Module.__init__(self)
        inner = heads * head_dim
        self.heads, self.head_dim, self.state_size = heads, head_dim, head_dim
        self.widths = [inner, 3 * inner, heads]  # gate, (values, keys, read-outs), steps
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=False)
        if norms:
            self.conv = _NormedConv(3 * inner, conv, first=inner, width=head_dim, eps=1e-6)
        else:
            self.conv = CausalConv(3 * inner, conv, activation="silu")
        self.dt_bias = nn.Parameter(start_of_steps(heads))
        self.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(1.0, 16.0)))
        self.D = nn.Parameter(torch.ones(heads))
        self.head_norm = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def _inputs(self, xBC: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        kind = state_dtype(xBC.dtype)
        x, B, C = (part.unflatten(-1, (self.heads, self.head_dim)) for part in xBC.chunk(3, dim=-1))
        dt = F.softplus(dt.to(kind) + self.dt_bias.to(kind))
        driven = (x * dt.unsqueeze(-1)).to(x.dtype)
        return x, driven, -dt * torch.exp(self.A_log.to(kind)), B.contiguous(), C.contiguous()

    def _out(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        y = (y + self.D.to(x.dtype).unsqueeze(-1) * x) * F.silu(z.unflatten(-1, (self.heads, self.head_dim)))
        y = F.rms_norm(y, (self.head_dim,), eps=1e-5).flatten(-2) * self.head_norm
        return self.out_proj(y.to(z.dtype))


def _headwise(
    mixer: Any, d_model: int, heads: int, head_dim: int, conv: int, *, bias: bool, eps: float
) -> None:
    """Parameters of a delta rule or a Kalman one whose heads are `head_dim` wide throughout."""
    nn.Module.__init__(mixer)
    inner = heads * head_dim
    mixer.heads, mixer.key_dim, mixer.value_dim, mixer.mixed = heads, head_dim, head_dim, 3 * inner
    mixer.key_map = None
    mixer.in_proj = nn.Linear(d_model, 4 * inner + mixer.gates * heads, bias=bias)
    if bias:
        nn.init.zeros_(mixer.in_proj.bias)
    mixer.conv = CausalConv(3 * inner, conv, activation="silu")
    mixer.dt_bias = nn.Parameter(start_of_steps(heads))
    mixer.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(1.0, 16.0)))
    mixer.norm = nn.RMSNorm(head_dim, eps=eps)
    mixer.out_proj = nn.Linear(inner, d_model, bias=False)


class HeadwiseDeltaNet(GatedDeltaNet):
    r"""Gated DeltaNet whose heads are `head_dim` wide in queries, keys and values.

    Parameters
    ----------
    d_model : int
        Width of the tokens.
    heads : int
    head_dim : int
    conv : int
        Taps of the causal convolution.

    Examples
    --------
    >>> import torch
    >>> from bmojo.models.headwise import HeadwiseDeltaNet
    >>> f, (tail, state) = HeadwiseDeltaNet(d_model=12, heads=2, head_dim=4)(torch.randn(3, 10, 12))
    >>> f.shape, state.shape
    (torch.Size([3, 10, 12]), torch.Size([3, 2, 4, 4]))
    """

    def __init__(self, d_model: int, heads: int, head_dim: int, *, conv: int = 4) -> None:
        _headwise(self, d_model, heads, head_dim, conv, bias=False, eps=1e-5)


class HeadwiseKalmaNet(GatedKalmaNet):
    r"""Gated KalmaNet whose heads are `head_dim` wide in queries, keys and values.

    Parameters
    ----------
    d_model : int
        Width of the tokens.
    heads : int
    head_dim : int
    conv : int
        Taps of the causal convolution.
    steps : int
        Of the Chebyshev iteration.

    Examples
    --------
    >>> import torch
    >>> from bmojo.models.headwise import HeadwiseKalmaNet
    >>> f, (tail, H, U) = HeadwiseKalmaNet(d_model=12, heads=2, head_dim=4)(torch.randn(3, 10, 12))
    >>> f.shape, U.shape
    (torch.Size([3, 10, 12]), torch.Size([3, 2, 4, 4]))
    """

    def __init__(self, d_model: int, heads: int, head_dim: int, *, conv: int = 4, steps: int = 30) -> None:
        # The authors scale what is read by d^{-1/2} before a norm with eps 1e-6, which weighs d times more.
        _headwise(self, d_model, heads, head_dim, conv, bias=True, eps=1e-6 * head_dim)
        self.steps = steps


@torch.no_grad()
def start_from_attention(
    mixer: nn.Module,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    norms: tuple[Tensor, Tensor] | None = None,
) -> bool:
    """Let the mixer ask, write and tell what attention asks, looks up and tells.

    Parameters
    ----------
    mixer : torch.nn.Module
    queries : Tensor, shape (H d, D)
        Weight of attention's projection.
    keys, values : Tensor, shape (G d, D)
    norms : pair of Tensor, shape (d,), optional
        Of queries and keys.

    Returns
    -------
    started : bool
        False, and nothing is changed, where the mixer is none of this module or of another size.

    Examples
    --------
    >>> import torch
    >>> from bmojo.models.headwise import HeadwiseDeltaNet, start_from_attention
    >>> mixer, q, k = HeadwiseDeltaNet(d_model=6, heads=2, head_dim=4), torch.randn(8, 6), torch.randn(4, 6)
    >>> start_from_attention(mixer, q, k, k), bool(torch.equal(mixer.in_proj.weight[:8], q))
    (True, True)
    """
    if not isinstance(mixer, HeadwiseMamba2 | HeadwiseDeltaNet | HeadwiseKalmaNet):
        return False
    inner, width = mixer.out_proj.in_features, _head_dim(mixer)
    if len(queries) != inner or len(keys) % width:
        return False
    each = inner // len(keys)
    keys, values = (
        x.unflatten(0, (-1, width)).repeat_interleave(each, dim=0).flatten(0, 1) for x in (keys, values)
    )
    selective = isinstance(mixer, HeadwiseMamba2)
    rows = [values, keys, queries] if selective else [queries, keys, values]
    first = inner if selective else 0  # behind the gate, or in front of it
    mixer.in_proj.weight[first : first + 3 * inner] = torch.cat(rows)
    mixer.conv.weight.zero_()
    mixer.conv.weight[:, -1] = 1.0
    if norms is not None and isinstance(mixer.conv, _NormedConv):
        mixer.conv.read_norm.weight.copy_(norms[0])
        mixer.conv.write_norm.weight.copy_(norms[1])
    return True


def _head_dim(mixer: HeadwiseMamba2 | HeadwiseDeltaNet | HeadwiseKalmaNet) -> int:
    """Width of a head."""
    return mixer.head_dim if isinstance(mixer, HeadwiseMamba2) else mixer.value_dim


def _normed_mamba2(d_model: int, heads: int, head_dim: int) -> HeadwiseMamba2:
    return HeadwiseMamba2(d_model, heads, head_dim, norms=True)


register_mixer("headwise_mamba2", HeadwiseMamba2)
register_mixer("headwise_mamba2_normed", _normed_mamba2)
register_mixer("headwise_gated_deltanet", HeadwiseDeltaNet)
register_mixer("headwise_gated_kalmanet", HeadwiseKalmaNet)
