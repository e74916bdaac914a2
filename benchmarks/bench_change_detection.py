"""Changes and faults in measured records: false alarms against the rate allowed, and delays of detection.

1. False alarms. Ten measured records; the model is identified on the first half, the tests run on the other,
   in which nothing is known to be wrong. Thresholds are those of white Gaussian innovations, or taken from
   the third quarter and judged on the fourth. Intervals cover with 95 % (`rz.FalseAlarms`).
2. Sensor faults put into the half that was held back, one sensor after another, at 20 moments each; sizes in
   standard deviations of that sensor's innovation. An alarm within 100 samples of the onset is a detection;
   what the same test does without a fault at the same moments stands beside it.
3. The same faults, with the level of each statistic put where the record without a fault passes it within 100
   samples in one case of twenty: innovations against the outputs themselves (the same statistic of a model
   without states).
4. Events with a date in the literature: the Nile in 1899, the two strongest El Niño events, recessions.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from _results import Row, write_results

import realization as rz

SETS = ("dryer", "robot_arm", "CD_player_arm", "powerplant", "evaporator", "steamgen", "cascaded_tanks")
SERIES = ("sunspots", "macro", "elnino")
TESTS = ("sample", "window", "glr", "cusum")
RATES = (0.05, 0.01)
CALIBRATED_RATE = 0.02
WATCHED = ("dryer", "CD_player_arm", "evaporator")
FAULT_RATE = 0.001
MOMENTS, HORIZON = 20, 100
CHANCE = 0.05
FAULTS: tuple[tuple[str, float | None, str], ...] = (
    ("bias", 1.0, "bias of 1 deviation"),
    ("bias", 2.0, "bias of 2 deviations"),
    ("bias", 4.0, "bias of 4 deviations"),
    ("drift", 0.05, "drift of 0.05 deviations a sample"),
    ("drift", 0.2, "drift of 0.2 deviations a sample"),
    ("gain", 0.1, "gain 10 % too high"),
    ("gain", -0.5, "gain halved"),
    ("frozen", None, "frozen"),
)


def load(name: str) -> rz.IOData:
    return rz.load_series(name) if name in SERIES else rz.load_data(name)


def percent(found: rz.FalseAlarms) -> tuple[float, tuple[float, float]]:
    return 100 * found.rate, (100 * found.lower, 100 * found.upper)


def false_alarms(name: str, model: rz.InnovationsModel, held: rz.IOData) -> Iterator[Row]:
    """Measured rates, promised ones as the peer."""
    for test in TESTS:
        for rate in RATES:
            found = rz.detect_changes(model, held, test=test, false_alarm=rate)  # pyright: ignore[reportArgumentType]
            if test == "sample" and rate == RATES[0]:
                yield Row(f"{name}: held-out samples", len(held), "samples")
                yield Row(f"{name}: whiteness, p", found.whiteness.p_value, "probability")
                yield Row(f"{name}: scale of Re", found.calibration.scale, "ratio", "model", 1.0)
            value, interval = percent(found.measured)
            case = f"{name}: false alarms, {test}, chi-squared level of {100 * rate:g} %"
            yield Row(case, value, "%", "allowed", 100 * rate, interval=interval)
    reference, rest = held.split(0.5)
    if CALIBRATED_RATE * len(reference) < 5:
        return
    for test in TESTS:
        found = rz.detect_changes(
            model, rest, test=test, false_alarm=CALIBRATED_RATE, reference=reference, calibrate=True
        )  # pyright: ignore[reportArgumentType]
        flags = ~np.isnan(found.statistic)
        cluster = 16 if test in ("window", "glr") else 1
        again = rz.FalseAlarms.of(found.statistic[flags] > found.threshold, cluster=cluster)
        value, interval = percent(again)
        case = f"{name}: false alarms, {test}, level of {100 * CALIBRATED_RATE:g} % from a reference"
        yield Row(case, value, "%", "allowed", 100 * CALIBRATED_RATE, interval=interval)


def moments(length: int) -> np.ndarray:
    return np.linspace(0.2 * length, length - HORIZON - 1, MOMENTS).astype(int)


def broken(model: rz.InnovationsModel, held: rz.IOData, kind: str, size: float | None) -> Iterator[tuple]:
    """Records with a fault, sensor after sensor, with the moment of the fault."""
    for output in range(held.n_outputs):
        unit = 1.0 if kind == "gain" else float(np.sqrt(model.Re[output, output]))
        for at in moments(len(held)):
            scaled = None if size is None else size * unit
            yield rz.sensor_fault(held, kind, at=int(at), size=scaled, output=output), int(at)  # pyright: ignore[reportArgumentType]


def summary(case: str, delays: list[float], peer: tuple[str, list[float]]) -> Iterator[Row]:
    """Share that was found within the horizon, and the median delay where half of them were."""
    share = [100 * float(np.mean(np.array(found) < HORIZON)) for found in (delays, peer[1])]
    yield Row(f"{case}: found", share[0], "%", peer[0], share[1])
    medians = [float(np.median(found)) for found in (delays, peer[1])]
    if medians[0] < HORIZON:
        other = medians[1] if medians[1] < HORIZON else None
        yield Row(
            f"{case}: median delay", medians[0], "samples", peer[0] if other is not None else None, other
        )


def after(alarms: np.ndarray, at: int) -> float:
    later = alarms[alarms >= at]
    return float(later[0] - at) if len(later) else np.inf


def faults(name: str, model: rz.InnovationsModel, held: rz.IOData) -> Iterator[Row]:
    """Detections at the chi-squared level; alarms at the same moments without a fault as the peer."""
    for test in TESTS:
        options = {"test": test, "false_alarm": FAULT_RATE}
        whole = rz.detect_changes(model, held, **options)
        control = [after(whole.alarms, int(at)) for at in moments(len(held))] * held.n_outputs
        for kind, size, words in FAULTS:
            delays = [
                after(rz.detect_changes(model, record, **options).alarms, at)
                for record, at in broken(model, held, kind, size)
            ]
            yield from summary(
                f"{name}: {words}, {test}, level of 0.1 %", delays, ("without a fault", control)
            )


def static(train: rz.IOData) -> rz.InnovationsModel:
    """Outputs as they are: mean and covariance, no states and no inputs that count."""
    p, m = train.n_outputs, train.n_inputs
    Re = np.atleast_2d(np.cov(train.y, rowvar=False))
    return rz.InnovationsModel(
        np.zeros((0, 0)), np.zeros((0, m)), np.zeros((p, 0)), np.zeros((p, m)),
        K=np.zeros((0, p)), Re=Re, y_mean=train.y.mean(axis=0),
    )  # fmt: skip


def against_outputs(
    name: str, model: rz.InnovationsModel, train: rz.IOData, held: rz.IOData
) -> Iterator[Row]:
    """Innovations against outputs, each at the level that 5 % of 100 samples without a fault pass."""
    for test in ("sample", "window", "glr"):
        for kind, size, words in FAULTS:
            found: list[list[float]] = []
            for judge in (model, static(train)):
                calm = rz.detect_changes(judge, held, test=test).statistic
                spans = np.lib.stride_tricks.sliding_window_view(np.nan_to_num(calm), HORIZON)
                level = np.quantile(spans.max(axis=1), 1 - CHANCE, method="higher")
                delays = []
                for record, at in broken(model, held, kind, size):
                    statistic = rz.detect_changes(judge, record, test=test).statistic
                    delays.append(after(np.flatnonzero(statistic > level), at))
                found.append(delays)
            case = f"{name}: {words}, {test}, 5 % chance"
            yield from summary(case, found[0], ("outputs alone", found[1]))


def nile() -> Iterator[Row]:
    """Yearly flow: mean and variance of the first 26 years, then a jump in 1899 (Cobb 1978)."""
    data, known = rz.load_series("nile"), 1899
    model = static(data[:26])
    for test in TESTS:
        found = rz.detect_changes(model, data[26:], test=test, window=8, false_alarm=0.01)
        years = 1871 + 26 + found.onsets
        early = int((1871 + 26 + found.alarms < known).sum())
        yield Row(
            f"nile: first alarm of the jump in {known}, {test}", float(years[years >= known][0]), "year"
        )
        yield Row(f"nile: alarms before it, {test}", early, "years")


def el_nino() -> Iterator[Row]:
    """Sea surface temperature less its monthly means, identified on 1950 to 1980; events of 1982 and 1997."""
    years, first = rz.load_series("elnino").y.reshape(-1, 12), 372
    data = rz.IOData((years - years[:31].mean(axis=0)).ravel())
    model = rz.pem(data[:first], order=1).model
    events = {"1982 to 1983": (1982 + 3 / 12, 1983 + 7 / 12), "1997 to 1998": (1997 + 4 / 12, 1998 + 6 / 12)}
    for test in TESTS:
        found = rz.detect_changes(model, data[first:], test=test, window=6, false_alarm=0.005)
        years = 1950 + (first + found.alarms) / 12
        outside = np.ones(len(years), dtype=bool)
        for name, (begin, end) in events.items():
            inside = (years >= begin - 1e-9) & (years <= end + 1e-9)
            outside &= ~inside
            yield Row(f"elnino: alarms in {name}, {test}", int(inside.sum()), "months")
            if inside.any():
                months = 12 * (years[inside][0] - begin)
                yield Row(f"elnino: delay in {name}, {test}", round(float(months)), "months")
        quiet = len(found.statistic) - sum(round(12 * (b - a)) + 1 for a, b in events.values())
        yield Row(f"elnino: alarms at other times, {test}", 100 * outside.sum() / quiet, "%", "allowed", 0.5)


def recessions() -> Iterator[Row]:
    """Quarterly growth, identified on 1959 to 1984; recessions of 1990 III, 2001 I, 2007 IV (NBER)."""
    data = rz.load_series("macro")
    train, held = data.split(0.5)
    model = rz.identify(train).model
    start = 1959.25 + len(train) / 4
    begins = {"1990 III": (1990.5, 1991.0), "2001 I": (2001.0, 2001.75), "2007 IV": (2007.75, 2009.25)}
    for test in ("sample", "window"):
        found = rz.detect_changes(model, held, test=test, window=4, false_alarm=0.01)
        quarters = start + found.alarms / 4
        outside = len(quarters)
        for name, (begin, end) in begins.items():
            count = int(((quarters >= begin) & (quarters <= end)).sum())
            outside -= count
            yield Row(f"macro: alarms in the recession of {name}, {test}", count, "quarters")
        yield Row(f"macro: alarms at other times, {test}", outside, "quarters")


def main() -> None:
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    for name in (*SETS, *SERIES):
        train, held = load(name).split(0.5)
        model = rz.identify(train).model
        rows += false_alarms(name, model, held)
        if name in WATCHED:
            rows += faults(name, model, held)
            rows += against_outputs(name, model, train, held)
        print(name, len(rows), flush=True)
    rows += [*nile(), *el_nino(), *recessions()]
    write_results("change_detection", rows)


if __name__ == "__main__":
    main()
