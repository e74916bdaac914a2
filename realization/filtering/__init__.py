"""Riccati equation, Kalman filter, innovations, which of them are kept, and what they remember."""

from realization.filtering.calibration import Calibration, chi_squared_calibration
from realization.filtering.detection import ChangeDetection, ChangeTest, FalseAlarms, detect_changes
from realization.filtering.innovations import Innovations, WhitenessTest, innovations, whiteness_test
from realization.filtering.kalman import KalmanResult, kalman_filter, stationary_covariance
from realization.filtering.likelihood import LikelihoodGradient, LogLikelihood, log_likelihood
from realization.filtering.reconstruction import (
    Reconstruction,
    ReconstructionCurve,
    reconstruct,
    reconstruction_curve,
)
from realization.filtering.riccati import DareSolution, dare, innovations_form
from realization.filtering.selection import Selection, select_innovations
from realization.filtering.smoother import SmootherResult, kalman_smoother

__all__ = [
    "Calibration",
    "ChangeDetection",
    "ChangeTest",
    "DareSolution",
    "FalseAlarms",
    "Innovations",
    "KalmanResult",
    "LikelihoodGradient",
    "LogLikelihood",
    "Reconstruction",
    "ReconstructionCurve",
    "Selection",
    "SmootherResult",
    "WhitenessTest",
    "chi_squared_calibration",
    "dare",
    "detect_changes",
    "innovations",
    "innovations_form",
    "kalman_filter",
    "kalman_smoother",
    "log_likelihood",
    "reconstruct",
    "reconstruction_curve",
    "select_innovations",
    "stationary_covariance",
    "whiteness_test",
]
