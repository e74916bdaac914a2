"""`ssd_scan`: compiled kernels against the written recurrence, for values and for every gradient."""

from __future__ import annotations

from itertools import pairwise

import bmojo_kernels as bk
import pytest
import torch
from bmojo_kernels.ssd_scan import torch_op
from bmojo_kernels.ssd_scan.naive import ssd_scan_naive
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.strategies import seeds
from tests.tolerances import assert_close

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
NAMES = ("x", "log_decay", "B", "C", "h0")
# (batch, length, heads, width, groups, states)
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 2, 2, 5, 2, 3),
    (2, 63, 4, 5, 2, 3),
    (1, 64, 2, 16, 1, 16),
    (1, 65, 3, 64, 3, 17),
    (1, 1000, 2, 7, 1, 33),
]


def inputs(batch, length, heads, width, groups, states, dtype=torch.float64, seed=0, grad=False):
    rng = torch.Generator().manual_seed(seed)
    wide = torch.float32 if dtype is torch.bfloat16 else dtype

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=rng)

    x = {
        "x": normal(batch, length, heads, width).to(dtype),
        "log_decay": (-0.3 * normal(batch, length, heads).abs()).to(wide),
        "B": (normal(batch, length, groups, states) / states**0.5).to(dtype),
        "C": normal(batch, length, groups, states).to(dtype),
        "h0": normal(batch, heads, width, states).to(wide),
    }
    return {name: value.requires_grad_(grad) for name, value in x.items()}


def written(x):
    """The naive recurrence in float64, so that only one side rounds."""
    return ssd_scan_naive(*(x[name].double() for name in NAMES))


