"""Input-output records: `IOData`, the one container that every method takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.arguments import as_real
from realization.errors import DataError, ShapeError
from realization.signals.operations import band_filter, delayed, filtered, resampled, without_trend
from realization.signals.spans import checked_starts, spans_of, starts_within

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
        Whether NaN in `y` stands for an output that was not measured. Filters and likelihoods (`pem`,
        `kalman_filter`) count what was; linear methods take the stretches without gaps (`gap_free`); all
        others refuse such a record. Inputs must be known everywhere.
    output_units, input_units : sequence of str, optional
        One unit per column, `""` where there is none; they are written beside the names (`output_labels`).
    starts : sequence of int, optional
        First rows of the experiments that the record is made of; one experiment when left out. Nothing is
        carried over from one experiment to the next: estimators give each a first state of its own. See
        `concatenate`.

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
    output_units: tuple[str, ...] = field(default=(), kw_only=True)
    input_units: tuple[str, ...] = field(default=(), kw_only=True)
    starts: tuple[int, ...] = field(default=(0,), kw_only=True)

    def __init__(
        self,
        y: ArrayLike,
        u: ArrayLike | None = None,
        dt: float | None = None,
        *,
        output_names: Sequence[str] = (),
        input_names: Sequence[str] = (),
        missing: bool = False,
        output_units: Sequence[str] = (),
        input_units: Sequence[str] = (),
        starts: Sequence[int] = (0,),
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
        set_(self, "output_units", _units(output_units, self.n_outputs, "y"))
        set_(self, "input_units", _units(input_units, self.n_inputs, "u"))
        set_(self, "starts", checked_starts(starts, len(outputs), "IOData"))

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
    def output_labels(self) -> tuple[str, ...]:
        """Name and unit of each output, as plots and reports write them."""
        return _labels(self.output_names, self.output_units)

    @property
    def input_labels(self) -> tuple[str, ...]:
        """Name and unit of each input, as plots and reports write them."""
        return _labels(self.input_names, self.input_units)

    @property
    def spans(self) -> tuple[slice, ...]:
        """Rows of each experiment."""
        return spans_of(self.starts, self.length)

    @property
    def experiments(self) -> tuple[IOData, ...]:
        """Each experiment as a record of its own."""
        return tuple(self[rows] for rows in self.spans)

    @property
    def time(self) -> Array:
        """Time of each sample, shape (T,), in seconds (in steps where `dt` is `None`), gaps left out."""
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

    @classmethod
    def concatenate(cls, records: Sequence[IOData]) -> IOData:
        """Several experiments on one system as one record, with where each begins.

        Estimators keep experiments apart, and fit one model to all of them. Methods that read a record as one
        run refuse it by name, and take one of its `experiments`.

        Parameters
        ----------
        records : sequence of IOData
            With the same channels and the same step.

        Raises
        ------
        DataError
            If there are none, or steps, names or units differ.
        ShapeError
            If the numbers of channels differ.

        Examples
        --------
        >>> import numpy as np, realization as rz
        >>> both = rz.IOData.concatenate([rz.IOData(np.zeros(3)), rz.IOData(np.ones(4))])
        >>> both.starts, [part.length for part in both.experiments]
        ((0, 3), [3, 4])
        """
        if not records:
            raise DataError("concatenate: no records came; at least one is needed.")
        first = records[0]
        for number, record in enumerate(records[1:], start=1):
            if (record.n_outputs, record.n_inputs) != (first.n_outputs, first.n_inputs):
                raise ShapeError(
                    f"concatenate: record {number} has {record.n_outputs} outputs and {record.n_inputs} "
                    f"inputs, record 0 {first.n_outputs} and {first.n_inputs}; all need the same channels."
                )
            for what in ("dt", "output_names", "input_names", "output_units", "input_units"):
                if getattr(record, what) != getattr(first, what):
                    raise DataError(
                        f"concatenate: record {number} has {what}={getattr(record, what)!r}, record 0 "
                        f"{getattr(first, what)!r}; bring them to one (resample, or rename) first."
                    )
        offsets = np.cumsum([0, *(record.length for record in records[:-1])]).tolist()
        starts = [at + start for at, record in zip(offsets, records) for start in record.starts]
        y = np.vstack([record.y for record in records])
        u = np.vstack([record.inputs for record in records]) if first.n_inputs else None
        return replace(first, y=y, u=u, starts=starts, missing=any(record.missing for record in records))

    def detrend(self, kind: Literal["constant", "linear"] | int = "constant") -> IOData:
        """Take away each column's mean (`"constant"`, 0), line (`"linear"`, 1) or polynomial (its degree).

        By least squares over the samples that are there, in each experiment by itself.

        Parameters
        ----------
        kind : {"constant", "linear"} or int
        """
        degree = {"constant": 0, "linear": 1}.get(kind, -1) if isinstance(kind, str) else int(kind)
        if not 0 <= degree <= 5:
            raise DataError(
                f"detrend: kind={kind!r} came; it must be 'constant' or 'linear', or a degree from 0 to 5."
            )
        return self._mapped(lambda x: without_trend(x, degree))

    def prefilter(
        self,
        b: ArrayLike | None = None,
        a: ArrayLike = 1.0,
        *,
        band: tuple[float | None, float | None] | None = None,
    ) -> IOData:
        r"""Pass every column through one causal filter: $L(q) y = G\, L(q) u + L(q) v$ leaves $G$ as it is.

        Parameters
        ----------
        b, a : array_like, shapes (nb,) and (na,)
            Coefficients of numerator and denominator in powers of the unit delay.
        band : pair of float or None, instead of `b` and `a`
            Lower and upper edge in Hz (cycles per sample where `dt` is `None`) of a Butterworth filter of
            order 4 (8 with both edges); `None` is no edge.

        Returns
        -------
        IOData
            The filter starts at rest on each experiment's first value, so a constant passes without a jump.

        Raises
        ------
        DataError
            If there are missing samples, the filter is unstable, or an edge is beyond the Nyquist frequency.
        """
        if (b is None) == (band is None):
            raise DataError("prefilter: give either b (and a) or band=(low, high).")
        self._complete("prefilter")
        if band is not None:
            sections = band_filter(band, 1.0 if self.dt is None else self.dt)
            return self._mapped(lambda x: filtered(x, sections))
        coefficients = np.atleast_1d(np.asarray(b, dtype=float)), np.atleast_1d(np.asarray(a, dtype=float))
        return self._mapped(lambda x: filtered(x, coefficients))

    def resample(self, factor: int | None = None, *, dt: float | None = None) -> IOData:
        """Fewer (or more) samples per second, without aliases.

        Parameters
        ----------
        factor : int
            Keep one of so many samples, after a linear-phase low-pass filter.
        dt : float, instead of `factor`
            Seconds between samples of the result; the ratio of the steps must be one of whole numbers up to
            1000.

        Returns
        -------
        IOData
            Of `ceil(T / factor)` samples of each experiment; the first one stays the first.

        Raises
        ------
        DataError
            If there are missing samples, or the step asked for is out of reach.
        """
        self._complete("resample")
        if (factor is None) == (dt is None):
            raise DataError("resample: give either factor or dt.")
        up, down = 1, factor
        if dt is not None:
            if self.dt is None or not dt > 0:
                raise DataError(f"resample: dt={dt} came for a record with dt={self.dt}; both need a step.")
            ratio = Fraction(dt / self.dt).limit_denominator(1000)
            if ratio == 0 or abs(float(ratio) * self.dt / dt - 1) > 1e-9 or ratio.numerator > 1000:
                raise DataError(
                    f"resample: {dt:g} s to {self.dt:g} s is no ratio of whole numbers up to 1000."
                )
            up, down = ratio.denominator, ratio.numerator
        if not isinstance(down, int | np.integer) or down < 1:
            raise DataError(f"resample: factor={factor} came; a whole number of at least 1 is needed.")
        step = dt if dt is not None else None if self.dt is None else self.dt * down
        return replace(self._mapped(lambda x: resampled(x, up, int(down))), dt=step)

    def delay(self, samples: int | Sequence[int]) -> IOData:
        r"""Shift inputs against outputs: $u'_t = u_{t - d}$, at the cost of the rows that have no partner.

        With a dead time of `d` samples in the plant, `data.delay(d)` is the record of the plant without it.

        Parameters
        ----------
        samples : int or sequence of int
            `d` for all inputs, or one per input; negative ones move an input forward.

        Returns
        -------
        IOData
            Shorter by the largest positive and the largest negative shift, in each experiment.

        Raises
        ------
        ShapeError
            If the shifts do not match the inputs, or leave no sample.
        """
        shifts = np.broadcast_to(samples, self.n_inputs) if np.ndim(samples) == 0 else np.asarray(samples)
        if self.u is None or len(shifts) != self.n_inputs or shifts.dtype.kind not in "iu":
            raise ShapeError(
                f"delay: {samples!r} came for {self.n_inputs} inputs; one whole number each is needed."
            )
        late, early = max(int(shifts.max()), 0), max(int(-shifts.min()), 0)
        if any(span.stop - span.start <= late + early for span in self.spans):
            raise ShapeError(f"delay: {late + early} samples are cut, which leaves an experiment empty.")

        def moved(rows: slice) -> tuple[Array, Array]:
            length = rows.stop - rows.start
            return self.y[rows][late : length - early], delayed(self.inputs[rows], shifts, late, early)

        return self._rejoined([moved(rows) for rows in self.spans])

    def _complete(self, caller: str) -> None:
        if not self.observed.all():
            raise DataError(
                f"{caller}: {int((~self.observed).sum())} outputs are missing. Fill them first: "
                "kalman_smoother(model, data).outputs."
            )

    def _mapped(self, change: Callable[[Array], Array]) -> IOData:
        """The record with each experiment's columns changed by a function."""
        return self._rejoined([(change(self.y[rows]), change(self.inputs[rows])) for rows in self.spans])

    def _rejoined(self, parts: Sequence[tuple[Array, Array]]) -> IOData:
        starts = np.cumsum([0, *(len(y) for y, _ in parts[:-1])]).tolist()
        u = None if self.u is None else np.vstack([u for _, u in parts])
        return replace(self, y=np.vstack([y for y, _ in parts]), u=u, starts=starts)

    def __getitem__(self, rows: slice) -> IOData:
        """The samples of a slice, as a record."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise ShapeError("IOData takes a slice of consecutive samples, such as data[100:200].")
        begin, stop, _ = rows.indices(self.length)
        u = None if self.u is None else self.u[rows]
        return replace(self, y=self.y[rows], u=u, starts=starts_within(self.starts, begin, stop))

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
            *([count(len(self.starts), "experiment")] if len(self.starts) > 1 else []),
            *([count(int((~self.observed).sum()), "value") + " missing"] if self.missing else []),
        ]
        return f"IOData({', '.join(parts)})"


def as_data(data: IOData | ArrayLike, *, missing: bool = False, experiments: bool = False) -> IOData:
    """Return `data` itself, or an output-only record made of an array of shape (T, p).

    A record with missing outputs, or of several experiments, passes only where the caller says that it can
    do with it.
    """
    record = data if isinstance(data, IOData) else IOData(data)
    if len(record.starts) > 1 and not experiments:
        raise DataError(
            f"this record is made of {len(record.starts)} experiments, which begin at the rows "
            f"{', '.join(map(str, record.starts[:8]))}{', ...' if len(record.starts) > 8 else ''}, and this "
            "method would take one's end for the past of the next. Give it one of `data.experiments`."
        )
    if record.missing and not missing and not record.observed.all():
        absent = ~record.observed
        raise DataError(
            f"{int(absent.sum())} outputs of this record are missing, the first at row "
            f"{int(np.argwhere(absent)[0, 0])}, and this method needs every sample. pem, "
            "kalman_filter and log_likelihood do without; gap_free(data) are the stretches without gaps, and "
            "`outputs` of kalman_smoother fill the gaps."
        )
    return record


def replace_values(data: IOData, y: Array, u: Array | None) -> IOData:
    """A record with the names and step of `data` and other samples."""
    return replace(data, y=y, u=u)


def _columns(values: ArrayLike, name: str, *, missing: bool = False) -> Array:
    array = np.array(as_real(values, f"IOData: {name}"))
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ShapeError(f"IOData: {name} has shape {array.shape}; it must be (T, columns) or (T,).")
    if len(array) == 0:
        raise ShapeError(f"IOData: {name} has no samples.")
    bad = np.isinf(array) if missing else ~np.isfinite(array)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"IOData: {name} has {int(bad.sum())} values that are NaN or infinite, the first at row {row}, "
            f"column {column}. {_remedy(name, missing)}"
        )
    array.setflags(write=False)
    return array


def _remedy(name: str, missing: bool) -> str:
    if name == "u":
        return (
            "Inputs must be known everywhere: put in what was applied (regular_record(..., hold_inputs=True) "
            "holds the last value), or cut the record there and join the pieces by IOData.concatenate."
        )
    return "Remove or interpolate them first" + ("." if missing else ", or mark them by missing=True.")


def _units(units: Sequence[str], count: int, letter: str) -> tuple[str, ...]:
    if not units:
        return ("",) * count
    if isinstance(units, str) or len(units) != count:
        raise ShapeError(
            f"IOData: {count} columns of {letter} came with the units {units!r}; one each is needed "
            "('' where there is none)."
        )
    return tuple(str(unit) for unit in units)


def _labels(names: Sequence[str], units: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}, {unit}" if unit else name for name, unit in zip(names, units))


def _names(names: Sequence[str], count: int, letter: str) -> tuple[str, ...]:
    if not names:
        return tuple(f"{letter}{i + 1}" for i in range(count))
    if isinstance(names, str) or len(names) != count:
        raise ShapeError(
            f"IOData: {count} columns of {letter} came with the names {names!r}; one each is needed."
        )
    return tuple(str(name) for name in names)
