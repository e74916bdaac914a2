"""From a sequence to a state space: Hankel matrices and the realizations that factor them."""

from realization.realize.era import era
from realization.realize.factor import HankelRealization
from realization.realize.hankel import hankel
from realization.realize.ho_kalman import ho_kalman
from realization.realize.markov import markov_parameters

__all__ = ["HankelRealization", "era", "hankel", "ho_kalman", "markov_parameters"]
