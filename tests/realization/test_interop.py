"""To other libraries and back: the same bits, and the peers' own evaluation agrees."""

from __future__ import annotations

from dataclasses import replace

import control
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.signal
import scipy.sparse
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from pymor.models.iosys import LTIModel

import realization as rz
from realization import interop
from realization.errors import DataError, RankError, ShapeError
from tests.source import run_python
from tests.strategies import innovations_models, seeds, systems
from tests.tolerances import assert_close, assert_same_system

OMEGA = np.array([0.1, 0.7, 2.0])
few = settings(max_examples=15, deadline=None)
steps = st.sampled_from([None, 0.0, 0.08, 1.0, 1 / 3])


def same(actual, expected):
    assert actual.dt == expected.dt
    for name in "ABCD":
        assert_close(getattr(actual, name), getattr(expected, name), "bitwise")


def noisy(dt=None):
    return rz.InnovationsModel(
        [[0.5]], [[1.0]], [[1.0]], dt=dt, K=[[0.3]], Re=[[2.0]], u_mean=[1.0], y_mean=[3.0]
    )


def test_no_library_is_loaded_before_it_is_used():
    libraries = ("control", "pymor", "pandas", "xarray", "scipy.io")
    code = f"import sys, realization.interop; print(set({libraries}) & set(sys.modules))"
    assert run_python(code).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("control", "interop.to_control(model)"),
        ("pymor", "interop.to_pymor(model, dt=1.0)"),
        ("pandas", "interop.to_frame(rz.IOData([1.0]))"),
        ("xarray", "interop.to_xarray(rz.IOData([1.0]))"),
    ],
)
def test_without_a_library_the_extra_is_named(module, call):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "import realization as rz; from realization import interop\n"
        "model = rz.StateSpace([[0.5]], [[1.0]], [[1.0]])\n"
        f"try:\n    {call}\nexcept ImportError as error:\n    print(error)"
    )
    assert "pip install 'realization[interop]'" in run_python(code).stdout


class TestControl:
    @few
    @given(systems(states=(0, 5)), steps)
    def test_state_space_there_and_back(self, model, dt):
        model = replace(model, dt=dt)
        system = interop.to_control(model)
        assert system.dt is True if dt is None else system.dt == dt
        assert system.isctime() is (dt == 0)
        same(interop.from_control(system), model)

    @few
    @given(systems(states=(1, 4), radius=(0.2, 0.9)), st.sampled_from([None, 0.0, 0.5]))
    def test_transfer_function(self, model, dt):
        model = replace(model, dt=dt)
        system = interop.to_control(model, "tf")
        theirs = np.moveaxis(
            system(1j * OMEGA if dt == 0 else np.exp(1j * OMEGA * (dt or 1.0)), squeeze=False), 2, 0
        )
        ours = model.frequency_response(OMEGA)
        assert_close(theirs, ours, "iterative")
        again = interop.from_control(system)
        assert again.dt == dt
        assert_close(again.frequency_response(OMEGA), ours, "iterative")

    def test_their_response(self, rng):
        model = rz.StateSpace([[0.5, 0.2], [-0.3, 0.7]], np.eye(2), [[1.0, -1.0]], [[0.5, 0.0]], dt=0.1)
        u = rng.standard_normal((30, 2))
        _, theirs = control.forced_response(interop.to_control(model), inputs=u.T, squeeze=False)
        assert_close(model.simulate(u), theirs.T)

    def test_a_delay_keeps_its_zeros(self):
        model = rz.StateSpace(np.eye(3, k=1), np.eye(3)[:, 2:], np.eye(3)[:1])
        assert interop.to_control(model, "tf").num_list[0][0].tolist() == [1.0]

    def test_refused(self):
        with pytest.raises(DataError, match=r"\.deterministic"):
            interop.to_control(noisy())
        with pytest.raises(DataError, match="either time"):
            interop.from_control(control.ss([[0.5]], [[1]], [[1]], [[0]], None))
        with pytest.raises(DataError, match=r"improper"):
            interop.from_control(control.tf([1, 0, 0], [1, 1]))
        with pytest.raises(DataError, match=r"a FrequencyResponseData|a FRD"):
            interop.from_control(control.frd([1.0, 2.0], [1.0, 2.0]))
        with pytest.raises(DataError, match="kind"):
            interop.to_control(noisy().deterministic, "zpk")


