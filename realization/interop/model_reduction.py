"""pyMOR: its LTIModel."""

from __future__ import annotations

from typing import Any

import numpy as np

from realization.errors import DataError, RankError
from realization.interop.common import library, plain
from realization.systems import StateSpace

__all__ = ["from_pymor", "to_pymor"]


def to_pymor(model: StateSpace, dt: float | None = None) -> Any:
    """A model as pyMOR's LTIModel.

    Parameters
    ----------
    model : StateSpace
        Of an innovations model, name a path: `.deterministic`, `.noise` or `.predictor`.
    dt : float, optional
        Seconds between samples for a model whose step is `None`: pyMOR knows no unnamed step.

    Returns
    -------
    pymor.models.iosys.LTIModel
        With `sampling_time` 0 in continuous time, else the step.

    Raises
    ------
    DataError
        If an innovations model came, or the step is unnamed and `dt` not given, or given and not the model's.

    References
    ----------
    R. Milk, S. Rave, F. Schindler, *pyMOR: generic algorithms and interfaces for model order reduction*, SIAM
    Journal on Scientific Computing 38 (2016) S194-S216.

    Examples
    --------
    >>> import realization as rz
    >>> rz.interop.to_pymor(rz.StateSpace([[-1.0]], [[1.0]], [[2.0]], dt=0.0)).order
    1
    """
    iosys = library("pymor.models.iosys", "pyMOR")
    model = plain(model, "to_pymor")
    if model.dt is None and dt is None:
        raise DataError(
            "to_pymor: the model's step is unnamed; pyMOR needs seconds: to_pymor(model, dt=...)."
        )
    if model.dt is not None and dt is not None and dt != model.dt:
        raise DataError(f"to_pymor: dt={dt} came, and the model's own step is {model.dt}; leave dt out.")
    if dt is not None and not (np.isfinite(dt) and dt > 0) and model.dt != 0:
        raise DataError(f"to_pymor: dt={dt} came; seconds between samples must be positive.")
    step = dt if model.dt is None else model.dt
    D = model.D if model.D.any() else None
    # A copy: pyMOR's arrays may be written to, a model's may not.
    A, B, C = (np.array(matrix) for matrix in (model.A, model.B, model.C))
    return iosys.LTIModel.from_matrices(A, B, C, D=None if D is None else np.array(D), sampling_time=step)


def from_pymor(model: Any) -> StateSpace:
    r"""A model from pyMOR's LTIModel.

    $$E \dot x = A x + B u \quad\longrightarrow\quad \dot x = E^{-1} A x + E^{-1} B u$$

    Parameters
    ----------
    model : pymor.models.iosys.LTIModel
        Sparse matrices become dense.

    Returns
    -------
    StateSpace

    Raises
    ------
    DataError
        If the model is of another kind, or has parameters without values.
    RankError
        If `E` is singular to half the digits: a descriptor system has algebraic equations, which a
        state-space model cannot hold.

    References
    ----------
    R. Milk, S. Rave, F. Schindler, *pyMOR: generic algorithms and interfaces for model order reduction*, SIAM
    Journal on Scientific Computing 38 (2016) S194-S216.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> from pymor.models.iosys import LTIModel
    >>> twice = LTIModel.from_matrices(-np.eye(1), np.eye(1), np.eye(1), E=2 * np.eye(1))
    >>> rz.interop.from_pymor(twice).A
    array([[-0.5]])
    """
    iosys = library("pymor.models.iosys", "pyMOR")
    if not isinstance(model, iosys.LTIModel):
        raise DataError(f"from_pymor: a {type(model).__name__} came; an LTIModel is needed (its .to_lti()).")
    if model.parameters:
        raise DataError(
            f"from_pymor: the model has the parameters {model.parameters}; fix their values first."
        )
    A, B, C, D, E = map(_dense, model.to_matrices())
    if E is not None:
        condition = np.linalg.cond(E)
        if not condition < 1 / np.sqrt(np.finfo(float).eps):
            raise RankError(
                f"from_pymor: E has the condition number {condition:.2g}; a descriptor system has no "
                "state-space model in these states. Take its algebraic equations off first."
            )
        A, B = np.linalg.solve(E, A), np.linalg.solve(E, B)
    return StateSpace(A, B, C, D, float(model.sampling_time))


def _dense(matrix: Any) -> Any:
    """An array, or `None` for a matrix that is not there (`D` and `E` may be so)."""
    if matrix is None:
        return None
    return matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
