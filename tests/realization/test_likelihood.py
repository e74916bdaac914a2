"""The exact likelihood and its gradient: the filter, central differences, and what cannot change it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import RankError, UnstableError
from realization.filtering import kalman_filter, log_likelihood
from realization.filtering.finite_gramian import finite_gramian, finite_gramian_adjoint
from realization.filtering.kalman import first_state
from realization.filtering.likelihood_adjoint import likelihood_by_recursion
from realization.filtering.observations import observations
from realization.signals import IOData
from realization.systems import InnovationsModel
from tests.strategies import innovations_models, seeds
from tests.tolerances import assert_close

PARAMETERS = ("A", "B", "C", "D", "K", "Re", "u_mean", "y_mean")


def record(model, T, seed, *, gaps=False):
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((T, model.n_outputs))
    if gaps:
        y[rng.random(y.shape) < 0.3] = np.nan
    return IOData(y, rng.standard_normal((T, model.n_inputs)), missing=gaps)


def start_of(model, seed):
    rng, n = np.random.default_rng(seed), model.n_states
    root = rng.standard_normal((n, n))
    return {"x0": rng.standard_normal(n), "P0": root @ root.T + 0.1 * np.eye(n)}


def gradient_of(model, data, **options):
    gradient = log_likelihood(model, data, gradient=True, **options).gradient
    assert gradient is not None
    return gradient


def difference(function, step=1e-3):
    """Derivative at 0 by a five-point formula: error of order `step` to the fourth."""
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def random_direction(like, rng, symmetric):
    direction = rng.standard_normal(like.shape) * 0.1
    return direction + direction.T if symmetric else direction


@given(
    model=innovations_models(),
    T=st.integers(1, 40),
    seed=seeds,
    gaps=st.booleans(),
    given_start=st.booleans(),
)
def test_the_value_is_that_of_the_filter(model, T, seed, gaps, given_start):
    data = record(model, T, seed, gaps=gaps)
    options = start_of(model, seed) if given_start else {}
    found, expected = log_likelihood(model, data, **options), kalman_filter(model, data, **options)
    assert_close(np.array(found.value), np.array(expected.log_likelihood), "iterative", scale=10.0)
    assert found.gradient is None


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("given_start", [False, True])
@given(model=innovations_models(states=(0, 3), radius=(0.2, 0.8)), T=st.integers(1, 12), seed=seeds)
def test_the_gradient_is_that_of_central_differences(gaps, given_start, model, T, seed):
    data, rng = record(model, T, seed, gaps=gaps), np.random.default_rng(seed)
    options = start_of(model, seed) if given_start else {}
    gradient = gradient_of(model, data, **options)

    def compare(name, owner, call):
        direction = random_direction(owner, rng, symmetric=name in ("Re", "P0"))
        # Where noise is small the curvature is large: the step follows.
        size = 1e-3 * min(1.0, np.linalg.eigvalsh(model.Re)[0])
        expected = difference(lambda h: call(owner + h * direction), size)
        found = (getattr(gradient, name) * direction).sum()
        assert_close(np.array(found), np.array(expected), "optimum", scale=100.0, what=name)

    for name in PARAMETERS:
        compare(
            name,
            getattr(model, name),
            lambda value, name=name: (
                log_likelihood(dataclasses.replace(model, **{name: value}), data, **options).value
            ),
        )
    for name, value in options.items():
        compare(
            name,
            value,
            lambda value, name=name: log_likelihood(model, data, **(options | {name: value})).value,
        )


@given(model=innovations_models(), T=st.integers(1, 80), seed=seeds, given_start=st.booleans())
def test_two_ways_to_the_gradient(model, T, seed, given_start):
    """First state integrated out last, and the covariance recursion with its adjoint."""
    data = record(model, T, seed)
    start = start_of(model, seed) if given_start else {"x0": None, "P0": np.zeros(model.A.shape)}
    one = log_likelihood(model, data, gradient=True, **start)
    seen = observations(model, data, "")
    value, other = likelihood_by_recursion(
        model, seen, *first_state(model, **start, steady=False, caller=""), True
    )
    value -= 0.5 * data.y.size * np.log(2 * np.pi)
    assert_close(np.array(one.value), np.array(value), "iterative", scale=10.0)
    assert one.gradient is not None
    assert other is not None
    scale = max(np.abs(part).max(initial=1.0) for part in other)
    for name in other._fields:
        assert_close(getattr(one.gradient, name), getattr(other, name), "iterative", scale=scale, what=name)


@given(model=innovations_models(states=(1, 5)), T=st.integers(1, 60), seed=seeds, gaps=st.booleans())
def test_no_gradient_along_changes_of_state(model, T, seed, gaps):
    """T = I + h X: A goes along [A, X], B and K along -X B and -X K, C along C X; nothing can change."""
    X = np.random.default_rng(seed).standard_normal(model.A.shape)
    gradient = gradient_of(model, record(model, T, seed, gaps=gaps))
    parts = [
        (gradient.A, model.A @ X - X @ model.A),
        (gradient.B, -X @ model.B),
        (gradient.K, -X @ model.K),
        (gradient.C, model.C @ X),
    ]
    terms = [(slope * along).sum() for slope, along in parts]
    assert abs(sum(terms)) <= 1e-8 * sum(np.abs(slope * along).sum() for slope, along in parts)


def test_an_unstable_predictor_goes_through_the_recursion(rng):
    model = InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[2.5]])
    data = IOData(rng.standard_normal((300, 1)))
    found = log_likelihood(model, data)
    assert_close(np.array(found.value), np.array(kalman_filter(model, data).log_likelihood), "iterative")
    slope = difference(lambda h: log_likelihood(dataclasses.replace(model, K=[[2.5 + h]]), data).value)
    assert_close(gradient_of(model, data).K[0, 0], slope, "optimum")


def test_a_slow_predictor_is_exact_over_a_long_record(rng):
    """A zero at 0.999: the transient is longer than the record."""
    model = InnovationsModel([[0.5]], np.zeros((1, 0)), [[1.0]], K=[[-0.499]])
    data = IOData(rng.standard_normal((1500, 1)))
    found, passed = log_likelihood(model, data), kalman_filter(model, data)
    assert passed.transient == 1500
    assert_close(np.array(found.value), np.array(passed.log_likelihood), "iterative")


@given(T=st.integers(1, 40), n=st.integers(0, 4), seed=seeds)
def test_gramian_of_any_number_of_samples(T, n, seed):
    rng = np.random.default_rng(seed)
    F, W, weight, along = (rng.standard_normal((n, n)) for _ in range(4))
    F, W, weight = 0.5 * F, W + W.T, weight + weight.T

    def direct(F, W):
        return sum(
            (np.linalg.matrix_power(F, t).T @ W @ np.linalg.matrix_power(F, t) for t in range(T)),
            np.zeros((n, n)),
        )

    O, steps = finite_gramian(F, W, T)
    assert_close(O, direct(F, W), "recurrence")
    F_bar, W_bar = finite_gramian_adjoint(F, W, T, steps, weight)
    slope = difference(lambda h: (weight * direct(F + h * along, W)).sum(), 1e-4)
    assert_close(
        np.array((F_bar * along).sum()),
        np.array(slope),
        "optimum",
        scale=max(1.0, np.abs(O).max(initial=0.0) ** 2),
    )
    assert_close(
        np.array((W_bar * W).sum()),
        np.array((weight * O).sum()),
        "iterative",
        scale=np.abs(O).max(initial=0.0) + 1,
    )


def test_models_without_a_likelihood():
    with pytest.raises(UnstableError, match="Give P0"):
        log_likelihood(InnovationsModel([[1.2]], np.zeros((1, 0)), [[1.0]]), np.ones(3))
    with pytest.raises(RankError, match="singular"):
        log_likelihood(InnovationsModel([[0.2]], np.zeros((1, 0)), [[1.0]], Re=[[0.0]]), np.ones(3))
