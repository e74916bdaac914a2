"""pandas and xarray: records with a time index and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from realization.errors import DataError
from realization.interop.common import library
from realization.signals.data import IOData

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["from_frame", "from_xarray", "to_frame", "to_xarray"]

Array = NDArray[np.float64]

SECONDS: Mapping[str, float] = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0,
    "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0,
    "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip
"""Seconds in each unit of time that a coordinate may be given in."""

REGULAR = 1e-6
"""How far a sample may lie from its place on the grid, in steps: rounding of a printed time, not jitter."""


def to_frame(data: IOData, *, start: Any = None) -> pd.DataFrame:
    """A record as a pandas data frame: one row per sample, outputs first, then inputs.

    Parameters
    ----------
    data : IOData
    start : timestamp, optional
        Time of the first sample; the index is then a DatetimeIndex (to whole nanoseconds). When left out it
        is the time in seconds, or the number of the sample where `dt` is `None`.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    DataError
        If `start` came for a record without `dt`, or two columns have one name.

    References
    ----------
    W. McKinney, *Data structures for statistical computing in Python*, Python in Science Conference 2010.

    Examples
    --------
    >>> import realization as rz
    >>> frame = rz.interop.to_frame(rz.IOData([1.0, 2.0], [0.0, 1.0], dt=0.5))
    >>> list(frame.columns), frame.index.tolist(), frame.index.name
    (['y1', 'u1'], [0.0, 0.5], 'time, s')
    """
    pandas = library("pandas", "pandas")
    names = _distinct(data, "to_frame")
    if start is not None and data.dt is None:
        raise DataError(
            "to_frame: start came for a record whose step is unnamed; give the record a dt first."
        )
    if start is not None:
        steps = np.round(data.time * 1e9).astype("int64").astype("timedelta64[ns]")
        index = pandas.Timestamp(start) + pandas.to_timedelta(steps)
        index.name = "time"
    elif data.dt is None:
        index = pandas.RangeIndex(data.length, name="sample")
    else:
        index = pandas.Index(data.time, name="time, s")
    return pandas.DataFrame(np.hstack([data.y, data.inputs]), index=index, columns=names)


def from_frame(
    frame: pd.DataFrame,
    *,
    outputs: Sequence[str],
    inputs: Sequence[str] = (),
    dt: float | None = None,
) -> IOData:
    """A record from columns of a pandas data frame, with the step read from its index.

    `rz.IOData.from_frame` takes columns alone; here the index counts too.

    Parameters
    ----------
    frame : pandas.DataFrame
        A DatetimeIndex, a TimedeltaIndex or one of floats (seconds) gives `dt`; whole numbers and periods are
        an unnamed unit step. The time of the first sample is not kept: `to_frame(data, start=frame.index[0])`
        puts it back.
    outputs, inputs : sequences of str
        Names of columns.
    dt : float, optional
        Seconds between samples; then the index is not looked at.

    Returns
    -------
    IOData

    Raises
    ------
    DataError
        If a column is not there, a value is missing, or the index is not regular.

    References
    ----------
    W. McKinney, *Data structures for statistical computing in Python*, Python in Science Conference 2010.

    Examples
    --------
    >>> import pandas as pd, realization as rz
    >>> index = pd.date_range("2024-01-01", periods=3, freq="80ms")
    >>> frame = pd.DataFrame({"volts": [0.0, 1.0, 0.0], "degrees": [3.5, 3.6, 3.9]}, index=index)
    >>> rz.interop.from_frame(frame, outputs=["degrees"], inputs=["volts"])
    IOData(3 samples, 1 output, 1 input, dt=0.08 s)
    """
    pandas = library("pandas", "pandas")
    index = frame.index
    if dt is None:
        if isinstance(index, pandas.DatetimeIndex | pandas.TimedeltaIndex):
            if index.hasnans:
                raise DataError("from_frame: the index has missing times; drop those rows or fill them.")
            dt = _step((index - index[0]).total_seconds().to_numpy(), "from_frame")
        elif not isinstance(index, pandas.PeriodIndex) and index.dtype.kind == "f":
            dt = _step(index.to_numpy(dtype=float), "from_frame")
    return IOData.from_frame(frame, outputs=outputs, inputs=inputs, dt=dt)


def to_xarray(data: IOData, *, units: Mapping[str, str] | None = None) -> xr.Dataset:
    """A record as an xarray dataset: one variable per channel along `time`.

    Parameters
    ----------
    data : IOData
    units : mapping from names of channels to units, optional
        Kept as the attribute `units` of each variable.

    Returns
    -------
    xarray.Dataset
        Attribute `role` of each variable is "output" or "input"; the coordinate `time` is in seconds, or the
        number of the sample where `dt` is `None`.

    Raises
    ------
    DataError
        If two channels have one name, or a unit is given for none of them.

    References
    ----------
    S. Hoyer, J. Hamman, *xarray: N-D labeled arrays and datasets in Python*, Journal of Open Research
    Software 5 (2017) 10.

    Examples
    --------
    >>> import realization as rz
    >>> data = rz.IOData([1.0, 2.0], [0.0, 1.0], dt=0.5, output_names=["speed"], input_names=["force"])
    >>> dataset = rz.interop.to_xarray(data, units={"speed": "m/s"})
    >>> dict(dataset["speed"].attrs), dict(dataset.sizes)
    ({'role': 'output', 'units': 'm/s'}, {'time': 2})
    """
    xarray = library("xarray", "xarray")
    units = dict(units or {})
    unknown = set(units) - set(_distinct(data, "to_xarray"))
    if unknown:
        raise DataError(f"to_xarray: units came for {sorted(unknown)}, which no channel is called.")
    roles = [("output", data.output_names, data.y), ("input", data.input_names, data.inputs)]
    variables = {}
    for role, names, values in roles:
        for name, column in zip(names, values.T):
            attributes = {"role": role} | ({"units": units[name]} if name in units else {})
            variables[name] = ("time", column.copy(), attributes)
    time = ("time", np.arange(data.length)) if data.dt is None else ("time", data.time, {"units": "s"})
    return xarray.Dataset(variables, coords={"time": time})


def from_xarray(
    dataset: xr.Dataset | xr.DataArray,
    *,
    outputs: Sequence[str] | None = None,
    inputs: Sequence[str] | None = None,
    time: str = "time",
    dt: float | None = None,
) -> IOData:
    """A record from an xarray dataset, or from a data array with a dimension of channels.

    Parameters
    ----------
    dataset : xarray.Dataset, or xarray.DataArray of dimensions time and channel, in either order
        A data array is read through the labels along its other dimension.
    outputs, inputs : sequences of str, optional
        Names of channels. When left out, those whose attribute `role` is "output" or "input"; where no
        channel has one, all are outputs.
    time : str
        Name of the dimension of time. Its coordinate gives `dt`: dates, time differences, or floats in the
        unit that its attribute `units` names (seconds if none).
    dt : float, optional
        Seconds between samples; then the coordinate is not looked at.

    Returns
    -------
    IOData

    Raises
    ------
    DataError
        If a channel or the dimension is not there, a channel has further dimensions, the coordinate is not
        regular, or its unit is unknown.

    References
    ----------
    S. Hoyer, J. Hamman, *xarray: N-D labeled arrays and datasets in Python*, Journal of Open Research
    Software 5 (2017) 10.

    Examples
    --------
    >>> import xarray as xr, realization as rz
    >>> time = xr.Variable("time", [0.0, 80.0, 160.0], {"units": "ms"})
    >>> level = xr.Dataset({"level": ("time", [1.0, 2.0, 3.0])}, coords={"time": time})
    >>> rz.interop.from_xarray(level)
    IOData(3 samples, 1 output, 0 inputs, dt=0.08 s)
    """
    library("xarray", "xarray")
    if time not in dataset.dims:
        raise DataError(
            f"from_xarray: there is no dimension {time!r}, only {', '.join(map(str, dataset.dims))}."
        )
    if not hasattr(dataset, "data_vars"):
        dataset = _channels(dataset, time)
    available = [str(name) for name in dataset.data_vars]
    roles = {str(name): variable.attrs.get("role") for name, variable in dataset.data_vars.items()}
    chosen_outputs = [n for n in available if roles[n] == "output"] if outputs is None else list(outputs)
    chosen_inputs = [n for n in available if roles[n] == "input"] if inputs is None else list(inputs)
    if outputs is None and not any(roles.values()):
        chosen_outputs = [name for name in available if name not in chosen_inputs]
    if not chosen_outputs:
        raise DataError(f"from_xarray: name at least one output; the channels are: {', '.join(available)}.")
    for name in (*chosen_outputs, *chosen_inputs):
        if name not in available:
            raise DataError(f"from_xarray: {name!r} is not there; the channels are: {', '.join(available)}.")
        if dataset[name].dims != (time,):
            raise DataError(
                f"from_xarray: {name!r} has the dimensions {dataset[name].dims}; only {time!r} may be."
            )
    if dt is None and time in dataset.coords:
        dt = _coordinate_step(dataset[time])
    y = np.column_stack([dataset[name].values for name in chosen_outputs])
    u = np.column_stack([dataset[name].values for name in chosen_inputs]) if chosen_inputs else None
    return IOData(y, u, dt, output_names=chosen_outputs, input_names=chosen_inputs)


def _channels(array: Any, time: str) -> xr.Dataset:
    others = [dimension for dimension in array.dims if dimension != time]
    if not others:
        return array.to_dataset(name=str(array.name or "y1"))
    if len(others) > 1:
        raise DataError(f"from_xarray: the dimensions are {array.dims}; time and one of channels are needed.")
    if others[0] not in array.coords:
        labels = [f"y{k + 1}" for k in range(array.sizes[others[0]])]
        array = array.assign_coords({others[0]: labels})
    return array.to_dataset(dim=others[0])


def _coordinate_step(coordinate: xr.DataArray) -> float | None:
    values = coordinate.values
    if values.dtype.kind in "Mm":
        return _step((values - values[0]) / np.timedelta64(1, "s"), "from_xarray")
    unit = coordinate.attrs.get("units")
    if values.dtype.kind not in "fiu":
        raise DataError(f"from_xarray: the time coordinate is of type {values.dtype}; give dt.")
    if unit is None and values.dtype.kind in "iu":
        return None
    if unit is not None and unit not in SECONDS:
        raise DataError(f"from_xarray: time is in {unit!r}; known are {', '.join(SECONDS)}. Or give dt.")
    scale = SECONDS[unit] if unit else 1.0
    # Steps below a second are divided by a whole number, which rounds once: 80 ms are 0.08 s to the last bit.
    seconds = values / round(1 / scale) if scale < 1 else values * scale
    return _step(np.asarray(seconds, dtype=float), "from_xarray")


def _step(time: Array, caller: str) -> float:
    """Step of a regular grid, to the last bit where the grid was made by multiplying it."""
    if len(time) < 2:
        raise DataError(f"{caller}: one sample has no step; give dt.")
    first, mean = float(time[1] - time[0]), float((time[-1] - time[0]) / (len(time) - 1))
    count = np.arange(len(time))
    if np.array_equal(time[0] + first * count, time):
        mean = first
    off = np.abs(time - time[0] - mean * count)
    if not mean > 0 or not off.max() <= REGULAR * mean:
        gaps = np.diff(time)
        usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
        worst = int(np.abs(gaps - usual).argmax())
        raise DataError(
            f"{caller}: the times are not regular: {gaps[worst]:.6g} s after sample {worst}, mostly "
            f"{usual:.6g} s. Resample the record, or give dt."
        )
    return mean


def _distinct(data: IOData, caller: str) -> list[str]:
    names = [*data.output_names, *data.input_names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{caller}: {', '.join(twice)} names more than one channel; columns need names of their own."
        )
    return names
