"""Predictors: what the past says about the next token. What they miss is the innovation."""

from __future__ import annotations

from dataclasses import dataclass

import bmojo_kernels as bk
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.backends import backend_of, state_dtype

__all__ = ["ConvPredictor", "Evidence", "InnovationScore", "PredictorState", "attach", "previous"]

PredictorState = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a predictor may look at, all of it detached: it learns from its own error and from nothing else.

    Parameters
    ----------
    tokens : Tensor, shape (B, T, D)
    fading : Tensor, shape (B, T, D), or None
    innovations : Tensor, shape (B, T, H, V), or None
        Of a mixer that has them.
    """

    tokens: Tensor
    fading: Tensor | None = None
    innovations: Tensor | None = None


class InnovationScore(nn.Module):
    r"""Scores $s_t = \sum_i e_{t,i}^2 / r_i$ and the code length from which $r$ and a predictor learn.

    $$L = \tfrac12 \operatorname{mean}_{t,i}\big(e_{t,i}^2 / r_i + \log r_i\big)$$

    is the negative logarithm of a Gaussian likelihood: its minimum over $r_i = e^{\rho_i}$ is the variance of
    innovations. It is a parameter, not a running mean: a pass changes nothing and can be computed again.

    Parameters
    ----------
    channels : int

    Examples
    --------
    >>> import torch
    >>> from bmojo.eidetic.predictor import InnovationScore
    >>> scores, loss = InnovationScore(2)(torch.tensor([[[1.0, 2.0]]]))
    >>> scores.item(), loss.item()
    (5.0, 1.25)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(channels))

    def forward(self, error: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scores (B, T), without gradient, and the mean code length, for innovations (B, T, channels).

        A `weight` of the same shape says that the variance at a token is `r_i / weight`.
        """
        log_variance = self.log_variance.to(state_dtype(error.dtype))
        whitened = error * torch.exp(-0.5 * log_variance)
        if weight is not None:
            whitened = whitened * weight.sqrt()
        # A norm reads its input once and keeps nothing of that size for the gradient but the input.
        scores = torch.linalg.vector_norm(whitened, dim=-1).square()
        length = scores.mean() / len(log_variance) + log_variance.mean()
        if weight is not None:
            length = length - torch.log(weight).mean()
        return scores.detach(), 0.5 * length


class ConvPredictor(nn.Module):
    r"""Linear one-step prediction by a short causal convolution over earlier tokens.

    $$\hat u_{t|t-1} = b + \sum_{k=1}^{K} w_k \odot u_{t-k}, \qquad e_t = u_t - \hat u_{t|t-1}$$

    Parameters
    ----------
    d_model : int
    taps : int
        `K`.

    References
    ----------
    T. Kailath, A. Sayed, B. Hassibi, *Linear Estimation*, Prentice-Hall 2000, chapter 4 (innovations).

    Examples
    --------
    >>> import torch
    >>> from bmojo.eidetic.predictor import ConvPredictor, Evidence
    >>> predictor = ConvPredictor(d_model=3)
    >>> scores, loss, (tail,) = predictor(Evidence(torch.ones(2, 5, 3)))
    >>> scores.shape, tail.shape
    (torch.Size([2, 5]), torch.Size([2, 4, 3]))
    """

    def __init__(self, d_model: int, *, taps: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(d_model, taps))  # the last tap meets the token before
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.score = InnovationScore(d_model)

    def init_state(self, batch: int) -> PredictorState:
        """The tokens before the first, zero: shape (B, K, D)."""
        channels, taps = self.weight.shape
        return (self.weight.new_zeros(batch, taps, channels),)

    def errors(
        self, u: Tensor, state: PredictorState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, PredictorState]:
        """Innovations (B, T, D) of tokens `u` (B, T, D), and the last tokens."""
        # What is left of a token is a convolution too: one for itself, and the predictor's taps taken off.
        weight, bias = F.pad(-self.weight, (0, 1), value=1.0).to(u.dtype), -self.bias.to(u.dtype)
        past = None if state is None else state[0].to(u.dtype)
        if past is not None and u.shape[1] == 1:
            error, tail = bk.causal_conv1d_step(u[:, 0], weight, bias, state=past)
            return error.unsqueeze(1), (tail,)
        error, tail = bk.causal_conv1d(
            u, weight, bias, initial_state=past, cu_seqlens=cu_seqlens, backend=backend_of(u)
        )
        return error, (tail,)

    def forward(
        self, seen: Evidence, state: PredictorState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, PredictorState]:
        """Scores (B, T), the loss (a scalar of shape () that carries gradient), and the new state."""
        error, state = self.errors(seen.tokens, state, cu_seqlens=cu_seqlens)
        return *self.score(error), state


def previous(x: Tensor, tail: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    """What came a token earlier, (B, T, C), zero before the first; and the last one, (B, 1, C).

    Parameters
    ----------
    x : Tensor, shape (B, T, C)
    tail : Tensor, shape (B, 1, C), optional
    cu_seqlens : Tensor, shape (S + 1,), optional
    """
    if cu_seqlens is None:
        front = x.new_zeros(len(x), 1, x.shape[2]) if tail is None else tail.to(x.dtype)
        return torch.cat([front, x[:, :-1]], dim=1), x[:, -1:].clone()
    delay = x.new_tensor([1.0, 0.0]).expand(x.shape[2], 2)
    tail = None if tail is None else tail.to(x.dtype)
    return bk.causal_conv1d(x, delay, initial_state=tail, cu_seqlens=cu_seqlens, backend=backend_of(x))


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output: Tensor, loss: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.like = loss.dtype, loss.device
        return output.view_as(output)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        dtype, device = ctx.like
        return gradient, torch.ones((), dtype=dtype, device=device)


def attach(output: Tensor, loss: Tensor) -> Tensor:
    """The output, unchanged, that hands `loss` its gradient of one whenever a loss of its own comes back.

    So a predictor learns wherever the layer is trained: compiled, distributed, with activations computed
    anew, without a term that a training loop has to remember.

    Parameters
    ----------
    output : Tensor, shape (...)
    loss : Tensor, a scalar of shape ()

    Examples
    --------
    >>> import torch
    >>> from bmojo.eidetic.predictor import attach
    >>> x, p = torch.ones(2, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    >>> (5 * attach(x, p**2).sum()).backward()
    >>> x.grad.tolist(), p.grad.item()
    ([5.0, 5.0], 6.0)
    """
    return _Attached.apply(output, loss)  # pyright: ignore[reportReturnType]
