"""`lti_scan`: the compiled recurrence against the written one."""

from __future__ import annotations

from itertools import pairwise

import bmojo_kernels as bk
import numpy as np
import pytest
from bmojo_kernels.lti_scan.naive import lti_scan_naive
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import matrix_with_radius, seeds
from tests.tolerances import assert_close

sizes = st.integers(0, 7)


def system(n, m, T, seed, radius=0.95):
    rng = np.random.default_rng(seed)
    return (
        matrix_with_radius(rng, n, radius),
        rng.standard_normal((n, m)),
        rng.standard_normal((T, m)),
        rng.standard_normal(n),
    )


@given(n=sizes, m=sizes, T=st.integers(0, 60), seed=seeds)
def test_numba_is_the_naive_loop(n, m, T, seed):
    arguments = system(n, m, T, seed)
    states, last = bk.lti_scan(*arguments)
    expected, expected_last = lti_scan_naive(*arguments)
    assert_close(states, expected, "recurrence")
    assert_close(last, expected_last, "recurrence")


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("m", [0, 1, 2])
@pytest.mark.parametrize("T", [0, 1, 2])
def test_smallest_sizes(n, m, T):
    arguments = system(n, m, T, seed=1)
    states, last = bk.lti_scan(*arguments)
    expected, expected_last = lti_scan_naive(*arguments)
    assert states.shape == (T, n)
    assert last.shape == (n,)
    assert_close(states, expected)
    assert_close(last, expected_last)


@given(cut=st.integers(0, 50), seed=seeds)
def test_chunks_give_the_full_pass_bit_for_bit(cut, seed):
    A, B, u, x0 = system(4, 2, 50, seed)
    drive = u @ B.T  # product of the input outside: its own rounding may depend on the number of rows
    states, last = bk.lti_scan(A, np.eye(4), drive, x0)
    head, carried = bk.lti_scan(A, np.eye(4), drive[:cut], x0)
    tail, end = bk.lti_scan(A, np.eye(4), drive[cut:], carried)
    assert_close(np.vstack([head, tail]), states, "bitwise")
    assert_close(end, last, "bitwise")


def test_state_before_the_input_acts():
    states, last = bk.lti_scan([[2.0]], [[1.0]], [[1.0], [10.0], [100.0]], [3.0])
    assert_close(states, [[3.0], [7.0], [24.0]], "bitwise")
    assert_close(last, [148.0], "bitwise")


def test_zero_start_is_the_default():
    A, B, u, _ = system(3, 2, 9, seed=2)
    assert_close(bk.lti_scan(A, B, u)[0], bk.lti_scan(A, B, u, np.zeros(3))[0], "bitwise")


def test_a_nilpotent_state_is_the_last_inputs():
    shift = np.eye(4, k=1)
    u = np.arange(1.0, 21.0)[:, None]
    states, _ = bk.lti_scan(shift, np.eye(4)[:, -1:], u)
    assert_close(states[10], [7.0, 8.0, 9.0, 10.0], "bitwise")


def test_arguments_stay_and_layouts_do_not_matter():
    A, B, u, x0 = system(5, 3, 30, seed=3)
    expected = bk.lti_scan(A, B, u, x0)[0]
    frozen = [np.asfortranarray(a) for a in (A, B, u)]
    for array in (*frozen, x0):
        array.setflags(write=False)
    assert_close(bk.lti_scan(*frozen, x0)[0], expected, "exact")
    strided = np.repeat(u, 2, axis=0)[::2]
    assert_close(bk.lti_scan(A.tolist(), B, strided, x0)[0], expected, "exact")


def test_unstable_growth_is_kept():
    states, _ = bk.lti_scan([[2.0]], [[1.0]], np.zeros((50, 1)), [1.0])
    assert_close(states[:, 0], 2.0 ** np.arange(50), "bitwise")


@pytest.mark.parametrize(
    ("A", "B", "u", "x0"),
    [
        (np.eye(2), np.ones((3, 1)), np.ones((4, 1)), None),
        (np.ones((2, 3)), np.ones((2, 1)), np.ones((4, 1)), None),
        (np.eye(2), np.ones((2, 1)), np.ones((4, 2)), None),
        (np.eye(2), np.ones((2, 1)), np.ones(4), None),
        (np.eye(2), np.ones((2, 1)), np.ones((4, 1)), np.ones(3)),
        (np.eye(2), np.ones((2, 1)), np.ones((4, 1)), np.ones((2, 1))),
    ],
)
def test_shapes_that_do_not_fit_are_refused(A, B, u, x0):
    with pytest.raises(ValueError, match="lti_scan"):
        bk.lti_scan(A, B, u, x0)


@given(lengths=st.lists(st.integers(0, 9), max_size=5), seed=seeds)
def test_packed_records_are_as_each_alone(lengths, seed):
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    A, B, u, _ = system(3, 2, int(bounds[-1]), seed)
    x0 = np.random.default_rng(seed).standard_normal((len(lengths), 3))
    states, last = bk.lti_scan(A, B, u, x0, cu_seqlens=bounds)
    for i, (low, high) in enumerate(pairwise(bounds)):
        alone, end = bk.lti_scan(A, B, u[low:high], x0[i])
        assert_close(states[low:high], alone, "bitwise")
        assert_close(last[i], end, "bitwise")


def test_bounds_that_do_not_part_the_record_are_refused():
    A, B, u, _ = system(2, 1, 5, seed=0)
    with pytest.raises(ValueError, match="never fall"):
        bk.lti_scan(A, B, u, cu_seqlens=[0, 3, 2, 5])
    with pytest.raises(ValueError, match="x0 has shape"):
        bk.lti_scan(A, B, u, np.zeros(2), cu_seqlens=[0, 3, 5])
