"""`selective_scan`: compiled kernels against the written recurrence, for values and for every gradient."""

from __future__ import annotations

from itertools import pairwise

import bmojo_kernels as bk
import pytest
import torch
from bmojo_kernels.selective_scan.naive import selective_scan_naive
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.strategies import seeds
from tests.tolerances import assert_close

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
SHAPES = [(1, 1, 1, 1), (2, 63, 60, 5), (1, 16, 17, 3), (3, 33, 300, 2)]
NAMES = ("u", "delta", "A", "B", "C", "h0")


def inputs(batch, length, channels, states, dtype=torch.float64, seed=0, grad=False):
    rng = torch.Generator().manual_seed(seed)
    wide = torch.float32 if dtype is torch.bfloat16 else dtype

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=rng)

    x = {
        "u": normal(batch, length, channels).to(dtype),
        "delta": (0.5 * normal(batch, length, channels).abs()).to(dtype),
        "A": (-normal(channels, states).abs()).to(wide),
        "B": normal(batch, length, states).to(dtype),
        "C": normal(batch, length, states).to(dtype),
        "h0": normal(batch, channels, states).to(wide),
    }
    return {name: value.requires_grad_(grad) for name, value in x.items()}


def written(x):
    """The naive recurrence in float64, so that only one side rounds."""
    return selective_scan_naive(*(x[name].double() for name in NAMES))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_is_the_recurrence(shape, dtype):
    x = inputs(*shape, DTYPES[dtype])
    y, last = bk.selective_scan(**x)
    expected, expected_last = written(x)
    assert y.dtype == x["u"].dtype
    assert_close(y, expected, "recurrence")
    assert_close(last, expected_last, "recurrence")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_the_recurrence(shape, dtype):
    x = inputs(*shape, DTYPES[dtype], seed=1, grad=True)
    y, last = bk.selective_scan(**x)
    expected, expected_last = written(x)
    weight, weight_last = torch.randn_like(expected).to(y.dtype).double(), torch.randn_like(expected_last)
    found = torch.autograd.grad((y * weight).sum() + (last * weight_last).sum(), list(x.values()))
    wanted = torch.autograd.grad(
        (expected * weight).sum() + (expected_last * weight_last).sum(), list(x.values())
    )
    for name, one, other in zip(NAMES, found, wanted, strict=True):
        assert_close(one, other, "recurrence", dtype=dtype, what=name)


def test_gradcheck():
    x = inputs(2, 18, 3, 2, grad=True)
    assert torch.autograd.gradcheck(
        lambda *v: bk.selective_scan(**dict(zip(NAMES, v, strict=True))), [*x.values()]
    )


def test_torch_knows_the_operator():
    x = inputs(2, 18, 3, 2, grad=True)
    torch.library.opcheck(torch.ops.bmojo.selective_scan.default, (*x.values(), True))
    x = inputs(1, 18, 3, 2, grad=True)
    x["h0"] = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    bounds = torch.tensor([0, 5, 5, 18])
    torch.library.opcheck(torch.ops.bmojo.selective_scan.default, (*x.values(), True, bounds))


@pytest.mark.slow
def test_compiles_as_one_graph():
    x = inputs(2, 9, 4, 3, torch.float32, grad=True)

    def model(*v):
        y, last = bk.selective_scan(**dict(zip(NAMES, v, strict=True)), delta_softplus=True)
        return y.sum() + last.square().sum()

    found = torch.autograd.grad(torch.compile(model, fullgraph=True)(*x.values()), list(x.values()))
    for one, other in zip(found, torch.autograd.grad(model(*x.values()), list(x.values())), strict=True):
        assert_close(one, other, "recurrence")


def test_skip_gate_bias_and_softplus():
    x = inputs(2, 11, 5, 3)
    D, z, bias = torch.randn(5).double(), torch.randn(2, 11, 5).double(), torch.randn(5).double()
    y, last = bk.selective_scan(**x, D=D, z=z, delta_bias=bias, delta_softplus=True)
    expected, expected_last = written(x | {"delta": F.softplus(x["delta"] + bias)})
    assert_close(y, (expected + D * x["u"]) * F.silu(z))
    assert_close(last, expected_last)


@given(cut=st.integers(0, 40), seed=seeds)
def test_chunks_give_the_full_pass_bit_for_bit(cut, seed):
    x = inputs(2, 40, 7, 3, torch.float32, seed)
    y, last = bk.selective_scan(**x)
    part = {name: x[name] for name in ("u", "delta", "B", "C")}
    head, carried = bk.selective_scan(**{n: v[:, :cut] for n, v in part.items()}, A=x["A"], h0=x["h0"])
    tail, end = bk.selective_scan(**{n: v[:, cut:] for n, v in part.items()}, A=x["A"], h0=carried)
    assert torch.equal(torch.cat([head, tail], 1), y)
    assert torch.equal(end, last)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_are_the_scan(dtype):
    x = inputs(2, 19, 7, 3, DTYPES[dtype])
    D, bias, z = (torch.randn(*shape).to(DTYPES[dtype]) for shape in ((7,), (7,), (2, 19, 7)))
    options = {"D": D, "delta_bias": bias, "delta_softplus": True}
    y, last = bk.selective_scan(**x, z=z, **options)
    state, outputs = x["h0"], []
    for t in range(19):
        before = state.clone()
        now = (x["u"][:, t], x["delta"][:, t], x["A"], x["B"][:, t], x["C"][:, t])
        out, after = bk.selective_step(*now, state, z=z[:, t], **options)
        assert torch.equal(state, before)
        outputs.append(out)
        state = after
    assert_close(torch.stack(outputs, 1), y, "recurrence", dtype=dtype)
    assert_close(state, last, "recurrence", dtype=dtype)


