r"""Empirical gramians: what a mixer's state holds, and what is asked of it, along given tokens.

Every input-dependent mixer of `bmojo.fading` reads its state by $y_t = Z_t c_t$: of a head with `P` value
channels, $Z_t$ (P, F) is made of what was written, and $c_t$ (F,) of the present token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from bmojo_kernels.gated_kalman_scan.naive import chebyshev
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.fading import GatedDeltaNet, GatedKalmaNet, Mamba, Mamba2
from realization.errors import ShapeError

__all__ = ["EmpiricalGramians", "Recurrence", "empirical_gramians", "recurrence_of"]

BLOCK = 32  # times that are solved for at once
RIDGE = 0.02  # the Kalman scan's own, which the mixer leaves as it is


@dataclass(frozen=True, eq=False)
class Recurrence:
    r"""What enters a mixer's recurrence along tokens, in float64.

    $$S_t = \alpha_t \odot S_{t-1} + v_t k_t^\top, \qquad y_t = S_t c_t$$

    A delta rule takes $\alpha_t \beta_t S_{t-1} k_t k_t^\top$ away; a Kalman one reads through
    $M_t = (1 - a_t) I + a_t (H_t + \lambda_t I)^{-1}$, so that $Z_t = S_t M_t$; else $Z_t = S_t$.

    Attributes
    ----------
    rule : {"decay", "delta", "ridge"}
    keys, queries : Tensor, shape (B, T, H, F)
        $k_t$ and $c_t$; keys and values of a Kalman rule are scaled by its write strength.
    values : Tensor, shape (B, T, H, P)
    decay : Tensor, shape (B, T, H, P or 1, F or 1)
        $\alpha_t$, in (0, 1].
    gain : Tensor, shape (B, T, H, P)
        $g_t$, by which what is read enters the output: gate and norm, held as they are along the tokens.
    strength : Tensor, shape (B, T, H), optional
        $\beta_t$ of a delta rule.
    mixing : Tensor, shape (B, T, H), optional
        $a_t$ of a Kalman one.
    steps : int
        Of the iteration by which a Kalman one solves.

    Examples
    --------
    >>> import torch
    >>> from bmojo.bridge.compress.empirical import recurrence_of
    >>> from bmojo.fading import Mamba2
    >>> recurrence = recurrence_of(Mamba2(d_model=16, heads=2, state_size=4), torch.randn(3, 10, 16))
    >>> recurrence.keys.shape, len(list(recurrence.operators()))
    (torch.Size([3, 10, 2, 4]), 10)
    """

    rule: str
    keys: Tensor
    queries: Tensor
    values: Tensor
    decay: Tensor
    gain: Tensor
    strength: Tensor | None = None
    mixing: Tensor | None = None
    steps: int = 30

    def mapped(self, write: Tensor) -> Recurrence:
        r"""The recurrence of keys $W^\top k_t$, for `write` (H, F, N); queries stay as they are."""
        return replace(self, keys=torch.einsum("bthf,hfn->bthn", self.keys, write))

    def density(self, weight: Tensor) -> Tensor:
        """How much each number that is read counts, (B, T, H, P), for weights (B, T) of the tokens."""
        return weight[..., None, None] * self.gain.square()

    def read_outs(self) -> Tensor:
        """$y_t$, shape (B, T, H, P)."""
        pairs = zip(self.operators(), self.queries.unbind(1), strict=True)
        return torch.stack([(Z @ c.unsqueeze(-1)).squeeze(-1) for Z, c in pairs], dim=1)

    def operators(self) -> Iterator[Tensor]:
        """The read operators $Z_t$ (B, H, P, F), one time after the other."""
        S = self.values[:, 0].unsqueeze(-1) * torch.zeros_like(self.keys[:, 0]).unsqueeze(-2)
        for start in range(0, self.keys.shape[1], BLOCK):
            filters = None if self.mixing is None else self._filters(start)
            for t in range(start, min(start + BLOCK, self.keys.shape[1])):
                k, v, S = self.keys[:, t], self.values[:, t], self.decay[:, t] * S
                if self.strength is not None:
                    predicted = (S @ k.unsqueeze(-1)).squeeze(-1)
                    v = self.strength[:, t].unsqueeze(-1) * (v - predicted)
                S = S + v.unsqueeze(-1) * k.unsqueeze(-2)
                yield S if filters is None else S @ filters[t - start]

    def _filters(self, start: int) -> Tensor:
        """$M_t$ of a block of times, (times, B, H, F, F)."""
        assert self.mixing is not None
        found = torch.stack(self._gramians[start : start + BLOCK])
        identity = torch.eye(found.shape[-1]).to(found)
        inverse = chebyshev(found, RIDGE, identity.expand_as(found), self.steps)
        mixing = self.mixing[:, start : start + BLOCK].movedim(1, 0)
        return torch.lerp(identity, inverse, mixing[..., None, None])

    @cached_property
    def _gramians(self) -> list[Tensor]:
        """$H_t$ of a Kalman rule, (B, H, F, F) at each time."""
        k = self.keys
        found = [k[:, 0].unsqueeze(-1) * k[:, 0].unsqueeze(-2)]
        for t in range(1, k.shape[1]):
            found.append(self.decay[:, t] * found[-1] + k[:, t].unsqueeze(-1) * k[:, t].unsqueeze(-2))
        return found


def recurrence_of(mixer: nn.Module, u: Tensor) -> Recurrence:
    """What enters the recurrence of a mixer along tokens.

    Parameters
    ----------
    mixer : Mamba, Mamba2, GatedDeltaNet or GatedKalmaNet
    u : Tensor, shape (B, T, D)

    Returns
    -------
    Recurrence
        Of `mamba` one head, whose `P` channels decay each by itself.

    Raises
    ------
    TypeError
        If the mixer is none of these.

    Examples
    --------
    >>> import torch
    >>> from bmojo.bridge.compress.empirical import recurrence_of
    >>> from bmojo.fading import GatedDeltaNet
    >>> mixer = GatedDeltaNet(d_model=16, heads=2, state_size=4)
    >>> recurrence_of(mixer, torch.randn(3, 10, 16)).rule
    'delta'
    """
    for kind, found in READERS.items():
        if isinstance(mixer, kind):
            with torch.no_grad():
                return found(mixer, u.detach())
    names = ", ".join(kind.__name__ for kind in READERS)
    raise TypeError(f"recurrence_of: a {type(mixer).__name__} came; {names} are known.")


def _mamba(mixer: Mamba, u: Tensor) -> Recurrence:
    x, z = mixer.in_proj(u).chunk(2, dim=-1)
    x, _ = mixer.conv(x)
    low, B, C = mixer.x_proj(x).split([mixer.rank, mixer.state_size, mixer.state_size], dim=-1)
    step = F.softplus(mixer.dt_proj(low).double())
    decay = torch.exp(-step.unsqueeze(-1) * torch.exp(mixer.A_log.double()))
    parts = (B.double(), C.double(), step * x.double(), decay, F.silu(z.double()))
    B, C, drive, decay, gate = (part.unsqueeze(2) for part in parts)
    return Recurrence("decay", B, C, drive, decay, gate)


def _mamba2(mixer: Mamba2, u: Tensor) -> Recurrence:
    z, xBC, dt = mixer.in_proj(u).split(mixer.widths, dim=-1)
    xBC, _ = mixer.conv(xBC)
    x, driven, log_decay, B, C = mixer._inputs(xBC, dt)
    B, C = (part.double() if part.ndim == 4 else part.double().unsqueeze(2) for part in (B, C))
    B, C = (part.expand(-1, -1, mixer.heads, -1) for part in (B, C))
    gate = F.silu(z.double()).unflatten(-1, (mixer.heads, -1))
    found = Recurrence("decay", B, C, driven.double(), _scalar(log_decay), gate)
    read = (found.read_outs() + mixer.D.double().unsqueeze(-1) * x.double()) * gate
    weight = mixer.norm.weight.double().unflatten(-1, (mixer.heads, -1))
    return replace(found, gain=gate * weight / _size(read, (-2, -1), mixer.norm.eps))


def _delta(mixer: GatedDeltaNet, u: Tensor) -> Recurrence:
    q, k, v, gate, (beta, decay) = _associated(mixer, u)
    q, beta = q * mixer.key_dim**-0.5, beta.double()
    return _normed(mixer, Recurrence("delta", k, q, v, _scalar(decay), gate, strength=beta))


def _kalman(mixer: GatedKalmaNet, u: Tensor) -> Recurrence:
    q, k, v, gate, (beta, decay, alpha) = _associated(mixer, u)
    k, v = (x * beta.double().unsqueeze(-1) for x in (k, v))
    found = Recurrence("ridge", k, q, v, _scalar(decay), gate, mixing=alpha.double(), steps=mixer.steps)
    return _normed(mixer, found)


def _associated(mixer: Any, u: Tensor) -> tuple[Any, ...]:
    """Queries, keys, values, the output's gate, and the numbers of each head."""
    mixed, z, gates = mixer._parts(mixer.in_proj(u))
    mixed, _ = mixer.conv(mixed)
    gate = F.silu(z.double()).unflatten(-1, (mixer.heads, -1))
    return *(x.double() for x in mixer._heads(mixed)), gate, mixer._numbers(gates)


