"""Pictures of layers: what is drawn is what was given, in the colour of its meaning."""

from __future__ import annotations

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from bmojo import BMojo, BMojoConfig, hankel_spectrum, lower, memory_curves, plot, time_constants
from bmojo.bridge import HankelSpectrum, TimeConstants
from bmojo.fading import Mamba2
from bmojo.plot.kept import stays_of
from realization.errors import DataError
from tests.source import run_python
from tests.tolerances import assert_close

T, WINDOW, CHUNK, PLACES = 45, 6, 3, 4


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def trace():
    torch.manual_seed(0)
    options = {"window": WINDOW, "chunk": CHUNK, "eidetic": PLACES, "state_size": 4}
    layer = BMojo(BMojoConfig(d_model=8, heads=2, **options)).double()
    return layer.trace(torch.randn(2, T, 8, dtype=torch.float64))


@pytest.fixture(scope="module")
def along():
    torch.manual_seed(1)
    return lower(Mamba2(d_model=16, heads=2, state_size=4), torch.randn(T, 16))


def test_importing_them_loads_no_matplotlib():
    result = run_python("import sys, bmojo.plot; sys.exit('matplotlib' in sys.modules)")
    assert result.returncode == 0, result.stderr


def test_functions_draw_into_the_axes_they_are_given(trace, along):
    calls = [
        lambda ax: plot.hankel_singular_values([2.0, 1.0], ax=ax),
        lambda ax: plot.memory_spectrum(hankel_spectrum(along, [10, 20]), ax=ax),
        lambda ax: plot.memory_curves(memory_curves(along, 5), ax=ax),
        lambda ax: plot.time_constants(time_constants(along), ax=ax),
        lambda ax: plot.eidetic_raster(trace, chunk=CHUNK, ax=ax),
        lambda ax: plot.attention_mass(trace, ax=ax),
    ]
    for call in calls:
        _, ax = plt.subplots()
        open_before = plt.get_fignums()
        assert call(ax) is ax
        assert plt.get_fignums() == open_before
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert call(None) is not ax


def test_hankel_singular_values_before_and_after(along):
    before, after = hankel_spectrum(along, [10, 20]), np.array([[4.0, 2.0, 0.0], [1.0, 0.5, 0.25]])
    ax = plot.hankel_singular_values({"before": before, "after": after})
    lines = ax.lines
    assert len(lines) == 2 * 2 + 2
    rows = before.values.reshape(-1, 4)
    for line, row in zip(lines[:4], rows, strict=True):
        assert_close(line.get_ydata(), np.maximum(row, np.finfo(float).eps * rows.max()), "bitwise")
        assert to_hex(line.get_color()) == plot.COLOURS["fading"]
    assert_close(lines[4].get_ydata(), [4.0, 2.0, 4 * np.finfo(float).eps], "bitwise")
    assert to_hex(lines[5].get_color()) == plot.COLOURS["window"]
    ax = plot.hankel_singular_values(after, relative=True)
    assert_close(ax.lines[1].get_ydata(), [1.0, 0.5, 0.25], "bitwise")


def test_memory_spectrum(along):
    spectrum = hankel_spectrum(along, [30, 10, 20])
    ax = plot.memory_spectrum(spectrum, group=1)
    for i, line in enumerate(ax.lines[:4]):
        assert_close(line.get_xdata(), [10, 20, 30], "bitwise")
        expected = np.maximum(
            spectrum.values[[1, 2, 0], 1, i], np.finfo(float).eps * spectrum.values[:, 1].max()
        )
        assert_close(line.get_ydata(), expected, "bitwise")
    orders = spectrum.effective_order[:, 1]
    assert legend_of(ax)[0].endswith(f"effective order {orders.min():.3g} to {orders.max():.3g}")


def test_memory_curves(along):
    curves = memory_curves(along, 9, at=[20, 40])
    ax = plot.memory_curves(curves, time=0, window=WINDOW)
    for line, curve in zip(ax.lines, curves.memory[0], strict=True):
        assert_close(line.get_ydata(), curve, "bitwise")
        assert_close(line.get_xdata(), np.arange(1, 10), "bitwise")
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert_close([band.x0, band.x1], [0, WINDOW])
    assert to_hex(ax.patches[0].get_facecolor()) == plot.COLOURS["window"]


def test_time_constants():
    found = TimeConstants(np.ones((1, 2, 2)), np.array([[30.0, 0.0], [np.inf, 2.0]]), dt=0.5)
    ax = plot.time_constants(found, window=8)
    line, points = ax.lines
    assert line.get_ydata()[0] == 4.0
    assert points.get_xdata().tolist() == [0, 1]
    assert points.get_ydata().tolist() == [30.0, 2.0]
    assert "2 of 4 not drawn" in ax.get_xlabel()
    assert ax.get_ylabel() == "time constant, s"


