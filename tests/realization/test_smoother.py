"""Filter and smoother with missing samples, in every form, against one dense Gaussian vector."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, ShapeError, UnstableError
from realization.filtering import innovations, kalman_filter, kalman_smoother, stationary_covariance
from realization.identification import arx
from realization.signals import IOData
from realization.systems import InnovationsModel
from tests.oracles.gaussian import conditional, log_density, stacked_maps
from tests.strategies import innovations_models, seeds
from tests.tolerances import assert_close

FORMS = ("covariance", "square_root", "parallel")
STARTS = ("stationary", "known", "singular")
models = innovations_models(states=(0, 4))
lengths = st.integers(1, 9)


def record(model, T, seed, share=0.35):
    """Outputs of white noise with a share of them missing, one whole row at least."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((T, model.n_outputs))
    y[rng.random(y.shape) < share] = np.nan
    y[T // 2] = np.nan
    return IOData(y, rng.standard_normal((T, model.n_inputs)), missing=True)


def first(model, start, seed):
    """Options of the filter for a kind of first state, and its mean and covariance."""
    rng, n = np.random.default_rng(seed), model.n_states
    if start == "stationary":
        return {}, np.zeros(n), stationary_covariance(model)
    x0, root = rng.standard_normal(n), rng.standard_normal((n, 1 if n else 0))
    if start == "known":
        return {"x0": x0, "steady": True}, x0, np.zeros((n, n))
    return {"x0": x0, "P0": root @ root.T}, x0, root @ root.T


class Dense:
    """The model's mean path, and the Gaussian vector of deviations from it."""

    def __init__(self, model, data, x0, P0):
        T = data.length
        self.states, self.outputs, self.innovations = stacked_maps(model.A, model.C, model.K, T)
        self.covariance = scipy.linalg.block_diag(P0, np.kron(np.eye(T), model.Re))
        u = data.inputs - model.u_mean
        self.y_mean = model.y_mean + model.deterministic.simulate(u, x0)
        path = [x0]
        for t in range(T):
            path.append(model.A @ path[-1] + model.B @ u[t])
        self.x_mean = np.array(path)
        self.deviation = data.y - self.y_mean
        self.there = data.observed

    def given(self, wanted, until=None):
        """Mean and covariance given the outputs before `until`."""
        there = self.there.copy()
        if until is not None:
            there[until:] = False
        return conditional(self.covariance, self.outputs[there], self.deviation[there], wanted)


@pytest.mark.parametrize("form", FORMS)
@given(model=models, T=lengths, seed=seeds, start=st.sampled_from(STARTS))
def test_filter_of_a_record_with_gaps(form, model, T, seed, start):
    data = record(model, T, seed)
    options, x0, P0 = first(model, start, seed)
    dense, found = Dense(model, data, x0, P0), kalman_filter(model, data, form=form, **options)
    for t in range(T):
        mean, covariance = dense.given(dense.states[t], t)
        assert_close(found.states[t], dense.x_mean[t] + mean, "iterative", scale=10.0)
        assert_close(found.covariances[t], covariance, "iterative", scale=10.0)
        mean, covariance = dense.given(dense.outputs[t], t)
        assert_close(found.outputs[t], dense.y_mean[t] + mean, "iterative", scale=10.0)
        assert_close(found.innovation_covariances[t], covariance, "iterative", scale=10.0)
    assert_close(found.innovations, data.y - found.outputs, "iterative", scale=10.0)
    seen = dense.outputs[dense.there]
    expected = log_density(seen @ dense.covariance @ seen.T, dense.deviation[dense.there][:, None])
    assert_close(np.array(found.log_likelihood), np.array(expected), "iterative", scale=10.0)
    mean, _ = dense.given(dense.states[T])
    assert_close(found.last_state, dense.x_mean[T] + mean, "iterative", scale=10.0)


@pytest.mark.parametrize("form", ["covariance", "parallel"])
@given(model=models, T=lengths, seed=seeds, start=st.sampled_from(STARTS))
def test_smoother_of_a_record_with_gaps(form, model, T, seed, start):
    data = record(model, T, seed)
    options, x0, P0 = first(model, start, seed)
    dense, found = Dense(model, data, x0, P0), kalman_smoother(model, data, form=form, **options)
    n = model.n_states
    for t in range(T):
        last = min(t + 1, T - 1)
        mean, covariance = dense.given(np.vstack([dense.states[last], dense.states[t]]))
        assert_close(found.states[t], dense.x_mean[t] + mean[n:], "iterative", scale=10.0)
        assert_close(found.covariances[t], covariance[n:, n:], "iterative", scale=10.0)
        if t + 1 < T:
            assert_close(found.cross_covariances[t], covariance[:n, n:], "iterative", scale=10.0)
        mean, covariance = dense.given(dense.outputs[t])
        assert_close(found.outputs[t], dense.y_mean[t] + mean, "iterative", scale=10.0)
        assert_close(found.output_covariances[t], covariance, "iterative", scale=10.0)
        mean, _ = dense.given(dense.innovations[t])
        assert_close(found.innovations[t], mean, "iterative", scale=10.0)
    assert (found.outputs[dense.there] == data.y[dense.there]).all()
    again = kalman_filter(model, data, **options).log_likelihood
    assert_close(np.array(found.log_likelihood), np.array(again), "iterative")


@pytest.mark.parametrize("form", ["square_root", "parallel"])
@given(model=innovations_models(states=(1, 5)), seed=seeds)
def test_every_form_gives_the_same_numbers(form, model, seed):
    """Long enough for the gain to settle, with gaps before and after; relative to 1e-10."""
    data = record(model, 150, seed, share=0.0)
    one, other = kalman_filter(model, data), kalman_filter(model, data, form=form)
    for name in ("states", "outputs", "covariances", "normalized_squared", "log_likelihood"):
        expected = np.asarray(getattr(one, name))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            getattr(other, name), expected, rtol=1e-10, atol=1e-10 * scale, err_msg=name
        )


