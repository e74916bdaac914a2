"""Orders from singular values: false alarms are as rare as said, clear states are found."""

from __future__ import annotations

import numpy as np
import pytest

from realization.errors import DataError, ShapeError
from realization.realize import estimate_order, hankel


def singular_values(h, rows, cols):
    return np.linalg.svd(hankel(h, rows, cols), compute_uv=False)


@pytest.mark.parametrize(
    ("r", "c", "p", "m"), [(30, 30, 1, 1), (60, 20, 1, 1), (12, 18, 2, 3), (1, 40, 1, 1)]
)
@pytest.mark.parametrize("known", [True, False])
def test_noise_alone_rarely_has_an_order(r, c, p, m, known, rng):
    if r == 1 and not known:
        pytest.skip("one singular value says nothing of its own noise")
    alarms = 0
    for _ in range(400):
        s = singular_values(rng.standard_normal((r + c - 1, p, m)), r, c)
        noise = 1.0 if known else None
        alarms += estimate_order(s, noise=noise, blocks=(r, c), channels=(p, m), false_alarm=0.05).order > 0
    assert alarms <= 0.05 * 400


def test_the_threshold_is_not_idle(rng):
    # Half of it would be exceeded now and then: the bound is near the norm that it bounds.
    norms = [singular_values(rng.standard_normal(119), 60, 60)[0] for _ in range(100)]
    threshold = estimate_order([1.0], noise=1.0, blocks=(60, 60)).threshold
    assert 0.5 * threshold < max(norms) < threshold


@pytest.mark.parametrize("noise", [1e-3, 1e-2, 5e-2])
@pytest.mark.parametrize("known", [True, False])
def test_states_above_the_noise_are_found(noise, known, rng):
    k = np.arange(199)
    clean = 0.97**k * np.cos(0.3 * k) + 0.95**k * np.cos(1.2 * k)
    found = []
    for _ in range(20):
        s = singular_values(clean + noise * rng.standard_normal(199), 100, 100)
        estimate = estimate_order(s, noise=noise if known else None)
        found.append(estimate.order)
        assert estimate.noise == pytest.approx(noise, rel=0.5)
        assert estimate.gap == s[3] / s[4]
    assert found == [4] * 20


def test_what_is_reported():
    found = estimate_order([8.0, 4.0, 1.0, 0.0], noise=0.11, blocks=(4, 5))
    assert found.ratios.tolist() == [2.0, 4.0, np.inf]
    expected = 0.11 * np.sqrt(8) * np.sqrt(max(np.log(800), 2 * np.log(400)))
    assert found.threshold == pytest.approx(expected)
    assert (found.order, found.gap) == (2, 4.0)
    assert estimate_order([8.0, 4.0], noise=0.0).gap == np.inf
    assert estimate_order([8.0, 4.0], noise=99.0).gap == 1.0
    assert estimate_order(np.zeros(3)).order == 0
    exact = estimate_order([1.0, 1e-3, 1e-17], noise=0.0)
    assert exact.order == 2


@pytest.mark.parametrize(
    ("s", "options", "error", "message"),
    [
        ([[1.0]], {}, ShapeError, r"shape \(1, 1\)"),
        ([], {}, ShapeError, "shape"),
        ([1.0, 2.0], {}, DataError, "largest first"),
        ([1.0, np.nan], {}, DataError, "finite"),
        ([1.0, -1.0], {}, DataError, "at least 0"),
        ([1.0, 0.5], {"noise": -1.0}, DataError, "noise=-1.0"),
        ([1.0, 0.5], {"noise": np.nan}, DataError, "noise=nan"),
        ([1.0, 0.5], {"false_alarm": 0.0}, DataError, "false_alarm=0.0"),
        ([1.0, 0.5], {"blocks": (3, 3)}, ShapeError, "all are needed where noise is not given"),
        ([1.0, 0.5], {"blocks": (1, 3)}, ShapeError, "2 singular values of a 1 x 3"),
        ([1.0, 0.5], {"blocks": (0, 3), "noise": 1.0}, ShapeError, "0 x 3"),
    ],
)
def test_what_is_refused(s, options, error, message):
    with pytest.raises(error, match=message):
        estimate_order(s, **options)


@pytest.mark.parametrize("wrong", [{"blocks": 3}, {"channels": (1, 2, 3)}, {"blocks": (3,)}])
def test_sizes_that_are_no_pairs_are_refused(wrong):
    with pytest.raises(ShapeError, match="a pair of whole numbers"):
        estimate_order([3.0, 1.0, 0.1], **wrong)
