"""`inspect_data`: silent on clean records at its stated level, and loud on each fault."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

import realization as rz
from realization.signals.column_checks import autoregression, bandwidth, drift, resolution
from realization.signals.loop_checks import excitation_order, supported_order
from tests.tolerances import assert_close

PLANT = rz.InnovationsModel([[0.8, 0.2], [-0.1, 0.5]], [[1.0], [0.4]], [[1.0, 0.3]], K=[[0.3], [0.1]])
TESTS = ("saturation", "drift", "spikes", "feedback", "delay")


def record(rng, T=1500, inputs="white"):
    u = rng.standard_normal((T, 1)) if inputs == "white" else rng.choice([-1.0, 1.0], size=(T, 1))
    if inputs == "coloured":
        u = scipy.signal.lfilter([1.0, 0.5], [1.0, -0.8], rng.standard_normal((T, 1)), axis=0)
    return u, PLANT.simulate(u, e=0.2 * rng.standard_normal((T, 1)))


def kinds(y, u=None, **options):
    return {item.kind for item in rz.inspect_data(rz.IOData(y, u, **options)).findings}


@pytest.mark.parametrize("inputs", ["white", "binary", "coloured"])
def test_false_alarms_on_clean_records_stay_at_the_level(inputs):
    runs = 80
    found = [kinds(*reversed(record(np.random.default_rng(seed), 500, inputs))) for seed in range(runs)]
    counts = {kind: sum(kind in run for run in found) for kind in TESTS}
    # At 1 % and 80 runs, more than 5 have a probability of 2e-4.
    assert max(counts.values()) <= 5, counts
    assert set().union(*found) <= set(TESTS)


def test_the_drift_test_has_its_level():
    runs = 5000
    p_values = np.array([drift(x)[1] for x in np.random.default_rng(0).standard_normal((runs, 60))])
    for level in (0.01, 0.1, 0.5):
        assert abs((p_values < level).mean() - level) < 4 * (level * (1 - level) / runs) ** 0.5


def test_each_fault_is_found_and_alone(rng):
    u, y = record(rng)
    time = np.linspace(0, 1, len(y))[:, None]
    spiky = y.copy()
    spiky[[300, 900]] += 12 * y.std()
    fresh = rng.standard_normal((len(y), 1))
    slow = scipy.signal.lfilter([0.01], [1.0, -0.99], fresh, axis=0)
    assert kinds(y, u) == set()
    assert kinds(np.clip(y, -10, 1.5 * y.std()), u) == {"saturation"}
    assert kinds(y + 4 * y.std() * time, u) == {"drift"}
    assert kinds(spiky, u) == {"spikes"}
    assert kinds(np.round(2 * y / y.std()), u) == {"quantization"}
    assert kinds(np.vstack([np.zeros((6, 1)), y[:-6]]), u) == {"delay"}
    assert kinds(np.hstack([y, 0 * y + 7]), u) == {"constant"}
    assert kinds(y, np.hstack([u, 2 * u + 1e-3 * fresh])) == {"collinear"}
    assert kinds(slow) == {"oversampling"}
    assert "excitation" in kinds(y, np.sin(0.3 * np.arange(len(y))))
    assert "length" in kinds(y[:20], u[:20])


def test_missing_samples_are_counted_and_worked_around(rng):
    u, y = record(rng)
    y[100:107] = np.nan
    found = rz.inspect_data(rz.IOData(y, u, missing=True))
    (item,) = found.findings
    assert (item.kind, item.column) == ("missing", "y1")
    assert item.evidence["samples"] == item.evidence["longest gap"] == 7
    assert (found.examined.start, found.examined.stop) == (107, 1500)


@pytest.mark.parametrize(("gain", "late"), [(0.5, 1), (1.0, 0)])
def test_feedback_is_found(gain, late, rng):
    T = 2000
    reference, e = rng.standard_normal(T), 0.5 * rng.standard_normal(T)
    y, u, x = np.zeros(T), np.zeros(T), 0.0
    for t in range(T):
        y[t] = x + e[t]
        u[t] = reference[t] - gain * y[t - late]
        x = 0.8 * x + u[t] + 0.3 * e[t]
    found = rz.inspect_data(rz.IOData(y, u))
    (item,) = found.of("feedback")
    assert item.evidence["p"] < 1e-4
    assert any("delay" in text for text in found.skipped)


@pytest.mark.parametrize("delay", [2, 5, 17])
def test_the_dead_time_is_the_one_that_was_put_in(delay, rng):
    u, y = record(rng, 3000, "coloured")
    late = rz.IOData(y[:-delay], u[delay:])  # the plant itself answers one sample late
    (item,) = rz.inspect_data(rz.IOData(y, u).delay(-delay)).of("delay") or (None,)
    assert late.length == 3000 - delay
    assert item is None or item.evidence["samples"] == delay + 1
    shifted = rz.IOData(np.vstack([np.zeros((delay, 1)), y[:-delay]]), u)
    (item,) = rz.inspect_data(shifted).of("delay")
    assert item.evidence["samples"] == delay + 1


def test_feedthrough_is_no_feedback(rng):
    u, y = record(rng)
    assert kinds(y + 2 * u, u) == set()


def test_experiments_are_not_run_together(rng):
    u, y = record(rng)
    data = rz.IOData.concatenate([rz.IOData(y[:600], u[:600]), rz.IOData(y + 100, u)])
    found = rz.inspect_data(data)
    assert (found.examined.start, found.examined.stop) == (600, 2100)
    assert found.findings == ()


@pytest.mark.parametrize("sines", [1, 2, 3])
def test_sines_excite_to_twice_their_number(sines):
    time = np.arange(800)
    u = sum(np.sin((0.5 + 0.7 * k) * time + k) for k in range(sines))
    assert excitation_order(u) == 2 * sines


def test_parts_against_closed_forms(rng):
    x = scipy.signal.lfilter([1.0], [1.0, -0.9], rng.standard_normal(20_000))
    assert_close(autoregression(x, 20)[:2], [1.0, -0.9], scale=1e12 * 0.02)
    # Spectrum of the autoregression above its own floor, the median of its upper half.
    frequency = np.linspace(0, 1, 4001)
    power = 1 / np.abs(1 - 0.9 * np.exp(-1j * np.pi * frequency)) ** 2
    above = np.cumsum(power - np.median(power[2000:]))
    assert abs(bandwidth(x) - frequency[np.argmax(above >= 0.95 * above[-1])]) < 0.03
    assert bandwidth(rng.standard_normal(5000)) is None
    assert_close(resolution(np.arange(-5, 9) * 0.1), 0.1)
    assert resolution(np.sort(rng.standard_normal(50))) == 0


@pytest.mark.parametrize(("p", "m"), [(1, 0), (1, 1), (2, 3)])
def test_the_supported_order_is_what_the_subspace_method_takes(p, m, rng):
    length = 24 * (p + m + 1)
    y, u = rng.standard_normal((length, p)), rng.standard_normal((length, m))
    order = supported_order(length, p, m)
    assert rz.n4sid(rz.IOData(y, u), order).order == order
    with pytest.raises(rz.ExcitationError):
        rz.n4sid(rz.IOData(y, u), order + 1)


def test_it_reads_as_a_table_and_refuses_a_wrong_level(rng):
    u, y = record(rng)
    text = str(rz.inspect_data(rz.IOData(np.hstack([y, 0 * y + 7]), u, 0.1, output_names=["speed", "flag"])))
    assert "1 finding" in text
    assert "constant 'flag': value 7" in text
    assert "room for orders up to" in text
    with pytest.raises(rz.DataError, match="level=1"):
        rz.inspect_data(y, level=1)