def gradients(outputs, weights, x):
    loss = sum((one.double() * weight).sum() for one, weight in zip(outputs, weights, strict=True))
    return torch.autograd.grad(loss, list(x.values()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_the_recurrence(shape, dtype):
    x = inputs(*shape, DTYPES[dtype], grad=True)
    found, expected = bk.ssd_scan(**x), written(x)
    assert found[0].dtype == x["x"].dtype
    assert found[1].dtype == x["h0"].dtype
    assert_close(found[0], expected[0], "recurrence")
    assert_close(found[1], expected[1], "recurrence")
    weights = [
        torch.randn_like(one).to(other.dtype).double() for one, other in zip(expected, found, strict=True)
    ]
    for name, one, other in zip(
        NAMES, gradients(found, weights, x), gradients(expected, weights, x), strict=True
    ):
        assert_close(one, other, "recurrence", dtype=dtype, what=name)


@pytest.mark.parametrize("chunk", [1, 3, 16, 64, 500])
def test_the_length_of_a_chunk_does_not_matter(chunk):
    x = inputs(2, 70, 4, 5, 2, 6, grad=True)
    found, expected = bk.ssd_scan(**x, chunk=chunk), bk.ssd_scan(**x)
    weights = [torch.randn_like(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    for one, other in zip(gradients(found, weights, x), gradients(expected, weights, x), strict=True):
        assert_close(one, other)


def test_gradcheck():
    x = inputs(2, 18, 2, 3, 1, 2, grad=True)
    assert torch.autograd.gradcheck(
        lambda *v: bk.ssd_scan(**dict(zip(NAMES, v, strict=True)), chunk=8), [*x.values()]
    )


def test_torch_knows_the_operator():
    x = inputs(2, 18, 2, 3, 1, 2, grad=True)
    torch.library.opcheck(torch.ops.bmojo.ssd_scan.default, (*x.values(), None, 16, True))
    x = inputs(1, 18, 2, 3, 1, 2, grad=True)
    x["h0"] = torch.randn(3, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    bounds = torch.tensor([0, 5, 5, 18])
    torch.library.opcheck(torch.ops.bmojo.ssd_scan.default, (*x.values(), bounds, 16, True))


@pytest.mark.slow
def test_compiles_and_exports_as_one_graph():
    x = inputs(2, 9, 2, 3, 1, 4, torch.float32, grad=True)

    def model(*v):
        y, last = bk.ssd_scan(**dict(zip(NAMES, v, strict=True)))
        return y.sum() + last.square().sum()

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
    x = inputs(2, 100, 2, 7, 1, 3, torch.float32, seed)
    y, last = bk.ssd_scan(**x)
    part = {name: x[name] for name in NAMES[:-1]}
    head, carried = bk.ssd_scan(**{n: v[:, :cut] for n, v in part.items()}, h0=x["h0"])
    tail, end = bk.ssd_scan(**{n: v[:, cut:] for n, v in part.items()}, h0=carried)
    assert_close(torch.cat([head, tail], 1), y)
    assert_close(end, last)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_give_the_full_pass(dtype):
    x = inputs(2, 70, 4, 5, 2, 6, DTYPES[dtype])
    D, z = torch.randn(4), torch.randn(2, 70, 4, 5).to(DTYPES[dtype])
    y, last = bk.ssd_scan(**x, D=D, z=z)
    state, outputs = x["h0"].clone(), []
    for t in range(70):
        now = [x[name][:, t] for name in NAMES[:-1]]
        before = state.clone()
        out, after = bk.ssd_step(*now, state, D, z[:, t])
        assert torch.equal(state, before)
        outputs.append(out)
        state = after
    assert_close(torch.stack(outputs, 1), y)
    assert_close(state, last)


def test_a_step_that_learns_is_differentiated():
    x = inputs(2, 1, 2, 3, 1, 2, grad=True)
    one = [x[name][:, 0] for name in NAMES[:-1]]
    y, last = bk.ssd_step(*one, x["h0"])
    expected = written(x)
    weights = [torch.randn_like(m) for m in expected]
    found = gradients((y.unsqueeze(1), last), weights, x)
    for a, b in zip(found, gradients(expected, weights, x), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_sequences_are_as_each_alone(dtype):
    lengths = [5, 0, 64, 1, 70]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    x = inputs(1, sum(lengths), 4, 5, 2, 6, DTYPES[dtype], grad=True)
    x["h0"] = inputs(len(lengths), 1, 4, 5, 2, 6, DTYPES[dtype], seed=3, grad=True)["h0"]
    found = bk.ssd_scan(**x, cu_seqlens=bounds)
    parts = [
        bk.ssd_scan(**{name: x[name][:, low:high] for name in NAMES[:-1]}, h0=x["h0"][i : i + 1])
        for i, (low, high) in enumerate(pairwise(bounds.tolist()))
    ]
    expected = torch.cat([y for y, _ in parts], 1), torch.cat([last for _, last in parts])
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    weights = [torch.randn_like(one).double() for one in expected]
    for name, one, other in zip(
        NAMES, gradients(found, weights, x), gradients(expected, weights, x), strict=True
    ):
        assert_close(one, other, what=name)
    naive = bk.ssd_scan(**x, cu_seqlens=bounds, backend="naive")
    assert_close(naive[0], found[0], "recurrence", dtype=dtype)
    assert_close(naive[1], found[1], "recurrence", dtype=dtype)


def test_skip_and_gate():
    x = inputs(2, 11, 2, 5, 1, 3)
    D, z = torch.randn(2, 5).double(), torch.randn(2, 11, 2, 5).double()
    expected = (written(x)[0] + D * x["x"]) * F.silu(z)
    assert_close(bk.ssd_scan(**x, D=D, z=z)[0], expected)


def test_projections_without_groups_are_shared_by_all_heads():
    x = inputs(2, 11, 4, 5, 1, 3)
    expected = bk.ssd_scan(**x)[0]
    flat = x | {name: x[name].squeeze(2) for name in "BC"}
    assert torch.equal(bk.ssd_scan(**flat)[0], expected)


def test_numbers_of_threads_do_not_matter():
    x = inputs(1, 200, 6, 32, 2, 32, torch.float32, grad=True)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, last = bk.ssd_scan(**x)
            found.append([y, last, *torch.autograd.grad(y.sum() + last.sum(), list(x.values()))])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, one, two in zip(("y", "last", *NAMES), found[0], other, strict=True):
            assert_close(two, one, what=name)


def test_layouts_do_not_matter_and_arguments_stay():
    x = inputs(2, 20, 3, 5, 1, 4)
    copies = {name: value.clone() for name, value in x.items()}
    expected = bk.ssd_scan(**x)
    turned = {name: value.transpose(0, -1).contiguous().transpose(0, -1) for name, value in x.items()}
    for one, other in zip(bk.ssd_scan(**turned), expected, strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(x[name], copies[name]) for name in NAMES)


def test_every_output_is_written(monkeypatch):
    """Memory that was not asked to be anything holds NaN here."""
    x = inputs(2, 70, 4, 5, 2, 6, grad=True)
    monkeypatch.setattr(torch_op, "empty_like", lambda m: torch.full(m.shape, torch.nan, dtype=m.dtype))
    found, expected = bk.ssd_scan(**x), written(x)
    weights = [torch.randn_like(one) for one in expected]
    assert_close(found[0], expected[0])
    for one, other in zip(gradients(found, weights, x), gradients(expected, weights, x), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("shape", [(2, 0, 3, 4, 1, 2), (0, 5, 3, 4, 1, 2)])
def test_nothing_in_nothing_out(shape):
    x = inputs(*shape, grad=True)
    y, last = bk.ssd_scan(**x)
    assert y.shape == shape[:4]
    assert torch.equal(last, x["h0"])
    (gradient,) = torch.autograd.grad(last.sum(), x["h0"])
    assert torch.equal(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shut", [-1e4, -torch.inf])
def test_gates_that_are_shut_or_open(dtype, shut):
    x = inputs(1, 130, 3, 5, 1, 4, DTYPES[dtype])
    x["log_decay"][:, :, 0] = shut
    x["log_decay"][:, :, 1] = 0
    x["log_decay"][:, ::7, 2] = shut  # small decays after one that forgets everything
    x = {name: value.requires_grad_() for name, value in x.items()}
    found, expected = bk.ssd_scan(**x), written(x)
    weights = [torch.randn_like(one) for one in expected]
    assert_close(found[0], expected[0], "recurrence")
    assert_close(found[1], expected[1], "recurrence")
    wanted = gradients(expected, weights, x)
    for name, one, other in zip(NAMES, gradients(found, weights, x), wanted, strict=True):
        assert torch.isfinite(one).all()
        if torch.isfinite(other).all():
            assert_close(one, other, "recurrence", what=name)


def test_autocast_takes_the_dtype_of_x():
    x = inputs(1, 20, 2, 5, 1, 4, torch.float32)
    x["x"] = x["x"].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, last = bk.ssd_scan(**x)
    expected, _ = bk.ssd_scan(**x | {name: x[name].bfloat16() for name in "BC"})
    assert y.dtype is torch.bfloat16
    assert last.dtype is torch.float32
    assert torch.equal(y, expected)


@pytest.mark.parametrize("name", NAMES[1:])
def test_shapes_that_do_not_fit_are_refused(name):
    x = inputs(2, 9, 4, 3, 2, 5)
    x[name] = x[name][..., :-1]
    with pytest.raises(ValueError, match="ssd_scan"):
        bk.ssd_scan(**x)


@pytest.mark.parametrize(
    "change",
    [
        {"cu_seqlens": torch.tensor([0, 5, 9])},
        {"chunk": 0},
        {"backend": "other"},
        {"B": torch.zeros(2, 9, 3, 5).double(), "C": torch.zeros(2, 9, 3, 5).double()},
        {"B": torch.zeros(2, 9, 2, 5)},
    ],
)
def test_what_does_not_fit_is_refused(change):
    with pytest.raises(ValueError, match="ssd_scan"):
        bk.ssd_scan(**inputs(2, 9, 4, 3, 2, 5) | change)


@pytest.mark.parametrize("bounds", [[0, 5, 8], [1, 9], [0, 6, 5, 9], [[0, 9]]])
def test_bounds_that_do_not_part_the_time_are_refused(bounds):
    x = inputs(1, 9, 2, 3, 1, 5)
    x.pop("h0")
    with pytest.raises(ValueError, match="cu_seqlens"):
        bk.ssd_scan(**x, cu_seqlens=torch.tensor(bounds))
