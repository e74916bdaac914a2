"""Long autoregressions with inputs that a kernel prior keeps in hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from realization.errors import ExcitationError
from realization.identification.arx import lagged_regressors, later_rows, observer_form
from realization.identification.evidence import Group, Kernel, posterior
from realization.identification.factorization import Scaling, without_gaps
from realization.identification.realization import Realization

__all__ = ["fit_regularized_varx"]

Array = NDArray[np.float64]


def fit_regularized_varx(
    scaled: Scaling,
    lags: int,
    *,
    delay: int,
    walk: bool = False,
    kind: Kernel = "TC",
    iterations: int = 80,
) -> Realization:
    r"""Long autoregression with inputs whose taps die away, how fast being read from the record.

    Each output is regressed on `lags` samples of every output and input; the taps of each channel are
    Gaussian with a scale of their own and kernel decays shared by the outputs and by the inputs,

    $$\hat y_k = \sum_j \sum_{s=1}^{L} a_{kj}(s)\, y_j(t-s) + \sum_i \sum_s b_{ki}(s)\, u_i(t-s), \qquad
    a_{kj} \sim N(0, \lambda_{kj} K_{\beta_y}), \quad b_{ki} \sim N(0, \lambda_{ki} K_{\beta_u}).$$

    `walk` puts the mean of the output's own first tap at one: without evidence, an output stays where it is.

    References
    ----------
    G. Pillonetto, A. Chiuso, G. De Nicolao, Prediction error identification of linear systems: a
    nonparametric Gaussian regression approach, Automatica 47 (2011) 291-305.
    R. B. Litterman, Forecasting with Bayesian vector autoregressions, J. Business & Economic Statistics 4
    (1986) 25-38.
    """
    scaled = without_gaps(scaled)
    m, p = scaled.u.shape[1], scaled.y.shape[1]
    taps = lags + 1 - delay
    target = later_rows(scaled, scaled.y, lags)
    if len(target) < 4:
        raise ExcitationError(f"{len(scaled.y)} samples are too few for {lags} lags.")
    regressors = lagged_regressors(scaled, lags, taps if m else 0, delay, lags)
    level = regressors.mean(axis=0), target.mean(axis=0)
    # Lag-major as the autoregression wants it; channel by channel as the prior does.
    order = np.concatenate(
        [np.arange(j, lags * p, p) for j in range(p)]
        + [lags * p + np.arange(i, taps * m, m) for i in range(m)]
    )
    moving, aim = (regressors - level[0])[:, order], target - level[1]
    groups = (Group(lags, 0),) * p + (Group(taps, 1),) * m
    theta = np.zeros((p, len(order)))
    for k in range(p):
        own = moving[:, k * lags] if walk else 0.0
        theta[k, order] = posterior(moving, aim[:, k] - own, groups, kind, iterations=iterations).mean
        theta[k, k] += 1.0 if walk else 0.0
    return observer_form(scaled, theta, lags, taps if m else 0, delay, level[1] - theta @ level[0])
