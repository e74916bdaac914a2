"""Models: state-space and innovations form, and their storage."""

from realization.systems.bounded_real import bounded_real_truncation, positive_real_truncation
from realization.systems.canonical import CanonicalForm, canonical_form
from realization.systems.decomposition import KalmanDecomposition, kalman_decomposition, minimal
from realization.systems.frequency_limited import FrequencyLimitedTruncation, frequency_limited_truncation
from realization.systems.gramians import (
    GramianFactors,
    controllability_gramian,
    gramian_factors,
    hankel_singular_values,
    observability_gramian,
)
from realization.systems.invariants import Invariants, invariants
from realization.systems.limited_gramians import Gramians, frequency_limited_gramians, time_limited_gramians
from realization.systems.lqg_balancing import lqg_balanced_truncation
from realization.systems.models import InnovationsModel, StateSpace
from realization.systems.norms import HinfNorm, h2_norm, hankel_norm, hinf_norm
from realization.systems.reachability import (
    controllability_indices,
    controllability_matrix,
    observability_indices,
    observability_matrix,
)
from realization.systems.reduction import (
    BalancedTruncation,
    balanced_truncation,
    singular_perturbation,
)
from realization.systems.relative_error import StochasticTruncation, balanced_stochastic_truncation
from realization.systems.riccati_truncation import RiccatiTruncation
from realization.systems.similarity import Similarity, are_similar, similarity
from realization.systems.split import StableAntistable, stable_antistable_split
from realization.systems.storage import load_model, save_model
from realization.systems.zeros import zeros

__all__ = [
    "BalancedTruncation",
    "CanonicalForm",
    "FrequencyLimitedTruncation",
    "GramianFactors",
    "Gramians",
    "HinfNorm",
    "InnovationsModel",
    "Invariants",
    "KalmanDecomposition",
    "RiccatiTruncation",
    "Similarity",
    "StableAntistable",
    "StateSpace",
    "StochasticTruncation",
    "are_similar",
    "balanced_stochastic_truncation",
    "balanced_truncation",
    "bounded_real_truncation",
    "canonical_form",
    "controllability_gramian",
    "controllability_indices",
    "controllability_matrix",
    "frequency_limited_gramians",
    "frequency_limited_truncation",
    "gramian_factors",
    "h2_norm",
    "hankel_norm",
    "hankel_singular_values",
    "hinf_norm",
    "invariants",
    "kalman_decomposition",
    "load_model",
    "lqg_balanced_truncation",
    "minimal",
    "observability_gramian",
    "observability_indices",
    "observability_matrix",
    "positive_real_truncation",
    "save_model",
    "similarity",
    "singular_perturbation",
    "stable_antistable_split",
    "time_limited_gramians",
    "zeros",
]
