"""Input-output records: `IOData`, the one container that every method takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError, ShapeError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["IOData", "as_data"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class IOData:
    r"""A measured record $\{u_t, y_t\}_{t=0}^{T-1}$, time along the first axis.

    Parameters
    ----------
    y : array_like, shape (T, p) or (T,)
        Outputs. A vector is taken as one output.
    u : array_like, shape (T, m) or (T,), optional
        Inputs; `None` for an output-only record (a time series).
    dt : float, optional
        Seconds between samples; `None` is an unnamed unit step.
    output_names, input_names : sequence of str, optional
        One name per column; `y1, y2, ...` and `u1, u2, ...` when left out.
    missing : bool
        Whether NaN in `y` stands for a sample that was not measured. Methods that can do without it
        (`kalman_filter`, `kalman_smoother`, `log_likelihood`) take such a record, all others refuse it.

    Raises
    ------
    ShapeError
        If the lengths of `y` and `u` differ, or names do not match columns.
    DataError
        If a value is not finite (NaN in `y` passes with `missing=True`), or `dt` is not positive.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> data = rz.IOData(y=np.arange(6.0), u=np.ones((6, 2)), dt=0.1)
    >>> data
    IOData(6 samples, 1 output, 2 inputs, dt=0.1 s)
    >>> first, second = data.split(0.5)
    >>> first.length, second.y[0, 0]
    (3, np.float64(3.0))
    >>> rz.IOData([1.0, np.nan, 3.0], missing=True).observed[:, 0]
    array([ True, False,  True])
    """

    y: Array
    u: Array | None = None
    dt: float | None = None
    output_names: tuple[str, ...] = field(default=(), kw_only=True)
    input_names: tuple[str, ...] = field(default=(), kw_only=True)
    missing: bool = field(default=False, kw_only=True)

    def __init__(
        self,
        y: ArrayLike,
        u: ArrayLike | None = None,
        dt: float | None = None,
        *,
        output_names: Sequence[str] = (),
        input_names: Sequence[str] = (),
        missing: bool = False,
    ) -> None:
        outputs = _columns(y, "y", missing=missing)
        inputs = None if u is None else _columns(u, "u")
        if inputs is not None and inputs.shape[1] == 0:
            inputs = None
        if inputs is not None and len(inputs) != len(outputs):
            raise ShapeError(
                f"IOData: y has {len(outputs)} samples and u has {len(inputs)}; both need one row per "
                "sample. Cut the longer one, or check that time runs along the first axis."
            )
        if dt is not None and not (np.isfinite(dt) and dt > 0):
            raise DataError(f"IOData: dt={dt} came; seconds between samples must be positive (or None).")
        set_ = object.__setattr__
        set_(self, "y", outputs)
        set_(self, "u", inputs)
        set_(self, "dt", None if dt is None else float(dt))
        set_(self, "missing", bool(missing))
        set_(self, "output_names", _names(output_names, outputs.shape[1], "y"))
        set_(self, "input_names", _names(input_names, 0 if inputs is None else inputs.shape[1], "u"))

    @property
    def length(self) -> int:
        """Number of samples `T`."""
        return len(self.y)

    @property
    def n_outputs(self) -> int:
        """Number of outputs `p`."""
        return self.y.shape[1]

    @property
    def n_inputs(self) -> int:
        """Number of inputs `m`; 0 for a time series."""
        return 0 if self.u is None else self.u.shape[1]

    @property
    def inputs(self) -> Array:
        """Inputs as an array of shape (T, m), with no columns where there are none."""
        return np.empty((self.length, 0)) if self.u is None else self.u

    @property
    def observed(self) -> NDArray[np.bool_]:
        """Which outputs were measured when, shape (T, p); all of them unless `missing=True`."""
        return ~np.isnan(self.y)

    @property
    def time(self) -> Array:
        """Time of each sample, shape (T,), in seconds (in steps where `dt` is `None`)."""
        return np.arange(self.length, dtype=np.float64) * (1.0 if self.dt is None else self.dt)

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        outputs: Sequence[str],
        inputs: Sequence[str] = (),
        dt: float | None = None,
    ) -> IOData:
        """Take named columns of a data frame.

        Parameters
        ----------
        frame : pandas.DataFrame (anything with `.columns` and `frame[name]`)
        outputs, inputs : sequences of str
            Names of the columns.
        dt : float, optional
            Seconds between samples.

        Raises
        ------
        DataError
            If a column is not there or not numeric.

        Examples
        --------
        >>> import pandas as pd, realization as rz
        >>> frame = pd.DataFrame({"force": [0.0, 1.0], "speed": [0.0, 0.1]})
        >>> rz.IOData.from_frame(frame, inputs=["force"], outputs=["speed"]).n_inputs
        1
        """
        available = [str(name) for name in frame.columns]

        def column(name: str) -> Array:
            if name not in available:
                raise DataError(f"column {name!r} is not there; the columns are: {', '.join(available)}.")
            try:
                return np.asarray(frame[name], dtype=float)
            except (TypeError, ValueError):
                raise DataError(f"column {name!r} is not numeric.") from None

        if not outputs:
            raise DataError(f"name at least one output; the columns are: {', '.join(available)}.")
        y = np.column_stack([column(name) for name in outputs])
        u = np.column_stack([column(name) for name in inputs]) if inputs else None
        return cls(y, u, dt, output_names=outputs, input_names=inputs)

    def split(self, fraction: float = 0.5) -> tuple[IOData, IOData]:
        """Cut the record in two: the first `fraction` of it, and the rest.

        Parameters
        ----------
        fraction : float
            Strictly between 0 and 1; each part keeps at least one sample.
        """
        if not 0 < fraction < 1:
            raise DataError(f"split: fraction={fraction} came; it must lie strictly between 0 and 1.")
        cut = round(fraction * self.length)
        if not 0 < cut < self.length:
            raise ShapeError(f"split: {self.length} samples at fraction {fraction} leave one part empty.")
        return self[:cut], self[cut:]

    def detrend(self, kind: Literal["constant", "linear"] = "constant") -> IOData:
        """Take away each column's mean (`"constant"`) or least-squares line (`"linear"`)."""
        if kind not in ("constant", "linear"):
            raise DataError(f"detrend: kind={kind!r} came; it must be 'constant' or 'linear'.")
        time = np.arange(self.length) - (self.length - 1) / 2
        basis = np.ones((self.length, 1)) if kind == "constant" else np.column_stack([time**0, time])

        def remove(x: Array) -> Array:
            if np.isfinite(x).all():
                return x - basis @ np.linalg.lstsq(basis, x, rcond=None)[0]
            # A column with missing samples has a least-squares problem of its own.
            there = [np.isfinite(column) for column in x.T]
            lines = [np.linalg.lstsq(basis[rows], x[rows, i], rcond=None)[0] for i, rows in enumerate(there)]
            return x - basis @ np.column_stack(lines)

        return replace_values(self, remove(self.y), None if self.u is None else remove(self.u))

    def __getitem__(self, rows: slice) -> IOData:
        """The samples of a slice, as a record."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise ShapeError("IOData takes a slice of consecutive samples, such as data[100:200].")
        return replace_values(self, self.y[rows], None if self.u is None else self.u[rows])

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        def count(n: int, word: str) -> str:
            return f"{n} {word}{'' if n == 1 else 's'}"

        dt = "dt=None" if self.dt is None else f"dt={self.dt:g} s"
        parts = [
            count(self.length, "sample"),
            count(self.n_outputs, "output"),
            count(self.n_inputs, "input"),
            dt,
            *([count(int((~self.observed).sum()), "value") + " missing"] if self.missing else []),
        ]
        return f"IOData({', '.join(parts)})"


def as_data(data: IOData | ArrayLike, *, missing: bool = False) -> IOData:
    """Return `data` itself, or an output-only record made of an array of shape (T, p).

    A record with missing outputs passes only where the caller says that it can do without them.
    """
    record = data if isinstance(data, IOData) else IOData(data)
    if record.missing and not missing and not record.observed.all():
        absent = ~record.observed
        raise DataError(
            f"{int(absent.sum())} outputs of this record are missing, the first at row "
            f"{int(np.argwhere(absent)[0, 0])}, and this method needs every sample. kalman_filter, "
            "kalman_smoother and log_likelihood do without; the smoother's `outputs` fill the gaps."
        )
    return record


def replace_values(data: IOData, y: Array, u: Array | None) -> IOData:
    """A record with the names and step of `data` and other samples."""
    return replace(data, y=y, u=u)


def _columns(values: ArrayLike, name: str, *, missing: bool = False) -> Array:
    try:
        array = np.array(values, dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"IOData: {name} is not an array of numbers.") from None
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ShapeError(f"IOData: {name} has shape {array.shape}; it must be (T, columns) or (T,).")
    if len(array) == 0:
        raise ShapeError(f"IOData: {name} has no samples.")
    bad = np.isinf(array) if missing else ~np.isfinite(array)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        remedy = ", or mark them by IOData(..., missing=True)" if name == "y" and not missing else ""
        raise DataError(
            f"IOData: {name} has {int(bad.sum())} values that are NaN or infinite, the first at row {row}, "
            f"column {column}. Remove or interpolate them first{remedy}."
        )
    array.setflags(write=False)
    return array


def _names(names: Sequence[str], count: int, letter: str) -> tuple[str, ...]:
    if not names:
        return tuple(f"{letter}{i + 1}" for i in range(count))
    if isinstance(names, str) or len(names) != count:
        raise ShapeError(
            f"IOData: {count} columns of {letter} came with the names {names!r}; one each is needed."
        )
    return tuple(str(name) for name in names)
