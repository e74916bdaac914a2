"""What the bridges share: loading a library, plain models, polynomials."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError
from realization.systems import InnovationsModel, StateSpace

__all__ = ["fractions_of", "library", "plain", "realize"]

Array = NDArray[np.float64]


def library(module: str, package: str) -> Any:
    """Import a module, or say which extra brings its package."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(
            f"this needs {package}, which is not here: pip install 'realization[interop]'"
        ) from None


def plain(model: StateSpace, caller: str) -> StateSpace:
    """The model, unless it has a noise part that the other library has no place for."""
    if isinstance(model, InnovationsModel):
        raise DataError(
            f"{caller}: an InnovationsModel came; K, Re and the operating point have no place there. Give "
            "one of its paths: model.deterministic, model.noise or model.predictor."
        )
    if not isinstance(model, StateSpace):
        raise DataError(f"{caller}: a {type(model).__name__} came; a StateSpace is needed.")
    return model


def fractions_of(model: StateSpace) -> tuple[Array, Array]:
    """Numerators, shape (p, m, n + 1), and their common denominator, (n + 1,), highest power first.

    The numerator is the part without negative powers of the denominator times the Markov parameters' series;
    so a Markov parameter that is zero leaves a coefficient that is.
    """
    n = model.n_states
    denominator = np.poly(model.A).real.astype(float) if n else np.ones(1)
    h, reached = [model.D], model.B
    for _ in range(n):
        h.append(model.C @ reached)
        reached = model.A @ reached
    numerators = np.array([sum(denominator[j] * h[k - j] for j in range(k + 1)) for k in range(n + 1)])
    return np.moveaxis(numerators, 0, -1), denominator


def realize(
    numerators: Sequence[Sequence[Any]],
    denominators: Sequence[Sequence[Any]],
    dt: float | None,
    caller: str,
) -> StateSpace:
    """One companion block for each entry of a matrix of fractions; `rz.minimal` merges what they share."""
    rows, cols = len(numerators), len(numerators[0])
    blocks = []
    D = np.zeros((rows, cols))
    for i in range(rows):
        for j in range(cols):
            top, bottom = _polynomial(numerators[i][j], caller), _polynomial(denominators[i][j], caller)
            if not bottom.any() or len(top) > len(bottom):
                raise DataError(
                    f"{caller}: entry ({i}, {j}) has a numerator of degree {len(top) - 1} over one of degree "
                    f"{len(bottom) - 1}; an improper transfer function has no state-space model."
                )
            padded = np.concatenate([np.zeros(len(bottom) - len(top)), top]) / bottom[0]
            bottom = bottom / bottom[0]
            D[i, j] = padded[0]
            A = np.eye(len(bottom) - 1, k=1)
            A[-1:] = -bottom[:0:-1]
            B, C = np.zeros((len(A), cols)), np.zeros((rows, len(A)))
            B[-1:, j] = 1.0
            C[i] = (padded[1:] - padded[0] * bottom[1:])[::-1]
            blocks.append((A, B, C))
    A = np.zeros((0, 0))
    for block, *_ in blocks:
        A = np.block([[A, np.zeros((len(A), len(block)))], [np.zeros((len(block), len(A))), block]])
    return StateSpace(A, np.vstack([B for _, B, _ in blocks]), np.hstack([C for *_, C in blocks]), D, dt)


def _polynomial(coefficients: ArrayLike, caller: str) -> Array:
    """Coefficients, highest power first, without zeros in front."""
    values: Any = np.atleast_1d(np.asarray(coefficients))
    # A pair of poles or zeros that are conjugate to rounding leaves a rounding error here, and no more.
    if np.iscomplexobj(values) and np.abs(values.imag).max() > 1e-10 * np.abs(values).max():
        raise DataError(f"{caller}: a polynomial has complex coefficients; the systems here are real.")
    values = np.trim_zeros(values.real.astype(float), "f")
    return values if len(values) else np.zeros(1)
