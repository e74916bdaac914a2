"""Several experiments, units, and what is done to the columns of a record."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from tests.strategies import seeds
from tests.tolerances import assert_close

CUTS = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def experiments(seed, lengths, m=2):
    rng = np.random.default_rng(seed)
    return [rz.IOData(rng.standard_normal((n, 2)), rng.standard_normal((n, m)), 0.5) for n in lengths]


@given(seed=seeds, lengths=CUTS)
def test_experiments_come_apart_as_they_were(seed, lengths):
    parts = experiments(seed, lengths)
    for part, again in zip(parts, rz.IOData.concatenate(parts).experiments, strict=True):
        assert_close(again.y, part.y, "bitwise")
        assert_close(again.u, part.u, "bitwise")


@given(seed=seeds, lengths=CUTS, cut=st.integers(1, 47))
def test_a_slice_keeps_the_boundaries(seed, lengths, cut):
    whole = rz.IOData.concatenate(experiments(seed, lengths))
    if cut < whole.length:
        again = rz.IOData.concatenate([whole[:cut], whole[cut:]])
        assert set(again.starts) == {*whole.starts, cut}


@given(seed=seeds, lengths=st.lists(st.integers(30, 60), min_size=1, max_size=3))
def test_every_operation_keeps_experiments_apart(seed, lengths):
    parts = experiments(seed, lengths)
    whole = rz.IOData.concatenate(parts)
    for change in (
        lambda d: d.detrend(2),
        lambda d: d.prefilter(band=(0.1, 0.6)),
        lambda d: d.prefilter([1.0, 0.2], [1.0, -0.5]),
        lambda d: d.resample(3),
        lambda d: d.resample(dt=0.75),
        lambda d: d.delay([2, -1]),
    ):
        expected = rz.IOData.concatenate([change(part) for part in parts])
        assert change(whole).starts == expected.starts
        assert_close(change(whole).y, expected.y, "bitwise")
        assert_close(change(whole).u, expected.u, "bitwise")


@given(seed=seeds, d=st.integers(-5, 5))
def test_a_delay_moves_inputs_and_can_be_taken_back(seed, d):
    (data,) = experiments(seed, [30])
    moved = data.delay(d)
    late, early = max(d, 0), max(-d, 0)
    assert_close(moved.y, data.y[late : 30 - early], "bitwise")
    assert_close(moved.u, data.u[late - d : 30 - early - d], "bitwise")
    back = moved.delay(-d)
    assert_close(back.u, data.u[abs(d) : 30 - abs(d)], "bitwise")
    assert_close(back.y, data.y[abs(d) : 30 - abs(d)], "bitwise")


def test_a_delay_takes_the_dead_time_out_of_a_plant(rng):
    u = rng.standard_normal((200, 1))
    y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u)
    late = rz.IOData(np.vstack([np.zeros((7, 1)), y[:-7]]), u).delay(7)
    assert_close(late.y, y[:-7], "bitwise")
    assert_close(late.u, u[:-7], "bitwise")


@given(seed=seeds, kind=st.integers(0, 4))
def test_detrending_twice_is_detrending_once(seed, kind):
    (data,) = experiments(seed, [40])
    once = data.detrend(kind)
    assert_close(once.detrend(kind).y, once.y, scale=10.0)
    time = np.arange(40)[:, None] / 40
    trended = rz.IOData(data.y + 5 * time**kind, data.u, 0.5)
    assert_close(trended.detrend(kind).y, once.y, scale=10.0)


def test_a_common_filter_leaves_the_plant_alone(rng):
    plant = rz.StateSpace([[0.8, 0.1], [0.0, 0.4]], [[1.0], [0.5]], [[1.0, -1.0]])
    u = rng.standard_normal((300, 1))
    u[0] = 0
    data = rz.IOData(plant.simulate(u), u).prefilter([0.3, 0.1], [1.0, -0.6])
    assert_close(plant.simulate(data.u), data.y, "recurrence")


def test_a_band_keeps_what_is_in_it_and_constants_do_not_jump():
    time = np.arange(4000) * 0.01
    inside, outside = np.sin(2 * np.pi * 2 * time), np.sin(2 * np.pi * 20 * time)
    kept = rz.IOData(inside + outside, dt=0.01).prefilter(band=(None, 5.0)).y[1000:, 0]
    gain = scipy.signal.butter(4, 5.0, fs=100, output="sos")
    response = abs(scipy.signal.sosfreqz(gain, [20.0], fs=100)[1][0])
    assert abs(np.std(kept) - np.std(inside)) < 2 * response + 1e-3
    assert_close(
        rz.IOData(np.full(50, 3.0)).prefilter(band=(None, 0.1)).y, np.full((50, 1), 3.0), "iterative"
    )


def test_resampling_keeps_slow_signals_and_takes_away_fast_ones():
    time = np.arange(3000) * 0.01
    slow = np.sin(2 * np.pi * 0.5 * time)
    found = rz.IOData(slow + np.sin(2 * np.pi * 33 * time), dt=0.01).resample(5)
    assert (found.length, found.dt) == (600, pytest.approx(0.05))
    assert np.abs(found.y[20:-20, 0] - slow[::5][20:-20]).max() < 0.02
    assert rz.IOData(slow, dt=0.01).resample(dt=0.015).length == 2000
    assert_close(rz.IOData(slow, dt=0.01).resample(1).y[:, 0], slow, "bitwise")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: d.prefilter(), rz.DataError, "either b"),
        (lambda d: d.prefilter([1.0], [1.0, -1.2]), rz.DataError, "pole of modulus 1.2"),
        (lambda d: d.prefilter(band=(None, 3.0)), rz.DataError, "Nyquist frequency 1"),
        (lambda d: d.prefilter(band=(0.5, 0.2)), rz.DataError, "rising"),
        (lambda d: d.resample(), rz.DataError, "either factor or dt"),
        (lambda d: d.resample(0), rz.DataError, "at least 1"),
        (lambda d: d.resample(dt=0.5 * np.pi), rz.DataError, "whole numbers"),
        (lambda d: d.delay([1]), rz.ShapeError, "one whole number each"),
        (lambda d: d.delay(99), rz.ShapeError, "empty"),
        (lambda d: d.detrend(-1), rz.DataError, "degree from 0 to 5"),
        (lambda d: rz.IOData.concatenate([]), rz.DataError, "no records"),
        (lambda d: rz.IOData.concatenate([d, d.resample(2)]), rz.DataError, "dt=1.0"),
        (lambda d: rz.IOData.concatenate([d, rz.IOData(d.y, dt=0.5)]), rz.ShapeError, "the same channels"),
        (lambda d: rz.IOData(d.y, starts=(0, 50)), rz.ShapeError, "below"),
        (lambda d: rz.IOData(d.y, output_units=["m"]), rz.ShapeError, "one each"),
    ],
)
def test_what_is_refused(call, error, message):
    (data,) = experiments(0, [50])
    with pytest.raises(error, match=message):
        call(data)


def test_missing_samples_are_no_numbers_to_filter():
    data = rz.IOData([1.0, np.nan, 2.0], missing=True)
    for call in (lambda: data.resample(2), lambda: data.prefilter([1.0])):
        with pytest.raises(rz.DataError, match="1 outputs are missing"):
            call()


def test_methods_that_would_run_over_a_boundary_refuse(rng):
    part = rz.IOData(rng.standard_normal((100, 1)), rng.standard_normal((100, 1)))
    both = rz.IOData.concatenate([part, part])
    model = rz.InnovationsModel([[0.5]], [[1.0]], [[1.0]], K=[[0.2]])
    for call in (lambda d: rz.kalman_filter(model, d), lambda d: rz.innovations(model, d)):
        with pytest.raises(rz.DataError, match=r"2 experiments.*0, 100"):
            call(both)


def test_units_stand_beside_names_and_stay():
    data = rz.IOData(np.ones((8, 2)), np.ones(8), output_names=["a", "b"], output_units=["m", ""])
    assert data.output_labels == ("a, m", "b")
    assert data.input_labels == ("u1",)
    assert data[2:].detrend().resample(2).output_units == ("m", "")
