"""From a sequence to a state space: Hankel matrices and the realizations that factor them."""

from realization.realize.era import era
from realization.realize.era_dc import era_dc
from realization.realize.exact import ExactRealization, exact_realization
from realization.realize.factor import HankelRealization
from realization.realize.faurre import FaurreSet, backward_innovations_model, faurre_set
from realization.realize.hankel import hankel
from realization.realize.hankel_operator import HankelOperator
from realization.realize.hankel_svd import HankelSvd, hankel_svd
from realization.realize.ho_kalman import ho_kalman
from realization.realize.loewner import LoewnerRealization, loewner
from realization.realize.markov import covariances, markov_parameters
from realization.realize.okid import OkidResult, okid
from realization.realize.order import OrderEstimate, estimate_order
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
    "ExactRealization",
    "FaurreSet",
    "HankelOperator",
    "HankelRealization",
    "HankelSvd",
    "LoewnerRealization",
    "OkidResult",
    "OrderEstimate",
    "PositiveRealTest",
    "StochasticBalancing",
    "StochasticRealization",
    "backward_innovations_model",
    "canonical_correlations",
    "covariances",
    "era",
    "era_dc",
    "estimate_order",
    "exact_realization",
    "faurre_set",
    "hankel",
    "hankel_svd",
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
