"""`read_csv`: every notation that measured records come in, and one line for each fault."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realization.errors import DataError
from realization.signals import read_csv, read_data
from tests.tolerances import assert_close

VALUES = np.array([[1.0, -2.5, 3e-7], [4.0, 5.5, -6e8], [7.0, 1 / 3, 9.0]])


@pytest.fixture
def write(tmp_path):
    def write(content, name="record.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def table(delimiter, header="a b c", end="", line_break="\n"):
    rows = [delimiter.join(repr(float(x)) for x in row) + end for row in VALUES]
    return line_break.join(([delimiter.join(header.split()) + end] if header else []) + rows) + line_break


@pytest.mark.parametrize("delimiter", [",", ";", "\t", " ", "   ", ", ", " ; ", " \t "])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("header", ["a b c", ""])
def test_every_delimiter(delimiter, line_break, header, write):
    path = write(table(delimiter, header, line_break=line_break))
    outputs, inputs = (["c", "a"], ["b"]) if header else ([2, 0], [1])
    data = read_csv(path, inputs=inputs, outputs=outputs, dt=0.5)
    assert_close(data.y, VALUES[:, [2, 0]], "bitwise")
    assert_close(data.u, VALUES[:, [1]], "bitwise")
    assert data.dt == 0.5
    assert (data.output_names, data.input_names) == (
        (("c", "a"), ("b",)) if header else (("y1", "y2"), ("u1",))
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3), min_size=2, max_size=8
    ),
    delimiter=st.sampled_from([",", ";", "\t", " "]),
)
def test_numbers_come_back_bit_for_bit(values, delimiter, write):
    frame = pd.DataFrame(values, columns=["a", "b", "c"])
    path = write(frame.to_csv(sep=delimiter, index=False))
    assert read_csv(path, outputs=["a", "b", "c"]).y.tobytes() == frame.to_numpy().tobytes()


def test_a_time_series_and_single_names(write):
    path = write(table(","))
    assert read_csv(path, outputs="b").u is None
    data = read_csv(path, outputs="b", inputs=0)
    assert (data.output_names, data.input_names) == (("b",), ("a",))
    single = write("level\n1\n2\n")
    assert_close(read_csv(single, outputs="level").y, [[1.0], [2.0]], "bitwise")
    assert_close(read_csv(write("1\n2\n"), outputs=0).y, [[1.0], [2.0]], "bitwise")


def test_numbers_choose_columns_under_a_header_too(write):
    data = read_csv(write(table(";")), outputs=[1], inputs=np.arange(1))
    assert (data.output_names, data.input_names) == (("b",), ("a",))
    assert_close(data.y, VALUES[:, [1]], "bitwise")


@pytest.mark.parametrize("delimiter", [";", "\t", " "])
@pytest.mark.parametrize("header", ["", "a b\n"])
def test_decimal_commas_are_read_where_no_comma_parts_columns(delimiter, header, write):
    text = f"{header}1,5 -0,250\n0 2e1\n-3,25 +7,125\n".replace(" ", delimiter)
    path = write(text)
    assert_close(read_csv(path, outputs=[0], inputs=[1]).y[:, 0], [1.5, 0.0, -3.25], "bitwise")
    assert_close(read_data(path, outputs=[0, 1]).y[:, 1], [-0.25, 20.0, 7.125], "bitwise")


@pytest.mark.parametrize("end", [",", ",,", ", ,"])
def test_empty_columns_at_the_end_are_passed_over(end, write):
    assert_close(read_csv(write(table(",", end=end)), outputs=["c"]).y, VALUES[:, [2]], "bitwise")
    assert_close(read_csv(write(table(",", "", end=end)), outputs=[2]).y, VALUES[:, [2]], "bitwise")


def test_a_column_with_one_value_is_no_fault_where_it_is_not_asked_for(write):
    path = write('"u","y","Ts",\n1,2,4,\n3,5,,\n,,,\n')
    assert_close(read_csv(path, inputs=["u"], outputs=["y"]).y, [[2.0], [5.0]], "bitwise")


def test_small_print_of_text_files(write):
    quoted = write('"heater, in V","temp ""C"""\n"1","2"\n\n3,4\n\n')
    data = read_csv(quoted, inputs=["heater, in V"], outputs=['temp "C"'])
    assert_close(np.hstack([data.u, data.y]), [[1, 2], [3, 4]], "bitwise")
    marked = write(b"\xef\xbb\xbfu,y\n1,2\n3,4\n")
    assert read_csv(marked, outputs=["u"]).output_names == ("u",)
    saved = write("# u y\n1 2\n3 4\n")
    assert read_csv(saved, outputs=["y"]).y[1, 0] == 4
    stamped = write("time,y\n2024-01-01 00:00:00,1\n2024-01-01 00:00:01,2\n")
    assert_close(read_csv(stamped, outputs=["y"]).y, [[1.0], [2.0]], "bitwise")
    numbered = write("0,1\n10,20\n30,40\n")
    assert_close(read_csv(numbered, outputs=["1"]).y, [[20.0], [40.0]], "bitwise")
    assert len(read_csv(numbered, outputs=[1])) == 3


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("", {"outputs": [0]}, "holds no data"),
        ("\n \n", {"outputs": [0]}, "holds no data"),
        ("a,b\n", {"outputs": ["a"]}, "has 0 rows of data; at least 2"),
        ("a,b\n1,2\n", {"outputs": ["a"]}, "has 1 rows of data; at least 2"),
        ("a,b\n1,2\n3,4\n", {"outputs": ["c"]}, r"column 'c' is not there; the columns of \S+ are: a, b\."),
        ("a,b\n1,2\n3,4\n", {"outputs": ["A"]}, "are: a, b"),
        ("a,b\n1,2\n3,4\n", {"outputs": [2]}, r"column 2 is not there; \S+ has columns 0 to 1 \(a, b\)"),
        ("1,2\n3,4\n", {"outputs": [-1]}, "column -1 is not there"),
        ("1,2\n3,4\n", {"outputs": ["y"]}, "no header row to find column 'y' in.* 0 to 1"),
        ("a,a\n1,2\n3,4\n", {"outputs": ["a"]}, "more than once; name it by its number"),
        ("a,b\n1,2\n3,4\n", {"outputs": []}, "at least one output"),
        ("a,b\n1,2\n3,4\n", {"outputs": [True]}, "outputs holds True"),
        ("a,b\n1,2\n3,4\n", {"outputs": ["a"], "inputs": [1.0]}, "inputs holds 1.0"),
        (
            "a,b\n1,2\n3,x\n",
            {"outputs": ["b"]},
            r"row 3, column 1 \(b\) of \S+ holds 'x', which is not a number",
        ),
        ("1,2\n3,x\n", {"outputs": [1]}, r"row 2, column 1 of \S+ holds 'x'"),
        ("a,b\n1,2\n3,1_0\n", {"outputs": ["b"]}, "'1_0', which is not a number"),
        ("a,b\n\n1,2\n3,\n4,5\n", {"outputs": ["b"]}, r"row 4, column 1 \(b\) of \S+ is empty"),
        ("a,b\n1,2\n,\n4,5\n", {"outputs": ["a"]}, "row 3, column 0 .* is empty"),
        ("a,b\n1,2\n3,NaN\n", {"outputs": ["b"]}, "row 3, column 1 .*'NaN', which is not finite"),
        ("a,b\n1,-inf\n3,4\n", {"outputs": ["b"]}, "row 2, column 1 .*'-inf', which is not finite"),
        ("a,b\n1,2\n3,1e999\n", {"outputs": ["b"]}, "not finite"),
        ("a;b\n1,5;2\n3.5;4\n", {"outputs": ["a"]}, "'1,5', .*; write decimals with a point"),
        ("a;b\n1,500;2\n900;4\n", {"outputs": ["a"]}, "'1,500', whose comma may part thousands"),
        ('a,b\n"1,5",2\n"3,5",4\n', {"outputs": ["a"]}, "write decimals with a point"),
        ("a,b\n1,2\n3\n", {"outputs": ["a"]}, r"row 3 of \S+ has 1 cells; the header has 2"),
        ("a,b\n1,2\n3,4,5\n", {"outputs": ["a"]}, r"row 3 of \S+ has 3 cells; the header has 2"),
        ("1 2\n3 4\n5 6 7\n", {"outputs": [0]}, "row 3 .* has 3 cells; the first row has 2"),
        (b"a,b\n1,2\n\xff,4\n", {"outputs": ["b"]}, r"not UTF-8 text \(byte 8\)"),
        (b"a,b\n1,2\n\x00,4\n", {"outputs": ["b"]}, "binary"),
        ("a," + "x" * 200_000 + "\n1,2\n", {"outputs": ["a"]}, "no table of numbers"),
    ],
)
def test_every_fault_is_one_clear_line(content, columns, message, write):
    with pytest.raises(DataError, match=message) as caught:
        read_csv(write(content), **columns)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path, write, monkeypatch):
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv"):
        read_csv(tmp_path / "nowhere.csv", outputs=[0])
    with pytest.raises(DataError, match="is a folder"):
        read_csv(tmp_path, outputs=[0])
    path = write("1\n2\n")

    def refuse(_):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        read_csv(path, outputs=[0])


def test_a_wrong_step_is_refused(write):
    with pytest.raises(DataError, match="dt=-1"):
        read_csv(write("1\n2\n"), outputs=[0], dt=-1.0)