class TestScipy:
    @few
    @given(systems(states=(1, 5)), steps)
    def test_state_space_there_and_back(self, model, dt):
        model = replace(model, dt=dt)
        system = interop.to_scipy(model)
        assert isinstance(system, scipy.signal.lti if dt == 0 else scipy.signal.dlti)
        same(interop.from_scipy(system), model)

    @few
    @given(
        systems(states=(1, 4), inputs=(1, 1), outputs=(1, 1), radius=(0.2, 0.9)),
        st.sampled_from(["tf", "zpk"]),
    )
    def test_fractions(self, model, kind):
        system = interop.to_scipy(model, kind)
        _, theirs = scipy.signal.dfreqresp(system, OMEGA)
        assert_close(theirs, model.frequency_response(OMEGA)[:, 0, 0], "iterative")
        assert_close(interop.from_scipy(system).frequency_response(OMEGA)[:, 0, 0], theirs, "iterative")

    def test_several_outputs(self):
        model = rz.StateSpace([[0.5, 1.0], [0.0, 0.2]], [[0.0], [1.0]], np.eye(2), dt=0.0)
        assert_same_system(interop.from_scipy(interop.to_scipy(model, "tf")), model)

    def test_their_response(self, rng):
        model = rz.StateSpace([[0.5, 0.2], [-0.3, 0.7]], np.eye(2), [[1.0, -1.0]], [[0.5, 0.0]], dt=0.1)
        u = rng.standard_normal((30, 2))
        assert_close(model.simulate(u), scipy.signal.dlsim(interop.to_scipy(model), u)[1])

    def test_refused(self):
        wide = rz.StateSpace([[0.5]], [[1.0, 2.0]], [[1.0]])
        for kind in ("tf", "zpk"):
            with pytest.raises(ShapeError, match="one input"):
                interop.to_scipy(wide, kind)
        with pytest.raises(DataError, match="complex"):
            interop.from_scipy(scipy.signal.ZerosPolesGain([], [0.5j], 1.0, dt=True))
        with pytest.raises(DataError, match=r"scipy\.signal"):
            interop.from_scipy([1.0])


class TestPymor:
    @few
    @given(systems(states=(1, 5)), st.sampled_from([0.0, 0.08, 1.0]))
    def test_there_and_back(self, model, dt):
        model = replace(model, dt=dt)
        theirs = interop.to_pymor(model)
        same(interop.from_pymor(theirs), model)
        s = 0.3 + 1.7j
        exact = model.C @ np.linalg.solve(s * np.eye(model.n_states) - model.A, model.B) + model.D
        assert_close(theirs.transfer_function.eval_tf(s), exact, "iterative")

    def test_a_mass_matrix_is_folded_and_a_singular_one_refused(self, rng):
        A, B, C = rng.standard_normal((3, 3)), rng.standard_normal((3, 1)), rng.standard_normal((1, 3))
        E = np.eye(3) + 0.1 * rng.standard_normal((3, 3))
        theirs = LTIModel.from_matrices(scipy.sparse.csc_array(A), B, C, E=scipy.sparse.csc_array(E))
        model = interop.from_pymor(theirs)
        exact = np.array([C @ np.linalg.solve(1j * w * E - A, B) for w in OMEGA])
        assert_close(model.frequency_response(OMEGA), exact)
        with pytest.raises(RankError, match="descriptor"):
            interop.from_pymor(LTIModel.from_matrices(A, B, C, E=np.diag([1.0, 1.0, 0.0])))

    def test_an_unnamed_step_needs_a_name(self):
        model = noisy().deterministic
        with pytest.raises(DataError, match="unnamed"):
            interop.to_pymor(model)
        assert interop.to_pymor(model, dt=2.0).sampling_time == 2.0
        with pytest.raises(DataError, match="own step"):
            interop.to_pymor(replace(model, dt=0.1), dt=0.2)
        with pytest.raises(DataError, match="LTIModel"):
            interop.from_pymor(model)


class TestStatsmodels:
    @few
    @given(innovations_models(states=(1, 3)), seeds)
    def test_their_likelihood_is_ours(self, model, seed):
        rng = np.random.default_rng(seed)
        u = rng.standard_normal((40, model.n_inputs))
        e = rng.standard_normal((40, model.n_outputs)) @ np.linalg.cholesky(model.Re).T
        data = rz.IOData(model.simulate(u, e=e), u if model.n_inputs else None)
        theirs = interop.to_statsmodels(model, data)
        found = rz.kalman_filter(model, data)
        assert_close(np.array(theirs.loglike()), np.array(found.log_likelihood), "iterative")
        assert_close(theirs.filter().forecasts_error.T, found.innovations, "iterative")

    def test_refused(self):
        with pytest.raises(ShapeError, match="the model 1 and 1"):
            interop.to_statsmodels(noisy(), [1.0, 2.0])
        with pytest.raises(DataError, match="InnovationsModel"):
            interop.to_statsmodels(noisy().deterministic, [1.0])


