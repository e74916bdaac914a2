"""Data sets by name: the table, the search for a file, its checksum, values against NumPy's own reader."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pooch
import pytest
import requests
import scipy.io

from realization.errors import DataError
from realization.signals import (
    datasets,
    describe_data,
    list_data,
    load_benchmark_model,
    load_data,
    load_series,
)
from tests.tolerances import assert_close

# Columns as the sources describe them, told here a second time on purpose.
LAYOUT = {
    "dryer": (1000, [0], [1], 0.08),
    "robot_arm": (1024, [0], [1], None),
    "CD_player_arm": (2048, [0, 1], [2, 3], None),
    "powerplant": (200, [1, 2, 3, 4, 5], [6, 7, 8], 1228.8),
    "evaporator": (6305, [0, 1, 2], [3, 4, 5], None),
    "steamgen": (9600, [1, 2, 3, 4], [5, 6, 7, 8], 3.0),
    "cascaded_tanks": (1024, [0], [2], 4.0),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data folder and a cache of the test's own, and no network; gives the folder."""
    folder, cache = tmp_path / "data", tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("REALIZATION_DATA", str(folder))
    monkeypatch.setattr(pooch, "os_cache", lambda name: cache / name)

    def unreachable(*_, **__):
        raise requests.exceptions.ConnectionError("no network in this test")

    monkeypatch.setattr(requests.Session, "request", unreachable)
    return folder


def small_set(monkeypatch, content=b"1 2\n3 4\n"):
    """A data set of two samples, known for one test."""
    known = datasets.DataSet(
        "small",
        "small.dat",
        "https://example.org/small.dat",
        hashlib.sha256(content).hexdigest(),
        {0: "force"},
        {1: "speed"},
        0.5,
        "none",
    )
    monkeypatch.setitem(datasets.DATA_SETS, "small", known)
    return content


def test_every_set_is_described():
    assert list_data() == tuple(LAYOUT)
    for name, (_, inputs, outputs, dt) in LAYOUT.items():
        about = describe_data(name)
        assert about.name == name
        assert (list(about.inputs), list(about.outputs), about.dt) == (inputs, outputs, dt)
        assert about.url.startswith("https://raw.githubusercontent.com/")
        assert len(bytes.fromhex(about.sha256)) == 32
        assert len(about.reference) > 20
    assert describe_data("CDplayer").dt == describe_data("build").dt == 0.0


@pytest.mark.parametrize("name", LAYOUT)
def test_columns_are_those_of_the_source(name, measured_data):
    length, inputs, outputs, dt = LAYOUT[name]
    path = measured_data / describe_data(name).file
    options = {"delimiter": ",", "skip_header": 1, "usecols": (0, 1, 2, 3)} if path.suffix == ".csv" else {}
    values = np.genfromtxt(path, **options)
    data = load_data(name)
    assert len(data) == length
    assert data.dt == dt
    assert_close(data.u, values[:, inputs], "bitwise")
    assert_close(data.y, values[:, outputs], "bitwise")
    assert data.output_names == tuple(describe_data(name).outputs.values())
    if name == "cascaded_tanks":
        other = load_data(name, part="validation")
        assert_close(np.hstack([other.u, other.y]), values[:, [1, 3]], "bitwise")


@pytest.mark.parametrize(("name", "n", "m", "p"), [("CDplayer", 120, 2, 2), ("build", 48, 1, 1)])
def test_benchmark_models(name, n, m, p, measured_data):
    model = load_benchmark_model(name)
    assert (model.n_states, model.n_inputs, model.n_outputs, model.dt) == (n, m, p, 0.0)
    assert model.is_stable
    source = scipy.io.loadmat(measured_data / f"{name}.mat")
    assert_close(model.A, source["A"].toarray(), "bitwise")
    assert_close(model.B, source["B"], "bitwise")
    assert_close(model.C, source["C"], "bitwise")
    assert not model.D.any()


