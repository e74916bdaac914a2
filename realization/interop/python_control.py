"""python-control: its StateSpace and TransferFunction."""

from __future__ import annotations

from typing import Any, Literal

from realization.errors import DataError
from realization.interop.common import fractions_of, library, plain, realize
from realization.systems import StateSpace

__all__ = ["from_control", "to_control"]


def to_control(model: StateSpace, kind: Literal["ss", "tf"] = "ss") -> Any:
    """A model as python-control's own.

    Parameters
    ----------
    model : StateSpace
        Of an innovations model, name a path: `.deterministic`, `.noise` or `.predictor`.
    kind : {"ss", "tf"}
        State space (the same matrices, bit by bit) or transfer function.

    Returns
    -------
    control.StateSpace or control.TransferFunction
        With `dt=True`, its word for an unnamed step, where the model's is `None`.

    Raises
    ------
    DataError
        If an innovations model came, or `kind` is another one.
    ImportError
        If python-control is not installed.

    References
    ----------
    S. Fuller et al., *The Python Control Systems Library (python-control)*, IEEE Conference on Decision and
    Control 2021.

    Examples
    --------
    >>> import realization as rz
    >>> system = rz.interop.to_control(rz.StateSpace([[0.5]], [[1.0]], [[2.0]], dt=0.1))
    >>> system.poles().real, system.dt
    (array([0.5]), 0.1)
    """
    control = library("control", "python-control")
    model = plain(model, "to_control")
    dt = True if model.dt is None else model.dt
    if kind == "ss":
        # `remove_useless_states` would change the model without being asked.
        return control.StateSpace(model.A, model.B, model.C, model.D, dt, remove_useless_states=False)
    if kind == "tf":
        numerators, denominator = fractions_of(model)
        return control.tf(
            [[list(top) for top in row] for row in numerators],
            [[list(denominator)] * model.n_inputs] * model.n_outputs,
            dt,
        )
    raise DataError(f"to_control: kind={kind!r} came; it must be 'ss' or 'tf'.")


def from_control(system: Any) -> StateSpace:
    """A model from python-control's StateSpace or TransferFunction.

    Parameters
    ----------
    system : control.StateSpace or control.TransferFunction
        A transfer function becomes one companion block per entry: `rz.minimal` merges what they share. Names
        of signals are not kept, since models here have none.

    Returns
    -------
    StateSpace

    Raises
    ------
    DataError
        If the system is of another kind, says of time neither discrete nor continuous (`dt=None` there), or
        is improper.

    References
    ----------
    S. Fuller et al., *The Python Control Systems Library (python-control)*, IEEE Conference on Decision and
    Control 2021.

    Examples
    --------
    >>> import control, realization as rz
    >>> model = rz.interop.from_control(control.tf([1.0], [1.0, -0.5], True))
    >>> model.A, model.dt is None
    (array([[0.5]]), True)
    """
    control = library("control", "python-control")
    if not isinstance(system, control.StateSpace | control.TransferFunction):
        raise DataError(
            f"from_control: a {type(system).__name__} came; a StateSpace or TransferFunction is needed."
        )
    if system.dt is None:
        raise DataError(
            "from_control: the system's dt is None, which there means either time; set it to 0 (continuous), "
            "True (discrete, unnamed step) or the step in seconds."
        )
    dt = None if system.dt is True else float(system.dt)
    if isinstance(system, control.StateSpace):
        return StateSpace(system.A, system.B, system.C, system.D, dt)
    return realize(system.num_list, system.den_list, dt, "from_control")
