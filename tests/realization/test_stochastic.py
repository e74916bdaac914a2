"""Stochastic realization: closed forms of ARMA processes, dense covariances of long records, round trips."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import (
    DataError,
    OrderWarning,
    PositiveRealWarning,
    RankError,
    RealizationError,
    ShapeError,
    StabilityWarning,
    UnstableError,
)
from realization.realize import (
    canonical_correlations,
    covariances,
    mutual_information,
    positive_real_test,
    spectral_factor,
    stochastic_realization,
    stochastically_balanced,
)
from realization.systems import InnovationsModel
from tests.oracles.gaussian import output_covariance
from tests.strategies import innovations_models, matrix_with_radius, stable_gain
from tests.tolerances import assert_close, assert_same_system

processes = innovations_models(states=(1, 4), inputs=(0, 0), outputs=(1, 3), radius=(0.2, 0.9))
coefficients = st.floats(-0.9, 0.9)


def process(rng, n, p, radius):
    A, C = matrix_with_radius(rng, n, radius), rng.standard_normal((p, n))
    root = np.tril(rng.standard_normal((p, p)), -1) + np.eye(p)
    return InnovationsModel(A, np.zeros((n, 0)), C, K=stable_gain(A, C), Re=root @ root.T)


def arma(a, c, variance=1.0):
    """Model of `y = a y[t-1] + e + c e[t-1]` and its covariances at lags 0 to 8, in closed form."""
    model = InnovationsModel([[a]], np.zeros((1, 0)), [[1.0]], K=[[a + c]], Re=[[variance]])
    zero = variance * (1 + 2 * a * c + c * c) / (1 - a * a)
    one = variance * (1 + a * c) * (a + c) / (1 - a * a)
    return model, np.array([zero, *(one * a**k for k in range(8))])


def stationary(model):
    """State covariance from the Kronecker form of its Lyapunov equation."""
    n = model.n_states
    drive = (model.K @ model.Re @ model.K.T).ravel()
    return np.linalg.solve(np.eye(n * n) - np.kron(model.A, model.A), drive).reshape(n, n)


def dense(model, length):
    return output_covariance(model.A, model.C, model.K, model.Re, stationary(model), length)


def spectrum(model, omega):
    W = model.noise.frequency_response(omega)
    return W @ model.Re @ W.conj().transpose(0, 2, 1)


def from_covariances(model, omega, count=400):
    """Spectrum as the Fourier sum of the covariances."""
    Lambda = covariances(model, count)
    phase = np.exp(-1j * np.outer(omega, np.arange(1, count)))
    half = np.einsum("wk,kij->wij", phase, Lambda[1:])
    return Lambda[0] + half + half.conj().transpose(0, 2, 1)


class TestCovariances:
    @given(a=coefficients, c=coefficients)
    def test_arma_in_closed_form(self, a, c):
        model, expected = arma(a, c, 2.0)
        assert_close(covariances(model, 9)[:, 0, 0], expected)

    @given(model=processes)
    def test_blocks_of_the_dense_covariance(self, model):
        whole, p = dense(model, 5), model.n_outputs
        for k, block in enumerate(covariances(model, 5)):
            assert_close(block, whole[k * p : (k + 1) * p, :p], "recurrence", scale=np.abs(whole).max())

    def test_what_is_refused(self):
        model = InnovationsModel([[0.5]], [[1.0]], [[1.0]])
        with pytest.raises(RealizationError, match="has 1 inputs"):
            covariances(model, 3)
        with pytest.raises(UnstableError):
            covariances(InnovationsModel([[1.0]], np.zeros((1, 0)), [[1.0]], K=[[0.5]]), 3)
        with pytest.raises(RealizationError, match="continuous time"):
            covariances(InnovationsModel([[-1.0]], np.zeros((1, 0)), [[1.0]], dt=0.0), 3)
        with pytest.raises(ShapeError, match="count=0"):
            covariances(arma(0.5, 0.1)[0], 0)


@pytest.mark.parametrize("weighted", [True, False])
class TestRealization:
    @given(a=coefficients, c=coefficients)
    def test_arma_in_closed_form(self, weighted, a, c):
        Lambda = arma(a, c, 3.0)[1]
        if abs(a + c) < 1e-2:
            return  # next to white noise
        found = stochastic_realization(Lambda, weighted=weighted)
        assert found.order == 1
        assert_close(found.model.A, np.array([[a]]), "iterative", scale=1.0)
        assert_close(found.model.C @ found.model.K, np.array([[a + c]]), "iterative")
        assert_close(found.model.Re, np.array([[3.0]]), "iterative")
        assert_close(found.canonical_correlations, np.array([abs(a + c) / (1 + a * c)]), "iterative")

    @given(model=processes)
    def test_the_model_comes_back(self, weighted, model):
        found = stochastic_realization(
            covariances(model, 2 * model.n_states + 4), model.n_states, weighted=weighted
        )
        assert found.residual < 1e-11
        assert (found.added, found.stabilized) == (0.0, False)
        assert_close(found.model.Re, model.Re, "iterative")
        back = InnovationsModel(model.A, model.B, model.C, K=model.K, Re=model.Re)
        assert_same_system(found.model, back, kind="iterative")

    @given(model=processes)
    def test_backward_model_and_extreme_covariances(self, weighted, model):
        found = stochastic_realization(
            covariances(model, 2 * model.n_states + 4), model.n_states, weighted=weighted
        )
        reverse = covariances(found.backward, 6)
        Lambda = covariances(model, 6)
        assert_close(reverse, Lambda.transpose(0, 2, 1), "iterative", scale=np.abs(Lambda).max())
        # Both lie on the edge of the linear matrix inequality of all state covariances: its rank is p.
        A, C = found.model.A, found.model.C
        for P in (found.P_min, found.P_max):
            G = found.Cbar.T - A @ P @ C.T
            joint = np.block([[P - A @ P @ A.T, G], [G.T, found.Lambda0 - C @ P @ C.T]])
            values = np.linalg.eigvalsh(joint)
            assert values[0] > -1e-7 * values[-1]
            assert values[-model.n_outputs - 1] < 1e-7 * values[-1]
        difference = np.linalg.eigvalsh(found.P_max - found.P_min)
        assert difference[0] > -1e-9 * abs(difference[-1])
        assert_close(found.P_min, stationary(found.model), "iterative")

    def test_a_numerator_outside_the_circle_is_reflected(self, weighted):
        _, Lambda = arma(0.5, 4.0)
        found = stochastic_realization(Lambda, weighted=weighted).model
        assert_close(found.C @ found.K, np.array([[0.75]]))
        assert_close(found.Re, np.array([[16.0]]))

    def test_white_noise_has_order_zero(self, weighted):
        found = stochastic_realization(np.eye(2) * np.eye(5)[0][:, None, None], weighted=weighted)
        assert found.order == 0
        assert_close(found.model.Re, np.eye(2))

    def test_what_belongs_to_no_process_is_repaired_and_said(self, weighted):
        Lambda = [1.0, 0.6, 0.0, 0.0, 0.0]  # 1 + 1.2 cos(omega): -0.2 at pi
        with pytest.warns(PositiveRealWarning, match=r"0\.201 of Lambda"):
            found = stochastic_realization(Lambda, 1, weighted=weighted, margin=1e-3)
        kept = covariances(found.model, 5)[:, 0, 0]
        assert found.added == pytest.approx(0.201)
        if not weighted:
            assert_close(kept[1:], np.array(Lambda[1:]), "iterative", scale=1.0)
        assert kept[0] == pytest.approx(1 + found.added)
        assert "white noise added" in repr(found)

    def test_what_does_not_die_out_is_stabilized_and_said(self, weighted):
        t = np.arange(12)
        Lambda = np.cos(t) + 0.2 * (t == 0) if weighted else np.r_[3.0, 1.05 ** t[1:]]
        with pytest.warns(StabilityWarning, match="modulus 1"):
            found = stochastic_realization(Lambda, 2 if weighted else 1, weighted=weighted)
        assert found.stabilized
        assert found.model.is_stable

    def test_estimated_covariances(self, weighted, rng):
        model = arma(0.8, 0.4)[0]
        y = model.simulate(e=rng.standard_normal((20000, 1)))[:, 0]
        Lambda = [y[k:] @ y[: len(y) - k] / len(y) for k in range(21)]
        found = stochastic_realization(Lambda, 1, weighted=weighted).model
        assert found.A[0, 0] == pytest.approx(0.8, abs=0.03)
        assert (found.C @ found.K)[0, 0] == pytest.approx(1.2, abs=0.05 if weighted else 0.25)
        assert found.Re[0, 0] == pytest.approx(1.0, abs=0.05 if weighted else 0.25)

    def test_an_open_order_that_nothing_settles_warns(self, weighted, rng):
        Lambda = np.r_[1.0, 0.05 * rng.standard_normal(8)]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            stochastic_realization(Lambda, weighted=weighted)
        assert any(w.category is OrderWarning and "at the limit" in str(w.message) for w in said)

    @pytest.mark.parametrize(
        ("Lambda", "options", "error", "message"),
        [
            ([1.0, 0.5], {}, ShapeError, "lags 0, 1 and 2"),
            ([1.0, 0.5, 0.25], {"rows": 2}, ShapeError, "rows=2 and cols=0"),
            (np.ones((4, 2, 1)), {}, ShapeError, r"\(L \+ 1, p, p\)"),
            ([0.0, 0.5, 0.25], {}, RankError, "positive definite"),
            ([np.array([[1, 0.5], [0, 1]])] * 3, {}, DataError, "not symmetric"),
            ([1.0, np.nan, 0.25], {}, DataError, "NaN"),
            ([1.0, 0.5, 0.25, 0.125, 0.0625], {"order": 2}, RankError, "only 1 of 2"),
            ([1.0, 0.5, 0.25], {"order": -1}, ShapeError, "order=-1"),
            ([1.0, 0.5, 0.25], {"tol": 1}, DataError, "tol=1"),
            ([1.0, 0.5, 0.25], {"margin": 0}, DataError, "margin=0"),
        ],
    )
    def test_what_is_refused(self, weighted, Lambda, options, error, message):
        with pytest.raises(error, match=message):
            stochastic_realization(Lambda, weighted=weighted, **options)


class TestPositiveReal:
    @given(rho=st.floats(-0.9, 0.9))
    def test_one_lag(self, rho):
        test = positive_real_test([[0.0]], [[1.0]], [[rho]], [[1.0]])
        assert test.minimum == pytest.approx(1 - 2 * abs(rho), abs=1e-12)
        assert test.positive_real == (abs(rho) <= 0.5 + 1e-11)
        if abs(rho) > 1e-3:
            assert test.omega == pytest.approx(np.pi if rho > 0 else 0.0)

    @given(model=processes, share=st.floats(0.0, 1.5))
    def test_the_minimum_is_that_of_a_fine_grid(self, model, share):
        P = stationary(model)
        Cbar, Lambda0 = (model.A @ P @ model.C.T + model.K @ model.Re).T, model.C @ P @ model.C.T + model.Re
        root = np.linalg.cholesky(Lambda0)
        test = positive_real_test(model.A, model.C, (1 + share) * Cbar, Lambda0)
        omega = np.linspace(0, np.pi, 20001)
        z = np.exp(1j * np.append(omega, test.omega))[:, None, None]
        half = model.C @ np.linalg.solve(z * np.eye(model.n_states) - model.A, (1 + share) * Cbar.T[None])
        white = np.linalg.inv(root)
        values = np.linalg.eigvalsh(white @ (Lambda0 + half + half.conj().transpose(0, 2, 1)) @ white.T)[:, 0]
        assert values[-1] == pytest.approx(test.minimum, abs=1e-9)
        assert test.minimum <= values.min() + 1e-9
        assert test.minimum >= values.min() - 1e-4 * max(1, np.abs(values).max())
        assert test.positive_real == (values[-1] >= -1e-10)

    def test_eigenvalues_are_the_zeros_of_the_spectrum_in_pairs(self):
        model = arma(0.5, 0.25)[0]
        P = stationary(model)
        Lambda0, G = P + 1.0, 0.5 * P + 0.75
        found = np.sort(np.abs(positive_real_test([[0.5]], [[1.0]], G, Lambda0).eigenvalues))
        assert_close(found, np.array([0.25, 4.0]))

    def test_what_is_refused(self):
        with pytest.raises(UnstableError, match=r"modulus 1\.1"):
            positive_real_test([[1.1]], [[1.0]], [[1.0]], [[1.0]])
        with pytest.raises(ShapeError, match="Cbar"):
            positive_real_test([[0.5]], [[1.0]], [[1.0, 2.0]], [[1.0]])
        with pytest.raises(DataError, match="NaN"):
            positive_real_test([[np.nan]], [[1.0]], [[1.0]], [[1.0]])
        with pytest.raises(DataError, match="tol"):
            positive_real_test([[0.5]], [[1.0]], [[1.0]], [[1.0]], tol=-1)


class TestSpectralFactor:
    @given(model=processes)
    def test_factor_times_conjugate_is_the_spectrum(self, model):
        P = stationary(model)
        Cbar, Lambda0 = (model.A @ P @ model.C.T + model.K @ model.Re).T, model.C @ P @ model.C.T + model.Re
        found = spectral_factor(model.A, model.C, Cbar, Lambda0, dt=0.1)
        omega = np.linspace(0, np.pi, 50)
        assert_close(spectrum(found, omega / 0.1), from_covariances(model, omega), "recurrence")
        assert np.abs(found.predictor.poles).max() < 1
        assert found.dt == 0.1
        assert_close(found.K, model.K, "iterative", scale=max(1, np.abs(model.K).max()))

    def test_a_zero_on_the_circle_is_reached_to_half_the_digits(self):
        found = spectral_factor([[0.0]], [[1.0]], [[1.0]], [[2.0]])  # e[t] + e[t-1]
        assert found.K[0, 0] == pytest.approx(1.0, abs=1e-6)
        assert found.Re[0, 0] == pytest.approx(1.0, abs=1e-6)

    def test_a_spectrum_that_is_negative_somewhere_is_refused(self):
        with pytest.raises(DataError, match=r"negative \(-0\.2 .* omega = 3\.142"):
            spectral_factor([[0.0]], [[1.0]], [[0.6]], [[1.0]])

    def test_an_output_that_is_known_before_is_refused(self):
        lag = 3  # the second output is the first, some samples late
        A, P = np.eye(lag + 1, k=1), np.eye(lag + 1)
        C = np.vstack([P[-1], P[0]])
        with pytest.raises(RankError, match="determined by their past"):
            spectral_factor(A, C, (A @ P @ C.T).T, C @ P @ C.T)


class TestCanonicalCorrelations:
    @given(a=coefficients, c=coefficients)
    def test_arma_in_closed_form(self, a, c):
        expected = abs(a + c) / (1 + a * c)
        found = canonical_correlations(arma(a, c, 5.0)[0])
        assert_close(found, np.array([expected]), "iterative", scale=1.0)
        assert mutual_information(arma(a, c)[0]) == pytest.approx(-0.5 * np.log(1 - expected**2), abs=1e-9)

    @pytest.mark.parametrize(("n", "p"), [(1, 2), (2, 1), (3, 2), (4, 3)])
    def test_dense_past_and_future(self, n, p, rng):
        model = process(rng, n, p, 0.7)
        N = 60
        whole = dense(model, 2 * N)
        half = N * p
        past, future = whole[:half, :half], whole[half:, half:]
        white = scipy.linalg.solve_triangular(np.linalg.cholesky(future), whole[half:, :half], lower=True)
        white = scipy.linalg.solve_triangular(np.linalg.cholesky(past), white.T, lower=True)
        assert_close(canonical_correlations(model), scipy.linalg.svdvals(white)[:n], "iterative")
        shared = (
            0.5 * sum(np.linalg.slogdet(block)[1] for block in (past, future))
            - 0.5 * (np.linalg.slogdet(whole)[1])
        )
        assert mutual_information(model) == pytest.approx(shared, rel=1e-8)

    @given(model=processes)
    def test_neither_basis_nor_direction_of_time_matters(self, model):
        found = canonical_correlations(model)
        assert np.all((found >= 0) & (found < 1))
        rng = np.random.default_rng(0)
        n, p = model.n_states, model.n_outputs
        T, S = (np.linalg.qr(rng.standard_normal((k, k)))[0] + 0.1 * np.eye(k) for k in (n, p))
        moved = model.similarity_transform(T)
        outputs = InnovationsModel(
            moved.A, moved.B, S @ moved.C, K=moved.K @ np.linalg.inv(S), Re=S @ moved.Re @ S.T
        )
        assert_close(canonical_correlations(outputs), found, "iterative")
        reverse = stochastic_realization(covariances(model, 2 * n + 4), n).backward
        assert_close(canonical_correlations(reverse), found, "iterative", scale=1.0)

    def test_a_long_weighted_hankel_matrix_has_them_as_singular_values(self, rng):
        model = process(rng, 3, 2, 0.7)
        found = stochastic_realization(covariances(model, 121), 3)
        assert_close(found.singular_values[:3], canonical_correlations(model), "iterative")

    def test_one_state_keeps_the_first_term(self, rng):
        model = process(rng, 3, 1, 0.9)
        sigma = canonical_correlations(model)
        terms = -0.5 * np.log(1 - sigma**2)
        for order in range(4):
            assert mutual_information(model, order) == pytest.approx(terms[:order].sum())
        with pytest.raises(ShapeError, match="order=4"):
            mutual_information(model, 4)

    def test_white_noise_shares_nothing(self):
        model = InnovationsModel(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((1, 0)), np.zeros((1, 0)))
        assert canonical_correlations(model).shape == (0,)
        assert mutual_information(model) == 0.0


class TestBalancing:
    @given(model=processes)
    def test_both_state_covariances_are_the_correlations(self, model):
        found = stochastically_balanced(model)
        sigma = found.canonical_correlations
        if sigma[-1] < 1e-5:
            return
        assert_close(stationary(found.model), np.diag(sigma), "iterative")
        assert_same_system(found.model, model, kind="iterative")
        assert_close(found.model.Re, model.Re, "iterative")
        moved = model.similarity_transform(found.T)
        assert_close(found.model.A, moved.A, "iterative", scale=1.0)
        assert found.information == pytest.approx(mutual_information(model))

    def test_truncation_keeps_the_variance_and_the_strongest_states(self, rng):
        model = process(rng, 4, 2, 0.9)
        full = stochastically_balanced(model)
        cut = stochastically_balanced(model, 2)
        assert cut.model.n_states == 2
        assert cut.information == pytest.approx(mutual_information(model, 2))
        assert_close(covariances(cut.model, 1), covariances(model, 1))
        assert_close(cut.model.A, full.model.A[:2, :2])
        assert np.abs(cut.model.predictor.poles).max() < 1

    def test_states_that_the_process_does_not_need_are_refused(self):
        model = InnovationsModel(np.diag([0.5, 0.2]), np.zeros((2, 0)), [[1.0, 0.0]], K=[[0.3], [0.0]])
        with pytest.raises(RankError, match="minimal"):
            stochastically_balanced(model)
