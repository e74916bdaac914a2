"""From a sequence to a state space: Hankel matrices and the realizations that factor them."""

from realization.realize.era import era
from realization.realize.factor import HankelRealization
from realization.realize.hankel import hankel
from realization.realize.ho_kalman import ho_kalman
from realization.realize.loewner import LoewnerRealization, loewner
from realization.realize.markov import covariances, markov_parameters
from realization.realize.okid import OkidResult, okid
from realization.realize.positive_real import PositiveRealTest, positive_real_test
from realization.realize.spectral import (
    StochasticBalancing,
    canonical_correlations,
    mutual_information,
    spectral_factor,
    stochastically_balanced,
)
from realization.realize.stochastic import StochasticRealization, stochastic_realization

__all__ = [
    "HankelRealization",
    "LoewnerRealization",
    "OkidResult",
    "PositiveRealTest",
    "StochasticBalancing",
    "StochasticRealization",
    "canonical_correlations",
    "covariances",
    "era",
    "hankel",
    "ho_kalman",
    "loewner",
    "markov_parameters",
    "mutual_information",
    "okid",
    "positive_real_test",
    "spectral_factor",
    "stochastic_realization",
    "stochastically_balanced",
]