def test_a_step_that_learns_is_differentiated():
    x = inputs(2, 1, 3, 4, grad=True)
    one = [x[name][:, 0] if name != "A" else x[name] for name in NAMES[:-1]]
    y, last = bk.selective_step(*one, x["h0"])
    expected = written(x)
    weights = [torch.randn_like(m) for m in expected]
    found = torch.autograd.grad((y.unsqueeze(1), last), list(x.values()), weights)
    for a, b in zip(found, torch.autograd.grad(expected, list(x.values()), weights), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_sequences_are_as_each_alone(dtype):
    lengths = [5, 0, 16, 1, 40]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    x = inputs(1, sum(lengths), 7, 3, DTYPES[dtype], grad=True)
    x["h0"] = inputs(len(lengths), 1, 7, 3, DTYPES[dtype], seed=3, grad=True)["h0"]
    found = bk.selective_scan(**x, cu_seqlens=bounds)
    parts = [
        bk.selective_scan(
            **{name: x[name][:, low:high] for name in ("u", "delta", "B", "C")},
            A=x["A"],
            h0=x["h0"][i : i + 1],
        )
        for i, (low, high) in enumerate(pairwise(bounds.tolist()))
    ]
    expected = torch.cat([y for y, _ in parts], 1), torch.cat([last for _, last in parts])
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    weights = [torch.randn_like(one) for one in expected]

    def gradients(outputs):
        loss = sum((one * weight).sum() for one, weight in zip(outputs, weights, strict=True))
        return torch.autograd.grad(loss, list(x.values()))

    for name, one, other in zip(NAMES, gradients(found), gradients(expected), strict=True):
        assert_close(one, other, what=name)
    naive = bk.selective_scan(**x, cu_seqlens=bounds, backend="naive")
    assert_close(naive[0], found[0], "recurrence", dtype=dtype)
    assert_close(naive[1], found[1], "recurrence", dtype=dtype)


def test_numbers_of_threads_do_not_matter():
    x = inputs(1, 50, 200, 8, torch.float32, grad=True)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, _ = bk.selective_scan(**x)
            found.append([y, *torch.autograd.grad(y.sum(), list(x.values()))])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, one, two in zip(("y", *NAMES), found[0], other, strict=True):
            assert_close(two, one, what=name)


def test_without_a_state_before_it_begins_at_zero():
    x = inputs(2, 9, 4, 3)
    h0 = x.pop("h0")
    y, last = bk.selective_scan(**x)
    expected, expected_last = bk.selective_scan(**x, h0=torch.zeros_like(h0))
    assert torch.equal(y, expected)
    assert torch.equal(last, expected_last)


def test_nothing_in_nothing_out():
    x = inputs(2, 0, 4, 3, grad=True)
    y, last = bk.selective_scan(**x)
    assert y.shape == (2, 0, 4)
    assert torch.equal(last, x["h0"])
    (gradient,) = torch.autograd.grad(last.sum(), x["h0"])
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_what_does_not_fade_stays_as_it_is():
    x = inputs(1, 2000, 3, 2, torch.float32)
    _, last = bk.selective_scan(**x | {"A": torch.zeros(3, 2), "u": torch.zeros_like(x["u"])})
    assert torch.equal(last, x["h0"])


def test_steep_rates_fade_to_zero_and_nothing_overflows():
    x = inputs(1, 20, 3, 2, torch.float32)
    x["A"] = x["A"] - 1e6
    x["delta"] = x["delta"] + 1
    y, _ = bk.selective_scan(**x)
    drive = x["delta"] * x["u"]
    assert_close(y, drive * (x["B"] * x["C"]).sum(-1, keepdim=True), "recurrence")


@pytest.mark.parametrize("name", ["delta", "A", "B", "C", "h0"])
def test_shapes_that_do_not_fit_are_refused(name):
    x = inputs(2, 9, 4, 3)
    x[name] = x[name][..., :-1]
    with pytest.raises(ValueError, match="selective_scan"):
        bk.selective_scan(**x)


def test_mixed_dtypes_are_refused():
    x = inputs(2, 9, 4, 3)
    with pytest.raises(ValueError, match="one dtype"):
        bk.selective_scan(**x | {"B": x["B"].float()})
