"""Kernel regressions: evidence and posterior against dense Gaussian algebra."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from scipy.stats import multivariate_normal

import realization as rz
from realization.errors import DataError, ExcitationError
from realization.identification.arx import fit_arx
from realization.identification.evidence import Group, _Problem, kernel_matrix, posterior
from realization.identification.factorization import scale
from realization.identification.realization import fits, part
from realization.identification.regularized import fit_regularized_varx
from tests.tolerances import assert_close

KERNELS = ("TC", "DC", "SS")
GROUPS = (Group(5, 0), Group(7, 1))


def problem(kind, T=60, seed=0):
    rng = np.random.default_rng(seed)
    Phi, y = rng.standard_normal((T, 12)), rng.standard_normal(T)
    rows = min(T, 12)
    factor = np.asarray(scipy.linalg.qr(np.column_stack([Phi, y]), mode="r")[0], dtype=float)
    rest = factor[12, 12] ** 2 if len(factor) > 12 else 0.0
    return Phi, y, _Problem(factor[:rows, :12], factor[:rows, 12], rest, T - rows, GROUPS, kind)


@pytest.mark.parametrize("T", [60, 8])
@pytest.mark.parametrize("kind", KERNELS)
def test_the_cost_is_the_evidence_and_its_gradient(kind, T):
    Phi, y, found = problem(kind, T)
    eta, _ = found.start(1.0)
    P = scipy.linalg.block_diag(*[K for K, _, _ in found.prior(eta)])
    covariance = Phi @ P @ Phi.T + np.exp(eta[0]) * np.eye(T)
    dense = -2 * multivariate_normal(np.zeros(T), covariance).logpdf(y) - T * np.log(2 * np.pi)
    cost, gradient = found.cost(eta)
    assert_close(cost, dense, "iterative", scale=abs(dense))
    for k, slope in enumerate(gradient):
        step = 1e-6 * np.eye(1, len(eta), k)[0]
        numeric = (found.cost(eta + step)[0] - found.cost(eta - step)[0]) / 2e-6
        assert_close(slope, numeric, "optimum", scale=max(1.0, np.abs(gradient).max()))


@pytest.mark.parametrize("kind", ["TC", "SS"])
def test_the_posterior_is_conditioning(kind):
    Phi, y, _ = problem(kind, seed=1)
    found = posterior(Phi, y, GROUPS, kind)
    eta = np.concatenate([[np.log(found.noise)], np.log(found.scales), found.decays])
    P = scipy.linalg.block_diag(*[K for K, _, _ in problem(kind, seed=1)[2].prior(eta)])
    gain = P @ Phi.T @ np.linalg.inv(Phi @ P @ Phi.T + found.noise * np.eye(len(y)))
    assert_close(found.mean, gain @ y, "iterative")
    assert_close(found.root @ found.root.T, P - gain @ Phi @ P, "iterative")


@pytest.mark.parametrize("kind", KERNELS)
def test_kernels_are_covariances(kind):
    K = kernel_matrix(kind, 20, 0.8, 0.7)[0]
    assert_close(K, K.T)
    assert np.linalg.eigvalsh(K).min() > -1e-12


@pytest.mark.parametrize("kind", KERNELS)
def test_it_beats_least_squares_on_a_short_record(kind):
    rng = np.random.default_rng(2)
    plant = rz.StateSpace([[1.4, -0.6], [1.0, 0.0]], [[1.0], [0.0]], [[0.5, 0.3]])
    u = rng.standard_normal((150, 1))
    y = 7 + plant.simulate(u) + 0.5 * rng.standard_normal((150, 1))
    h = plant.impulse_response(40)
    found = rz.regularized_fir(rz.IOData(y, u), 40, kernel=kind)
    X = np.column_stack([np.ones(111), *[u[39 - k : 150 - k, 0] for k in range(40)]])
    plain = np.linalg.lstsq(X, y[39:, 0])[0][1:]
    assert np.linalg.norm(found.impulse_response - h) < 0.5 * np.linalg.norm(plain - h[:, 0, 0])
    assert np.mean((found.lower <= h) & (h <= found.upper)) > 0.7
    assert found.evidence > -1e4


def test_a_model_follows_by_era():
    rng = np.random.default_rng(3)
    u = rng.standard_normal((2000, 1))
    y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.01 * rng.standard_normal((2000, 1))
    h = rz.regularized_fir(rz.IOData(y, u), 30).impulse_response
    assert abs(rz.era(h, order=1).model.poles[0] - 0.8) < 0.01


def test_long_autoregressions_predict_where_least_squares_has_no_samples_left():
    rng = np.random.default_rng(4)
    plant = rz.InnovationsModel([[0.9]], [[1.0, 0.3]], [[1.0]], K=[[0.4]])
    u = rng.standard_normal((380, 2))
    data = rz.IOData(plant.simulate(u, e=rng.standard_normal((380, 1))), u)
    scaled = scale(data, "test")
    train, rest = part(scaled, 0, 90), part(scaled, 90, 380)
    long, plain = fit_regularized_varx(train, 20, delay=1), fit_arx(train, 20, 20, 1)
    assert fits(long, rest)[1] > fits(plain, rest)[1] + 10


@pytest.mark.parametrize(
    ("length", "options", "error", "message"),
    [
        (10, {"kernel": "RBF"}, DataError, "kernel='RBF'"),
        (0, {}, DataError, "length=0"),
        (98, {}, ExcitationError, "98 taps"),
    ],
)
def test_refusals(rng, length, options, error, message):
    data = rz.IOData(rng.standard_normal(100), rng.standard_normal(100))
    with pytest.raises(error, match=message):
        rz.regularized_fir(data, length, **options)
