"""The predictor of a model that is known: a Kalman filter with the identified gain, and its metric."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bmojo.backends import state_dtype
from bmojo.eidetic.predictor import Evidence, InnovationScore, PredictorState
from bmojo.fading.lti import LTI

__all__ = ["IdentifiedPredictor"]


class IdentifiedPredictor(nn.Module):
    r"""Prediction of the outputs by a steady Kalman filter; what counts is measured by its covariance.

    $$x_{t+1} = (A - K C) x_t + (B - K D) u_t + K y_t, \qquad e_t = y_t - C x_t - D u_t, \qquad
    s_t = e_t^\top R_e^{-1} e_t$$

    for tokens $[u_t, y_t]$. The covariance is held as $R_e = M^{-1} \operatorname{diag}(r) M^{-\top}$ with a
    unit lower triangular $M$, so that the code length of $M e$ under the variances `r` is that of `e` under
    $R_e$, and its gradient that of the likelihood: a layer in training goes on identifying.

    Parameters
    ----------
    core : LTI
        From $[u, y]$ to $\hat y_{t|t-1}$.
    Re : Tensor, shape (p, p)
        Positive definite.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice Hall 1999, section 7.4 (prediction error and
    likelihood).

    Examples
    --------
    >>> import torch
    >>> from bmojo.eidetic.identified import IdentifiedPredictor
    >>> from bmojo.eidetic.predictor import Evidence
    >>> from bmojo.fading import LTI
    >>> half, one, zero = torch.tensor([[0.5]]), torch.ones(1, 1), torch.zeros(1, 1)
    >>> core = LTI.from_schur(zero, half, one, zero)  # y[t+1|t] = y[t] / 2
    >>> scores, _, _ = IdentifiedPredictor(core, 4 * one)(Evidence(torch.tensor([[[2.0], [2.0], [1.0]]])))
    >>> scores.tolist()
    [[1.0, 0.25, 0.0]]
    """

    def __init__(self, core: LTI, Re: Tensor) -> None:
        super().__init__()
        factor = torch.linalg.cholesky(Re)
        deviation = factor.diagonal()
        whiten = torch.linalg.solve_triangular(
            factor / deviation, torch.eye(len(Re), dtype=Re.dtype), upper=False
        )
        self.core = core
        self.mixing = nn.Parameter(whiten.tril(-1))
        self.score = InnovationScore(len(Re))
        self.score.log_variance = nn.Parameter(2 * deviation.log())

    def Re(self) -> Tensor:
        """The covariance of innovations, shape (p, p)."""
        unmixed = torch.linalg.solve_triangular(
            self._mixing(), torch.diag(torch.exp(0.5 * self.score.log_variance)), upper=False
        )
        return unmixed @ unmixed.mT

    def init_state(self, batch: int) -> PredictorState:
        """The filter's state zero, shape (B, n)."""
        return self.core.init_state(batch)

    def errors(
        self, tokens: Tensor, state: PredictorState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, PredictorState]:
        """Innovations (B, T, p) of tokens (B, T, m + p), and the filter's state."""
        z = tokens.to(state_dtype(tokens.dtype))
        predicted, after = self.core(z, state, cu_seqlens=cu_seqlens)
        p = predicted.shape[-1]
        y = z[..., -p:]
        # An output must not foretell itself: its direct path is taken off, and so has no gradient.
        return y - (predicted - y @ self.core.D[:, -p:].to(y.dtype).mT), after

    def forward(
        self, seen: Evidence, state: PredictorState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, PredictorState]:
        """Scores (B, T), the loss (a scalar of shape () that carries gradient), and the new state."""
        error, state = self.errors(seen.tokens, state, cu_seqlens=cu_seqlens)
        with torch.autocast(error.device.type, enabled=False):
            mixed = error @ self._mixing().to(error.dtype).mT
        return *self.score(mixed), state

    def _mixing(self) -> Tensor:
        eye = torch.eye(len(self.mixing), dtype=self.mixing.dtype, device=self.mixing.device)
        return self.mixing.tril(-1) + eye