def members(ax, chunk):
    """Positions that are drawn at the start of each chunk."""
    segments = np.concatenate(
        [lines.get_segments() for lines in ax.collections if hasattr(lines, "get_segments")]
    )
    return [sorted(int(s[0, 1]) for s in segments if s[0, 0] <= t < s[1, 0]) for t in np.arange(0, T, chunk)]


@pytest.mark.parametrize("sequence", [0, 1])
def test_the_raster_holds_every_set(trace, sequence):
    ax = plot.eidetic_raster(trace, chunk=CHUNK, window=WINDOW, sequence=sequence)
    sets = trace.eidetic_index[sequence]
    assert members(ax, CHUNK) == [[j for j in places.tolist() if j >= 0] for places in sets]
    assert {to_hex(lines.get_color()[0]) for lines in ax.collections[:2]} == {plot.COLOURS["eidetic"]}
    last = [j for j in sets[-1].tolist() if j >= 0]
    assert f"still there at the end ({len(last)})" in legend_of(ax)


@given(st.lists(st.sets(st.integers(0, 6), max_size=3), min_size=1, max_size=6))
def test_stays_say_what_sets_say(sets):
    index = np.full((len(sets), 3), -1)
    for c, places in enumerate(sets):
        index[c, : len(places)] = sorted(places)
    stays = stays_of(index)
    again = [{int(j) for j, first, last in stays if first <= c < last} for c in range(len(sets))]
    assert again == [set(places) for places in sets]
    touching = {(int(j), int(last)) for j, _, last in stays} & {(int(j), int(first)) for j, first, _ in stays}
    assert not touching


@pytest.mark.parametrize("head", [None, 1])
def test_attention_mass(trace, head):
    ax = plot.attention_mass(trace, head=head, sequence=1)
    mass = trace.attention_mass[1].numpy()
    mass = mass.mean(axis=0) if head is None else mass[head]
    below = np.zeros(T)
    for area, share, name in zip(ax.collections, mass.T, trace.segments, strict=True):
        vertices = area.get_paths()[0].vertices
        for t in range(T):
            edges = vertices[vertices[:, 0] == t, 1]
            assert_close([edges.min(), edges.max()], [below[t], below[t] + share[t]])
        below = below + share
        assert area.get_label() == name
        assert to_hex(area.get_facecolor()[0]) == plot.COLOURS[name]
    assert_close(below, np.ones(T))


def test_attention_to_storage_has_a_colour_of_its_own():
    torch.manual_seed(2)
    layer = BMojo(BMojoConfig(d_model=8, heads=2, window=4, eidetic=2, state_size=4))
    retrieved = (
        torch.randn(1, 3, layer.groups, layer.head_dim),
        torch.randn(1, 3, layer.groups, layer.head_dim),
    )
    trace = layer.trace(torch.randn(1, 20, 8), retrieved=retrieved)
    ax = plot.attention_mass(trace)
    colours = [to_hex(area.get_facecolor()[0]) for area in ax.collections]
    assert trace.segments == ("window", "fading", "eidetic", "retrieved")
    assert colours == [plot.COLOURS[name] for name in ("window", "fading", "eidetic", "innovation")]


def test_attention_mass_is_averaged_over_neighbours(trace):
    ax = plot.attention_mass(trace, average=3)
    window = trace.attention_mass[0].numpy().mean(axis=0)[:, 0]
    vertices = ax.collections[0].get_paths()[0].vertices
    assert_close(vertices[vertices[:, 0] == 10, 1].max(), window[9:12].mean())
    assert_close(vertices[vertices[:, 0] == 0, 1].max(), window[:2].mean())


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_what_is_refused(trace, along):
    spectrum = hankel_spectrum(along, [10, 20])
    bare = BMojo(BMojoConfig(d_model=8, heads=2, window=0, eidetic=0, state_size=4))
    without = bare.trace(torch.randn(1, 5, 8))
    for call, said in (
        (lambda: plot.hankel_singular_values([1.0, -1.0]), "none negative"),
        (lambda: plot.hankel_singular_values({key: [1.0] for key in "abcde"}), "1 to 4"),
        (lambda: plot.memory_spectrum(spectrum, group=2), "group=2"),
        (lambda: plot.memory_spectrum(HankelSpectrum(np.array([1]), np.ones((1, 1, 2)), 1)), "one time"),
        (lambda: plot.memory_curves(memory_curves(along, 3), time=1), "time=1"),
        (lambda: plot.memory_curves(memory_curves(along, 3), window=0), "window=0"),
        (lambda: plot.time_constants(time_constants(along), window=0), "window=0"),
        (lambda: plot.eidetic_raster(trace, chunk=4), "chunk=4"),
        (lambda: plot.eidetic_raster(trace, chunk=CHUNK, sequence=2), "sequence=2"),
        (lambda: plot.eidetic_raster(without, chunk=1), "no eidetic set"),
        (lambda: plot.attention_mass(trace, head=2), "head=2"),
        (lambda: plot.attention_mass(trace, average=0), "average=0"),
        (lambda: plot.attention_mass(without), "no attention"),
    ):
        with pytest.raises(DataError, match=said):
            call()
