"""Riccati equation, Kalman filter, innovations, which of them are kept, and what they remember."""

from realization.filtering.innovations import Innovations, WhitenessTest, innovations, whiteness_test
from realization.filtering.kalman import KalmanResult, kalman_filter, stationary_covariance
from realization.filtering.reconstruction import (
    Reconstruction,
    ReconstructionCurve,
    reconstruct,
    reconstruction_curve,
)
from realization.filtering.riccati import DareSolution, dare, innovations_form
from realization.filtering.selection import Selection, select_innovations

__all__ = [
    "DareSolution",
    "Innovations",
    "KalmanResult",
    "Reconstruction",
    "ReconstructionCurve",
    "Selection",
    "WhitenessTest",
    "dare",
    "innovations",
    "innovations_form",
    "kalman_filter",
    "reconstruct",
    "reconstruction_curve",
    "select_innovations",
    "stationary_covariance",
    "whiteness_test",
]