def record(dt, rng, length=7):
    return rz.IOData(
        rng.standard_normal((length, 2)),
        rng.standard_normal((length, 1)),
        dt,
        output_names=["a", "b"],
        input_names=["f"],
    )


def same_record(actual, expected):
    assert actual.dt == expected.dt
    assert (actual.output_names, actual.input_names) == (expected.output_names, expected.input_names)
    assert_close(actual.y, expected.y, "bitwise")
    assert_close(actual.inputs, expected.inputs, "bitwise")


class TestFrames:
    # Of the last time over their number of steps, the last two give back another step.
    @pytest.mark.parametrize(
        ("dt", "length"), [(None, 7), (0.08, 7), (1 / 3, 7), (3600.0, 7), (0.1, 7), (1e-4, 50)]
    )
    def test_there_and_back(self, dt, length, rng):
        data = record(dt, rng, length)
        same_record(interop.from_frame(interop.to_frame(data), outputs=["a", "b"], inputs=["f"]), data)

    @pytest.mark.parametrize("zone", [None, "Europe/Rome"])
    def test_dates(self, zone, rng):
        start = pd.Timestamp("2024-03-30 23:59", tz=zone)  # the clock changes in Rome the night after
        data = record(900.0, rng)
        frame = interop.to_frame(data, start=start)
        assert frame.index[0] == start
        assert frame.index[-1] == start + pd.Timedelta(hours=1.5)
        same_record(interop.from_frame(frame, outputs=["a", "b"], inputs=["f"]), data)

    def test_months_are_unnamed_steps(self):
        frame = pd.DataFrame({"x": [1.0, 2.0]}, index=pd.period_range("2024-01", periods=2, freq="M"))
        assert interop.from_frame(frame, outputs=["x"]).dt is None

    def test_a_printed_time_is_regular_and_a_gap_is_not(self):
        times = np.round(np.arange(50) / 3, 9)
        frame = pd.DataFrame({"x": np.arange(50.0)}, index=times)
        assert abs(interop.from_frame(frame, outputs=["x"]).dt - 1 / 3) < 1e-9
        with pytest.raises(DataError, match="after sample 19"):
            interop.from_frame(frame.drop(index=times[20]), outputs=["x"])
        with pytest.raises(DataError, match="not regular"):
            interop.from_frame(frame[::-1], outputs=["x"])
        assert interop.from_frame(frame.drop(index=times[20]), outputs=["x"], dt=1.0).dt == 1.0

    def test_refused(self, rng):
        with pytest.raises(DataError, match="unnamed"):
            interop.to_frame(record(None, rng), start="2024-01-01")
        with pytest.raises(DataError, match="more than one"):
            interop.to_frame(rz.IOData(np.ones((2, 2)), output_names=["a", "a"]))


class TestXarray:
    @pytest.mark.parametrize("dt", [None, 0.08, 1 / 3])
    def test_there_and_back(self, dt, rng):
        data = record(dt, rng)
        dataset = interop.to_xarray(data, units={"a": "m"})
        assert dataset["a"].attrs["units"] == "m"
        same_record(interop.from_xarray(dataset), data)

    def test_a_data_array_in_either_order(self):
        values = np.arange(6.0).reshape(3, 2)
        array = xr.DataArray(
            values, dims=("time", "sensor"), coords={"sensor": ["p", "q"], "time": [0.0, 0.5, 1.0]}
        )
        for turned in (array, array.T):
            data = interop.from_xarray(turned, outputs=["q"], inputs=["p"])
            assert_close(data.y[:, 0], values[:, 1], "bitwise")
            assert_close(data.inputs[:, 0], values[:, 0], "bitwise")
            assert data.dt == 0.5

    def test_units_of_time(self):
        def step(values, unit=None):
            time = xr.Variable("time", values, {"units": unit} if unit else {})
            return interop.from_xarray(xr.Dataset({"x": ("time", np.zeros(3))}, coords={"time": time})).dt

        assert step([0.0, 80.0, 160.0], "ms") == 0.08
        assert step([0.0, 1.0, 2.0], "h") == 3600.0
        assert step(pd.date_range("2024", periods=3, freq="10ms")) == 0.01
        assert step([0, 1, 2]) is None
        with pytest.raises(DataError, match="fortnight"):
            step([0.0, 1.0, 2.0], "fortnight")

    def test_refused(self):
        image = xr.Dataset({"x": (("time", "row"), np.zeros((3, 2)))})
        with pytest.raises(DataError, match="dimensions"):
            interop.from_xarray(image)
        with pytest.raises(DataError, match="no dimension 'time'"):
            interop.from_xarray(image.rename(time="t"))
        with pytest.raises(DataError, match="'y' is not there"):
            interop.from_xarray(image, outputs=["y"])
        with pytest.raises(DataError, match="units came"):
            interop.to_xarray(rz.IOData([1.0]), units={"x": "m"})


