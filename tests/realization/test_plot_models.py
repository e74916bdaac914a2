"""Bode plots with bands, poles with zeros, memory curves, bounds: what is drawn is what was computed."""

from __future__ import annotations

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.stats import norm

import realization as rz
from realization import plot
from realization.errors import DataError, ShapeError
from tests.tolerances import assert_close

OMEGA = np.array([0.5, 2.0, 10.0])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def model() -> rz.StateSpace:
    A = [[0.9, 0.3], [-0.3, 0.8]]
    return rz.StateSpace(A, [[1.0], [0.5]], [[1.0, -0.4], [0.0, 1.0]], [[0.2], [0.0]], dt=0.1)


def band(ax):
    """Lower and upper edge of the one band of an Axes, by frequency."""
    vertices = ax.collections[0].get_paths()[0].vertices
    return [
        np.array([pick(vertices[np.isclose(vertices[:, 0], w), 1]) for w in OMEGA])
        for pick in (np.min, np.max)
    ]


class TestBode:
    def test_magnitude_and_phase(self, model):
        magnitude, phase = plot.bode({"a": model, "b": model}, OMEGA, output=1)
        G = model.frequency_response(OMEGA)[:, 1, 0]
        assert_close(magnitude.lines[0].get_ydata(), 20 * np.log10(np.abs(G)))
        assert_close(phase.lines[1].get_ydata(), np.degrees(np.unwrap(np.angle(G))))
        assert magnitude.get_xscale() == "log"
        assert [text.get_text() for text in magnitude.get_legend().get_texts()] == ["a", "b"]
        assert phase.get_xlabel().endswith("rad/s")

    def test_units_and_axes_of_an_unnamed_step(self):
        _, axes = plt.subplots(2)
        magnitude, phase = plot.bode(rz.StateSpace([[0.5]], [[1.0]], [[1.0]]), axes=axes)
        assert (magnitude, phase) == tuple(axes)
        assert phase.get_xlabel() == "frequency, rad per step"
        assert magnitude.lines[0].get_xdata()[-1] == pytest.approx(np.pi)

    @pytest.mark.parametrize("whole", [False, True])
    def test_a_small_covariance_is_a_small_change_of_the_logarithm(self, model, whole):
        G = model.frequency_response(OMEGA)[:, 0, 0]
        root = 1e-4 * np.array([[1.0, 0.0], [0.5, 2.0]])
        covariance = np.broadcast_to(root @ root.T, (3, 2, 2))
        if whole:
            blown = np.full((3, 2, 1, 2, 2), 7.0)
            blown[:, 0, 0] = covariance
            covariance = blown
        magnitude, phase = plot.bode(model, OMEGA, bands=covariance, level=0.9)
        draws = np.random.default_rng(0).standard_normal((200_000, 2)) @ root.T
        moved = G + (draws @ [1, 1j])[:, None]
        for ax, values, centre in (
            (magnitude, 20 * np.log10(np.abs(moved)), 20 * np.log10(np.abs(G))),
            (phase, np.degrees(np.angle(moved / G)), np.zeros(3)),
        ):
            low, high = band(ax)
            expected = norm.ppf(0.95) * (values - centre).std(axis=0)
            np.testing.assert_allclose((high - low) / 2, expected, rtol=0.02)

    def test_a_band_of_models_spans_their_quantiles(self, model):
        gains = np.linspace(0.5, 1.5, 101)
        samples = [rz.StateSpace(model.A, g * model.B, model.C, g * model.D, model.dt) for g in gains]
        magnitude, phase = plot.bode(model, OMEGA, bands=samples, level=0.9)
        centre = 20 * np.log10(np.abs(model.frequency_response(OMEGA)[:, 0, 0]))
        low, high = band(magnitude)
        assert_close(low - centre, np.full(3, 20 * np.log10(0.55)))
        assert_close(high - centre, np.full(3, 20 * np.log10(1.45)))
        low, high = band(phase)
        assert_close(high - low, np.zeros(3), scale=1.0)

    def test_bands_of_an_identified_model(self, model, rng):
        truth = rz.StateSpace(model.A, model.B, model.C[:1], model.D[:1], model.dt)
        u = rng.standard_normal((400, 1))
        data = rz.IOData(truth.simulate(u) + 0.1 * rng.standard_normal((400, 1)), u, model.dt)
        fit = rz.pem(data, order=2, focus="simulation")
        found = fit.uncertainty.frequency_response(OMEGA)
        own, _ = plot.bode(fit.model, bands=found)
        array, _ = plot.bode(fit.model, OMEGA, bands=found.covariance)
        for one, other in zip(band(own), band(array)):
            assert_close(one, other)

    def test_refused(self, model):
        with pytest.raises(DataError, match="positive"):
            plot.bode(model, [0.0, 1.0])
        with pytest.raises(DataError, match="output 2"):
            plot.bode(model, output=2)
        with pytest.raises(DataError, match="no model is called"):
            plot.bode({"a": model}, OMEGA, bands={"b": np.zeros((3, 2, 2))})
        with pytest.raises(ShapeError, match=r"\(3, 2, 2\) is needed"):
            plot.bode(model, OMEGA, bands=np.zeros((2, 2, 2)))
        with pytest.raises(DataError, match="at least two"):
            plot.bode(model, OMEGA, bands=[model])
        with pytest.raises(DataError, match="level"):
            plot.bode(model, OMEGA, level=1.0)
        with pytest.raises(ShapeError, match="axes must be two"):
            plot.bode(model, axes=[plt.subplots()[1]])
        with pytest.raises(DataError, match="1 to 4"):
            plot.bode(dict.fromkeys("abcde", model))


