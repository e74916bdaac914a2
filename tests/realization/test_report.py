"""Reports: one file that stands alone, with every picture in it and words beside each."""

from __future__ import annotations

import base64
import os
from html.parser import HTMLParser

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from statsmodels.tsa.ar_model import AutoReg

from realization.errors import DataError, ExcitationError, ShapeError
from realization.files import write_atomically
from realization.report import (
    Picture,
    Section,
    Table,
    autoregression,
    figure_png,
    model_report,
    page,
    persistence,
)
from realization.signals import IOData
from realization.systems import InnovationsModel
from tests.tolerances import assert_close

SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='2' height='1'></svg>"


class Reader(HTMLParser):
    """Elements and text of a page, and whether every tag that opens is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def assert_stands_alone(text: str) -> Reader:
    found = Reader(text)
    assert found.all("script") == found.all("link") == found.all("iframe") == []
    for image in found.all("img"):
        assert image["alt"]
        kind, _, content = str(image["src"]).partition(";base64,")
        assert kind in ("data:image/png", "data:image/svg+xml")
        assert base64.b64decode(content, validate=True).startswith((b"\x89PNG", b"<svg"))
    assert "@import" not in text
    assert "url(" not in text
    return found


def png() -> bytes:
    return figure_png(Figure(figsize=(2, 1)))


@pytest.fixture
def record(rng) -> IOData:
    u = rng.choice([-1.0, 1.0], size=(400, 1))
    model = InnovationsModel([[0.8]], [[1.0]], [[1.0]], K=[[0.4]], Re=[[0.04]])
    y = model.simulate(u, e=0.2 * rng.standard_normal((400, 1)))
    return IOData(
        np.hstack([y, 2 * y + rng.standard_normal((400, 1))]), u, 0.5, output_names=["speed", "<b>level</b>"]
    )


@pytest.fixture
def model() -> InnovationsModel:
    K = [[0.4, 0.0]]
    return InnovationsModel([[0.8]], [[1.0]], [[1.0], [2.0]], K=K, Re=np.diag([0.04, 1.0]), dt=0.5)


def test_page_stands_alone(tmp_path):
    (tmp_path / "p.png").write_bytes(png())
    figures = [
        Picture(png(), "one", "first"),
        (SVG, "two", "second"),
        (tmp_path / "p.png", "three", 'a "third"'),
    ]
    found = assert_stands_alone(page("T", "L", [Section("H", "text", figures)]))
    assert [image["alt"] for image in found.all("img")] == ["first", "second", 'a "third"']
    assert len(found.all("figcaption")) == 3
    assert {"lang": "en"} in found.all("html")
    assert any(meta.get("name") == "viewport" for meta in found.all("meta"))


def test_equal_figures_give_equal_bytes():
    assert png() == png()


def test_a_picture_is_shown_as_large_as_it_was_drawn():
    figure = Figure(figsize=(4, 1))
    figure.subplots().plot([0, 1])
    widths = []
    for dpi in (80, 160):
        found = Reader(page("T", "L", [Section("H", "", [Picture(figure_png(figure, dpi=dpi), "", "a")])]))
        widths.append(int(str(found.all("img")[0]["width"])))
    assert 350 < widths[0] < 450
    assert abs(widths[0] - widths[1]) <= 3


@given(st.text())
def test_no_text_breaks_the_page(text):
    table = Table([text, "n"], [[text, 1.0]], text)
    section = Section(text, text, [Picture(SVG, text, "x" + text)], table)
    found = assert_stands_alone(page(text, text, [section] * 4, key_figures=[(text, text)], footer=text))
    assert len(found.all("section")) == 4


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("**bold** and *thin*", "<p><strong>bold</strong> and <em>thin</em></p>"),
        ("2 * 3 * 4", "<p>2 * 3 * 4</p>"),
        ("`a * b < c`", "<p><code>a * b &lt; c</code></p>"),
        ("- one\n- two", "<ul><li>one</li><li>two</li></ul>"),
        ("one\ntwo\n\nthree", "<p>one two</p>\n<p>three</p>"),
        ("[words](https://example.org/a)", '<p><a href="https://example.org/a">words</a></p>'),
        ("[words](javascript:alert(1))", "<p>[words](javascript:alert(1))</p>"),
        ("<script>x</script>", "<p>&lt;script&gt;x&lt;/script&gt;</p>"),
        ("95.6 %", "<p>95.6\N{NO-BREAK SPACE}%</p>"),
    ],
)
def test_markdown_light(source, expected):
    assert expected in page("T", source, [])


def test_table():
    text = page(
        "T",
        "",
        [Section("H", "", table=(["name", "x", "y"], [["a", 12.3456, "-3.1"], ["b", None, "2.0 %"]]))],
    )
    assert "<th>name</th><th class=number>x</th><th class=number>y</th>" in text
    assert "<td>a</td><td class=number>12.35</td><td class=number>−3.1</td>" in text
    assert "<td class=number>–</td>" in text


def test_contents_are_listed_where_the_page_is_long():
    sections = [Section(f"Part {i}") for i in range(4)]
    assert not Reader(page("T", "L", sections[:3])).all("nav")
    found = Reader(page("T", "L", sections))
    assert [link["href"] for link in found.all("a")] == [f"#{part['id']}" for part in found.all("section")]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (Section("H", figures=[Picture(png(), "c", " ")]), "alternative text"),
        (Section("H", figures=[Picture(b"GIF89a", "c", "a")]), "neither PNG nor SVG"),
        (Section("H", figures=[Picture("nowhere.png", "c", "a")]), "nowhere.png cannot be read"),
        (Section("H", table=Table(["a", "b"], [[1.0]])), "1 cells and its header 2"),
    ],
)
def test_a_page_that_would_be_wrong_is_refused(section, message):
    with pytest.raises(DataError, match=message):
        page("T", "L", [section])


class TestWriteAtomically:
    def test_it_writes_for_others_to_read(self, tmp_path):
        write_atomically(tmp_path / "a", "né")
        assert (tmp_path / "a").read_text(encoding="utf-8") == "né"
        mask = os.umask(0)
        os.umask(mask)
        assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~mask

    def test_what_was_there_stays_when_it_fails(self, tmp_path, monkeypatch):
        (tmp_path / "a").write_text("old")

        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(DataError, match="no space left"):
            write_atomically(tmp_path / "a", "new")
        assert (tmp_path / "a").read_text() == "old"
        assert list(tmp_path.iterdir()) == [tmp_path / "a"]

    def test_a_place_that_cannot_be_written(self, tmp_path):
        with pytest.raises(DataError, match="no such file"):
            write_atomically(tmp_path / "no" / "a", "x")
        with pytest.raises(DataError, match="folder"):
            write_atomically(tmp_path, "x")


def test_persistence_is_the_value_before(record):
    train, test = record.split(0.25)
    assert_close(persistence(train, test), record.y[train.length - 1 : -1], "bitwise")


@pytest.mark.parametrize("seed", range(6))
def test_autoregression_against_statsmodels(seed):
    rng = np.random.default_rng(seed)
    y = np.zeros(500)
    for t in range(2, 500):
        y[t] = 1.0 + 1.2 * y[t - 1] - 0.5 * y[t - 2] + rng.standard_normal()
    train, test = IOData(y).split(0.5)
    candidates = [AutoReg(train.y[:, 0], lags=q, hold_back=20).fit() for q in range(1, 21)]
    best = min(candidates, key=lambda fit: fit.aic)
    lags = len(best.params) - 1
    rows = np.array([[1.0, *y[t - lags : t][::-1]] for t in range(train.length, 500)])
    assert_close(autoregression(train, test)[:, 0], rows @ best.params, "iterative")


@pytest.mark.parametrize("length", [6, 8, 20])
def test_autoregression_of_a_short_record(rng, length):
    train, test = IOData(rng.standard_normal((length, 2))).split(0.5)
    assert np.isfinite(autoregression(train, test)).all()


def test_autoregression_needs_something_to_learn_from():
    with pytest.raises(ExcitationError, match="2 samples"):
        autoregression(IOData([1.0, 2.0]), IOData([3.0]))


def test_model_report(model, record):
    plt.close("all")
    train, test = record.split(0.5)
    text = model_report(model, train, test, name="pump", method="by hand", notes=["little <noise>"], keep=5)
    found = assert_stands_alone(text)
    words = " ".join(found.text)
    for expected in (
        "pump",
        "by hand",
        "little <noise>",
        "<b>level</b>",
        "autoregression",
        "the value before",
        "0.5 s",
    ):
        assert expected in words
    assert len(found.all("img")) == len(found.all("figcaption")) == 6
    assert plt.get_fignums() == []


def test_model_report_says_what_the_fits_say(model, record):
    train, test = record.split(0.5)
    error = test.y - model.predict(test)
    fit = 100 * (1 - np.linalg.norm(error, axis=0) / np.linalg.norm(test.y - test.y.mean(axis=0), axis=0))
    words = " ".join(Reader(model_report(model, train, test, name="pump")).text)
    assert f"{fit.mean():.1f}\N{NO-BREAK SPACE}%" in words
    assert "worse than the rule" not in words
    poor = InnovationsModel([[0.8]], [[-1.0]], [[1.0], [2.0]], Re=np.eye(2), dt=0.5)
    assert "worse than the rule" in " ".join(Reader(model_report(poor, train, test, name="pump")).text)


def test_model_report_sees_that_the_level_has_moved(model, record):
    train, test = record.split(0.5)
    still = " ".join(Reader(model_report(model, train, test, name="pump")).text)
    moved = IOData(test.y + np.array([0.0, 5.0]), test.u, test.dt, output_names=test.output_names)
    assert "mean is not zero" not in still
    assert "mean is not zero (<b>level</b>)" in " ".join(
        Reader(model_report(model, train, moved, name="pump")).text
    )


def test_model_report_of_a_time_series(rng):
    model = InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    train, test = IOData(model.simulate(e=rng.standard_normal(300))).split(0.5)
    words = " ".join(assert_stands_alone(model_report(model, train, test, name="noise")).text)
    assert "from the inputs alone" not in words.split("How well it does")[0]
    assert "innovations are white" in words.replace("  ", " ")


def test_model_report_of_a_short_record_and_of_a_model_without_noise(rng):
    u = rng.standard_normal((24, 1))
    exact = InnovationsModel([[0.5]], [[1.0]], [[1.0]], Re=[[0.0]])
    train, test = IOData(exact.simulate(u), u).split(0.5)
    words = " ".join(assert_stands_alone(model_report(exact, train, test, name="exact")).text)
    assert "nothing can surprise it" in words
    noisy = InnovationsModel([[0.5]], [[1.0]], [[1.0]], Re=[[1.0]])
    assert "too few samples" in model_report(noisy, train, test, name="short")


def test_model_report_refuses_parts_of_different_records(model, record):
    train, test = record.split(0.5)
    with pytest.raises(ShapeError, match="different channels"):
        model_report(model, IOData(train.y), test, name="pump")
