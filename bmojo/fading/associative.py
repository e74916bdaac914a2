r"""Mixers whose state associates values with keys, and corrects itself: it knows what it failed to predict.

Both hold a matrix per head. The gated delta rule writes the part of a value that the state did not answer its
key with; the Kalman one solves the ridge regression of values on keys anew at every step.
"""

from __future__ import annotations

from typing import Any

import bmojo_kernels as bk
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.backends import backend_of, normed, state_dtype
from bmojo.convolution import CausalConv
from bmojo.fading.key_map import KeyMap
from bmojo.fading.mamba2 import start_of_steps
from bmojo.fading.protocol import MixerState

__all__ = ["GatedDeltaNet", "GatedKalmaNet"]


class _Associative(nn.Module):
    """Projections, convolution, gates and read-out that both share."""

    gates = 2  # numbers per head beside queries, keys, values and the output's gate: write strength, decay
    key_map: KeyMap | None

    def __init__(
        self, d_model: int, heads: int, state_size: int, *, conv: int = 4, features: int | None = None
    ) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"{type(self).__name__}: heads={heads} does not divide d_model={d_model}.")
        self.heads, self.key_dim, self.value_dim = heads, state_size, d_model // heads
        self.features = state_size if features is None else features
        keys = heads * self.features
        self.mixed = 2 * keys + d_model
        self.in_proj = nn.Linear(d_model, self.mixed + d_model + self.gates * heads, bias=False)
        self.conv = CausalConv(self.mixed, conv, activation="silu")
        self.dt_bias = nn.Parameter(start_of_steps(heads))
        self.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(1.0, 16.0)))
        self.norm = nn.RMSNorm(self.value_dim, eps=1e-5)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)
        self.key_map = None if features is None else KeyMap(heads, features, state_size)

    def _zeros(self, batch: int, *shape: int) -> Tensor:
        weight = self.out_proj.weight
        return weight.new_zeros(batch, self.heads, *shape, dtype=state_dtype(weight.dtype))

    def _parts(self, projected: Tensor) -> tuple[Tensor, ...]:
        """What is convolved, the output's gate, and the numbers of each head."""
        width = self.out_proj.in_features
        return projected.split([self.mixed, width, self.gates * self.heads], dim=-1)

    def _heads(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys (..., H, K), of unit length before a map, and values (..., H, V)."""
        values = self.heads * self.value_dim
        keys = (self.mixed - values) // 2
        q, k, v = mixed.split([keys, keys, values], dim=-1)
        q, k = (F.normalize(x.unflatten(-1, (self.heads, -1)), dim=-1, eps=1e-6).to(x.dtype) for x in (q, k))
        if self.key_map is not None:
            k, q = self.key_map(k, q)
        return q, k, v.unflatten(-1, (self.heads, -1))

    def _numbers(self, gates: Tensor) -> tuple[Tensor, ...]:
        """Write strengths in (0, 1), logarithmic decays, and further gates in (0, 1), each (..., H)."""
        kind = state_dtype(gates.dtype)
        beta, decay, *others = gates.to(kind).chunk(self.gates, dim=-1)
        decay = -torch.exp(self.A_log.to(kind)) * F.softplus(decay + self.dt_bias.to(kind))
        return torch.sigmoid(beta), decay, *(torch.sigmoid(x) for x in others)

    def _out(self, o: Tensor, z: Tensor) -> Tensor:
        return self.out_proj(normed(self.norm, o).to(z.dtype).flatten(-2) * F.silu(z))

    def forward(
        self, u: Tensor, state: MixerState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MixerState]:
        """Fading tokens (B, T, D) for tokens (B, T, D), and the state after them."""
        f, state, _ = self._run(u, state, cu_seqlens, innovations=False)
        return f, state

    def innovations(
        self, u: Tensor, state: MixerState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, MixerState, Tensor]:
        """The same, and what the state failed to predict (B, T, H, V)."""
        f, state, e = self._run(u, state, cu_seqlens, innovations=True)
        assert e is not None
        return f, state, e

    def _run(
        self, u: Tensor, state: MixerState | None, cu_seqlens: Tensor | None, *, innovations: bool
    ) -> tuple[Tensor, MixerState, Tensor | None]:
        tail, *start = (None,) if state is None else state
        mixed, z, gates = self._parts(self.in_proj(u))
        mixed, tail = self.conv(mixed, tail, cu_seqlens=cu_seqlens)
        o, last, e = self._scan(
            *self._heads(mixed), self._numbers(gates), tuple(start), cu_seqlens, innovations
        )
        return self._out(o, z), (tail, *last), e

    def step(self, u_t: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """One token (B, D) from a state: its fading token, and the state after it."""
        f, state, _ = self.innovations_step(u_t, state)
        return f, state

    def innovations_step(self, u_t: Tensor, state: MixerState) -> tuple[Tensor, MixerState, Tensor]:
        """The same, and what the state failed to predict (B, H, V)."""
        mixed, z, gates = self._parts(self.in_proj(u_t))
        mixed, tail = self.conv.step(mixed, state[0])
        o, last, e = self._step(*self._heads(mixed), self._numbers(gates), state[1:])
        return self._out(o, z), (tail, *last), e

    def _scan(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gates: tuple[Tensor, ...],
        start: MixerState,
        cu_seqlens: Tensor | None,
        innovations: bool,
    ) -> tuple[Tensor, MixerState, Tensor | None]:
        raise NotImplementedError

    def _step(
        self, q: Tensor, k: Tensor, v: Tensor, gates: tuple[Tensor, ...], state: MixerState
    ) -> tuple[Tensor, MixerState, Tensor]:
        raise NotImplementedError


class GatedDeltaNet(_Associative):
    r"""Gated DeltaNet as a mixer: the state fades, then learns what it failed to predict.

    $$S_t = e^{g_t} S_{t-1} + e_t k_t^\top, \qquad e_t = \beta_t\big(v_t - e^{g_t} S_{t-1} k_t\big), \qquad
    f_t = W_o\big(\mathrm{norm}(S_t q_t / \sqrt K) \odot \mathrm{SiLU}(z_t)\big)$$

    Parameters
    ----------
    d_model : int
        Width of the tokens.
    heads : int
        `H`; each holds a state of `d_model / heads` by `state_size`.
    state_size : int
        `K`, width of queries and keys.
    conv : int
        Taps of the causal convolution over queries, keys and values.
    features : int, optional
        Width of queries and keys, of unit length, before linear maps per head (`KeyMap`) take them to `K`
        numbers; there are no maps when it is left out. What `bmojo.compress` makes.

    Raises
    ------
    ValueError
        If `heads` does not divide `d_model`.

    References
    ----------
    S. Yang, J. Kautz, A. Hatamizadeh, *Gated delta networks: Improving Mamba2 with delta rule*, ICLR 2025.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading import GatedDeltaNet
    >>> mixer = GatedDeltaNet(d_model=16, heads=2, state_size=4)
    >>> f, (tail, state), e = mixer.innovations(torch.randn(3, 10, 16))
    >>> f.shape, state.shape, e.shape
    (torch.Size([3, 10, 16]), torch.Size([3, 2, 8, 4]), torch.Size([3, 10, 2, 8]))
    """

    def init_state(self, batch: int) -> MixerState:
        """The convolution's tail (B, taps - 1, 2HK + D) and the state (B, H, V, K), both zero."""
        return self.conv.init_tail(batch), self._zeros(batch, self.value_dim, self.key_dim)

    def _scan(self, q, k, v, gates, start, cu_seqlens, innovations):
        beta, decay = gates
        scan: Any = bk.gated_delta_scan
        o, last, *e = scan(
            q,
            k,
            v,
            decay,
            beta,
            *start,
            scale=self.key_dim**-0.5,
            innovations=innovations,
            cu_seqlens=cu_seqlens,
            backend=backend_of(q),
        )
        return o, (last,), e[0] if innovations else None

    def _step(self, q, k, v, gates, state):
        beta, decay = gates
        o, last, e = bk.gated_delta_step(q, k, v, decay, beta, state[0], scale=self.key_dim**-0.5)
        return o, (last,), e


class GatedKalmaNet(_Associative):
    r"""Gated KalmaNet as a mixer: the state is the ridge regression of values on keys, older ones less.

    $$H_t = \gamma_t H_{t-1} + k_t k_t^\top,\quad U_t = \gamma_t U_{t-1} + v_t k_t^\top,\quad
    (H_t + \lambda_t I)\,x_t = q_t,\quad o_t = U_t\big(q_t + \alpha_t (x_t - q_t)\big)$$

    with $\lambda_t = a \lVert H_t\rVert_F$, and keys and values scaled by a write strength
    $\beta_t$: the recursive least squares of a Kalman filter at rest.

    Parameters
    ----------
    d_model : int
        Width of the tokens.
    heads : int
        `H`; each holds states of `state_size` by itself and of `d_model / heads` by `state_size`.
    state_size : int
        `K`, width of queries and keys.
    conv : int
        Taps of the causal convolution over queries, keys and values.
    steps : int
        Of the Chebyshev iteration that solves the regression; 30 leave an error of 2e-4 at the worst.
    features : int, optional
        Width of queries and keys, of unit length, before linear maps per head (`KeyMap`) take them to `K`
        numbers; there are no maps when it is left out. What `bmojo.compress` makes.

    Raises
    ------
    ValueError
        If `heads` does not divide `d_model`.

    References
    ----------
    L. Peng, A. Chattopadhyay, L. Zancato and others, *Gated KalmaNet: A fading memory layer through test-time
    ridge regression*, arXiv 2511.21016, 2025.

    Examples
    --------
    >>> import torch
    >>> from bmojo.fading import GatedKalmaNet
    >>> mixer = GatedKalmaNet(d_model=16, heads=2, state_size=4)
    >>> f, (tail, H, U), e = mixer.innovations(torch.randn(3, 10, 16))
    >>> f.shape, H.shape, U.shape
    (torch.Size([3, 10, 16]), torch.Size([3, 2, 4, 4]), torch.Size([3, 2, 8, 4]))
    """

    gates = 3  # and how far the read-out goes from linear attention to the regression

    def __init__(
        self,
        d_model: int,
        heads: int,
        state_size: int,
        *,
        conv: int = 4,
        steps: int = 30,
        features: int | None = None,
    ) -> None:
        super().__init__(d_model, heads, state_size, conv=conv, features=features)
        self.steps = steps

    def init_state(self, batch: int) -> MixerState:
        """The convolution's tail (B, taps - 1, 2HK + D), `H` (B, H, K, K) and `U` (B, H, V, K), all zero."""
        K, V = self.key_dim, self.value_dim
        return self.conv.init_tail(batch), self._zeros(batch, K, K), self._zeros(batch, V, K)

    def _scan(self, q, k, v, gates, start, cu_seqlens, innovations):
        beta, decay, alpha = gates
        k, v = ((x * beta.unsqueeze(-1)).to(x.dtype) for x in (k, v))
        scan: Any = bk.gated_kalman_scan
        o, last, *e = scan(
            q,
            k,
            v,
            decay,
            alpha,
            start or None,
            steps=self.steps,
            innovations=innovations,
            cu_seqlens=cu_seqlens,
            backend=backend_of(q),
        )
        return o, last, e[0] if innovations else None

    def _step(self, q, k, v, gates, state):
        beta, decay, alpha = gates
        k, v = ((x * beta.unsqueeze(-1)).to(x.dtype) for x in (k, v))
        o, last, e, _ = bk.gated_kalman_step(q, k, v, decay, (state[0], state[1]), alpha, steps=self.steps)
        return o, last, e
