"""Hankel products without the matrix, their singular values, and the bounds on what is left out."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, RankError, ShapeError
from realization.realize import HankelOperator, era, hankel, hankel_svd, markov_parameters
from tests.strategies import seeds, stable_systems
from tests.tolerances import assert_close, assert_same_system

sizes = st.integers(1, 3)


@given(rows=st.integers(1, 12), cols=st.integers(1, 12), p=sizes, m=sizes, k=sizes, more=sizes, seed=seeds)
def test_products_are_those_of_the_matrix(rows, cols, p, m, k, more, seed):
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((rows + cols - 1 + more, p, m))
    H, operator = hankel(h, rows, cols), HankelOperator(h, rows, cols)
    X, Y = rng.standard_normal((cols * m, k)), rng.standard_normal((rows * p, k))
    assert operator.shape == H.shape
    assert_close(operator @ X, H @ X)
    assert_close(operator @ X[:, 0], H @ X[:, 0])
    assert_close(operator.T @ Y, H.T @ Y)
    assert_close(operator.T.T @ X, H @ X)
    assert operator.frobenius == pytest.approx(np.linalg.norm(H), rel=1e-14)
    assert operator.T.frobenius == operator.frobenius


def test_an_operator_says_what_it_is_and_what_it_needs():
    operator = HankelOperator(np.ones((9, 2, 1)), 4, 5)
    assert repr(operator) == "HankelOperator(4 x 5 blocks of 2 x 1)"
    for wrong in (np.ones(4), np.ones((5, 1, 1)), 3.0):
        with pytest.raises(ShapeError, match=r"\(5,\) or \(5, k\)"):
            operator @ wrong
    for rows in (0, 6, 1.5):
        with pytest.raises(ShapeError, match=f"rows={rows}"):
            HankelOperator(np.ones(9), rows, 5)
    with pytest.raises(DataError, match="NaN"):
        HankelOperator([1.0, np.nan], 1, 1)


def decaying(rng, rows, cols, p=1, m=1, noise=1e-3):
    k = np.arange(rows + cols - 1)[:, None, None]
    modes = [(0.99, 0.3), (0.97, 1.1), (0.9, 2.0)]
    h = sum(r**k * np.cos(w * k + rng.uniform(0, 6, (p, m))) for r, w in modes)
    return h + noise * rng.standard_normal(h.shape)


@pytest.mark.parametrize(("rows", "cols", "p", "m"), [(250, 190, 1, 1), (90, 130, 2, 3), (60, 300, 3, 1)])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 1e-1])
def test_randomized_is_dense(rows, cols, p, m, noise, rng):
    h = decaying(rng, rows, cols, p, m, noise)
    order = 6 if p * m == 1 or noise else 4
    found = hankel_svd(h, order, rows=rows, cols=cols, method="randomized")
    dense = hankel_svd(h, order, rows=rows, cols=cols, method="dense")
    assert_close(found.s, dense.s, "optimum" if noise == 0.1 else "iterative")  # a slow tail
    assert_close(found.U.T @ found.U, np.eye(order))
    assert_close(found.V.T @ found.V, np.eye(order))
    scale = dense.s[0]
    assert_close((found.U * found.s) @ found.V.T, (dense.U * dense.s) @ dense.V.T, "optimum", scale=scale)
    truth = scipy.linalg.norm(hankel(h, rows, cols) - (found.U * found.s) @ found.V.T, 2)
    rounding = 1e-12 * scale
    assert truth <= found.bound + rounding
    assert found.bound <= 2.2 * truth + rounding
    assert truth <= found.certain_bound + rounding
    frobenius = scipy.linalg.norm(hankel(h, rows, cols) - (found.U * found.s) @ found.V.T)
    assert found.certain_bound == pytest.approx(frobenius, rel=1e-6, abs=1e-6 * scale)
    assert (dense.bound, dense.failure) == (pytest.approx(dense.values[order], rel=1e-12), 0.0)


@given(seed=seeds)
def test_the_bound_holds_for_any_seed_and_any_tail(seed):
    rng = np.random.default_rng(seed)
    h = rng.standard_normal(119) * rng.uniform(0.9, 1.0) ** np.arange(119)
    n = int(rng.integers(1, 12))
    found = hankel_svd(h, n, method="randomized", seed=rng)
    truth = np.linalg.norm(hankel(h, 60, 60) - (found.U * found.s) @ found.V.T, 2)
    assert truth <= found.bound <= 2.2 * truth
    assert truth <= found.certain_bound


def test_the_rank_is_found_by_widening(rng):
    # 60 modes on a circle: more than the first sketch of 40 holds.
    k = np.arange(1199)
    h = sum(np.cos(w * k) for w in np.linspace(0.05, 3.0, 30))
    found = hankel_svd(h)
    assert (len(found.s), found.method) == (60, "randomized")
    assert found.bound < 1e-9 * found.s[0]


def test_a_full_rank_falls_back_or_is_refused(rng, monkeypatch):
    h = rng.standard_normal(901)
    assert hankel_svd(h, rows=451, cols=451).method == "dense"
    full = hankel_svd(rng.standard_normal(99), method="randomized")
    assert (len(full.s), full.certain_bound < 1e-5) == (50, True)
    monkeypatch.setattr(sys.modules["realization.realize.hankel_svd"], "LARGE", 450)
    with pytest.raises(RankError, match="more than a quarter of the 451"):
        hankel_svd(h)


def test_the_same_seed_gives_the_same(rng):
    h = rng.standard_normal(300)
    one, two, other = (hankel_svd(h, 5, method="randomized", seed=seed) for seed in (1, 1, 2))
    assert_close(one.U, two.U, "bitwise")
    assert one.bound == two.bound != other.bound


def test_nothing_at_all():
    for method in ("dense", "randomized"):
        found = hankel_svd(np.zeros(21), method=method)
        assert (len(found.s), found.bound) == (0, 0.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 2}, RankError, "only 1 of the Hankel matrix's 5"),
        ({"rank": 2, "method": "randomized"}, RankError, "only 1 of the Hankel matrix's 5"),
        ({"rank": -1}, ShapeError, "-1 came"),
        ({"method": "fast"}, DataError, "method='fast'"),
        ({"tol": 2}, DataError, "tol=2"),
        ({"rows": 9, "cols": 2}, ShapeError, "rows=9 and cols=2"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        hankel_svd(np.ones(9), **options)


@given(model=stable_systems(states=(1, 5), inputs=(1, 2), outputs=(1, 2)))
def test_era_realizes_the_same_system_either_way(model):
    h = markov_parameters(model, 120)
    fast, dense = era(h, method="randomized"), era(h, method="dense")
    assert fast.order == dense.order
    assert_same_system(fast.model, dense.model, kind="iterative")
    assert_close(markov_parameters(fast.model, 120), h, "iterative")


def test_era_at_size_reports_what_it_left_out(rng):
    h = np.concatenate([np.zeros((1, 1, 1)), decaying(rng, 500, 499, noise=1e-2)])
    fast, dense = era(h, 6), era(h, 6, method="dense")
    assert dense.bound <= fast.bound <= 2.2 * dense.bound
    assert fast.bound <= fast.certain_bound
    assert dense.bound == dense.hsv[6]
    assert len(fast.hsv) < 20 < len(dense.hsv)
    assert_close(fast.model.A**2, dense.model.A**2, "optimum")  # up to the signs of states


def test_era_takes_the_level_of_the_noise(rng):
    h = np.concatenate([np.zeros((1, 1, 1)), decaying(rng, 100, 100, noise=1e-2)])
    assert era(h, noise=1e-2).order == 6
    assert era(h, noise=1e-2, method="randomized").order == 6
    with pytest.raises(DataError, match="Give one"):
        era(h, 6, noise=1e-2)
    with pytest.raises(DataError, match="noise=-1"):
        era(h, noise=-1.0)
