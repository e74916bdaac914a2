"""Models: state-space and innovations form, and their storage."""

from realization.systems.canonical import CanonicalForm, canonical_form
from realization.systems.decomposition import KalmanDecomposition, kalman_decomposition, minimal
from realization.systems.gramians import (
    GramianFactors,
    controllability_gramian,
    gramian_factors,
    hankel_singular_values,
    observability_gramian,
)
from realization.systems.models import InnovationsModel, StateSpace
from realization.systems.norms import HinfNorm, h2_norm, hankel_norm, hinf_norm
from realization.systems.reachability import (
    controllability_indices,
    controllability_matrix,
    observability_indices,
    observability_matrix,
)
from realization.systems.reduction import BalancedTruncation, balanced_truncation
from realization.systems.similarity import Similarity, are_similar, similarity
from realization.systems.split import StableAntistable, stable_antistable_split
from realization.systems.storage import load_model, save_model
from realization.systems.zeros import zeros

__all__ = [
    "BalancedTruncation",
    "CanonicalForm",
    "GramianFactors",
    "HinfNorm",
    "InnovationsModel",
    "KalmanDecomposition",
    "Similarity",
    "StableAntistable",
    "StateSpace",
    "are_similar",
    "balanced_truncation",
    "canonical_form",
    "controllability_gramian",
    "controllability_indices",
    "controllability_matrix",
    "gramian_factors",
    "h2_norm",
    "hankel_norm",
    "hankel_singular_values",
    "hinf_norm",
    "kalman_decomposition",
    "load_model",
    "minimal",
    "observability_gramian",
    "observability_indices",
    "observability_matrix",
    "save_model",
    "similarity",
    "stable_antistable_split",
    "zeros",
]
