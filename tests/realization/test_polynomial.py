"""ARMAX, output error, Box-Jenkins: against statsmodels, exact on exact data, errors as large as they say."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
from scipy.signal import lfilter

import realization as rz
from realization.errors import DataError, ExcitationError, ShapeError
from tests.tolerances import assert_close


def signals(kind, seed, T=600, noise=0.3):
    """A record with its true coefficients, in the order of the covariance."""
    rng = np.random.default_rng(seed)
    u, e = 2 + rng.standard_normal((T + 100, 2)), noise * rng.standard_normal(T + 100)
    first = lfilter([0, 1, 0.5], [1, -1.2, 0.6], u[:, 0])
    if kind == "armax":
        y = first + lfilter([0.4, 0.0, 0.3], [1, -1.2, 0.6], u[:, 1]) + lfilter([1, 0.6], [1, -1.2, 0.6], e)
        truth = [-1.2, 0.6, 1, 0.5, 0.4, 0, 0.3, 0.6]
    else:
        v = lfilter([1, 0.5], [1, -0.8], e)
        y = first + lfilter([0.4, 0.8], [1, 0.5], u[:, 1]) + v
        truth = [1, 0.5, 0.4, 0.8, *([0.5, -0.8] if kind == "bj" else []), -1.2, 0.6, 0.5]
    return rz.IOData(5 + y[100:], u[100:]), np.array(truth)


def fitted(kind, data):
    if kind == "armax":
        return rz.armax(data, 2, [2, 3], 1, nk=[1, 0])
    if kind == "oe":
        return rz.oe(data, 2, [2, 1], nk=[1, 0])
    return rz.bj(data, 2, 1, 1, [2, 1], nk=[1, 0])


def coefficients(fit, kind):
    taps = [fit.b[0][1:], fit.b[1]]
    if kind == "armax":
        return np.concatenate([fit.a[1:], *taps, fit.c[1:]])
    return np.concatenate([*taps, fit.c[1:], fit.d[1:], *(f[1:] for f in fit.f)])


KINDS = ("armax", "oe", "bj")


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_as_large_as_they_say(kind):
    z = []
    for seed in range(30):
        data, truth = signals(kind, seed)
        fit = fitted(kind, data)
        assert fit.converged
        z.append((coefficients(fit, kind) - truth) / np.sqrt(np.diag(fit.covariance)))
    assert 0.91 < np.mean(np.abs(z) < 1.96) < 0.99
    assert 0.8 < np.sqrt(np.mean(np.square(z))) < 1.2


@pytest.mark.parametrize("kind", KINDS)
def test_records_without_noise_are_exact(kind):
    data, truth = signals(kind, 1, noise=0.0)
    # Without noise nothing tells Box and Jenkins' noise model, so the search for it does not end.
    with pytest.warns(rz.ConvergenceWarning) if kind == "bj" else nullcontext():
        fit = fitted(kind, data)
    known = {"armax": slice(0, -1), "oe": slice(None), "bj": [0, 1, 2, 3, 6, 7, 8]}[kind]
    assert_close(coefficients(fit, kind)[known], truth[known], "optimum")


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_the_polynomials(kind):
    data, _ = signals(kind, 2)
    fit = fitted(kind, data)
    pulse = np.eye(1, 25)[0]
    for j in range(2):
        expected = lfilter(fit.b[j], np.convolve(fit.a, fit.f[j]), pulse)
        assert_close(fit.model.impulse_response(25)[:, 0, j], expected, "recurrence")
    expected = lfilter(fit.c, np.convolve(fit.a, fit.d), pulse)
    assert_close(fit.model.noise.impulse_response(25)[:, 0, 0], expected, "recurrence")


def test_arma_is_that_of_statsmodels():
    arima = pytest.importorskip("statsmodels.tsa.arima.model")
    y = 3 + lfilter([1, 0.5, 0.2], [1, -1.3, 0.5], np.random.default_rng(1).standard_normal(3000))
    ours = rz.armax(y, 2, nc=2)
    theirs = arima.ARIMA(y, order=(2, 0, 2)).fit(method_kwargs={"maxiter": 300})
    found = np.concatenate([-ours.a[1:], ours.c[1:]])
    errors = np.concatenate([ours.standard_errors["a"][1:], ours.standard_errors["c"][1:]])
    # The first state is free here and stationary there, which is worth a few samples.
    assert (np.abs(found - theirs.params[1:5]) < 0.1 * errors).all()
    assert (np.abs(errors / theirs.bse[1:5] - 1) < 0.1).all()


def test_armax_without_a_moving_average_is_least_squares(rng):
    data, _ = signals("armax", 3)
    fit = rz.armax(data, 2, 2)
    expected = rz.arx(data, na=2, nb=2).model.predict(data)[20:]
    assert np.abs(fit.model.predict(data)[20:] - expected).max() < 0.05 * data.y.std()


def test_the_model_comes_with_bands():
    data, _ = signals("oe", 4)
    bands = fitted("oe", data).uncertainty.frequency_response([0.5])
    truth = rz.StateSpace([[1.2, 1.0], [-0.6, 0.0]], [[1.0], [0.5]], [[1.0, 0.0]]).frequency_response([0.5])
    wide = (bands.upper - bands.lower)[0, 0, 0]
    assert abs(abs(truth[0, 0, 0]) - abs(bands.response[0, 0, 0])) < wide


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: rz.oe(rz.IOData(d.y), 1, 1), DataError, "no inputs"),
        (lambda d: rz.bj(rz.IOData(np.hstack([d.y, d.y]), d.inputs), 1, 1, 1, 1), DataError, "2 outputs"),
        (lambda d: rz.armax(d, -1), DataError, "whole number"),
        (lambda d: rz.armax(d, 2, [1, 2, 3]), ShapeError, "nb has 3 entries"),
        (lambda d: rz.armax(rz.IOData(d.y[:20], d.inputs[:20]), 4, 4, 4), ExcitationError, "20 samples"),
        (lambda d: rz.oe(d, 0, 1), DataError, "nb="),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call(signals("oe", 5)[0])
