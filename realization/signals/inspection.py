"""A look at a record before anything is estimated from it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from realization.errors import DataError
from realization.signals import column_checks as columns
from realization.signals import loop_checks as loop
from realization.signals.data import IOData, as_data

__all__ = ["DataInspection", "Finding", "inspect_data"]

Array = NDArray[np.float64]
STRETCH = 20_000
FEWEST = 60
DRIFT = 0.1
COARSE = 0.05
FAST = 0.05
COMFORTABLE_BAND = 0.25
COLLINEAR = 0.99
POOR_EXCITATION = 20
LOW_ORDER = 5


@dataclass(frozen=True)
class Finding:
    """One thing that `inspect_data` found.

    Attributes
    ----------
    kind : str
        "missing", "constant", "saturation", "quantization", "drift", "spikes", "excitation", "collinear",
        "feedback", "delay", "oversampling" or "length".
    column : str
        Name of the channel (or channels) it is about; empty where it is the record.
    evidence : mapping from str to float
        The numbers behind it.
    meaning : str
        What follows from it.
    remedy : str
        What to do.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> found = rz.inspect_data(rz.IOData(np.random.default_rng(0).standard_normal(200), np.ones(200)))
    >>> found.findings[0].kind, found.findings[0].column
    ('constant', 'u1')
    """

    kind: str
    column: str
    evidence: Mapping[str, float]
    meaning: str
    remedy: str


@dataclass(frozen=True)
class DataInspection:
    """Result of `inspect_data`; `print` it.

    Attributes
    ----------
    findings : tuple of Finding
        In the order in which they should be dealt with.
    supported_order : int
        Highest order that the record has room for.
    excitation : mapping from str to int
        Order up to which each input excites persistently (60 is the most that is looked at).
    level : float
        Probability that a clean record has a finding of one kind by chance, for the kinds that are tests
        (saturation, drift, spikes, feedback, delay).
    samples : int
        Length of the record.
    examined : slice
        Rows of the stretch that spikes, bandwidth, excitation, delay and feedback were looked for in.
    skipped : tuple of str
        What was not looked for, and why.
    record : str
        What the record is.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> u = np.random.default_rng(0).standard_normal(400)
    >>> found = rz.inspect_data(rz.IOData(np.roll(u, 5), u))
    >>> [(item.kind, dict(item.evidence)["samples"]) for item in found.findings]
    [('delay', 5.0)]
    """

    findings: tuple[Finding, ...]
    supported_order: int
    excitation: Mapping[str, int]
    level: float
    samples: int
    examined: slice
    skipped: tuple[str, ...] = ()
    record: str = field(default="", repr=False)

    def __str__(self) -> str:
        lines = [f"{self.record}: {len(self.findings) or 'no'} finding{'s' * (len(self.findings) != 1)}"]
        width = max([len(item.kind) for item in self.findings], default=0)
        for item in self.findings:
            numbers = ", ".join(f"{name} {value:.4g}" for name, value in item.evidence.items())
            about = f" {item.column!r}" if item.column else ""
            lines.append(f"  {item.kind.ljust(width)}{about}: {numbers}")
            lines += textwrap.wrap(f"{item.meaning} {item.remedy}", 96, initial_indent=" " * 6,
                                   subsequent_indent=" " * 6)  # fmt: skip
        lines.append(f"  room for orders up to {self.supported_order}")
        if self.excitation:
            orders = ", ".join(f"{name} {order}" for name, order in self.excitation.items())
            lines.append(f"  persistently exciting of order: {orders}")
        begin, stop = self.examined.start, self.examined.stop
        if stop - begin < self.samples:
            lines.append(f"  dynamics looked at in the samples {begin} to {stop - 1} only")
        lines += [f"  not looked for: {text}" for text in self.skipped]
        return "\n".join(lines)

    def of(self, kind: str) -> tuple[Finding, ...]:
        """Findings of one kind.

        Parameters
        ----------
        kind : str
        """
        return tuple(item for item in self.findings if item.kind == kind)


def inspect_data(data: IOData | ArrayLike, *, level: float = 0.01) -> DataInspection:
    r"""Look for what would spoil an estimate: gaps, constants, saturation, drift, poor inputs, feedback, ...

    Each kind that is a statistical test has a false-alarm rate of about `level` over the record's columns.
    Feedback is tested by whether past outputs help to predict an input beyond its own past (the non-causal
    impulse response, $h_{k<0} = 0$, in the form of Granger and Sims), delay by the cross-correlation with a
    whitened input. Dynamics are looked at in the longest stretch without a gap, 20 000 samples of its middle
    at most.

    Parameters
    ----------
    data : IOData
        With missing outputs and of several experiments too.
    level : float
        In (0, 0.5).

    Returns
    -------
    DataInspection

    Raises
    ------
    DataError
        If `level` is out of range.

    References
    ----------
    L. Ljung, *System Identification*, 2nd ed., Prentice-Hall 1999, chapters 13 and 14.
    G. E. P. Box, G. M. Jenkins, *Time Series Analysis*, Holden-Day 1970, chapter 11 (prewhitening).
    C. A. Sims, Money, income, and causality, American Economic Review 62 (1972) 540-552.

    Examples
    --------
    >>> import numpy as np, realization as rz
    >>> rng = np.random.default_rng(0)
    >>> u = rng.standard_normal(1000)
    >>> y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u)[:, 0] + 0.1 * rng.standard_normal(1000)
    >>> print(rz.inspect_data(rz.IOData(np.clip(y, None, 1.0), u)))  # doctest: +ELLIPSIS
    IOData(1000 samples, 1 output, 1 input, dt=None): 1 finding
      saturation 'y1': highest 1, share ...
    """
    record = as_data(data, missing=True, experiments=True)
    if not 0 < level < 0.5:
        raise DataError(f"inspect_data: level={level} came; a probability between 0 and 0.5 is needed.")
    empty = [record.output_names[i] for i in np.flatnonzero(~record.observed.any(axis=0))]
    if empty:
        raise DataError(
            f"inspect_data: no sample of {', '.join(map(repr, empty))} was measured. Leave the column out."
        )
    whole = _stretch(record)
    rows = _middle(whole)
    skipped: list[str] = []
    u, y = record.inputs[rows], record.y[rows]
    # Columns that do not move are a finding of their own, and spoil every regression.
    moving = [i for i in range(record.n_inputs) if not columns.is_constant(u[:, i])]
    answering = [i for i in range(record.n_outputs) if not columns.is_constant(y[:, i])]
    findings = [*_missing(record), *_by_column(record, whole, rows, level)]
    excitation = {}
    if len(u) < FEWEST:
        skipped.append(f"drift, spikes, bandwidth, excitation, delay, feedback ({len(u)} samples in a row)")
    elif answering:
        excitation = {record.input_names[i]: loop.excitation_order(u[:, i]) for i in moving}
        findings += _together(record, u, y, moving, answering, excitation, level, skipped)
        findings += _oversampling(record, y, answering)
    support = max(
        (
            loop.supported_order(span.stop - span.start, record.n_outputs, record.n_inputs)
            for span in record.spans
        ),
        default=0,
    )
    findings += _length(record, support)
    return DataInspection(
        tuple(findings), support, excitation, level, record.length, rows, tuple(skipped), repr(record)
    )


def _stretch(record: IOData) -> slice:
    """The longest run of complete samples within one experiment."""
    best = slice(0, 0)
    complete = np.asarray(record.observed.all(axis=1))
    for span in record.spans:
        breaks = np.flatnonzero(~complete[span]) + span.start
        edges = np.concatenate([[span.start - 1], breaks, [span.stop]])
        longest = int(np.argmax(np.diff(edges)))
        begin, stop = int(edges[longest]) + 1, int(edges[longest + 1])
        if stop - begin > best.stop - best.start:
            best = slice(begin, stop)
    return best


def _middle(rows: slice) -> slice:
    begin = max(rows.start, (rows.start + rows.stop - STRETCH) // 2)
    return slice(begin, min(rows.stop, begin + STRETCH))


def _missing(record: IOData) -> Iterator[Finding]:
    absent = ~record.observed
    for i in np.flatnonzero(absent.any(axis=0)):
        evidence = {
            "samples": float(absent[:, i].sum()),
            "share": float(absent[:, i].mean()),
            "longest gap": float(columns.longest_gap(absent[:, i])),
        }
        yield Finding(
            "missing",
            record.output_names[i],
            evidence,
            "Most methods need every sample.",
            "kalman_filter and log_likelihood do without; kalman_smoother(model, data).outputs fills gaps, "
            "or take one stretch between them.",
        )


def _by_column(record: IOData, whole: slice, rows: slice, level: float) -> Iterator[Finding]:
    names = [*record.output_names, *record.input_names]
    values = np.hstack([record.y, record.inputs])
    share = level / len(names)
    for i, name in enumerate(names):
        x = values[:, i]
        if not np.isfinite(x).any():
            continue
        present, stretch = x[np.isfinite(x)], values[rows, i]
        if columns.is_constant(present):
            yield Finding(
                "constant",
                name,
                {"value": float(present[0])},
                "It explains nothing and needs no explaining.",
                "Leave it out, or take a record in which it moves.",
            )
            continue
        levels, counts = columns.levels_of(present)
        yield from _amplitude(name, present, levels, counts, share, is_output=i < record.n_outputs)
        if len(stretch) >= FEWEST and not columns.is_constant(stretch):
            yield from _in_time(name, values[whole, i], stretch, len(levels), share)


def _amplitude(
    name: str, x: Array, levels: Array, counts: NDArray[np.intp], share: float, *, is_output: bool
) -> Iterator[Finding]:
    for side, count in columns.clipping(x, levels, counts, share):
        value = float(levels[0] if side == "lowest" else levels[-1])
        yield Finding(
            "saturation",
            name,
            {side: value, "share": count / len(x), "samples": float(count)},
            "The value is held at a limit, which no linear model does.",
            "Leave those stretches out or mark them missing; for an input, record what came after the limit.",
        )
    step, spread = columns.resolution(levels), float(x.std())
    if is_output and step > COARSE * spread:
        yield Finding(
            "quantization",
            name,
            {"step": step, "step / deviation": step / spread, "levels": float(len(levels))},
            f"Rounding adds noise of deviation {step / 12**0.5:.3g}, and one-step fits reward repeating "
            "the last value.",
            "Take finer steps if the sensor has them; judge models by simulation.",
        )


def _in_time(name: str, whole: Array, x: Array, n_levels: int, share: float) -> Iterator[Finding]:
    change, p_value = columns.drift(whole)
    if p_value < share and abs(change) > DRIFT:
        yield Finding(
            "drift",
            name,
            {"change / deviation": change, "p": p_value},
            "The level moves over the record, which a stationary model takes for a pole near 1.",
            "data.detrend('linear'), or prefilter(band=(low, None)); keep it if the plant integrates.",
        )
    if n_levels > columns.FEW_LEVELS:
        found = columns.spikes(x, share)
        if len(found):
            yield Finding(
                "spikes",
                name,
                {"samples": float(len(found)), "first (in the stretch)": float(found[0])},
                "Single samples lie off both neighbours by more than noise does; squares weigh them heavily.",
                "Mark them missing, IOData(..., missing=True), or find out what they are.",
            )


def _together(
    record: IOData,
    u: Array,
    y: Array,
    moving: list[int],
    answering: list[int],
    excitation: Mapping[str, int],
    level: float,
    skipped: list[str],
) -> Iterator[Finding]:
    if not moving:
        return
    u, y = u[:, moving], y[:, answering]
    names = [record.input_names[i] for i in moving]
    for name in names:
        if excitation[name] < min(POOR_EXCITATION, len(u) // 3):
            yield Finding(
                "excitation",
                name,
                {"order": float(excitation[name])},
                f"At most {max(0, excitation[name] // 2 - 1)} states can be found from it by subspaces.",
                "Take a richer input: random switching, a sweep, more sines.",
            )
    if len(moving) > 1:
        for name, share in zip(names, loop.collinearity(u)):
            if share > COLLINEAR:
                yield Finding(
                    "collinear",
                    name,
                    {"explained by the other inputs": float(share)},
                    "What this input does cannot be told from what the others do.",
                    "Move the inputs independently, or leave one out.",
                )
    found = list(_feedback(names, u, y, level, skipped))
    yield from found
    if found:
        skipped.append("delay (with feedback the correlation has two ways to come about)")
    else:
        yield from _delays(names, u, y, level)


def _feedback(names: list[str], u: Array, y: Array, level: float, skipped: list[str]) -> Iterator[Finding]:
    for i, name in enumerate(names):
        tested = loop.feedback(np.roll(u, -i, axis=1), y)
        if tested is None:
            skipped.append(f"feedback to {name!r} (it follows from its own past, or the record is short)")
        elif tested[0] < level / len(names):
            yield Finding(
                "feedback",
                name,
                {"p": tested[0], "lags": float(tested[1])},
                "Past outputs act on this input, so open-loop subspace methods are biased.",
                "ssarx, pbsid, arx and pem hold in closed loop.",
            )


def _delays(names: list[str], u: Array, y: Array, level: float) -> Iterator[Finding]:
    share = level / (u.shape[1] * y.shape[1])
    for i, name in enumerate(names):
        found = [loop.dead_time(u[:, i], y[:, k], share) for k in range(y.shape[1])]
        seen = [item for item in found if item is not None]
        if not seen:
            continue
        first, largest, bound = min(seen)
        if first > 1:
            yield Finding(
                "delay",
                name,
                {"samples": float(first), "largest correlation": largest, "bound": bound},
                "Every sample of dead time costs a state.",
                f"data.delay([...]) by {first - 1} leaves the one of a model without feedthrough.",
            )


def _oversampling(record: IOData, y: Array, answering: list[int]) -> Iterator[Finding]:
    bands = [columns.bandwidth(y[:, i]) for i in answering]
    known = [band for band in bands if band is not None]
    if len(known) < len(bands) or max(known) >= FAST or len(y) < 10 * FEWEST:
        return
    band = max(max(known), 1.0 / min(len(y), 1024))
    factor = int(COMFORTABLE_BAND / band)
    yield Finding(
        "oversampling",
        "",
        {"band / Nyquist frequency": band, "factor": float(factor)},
        "Almost all of each output lies in a small share of the band: poles lie at 1, and noise is fitted.",
        f"data.resample({factor}), with inputs that were sampled as fast.",
    )


def _length(record: IOData, support: int) -> Iterator[Finding]:
    if support < LOW_ORDER:
        channels = record.n_inputs + record.n_outputs
        yield Finding(
            "length",
            "",
            {"samples": float(record.length), "highest order": float(support)},
            f"Order n needs {2 * (channels + 1)} samples for each of 1 + n / {record.n_outputs} block rows.",
            "Take a longer record, fewer channels or a lower order.",
        )
