"""`linear_scan`: compiled kernels against the written recurrence, for values and for every gradient."""

from __future__ import annotations

from itertools import pairwise

import bmojo_kernels as bk
import numba
import numpy as np
import pytest
import torch
from bmojo_kernels.linear_scan.naive import linear_scan_naive
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import seeds
from tests.tolerances import assert_close

REAL = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
DTYPES = REAL | {"complex64": torch.complex64, "complex128": torch.complex128}


def inputs(B, T, C, dtype=torch.float64, seed=0, grad=False):
    rng = torch.Generator().manual_seed(seed)
    state = torch.float32 if dtype is torch.bfloat16 else dtype
    wide = torch.complex128 if dtype.is_complex else torch.float64
    a = torch.rand(B, T, C, dtype=wide, generator=rng).to(dtype)
    b = torch.randn(B, T, C, dtype=wide, generator=rng).to(dtype)
    h0 = torch.randn(B, C, dtype=wide, generator=rng).to(state)
    return tuple(x.requires_grad_(grad) for x in (a, b, h0))


def written(a, b, h0):
    """The naive recurrence in float64, so that only one side rounds."""
    wide = torch.complex128 if a.is_complex() else torch.float64
    states, last = linear_scan_naive(a.to(wide), b.to(wide), h0.to(wide))
    return torch.stack(states, 1) if states else a.to(wide), last


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 63, 60), (3, 1, 5), (1, 130, 17), (2, 4, 257)])
def test_kernel_is_the_recurrence(shape, dtype):
    a, b, h0 = inputs(*shape, DTYPES[dtype])
    h, last = bk.linear_scan(a, b, h0)
    expected, expected_last = written(a, b, h0)
    assert h.dtype == a.dtype
    assert last.dtype == h0.dtype
    assert_close(h, expected, "recurrence", dtype=dtype)
    assert_close(last, expected_last, "recurrence", dtype="float32" if dtype == "bfloat16" else dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 63, 60), (3, 2, 5)])
def test_gradients_are_those_of_the_recurrence(shape, dtype):
    a, b, h0 = inputs(*shape, DTYPES[dtype], seed=1, grad=True)
    h, last = bk.linear_scan(a, b, h0)
    expected, expected_last = written(a, b, h0)
    weight, weight_last = torch.randn_like(expected), torch.randn_like(expected_last)
    weight = weight.to(h.dtype).to(expected.dtype)

    def loss(h, last):
        total = (h.to(weight.dtype) * weight).sum() + (last.to(weight.dtype) * weight_last).sum()
        return total.real if total.is_complex() else total

    found = torch.autograd.grad(loss(h, last), (a, b, h0))
    for one, other in zip(found, torch.autograd.grad(loss(expected, expected_last), (a, b, h0)), strict=True):
        assert_close(one, other.to(expected.dtype), "recurrence", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradcheck(dtype):
    assert torch.autograd.gradcheck(bk.linear_scan, inputs(2, 5, 3, dtype, grad=True))


def test_torch_knows_the_operator():
    a, b, h0 = inputs(2, 7, 5, grad=True)
    torch.library.opcheck(torch.ops.bmojo.linear_scan.default, (a, b, h0, None))
    a, b, _ = inputs(1, 7, 5, grad=True)
    h0 = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.bmojo.linear_scan.default, (a, b, h0, torch.tensor([0, 3, 3, 7])))


@pytest.mark.slow
def test_compiles_as_one_graph():
    a, b, _ = inputs(2, 9, 4, torch.float32, grad=True)

    def model(a, b):
        h, last = bk.linear_scan(torch.sigmoid(a), 2 * b)
        return h.sum() + last.square().sum()

    found = torch.autograd.grad(torch.compile(model, fullgraph=True)(a, b), (a, b))
    for one, other in zip(found, torch.autograd.grad(model(a, b), (a, b)), strict=True):
        assert_close(one, other, "recurrence", dtype="float32")


@given(cut=st.integers(0, 20), seed=seeds)
def test_chunks_give_the_full_pass_bit_for_bit(cut, seed):
    a, b, h0 = inputs(2, 20, 3, torch.float32, seed)
    h, last = bk.linear_scan(a, b, h0)
    head, carried = bk.linear_scan(a[:, :cut], b[:, :cut], h0)
    tail, end = bk.linear_scan(a[:, cut:], b[:, cut:], carried)
    assert_close(torch.cat([head, tail], 1).numpy(), h.numpy(), "bitwise")
    assert_close(end.numpy(), last.numpy(), "bitwise")


