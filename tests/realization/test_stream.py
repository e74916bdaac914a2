"""A stream holds what the whole record holds: any chunking, merging, forgetting and resuming."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realization.errors import DataError, ExcitationError, ExcitationWarning, ShapeError
from realization.identification import pbsid, ssarx, subspace_orders
from realization.identification.factorization import factorize, scale
from realization.signals import IOData
from realization.stream import StreamingFactorization
from realization.systems import InnovationsModel
from tests.strategies import seeds
from tests.tolerances import assert_close


def record(T, seed):
    rng = np.random.default_rng(seed)
    model = InnovationsModel(
        [[0.8, 0.3], [-0.3, 0.7]],
        [[1.0], [0.5]],
        [[1.0, 0.2], [0.0, 1.0]],
        K=[[0.4, 0.1], [0.0, 0.3]],
        Re=[[1.0, 0.3], [0.3, 0.5]],
        u_mean=[2.0],
        y_mean=[-50.0, 3.0],
    )
    u = 2.0 + rng.standard_normal((T, 1))
    return IOData(model.simulate(u, e=rng.standard_normal((T, 2)) @ np.linalg.cholesky(model.Re).T), u)


def streamed(data, *cuts, **options):
    seen = StreamingFactorization(data.n_outputs, data.n_inputs, **{"block_rows": 4} | options)
    for begin, stop in zip((0, *cuts), (*cuts, data.length)):
        seen.update(data.y[begin:stop], data.inputs[begin:stop] if data.n_inputs else None)
    return seen


def same(stream, data, kind="recurrence"):
    whole = factorize(scale(data, "test"), stream.block_rows, "test")
    assert_close(stream.factorization().R, whole.R, kind)
    assert stream.length == data.length


@given(cuts=st.lists(st.integers(1, 599), max_size=6, unique=True), seed=seeds)
def test_any_chunking_gives_the_factor_of_the_whole(cuts, seed):
    data = record(600, seed)
    same(streamed(data, *sorted(cuts)), data)


def test_single_samples_and_a_time_series():
    data = IOData(record(300, 1).y)
    same(streamed(data, *range(1, 300)), data)


@given(cut=st.integers(1, 599), inner=st.integers(1, 599), seed=seeds)
def test_joined_records_are_the_whole_record(cut, inner, seed):
    data = record(600, seed)
    first, second = (IOData(data.y[part], data.inputs[part]) for part in (slice(cut), slice(cut, None)))
    cuts = [k for k in (inner,) if k < first.length]
    before = streamed(first, *cuts)
    kept = before._arrays()
    same(before.merge(streamed(second), contiguous=True), data)
    for name, value in before._arrays().items():
        np.testing.assert_array_equal(value, kept[name])


def test_separate_records_add_their_windows():
    a, b = record(500, 2), record(700, 3)
    joint = streamed(a).merge(streamed(b))
    z = [np.hstack([part.inputs, part.y]) for part in (a, b)]
    H = np.vstack([np.hstack([s[k : len(s) - 7 + k] for k in range(8)]) for s in z])
    both = np.vstack(z)
    H = (H - H.mean(axis=0)) / np.tile(both.std(axis=0), 8)
    index = np.arange(24).reshape(8, 3)
    order = [*index[4:, :1].flat, *index[:4, :1].flat, *index[:4, 1:].flat, *index[4:, 1:].flat]
    found = joint.factorization()
    assert_close(found.R.T @ found.R, (H.T @ H)[np.ix_(order, order)], "recurrence")
    assert found.columns == len(H)
    model = joint.n4sid(2)
    assert_close(model.u_mean, both.mean(axis=0)[:1])
    more = joint.merge(streamed(record(400, 4)))
    assert more.length == 1600


def test_models_are_those_of_the_record():
    data = record(3000, 5)
    stream = streamed(data, 1000, 2500)
    reference = subspace_orders(data, [2], block_rows=4).models[2]
    assert_close(stream.n4sid(2).impulse_response(20), reference.impulse_response(20), "iterative")
    assert stream.n4sid().n_states == 2
    for ours, theirs in ((stream.ssarx(2), ssarx), (stream.pbsid(2), pbsid)):
        expected = theirs(data, 2, block_rows=4).model
        assert_close(ours.impulse_response(20), expected.impulse_response(20), "iterative")
        assert_close(ours.y_mean, expected.y_mean)


@pytest.mark.parametrize("w", [0.99, 0.999])
def test_forgetting_weighs_windows_by_their_age(w):
    data = record(2000, 6)
    stream = streamed(data, 3, 700, 705, 1900, forgetting=w)
    z = np.hstack([data.inputs, data.y])
    H = np.hstack([z[k : len(z) - 7 + k] for k in range(8)])
    weights = w ** np.arange(len(H) - 1.0, -1.0, -1.0)
    H = H - weights @ H / weights.sum()
    ages = w ** np.arange(len(z) - 1.0, -1.0, -1.0)
    mean = ages @ z / ages.sum()
    unit = np.tile(np.sqrt(ages @ (z - mean) ** 2 / ages.sum()), 8)
    gram = (H * weights[:, None]).T @ H / unit / unit[:, None]
    index = np.arange(24).reshape(8, 3)
    order = [*index[4:, :1].flat, *index[:4, :1].flat, *index[:4, 1:].flat, *index[4:, 1:].flat]
    R = stream.factorization().R
    assert_close(R.T @ R, gram[np.ix_(order, order)], "iterative")


def test_a_change_is_followed_where_the_past_is_forgotten():
    a, b = record(4000, 7), record(4000, 8)
    both = IOData(np.vstack([a.y, -3 * b.y]), np.vstack([a.inputs, b.inputs]))
    gain = [streamed(both, forgetting=w).n4sid(2).impulse_response(3)[1] for w in (0.99, 1.0)]
    new = streamed(IOData(-3 * b.y, b.inputs)).n4sid(2).impulse_response(3)[1]
    assert np.abs(gain[0] - new).max() < 0.5 < np.abs(gain[1] - new).max()


def test_it_is_resumed_from_a_file(tmp_path):
    data = record(900, 9)
    streamed(IOData(data.y[:500], data.inputs[:500])).save(tmp_path / "state")
    resumed = StreamingFactorization.load(tmp_path / "state")
    resumed.update(data.y[500:], data.inputs[500:])
    same(resumed, data)
    (tmp_path / "other").write_text("text")
    for name in ("other", "missing"):
        with pytest.raises(DataError, match="holds no state"):
            StreamingFactorization.load(tmp_path / name)


def test_memory_does_not_grow():
    data = record(400, 10)
    stream = streamed(data)
    held = stream.nbytes
    stream.update(np.tile(data.y, (50, 1)), np.tile(data.inputs, (50, 1)))
    assert stream.nbytes == held


def test_noise_free_streams_warn_and_hold_half_of_the_digits():
    rng = np.random.default_rng(11)
    model = InnovationsModel([[0.8]], [[1.0]], [[0.5]])
    u = rng.standard_normal((2000, 1))
    stream = streamed(IOData(model.simulate(u), u))
    with pytest.warns(ExcitationWarning, match="half of the digits"):
        found = stream.n4sid(1)
    assert np.abs(found.impulse_response(20) - model.impulse_response(20)).max() < 1e-5


def test_what_cannot_be_done_says_why():
    data = record(400, 12)
    stream = streamed(data)
    with pytest.raises(ShapeError, match="the stream has 2 and 1"):
        stream.update(data.y[:, :1], data.inputs)
    with pytest.raises(DataError, match=r"NaN|finite"):
        stream.update(data.y * np.nan, data.inputs)
    with pytest.raises(ExcitationError, match="Go on feeding"):
        streamed(IOData(data.y[:20], data.inputs[:20])).n4sid(1)
    with pytest.raises(ExcitationError, match="Go on feeding"):
        StreamingFactorization(1).factorization()
    with pytest.raises(DataError, match="constant"):
        streamed(IOData(np.ones((400, 1)) * 3.0, data.inputs)).n4sid(1)
    with pytest.raises(DataError, match="merge"):
        stream.merge(streamed(data, block_rows=5))
    with pytest.raises(DataError, match="separate records"):
        stream.merge(stream.merge(stream), contiguous=True)
    for options, word in (({"forgetting": 0.0}, "forgetting"), ({"block_rows": 1}, "block_rows")):
        with pytest.raises(DataError, match=word):
            StreamingFactorization(1, **options)  # pyright: ignore[reportArgumentType]
