"""Pictures: what is drawn is what was given, in the colour of its meaning."""

from __future__ import annotations

import itertools

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from scipy.stats import chi2

from realization import plot
from realization.errors import DataError, ShapeError
from realization.signals import IOData
from realization.systems import InnovationsModel, StateSpace
from tests.source import run_python
from tests.tolerances import assert_close

# Machado, Oliveira, Fernandes, IEEE Trans. Visualization and Computer Graphics 15 (2009), severity 1.
COLOUR_VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def model() -> InnovationsModel:
    A = [[0.9, 0.2], [-0.2, 0.9]]
    return InnovationsModel(A, [[1.0], [0.5]], [[1.0, 0.0]], K=[[0.3], [0.1]], Re=[[0.25]], dt=0.1)


def lab(linear_rgb):
    """CIE L*a*b* of linear sRGB, white D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ratio = np.asarray(to_xyz) @ linear_rgb / [0.9505, 1.0, 1.089]
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_colours_are_told_apart(vision):
    srgb = np.array([to_rgb(colour) for colour in plot.COLOURS.values()])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = [lab(np.clip(np.asarray(COLOUR_VISION[vision]) @ rgb, 0, 1)) for rgb in linear]
    distances = {
        (a, b): float(np.linalg.norm(x - y))
        for (a, x), (b, y) in itertools.combinations(zip(plot.COLOURS, seen), 2)
    }
    assert min(distances.values()) > 20, min(distances, key=lambda pair: distances[pair])


def test_style_is_left_behind():
    before = dict(matplotlib.rcParams)
    with plot.style():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert dict(matplotlib.rcParams) == before


def test_functions_draw_into_the_axes_they_are_given(model):
    data = IOData(np.arange(8.0), np.ones(8))
    calls = [
        lambda ax: plot.hankel_singular_values([2.0, 1.0], ax=ax),
        lambda ax: plot.fit(data, data.y, ax=ax),
        lambda ax: plot.innovations(data.y, [[1.0]], ax=ax),
        lambda ax: plot.autocorrelation(data.y, lags=3, ax=ax),
        lambda ax: plot.poles(model, ax=ax),
        lambda ax: plot.impulse_response(model, ax=ax),
        lambda ax: plot.reconstruction(data, data.y, kept=[1], ax=ax),
        lambda ax: plot.memory({"window": [1.0, 0.0]}, ax=ax),
    ]
    for call in calls:
        _, ax = plt.subplots()
        open_before = plt.get_fignums()
        assert call(ax) is ax
        assert plt.get_fignums() == open_before
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert call(None) is not ax


def test_hankel_singular_values():
    ax = plot.hankel_singular_values([3.0, 1.0, 0.1, 0.0], order=2)
    kept, left_out = ax.lines[:2]
    assert_close(kept.get_ydata(), [3.0, 1.0], "bitwise")
    assert_close(left_out.get_ydata(), [0.1, 3 * np.finfo(float).eps])
    assert to_hex(kept.get_color()) == plot.COLOURS["fading"]
    assert to_hex(left_out.get_color()) == plot.COLOURS["baseline"]
    assert ax.lines[2].get_xdata()[0] == 2.5


@pytest.mark.parametrize(
    ("values", "order"), [([], None), ([1.0, -1.0], None), ([0.0], None), ([1.0], 2), ([np.nan], 1)]
)
def test_hankel_singular_values_refused(values, order):
    with pytest.raises(DataError):
        plot.hankel_singular_values(values, order)


def test_fit(rng):
    data = IOData(rng.standard_normal((20, 2)), dt=0.5, output_names=["a", "b"])
    y_hat = {"one step": data.y + 0.1, "simulation": 0 * data.y}
    ax = plot.fit(data, y_hat, output=1)
    measured, first, second = ax.lines
    assert_close(measured.get_ydata(), data.y[:, 1], "bitwise")
    assert_close(measured.get_xdata(), 0.5 * np.arange(20), "bitwise")
    assert_close(first.get_ydata(), y_hat["one step"][:, 1], "bitwise")
    assert_close(second.get_ydata(), np.zeros(20), "bitwise")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("time, s", "b")
    expected = 100 * (1 - 0.1 * np.sqrt(20) / np.linalg.norm(data.y[:, 1] - data.y[:, 1].mean()))
    assert first.get_label() == f"one step, {expected:.1f} %"


def test_fit_refused(rng):
    data = IOData(rng.standard_normal(20))
    with pytest.raises(ShapeError, match="20 rows"):
        plot.fit(data, np.ones(19))
    with pytest.raises(ShapeError, match="column 1"):
        plot.fit(data, data.y, output=1)
    with pytest.raises(DataError, match="one or two"):
        plot.fit(data, dict.fromkeys("abc", data.y))
    with pytest.raises(DataError, match="constant"):
        plot.fit(np.ones(5), np.ones(5))


def test_innovations(rng):
    e = rng.standard_normal((30, 2))
    Re = np.array([[2.0, 0.3], [0.3, 1.0]])
    ax = plot.innovations(e, Re, kept=[3, 7], alpha=0.05, dt=2.0)
    score = np.array([row @ np.linalg.inv(Re) @ row for row in e])
    segments = np.array(ax.collections[0].get_segments())
    assert_close(segments[:, 1, 1], score)
    assert_close(segments[:, 1, 0], 2.0 * np.arange(30))
    kept, level = ax.lines
    assert_close(kept.get_xydata(), np.column_stack([[6.0, 14.0], score[[3, 7]]]))
    assert to_hex(kept.get_color()) == plot.COLOURS["eidetic"]
    assert_close(level.get_ydata()[0], chi2.isf(0.05, 2), "iterative")


@pytest.mark.parametrize("kept", [[30], [-1], [0.5]])
def test_a_kept_sample_outside_the_record_is_refused(kept):
    with pytest.raises(DataError, match="kept"):
        plot.innovations(np.ones(30), [[1.0]], kept=kept)
    with pytest.raises(DataError, match="kept"):
        plot.reconstruction(np.arange(30.0), np.arange(30.0), kept=kept)


def test_innovations_need_a_covariance_that_fits():
    with pytest.raises(ShapeError, match="Re has shape"):
        plot.innovations(np.ones((5, 2)), [[1.0]])
    with pytest.raises(DataError, match="alpha"):
        plot.innovations(np.ones(5), [[1.0]], alpha=1.0)


def test_autocorrelation(rng):
    e = rng.standard_normal(200)
    ax = plot.autocorrelation(e, lags=5)
    heights = np.array(ax.collections[0].get_segments())[:, 1, 1]
    full = np.correlate(e, e, mode="full")[len(e) :] / (e @ e)
    assert_close(heights, full[:5])
    assert_close(ax.patches[0].get_height() / 2, np.sqrt(chi2.isf(0.05, 1) / 200))


def test_autocorrelation_refused():
    with pytest.raises(DataError, match="lags=4"):
        plot.autocorrelation(np.ones(4), lags=4)
    with pytest.raises(DataError, match="zero"):
        plot.autocorrelation(np.zeros(9), lags=4)


def test_poles(model):
    ax = plot.poles(model)
    drawn = ax.lines[-1].get_xydata()
    assert_close(sorted(map(tuple, drawn)), [(0.9, -0.2), (0.9, 0.2)], "iterative")
    circle = next(line for line in ax.lines if len(line.get_xdata()) > 100)
    assert_close(np.hypot(*circle.get_xydata().T), np.ones(len(circle.get_xdata())))
    assert ax.get_aspect() == 1.0


def test_unstable_poles_are_in_the_picture():
    ax = plot.poles(StateSpace([[-3.0]], [[1.0]], [[1.0]]))
    assert ax.get_xlim()[0] < -3


def test_poles_in_continuous_time():
    ax = plot.poles(StateSpace([[-2.0]], [[1.0]], [[1.0]], dt=0.0))
    assert ax.get_xlim()[0] < -2 < 0 < ax.get_xlim()[1]
    assert "1/s" in ax.get_xlabel()


def test_poles_need_a_state():
    with pytest.raises(DataError, match="no state"):
        plot.poles(StateSpace(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0))))


def test_impulse_response(model):
    ax = plot.impulse_response(model, 6, meaning="window")
    drawn = ax.lines[-1]
    h = [0.0, *(float((model.C @ np.linalg.matrix_power(model.A, k) @ model.B)[0, 0]) for k in range(5))]
    assert_close(drawn.get_xydata(), np.column_stack([0.1 * np.arange(6), h]))
    assert to_hex(drawn.get_color()) == plot.COLOURS["window"]


def test_impulse_response_refused(model):
    for options in ({"count": 0}, {"input": 1}, {"output": -1}, {"meaning": "pink"}):
        with pytest.raises(DataError):
            plot.impulse_response(model, **options)


def test_memory():
    ax = plot.memory({"window": [1.0, 1.0, 0.0], "fading": [0.9, 0.5, 0.25]})
    outlines = [patch for patch in ax.patches if not patch.get_fill()]
    assert_close(outlines[1].get_data().values, [0.9, 0.5, 0.25], "bitwise")
    assert_close(outlines[1].get_data().edges, [0.5, 1.5, 2.5, 3.5], "bitwise")
    assert [to_hex(patch.get_edgecolor()) for patch in outlines] == [
        plot.COLOURS["window"],
        plot.COLOURS["fading"],
    ]
    with pytest.raises(DataError, match="meanings"):
        plot.memory({"pink": [1.0]})


def test_reconstruction():
    data = IOData(np.arange(10.0), dt=0.1)
    ax = plot.reconstruction(data, data.y + 1, kept=[2, 4], without=0 * data.y)
    measured, alone, rebuilt, ticks = ax.lines
    assert_close(measured.get_ydata(), data.y[:, 0], "bitwise")
    assert_close(alone.get_ydata(), np.zeros(10), "bitwise")
    assert_close(rebuilt.get_ydata(), data.y[:, 0] + 1, "bitwise")
    assert_close(ticks.get_xdata(), [0.2, 0.4])


def test_matplotlib_is_loaded_on_the_first_call_only():
    code = "import sys, realization.plot; sys.exit('matplotlib' in sys.modules)"
    assert run_python(code).returncode == 0


def test_without_matplotlib_the_extra_is_named():
    code = (
        "import sys; sys.modules['matplotlib'] = None; import realization.plot as plot\n"
        "try:\n    plot.memory({'window': [1.0]})\nexcept ImportError as error:\n    print(error)"
    )
    assert "pip install 'realization[plot]'" in run_python(code).stdout


def test_lines_break_at_gaps_and_between_experiments(rng):
    y = rng.standard_normal((20, 2))
    y[5, 0] = np.nan
    parts = [IOData(y, missing=True), IOData(rng.standard_normal((10, 2)), missing=True)]
    data = IOData.concatenate(parts)
    guess = np.where(data.observed, data.y, 7.0)
    ax = plot.fit(data, guess)
    measured, modelled = (line.get_ydata() for line in ax.get_lines())
    assert_close(np.isnan(measured).nonzero()[0], np.array([5, 20]))
    assert_close(np.isnan(modelled).nonzero()[0], np.array([20]))
    assert ax.get_legend().get_texts()[1].get_text() == "model, 100.0 %"  # the gap does not count
    ax = plot.reconstruction(data, guess, kept=[1], without=guess, output=1)
    assert all(np.isnan(line.get_ydata()).sum() == 1 for line in ax.get_lines()[:3])
    plt.close("all")
