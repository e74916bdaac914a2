"""`gated_delta_scan`: compiled kernels against the written recurrence, for values and for every gradient."""

from __future__ import annotations

from itertools import pairwise

import bmojo_kernels as bk
import pytest
import torch
from bmojo_kernels.gated_delta_scan import torch_op
from bmojo_kernels.gated_delta_scan.naive import gated_delta_scan_naive
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.strategies import seeds
from tests.tolerances import assert_close

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
NAMES = ("q", "k", "v", "log_decay", "beta", "h0")
# (batch, length, heads, keys, values)
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 2, 2, 5, 3),
    (2, 63, 3, 5, 3),
    (1, 64, 2, 16, 16),
    (1, 65, 2, 64, 17),
    (1, 1000, 2, 33, 7),
]


def inputs(batch, length, heads, keys, values, dtype=torch.float64, seed=0, grad=False):
    rng = torch.Generator().manual_seed(seed)
    wide = torch.float32 if dtype is torch.bfloat16 else dtype

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=rng)

    x = {
        "q": F.normalize(normal(batch, length, heads, keys), dim=-1).to(dtype),
        "k": F.normalize(normal(batch, length, heads, keys), dim=-1).to(dtype),
        "v": normal(batch, length, heads, values).to(dtype),
        "log_decay": (-0.3 * normal(batch, length, heads).abs()).to(wide),
        "beta": torch.sigmoid(normal(batch, length, heads)).to(wide),
        "h0": normal(batch, heads, values, keys).to(wide),
    }
    return {name: value.requires_grad_(grad) for name, value in x.items()}


def written(x):
    """The naive recurrence in float64: outputs, last state, innovations."""
    o, e, last = gated_delta_scan_naive(*(x[name].double() for name in NAMES))
    return o, last, e


