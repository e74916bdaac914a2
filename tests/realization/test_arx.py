"""Autoregressions: exact on exact data, as the normal equations say, and the fit that judges them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, ExcitationError, ShapeError
from realization.identification import arx, fit_percent
from realization.signals import IOData
from tests.strategies import seeds
from tests.tolerances import assert_close


def arx_record(seed, na, nb, nk, m, p, T=200, noise=1.0):
    """A record by the difference equation, sample by sample, with its coefficients."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((na, p, p)) * (0.4 / (na * p))
    B = rng.standard_normal((nb, p, m))
    u, y = rng.standard_normal((T, m)), np.zeros((T, p))
    for t in range(T):
        y[t] = noise * rng.standard_normal(p)
        for k in range(1, min(na, t) + 1):
            y[t] += A[k - 1] @ y[t - k]
        for k in range(nk, min(nk + nb - 1, t) + 1):
            y[t] += B[k - nk] @ u[t - k]
    return IOData(y, u), A, B


@given(
    na=st.integers(1, 3),
    nb=st.integers(1, 3),
    nk=st.integers(0, 2),
    m=st.integers(1, 2),
    p=st.integers(1, 2),
    seed=seeds,
)
def test_noise_free_difference_equations_are_realized(na, nb, nk, m, p, seed):
    data, A, B = arx_record(seed, na, nb, nk, m, p, noise=0.0)
    h = np.zeros((12, p, m))
    for t in range(12):
        h[t] = B[t - nk] if nk <= t < nk + nb else 0.0
        for k in range(1, min(na, t) + 1):
            h[t] += A[k - 1] @ h[t - k]
    result = arx(data, na=na, nb=nb, nk=nk)
    assert_close(result.model.impulse_response(12), h, "iterative")
    assert_close(result.model.deterministic.D, h[0], "iterative")
    assert np.abs(result.model.predictor.poles).max(initial=0.0) < 1e-3


@given(na=st.integers(0, 3), nb=st.integers(0, 3), nk=st.integers(0, 2), seed=seeds)
def test_one_step_predictions_are_the_regression(na, nb, nk, seed):
    data, _, _ = arx_record(seed, 2, 2, 1, 1, 2)
    start = max(na, nk + nb - 1 if nb else 0)
    columns = [data.y[start - k : 200 - k] for k in range(1, na + 1)]
    columns += [data.inputs[start - k : 200 - k] for k in range(nk, nk + nb)]
    X = np.hstack([np.ones((200 - start, 1)), *columns])
    expected = X @ np.linalg.lstsq(X, data.y[start:])[0]
    model = arx(data, na=na, nb=nb, nk=nk).model
    assert_close(model.predict(data, x0=np.zeros(model.n_states))[start:], expected, "iterative")


@pytest.mark.parametrize("select", ["bic", "aic", "fpe"])
def test_the_number_of_lags_is_found(select):
    data, _, _ = arx_record(0, 3, 3, 1, 1, 1, T=4000)
    result = arx(data, select=select)
    assert result.na == result.nb
    assert 3 <= result.na <= (3 if select == "bic" else 12)
    assert len(result.criterion) == 30
    assert np.argmin(result.criterion) + 1 == result.na


def test_a_time_series_is_yule_walker(rng):
    y = np.zeros(20_000)
    for t, e in enumerate(rng.standard_normal(20_000)):
        y[t] = (0.5 * y[t - 1] - 0.3 * y[t - 2] if t > 1 else 0.0) + e
    result = arx(y, na=2)
    assert result.model.n_inputs == 0
    c = np.array([np.mean(y[k:] * y[: len(y) - k]) for k in range(3)])
    a, b = np.linalg.solve([[c[0], c[1]], [c[1], c[0]]], c[1:])
    assert np.abs(result.model.noise.impulse_response(3)[:, 0, 0] - [1.0, a, a * a + b]).max() < 1e-3
    assert abs(result.model.Re[0, 0] - 1) < 0.05


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"na": 30}, ExcitationError, "too few"),
        ({"max_order": 40}, ExcitationError, "too few"),
        ({"nb": 2}, DataError, "without na"),
        ({"na": -1}, DataError, "whole number"),
        ({"select": "mdl"}, DataError, "select"),
    ],
)
def test_what_cannot_be_regressed(options, error, message):
    rng = np.random.default_rng(1)
    with pytest.raises(error, match=message):
        arx(IOData(rng.standard_normal(50), rng.standard_normal(50)), **options)


def test_too_short_for_any_lag():
    with pytest.raises(ExcitationError, match="3 samples"):
        arx(np.arange(3.0))


class TestFitPercent:
    @given(seed=seeds, p=st.integers(1, 3))
    def test_it_is_one_minus_the_relative_error(self, seed, p):
        rng = np.random.default_rng(seed)
        y, z = rng.standard_normal((20, p)), rng.standard_normal((20, p))
        expected = [100 * (1 - np.sqrt(((y - z)[:, k] ** 2).mean()) / y[:, k].std()) for k in range(p)]
        assert_close(fit_percent(y, z), np.array(expected))
        assert_close(fit_percent(1e6 + 3 * y, 1e6 + 3 * z), np.array(expected), "iterative")

    def test_vectors_are_one_output(self):
        assert fit_percent([0.0, 1.0], [0.0, 1.0]).shape == (1,)

    @pytest.mark.parametrize(
        ("y", "z", "error", "message"),
        [
            ([1.0, 1.0], [1.0, 2.0], DataError, "constant"),
            ([0.1 + 0.2, 0.3], [1.0, 2.0], DataError, "constant"),
            ([1.0, 2.0], [1.0], ShapeError, "alike"),
            ([1.0, np.nan], [1.0, 2.0], DataError, "NaN"),
            (np.ones((2, 2, 2)), np.ones((2, 2, 2)), ShapeError, "shape"),
        ],
    )
    def test_what_has_no_fit(self, y, z, error, message):
        with pytest.raises(error, match=message):
            fit_percent(y, z)