def test_chunks_of_bfloat16_lose_nothing_between_them():
    a, b, h0 = inputs(1, 64, 8, torch.bfloat16)
    h, last = bk.linear_scan(a, b, h0)
    _, carried = bk.linear_scan(a[:, :31], b[:, :31], h0)
    tail, end = bk.linear_scan(a[:, 31:], b[:, 31:], carried)
    assert torch.equal(tail, h[:, 31:])
    assert torch.equal(end, last)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_sequences_are_as_each_alone(dtype):
    lengths = [5, 0, 16, 1, 40]
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    a, b, _ = inputs(1, sum(lengths), 6, DTYPES[dtype], grad=True)
    h0 = inputs(len(lengths), 1, 6, DTYPES[dtype], seed=3, grad=True)[2]
    found = bk.linear_scan(a, b, h0, cu_seqlens=bounds)
    parts = [
        bk.linear_scan(a[:, low:high], b[:, low:high], h0[i : i + 1])
        for i, (low, high) in enumerate(pairwise(bounds.tolist()))
    ]
    expected = torch.cat([h for h, _ in parts], 1), torch.cat([last for _, last in parts])
    weights = [torch.randn_like(one) for one in expected]

    def gradients(outputs):
        loss = sum((one * weight).real.sum() for one, weight in zip(outputs, weights, strict=True))
        return torch.autograd.grad(loss, (a, b, h0))

    naive = bk.linear_scan(a, b, h0, cu_seqlens=bounds, backend="naive")
    for one, other, third in zip(found, expected, naive, strict=True):
        assert torch.equal(one, other)
        assert_close(third, one, "recurrence", dtype=dtype)
    for one, other in zip(gradients(found), gradients(expected), strict=True):
        assert_close(one, other)
    if dtype != "bfloat16":
        arrays = [m.detach().numpy() for m in (a, b, h0)]
        for backend in (None, "naive"):
            h, last = bk.linear_scan(*arrays, cu_seqlens=bounds.numpy(), backend=backend)
            assert_close(h, found[0].detach().numpy(), "recurrence", dtype=dtype)
            assert_close(last, found[1].detach().numpy(), "recurrence", dtype=dtype)


def test_bfloat16_rounds_as_torch_does():
    values = torch.cat([torch.linspace(-3, 3, 4001), torch.tensor([1e-40, -0.0, 3e38])])
    b = values.reshape(1, 1, -1)
    _, exact = bk.linear_scan(torch.zeros_like(b), b)
    ones = torch.ones(1, 1, len(values), dtype=torch.bfloat16)
    h, _ = bk.linear_scan(ones, torch.zeros_like(ones), exact)
    assert torch.equal(h.flatten(), values.bfloat16())


def test_numbers_of_threads_do_not_matter():
    a, b, h0 = inputs(1, 300, 200, torch.float32)
    before, pool = torch.get_num_threads(), numba.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(bk.linear_scan(a, b, h0)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert numba.get_num_threads() == pool


def test_layouts_do_not_matter_and_arguments_stay():
    a, b, h0 = inputs(2, 9, 4)
    copies = [x.clone() for x in (a, b, h0)]
    expected = bk.linear_scan(a, b, h0)[0]
    turned = [x.mT.contiguous().mT for x in (a, b)]
    assert torch.equal(bk.linear_scan(*turned, h0.expand(2, 4))[0], expected)
    assert all(torch.equal(x, y) for x, y in zip((a, b, h0), copies, strict=True))


def test_arrays_and_tensors_agree():
    a, b, h0 = inputs(2, 9, 4)
    h, last = bk.linear_scan(a.numpy(), b.numpy(), h0.numpy())
    assert isinstance(h, np.ndarray)
    assert_close(h, bk.linear_scan(a, b, h0)[0].numpy(), "bitwise")
    assert_close(last, h[:, -1], "bitwise")
    a[:, 0] = 0
    assert_close(bk.linear_scan(a.numpy(), b.numpy())[0], bk.linear_scan(a, b, h0)[0].numpy(), "bitwise")


def test_nothing_in_nothing_out():
    a, b, h0 = inputs(2, 0, 3)
    h, last = bk.linear_scan(a, b, h0)
    assert h.shape == (2, 0, 3)
    assert torch.equal(last, h0)
    assert bk.linear_scan(np.zeros((0, 4, 2)), np.zeros((0, 4, 2)))[0].shape == (0, 4, 2)
    assert bk.linear_scan(np.zeros((2, 4, 0)), np.zeros((2, 4, 0)))[1].shape == (2, 0)


def test_unit_decay_is_a_cumulative_sum():
    _, b, _ = inputs(2, 500, 3)
    assert_close(bk.linear_scan(torch.ones_like(b), b)[0].numpy(), b.cumsum(1).numpy(), "recurrence")


@pytest.mark.parametrize(
    ("a", "b", "h0"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), None),
        (np.ones((1, 2, 3)), np.ones((1, 2, 4)), None),
        (np.ones((1, 2, 3)), np.ones((1, 2, 3)), np.ones((2, 3))),
        (np.ones((1, 2, 3)), np.ones((1, 2, 3), np.float32), None),
        (np.ones((1, 2, 3), int), np.ones((1, 2, 3), int), None),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(3)),
        (torch.ones(1, 2, 3), torch.ones(1, 2, 3).double(), None),
    ],
)
def test_what_does_not_fit_is_refused(a, b, h0):
    with pytest.raises(ValueError, match="linear_scan"):
        bk.linear_scan(a, b, h0)


@pytest.mark.parametrize("dtype", ["float32", "complex128", "bfloat16"])
def test_steps_are_the_scan(dtype):
    a, b = (torch.randn(2, 9, 3).to(getattr(torch, dtype)) for _ in range(2))
    state = torch.zeros(2, 3, dtype=torch.float32 if dtype == "bfloat16" else a.dtype)
    h, last = bk.linear_scan(a, b)
    for t in range(9):
        found, state = bk.linear_step(a[:, t], b[:, t], state)
        assert_close(found, h[:, t], "recurrence", dtype=dtype)
    assert_close(state, last, "recurrence")
    arrays = bk.linear_step(*(np.ones((2, 3)) for _ in range(3)))
    assert_close(arrays[0], np.full((2, 3), 2.0))
    with pytest.raises(ValueError, match="linear_step"):
        bk.linear_step(a, b, state)
