"""Models on disk: the same bits come back, and no other file is taken for a model."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from realization.errors import DataError, RealizationError
from realization.systems import InnovationsModel, StateSpace, load_model, save_model
from tests.strategies import innovations_models, systems
from tests.tolerances import assert_close

ENDINGS = (".json", ".npz")
FIELDS = ("A", "B", "C", "D", "K", "Re", "u_mean", "y_mean")
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_same_bits(actual, expected):
    assert type(actual) is type(expected)
    assert actual.dt == expected.dt
    assert type(actual.dt) is (type(None) if expected.dt is None else float)
    for name in FIELDS:
        if hasattr(expected, name):
            assert getattr(actual, name).shape == getattr(expected, name).shape
            assert getattr(actual, name).tobytes() == getattr(expected, name).tobytes()
            assert not getattr(actual, name).flags.writeable


@pytest.mark.parametrize("ending", ENDINGS)
@one_folder
@given(data=st.data(), dt=st.sampled_from([None, 0.0, 0.1, 1228.8]))
def test_a_model_comes_back_bit_for_bit(ending, data, dt, tmp_path):
    kind = data.draw(st.sampled_from([systems(dt=dt), innovations_models(dt=dt)]))
    model = data.draw(kind)
    path = tmp_path / f"model{ending}"
    save_model(model, path)
    assert_same_bits(load_model(path), model)


@pytest.mark.parametrize("ending", ENDINGS)
@one_folder
@given(A=arrays(float, (2, 2), elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_every_finite_number_survives(ending, A, tmp_path):
    model = StateSpace(A, [[5e-324], [-0.0]], [[1 / 3, np.nextafter(1, 2)]])
    path = tmp_path / f"model{ending}"
    save_model(model, path)
    assert_same_bits(load_model(path), model)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("n", "m", "p"), [(0, 0, 0), (0, 2, 1), (2, 0, 1), (2, 1, 0)])
def test_empty_sides_keep_their_shape(ending, n, m, p, tmp_path):
    for kind in (StateSpace, InnovationsModel):
        model = kind(np.eye(n) / 2, np.ones((n, m)), np.ones((p, n)))
        save_model(model, tmp_path / f"model{ending}")
        assert_same_bits(load_model(tmp_path / f"model{ending}"), model)


@pytest.mark.parametrize("ending", [*ENDINGS, ".JSON", ".Npz"])
def test_the_methods_are_the_functions(ending, tmp_path):
    model, path = InnovationsModel([[0.5]], [[1.0]], [[1.0]], dt=2), tmp_path / f"model{ending}"
    model.save(str(path))
    assert_close(InnovationsModel.load(path).A, model.A, "bitwise")
    assert_close(StateSpace.load(path).A, model.A, "bitwise")
    StateSpace([[0.5]], [[1.0]], [[1.0]]).save(path)
    with pytest.raises(DataError, match="holds a StateSpace, not a InnovationsModel"):
        InnovationsModel.load(path)


def test_json_is_text_that_says_what_it_is(tmp_path):
    path = tmp_path / "model.json"
    save_model(StateSpace([[0.1]], [[1.0]], [[1.0]], dt=0.0), path)
    content = json.loads(path.read_text())
    assert {key: content[key] for key in ("format", "version", "kind", "dt")} == {
        "format": "realization-model",
        "version": 1,
        "kind": "StateSpace",
        "dt": 0.0,
    }
    assert content["arrays"]["A"] == {"shape": [1, 1], "values": [0.1]}


@pytest.mark.parametrize("ending", ENDINGS)
class TestWriting:
    @pytest.fixture
    def model(self):
        return StateSpace([[0.5]], [[1.0]], [[1.0]])

    def test_nothing_else_is_left_and_the_mode_is_a_files(self, ending, model, tmp_path):
        path = tmp_path / f"model{ending}"
        for _ in range(2):
            save_model(model, path)
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
        other = tmp_path / "other"
        other.touch()
        assert path.stat().st_mode == other.stat().st_mode

    def test_the_old_file_stays_when_writing_fails(self, ending, model, tmp_path, monkeypatch):
        path = tmp_path / f"model{ending}"
        save_model(model, path)
        before = path.read_bytes()

        def fail(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(DataError, match=r"cannot write .*: no space left on device"):
            save_model(StateSpace([[0.9]], [[1.0]], [[1.0]]), path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_a_link_is_followed(self, ending, model, tmp_path):
        (tmp_path / "real").mkdir()
        link = tmp_path / f"link{ending}"
        link.symlink_to(tmp_path / "real" / f"model{ending}")
        save_model(model, link)
        assert link.is_symlink()
        assert_same_bits(load_model(link), model)

    def test_places_that_cannot_be_written(self, ending, model, tmp_path):
        with pytest.raises(DataError, match=r"cannot write .*: no such file"):
            save_model(model, tmp_path / "nowhere" / f"model{ending}")
        (tmp_path / f"folder{ending}").mkdir()
        with pytest.raises(DataError, match=r"cannot write .*: it is a folder"):
            save_model(model, tmp_path / f"folder{ending}")
        assert [entry.name for entry in tmp_path.iterdir()] == [f"folder{ending}"]


@pytest.mark.parametrize("name", ["model", "model.pkl", "model.json.gz"])
def test_other_endings_are_refused(name, tmp_path):
    with pytest.raises(DataError, match=r"name the file \.json or \.npz"):
        save_model(StateSpace([[0.5]], [[1.0]], [[1.0]]), tmp_path / name)
    with pytest.raises(DataError, match=r"name the file \.json or \.npz"):
        load_model(tmp_path / name)


def test_another_kind_of_object_is_refused(tmp_path):
    class Derived(StateSpace):
        """A model with more than the format holds."""

    for thing in (np.eye(2), Derived([[0.5]], [[1.0]], [[1.0]])):
        with pytest.raises(RealizationError, match="StateSpace and InnovationsModel can be saved"):
            save_model(thing, tmp_path / "model.json")


@pytest.mark.parametrize("ending", ENDINGS)
class TestReading:
    @pytest.fixture
    def path(self, ending, tmp_path):
        path = tmp_path / f"model{ending}"
        save_model(InnovationsModel([[0.5]], [[1.0]], [[1.0]], dt=0.1), path)
        return path

    def test_missing_and_folder(self, ending, tmp_path):
        with pytest.raises(DataError, match="there is no file"):
            load_model(tmp_path / f"model{ending}")
        (tmp_path / f"folder{ending}").mkdir()
        with pytest.raises(DataError, match="cannot be read: Is a directory"):
            load_model(tmp_path / f"folder{ending}")

    def test_every_truncation_is_noticed(self, ending, path):
        raw = path.read_bytes()
        whole = len(raw.rstrip())  # a text without its last line break is whole
        for length in {0, 1, *range(2, whole - 1, 37), whole - 1}:
            path.write_bytes(raw[:length])
            with pytest.raises(DataError, match="damaged"):
                load_model(path)

    def test_foreign_files(self, ending, path):
        for content in (b"\x80\x04K\x01.", b"PK\x03\x04", b"\xff\xfe", b"[" * 100_000, b"hello"):
            path.write_bytes(content)
            with pytest.raises(DataError, match="damaged or not"):
                load_model(path)
        if ending == ".json":
            for text in ("[1]", "{}", '{"format": "other", "A": 1}', "3"):
                path.write_text(text)
                with pytest.raises(DataError, match="not written by save_model"):
                    load_model(path)
        else:
            with path.open("wb") as file:
                np.savez(file, A=np.eye(2))
            with pytest.raises(DataError, match="not written by save_model"):
                load_model(path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"version": 2}, "format version 2; this installation reads up to 1. Upgrade"),
            ({"version": 99, "kind": "Future"}, "format version 99"),
            ({"version": "1"}, "damaged: version '1'"),
            ({"version": True}, "damaged: version True"),
            ({"kind": "Other"}, "damaged: kind 'Other', which is none of StateSpace, InnovationsModel"),
            ({"kind": ["StateSpace"]}, "damaged: kind"),
            ({"kind": "StateSpace"}, r"damaged: missing entries \[\], unknown entries \['K', 'Re'"),
            ({"format": "other"}, "not written by save_model"),
            ({"dt": "0.1"}, "damaged: dt '0.1'"),
            ({"dt": False}, "damaged: dt False"),
            ({"dt": -1.0}, "damaged: dt=-1.0"),
        ],
    )
    def test_wrong_headers(self, ending, path, change, message):
        rewrite(path, change)
        with pytest.raises(DataError, match=message):
            load_model(path)

    def test_a_missing_step_is_not_the_unit_step(self, ending, path):
        rewrite(path, {}, drop="dt")
        with pytest.raises(DataError, match="damaged: dt 'missing'"):
            load_model(path)

    def test_whole_numbers_are_steps(self, ending, path):
        rewrite(path, {"dt": 2})
        assert load_model(path).dt == 2.0


def rewrite(path, change, drop=None):
    """Change entries of the header of a saved model."""
    if path.suffix == ".json":
        content = json.loads(path.read_text()) | change
        content.pop(drop, None)
        path.write_text(json.dumps(content))
        return
    with np.load(path) as entries:
        arrays = dict(entries)
    header = json.loads(str(arrays["header"])) | change
    header.pop(drop, None)
    with path.open("wb") as file:
        np.savez(file, **(arrays | {"header": np.array(json.dumps(header))}))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"shape": [1, 2], "values": [1.0]}, "A: cannot reshape"),
        ({"shape": [1, 1], "values": ["1.0"]}, "no numbers"),
        ({"shape": [1, 1], "values": [True]}, "no numbers"),
        ({"shape": [1, 1], "values": [[1.0]]}, "no numbers"),
        ({"shape": [1, -1], "values": [1.0]}, "no shape"),
        ({"shape": "1", "values": [1.0]}, "no shape"),
        ({"shape": [1, 1], "values": [10**400]}, "A: "),
        ({"shape": [1, 1], "values": [float("nan")]}, "NaN"),
        ({"shape": [1, 1], "values": [float("inf")]}, "infinite"),
        ({"shape": [2, 2], "values": [1.0, 0.0, 0.0, 1.0]}, "B has shape"),
        ([1.0], "A is no array"),
        (None, "A is no array"),
    ],
)
def test_wrong_arrays_in_json(entry, message, tmp_path):
    path = tmp_path / "model.json"
    save_model(StateSpace([[0.5]], [[1.0]], [[1.0]]), path)
    content = json.loads(path.read_text())
    content["arrays"]["A"] = entry
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as caught:
        load_model(path)
    assert "damaged" in str(caught.value)


def test_missing_arrays_in_json(tmp_path):
    path = tmp_path / "model.json"
    save_model(StateSpace([[0.5]], [[1.0]], [[1.0]]), path)
    content = json.loads(path.read_text())
    del content["arrays"]["B"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"missing entries \['B'\]"):
        load_model(path)
    path.write_text(json.dumps(content | {"arrays": []}))
    with pytest.raises(DataError, match="no arrays"):
        load_model(path)


def test_npz_takes_float64_and_never_pickles(tmp_path):
    path = tmp_path / "model.npz"
    save_model(StateSpace([[0.5]], [[1.0]], [[1.0]]), path)
    with np.load(path) as entries:
        arrays = dict(entries)
    with path.open("wb") as file:
        np.savez(file, **(arrays | {"A": np.float32([[0.5]])}))
    with pytest.raises(DataError, match="A not of float64"):
        load_model(path)
    with path.open("wb") as file:
        np.savez(file, **(arrays | {"A": np.array([[print]], dtype=object)}))
    with pytest.raises(DataError, match="never read"):
        load_model(path)


def test_npz_checksums_are_compared(tmp_path):
    path = tmp_path / "model.npz"
    save_model(StateSpace([[0.5]], [[1.0]], [[1.0]]), path)
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("A.npy")
        start = entry.header_offset + 30 + len(entry.filename)
    raw = bytearray(path.read_bytes())
    place = raw.index(np.float64(0.5).tobytes(), start)
    raw[place] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match="a checksum does not match"):
        load_model(path)