def gradients(outputs, weights, x):
    loss = sum((one.double() * weight).sum() for one, weight in zip(outputs, weights, strict=True))
    return torch.autograd.grad(loss, list(x.values()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_recurrence(shape, dtype):
    x = inputs(*shape, DTYPES[dtype], grad=True)
    found, expected = bk.gated_delta_scan(**x, innovations=True), written(x)
    assert found[0].dtype == x["v"].dtype
    assert found[1].dtype == found[2].dtype == x["h0"].dtype
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, "recurrence")
    weights = [
        torch.randn_like(one).to(other.dtype).double() for one, other in zip(expected, found, strict=True)
    ]
    wanted = gradients(expected, weights, x)
    for name, one, other in zip(NAMES, gradients(found, weights, x), wanted, strict=True):
        assert_close(one, other, "recurrence", dtype=dtype, what=name)


def test_scale_multiplies_what_is_read():
    x = inputs(2, 70, 2, 5, 3, grad=True)
    (o, last), expected = bk.gated_delta_scan(**x, scale=0.3), written(x)
    weights = [torch.randn_like(one) for one in expected[:2]]
    assert_close(o, 0.3 * expected[0])
    wanted = gradients((0.3 * expected[0], expected[1]), weights, x)
    for one, other in zip(gradients((o, last), weights, x), wanted, strict=True):
        assert_close(one, other)
    assert_close(bk.gated_delta_scan(**x, scale=0.3, backend="naive")[0], o)


def test_without_decay_and_with_full_strength_each_key_reads_its_last_value():
    x = inputs(1, 40, 1, 8, 3)
    keys = torch.arange(40) % 8
    x |= {"log_decay": torch.zeros(1, 40, 1).double(), "beta": torch.ones(1, 40, 1).double()}
    x["k"] = x["q"] = torch.eye(8, dtype=torch.float64)[keys].view(1, 40, 1, 8)
    o, last, e = bk.gated_delta_scan(**x, innovations=True)
    assert_close(o, x["v"])
    assert_close(last[0, 0], x["v"][0, 32:, 0].T)
    assert_close(e[:, 8:], (x["v"][:, 8:] - x["v"][:, :-8]))


def test_no_writing_is_fading_alone():
    x = inputs(1, 70, 2, 5, 3, grad=True)
    x["beta"] = torch.zeros_like(x["beta"]).requires_grad_()
    found, expected = bk.gated_delta_scan(**x, innovations=True), written(x)
    weights = [torch.randn_like(one) for one in expected]
    assert_close(found[1], torch.exp(x["log_decay"].sum(1))[..., None, None] * x["h0"])
    for one, other in zip(gradients(found, weights, x), gradients(expected, weights, x), strict=True):
        assert_close(one, other)


def test_gradcheck():
    x = inputs(2, 18, 2, 3, 2, grad=True)
    assert torch.autograd.gradcheck(
        lambda *v: bk.gated_delta_scan(**dict(zip(NAMES, v, strict=True)), innovations=True), [*x.values()]
    )


def test_torch_knows_the_operator():
    x = inputs(2, 18, 2, 3, 2, grad=True)
    operator = torch.ops.bmojo.gated_delta_scan.default
    torch.library.opcheck(operator, (*x.values(), None, 0.5, True))
    x = inputs(1, 18, 2, 3, 2, grad=True)
    x["h0"] = torch.randn(3, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(operator, (*x.values(), torch.tensor([0, 5, 5, 18]), 1.0, True))


@pytest.mark.slow
def test_compiles_and_exports_as_one_graph():
    x = inputs(2, 9, 2, 3, 4, torch.float32, grad=True)

    def model(*v):
        o, last, e = bk.gated_delta_scan(**dict(zip(NAMES, v, strict=True)), innovations=True)
        return o.sum() + last.square().sum() + e.square().sum()

    found = torch.autograd.grad(torch.compile(model, fullgraph=True)(*x.values()), list(x.values()))
    for one, other in zip(found, torch.autograd.grad(model(*x.values()), list(x.values())), strict=True):
        assert_close(one, other, "recurrence")

    class Model(torch.nn.Module):
        def forward(self, *v):
            return model(*v)

    values = tuple(v.detach() for v in x.values())
    assert_close(torch.export.export(Model(), values).module()(*values), model(*values))


@given(cut=st.integers(0, 100), seed=seeds)
@settings(max_examples=20)
def test_chunks_of_a_sequence_give_the_full_pass(cut, seed):
    x = inputs(2, 100, 2, 7, 3, torch.float32, seed)
    o, last = bk.gated_delta_scan(**x)
    part = {name: x[name] for name in NAMES[:-1]}
    head, carried = bk.gated_delta_scan(**{n: v[:, :cut] for n, v in part.items()}, h0=x["h0"])
    tail, end = bk.gated_delta_scan(**{n: v[:, cut:] for n, v in part.items()}, h0=carried)
    assert_close(torch.cat([head, tail], 1), o)
    assert_close(end, last)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_give_the_full_pass(dtype):
    x = inputs(2, 70, 3, 5, 4, DTYPES[dtype])
    full = bk.gated_delta_scan(**x, scale=0.5, innovations=True)
    state, outputs, innovations = x["h0"].clone(), [], []
    for t in range(70):
        before = state.clone()
        o, after, e = bk.gated_delta_step(*(x[name][:, t] for name in NAMES[:-1]), state, scale=0.5)
        assert torch.equal(state, before)
        outputs.append(o)
        innovations.append(e)
        state = after
    assert_close(torch.stack(outputs, 1), full[0])
    assert_close(state, full[1])
    assert_close(torch.stack(innovations, 1), full[2])


def test_a_step_that_learns_is_differentiated():
    x = inputs(2, 1, 2, 3, 2, grad=True)
    o, last, e = bk.gated_delta_step(*(x[name][:, 0] for name in NAMES[:-1]), x["h0"])
    expected = written(x)
    weights = [torch.randn_like(m) for m in expected]
    found = gradients((o.unsqueeze(1), last, e.unsqueeze(1)), weights, x)
    for a, b in zip(found, gradients(expected, weights, x), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_sequences_are_as_each_alone(dtype):
    lengths = [5, 0, 64, 1, 70]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    x = inputs(1, sum(lengths), 3, 5, 4, DTYPES[dtype], grad=True)
    x["h0"] = inputs(len(lengths), 1, 3, 5, 4, DTYPES[dtype], seed=3, grad=True)["h0"]
    found = bk.gated_delta_scan(**x, cu_seqlens=bounds, innovations=True)
    parts = [
        bk.gated_delta_scan(
            **{name: x[name][:, low:high] for name in NAMES[:-1]}, h0=x["h0"][i : i + 1], innovations=True
        )
        for i, (low, high) in enumerate(pairwise(bounds.tolist()))
    ]
    expected = [
        torch.cat(piece, axis) for piece, axis in zip(zip(*parts, strict=True), (1, 0, 1), strict=True)
    ]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    weights = [torch.randn_like(one).double() for one in expected]
    wanted = gradients(expected, weights, x)
    for name, one, other in zip(NAMES, gradients(found, weights, x), wanted, strict=True):
        assert_close(one, other, what=name)
    naive = bk.gated_delta_scan(**x, cu_seqlens=bounds, innovations=True, backend="naive")
    for one, other in zip(naive, found, strict=True):
        assert_close(one, other, "recurrence", dtype=dtype)


def test_numbers_of_threads_do_not_matter():
    x = inputs(1, 200, 6, 32, 32, torch.float32, grad=True)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            o, last = bk.gated_delta_scan(**x)
            found.append([o, last, *torch.autograd.grad(o.sum() + last.sum(), list(x.values()))])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert torch.equal(one, two)


def test_layouts_do_not_matter_and_arguments_stay():
    x = inputs(2, 20, 3, 5, 4)
    copies = {name: value.clone() for name, value in x.items()}
    expected = bk.gated_delta_scan(**x)
    turned = {name: value.transpose(0, -1).contiguous().transpose(0, -1) for name, value in x.items()}
    for one, other in zip(bk.gated_delta_scan(**turned), expected, strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(x[name], copies[name]) for name in NAMES)


def test_every_output_is_written(monkeypatch):
    """Memory that was not asked to be anything holds NaN here."""
    x = inputs(2, 70, 3, 5, 4, grad=True)
    monkeypatch.setattr(torch_op, "empty_like", lambda m: torch.full(m.shape, torch.nan, dtype=m.dtype))
    found, expected = bk.gated_delta_scan(**x, innovations=True), written(x)
    weights = [torch.randn_like(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    for one, other in zip(gradients(found, weights, x), gradients(expected, weights, x), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("shape", [(2, 0, 3, 4, 2), (0, 5, 3, 4, 2)])
def test_nothing_in_nothing_out(shape):
    x = inputs(*shape, grad=True)
    o, last = bk.gated_delta_scan(**x)
    assert o.shape == (*shape[:3], shape[4])
    assert torch.equal(last, x["h0"])
    (gradient,) = torch.autograd.grad(last.sum(), x["h0"])
    assert torch.equal(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gates_that_are_shut_or_open(dtype):
    x = inputs(1, 130, 3, 5, 4, DTYPES[dtype])
    x["log_decay"][:, :, 0] = -1e4
    x["log_decay"][:, :, 1] = 0
    x["log_decay"][:, ::7, 2] = -1e4  # small decays after one that forgets everything
    x["beta"][:, ::5] = 1
    x["beta"][:, 1::5] = 0
    x = {name: value.requires_grad_() for name, value in x.items()}
    found, expected = bk.gated_delta_scan(**x, innovations=True), written(x)
    weights = [torch.randn_like(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, "recurrence")
    wanted = gradients(expected, weights, x)
    for name, one, other in zip(NAMES, gradients(found, weights, x), wanted, strict=True):
        assert_close(one, other, "recurrence", what=name)
    x["log_decay"].data[:, :, 0] = -torch.inf
    again = bk.gated_delta_scan(**x, innovations=True)
    assert all(torch.equal(one, other) for one, other in zip(again, found, strict=True))
    assert all(torch.isfinite(one).all() for one in gradients(again, weights, x))


def test_autocast_takes_the_dtype_of_q():
    x = inputs(1, 20, 2, 5, 4, torch.float32)
    x["q"] = x["q"].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        o, last = bk.gated_delta_scan(**x)
    assert o.dtype is torch.bfloat16
    assert last.dtype is torch.float32
    assert torch.equal(o, bk.gated_delta_scan(**x | {name: x[name].bfloat16() for name in "kv"})[0])


@pytest.mark.parametrize("name", NAMES[1:])
def test_shapes_that_do_not_fit_are_refused(name):
    x = inputs(2, 9, 4, 3, 3)
    x[name] = x[name][:, :-1]
    with pytest.raises(ValueError, match="gated_delta_scan"):
        bk.gated_delta_scan(**x)


@pytest.mark.parametrize(
    "change",
    [{"cu_seqlens": torch.tensor([0, 5, 9])}, {"backend": "other"}, {"v": torch.zeros(2, 9, 4, 3)}],
)
def test_what_does_not_fit_is_refused(change):
    with pytest.raises(ValueError, match="gated_delta_scan"):
        bk.gated_delta_scan(**inputs(2, 9, 4, 3, 3) | change)
