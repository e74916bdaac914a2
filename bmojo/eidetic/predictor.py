"""Predictors: what the past says about the next token. What they miss is the innovation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bmojo.convolution import depthwise, latest

__all__ = ["PREDICTORS", "ConvPredictor"]


class ConvPredictor(nn.Module):
    r"""Linear one-step prediction by a short causal convolution over earlier tokens.

    $$\hat u_{t|t-1} = b + \sum_{k=1}^{K} w_k \odot u_{t-k}, \qquad e_t = u_t - \hat u_{t|t-1}, \qquad
    s_t = \sum_i e_{t,i}^2 / r_i$$

    with $r_i$ a running estimate of the innovation variance of channel `i`. Tokens come in detached: the
    predictor learns from its own squared error and from nothing else.

    Parameters
    ----------
    d_model : int
    taps : int
        `K`.
    momentum : float
        Of the running variance, per forward pass in training.

    References
    ----------
    T. Kailath, A. Sayed, B. Hassibi, *Linear Estimation*, Prentice-Hall 2000, chapter 4 (innovations).

    Examples
    --------
    >>> import torch
    >>> from bmojo.eidetic.predictor import ConvPredictor
    >>> predictor = ConvPredictor(d_model=3)
    >>> u = torch.ones(2, 5, 3)
    >>> score, loss, tail = predictor(u, predictor.init_tail(2))
    >>> score.shape, tail.shape
    (torch.Size([2, 5]), torch.Size([2, 4, 3]))
    """

    variance: Tensor

    def __init__(self, d_model: int, *, taps: int = 4, momentum: float = 0.05) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(taps, d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.momentum = momentum
        self.register_buffer("variance", torch.ones(d_model))

    def init_tail(self, batch: int) -> Tensor:
        """The tokens before the first, zero: shape (B, K, D)."""
        return self.weight.new_zeros(batch, *self.weight.shape)

    def predict(self, u: Tensor, tail: Tensor) -> Tensor:
        """Predictions (B, T, D) of `u` (B, T, D) from what came before each token."""
        return depthwise(torch.cat([tail, u], dim=1).detach(), self.weight, self.bias, u.shape[1])

    def forward(self, u: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (B, T), the mean squared innovation (a scalar that carries gradient), and the new tail."""
        error = u.detach() - self.predict(u, tail)
        squared = error.square()
        score = (squared.detach() / self.variance.clamp_min(1e-6)).sum(-1)
        if self.training and torch.is_grad_enabled():  # a look (`BMojo.trace`) teaches nothing
            with torch.no_grad():
                self.variance.lerp_(squared.mean(dim=(0, 1)), self.momentum)
        return score, squared.mean(), latest(torch.cat([tail, u.detach()], dim=1), tail.shape[1])


PREDICTORS = {"conv": ConvPredictor}