class TestMatlab:
    @pytest.mark.parametrize("dt", [None, 0.08])
    def test_records(self, tmp_path, dt, rng):
        data = rz.IOData(rng.standard_normal((7, 2)), rng.standard_normal((7, 1)), dt, input_names=["u"])
        interop.write_mat(tmp_path / "r.mat", data)
        same_record(interop.read_mat(tmp_path / "r.mat", outputs="y", inputs="u"), data)

    @pytest.mark.parametrize("dt", [None, 0.0, 0.08])
    def test_models(self, tmp_path, dt):
        for model in (noisy(dt), noisy(dt).deterministic):
            interop.write_mat(tmp_path / "m.mat", model)
            again = interop.read_mat_model(tmp_path / "m.mat")
            assert type(again) is type(model)
            same(again, model)
            if isinstance(again, rz.InnovationsModel):
                for name in ("K", "Re", "u_mean", "y_mean"):
                    assert_close(getattr(again, name), getattr(model, name), "bitwise")

    def test_time_along_the_rows_and_a_named_step(self, tmp_path):
        y = np.arange(6.0).reshape(2, 3)
        scipy.io.savemat(tmp_path / "r.mat", {"signal": y, "h": 0.5, "u": [1.0, 2.0, 3.0]})
        data = interop.read_mat(tmp_path / "r.mat", outputs="signal", inputs="u", dt="h", time_axis=1)
        assert (data.dt, data.output_names, data.input_names) == (0.5, ("signal1", "signal2"), ("u",))
        assert_close(data.y, y.T, "bitwise")
        with pytest.raises(ShapeError, match="time along axis 1"):
            interop.read_mat(tmp_path / "r.mat", outputs=["signal", "u"])

    def test_sparse_models(self, tmp_path):
        A = scipy.sparse.csc_array(np.diag([-1.0, -2.0]))
        scipy.io.savemat(tmp_path / "m.mat", {"A": A, "B": np.ones((2, 1)), "C": np.ones((1, 2))})
        with pytest.raises(DataError, match="give dt"):
            interop.read_mat_model(tmp_path / "m.mat")
        assert_close(interop.read_mat_model(tmp_path / "m.mat", dt=0.0).A, np.diag([-1.0, -2.0]), "bitwise")

    def test_version_7_3(self, tmp_path, monkeypatch, rng):
        y = rng.standard_normal((5, 2))
        with h5py.File(tmp_path / "v73.mat", "w", userblock_size=512) as file:
            file["y"], file["Ts"] = y.T, [[0.1]]  # arrays lie transposed there
        data = interop.read_mat(tmp_path / "v73.mat", outputs="y")
        assert_close(data.y, y, "bitwise")
        assert data.dt == 0.1
        monkeypatch.setitem(__import__("sys").modules, "h5py", None)
        with pytest.raises(DataError, match="Install h5py"):
            interop.read_mat(tmp_path / "v73.mat", outputs="y")

    def test_refused(self, tmp_path):
        (tmp_path / "text.mat").write_text("no matrices here, only words " * 20)
        with pytest.raises(DataError, match="no MATLAB file"):
            interop.read_mat(tmp_path / "text.mat", outputs="y")
        with pytest.raises(DataError, match="there is no file"):
            interop.read_mat(tmp_path / "none.mat", outputs="y")
        scipy.io.savemat(
            tmp_path / "m.mat", {"A": np.eye(1), "B": np.eye(1), "C": np.eye(1), "E": 2.0, "word": "x"}
        )
        with pytest.raises(DataError, match="descriptor"):
            interop.read_mat_model(tmp_path / "m.mat", dt=0.0)
        with pytest.raises(DataError, match="no variable 'y', only A, B"):
            interop.read_mat(tmp_path / "m.mat", outputs="y")
        with pytest.raises(DataError, match="no real numbers"):
            interop.read_mat(tmp_path / "m.mat", outputs="word")
        with pytest.raises(DataError, match="end in"):
            interop.write_mat(tmp_path / "m.npz", noisy())