def _normed(mixer: Any, recurrence: Recurrence) -> Recurrence:
    """With the norm per head in the gain."""
    scale = mixer.norm.weight.double() / _size(recurrence.read_outs(), (-1,), mixer.norm.eps)
    return replace(recurrence, gain=recurrence.gain * scale)


def _size(x: Tensor, axes: tuple[int, ...], eps: float | None) -> Tensor:
    """Root mean square over axes, as a norm takes it."""
    return (x.square().mean(axes, keepdim=True) + (eps or 0.0)).sqrt()


def _scalar(log_decay: Tensor) -> Tensor:
    return torch.exp(log_decay.double())[..., None, None]


READERS: dict[type[nn.Module], Any] = {
    Mamba: _mamba,
    Mamba2: _mamba2,
    GatedDeltaNet: _delta,
    GatedKalmaNet: _kalman,
}


@dataclass(frozen=True, eq=False)
class EmpiricalGramians:
    r"""Second moments of read operators and of what reads them, over tokens and value channels.

    $$G = \sum_t \omega_t Z_t^\top Z_t, \qquad O = \sum_t \omega_t c_t c_t^\top, \qquad \sum_t \omega_t = 1$$

    with the rows of $Z_t$ scaled as they enter the output (`Recurrence.gain`).

    Over all pairs of an operator and a query, the best map `M` of rank `r` in $\hat y = Z M c$ leaves the
    mean square $\sum_{i>r} \sigma_i^2$ with $\sigma_i^2 = \lambda_i(G O)$. It is balanced truncation: `G` is
    the gramian of what is reached, `O` of what is observed. Where $Z_t$ and $c_t$ are uncorrelated that is
    the error along the tokens themselves; otherwise it is at most $\rho$ times as large, since $Z_t^\top Z_t
    \preceq \rho\, G$.

    Attributes
    ----------
    reach : Tensor, shape (G, F, F)
        `G`, of each group: a head, or all heads that share a map.
    sight : Tensor, shape (G, F, F)
        `O`, summed over the heads of a group.
    peak : Tensor, shape (G,)
        $\rho$, the least number for which the inequality holds at every time that counts.

    Examples
    --------
    >>> import torch
    >>> from bmojo.bridge import empirical_gramians
    >>> from bmojo.fading import Mamba2
    >>> mixer = Mamba2(d_model=16, heads=2, state_size=4)
    >>> gramians = empirical_gramians(mixer, torch.randn(3, 10, 16))
    >>> gramians.hsv.shape, bool((gramians.peak >= 1).all())
    (torch.Size([2, 4]), True)
    """

    reach: Tensor
    sight: Tensor
    peak: Tensor

    @cached_property
    def hsv(self) -> Tensor:
        r"""$\sigma_i$ of each group, largest first, shape (G, F)."""
        return torch.linalg.svdvals(factor(self.reach).mT @ factor(self.sight))


