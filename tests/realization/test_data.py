"""`IOData`: what it takes, what it refuses, and what its parts are."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, RealizationError, ShapeError
from realization.signals import IOData
from realization.signals.data import as_data
from tests.tolerances import assert_close


def test_vectors_become_one_column():
    data = IOData([1, 2, 3], [4, 5, 6], dt=0.5)
    assert data.y.shape == data.u.shape == (3, 1)
    assert (data.length, data.n_outputs, data.n_inputs, len(data)) == (3, 1, 1, 3)
    assert data.y.dtype == np.float64
    assert_close(data.time, [0.0, 0.5, 1.0], "bitwise")


@pytest.mark.parametrize("u", [None, np.empty((4, 0))])
def test_a_time_series_has_no_inputs(u):
    data = IOData(np.ones((4, 2)), u)
    assert data.u is None
    assert data.n_inputs == 0
    assert data.inputs.shape == (4, 0)
    assert data.input_names == ()
    assert_close(data.time, [0.0, 1.0, 2.0, 3.0], "bitwise")


def test_names_follow_columns():
    assert IOData(np.ones((2, 2)), np.ones(2)).output_names == ("y1", "y2")
    named = IOData(np.ones((2, 2)), np.ones(2), output_names=["a", "b"], input_names=["c"])
    assert (named.output_names, named.input_names) == (("a", "b"), ("c",))
    assert named[1:].output_names == ("a", "b")


def test_the_record_is_its_own_and_stays():
    y = np.ones(3)
    data = IOData(y)
    y[0] = 7
    assert data.y[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        data.y[0] = 2
    with pytest.raises(FrozenInstanceError):
        data.dt = 1.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"y": np.ones(3), "u": np.ones(4)}, ShapeError, "y has 3 samples and u has 4"),
        ({"y": np.ones((2, 2, 2))}, ShapeError, "shape"),
        ({"y": 1.0}, ShapeError, "shape"),
        ({"y": []}, ShapeError, "no samples"),
        (
            {"y": [1.0, np.nan, np.inf]},
            DataError,
            "2 values that are NaN or infinite, the first at row 1, column 0",
        ),
        ({"y": [1.0], "u": [np.inf]}, DataError, "u has 1 values"),
        ({"y": ["a"]}, DataError, "not an array of numbers"),
        ({"y": [[1.0], [1.0, 2.0]]}, DataError, "not an array of numbers"),
        ({"y": [1.0], "dt": 0.0}, DataError, "positive"),
        ({"y": [1.0], "dt": np.nan}, DataError, "positive"),
        ({"y": [1.0], "output_names": ["a", "b"]}, ShapeError, "one each"),
        ({"y": [1.0], "output_names": "a"}, ShapeError, "one each"),
        ({"y": [1.0], "input_names": ["a"]}, ShapeError, "one each"),
    ],
)
def test_what_is_refused(arguments, error, message):
    with pytest.raises(error, match=message) as caught:
        IOData(**arguments)
    assert isinstance(caught.value, RealizationError)


@given(T=st.integers(2, 50), fraction=st.floats(0.01, 0.99))
def test_split_gives_both_parts_in_order(T, fraction):
    data = IOData(np.arange(T), -np.arange(T), dt=2.0)
    if 0 < round(fraction * T) < T:
        first, second = data.split(fraction)
        assert first.dt == second.dt == 2.0
        assert_close(np.vstack([first.y, second.y]), data.y, "bitwise")
        assert_close(np.vstack([first.u, second.u]), data.u, "bitwise")
    else:
        with pytest.raises(ShapeError, match="empty"):
            data.split(fraction)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, np.nan])
def test_split_refuses_a_fraction_outside(fraction):
    with pytest.raises(DataError, match="between 0 and 1"):
        IOData(np.ones(4)).split(fraction)


@pytest.mark.parametrize("kind", ["constant", "linear"])
def test_detrend_removes_its_polynomial_and_nothing_else(kind, rng):
    T = 40
    time = np.arange(T)[:, None]
    basis = time ** np.arange(2 if kind == "linear" else 1)
    noise = rng.standard_normal((T, 2))
    noise -= basis @ np.linalg.pinv(basis) @ noise  # orthogonal to the trend
    trend = basis @ rng.standard_normal((basis.shape[1], 2))
    out = IOData(noise + trend, noise[:, :1] + 5.0).detrend(kind)
    assert_close(out.y, noise, scale=np.abs(trend).max())
    assert_close(out.u, noise[:, :1], scale=5.0)


def test_detrend_refuses_another_kind():
    with pytest.raises(DataError, match="'constant' or 'linear'"):
        IOData(np.ones(4)).detrend("quadratic")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("rows", [0, slice(0, 4, 2), slice(None, None, -1), slice(2, 2)])
def test_only_consecutive_samples_are_a_record(rows):
    with pytest.raises(ShapeError):
        IOData(np.ones(4))[rows]


def test_frame_columns_by_name():
    frame = pd.DataFrame({"t": [0, 1], "u": [1.0, 2.0], "y": [3, 4], "text": ["a", "b"]})
    data = IOData.from_frame(frame, inputs=["u"], outputs=["y", "t"], dt=0.1)
    assert_close(data.y, [[3, 0], [4, 1]], "bitwise")
    assert (data.input_names, data.output_names, data.dt) == (("u",), ("y", "t"), 0.1)
    assert IOData.from_frame(frame, outputs=["y"]).u is None
    with pytest.raises(DataError, match="'z' is not there; the columns are: t, u, y, text"):
        IOData.from_frame(frame, outputs=["z"])
    with pytest.raises(DataError, match="'text' is not numeric"):
        IOData.from_frame(frame, outputs=["text"])
    with pytest.raises(DataError, match="at least one output"):
        IOData.from_frame(frame, outputs=[])


def test_as_data_leaves_a_record_and_wraps_an_array():
    data = IOData(np.ones(3))
    assert as_data(data) is data
    assert as_data(np.ones((3, 2))).n_outputs == 2


def test_it_says_what_it_is():
    assert (
        repr(IOData(np.ones((9, 2)), np.ones(9), 0.25)) == "IOData(9 samples, 2 outputs, 1 input, dt=0.25 s)"
    )
    assert repr(IOData([1.0])) == "IOData(1 sample, 1 output, 0 inputs, dt=None)"
