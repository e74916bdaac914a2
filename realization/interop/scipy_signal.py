"""SciPy: the lti and dlti systems of `scipy.signal`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from realization.errors import DataError, ShapeError
from realization.interop.common import fractions_of, library, plain, realize
from realization.systems import StateSpace, zeros

__all__ = ["from_scipy", "to_scipy"]


def to_scipy(model: StateSpace, kind: Literal["ss", "tf", "zpk"] = "ss") -> Any:
    """A model as a system of `scipy.signal`.

    Parameters
    ----------
    model : StateSpace
        Of an innovations model, name a path: `.deterministic`, `.noise` or `.predictor`.
    kind : {"ss", "tf", "zpk"}
        State space (the same matrices, bit by bit), transfer function (one input), or zeros, poles and gain
        (one input, one output; hidden modes cancel only up to rounding).

    Returns
    -------
    scipy.signal.StateSpace, TransferFunction or ZerosPolesGain
        An `lti` in continuous time, a `dlti` otherwise, with `dt=True` where the model's step is `None`.

    Raises
    ------
    ShapeError
        If the kind holds fewer inputs or outputs than the model has.
    DataError
        If an innovations model came, or `kind` is another one.

    References
    ----------
    P. Virtanen et al., *SciPy 1.0: fundamental algorithms for scientific computing in Python*, Nature Methods
    17 (2020) 261-272.

    Examples
    --------
    >>> import realization as rz
    >>> system = rz.interop.to_scipy(rz.StateSpace([[0.5]], [[1.0]], [[2.0]]), "tf")
    >>> system.num, system.den, system.dt
    (array([2.]), array([ 1. , -0.5]), True)
    """
    signal = library("scipy.signal", "SciPy")
    model = plain(model, "to_scipy")
    time = {} if model.dt == 0 else {"dt": True if model.dt is None else model.dt}
    if kind == "ss":
        return signal.StateSpace(model.A, model.B, model.C, model.D, **time)
    if kind not in ("tf", "zpk"):
        raise DataError(f"to_scipy: kind={kind!r} came; it must be 'ss', 'tf' or 'zpk'.")
    if model.n_inputs != 1 or (kind == "zpk" and model.n_outputs != 1):
        raise ShapeError(
            f"to_scipy: kind={kind!r} holds one input{' and one output' if kind == 'zpk' else ''}; the model "
            f"has {model.n_inputs} and {model.n_outputs}. Take kind='ss', or a part of the model."
        )
    numerators, denominator = fractions_of(model)
    if kind == "tf":
        top = np.trim_zeros(numerators[:, 0], "f", axis=1)
        top = top if top.size else np.zeros((model.n_outputs, 1))
        return signal.TransferFunction(top if model.n_outputs > 1 else top[0], denominator, **time)
    leading = np.trim_zeros(numerators[0, 0], "f")
    return signal.ZerosPolesGain(zeros(model), model.poles, leading[0] if leading.size else 0.0, **time)


def from_scipy(system: Any) -> StateSpace:
    """A model from a system of `scipy.signal`.

    Parameters
    ----------
    system : StateSpace, TransferFunction or ZerosPolesGain of scipy.signal
        Of the latter two the companion form is taken, one block for each output.

    Returns
    -------
    StateSpace

    Raises
    ------
    DataError
        If the system is of another kind, improper, or has poles or zeros without their conjugates.

    References
    ----------
    P. Virtanen et al., *SciPy 1.0: fundamental algorithms for scientific computing in Python*, Nature Methods
    17 (2020) 261-272.

    Examples
    --------
    >>> import scipy.signal, realization as rz
    >>> rz.interop.from_scipy(scipy.signal.ZerosPolesGain([], [-1.0, -2.0], 3.0))
    StateSpace(order 2, 1 in, 1 out, continuous time, stable)
    """
    signal = library("scipy.signal", "SciPy")
    if not isinstance(system, signal.lti | signal.dlti):
        raise DataError(f"from_scipy: a {type(system).__name__} came; a system of scipy.signal is needed.")
    dt = 0.0 if isinstance(system, signal.lti) else None if system.dt is True else float(system.dt)
    if isinstance(system, signal.StateSpace):
        return StateSpace(system.A, system.B, system.C, system.D, dt)
    if isinstance(system, signal.ZerosPolesGain):
        top, bottom = system.gain * np.atleast_1d(np.poly(system.zeros)), np.atleast_1d(np.poly(system.poles))
        return realize([[top]], [[bottom]], dt, "from_scipy")
    rows = np.atleast_2d(system.num)
    return realize([[row] for row in rows], [[system.den]] * len(rows), dt, "from_scipy")
