"""Hankel matrices, Markov parameters, Ho-Kalman and ERA: exact sequences give their system back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, OrderWarning, RankError, ShapeError, UnstableError
from realization.realize import era, hankel, ho_kalman, markov_parameters
from realization.signals import IOData
from realization.systems import InnovationsModel, StateSpace
from tests.oracles.systems import hankel_loop, markov_exact
from tests.strategies import matrix_with_radius, seeds, stable_systems, systems
from tests.tolerances import assert_close, assert_same_system

METHODS = (ho_kalman, era)


def fibonacci(count):
    h = [0, 1]
    while len(h) < count:
        h.append(h[-1] + h[-2])
    return h[:count]


class TestHankel:
    @given(st.data())
    def test_blocks_are_where_they_belong(self, data):
        rows, cols = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
        p, m, more = (data.draw(st.integers(*bounds)) for bounds in ((1, 3), (1, 3), (0, 4)))
        h = np.random.default_rng(data.draw(seeds)).standard_normal((rows + cols - 1 + more, p, m))
        assert_close(hankel(h, rows, cols), hankel_loop(h, rows, cols), "bitwise")

    @given(T=st.integers(5, 30), p=st.integers(1, 3), rows=st.integers(1, 5), seed=seeds)
    def test_columns_of_a_record_are_its_windows(self, T, p, rows, seed):
        y = np.random.default_rng(seed).standard_normal((T, p))
        H = hankel(y, rows, T - rows + 1)
        for j in range(T - rows + 1):
            assert_close(H[:, j], y[j : j + rows].ravel(), "bitwise")

    def test_one_signal_is_the_scalar_hankel_matrix(self):
        h = np.arange(7.0)
        assert_close(hankel(h, 3, 5), scipy.linalg.hankel(h[:3], h[2:]), "bitwise")

    def test_the_result_is_no_view(self):
        h = np.zeros(3)
        hankel(h, 2, 2)[0, 0] = 1.0
        assert not h.any()

    @pytest.mark.parametrize(
        ("h", "rows", "cols", "error", "message"),
        [
            (np.ones(4), 3, 3, ShapeError, r"h has 4 entries; .* rows \+ cols - 1 = 5"),
            (np.ones(4), 0, 2, ShapeError, "rows=0"),
            (np.ones(4), 2, 1.5, ShapeError, "cols=1.5"),
            (np.ones((4, 1, 1, 1)), 2, 2, ShapeError, "shape"),
            (np.ones((4, 0)), 2, 2, ShapeError, "none of them 0"),
            ([1.0, np.nan, 1.0], 2, 2, DataError, r"h\[1\] has entries that are NaN"),
            ([1j, 1.0, 1.0], 2, 2, DataError, "real numbers"),
            ([[1.0], [1.0, 2.0]], 1, 1, DataError, "real numbers"),
            (IOData(np.ones(4)), 2, 2, DataError, r"data\.y"),
        ],
    )
    def test_what_is_refused(self, h, rows, cols, error, message):
        with pytest.raises(error, match=message):
            hankel(h, rows, cols)


class TestMarkovParameters:
    @given(seed=seeds, denominator=st.integers(1, 6))
    def test_exact_to_rounding(self, seed, denominator):
        rng = np.random.default_rng(seed)
        n, m, p = rng.integers(0, 5), rng.integers(0, 3), rng.integers(1, 3)
        A, B, C, D = (rng.integers(-3, 4, shape) for shape in ((n, n), (n, m), (p, n), (p, m)))
        model = StateSpace(A / denominator, B, C, D)
        assert_close(markov_parameters(model, 9), markov_exact(A, B, C, D, 9, int(denominator)))

    def test_in_discrete_time_they_are_the_impulse_response(self, rng):
        model = StateSpace(matrix_with_radius(rng, 3, 0.9), rng.standard_normal((3, 1)), np.ones((2, 3)))
        impulse = np.zeros((8, 1))
        impulse[0] = 1
        assert_close(markov_parameters(model, 8)[:, :, 0], model.simulate(impulse))

    def test_in_continuous_time_they_are_its_derivatives(self):
        model = StateSpace(
            [[-2.0]], [[1.0]], [[3.0]], [[5.0]], dt=0.0
        )  # 3 exp(-2 t) and its derivatives at 0
        assert_close(markov_parameters(model, 4)[:, 0, 0], [5.0, 3.0, -6.0, 12.0], "bitwise")

    def test_the_noise_path_has_its_own(self):
        model = InnovationsModel([[0.5]], [[1.0]], [[1.0]], K=[[0.25]])
        assert_close(markov_parameters(model, 3)[:, 0, 0], [0, 1, 0.5], "bitwise")
        assert_close(markov_parameters(model.noise, 3)[:, 0, 0], [1, 0.25, 0.125], "bitwise")

    def test_what_is_refused(self):
        model = StateSpace([[1e100]], [[1.0]], [[1.0]])
        with pytest.raises(UnstableError, match=r"h\[5\] overflows; the poles reach modulus 1e\+100"):
            markov_parameters(model, 9)
        for count in (0, -1, 1.5):
            with pytest.raises(ShapeError, match="count="):
                markov_parameters(model, count)


@pytest.mark.parametrize("method", METHODS)
class TestRealization:
    @given(model=systems(states=(0, 7), radius=(0.3, 1.1), dt=0.1), more=st.integers(0, 30))
    def test_markov_parameters_come_back(self, method, model, more):
        h = markov_parameters(model, 2 * model.n_states + 3 + more)
        result = method(h, dt=0.1)
        assert result.order == result.model.n_states <= model.n_states
        assert result.model.dt == 0.1
        assert_close(markov_parameters(result.model, len(h)), h)
        assert result.residual <= 1e-12

    @given(seed=seeds, m=st.integers(1, 3), p=st.integers(1, 3))
    def test_the_order_of_a_minimal_system_is_found(self, method, seed, m, p):
        # Orthogonal A and unit columns: reachable and observable with a margin.
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 6))
        angles = np.pi * (np.arange(n) + 0.5) / n
        A = np.diag(0.9 * np.cos(angles))
        model = StateSpace(A, rng.uniform(1, 2, (n, m)), rng.uniform(1, 2, (p, n)))
        result = method(markov_parameters(model, 2 * n + 3))
        assert result.order == n
        assert_close(np.sort(result.model.poles.real), np.sort(np.diag(A)), "iterative")

    @pytest.mark.parametrize("radius", [1.5, 2.0])
    def test_unstable_systems(self, method, radius, rng):
        model = StateSpace(
            matrix_with_radius(rng, 4, radius), rng.standard_normal((4, 2)), rng.standard_normal((2, 4))
        )
        h = markov_parameters(model, 13)
        result = method(h)
        assert result.order == 4
        assert_close(markov_parameters(result.model, 13), h)

    def test_fibonacci(self, method):
        result = method(fibonacci(12))
        assert result.order == 2
        assert_close(result.model.poles.real, [(1 + 5**0.5) / 2, (1 - 5**0.5) / 2])
        assert_close(markov_parameters(result.model, 25)[:, 0, 0], np.array(fibonacci(25), dtype=float))

    @pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 2, 3)])
    def test_no_states(self, method, shape):
        h = np.zeros(shape)
        h[0] = 3.0
        result = method(h)
        assert (result.order, result.residual) == (0, 0.0)
        assert_close(result.model.D.ravel(), h[0].ravel(), "bitwise")
        assert not result.hsv.any()

    def test_all_zero(self, method):
        assert method(np.zeros(5)).order == 0

    def test_a_delay_line_is_nilpotent(self, method):
        h = np.zeros(12)
        h[4] = 1.0
        result = method(h)
        assert result.order == 4
        assert_close(np.linalg.matrix_power(result.model.A, 4), np.zeros((4, 4)))

    def test_responses_to_one_input_may_be_a_table(self, method, rng):
        h = rng.standard_normal((4, 2)) @ np.array([[1.0, 2.0], [3.0, 4.0]])
        with pytest.warns(OrderWarning):
            model = method(h).model
        assert (model.n_inputs, model.n_outputs) == (1, 2)

    @given(model=stable_systems(states=(1, 5), inputs=(2, 2), outputs=(2, 2)))
    def test_rows_and_columns_may_be_chosen(self, method, model):
        n = model.n_states
        h = markov_parameters(model, 3 * n + 6)
        for options in ({"rows": n + 1}, {"cols": n + 2}, {"rows": 2 * n, "cols": n + 1}):
            result = method(h, **options)
            assert_close(markov_parameters(result.model, len(h)), h, "recurrence")
        assert len(method(h, rows=n + 1, cols=n).hsv) == 2 * n

    def test_a_given_order_truncates(self, method):
        h = 0.5 ** np.arange(20.0) + 1e-3 * (-0.4) ** np.arange(20.0)
        h[0] = 0
        result = method(h, 1)
        assert (result.order, result.model.n_states, len(result.hsv)) == (1, 1, 9)
        assert 1e-6 < result.residual < 1e-2
        assert abs(result.model.poles[0] - 0.5) < 1e-2
        with_tol = method(h, tol=1e-2 * result.hsv[1] / result.hsv[0])
        assert with_tol.order == 2

    def test_tol_decides_the_rank(self, method):
        h = 0.5 ** np.arange(20.0) + 1e-7 * (-0.4) ** np.arange(20.0)
        assert method(h).order == 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OrderWarning)
            assert method(h, tol=1e-4).order == 1

    def test_full_rank_warns(self, method, rng):
        with pytest.warns(OrderWarning, match="at the limit of what this sequence shows"):
            method(rng.standard_normal(12))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            method(rng.standard_normal(12), order=3)

    def test_an_unfinished_sequence_warns(self, method):
        # Of rank one as far as the Hankel matrix sees; the last entry belongs to a larger system.
        with pytest.warns(OrderWarning, match=r"misses the sequence by 1\.0e\+00"):
            result = method([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0], rows=3, cols=2)
        assert result.residual == 1.0

    @pytest.mark.parametrize(
        ("h", "options", "error", "message"),
        [
            (np.ones(2), {}, ShapeError, r"2 Markov parameters came; at least h\[0\], h\[1\] and h\[2\]"),
            (np.ones(6), {"rows": 3, "cols": 3}, ShapeError, r"rows=3 and cols=3 .* rows \+ cols at most 5"),
            (np.ones(6), {"rows": 5}, ShapeError, "rows=5 and cols=0"),
            (np.ones(6), {"cols": 0}, ShapeError, "cols=0"),
            (np.ones(6), {"order": -1}, ShapeError, "order=-1"),
            (np.ones(6), {"order": 1.0}, ShapeError, "order=1.0"),
            (np.ones(9), {"order": 2}, RankError, "only 1 of the Hankel matrix's 4 singular values"),
            (np.zeros(9), {"order": 1, "tol": 0.0}, RankError, "only 0 of"),
            (np.ones(6), {"tol": -1.0}, DataError, "tol=-1.0"),
            (np.ones(6), {"tol": np.nan}, DataError, "tol=nan"),
            ([1.0, np.inf, 1.0], {}, DataError, r"h\[1\] has entries that are NaN or infinite"),
            (np.ones((6, 0, 1)), {}, ShapeError, "none of them 0"),
        ],
    )
    def test_what_is_refused(self, method, h, options, error, message):
        with pytest.raises(error, match=message) as caught:
            method(h, **options)
        assert str(caught.value).startswith(method.__name__)

    def test_it_says_what_it_is(self, method):
        shown = repr(method(fibonacci(12)))
        assert shown.startswith("HankelRealization(order 2, residual ")
        assert shown.endswith(", ...)")


def grown_gramians(model, rows, cols):
    """Observability and reachability gramians over as many steps as the Hankel matrix has blocks."""
    Wo, Wc = np.zeros_like(model.A), np.zeros_like(model.A)
    power = np.eye(model.n_states)
    for k in range(max(rows, cols)):
        Wo += power.T @ model.C.T @ model.C @ power * (k < rows)
        Wc += power @ model.B @ model.B.T @ power.T * (k < cols)
        power = model.A @ power
    return Wo, Wc


@given(model=stable_systems(states=(1, 5), inputs=(2, 2), outputs=(1, 2)))
def test_era_is_balanced_and_ho_kalman_output_normal(model):
    h = markov_parameters(model, 25)
    balanced, normal = era(h, rows=13, cols=11), ho_kalman(h, rows=13, cols=11)
    n = balanced.order
    Wo, Wc = grown_gramians(balanced.model, 13, 11)
    assert_close(Wo, np.diag(balanced.hsv[:n]), "iterative")
    assert_close(Wc, np.diag(balanced.hsv[:n]), "iterative")
    assert_close(grown_gramians(normal.model, 13, 11)[0], np.eye(n), "iterative")
    assert_close(balanced.hsv, normal.hsv, "bitwise")


@given(model=stable_systems(states=(1, 4)))
def test_the_two_differ_by_a_diagonal_transformation(model):
    h = markov_parameters(model, 20)
    balanced, normal = era(h), ho_kalman(h)
    T = np.diag(balanced.hsv[: balanced.order] ** 0.5)
    assert_same_system(normal.model.similarity_transform(T), balanced.model)
    assert_close(normal.model.similarity_transform(T).A, balanced.model.A, "iterative")


def test_singular_values_tend_to_the_hankel_singular_values():
    model = StateSpace(np.diag([0.8, -0.6, 0.3]), np.ones((3, 1)), np.array([[1.0, 0.5, 0.2]]))
    Wc = scipy.linalg.solve_discrete_lyapunov(model.A, model.B @ model.B.T)
    Wo = scipy.linalg.solve_discrete_lyapunov(model.A.T, model.C.T @ model.C)
    expected = np.sqrt(np.sort(np.linalg.eigvals(Wc @ Wo).real)[::-1])
    assert_close(era(markov_parameters(model, 202)).hsv[:3], expected, "iterative")


@pytest.mark.parametrize("radius", [1.5, 2.0, 4.0])
def test_ho_kalman_sees_every_mode_of_a_fast_growing_sequence(radius, rng):
    # Over 60 steps the largest mode hides the others below rounding, unless growth is weighed out.
    A = np.diag([radius, -0.9 * radius, 0.8 * radius, 0.7 * radius])
    model = StateSpace(A, rng.uniform(1, 2, (4, 1)), rng.uniform(1, 2, (1, 4)))
    h = markov_parameters(model, 61)
    result = ho_kalman(h)
    assert result.order == 4
    assert_close(markov_parameters(result.model, 61), h)
    assert_close(np.sort(result.model.poles.real), np.sort(np.diag(A)), "iterative")


def test_continuous_time_models_are_realized_from_their_markov_parameters():
    A = np.array([[-1.0, 2.0], [-2.0, -1.0]])
    model = StateSpace(A, [[1.0], [0.0]], [[1.0, 1.0]], dt=0.0)
    result = ho_kalman(markov_parameters(model, 9), dt=0.0)
    assert_same_system(result.model, model, count=9)
    omega = np.linspace(0, 5, 7)
    assert_close(result.model.frequency_response(omega), model.frequency_response(omega), "recurrence")