def empirical_gramians(
    mixer: nn.Module, u: Tensor, *, weight: Tensor | None = None, shared: bool = False
) -> EmpiricalGramians:
    r"""Empirical gramians of a mixer along tokens.

    Parameters
    ----------
    mixer : Mamba, Mamba2, GatedDeltaNet or GatedKalmaNet
    u : Tensor, shape (B, T, D)
    weight : Tensor, shape (T,) or (B, T), optional
        $\omega_t$, how much each token's read-out counts; all alike when left out. Scaled to the sum 1.
    shared : bool
        One pair for all heads, as one map needs it, instead of one for each.

    Returns
    -------
    EmpiricalGramians

    Raises
    ------
    TypeError
        If the mixer is none of these.
    ShapeError
        If the weights are of another shape, negative, or all zero.

    References
    ----------
    S. Lall, J. E. Marsden, S. Glavaški, A subspace approach to balanced truncation for model reduction of
    nonlinear control systems, Int. J. Robust Nonlinear Control 12 (2002) 519-535.

    Examples
    --------
    >>> import torch
    >>> from bmojo.bridge import empirical_gramians
    >>> from bmojo.fading import GatedDeltaNet
    >>> gramians = empirical_gramians(GatedDeltaNet(16, 2, 4), torch.randn(3, 10, 16), shared=True)
    >>> gramians.reach.shape
    torch.Size([1, 4, 4])
    """
    return gramians_of(recurrence_of(mixer, u), weights_of(weight, u), shared=shared)