@pytest.mark.parametrize(("load", "known"), [(load_data, "dryer"), (load_benchmark_model, "build")])
def test_unknown_names_list_the_known_ones(load, known):
    with pytest.raises(DataError, match=f"there is no 'nothing'; the names are: .*{known}"):
        load("nothing")
    with pytest.raises(DataError, match=r"dryer.*build"):
        describe_data("nothing")


def test_parts():
    with pytest.raises(DataError, match="'dryer' is one record; split it"):
        load_data("dryer", part="validation")
    with pytest.raises(DataError, match="part='test'"):
        load_data("cascaded_tanks", part="test")  # pyright: ignore[reportArgumentType]


def test_the_named_folder_comes_first(place, monkeypatch):
    (place / "small.dat").write_bytes(small_set(monkeypatch))
    data = load_data("small")
    assert_close(np.hstack([data.u, data.y]), [[1, 2], [3, 4]], "bitwise")
    assert (data.input_names, data.output_names, data.dt) == (("force",), ("speed",), 0.5)


def test_a_wrong_file_is_refused(place, monkeypatch):
    (place / "small.dat").write_bytes(small_set(monkeypatch) + b"5 6\n")
    with pytest.raises(
        DataError, match=r"small\.dat is not the file of 'small': its SHA-256 is .* https://example"
    ):
        load_data("small")


def test_a_named_folder_must_be_one(place, monkeypatch):
    small_set(monkeypatch)
    monkeypatch.setenv("REALIZATION_DATA", str(place / "nowhere"))
    with pytest.raises(DataError, match=r"REALIZATION_DATA names .*nowhere.*not a folder"):
        load_data("small")


@pytest.mark.parametrize("variable", ["", None, "empty folder"])
def test_then_the_cache(variable, place, monkeypatch):
    content = small_set(monkeypatch)
    if variable is None:
        monkeypatch.delenv("REALIZATION_DATA")
    elif variable == "":
        monkeypatch.setenv("REALIZATION_DATA", "")
    cache = place.parent / "cache" / "realization"
    cache.mkdir(parents=True)
    (cache / "small.dat").write_bytes(content)
    assert len(load_data("small")) == 2


def test_offline_says_what_to_do(place, monkeypatch):
    small_set(monkeypatch)
    with pytest.raises(DataError) as caught:
        load_data("small")
    for needed in (
        "https://example.org/small.dat",
        "small.dat",
        "REALIZATION_DATA",
        str(place.parent / "cache" / "realization"),
    ):
        assert needed in str(caught.value)


def test_a_download_is_kept_and_compared(place, monkeypatch):
    content = small_set(monkeypatch)
    sent = [content]

    def download(url, output_file, pooch, check_only=False):
        assert url == "https://example.org/small.dat"
        with open(output_file, "wb") as file:
            file.write(sent[-1])

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda *_, **__: download)
    assert len(load_data("small")) == 2
    kept = place.parent / "cache" / "realization" / "small.dat"
    assert kept.read_bytes() == content
    kept.unlink()
    sent.append(b"an error page")
    with pytest.raises(DataError, match="cannot be downloaded"):
        load_data("small")
    assert not kept.exists()


@pytest.mark.parametrize(
    ("name", "length", "outputs"),
    [("sunspots", 309, 1), ("macro", 202, 3), ("elnino", 732, 1), ("nile", 100, 1)],
)
def test_series(name, length, outputs):
    data = load_series(name)
    assert (len(data), data.n_outputs, data.n_inputs, data.dt) == (length, outputs, 0, None)
    assert len(set(data.output_names)) == outputs


def test_series_are_what_they_say():
    assert_close(load_series("sunspots").y[:3, 0], [5.0, 11.0, 16.0], "bitwise")  # 1700 to 1702
    assert_close(
        load_series("elnino").y[[0, 12], 0], [23.11, 24.19], "bitwise"
    )  # the Januaries of 1950, 1951
    growth = load_series("macro").y[0, 0]
    assert_close(growth, 100 * (np.log(2778.801) - np.log(2710.349)), "exact")
    with pytest.raises(DataError, match="sunspots, macro, elnino"):
        load_series("nothing")


def test_without_statsmodels_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'realization\[demo\]'"):
        load_series("sunspots")
