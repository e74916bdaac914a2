"""Autoregressions whose poles are brought inside the unit circle: where they go, and what stays."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import realization as rz
from realization.identification.arx import fit_arx
from realization.identification.factorization import scale
from realization.identification.realization import STABLE_RADIUS
from realization.identification.stable_autoregression import stable_taps
from tests.strategies import seeds
from tests.tolerances import assert_close


def roots(taps):
    """Of the determinant of the matrix polynomial, as eigenvalues of the block companion matrix."""
    lags, p, _ = taps.shape
    A = np.vstack([np.hstack(list(taps)), np.eye((lags - 1) * p, lags * p)])
    return np.linalg.eigvals(A)


@given(seed=seeds, outside=st.integers(1, 3), inside=st.integers(0, 3))
def test_scalar_roots_go_to_their_mirror_images(seed, outside, inside):
    rng = np.random.default_rng(seed)
    sizes = np.r_[rng.uniform(1.05, 2.0, outside), rng.uniform(0.2, 0.9, inside)]
    poles = sizes * rng.choice([-1.0, 1.0], len(sizes))
    poles += 0.01 * np.arange(len(poles))  # apart, so that they can be told
    found = stable_taps(-np.poly(poles)[1:, None, None])
    mirrored = np.where(np.abs(poles) >= 1, 1 / poles, poles)
    assert_close(np.r_[1.0, -found[:, 0, 0]], np.poly(mirrored), "iterative")


@given(seed=seeds, lags=st.integers(1, 6), p=st.integers(1, 4), size=st.floats(0.01, 3.0))
def test_several_outputs_come_out_stable(seed, lags, p, size):
    taps = size * np.random.default_rng(seed).standard_normal((lags, p, p))
    found = stable_taps(taps)
    if np.abs(roots(taps)).max() < 1:
        assert found is None
    else:
        assert found.shape == taps.shape
        assert np.abs(roots(found)).max() < 1


def test_where_rows_depend_all_poles_are_drawn_in():
    # Every power of this companion matrix has the same first block row, up to sign: no reflection is told.
    taps = np.zeros((2, 2, 2))
    taps[1] = np.diag([4.0, 0.0])
    found = stable_taps(taps)
    assert np.abs(roots(found)).max() <= STABLE_RADIUS * (1 + 1e-9)


@given(seed=seeds)
def test_the_inputs_are_fitted_again(seed):
    """Given the moved poles, no other taps of the inputs leave smaller errors."""
    rng = np.random.default_rng(seed)
    u, y = (
        rng.standard_normal((60, 2)),
        np.cumsum(rng.standard_normal((60, 1)) * 1.08 ** np.arange(60)[:, None]),
    )
    scaled = scale(rz.IOData(y, u), "example")
    plain, found = fit_arx(scaled, 3, 2, 1), fit_arx(scaled, 3, 2, 1, stable=True)
    assert found.stabilized == (plain.radius >= 1)
    if not found.stabilized:
        assert_close(found.A, plain.A, "bitwise")
        return
    assert found.radius < 1
    lagged = np.hstack([np.ones((57, 1)), *(scaled.u[3 - k : 60 - k] for k in (1, 2))])
    kept = sum(found.K[k - 1, 0] * scaled.y[3 - k : 60 - k, 0] for k in (1, 2, 3))
    taps = np.linalg.lstsq(lagged, scaled.y[3:, 0] - kept)[0][1:]
    h = found.B[:2] - found.K[:2] @ found.D
    assert_close(h.ravel(), taps, "iterative", scale=max(1.0, np.abs(taps).max()))


def test_an_unstable_estimate_is_moved_with_a_warning_and_kept_on_request(rng):
    y = np.zeros(80)
    for t in range(1, 80):
        y[t] = 1.1 * y[t - 1] + rng.standard_normal()
    with pytest.warns(rz.StabilityWarning, match="stable=False"):
        moved = rz.arx(y, na=1)
    assert moved.stabilized
    assert moved.model.is_stable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = rz.arx(y, na=1, stable=False)
    assert not kept.stabilized
    assert_close(kept.model.poles.real * moved.model.poles.real, np.ones(1))
    # The predictor of the estimate as it is forgets in one step, stable or not.
    assert_close(kept.model.predictor.A, np.zeros((1, 1)), scale=1.0)