def gramians_of(recurrence: Recurrence, weight: Tensor, *, shared: bool = False) -> EmpiricalGramians:
    """Empirical gramians of a recurrence, for weights (B, T) whose sum is 1."""
    reach = moment(recurrence, recurrence, recurrence.density(weight))
    sight = torch.einsum("bthi,bt,bthj->hij", recurrence.queries, weight, recurrence.queries)
    if shared:
        reach, sight = (x.sum(0, keepdim=True) for x in (reach, sight))
    return EmpiricalGramians(reach, sight, _peak(recurrence, weight, reach))


def moment(left: Recurrence, right: Recurrence, density: Tensor) -> Tensor:
    r"""$\sum_t Z_t^\top \operatorname{diag}(w_t) \hat Z_t$ per head, (H, F, N), for weights (B, T, H, P)."""
    pairs = zip(left.operators(), right.operators(), density.unbind(1), strict=True)
    return torch.stack([torch.einsum("bhpi,bhp,bhpj->hij", Z, w, other) for Z, other, w in pairs]).sum(0)


def _peak(recurrence: Recurrence, weight: Tensor, reach: Tensor) -> Tensor:
    """Largest eigenvalue of $G^{-1/2} Z^T Z G^{-1/2}$ over the tokens that count, of each group."""
    values, vectors = torch.linalg.eigh(reach)
    seen = values > values[:, -1:] * 1e-12
    whitening = vectors * torch.where(seen, values, torch.inf).rsqrt().unsqueeze(-2)
    highest = reach.new_zeros(len(reach))
    for t, Z in enumerate(recurrence.operators()):
        white = recurrence.gain[:, t].unsqueeze(-1) * Z @ whitening
        if len(reach) == 1:
            white = white.flatten(1, 2).unsqueeze(1)
        norms = torch.linalg.matrix_norm(white, ord=2).square() * (weight[:, t] > 0).unsqueeze(-1)
        highest = torch.maximum(highest, norms.amax(0))
    return highest


def weights_of(weight: Tensor | None, u: Tensor) -> Tensor:
    """Weights (B, T) with the sum 1."""
    batch, steps = u.shape[:2]
    if weight is None:
        return torch.full((batch, steps), 1.0 / (batch * steps), dtype=torch.float64, device=u.device)
    given = torch.as_tensor(weight).to(u.device, torch.float64)
    if given.shape not in ((steps,), (batch, steps)) or bool((given < 0).any()) or not given.sum() > 0:
        raise ShapeError(
            f"weight: shape {tuple(given.shape)} came for tokens (B, T) = ({batch}, {steps}); (T,) or (B, T) "
            "is needed, of numbers that are not negative and not all zero."
        )
    given = given.expand(batch, steps)
    return given / given.sum()


def factor(gramian: Tensor) -> Tensor:
    """`L` with $L L^T$ the gramian."""
    values, vectors = torch.linalg.eigh(gramian)
    return vectors * values.clamp_min(0.0).sqrt().unsqueeze(-2)
