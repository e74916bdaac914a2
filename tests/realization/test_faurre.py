"""All models of a process: the interval of state covariances, and the factor in the other order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, RankError, ShapeError
from realization.filtering import innovations, innovations_form, whiteness_test
from realization.realize import backward_innovations_model, covariances, faurre_set, spectral_factor
from realization.systems import InnovationsModel
from tests.strategies import innovations_models, matrix_with_radius, seeds
from tests.tolerances import assert_close, assert_same_system

processes = innovations_models(states=(1, 4), inputs=(0, 0), outputs=(1, 2), radius=(0.2, 0.9))


@given(model=processes, share=st.floats(0.0, 1.0))
def test_each_covariance_of_the_set_is_a_model_of_the_process(model, share):
    family = faurre_set(model)
    if np.linalg.cond(family.P_max) > 1e8:
        return
    between = (1 - share) * family.P_min + share * family.P_max
    assert family.contains(between, tol=1e-8)
    assert np.linalg.eigvalsh(family.P_max - family.P_min)[0] > -1e-8 * np.abs(family.P_max).max()
    if 0.1 < share < 0.9:
        Q, R, S = family.noises(between)
        assert_close(innovations_form(model.A, model.C, Q, R, S).Re, model.Re, "optimum")


@given(model=processes)
def test_outside_there_is_none(model):
    family = faurre_set(model)
    step = 1e-2 * (np.abs(family.P_min).max() + np.abs(family.P_max).max()) * np.eye(model.n_states)
    assert not family.contains(family.P_min - step)
    assert not family.contains(family.P_max + step)


@given(model=processes)
def test_the_backward_model_is_the_spectrums_factor_in_the_other_order(model):
    backward = backward_innovations_model(model)
    omega = np.linspace(0, np.pi, 40)
    W, V = model.noise.frequency_response(omega), backward.noise.frequency_response(-omega)
    spectrum = W @ model.Re @ W.conj().transpose(0, 2, 1)
    assert_close(V @ backward.Re @ V.conj().transpose(0, 2, 1), spectrum, "iterative")
    assert_close(covariances(backward, 6), covariances(model, 6).transpose(0, 2, 1), "iterative")
    assert np.abs(backward.predictor.poles).max() < 1
    assert_same_system(backward_innovations_model(backward).noise, model.noise, kind="iterative")
    assert_close(backward.y_mean, model.y_mean)


@given(n=st.integers(1, 4), p=st.integers(1, 2), close=st.sampled_from([1e-1, 1e-3, 1e-6]), seed=seeds)
def test_factor_times_conjugate_is_the_spectrum_with_zeros_next_to_the_circle(n, p, close, seed):
    rng = np.random.default_rng(seed)
    F, C, K = matrix_with_radius(rng, n, 1 - close), rng.standard_normal((p, n)), rng.standard_normal((n, p))
    gains = [K / 2**k for k in range(12) if np.abs(np.linalg.eigvals(F + K / 2**k @ C)).max() < 0.99]
    if not gains:
        return
    model = InnovationsModel(F + gains[0] @ C, np.zeros((n, 0)), C, K=gains[0])
    family = faurre_set_or_none(model)
    if family is None:
        return
    found = spectral_factor(model.A, C, family.Cbar, family.Lambda0)
    omega = np.linspace(0, np.pi, 200)
    W, V = (which.noise.frequency_response(omega) for which in (model, found))
    spectrum = W @ W.conj().transpose(0, 2, 1)
    product = V @ found.Re @ V.conj().transpose(0, 2, 1)
    assert np.abs(product - spectrum).max() < 1e-10 * np.abs(spectrum).max()


def faurre_set_or_none(model):
    try:
        return faurre_set(model)
    except RankError:
        return None


def test_innovations_are_white_in_both_directions_of_time(rng):
    A = np.array([[0.9, 0.3], [-0.3, 0.7]])
    model = InnovationsModel(A, np.zeros((2, 0)), np.eye(2), K=np.array([[0.5, 0.1], [0.0, 0.4]]))
    y = model.simulate(e=rng.standard_normal((4000, 2)))
    assert whiteness_test(innovations(model, y).e).is_white
    backward = backward_innovations_model(model)
    assert whiteness_test(innovations(backward, y[::-1]).e).is_white
    assert not whiteness_test(innovations(model, y[::-1]).e).is_white


def test_what_is_refused():
    model = InnovationsModel(np.diag([0.5, 0.2]), np.zeros((2, 0)), [[1.0, 0.0]], K=[[0.3], [0.1]])
    with pytest.raises(RankError, match="minimal"):
        faurre_set(model)
    family = faurre_set(InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[0.3]]))
    with pytest.raises(ShapeError, match="P has shape"):
        family.noises(np.eye(2))
    with pytest.raises(DataError, match="NaN"):
        family.contains([[np.nan]])
