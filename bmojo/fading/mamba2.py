r"""Mamba-2 in its reference form: a scalar decay per head, written through $B_t$, read through $C_t$."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.convolution import CausalConv
from bmojo.fading.protocol import MixerState

__all__ = ["Mamba2", "ssd_reference"]


def ssd_reference(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, *, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    r"""State-space dual scan, chunk by chunk.

    $$h_t = e^{a_t} h_{t-1} + x_t B_t^\top, \qquad y_t = h_t C_t$$

    Within a chunk the output is a masked matrix product, between chunks the state is carried. Decays enter as
    exponentials of differences that are never positive, so nothing overflows.

    Parameters
    ----------
    x : Tensor, shape (B, T, H, P)
    log_decay : Tensor, shape (B, T, H)
        $a_t \le 0$.
    B, C : Tensor, shape (B, T, N)
        Shared by the heads.
    state : Tensor, shape (B, H, P, N)
    chunk : int

    Returns
    -------
    y : Tensor, shape (B, T, H, P)
    last : Tensor, shape (B, H, P, N)

    References
    ----------
    T. Dao, A. Gu, *Transformers are SSMs*, ICML 2024, section 6.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading.mamba2 import ssd_reference
    >>> one = torch.ones(1, 3, 1, 1)
    >>> y, last = ssd_reference(one, torch.zeros(1, 3, 1), one[..., 0], one[..., 0], torch.zeros(1, 1, 1, 1))
    >>> y.flatten().tolist()
    [1.0, 2.0, 3.0]
    """
    outputs = []
    for start in range(0, x.shape[1], chunk):
        part = slice(start, start + chunk)
        xs, Bs, Cs = x[:, part], B[:, part], C[:, part]
        total = log_decay[:, part].cumsum(1).transpose(1, 2)  # (B, H, L): decay from the chunk's start
        between = total.unsqueeze(-1) - total.unsqueeze(-2)  # (B, H, L, L): decay from s to t
        length = between.shape[-1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        weights = (Cs @ Bs.mT).unsqueeze(1) * torch.exp(between.masked_fill(~causal, -torch.inf))
        inside = weights @ xs.transpose(1, 2)  # (B, H, L, P)
        carried = torch.exp(total).unsqueeze(-1) * (Cs.unsqueeze(1) @ state.mT)
        outputs.append((inside + carried).transpose(1, 2))
        remaining = torch.exp(total[..., -1:] - total)  # (B, H, L): decay from t to the chunk's end
        written = (xs.transpose(1, 2) * remaining.unsqueeze(-1)).mT @ Bs.unsqueeze(1)
        state = torch.exp(total[..., -1])[..., None, None] * state + written
    return torch.cat(outputs, dim=1), state


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

    Raises
    ------
    ValueError
        If `heads` does not divide `d_model`.

    References
    ----------
    T. Dao, A. Gu, *Transformers are SSMs*, ICML 2024, section 7.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading import Mamba2
    >>> mixer = Mamba2(d_model=16, heads=2, state_size=4)
    >>> f, (tail, state) = mixer(torch.randn(3, 10, 16), mixer.init_state(3))
    >>> f.shape, state.shape
    (torch.Size([3, 10, 16]), torch.Size([3, 2, 8, 4]))
    """

    def __init__(self, d_model: int, heads: int, state_size: int, *, conv: int = 4) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"Mamba2: heads={heads} does not divide d_model={d_model}.")
        self.heads, self.head_dim, self.state_size = heads, d_model // heads, state_size
        self.widths = [d_model, d_model + 2 * state_size, heads]
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = CausalConv(d_model + 2 * state_size, conv)
        # Steps log-uniform in [0.001, 0.1] through the softplus's inverse, decay rates uniform in [1, 16].
        step = torch.exp(torch.rand(heads) * math.log(100.0) + math.log(0.001))
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(1.0, 16.0)))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)

    def init_state(self, batch: int) -> MixerState:
        """The convolution's tail (B, taps - 1, D + 2N) and the state (B, H, P, N), both zero."""
        weight = self.out_proj.weight
        return (
            self.conv.init_tail(batch),
            weight.new_zeros(batch, self.heads, self.head_dim, self.state_size),
        )

    def forward(self, u: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """Fading tokens (B, T, D) for tokens (B, T, D), and the state after them."""
        z, xBC, dt = self.in_proj(u).split(self.widths, dim=-1)
        xBC, tail = self.conv(xBC, state[0])
        x, B, C = F.silu(xBC).split([u.shape[-1], self.state_size, self.state_size], dim=-1)
        x = x.unflatten(-1, (self.heads, self.head_dim))
        dt = F.softplus(dt + self.dt_bias)
        y, last = ssd_reference(x * dt.unsqueeze(-1), -dt * torch.exp(self.A_log), B, C, state[1])
        y = (y + self.D.unsqueeze(-1) * x).flatten(-2)
        return self.out_proj(self.norm(y * F.silu(z))), (tail, last)
