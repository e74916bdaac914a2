"""Faults of a sensor, put into a record that has none."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from realization.arguments import check_whole
from realization.errors import DataError
from realization.signals.data import IOData, as_data, replace_values

__all__ = ["Fault", "sensor_fault"]

Fault = Literal["bias", "drift", "gain", "frozen"]


def sensor_fault(
    data: IOData | ArrayLike, kind: Fault, *, at: int, size: float | None = None, output: int = 0
) -> IOData:
    r"""A record as a sensor would have measured it that fails at sample `at` and stays so.

    $$\text{bias: } y_t + b, \quad \text{drift: } y_t + b\,(t - t_0 + 1), \quad
    \text{gain: } \bar y + (1 + b)(y_t - \bar y), \quad \text{frozen: } y_{t_0 - 1}$$

    for $t \ge t_0$, with $\bar y$ the mean before the fault. Only the reading changes: that is what happens
    where nothing acts on it (open loop).

    Parameters
    ----------
    data : IOData or array_like, shape (T, p)
    kind : {"bias", "drift", "gain", "frozen"}
    at : int
        First sample that is wrong, from 1 to `T - 1`.
    size : float, optional
        `b`: in units of the output for a bias, per sample for a drift, a share for a gain; a frozen sensor
        takes none.
    output : int
        Which sensor.

    Returns
    -------
    IOData

    Raises
    ------
    DataError
        If the kind, the sample or the output is not there, or a size is missing or not used.

    References
    ----------
    R. Isermann, *Fault-Diagnosis Systems*, Springer 2006, chapter 4 (faults of sensors).

    Examples
    --------
    >>> import realization as rz
    >>> rz.sensor_fault([0.0, 1.0, 0.0, 1.0], "bias", at=2, size=5.0).y[:, 0]
    array([0., 1., 5., 6.])
    >>> rz.sensor_fault([0.0, 1.0, 0.0, 1.0], "frozen", at=2).y[:, 0]
    array([0., 1., 1., 1.])
    """
    record = as_data(data)
    if kind not in get_args(Fault):
        raise DataError(f"sensor_fault: kind={kind!r} came; one of {', '.join(get_args(Fault))} is needed.")
    check_whole("sensor_fault", at=(at, 1), output=(output, 0))
    if not 1 <= at < record.length or not 0 <= output < record.n_outputs:
        raise DataError(
            f"sensor_fault: at={at}, output={output} came; the record has samples 1 to {record.length - 1} "
            f"after the first, and outputs 0 to {record.n_outputs - 1}."
        )
    if (size is None) != (kind == "frozen"):
        raise DataError(f"sensor_fault: size={size} came with kind={kind!r}; all but frozen take one.")
    y = np.array(record.y)
    before, after, b = y[:at, output].copy(), y[at:, output], 0.0 if size is None else size
    if kind == "bias":
        after += b
    elif kind == "drift":
        after += b * np.arange(1, len(after) + 1)
    elif kind == "gain":
        after += b * (after - before.mean())
    else:
        after[:] = before[-1]
    return replace_values(record, y, record.u)
