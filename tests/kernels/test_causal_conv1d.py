"""`causal_conv1d`: compiled kernels against the written convolution and torch's, pieces against the whole."""

from __future__ import annotations

import itertools

import bmojo_kernels as bk
import pytest
import torch
from bmojo_kernels.causal_conv1d.naive import causal_conv1d_naive
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.strategies import seeds
from tests.tolerances import assert_close

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def inputs(B, T, C, K, dtype=torch.float64, seed=0, entries=None):
    rng = torch.Generator().manual_seed(seed)
    shapes = (B, T, C), (C, K), (C,), (B if entries is None else entries, K - 1, C)
    return [torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype) for shape in shapes]


def written(x, weight, bias, initial, **options):
    """The naive convolution in float64, so that only one side rounds."""
    x, weight, bias, initial = (z.to(torch.float64) for z in (x, weight, bias, initial))
    return causal_conv1d_naive(x, weight, bias, initial_state=initial, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 2, 3, 4), (1, 63, 60, 4), (3, 64, 17, 2), (1, 65, 257, 3), (1, 1000, 5, 7)]
)
def test_kernel_is_the_convolution(shape, activation, dtype):
    x, weight, bias, initial = inputs(*shape, DTYPES[dtype])
    y, tail = bk.causal_conv1d(x, weight, bias, activation=activation, initial_state=initial)
    expected, expected_tail = written(x, weight, bias, initial, activation=activation)
    assert y.dtype == tail.dtype == x.dtype
    assert_close(y, expected, dtype=dtype)
    assert_close(tail, expected_tail, "bitwise")


def test_it_is_torchs_convolution_with_zeros_in_front():
    x, weight, bias, _ = inputs(2, 20, 6, 4)
    expected = F.conv1d(F.pad(x.mT, (3, 0)), weight.unsqueeze(1), bias, groups=6).mT
    assert_close(bk.causal_conv1d(x, weight, bias)[0], expected)
    assert_close(bk.causal_conv1d(x, weight)[0], expected - bias)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 2, 3, 4), (1, 300, 20, 4), (2, 257, 9, 3)])
def test_gradients_are_those_of_the_convolution(shape, activation, dtype):
    given = [x.requires_grad_() for x in inputs(*shape, DTYPES[dtype], seed=1)]
    y, tail = bk.causal_conv1d(*given[:3], activation=activation, initial_state=given[3])
    expected, expected_tail = written(*given, activation=activation)
    dy, dtail = torch.randn_like(y), torch.randn_like(tail)
    found = torch.autograd.grad((y, tail), given, (dy, dtail))
    wanted = torch.autograd.grad((expected, expected_tail), given, (dy.double(), dtail.double()))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == DTYPES[dtype]
        assert_close(one, other, "recurrence", dtype=dtype)


@pytest.mark.parametrize("activation", [None, "silu"])
def test_packed_sequences_give_what_each_gives_alone(activation):
    edges = [0, 5, 5, 6, 70]
    given = [x.requires_grad_() for x in inputs(1, 70, 3, 4, entries=4)]
    options = {"activation": activation, "initial_state": given[3], "cu_seqlens": torch.tensor(edges)}
    y, tail = bk.causal_conv1d(*given[:3], **options)
    alone = [
        bk.causal_conv1d(
            given[0][:, low:high], *given[1:3], activation=activation, initial_state=given[3][i : i + 1]
        )
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    expected = [torch.cat([part[i] for part in alone], 1 - i) for i in range(2)]
    assert_close(y, expected[0])
    assert_close(tail, expected[1], "bitwise")
    dy, dtail = torch.randn_like(y), torch.randn_like(tail)
    found = torch.autograd.grad((y, tail), given, (dy, dtail))
    for one, other in zip(found, torch.autograd.grad(expected, given, (dy, dtail)), strict=True):
        assert_close(one, other)
    naive = bk.causal_conv1d(*given[:3], **options, backend="naive")
    assert_close(y, naive[0])


@given(cut=st.integers(0, 20), taps=st.integers(1, 5), seed=seeds)
def test_pieces_give_the_whole_bit_for_bit(cut, taps, seed):
    x, weight, bias, initial = inputs(2, 20, 3, taps, torch.float32, seed)
    y, tail = bk.causal_conv1d(x, weight, bias, initial_state=initial, activation="silu")
    head, carried = bk.causal_conv1d(x[:, :cut], weight, bias, initial_state=initial, activation="silu")
    rest, end = bk.causal_conv1d(x[:, cut:], weight, bias, initial_state=carried, activation="silu")
    assert_close(torch.cat([head, rest], 1), y, "exact")
    assert_close(end, tail, "bitwise")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_steps_give_the_whole(taps, dtype):
    x, weight, bias, state = inputs(2, 9, 5, taps, DTYPES[dtype])
    y, tail = bk.causal_conv1d(x, weight, bias, initial_state=state, activation="silu")
    before, learned = state.clone(), weight.clone().requires_grad_()
    found = []
    for t in range(9):
        step, after = bk.causal_conv1d_step(x[:, t], weight, bias, state=state, activation="silu")
        slow, _ = bk.causal_conv1d_step(x[:, t], learned, bias, state=state, activation="silu")
        assert_close(slow, step, dtype=dtype)
        found, state = [*found, step], after
    assert_close(torch.stack(found, 1), y, dtype=dtype)
    assert_close(state, tail, "bitwise")
    assert torch.equal(before, inputs(2, 9, 5, taps, DTYPES[dtype])[3])


def test_gradcheck():
    x, weight, bias, initial = (z.requires_grad_() for z in inputs(2, 5, 3, 3))

    def convolve(x, weight, bias, initial):
        return bk.causal_conv1d(x, weight, bias, activation="silu", initial_state=initial)

    assert torch.autograd.gradcheck(convolve, (x, weight, bias, initial))


def test_torch_knows_the_operator():
    x, weight, bias, initial = (z.requires_grad_() for z in inputs(2, 7, 5, 4))
    operator = torch.ops.bmojo.causal_conv1d.default
    torch.library.opcheck(operator, (x, weight, bias, initial, None, True))
    torch.library.opcheck(operator, (x[:1], weight, None, None, torch.tensor([0, 3, 7]), False))


@pytest.mark.slow
def test_compiles_as_one_graph_and_is_exported():
    x, weight, bias, _ = (z.requires_grad_() for z in inputs(2, 9, 4, 4, torch.float32))

    class Model(torch.nn.Module):
        def forward(self, x, weight, bias):
            return bk.causal_conv1d(torch.tanh(x), weight, bias, activation="silu")[0].square().sum()

    model = Model()
    expected = torch.autograd.grad(model(x, weight, bias), (x, weight, bias))
    found = torch.autograd.grad(torch.compile(model, fullgraph=True)(x, weight, bias), (x, weight, bias))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)
    exported = torch.export.export(model, (x, weight, bias)).module()
    assert_close(exported(x, weight, bias), model(x, weight, bias))