@given(model=innovations_models(states=(1, 4)), seed=seeds)
def test_the_smoother_of_a_settled_filter_is_that_of_every_sample(model, seed):
    """The steady part by one scan and a doubled Gramian, against the tree that never settles."""
    rng = np.random.default_rng(seed)
    data = IOData(rng.standard_normal((120, model.n_outputs)), rng.standard_normal((120, model.n_inputs)))
    one, other = kalman_smoother(model, data), kalman_smoother(model, data, form="parallel")
    for name in ("states", "covariances", "cross_covariances", "log_likelihood"):
        expected = np.asarray(getattr(other, name))
        assert_close(
            np.asarray(getattr(one, name)), expected, "iterative", scale=max(1, np.abs(expected).max())
        )


def test_an_uncertain_state_that_stays_uncertain_is_smoothed_everywhere():
    """|A - K C| > 1: the settled covariance is not zero."""
    model = InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[2.5]])
    data = IOData(np.random.default_rng(1).standard_normal((80, 1)))
    found, dense = kalman_smoother(model, data), Dense(model, data, np.zeros(1), stationary_covariance(model))
    for t in (0, 40, 79):
        mean, covariance = dense.given(dense.states[t])
        assert_close(found.states[t], mean, "iterative")
        assert_close(found.covariances[t], covariance, "iterative", scale=1.0)


def exact_variances(P, C, R):
    """Posterior covariance of x from y = C x + v in rational arithmetic, and its largest variance."""
    P, C = ([[Fraction(x) for x in row] for row in matrix] for matrix in (P, C))
    for row in C:  # one output at a time: their noises are independent
        n = len(P)
        seen = [sum(P[i][k] * row[k] for k in range(n)) for i in range(n)]
        S = sum(row[k] * seen[k] for k in range(n)) + Fraction(R)
        P = [[P[i][j] - seen[i] * seen[j] / S for j in range(n)] for i in range(n)]
    return np.array([[float(x) for x in row] for row in P])


