"""Predictors that look at more than the last few tokens: the state, a regression that learns on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bmojo_kernels as bk
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bmojo.backends import backend_of, state_dtype
from bmojo.eidetic.predictor import ConvPredictor, Evidence, InnovationScore, PredictorState, previous

__all__ = ["PREDICTORS", "KalmanPredictor", "ResidualPredictor", "StatePredictor"]


class StatePredictor(nn.Module):
    r"""Prediction by what the mixer read out of its state a token ago.

    $$\hat u_{t|t-1} = b + W f_{t-1}$$

    A read-out of the state itself would need it at every token, where scans keep it at none; the fading token
    $f_{t-1}$ is linear in it, up to the mixer's gate and norm.

    Parameters
    ----------
    d_model : int

    Examples
    --------
    >>> import torch
    >>> from bmojo.eidetic.predictor import Evidence
    >>> from bmojo.eidetic.predictors import StatePredictor
    >>> u = torch.ones(2, 5, 3)
    >>> scores, loss, (last,) = StatePredictor(3)(Evidence(u, fading=u))
    >>> scores.shape, last.shape
    (torch.Size([2, 5]), torch.Size([2, 1, 3]))
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.readout = nn.Linear(d_model, d_model)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)
        self.score = InnovationScore(d_model)

    def init_state(self, batch: int) -> PredictorState:
        """The fading token before the first, zero: shape (B, 1, D)."""
        return (self.readout.weight.new_zeros(batch, 1, self.readout.in_features),)

    def forward(
        self, seen: Evidence, state: PredictorState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, PredictorState]:
        """Scores (B, T), the loss (a scalar of shape () that carries gradient), and the new state."""
        assert seen.fading is not None
        before, last = previous(seen.fading, None if state is None else state[0], cu_seqlens)
        return *self.score(seen.tokens - self.readout(before)), (last,)


class KalmanPredictor(nn.Module):
    r"""Prediction by recursive least squares that learn along the sequence itself.

    $$\hat u_{t|t-1} = \hat\Theta_{t-1} \varphi_t, \qquad \varphi_t = P u_{t-1} / \lVert P u_{t-1} \rVert,
    \qquad s_t = \sum_i \frac{(u_t - \hat u_{t|t-1})_i^2}{r_i\,(1 + \varphi_t^\top P_t \varphi_t)}$$

    for each of `heads` groups of channels, with a ridge and a memory of `memory` tokens
    (`bmojo_kernels.gated_kalman_scan`). A regressor that is new itself makes the prediction uncertain and the
    score small: news is what contradicts what was known.

    Parameters
    ----------
    d_model : int
    heads : int
        Groups of channels with regressors of their own; must divide `d_model`.
    regressors : int
        Width of $\varphi$.
    memory : float
        Tokens after which an observation counts $1/e$.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice Hall 1999, section 11.2 (recursive least squares).

    Examples
    --------
    >>> import torch
    >>> from bmojo.eidetic.predictor import Evidence
    >>> from bmojo.eidetic.predictors import KalmanPredictor
    >>> u = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(20, 1).unsqueeze(0)  # each foretells the other
    >>> scores, _, _ = KalmanPredictor(2)(Evidence(u))
    >>> bool(scores[0, -1] < 0.1 * scores[0, 0])
    True
    """

    def __init__(self, d_model: int, *, heads: int = 1, regressors: int = 16, memory: float = 256.0) -> None:
        super().__init__()
        self.heads, self.regressors, self.memory = heads, regressors, memory
        self.project = nn.Linear(d_model, heads * regressors, bias=False)
        self.score = InnovationScore(d_model)

    def init_state(self, batch: int) -> PredictorState:
        """The token before the first (B, 1, D), and the sums of the regression, all zero."""
        weight = self.project.weight
        width, kind = weight.shape[1], state_dtype(weight.dtype)
        return (
            weight.new_zeros(batch, 1, width),
            weight.new_zeros(batch, self.heads, self.regressors, self.regressors, dtype=kind),
            weight.new_zeros(batch, self.heads, width // self.heads, self.regressors, dtype=kind),
        )

    def forward(
        self, seen: Evidence, state: PredictorState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, PredictorState]:
        """Scores (B, T), the loss (a scalar of shape () that carries gradient), and the new state."""
        tail, *sums = (None,) if state is None else state
        u = seen.tokens.to(state_dtype(seen.tokens.dtype))
        before, last = previous(seen.tokens, tail, cu_seqlens)
        with torch.autocast(u.device.type, enabled=False):  # a regression on bfloat16 would see its rounding
            known = F.linear(before.to(u.dtype), self.project.weight.to(u.dtype))
            known = F.normalize(known.unflatten(-1, (self.heads, -1)), dim=-1, eps=1e-6)
            decay = u.new_full((*u.shape[:2], self.heads), -1 / self.memory)
            scan: Any = bk.gated_kalman_scan
            _, sums, left, weight = scan(
                known,
                known,
                u.unflatten(-1, (self.heads, -1)),
                decay,
                h0=tuple(sums) or None,
                innovations=True,
                cu_seqlens=cu_seqlens,
                backend=backend_of(u),
            )
            weight = weight.clamp_min(1e-4).unsqueeze(-1)
            error, weight = (left / weight).flatten(-2), weight.expand_as(left).flatten(-2)
            return *self.score(error, weight), (last, *sums)


class ResidualPredictor(nn.Module):
    r"""No predictor of its own: the innovation is what the mixer's state failed to predict.

    For a delta rule $e_t = \beta_t (v_t - S_{t-1} k_t)$, for the Kalman one weighted by
    $1 / (1 + k_t^\top P_t k_t)$; the state is taken as it has faded to `t`.

    Parameters
    ----------
    channels : int
        Of all heads together.

    Examples
    --------
    >>> import torch
    >>> from bmojo.eidetic.predictor import Evidence
    >>> from bmojo.eidetic.predictors import ResidualPredictor
    >>> seen = Evidence(torch.ones(1, 2, 4), innovations=torch.ones(1, 2, 2, 2))
    >>> ResidualPredictor(4)(seen)[0].tolist()
    [[4.0, 4.0]]
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.score = InnovationScore(channels)

    def init_state(self, batch: int) -> PredictorState:
        """Nothing: the state is the mixer's."""
        return ()

    def forward(
        self, seen: Evidence, state: PredictorState | None = None, *, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor, PredictorState]:
        """Scores (B, T), the loss (a scalar of shape () that carries gradient), and the new state."""
        assert seen.innovations is not None
        return *self.score(seen.innovations.flatten(2)), ()


def _kalman(config: Any) -> KalmanPredictor:
    heads = config.heads if config.d_model % config.heads == 0 else 1
    return KalmanPredictor(config.d_model, heads=heads)


# Of the layer's configuration.
PREDICTORS: dict[str, Callable[[Any], nn.Module]] = {
    "conv": lambda config: ConvPredictor(config.d_model),
    "state": lambda config: StatePredictor(config.d_model),
    "kalman": _kalman,
    "residual": lambda config: ResidualPredictor(config.d_model),
}