def test_autocast_takes_the_inputs_dtype():
    x, weight, bias, _ = inputs(1, 6, 3, 4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = bk.causal_conv1d(x.bfloat16(), weight, bias)
    assert y.dtype == torch.bfloat16
    assert_close(y, written(x, weight, bias, torch.zeros(1, 3, 3))[0], dtype="bfloat16", scale=4.0)


def test_layouts_and_threads_do_not_matter():
    x, weight, bias, initial = inputs(2, 600, 70, 4, torch.float32)
    expected, _ = bk.causal_conv1d(x, weight, bias, initial_state=initial, activation="silu")
    turned = x.mT.contiguous().mT
    assert torch.equal(
        bk.causal_conv1d(turned, weight, bias, initial_state=initial, activation="silu")[0], expected
    )
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found = bk.causal_conv1d(x, weight, bias, initial_state=initial, activation="silu")[0]
            assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def test_extreme_sums_stay_finite():
    x = torch.tensor([[[-1e4], [1e4], [3e38], [-3e38], [0.0]]], requires_grad=True)
    y, _ = bk.causal_conv1d(x, torch.ones(1, 1), activation="silu")
    assert y.flatten()[:2].tolist() == [0.0, 1e4]
    assert torch.isfinite(y).all()
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("shape", [(2, 0, 3), (0, 4, 3), (2, 4, 0)])
def test_nothing_in_nothing_out(shape):
    x, weight, bias, initial = (z.requires_grad_() for z in inputs(*shape, 3))
    y, tail = bk.causal_conv1d(x, weight, bias, initial_state=initial)
    assert y.shape == shape
    assert tail.shape == (shape[0], 2, shape[2])
    gradient = torch.autograd.grad((y.sum() + tail.sum()), (x, weight, initial))
    assert all(torch.isfinite(g).all() for g in gradient)
    if shape[1] == 0:
        assert torch.equal(tail, initial)


@pytest.mark.parametrize(
    ("x", "weight", "options", "message"),
    [
        (torch.ones(2, 3), torch.ones(3, 2), {}, "x \\(2, 3\\)"),
        (torch.ones(1, 2, 3), torch.ones(4, 2), {}, "weight \\(4, 2\\)"),
        (torch.ones(1, 2, 3), torch.ones(3, 2), {"bias": torch.ones(2)}, "bias \\(2,\\)"),
        (torch.ones(1, 2, 3), torch.ones(3, 2), {"activation": "relu"}, "activation='relu'"),
        (torch.ones(1, 2, 3), torch.ones(3, 2), {"initial_state": torch.ones(1, 2, 3)}, "initial_state"),
        (torch.ones(2, 2, 3), torch.ones(3, 2), {"cu_seqlens": torch.tensor([0, 2])}, "cu_seqlens"),
        (torch.ones(1, 2, 3), torch.ones(3, 2), {"cu_seqlens": torch.tensor([0, 1])}, "cu_seqlens"),
        (torch.ones(1, 2, 3), torch.ones(3, 2).double(), {}, "float64"),
        (torch.ones(1, 2, 3).half(), torch.ones(3, 2).half(), {}, "float16"),
        (torch.ones(1, 2, 3), torch.ones(3, 2), {"backend": "fast"}, "backend='fast'"),
        (1.0, torch.ones(3, 2), {}, "float came"),
    ],
)
def test_what_does_not_fit_is_refused(x, weight, options, message):
    with pytest.raises(ValueError, match=message):
        bk.causal_conv1d(x, weight, **options)
