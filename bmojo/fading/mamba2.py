r"""Mamba-2: a scalar decay per head, written through $B_t$, read through $C_t$."""

from __future__ import annotations

import math

import bmojo_kernels as bk
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.backends import backend_of, normed, state_dtype
from bmojo.convolution import CausalConv
from bmojo.fading.key_map import KeyMap
from bmojo.fading.protocol import MixerState

__all__ = ["Mamba2", "start_of_steps"]


def start_of_steps(count: int) -> Tensor:
    """Biases (count,) whose softplus is log-uniform in [0.001, 0.1]: time constants of 10 to 1000 tokens."""
    step = torch.exp(torch.rand(count) * math.log(100.0) + math.log(0.001))
    return step + torch.log(-torch.expm1(-step))


class Mamba2(nn.Module):
    r"""Mamba-2 block as a mixer: projection, causal convolution, selective scan, gate, norm, projection.

    $$h_t = e^{-\Delta_t e^{A}} h_{t-1} + \Delta_t x_t B_t^\top, \qquad
    f_t = W_o\,\mathrm{norm}\big((h_t C_t + D x_t) \odot \mathrm{SiLU}(z_t)\big)$$

    Parameters
    ----------
    d_model : int
        Width of the tokens; the inner width is the same.
    heads : int
        `H`; each holds a state of `d_model / heads` by `state_size`.
    state_size : int
        `N`.
    conv : int
        Taps of the causal convolution over `x`, `B`, `C`.
    features : int, optional
        Width `F` of `B` and `C` before linear maps (`KeyMap`) take them to the `N` numbers of the state;
        there are no maps when it is left out. What `bmojo.compress` makes.
    map_groups : int, optional
        1, the default, or `heads`: how many maps there are.

    Raises
    ------
    ValueError
        If `heads` does not divide `d_model`, or the maps do not fit.

    References
    ----------
    T. Dao, A. Gu, *Transformers are SSMs*, ICML 2024, section 7.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading import Mamba2
    >>> mixer = Mamba2(d_model=16, heads=2, state_size=4)
    >>> f, (tail, state) = mixer(torch.randn(3, 10, 16))
    >>> f.shape, state.shape
    (torch.Size([3, 10, 16]), torch.Size([3, 2, 8, 4]))
    """

    key_map: KeyMap | None

    def __init__(
        self,
        d_model: int,
        heads: int,
        state_size: int,
        *,
        conv: int = 4,
        features: int | None = None,
        map_groups: int = 1,
    ) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"Mamba2: heads={heads} does not divide d_model={d_model}.")
        if map_groups not in (1, heads) or (features is None and map_groups != 1):
            raise ValueError(
                f"Mamba2: map_groups={map_groups} came with heads={heads}, features={features}; there is 1 "
                "map or one for each head, and none without features."
            )
        self.heads, self.head_dim, self.state_size = heads, d_model // heads, state_size
        self.features = state_size if features is None else features
        self.widths = [d_model, d_model + 2 * self.features, heads]
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = CausalConv(d_model + 2 * self.features, conv, activation="silu")
        self.key_map = None if features is None else KeyMap(map_groups, features, state_size)
        self.dt_bias = nn.Parameter(start_of_steps(heads))
        self.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(1.0, 16.0)))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def init_state(self, batch: int) -> MixerState:
        """The convolution's tail (B, taps - 1, D + 2F) and the state (B, H, P, N), both zero."""
        weight = self.out_proj.weight
        shape = (batch, self.heads, self.head_dim, self.state_size)
        return self.conv.init_tail(batch), weight.new_zeros(shape, dtype=state_dtype(weight.dtype))

    def forward(
        self, u: Tensor, state: MixerState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        """Fading tokens (B, T, D) for tokens (B, T, D), and the state after them."""
        tail, start = (None, None) if state is None else state
        z, xBC, dt = self.in_proj(u).split(self.widths, dim=-1)
        xBC, tail = self.conv(xBC, tail, cu_seqlens=cu_seqlens)
        x, driven, log_decay, B, C = self._inputs(xBC, dt)
        y, last = bk.ssd_scan(
            driven, log_decay, B, C, h0=start, cu_seqlens=cu_seqlens, backend=backend_of(driven)
        )
        return self._out(y, x, z), (tail, last)

    def step(self, u_t: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """One token (B, D) from a state: its fading token, and the state after it."""
        z, xBC, dt = self.in_proj(u_t).split(self.widths, dim=-1)
        xBC, tail = self.conv.step(xBC, state[0])
        x, driven, log_decay, B, C = self._inputs(xBC, dt)
        y, last = bk.ssd_step(driven, log_decay, B, C, state[1])
        return self._out(y, x, z), (tail, last)

    def _inputs(self, xBC: Tensor, dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`x`, what drives the scan, its logarithmic decays in the state's dtype, `B` and `C`."""
        kind = state_dtype(xBC.dtype)
        x, B, C = xBC.split([self.widths[0], self.features, self.features], dim=-1)
        if self.key_map is not None:
            B, C = self.key_map(B.unsqueeze(-2), C.unsqueeze(-2))
        x = x.unflatten(-1, (self.heads, self.head_dim))
        dt = F.softplus(dt.to(kind) + self.dt_bias.to(kind))
        driven = (x * dt.unsqueeze(-1)).to(x.dtype)
        return x, driven, -dt * torch.exp(self.A_log.to(kind)), B, C

    def _out(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        y = (y + self.D.to(x.dtype).unsqueeze(-1) * x).flatten(-2)
        return self.out_proj(normed(self.norm, y * F.silu(z)))
