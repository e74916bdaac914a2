"""The comparisons themselves: what passes, what fails, which dtype decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from realization.systems import StateSpace
from tests.oracles.systems import hankel_loop
from tests.strategies import matrix_with_radius
from tests.tolerances import TOLERANCES, assert_close, assert_same_system, tolerance


def test_one_ulp_passes_and_a_thousandfold_error_fails():
    expected = np.array([1.0, 1e-3])
    assert_close(expected * (1 + 1e-15), expected)
    for kind in ("exact", "recurrence", "iterative", "optimum"):
        bound = TOLERANCES[kind]["float64"]
        with pytest.raises(AssertionError):
            assert_close(expected * (1 + 1000 * bound.rtol + 1000 * bound.atol), expected, kind)


def test_bitwise_sees_the_last_bit():
    assert_close(np.array([0.1]), np.array([0.1]), "bitwise")
    with pytest.raises(AssertionError):
        assert_close(np.nextafter([0.1], 1), np.array([0.1]), "bitwise")


def test_scale_is_the_largest_entry():
    assert_close(np.array([1e6, 1e-7]), np.array([1e6, 0.0]))
    with pytest.raises(AssertionError):
        assert_close(np.array([1.0, 1e-7]), np.array([1.0, 0.0]))


def test_shapes_and_nan_are_not_forgiven():
    with pytest.raises(AssertionError, match="shape"):
        assert_close(np.ones((2, 1)), np.ones(2))
    with pytest.raises(AssertionError):
        assert_close(np.array([np.nan]), np.array([1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_is_judged_by_its_own_dtype(dtype):
    value = torch.tensor([1 / 3], dtype=dtype, requires_grad=True)
    assert_close(value, np.array([1 / 3]))
    with pytest.raises(AssertionError):
        assert_close(value, np.array([1 / 3]), dtype=torch.float64)


def test_names_of_dtypes():
    assert (
        tolerance("exact", np.float32) is tolerance("exact", "float32") is tolerance("exact", torch.float32)
    )
    assert tolerance("exact", np.dtype(complex)) is tolerance("exact", "float64")


def test_same_system_sees_a_wrong_direct_term(rng):
    A, B, C = matrix_with_radius(rng, 3, 0.9), rng.standard_normal((3, 1)), rng.standard_normal((1, 3))
    model = StateSpace(A, B, C)
    assert_same_system(model, model.similarity_transform(rng.standard_normal((3, 3))))
    with pytest.raises(AssertionError):
        assert_same_system(model, StateSpace(A, B, C, np.array([[1e-6]])))


def test_oracles_check_their_shapes():
    with pytest.raises(TypeCheckError):
        hankel_loop(np.ones((3, 2)), 1, 1)