class TestPolesZeros:
    def test_what_is_drawn(self):
        first = rz.StateSpace([[0.5, 1.0], [0.0, 0.2]], [[1.0], [1.0]], [[1.0, 0.0]])
        second = rz.StateSpace([[-0.3]], [[1.0]], [[1.0]])
        ax = plot.poles_zeros({"a": first, "b": second}, damping=True)
        marked = {(line.get_marker(), line.get_color()): line.get_xydata() for line in ax.lines[-4:]}
        colours = plot.COLOURS["fading"], plot.COLOURS["window"]
        assert_close(marked["x", colours[0]][:, 0], [0.5, 0.2])
        assert_close(marked["o", colours[0]], [[-0.8, 0.0]])
        assert_close(marked["x", colours[1]], [[-0.3, 0.0]])
        assert marked["o", colours[1]].shape == (0, 2)

    @pytest.mark.parametrize("dt", [0.0, None])
    def test_lines_of_damping(self, dt):
        ax = plot.poles_zeros(rz.StateSpace([[-0.5]], [[1.0]], [[1.0]], dt=dt), damping=True)
        grid = [line.get_xydata() @ [1, 1j] for line in ax.lines if line.get_zorder() == 0.9]
        assert len(grid) == 8
        for line, ratio in zip(grid[::2], (0.2, 0.4, 0.6, 0.8)):
            s = line[1:-1] if dt == 0 else np.log(line[1:-1])
            s = line[-1:] if dt == 0 else s
            assert_close(-s.real / np.abs(s), np.full(len(s), ratio))

    def test_a_far_zero_is_named(self):
        far = rz.StateSpace([[0.5]], [[1.0]], [[1.0]], [[0.1]])  # 0.1 z + 0.95: a zero at -9.5
        ax = plot.poles_zeros(far)
        assert ax.get_xlim()[1] < 1.5
        assert "-9.5" in ax.get_title(loc="right")

    def test_refused(self):
        one = rz.StateSpace([[-0.5]], [[1.0]], [[1.0]])
        with pytest.raises(DataError, match="continuous and of discrete"):
            plot.poles_zeros({"a": one, "b": rz.StateSpace(one.A, one.B, one.C, dt=0.0)})
        with pytest.raises(DataError, match="neither"):
            plot.poles_zeros(rz.StateSpace(np.zeros((0, 0)), np.zeros((0, 1)), np.zeros((1, 0)), [[1.0]]))


def test_the_error_bound_is_twice_the_tail():
    values = np.array([3.0, 1.0, 0.1])
    ax = plot.hankel_singular_values(values, 2, bound=True)
    steps = ax.lines[-1]
    assert_close(steps.get_ydata(), [2.2, 0.2])
    assert_close(steps.get_xdata(), [1, 2])


class TestMemoryCurve:
    def test_memory_beside_a_window(self):
        curve = rz.memory_curve(rz.StateSpace(np.diag([0.9, -0.5]), np.ones((2, 1)), np.ones((1, 2))), 6)
        ax = plot.memory_curve(curve)
        outlines = [patch.get_data() for patch in ax.patches if not patch.get_fill()]
        assert_close(outlines[0].values, [1, 1, 0, 0, 0, 0])
        assert_close(outlines[1].values, curve.memory, "bitwise")
        assert_close(outlines[1].edges, np.arange(7) + 0.5, "bitwise")

    def test_lags_that_are_apart(self):
        curve = rz.memory_curve(rz.StateSpace([[0.9]], [[1.0]], [[1.0]]), [10, 1, 4])
        ax = plot.memory_curve(curve, window=False)
        drawn = ax.patches[-1].get_data()
        assert_close(drawn.values, curve.memory[[1, 2, 0]], "bitwise")
        assert_close(drawn.edges, [0.5, 2.5, 7.0, 10.5], "bitwise")

    def test_what_is_infinite_is_marked(self):
        window = rz.StateSpace(np.eye(3, k=1), np.eye(3)[:, 2:], np.ones((1, 3)))
        ax = plot.memory_curve(rz.memory_curve(window, 5), quantity="information")
        assert_close(ax.lines[-1].get_xdata(), [1, 2, 3])
        with pytest.raises(DataError, match="quantity"):
            plot.memory_curve(rz.memory_curve(window, 5), quantity="bits")
