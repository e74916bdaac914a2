"""`read_data`, `regular_record` and `one_hot`: nothing lost, nothing made up."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.cli import main
from tests.strategies import seeds
from tests.tolerances import assert_close

VALUES = np.array([[0.0, 1.0, -2.5], [0.1, 4.0, 5.5], [0.3, 7.0, 1 / 3], [0.4, 8.0, 2.0]])
NAMES = ("t", "volts", "speed")


def written(folder, ending):
    path = folder / f"record.{ending}"
    columns = dict(zip(NAMES, VALUES.T))
    if ending == "npz":
        np.savez(path, **columns)
    elif ending == "npy":
        np.save(path, np.array(list(map(tuple, VALUES)), dtype=[(name, float) for name in NAMES]))
    elif ending == "mat":
        scipy.io.savemat(path, columns)
    else:
        rows = "\n".join(",".join(map(repr, row)) for row in VALUES.tolist())
        path.write_text(f"{','.join(NAMES)}\n{rows}\n")
    return path


@pytest.mark.parametrize("ending", ["csv", "txt", "npz", "npy", "mat"])
def test_every_format_gives_the_same_record(ending, tmp_path):
    path = written(tmp_path, ending)
    data = rz.read_data(path, outputs="speed", inputs=["volts"], dt=0.1, units={"speed": "m/s"})
    assert_close(data.y[:, 0], VALUES[:, 2], "bitwise")
    assert_close(data.u[:, 0], VALUES[:, 1], "bitwise")
    assert (data.output_labels, data.input_names, data.dt) == (("speed, m/s",), ("volts",), 0.1)
    timed = rz.read_data(path, outputs="speed", inputs="volts", time="t", dt=0.1, hold_inputs=True)
    assert timed.observed[:, 0].tolist() == [True, True, False, True, True]
    assert_close(timed.u[:, 0], [1.0, 4.0, 4.0, 7.0, 8.0], "bitwise")
    split = rz.read_data(path, outputs="speed", inputs="volts", time="t", dt=0.1, gaps="split")
    assert (split.starts, split.length) == ((0, 2), 4)
    with pytest.raises(rz.DataError, match=r"'y' is not there; .* has: t, volts, speed"):
        rz.read_data(path, outputs="y")
    with pytest.raises(rz.DataError, match="no method takes missing inputs"):
        rz.read_data(path, outputs="speed", inputs="volts", time="t", dt=0.1)


def test_parquet_tables_are_read_with_their_units(tmp_path):
    path = tmp_path / "record.parquet"
    frame = pd.DataFrame(VALUES, columns=list(NAMES))
    frame.attrs["units"] = {"speed": "m/s"}
    frame.to_parquet(path)
    data = rz.read_data(path, outputs="speed", time="t", dt=0.1)
    assert (data.output_units, data.length, int(data.observed.sum())) == (("m/s",), 5, 4)
    assert_close(rz.read_data(path, outputs="speed").y[:, 0], VALUES[:, 2], "bitwise")


def test_without_pyarrow_parquet_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match="pyarrow"):
        rz.read_data(tmp_path / "a.parquet", outputs="speed")


def test_empty_cells_are_missing_only_on_request(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("u,y\n1,2\n3,\n5,6\n")
    with pytest.raises(rz.DataError, match=r"'y' .* at sample 1"):
        rz.read_data(path, outputs="y")
    assert rz.read_data(path, outputs="y", missing=True).observed[:, 0].tolist() == [True, False, True]
    with pytest.raises(rz.DataError, match="an input"):
        rz.read_data(path, outputs="u", inputs="y", missing=True)


def test_dates_in_a_text_file_are_times(tmp_path):
    path = tmp_path / "a.csv"
    stamps = [f"2024-05-01T12:00:0{k}" for k in (0, 1, 2, 5)]
    path.write_text("when;y\n" + "\n".join(f"{s};{k}" for k, s in enumerate(stamps)) + "\n")
    data = rz.read_data(path, outputs="y", time="when")
    assert (data.length, data.dt) == (6, 1.0)


@pytest.mark.parametrize(
    ("stamps", "step"),
    [
        (["28.02.2025 23:50", "01.03.2025 00:00", "01.03.2025 00:10"], 600.0),
        (["01.03.2025 9:59:58", "01.03.2025 9:59:59", "01.03.2025 10:00:00"], 1.0),
        (["12/03/2025", "13/03/2025", "14/03/2025"], 86400.0),
        (["02/28/2025 06:00", "02/28/2025 18:00", "03/01/2025 06:00"], 43200.0),
        (["01.03.2025 00:00:00,250", "01.03.2025 00:00:00,500", "01.03.2025 00:00:00,750"], 0.25),
    ],
)
def test_dates_of_other_countries_are_times(stamps, step, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("when;y\n" + "\n".join(f"{s};{k},5" for k, s in enumerate(stamps)) + "\n")
    data = rz.read_data(path, outputs="y", time="when")
    assert (data.length, data.dt) == (3, step)
    assert data.y[:, 0].tolist() == [0.5, 1.5, 2.5]


@pytest.mark.parametrize(
    ("stamps", "message"),
    [
        (["01/02/2025", "02/02/2025", "03/02/2025"], "nothing tells day from month"),
        (["1 March 2025", "2 March 2025", "3 March 2025"], "not a number"),
        (["01.03.25 00:00", "01.03.25 00:10", "01.03.25 00:20"], r"dates are read as 2025-03-01 .* dt gives"),
        (["01.03.2025", "2025-03-02", "03.03.2025"], "which is not a number"),
        (["31.02.2025", "01.03.2025", "02.03.2025"], "which is not a number"),
    ],
)
def test_what_is_no_date_is_said(stamps, message, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("when;y\n" + "\n".join(f"{s};{k}" for k, s in enumerate(stamps)) + "\n")
    with pytest.raises(rz.DataError, match=message):
        rz.read_data(path, outputs="y", time="when")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", b"1", "ends in '.xyz'; known are"),
        ("a.npz", b"1", "no NumPy file"),
        ("a.mat", b"1", "no MATLAB file"),
        ("a.csv", b"y,z\n1,2\nx,3\n", "row 3, column 'y'"),
    ],
)
def test_what_cannot_be_read(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(rz.DataError, match=message):
        rz.read_data(tmp_path / name, outputs="y")
    with pytest.raises(rz.DataError, match="there is no file"):
        rz.read_data(tmp_path / "none.csv", outputs="y")


@given(seed=seeds, step=st.floats(1e-3, 1e3), jitter=st.floats(0, 0.2))
def test_a_jittered_grid_with_holes_is_found_again(seed, step, jitter):
    rng = np.random.default_rng(seed)
    there = np.append(True, rng.random(80) < 0.9)
    there[-1] = True
    index = np.flatnonzero(there)
    off = jitter * rng.uniform(-1, 1, len(index))
    off[0] = 0
    values = rng.standard_normal(len(index))
    found = rz.regular_record((index + off) * step + 7.0, values, dt=step)
    assert found.data.length == 81
    assert (found.data.observed[:, 0] == there).all()
    assert_close(found.data.y[there, 0], values, "bitwise")
    assert found.dropped == 81 - len(index)
    assert abs(found.worst - np.abs(off).max()) < 1e-6
    if jitter < 0.1:
        assert abs(rz.regular_record((index + off) * step, values).data.dt / step - 1) < 0.01


def test_two_samples_on_one_point_leave_the_nearer():
    found = rz.regular_record([0.0, 1.0, 1.3, 2.0], [1.0, 2.0, 3.0, 4.0], dt=1.0)
    assert (found.merged, found.data.y[:, 0].tolist()) == (1, [1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("time", "options", "message"),
    [
        ([0, 2, 1], {}, "does not rise after row 1"),
        ([0, 1, np.nan], {}, "a time is missing"),
        ([0, 1, 2, 3e6], {}, "the times span"),
        ([0, 1, 2], {"dt": -1.0}, "positive"),
        ([0, 1, 2], {"gaps": "fill"}, "'missing' or 'split'"),
    ],
)
def test_times_that_make_no_grid(time, options, message):
    with pytest.raises(rz.DataError, match=message):
        rz.regular_record(time, np.ones(len(time)), **options)


def test_codes_become_columns_that_tell_them_apart():
    codes = [2, 0, 1, 0]
    columns, names = rz.one_hot(codes, name="gear")
    assert names == ["gear=1", "gear=2"]
    assert_close(columns @ [1, 2], codes, "bitwise")
    assert rz.one_hot([1, 1], values=[0, 1])[0].tolist() == [[1.0], [1.0]]
    for wrong in ([0.5, 1], [1, 1], np.arange(60)):
        with pytest.raises(rz.DataError, match="one_hot"):
            rz.one_hot(wrong)


def test_the_command_prints_what_was_found(tmp_path, capsys):
    path = written(tmp_path, "csv")
    assert main(["inspect", str(path), "--input", "volts", "--output", "speed"]) == 0
    out = capsys.readouterr().out
    assert "IOData(4 samples" in out
    assert "length" in out
    assert main(["inspect", str(path), "--output", "none"]) == 2
