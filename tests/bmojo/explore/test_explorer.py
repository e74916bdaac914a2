"""The explorer's page in headless Chromium: its sliders move, and its numbers are Python's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

import realization as rz
from bmojo.cli import main
from bmojo.explore import RULES, SignalMemory, attention_shares, explorer_page, study_memory
from tests.bmojo.explore.browser import Opened

TOLERANCE = {"error": 1e-6, "fit": 1e-6, "effective": 1e-9}  # the page's data have twelve digits


@pytest.fixture(scope="module")
def study() -> SignalMemory:
    return study_memory(rz.load_series("sunspots"), name="Sunspots <&>", first=1700.0, unit="year")


@pytest.fixture(scope="module")
def place(study: SignalMemory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "explore.html"
    path.write_text(explorer_page(study), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def wide(chromium: Browser, place: Path):
    opened = Opened(chromium, place, viewport={"width": 1200, "height": 900})
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("rule", "budget", "window", "fading"),
    [("top", 16, 8, -1), ("top", 40, 1, 0), ("threshold", 12, 20, 5), ("norm", 7, 64, -1), ("fifo", 25, 3, 8),
     ("random", 30, 12, 3), ("top", 0, 10, 4)],
)  # fmt: skip
def test_the_numbers_are_those_of_python(study, wide, rule, budget, window, fading):
    fading %= len(study.states)
    found = wide.choose(rule=rule, budget=budget, window=window, fading=fading)
    state = study.states[fading]
    left = study.remembered(state, rule=rule, budget=budget, window=window)
    assert found["kept"] == len(left.index)
    assert set(found["set"]) | set(range(study.record.length - window + 1, study.record.length)) == set(
        left.index.tolist()
    )
    expected = {"error": left.share, "fit": left.fit, "effective": state.effective_order}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=TOLERANCE[name], abs=TOLERANCE[name]), name
    assert found["floats"] == left.reconstruction.floats
    shares = attention_shares(study, state, rule=rule, budget=budget, window=window)
    np.testing.assert_allclose(found["mass"], shares.mean(axis=0), atol=1e-9)
    shown = wide.page.locator("#kept").inner_text()
    assert shown == f"{len(left.index)} of {study.record.length}"
    assert wide.page.locator("#error").inner_text() == f"{left.share:.1f} %"
    assert wide.page.locator("#effective").inner_text() == f"{state.effective_order:.2f}"


def test_a_window_of_one_leaves_what_the_selection_keeps(study):
    state = study.states[-1]
    chosen = rz.select_innovations(state.model, study.record, budget=9, x0=np.zeros(state.model.n_states))
    left = study.remembered(state, budget=9, window=1)
    assert left.index.tolist() == chosen.index.tolist()
    assert left.reconstruction.error == rz.reconstruct(state.model, study.record, chosen).error


@pytest.mark.parametrize("rule", RULES)
def test_the_sets_of_the_layer_are_those_of_the_study(study, rule):
    shares = attention_shares(study, study.states[-1], rule=rule, budget=5, window=4)
    assert shares.shape == (study.record.length, 3)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-12)
    assert (shares[:4, 2] == 0).all(), "nothing has left the window"


def test_sliders_answer_to_the_keyboard(wide):
    wide.choose(rule="top", budget=16, window=8, fading=10)
    wide.page.focus("#window")
    assert wide.press("ArrowRight")["kept"] == 16 + 8
    assert wide.page.locator("#window-shown").inner_text() == "9 samples"
    assert wide.page.get_attribute("#window", "aria-valuetext") == "9 samples"
    assert wide.press("Home")["kept"] == 16
    wide.page.keyboard.press("Tab")
    assert wide.page.evaluate("document.activeElement.id") == "budget"
    assert wide.press("ArrowLeft")["kept"] == 15
    outline = wide.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_labels_and_live_numbers(wide):
    page = wide.page
    for name in ("window", "budget", "fading", "rule"):
        assert page.locator(f"label[for={name}]").inner_text()
    assert page.get_attribute("dl", "aria-live") == "polite"
    assert all(page.locator("main [role=img]").nth(i).get_attribute("aria-label") for i in range(7))
    assert page.locator("h1").inner_text().startswith("Sunspots <&>")


def test_every_view_is_drawn_and_answers(wide):
    wide.choose(rule="top", budget=30, window=8, fading=10)
    points = "id => document.getElementById(id).data.reduce((sum, trace) => sum + trace.x.length, 0)"
    for view in ("signal", "innovations", "set", "attention", "memory", "hankel", "curve"):
        least = 1 if view == "hankel" else 6  # a value for each state, of which there may be few
        assert wide.page.evaluate(points, view) >= least, view
        assert wide.page.locator(f"#{view} svg").first.is_visible()
    # A bound that says "not seconds": how long it took is on the page (`explorer.milliseconds`).
    assert 0 < wide.page.evaluate("explorer.milliseconds") < 5000


MOVES = """async values => { const before = { ...explorer.work }, first = explorer.updates;
for (const value of values) { const part = document.getElementById("budget"); part.value = value;
part.dispatchEvent(new Event("input", { bubbles: true })); }
await new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)));
const painted = [...document.querySelectorAll(".painted")].map(chart => chart.id);
return { updates: explorer.updates - first, painted, ...Object.fromEntries(Object.entries(explorer.work)
.map(([name, count]) => [`${name}_more`, count - before[name]])) }; }"""


def test_a_slider_that_moves_paints_what_is_seen_and_plots_at_rest(wide):
    """How much is drawn, not how long it takes: three moves of one frame are one update."""
    wide.choose(rule="top", budget=16, window=8, fading=10)
    before, plotted = wide.page.evaluate("[explorer.updates, explorer.work.plotted]")
    moved = wide.page.evaluate(MOVES, [20, 21, 22])
    assert moved["updates"] == 1
    seen = wide.page.evaluate(
        "() => [...document.querySelectorAll('main figure > div')].filter(part => { const place = "
        "part.getBoundingClientRect(); return place.top < innerHeight && place.bottom > 0; })"
        ".map(part => part.id)"
    )
    # Hankel values do not depend on the budget; the curve of all budgets waits for rest.
    assert set(moved["painted"]) == set(seen) - {"hankel", "curve"}
    assert moved["painted_more"] == len(moved["painted"])
    assert moved["plotted_more"] == 0
    wide.settle(before)
    assert wide.page.evaluate("explorer.work.plotted") - plotted == 6
    assert wide.page.evaluate("document.querySelectorAll('.painted').length") == 0


def test_many_samples_are_few_points(chromium, tmp_path, rng):
    model = rz.InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.9]])
    y = model.simulate(e=rng.standard_normal(5000))
    path = tmp_path / "long.html"
    path.write_text(explorer_page(study_memory(rz.IOData(y), order=1, samples=5000)), encoding="utf-8")
    opened = Opened(chromium, path)
    drawn = "id => document.getElementById(id).data[0]"
    for view in ("signal", "innovations", "attention"):
        assert len(opened.page.evaluate(drawn, view)["x"]) <= 3000, view
    shown = opened.page.evaluate(drawn, "signal")["y"]
    assert (min(shown), max(shown)) == pytest.approx((y.min(), y.max()))
    opened.close()


def test_views_along_time_zoom_together(wide):
    wide.page.evaluate("async () => { await Plotly.relayout('signal', { 'xaxis.range': [1850, 1900] }); }")
    wide.page.evaluate("() => new Promise(done => setTimeout(done, 300))")
    for view in ("innovations", "set", "attention"):
        assert wide.page.evaluate("id => document.getElementById(id).layout.xaxis.range", view) == [
            1850,
            1900,
        ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen(chromium, place, scheme):
    opened = Opened(chromium, place, viewport={"width": 400, "height": 800}, color_scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.locator("#signal").bounding_box()["width"] <= 400
    red, *_ = page.evaluate("getComputedStyle(document.body).color.match(/\\d+/g).map(Number)")
    assert (red > 128) == (scheme == "dark")
    assert opened.choose(budget=3)["kept"] == 10
    opened.close()


def test_inputs_and_several_outputs(chromium, tmp_path, capsys):
    rng = np.random.default_rng(0)
    plant = rz.InnovationsModel(
        [[0.8, 0.1], [0.0, 0.6]], [[1.0], [0.5]], np.eye(2), K=0.3 * np.eye(2), Re=[[0.2, 0.05], [0.05, 0.1]]
    )
    u = rng.standard_normal((300, 1))
    y = plant.simulate(u, e=rng.multivariate_normal(np.zeros(2), plant.Re, 300)) + 5
    file, out = tmp_path / "record.csv", tmp_path / "page.html"
    np.savetxt(file, np.hstack([u, y]), delimiter=",", header="valve,level,flow", comments="")
    command = ["explore", str(file), "--input", "valve", "--output", "level", "--output", "flow"]
    assert (
        main([*command, "--dt", "0.5", "--order", "2", "--samples", "200", "--out", str(out), "--no-open"])
        == 0
    )
    assert capsys.readouterr().out.strip() == str(out)
    data = rz.read_data(file, inputs="valve", outputs=["level", "flow"], dt=0.5)
    study = study_memory(data, order=2, samples=200)
    opened = Opened(chromium, out)
    found = opened.choose(budget=20, window=4, fading=7, output=1)
    left = study.remembered(study.states[7], budget=20, window=4)
    assert found["error"] == pytest.approx(left.share, rel=1e-6)
    assert found["fit"] == pytest.approx(left.fit, rel=1e-6)
    shares = attention_shares(study, study.states[7], budget=20, window=4)
    np.testing.assert_allclose(found["mass"], shares.mean(axis=0), atol=1e-9)
    opened.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "y"], "without a FILE"),
        (["none.csv"], "which column"),
        (["none.csv", "--output", "y"], "no file"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, said, capsys):
    assert main(["explore", *arguments, "--no-open"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert said in errors[0]


def test_dates_and_decimal_commas_give_the_step(tmp_path, capsys):
    load = np.random.default_rng(0).standard_normal(200).cumsum()
    rows = [
        f"2024-03-{1 + i // 24:02d}T{i % 24:02d}:00;{str(x).replace('.', ',')}" for i, x in enumerate(load)
    ]
    file, out = tmp_path / "load.csv", tmp_path / "load.html"
    file.write_text("\n".join(["hour;load", *rows]))
    command = ["explore", str(file), "--output", "load", "--time", "hour", "--order", "1", "--out", str(out)]
    assert main([*command, "--no-open"]) == 0
    assert "dt=3600 s" in capsys.readouterr().err
    assert "time, s" in out.read_text("utf-8")


def test_without_plotly_it_is_said_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    monkeypatch.setattr("bmojo.explore.command.study_memory", lambda *_, **__: pytest.fail("computed"))
    assert main(["explore", "--out", str(tmp_path / "page.html"), "--no-open"]) == 2
    assert "realization[explore]" in capsys.readouterr().err


def test_the_state_forgets_with_the_time_constant(study):
    last = study.states[-1].model
    for state in study.states:
        rho = np.exp(-1 / state.time_constant)
        np.testing.assert_allclose(
            np.sort(np.abs(state.model.poles)), rho * np.sort(np.abs(last.poles)), rtol=1e-6
        )