def test_square_roots_keep_what_covariances_lose():
    """Two outputs that differ by less than the square root of rounding, measured almost without noise."""
    tiny = 2.0**-28
    C = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0 + tiny]])
    model = InnovationsModel(np.eye(3), np.zeros((3, 0)), C, Re=tiny**2 * np.eye(2))
    data = IOData(np.ones((3, 2)))
    expected = exact_variances(np.eye(3), C.tolist(), tiny**2)
    for form in ("square_root", "covariance"):  # which begins with roots where the prior is wide
        found = kalman_filter(model, data, P0=np.eye(3), form=form).covariances[1]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@given(model=innovations_models(states=(1, 4)), seed=seeds)
def test_the_square_roots_are_roots(model, seed):
    found = kalman_filter(model, record(model, 20, seed), form="square_root")
    roots = found.covariance_roots
    assert_close(roots @ roots.transpose(0, 2, 1), found.covariances)
    with pytest.raises(DataError, match="square_root"):
        _ = kalman_filter(model, record(model, 20, seed)).covariance_roots


def test_options_that_do_not_fit():
    model = InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.5]])
    for function in (kalman_filter, kalman_smoother):
        with pytest.raises(DataError, match="form='fast' came"):
            function(model, np.ones(3), form="fast")  # pyright: ignore[reportArgumentType]
        with pytest.raises(DataError, match="steady=True"):
            function(model, np.ones(3), steady=True, P0=[[1.0]])
        with pytest.raises(DataError, match="x0 has entries"):
            function(model, np.ones(3), x0=[np.nan])
        with pytest.raises(ShapeError, match="outputs"):
            function(model, np.ones((3, 2)))
        explosive = InnovationsModel([[30.0]], np.zeros((1, 0)), [[0.0]])
        with pytest.raises(UnstableError, match="overflow"):
            function(explosive, np.ones(400), x0=[1.0], steady=True)


class TestMissing:
    """Records that carry missing outputs."""

    data = IOData([[1.0, np.nan], [2.0, 3.0], [np.nan, 5.0]], [1.0, 2.0, 3.0], missing=True)

    def test_what_is_there(self):
        assert self.data.observed.tolist() == [[True, False], [True, True], [False, True]]
        assert "2 values missing" in repr(self.data)
        assert self.data[:2].missing
        assert IOData([1.0, 2.0]).observed.all()

    def test_nan_must_be_announced(self):
        with pytest.raises(DataError, match=r"missing=True"):
            IOData([1.0, np.nan])
        with pytest.raises(DataError, match="missing=True"):
            kalman_filter(InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]]), [1.0, np.nan])
        for y, u in ([np.inf, 1.0], None), ([1.0, 2.0], [np.nan, 1.0]):
            with pytest.raises(DataError, match="NaN or infinite"):
                IOData(y, u, missing=True)

    def test_other_methods_refuse_them(self):
        gap = IOData(np.where(np.arange(50) == 7, np.nan, np.sin(np.arange(50.0))), missing=True)
        model = InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]])
        for method in (lambda data: innovations(model, data), model.predict):
            with pytest.raises(DataError, match="1 outputs of this record are missing, the first at row 7"):
                method(gap)

    def test_a_record_that_could_have_gaps_and_has_none_is_like_any_other(self):
        y = np.sin(np.arange(50.0))
        assert_close(arx(IOData(y, missing=True)).model.A, arx(IOData(y)).model.A)

    def test_lines_are_taken_off_what_is_there(self):
        time = np.arange(6.0)
        y = np.column_stack([3 + 2 * time, 1 - time])
        y[[1, 4], 0] = np.nan
        left = IOData(y, missing=True).detrend("linear").y
        assert_close(left[np.isfinite(y)], np.zeros(10), scale=1.0)
        assert np.isnan(left[[1, 4], 0]).all()


def test_smoothing_from_a_wide_prior():
    """The covariance is a sum there, not a difference of large numbers."""
    model = InnovationsModel([[0.9]], np.zeros((1, 0)), [[1.0]], K=[[0.4]])
    y = np.random.default_rng(0).standard_normal((40, 1))
    found = kalman_smoother(model, y, P0=[[1e9]])
    information = 1e-9 + sum(0.5 ** (2 * t) for t in range(40))
    assert_close(found.covariances[0], [[1 / information]], "iterative")
    with pytest.raises(DataError, match="smaller P0"):
        kalman_smoother(model, y, P0=[[1e16]])
