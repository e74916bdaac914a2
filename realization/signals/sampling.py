"""From times as they were logged to a grid, and from codes to columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import DataError, ShapeError
from realization.signals.data import IOData

__all__ = ["RegularRecord", "one_hot", "regular_record"]

Array = NDArray[np.float64]
Gaps = Literal["missing", "split"]
MOST_CODES = 50
LONGEST_GRID = 100


@dataclass(frozen=True, eq=False)
class RegularRecord:
    """Result of `regular_record`.

    Attributes
    ----------
    data : IOData
        On the grid; a sample that was not logged is missing, or begins a new experiment.
    jitter : float
        Root mean square distance of the times from the grid, in steps.
    worst : float
        Largest such distance, in steps.
    dropped : int
        Grid points without a sample.
    longest_gap : int
        Grid points without a sample in a row.
    merged : int
        Samples left out because a nearer one fell on the same grid point.
    held : int
        Grid points where an input was taken from the point before.

    Examples
    --------
    >>> import realization as rz
    >>> found = rz.regular_record([0.0, 0.1, 0.21, 0.4, 0.5], [1.0, 2.0, 3.0, 5.0, 6.0])
    >>> found.dropped, found.data.observed[:, 0].tolist()
    (1, [True, True, True, False, True, True])
    """

    data: IOData
    jitter: float
    worst: float
    dropped: int
    longest_gap: int
    merged: int
    held: int


def regular_record(
    time: ArrayLike,
    y: ArrayLike,
    u: ArrayLike | None = None,
    *,
    dt: float | None = None,
    gaps: Gaps = "missing",
    hold_inputs: bool = False,
    output_names: Sequence[str] = (),
    input_names: Sequence[str] = (),
    output_units: Sequence[str] = (),
    input_units: Sequence[str] = (),
) -> RegularRecord:
    r"""Put samples that were logged at given times on a grid, without making values up.

    $$k_i = \operatorname{round}\frac{t_i - t_0}{\Delta}, \qquad
    \varepsilon_i = \frac{t_i - t_0}{\Delta} - k_i$$

    A sample goes to its nearest grid point; grid points without one stay empty.

    Parameters
    ----------
    time : array_like, shape (T,)
        Seconds (or `datetime64`, or `timedelta64`), rising.
    y : array_like, shape (T, p)
        NaN is a missing output.
    u : array_like, shape (T, m), optional
    dt : float, optional
        Step of the grid in seconds; the median distance of the times, refined by least squares, when left
        out.
    gaps : {"missing", "split"}
        Whether outputs are missing at empty grid points, or a new experiment begins after them.
    hold_inputs : bool
        Whether an input keeps its value over empty grid points (a held actuator). Without it, `"missing"` is
        an error for a record with inputs and gaps: no method takes missing inputs.
    output_names, input_names, output_units, input_units : sequences of str, optional

    Returns
    -------
    RegularRecord

    Raises
    ------
    DataError
        If times do not rise, the grid would be far longer than the record, or inputs have gaps.
    ShapeError
        If lengths differ.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, section 14.2 (missing data).

    Examples
    --------
    >>> import realization as rz
    >>> found = rz.regular_record([0.0, 1.0, 2.0, 5.0, 6.0], [1.0, 2, 3, 6, 7], [0.0] * 5, gaps="split")
    >>> found.data, found.data.starts
    (IOData(5 samples, 1 output, 1 input, dt=1 s, 2 experiments), (0, 3))
    """
    seconds = _seconds(time)
    if gaps not in get_args(Gaps):
        raise DataError(f"regular_record: gaps={gaps!r} came; 'missing' or 'split' is needed.")
    outputs, inputs = _matrix(y, len(seconds), "y"), None if u is None else _matrix(u, len(seconds), "u")
    step = _grid_step(seconds) if dt is None else dt
    if not (np.isfinite(step) and step > 0):
        raise DataError(f"regular_record: dt={dt} came; a positive number of seconds is needed.")
    place = (seconds - seconds[0]) / step
    if place[-1] > LONGEST_GRID * len(seconds):
        raise DataError(
            f"regular_record: the times span {place[-1]:.3g} steps of {step:.3g} s with {len(seconds)} "
            "samples; give a dt that suits them, or part the record at its longest gap."
        )
    index = np.round(place).astype(np.int64)
    off = np.abs(place - index)
    nearest = np.lexsort((off, index))
    kept = nearest[np.append(True, np.diff(index[nearest]) > 0)]
    on = index[kept]
    holes = np.diff(on) - 1
    names: dict[str, Any] = {
        "output_names": output_names, "input_names": input_names,
        "output_units": output_units, "input_units": input_units,
    }  # fmt: skip
    outputs, inputs = outputs[kept], None if inputs is None else inputs[kept]
    absent = bool(np.isnan(outputs).any())
    if gaps == "split" or not holes.any():
        starts = [0, *(np.flatnonzero(holes) + 1).tolist()]
        data = IOData(outputs, inputs, step, missing=absent, starts=starts, **names)
        held = 0
    else:
        data = _with_gaps(on, outputs, inputs, step, hold_inputs, names)
        held = 0 if inputs is None else int(holes.sum())
    return RegularRecord(
        data,
        float(np.sqrt((off**2).mean())),
        float(off.max()),
        int(holes.sum()),
        int(holes.max(initial=0)),
        len(seconds) - len(kept),
        held,
    )


def _with_gaps(
    on: NDArray[np.int64], y: Array, u: Array | None, step: float, hold: bool, names: dict[str, Any]
) -> IOData:
    if u is not None and not hold:
        raise DataError(
            f"regular_record: {int(on[-1]) + 1 - len(on)} grid points have no sample, and no method takes "
            "missing inputs. Say hold_inputs=True if the actuator held its value, or gaps='split' to begin "
            "a new experiment after each gap."
        )
    length = int(on[-1]) + 1
    outputs = np.full((length, y.shape[1]), np.nan)
    outputs[on] = y
    last = np.searchsorted(on, np.arange(length), side="right") - 1
    return IOData(outputs, None if u is None else u[last], step, missing=True, **names)


def one_hot(
    codes: ArrayLike, *, values: Sequence[int] | None = None, name: str = ""
) -> tuple[Array, list[str]]:
    r"""One column of zeros and ones for each code of a column of whole numbers but the first.

    The first code is the reference: with it, the columns would add up to the constant.

    Parameters
    ----------
    codes : array_like, shape (T,)
        Whole numbers, such as the gear or the recipe.
    values : sequence of int, optional
        The codes, reference first; those that occur, ascending, when left out.
    name : str
        Put before the codes in the columns' names.

    Returns
    -------
    columns : ndarray, shape (T, number of codes - 1)
    names : list of str
        `name=code`.

    Raises
    ------
    DataError
        If the codes are no whole numbers, a code is not among `values`, or there are fewer than 2 or more
        than 50.

    References
    ----------
    D. B. Suits, *Use of dummy variables in regression equations*, Journal of the American Statistical
    Association 52 (1957) 548-551.

    Examples
    --------
    >>> import realization as rz
    >>> rz.one_hot([0, 1, 2, 1], name="gear")[1]
    ['gear=1', 'gear=2']
    """
    column = np.asarray(codes)
    if column.ndim != 1 or column.dtype.kind not in "iufb" or not _are_whole(column):
        raise DataError("one_hot: a vector of whole numbers is needed.")
    found = np.unique(column).tolist()
    chosen = found if values is None else list(values)
    unknown = sorted(set(found) - set(chosen))
    if unknown or len(set(chosen)) != len(chosen) or not 2 <= len(chosen) <= MOST_CODES:
        raise DataError(
            f"one_hot: {len(chosen)} codes{f', without {unknown[:5]} that occur' if unknown else ''}; 2 to "
            f"{MOST_CODES} different ones that cover the column are needed."
        )
    columns = (column[:, None] == np.array(chosen[1:])).astype(float)
    prefix = f"{name}=" if name else ""
    return columns, [f"{prefix}{int(code)}" for code in chosen[1:]]


def _are_whole(column: NDArray[Any]) -> bool:
    return bool((np.isfinite(column) & (column == np.round(column))).all())


def _seconds(time: ArrayLike) -> Array:
    values = np.asarray(time)
    if values.ndim != 1 or len(values) < 2:
        raise ShapeError(f"regular_record: time has shape {values.shape}; a vector of at least 2 is needed.")
    if values.dtype.kind in "Mm":
        values = (values - values[0]) / np.timedelta64(1, "s")
    elif values.dtype.kind not in "iuf":
        raise DataError(f"regular_record: time is of type {values.dtype}; seconds or dates are needed.")
    seconds = values.astype(float)
    if not np.isfinite(seconds).all():
        raise DataError("regular_record: a time is missing; leave those rows out.")
    back = np.flatnonzero(np.diff(seconds) <= 0)
    if len(back):
        raise DataError(
            f"regular_record: time does not rise after row {int(back[0])} ({len(back)} places). Sort the "
            "rows, and leave repeated ones out."
        )
    return seconds


def _grid_step(seconds: Array) -> float:
    """Median distance, refined by the line through the times and their places."""
    step = float(np.median(np.diff(seconds)))
    place = np.concatenate([[0.0], np.round(np.diff(seconds) / step).cumsum()])
    if place[-1] < 1:
        return step
    moved = place - place.mean()
    refined = float(moved @ (seconds - seconds.mean()) / (moved @ moved))
    even = np.allclose(np.diff(seconds), step, rtol=1e-9, atol=0.0)
    return step if even else refined


def _matrix(values: ArrayLike, length: int, name: str) -> Array:
    matrix = as_real(values, f"regular_record: {name}")
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2 or len(matrix) != length:
        raise ShapeError(f"regular_record: {name} has shape {matrix.shape}; {length} rows are needed.")
    return matrix
