"""Hypothesis strategies: models and records of every small size, drawn as a size and a seed."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from realization.signals import IOData
from realization.systems import InnovationsModel, StateSpace

__all__ = [
    "innovations_models",
    "matrix_with_radius",
    "records",
    "seeds",
    "stable_gain",
    "stable_systems",
    "systems",
]

Array = NDArray[np.float64]
seeds = st.integers(0, 2**32 - 1)


def matrix_with_radius(rng: np.random.Generator, n: int, radius: float) -> Array:
    """A random matrix of spectral radius `radius`, well conditioned as a rotation of a random one can be."""
    A = rng.standard_normal((n, n))
    return A * (radius / np.abs(np.linalg.eigvals(A)).max()) if n else A


@st.composite
def systems(
    draw: st.DrawFn,
    *,
    states: tuple[int, int] = (0, 6),
    inputs: tuple[int, int] = (1, 3),
    outputs: tuple[int, int] = (1, 3),
    radius: tuple[float, float] = (0.2, 1.2),
    dt: float | None = None,
) -> StateSpace:
    """State-space models with spectral radius in a range that may pass 1."""
    n, m, p = (draw(st.integers(*bounds)) for bounds in (states, inputs, outputs))
    largest, rng = draw(st.floats(*radius)), np.random.default_rng(draw(seeds))
    A = matrix_with_radius(rng, n, largest)
    B, C, D = rng.standard_normal((n, m)), rng.standard_normal((p, n)), rng.standard_normal((p, m))
    return StateSpace(A, B, C, D, dt)


def stable_systems(
    *,
    states: tuple[int, int] = (0, 6),
    inputs: tuple[int, int] = (1, 3),
    outputs: tuple[int, int] = (1, 3),
    dt: float | None = None,
) -> st.SearchStrategy[StateSpace]:
    """State-space models with spectral radius between 0.2 and 0.95."""
    return systems(states=states, inputs=inputs, outputs=outputs, radius=(0.2, 0.95), dt=dt)


@st.composite
def innovations_models(
    draw: st.DrawFn,
    *,
    states: tuple[int, int] = (0, 5),
    inputs: tuple[int, int] = (0, 2),
    outputs: tuple[int, int] = (1, 3),
    radius: tuple[float, float] = (0.2, 0.95),
    dt: float | None = None,
) -> InnovationsModel:
    """Innovations models: `A` of a given spectral radius, `A - K C` stable, means away from zero."""
    n, m, p = (draw(st.integers(*bounds)) for bounds in (states, inputs, outputs))
    largest, rng = draw(st.floats(*radius)), np.random.default_rng(draw(seeds))
    A, B, C = matrix_with_radius(rng, n, largest), rng.standard_normal((n, m)), rng.standard_normal((p, n))
    root = np.tril(rng.standard_normal((p, p)))
    np.fill_diagonal(root, 0.5 + np.abs(np.diag(root)))
    return InnovationsModel(
        A,
        B,
        C,
        rng.standard_normal((p, m)),
        dt,
        K=stable_gain(A, C),
        Re=root @ root.T,
        u_mean=rng.standard_normal(m),
        y_mean=10 * rng.standard_normal(p),
    )


@st.composite
def records(
    draw: st.DrawFn, *, length: tuple[int, int] = (1, 40), inputs: int = 1, outputs: int = 1
) -> IOData:
    """Records of white noise."""
    rng, T = np.random.default_rng(draw(seeds)), draw(st.integers(*length))
    return IOData(rng.standard_normal((T, outputs)), rng.standard_normal((T, inputs)))


def stable_gain(A: Array, C: Array) -> Array:
    """Kalman gain of unit noises after 200 steps of the Riccati recursion, which settles for these sizes."""
    P = np.eye(len(A))
    for _ in range(200):
        K = A @ P @ C.T @ np.linalg.inv(C @ P @ C.T + np.eye(len(C)))
        P = A @ P @ A.T + np.eye(len(A)) - K @ C @ P @ A.T
        P = (P + P.T) / 2
    return A @ P @ C.T @ np.linalg.inv(C @ P @ C.T + np.eye(len(C)))
