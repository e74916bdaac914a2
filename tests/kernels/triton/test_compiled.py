"""Every configuration that is shipped, compiled for three chips: in registers, within shared memory."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="Triton is there on Linux only")

from bmojo_kernels import backends
from bmojo_kernels.triton_support import recording

from tests.kernels.triton.aot import SHARED, compiled

CHIPS = ("sm_80", "sm_90", "gfx942")
# Kernels without a product of matrices, beside all those of the first operations.
NO_PRODUCTS = {"_pass", "_add_up", "_solve", "_weigh", "_logs_back"}
ELEMENTWISE = {"linear_scan", "selective_scan", "causal_conv1d", "innovation_topk"}
# Bytes: a pointer or two, put away around a loop. What spills inside of one is more.
AROUND_LOOPS = 16
# On an H200 tiles that spill a little are faster than smaller ones.
SPILLING = {("memory_attention", "sm_90", name) for name in ("_near_back", "_kept_back", "_fetched_back")}
SPILLING.add(("selective_scan", "sm_90", "_back"))
OPERATIONS = [name for name, kinds in backends.KERNELS.items() if "triton" in kinds]
# The largest kernels take a compiler its time: for two of the chips they are among the long tests.
LARGE = {"memory_attention", "gated_delta_scan", "gated_kalman_scan"}
GRID = [
    pytest.param(name, chip, marks=[pytest.mark.slow] if name in LARGE and chip != "sm_90" else [])
    for name in OPERATIONS
    for chip in CHIPS
]


def blank(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def linear_scan(kernels, dtype, width):
    a = blank(2, 8192, 4 * width, dtype=dtype)
    h0 = blank(2, 4 * width, dtype=torch.float32 if dtype is torch.bfloat16 else dtype)
    kernels.forward(a, a, h0, None)
    kernels.backward(a, a, h0, a, h0, None)


def selective_scan(kernels, dtype, width):
    u, B = blank(2, 512, 16 * width, dtype=dtype), blank(2, 512, 16, dtype=dtype)
    A, h0 = blank(16 * width, 16), blank(2, 16 * width, 16)
    arguments = (u, u, A, B, B, h0)
    y, last, states = kernels.forward(*arguments, True)
    kernels.backward(*arguments[:-1], states, y, last)


def causal_conv1d(kernels, dtype, width):
    x, weight = blank(2, 512, 16 * width, dtype=dtype), blank(16 * width, 4, dtype=dtype)
    inputs = (x, weight, weight[:, 0], blank(2, 3, 16 * width, dtype=dtype), None, True)
    y, tail = kernels.forward(*inputs)
    kernels.backward(*inputs, y, tail)


def innovation_topk(kernels, dtype, width):
    for places, chunk in ((64, 64), (4 * width, 256), (1024, 1024)):
        kernels.forward(blank(2, 8192, dtype=dtype), None, places, 1024, chunk, "top", None, 0)


def ssd_scan(kernels, dtype, width):
    x, B = blank(2, 512, 8, width, dtype=dtype), blank(2, 512, 1, 128, dtype=dtype)
    log_decay, h0 = blank(2, 512, 8), blank(2, 8, width, 128)
    chunk = 32 if dtype is torch.float32 else 64
    y, last, states = kernels.forward(x, log_decay, B, B, h0, None, chunk, True)
    kernels.backward(x, log_decay, B, B, states, None, chunk, y, last)


def gated_delta_scan(kernels, dtype, width):
    q, g, h0 = blank(2, 512, 8, width, dtype=dtype), blank(2, 512, 8), blank(2, 8, width, width)
    o, errors, last, states = kernels.forward(q, q, q, g, g, h0, None, 1.0, True)
    kernels.backward(q, q, q, g, g, errors, states, None, 1.0, o, errors, last)


def gated_kalman_scan(kernels, dtype, width):
    k, g, r, h0 = (
        blank(2, 512, 8, width, dtype=dtype),
        blank(2, 512, 8),
        blank(2, 512, 8, 2, width),
        blank(2, 8, width, width),
    )
    x, last, copies = kernels.forward(k, g, r, h0, None, 0.02, 30, True)
    kernels.backward(k, g, r, x, copies, None, 0.02, 30, x, last)


def memory_attention(kernels, dtype, width, chunk=64):
    q, k, few = (blank(2, n, h, width, dtype=dtype) for n, h in ((1024, 8), (1024, 4), (32, 4)))
    index = blank(2, 1024 // chunk, 64, dtype=torch.int64)
    inputs = (
        q, k, k, None, k, k, None, None, None, blank(2, 1024, dtype=dtype), None, few, few, blank(2, 32),
        index, None, None, 256, chunk, 0, 0.125,
    )  # fmt: skip
    out, lse = kernels.forward(*inputs)
    kernels.backward(*inputs, out, lse, out, lse)


def check(operation, chip, dtype, width, **options):
    kernels = import_module(f"bmojo_kernels.{operation}.triton_gpu")
    with recording(chip) as launches:
        getattr(sys.modules[__name__], operation)(kernels, dtype, width, **options)
    assert launches
    for launch in launches:
        found = compiled(launch, chip)
        fastest = (operation, chip, found.name) in SPILLING and dtype is torch.bfloat16
        assert found.stack <= (512 if fastest else AROUND_LOOPS), found
        assert found.shared <= SHARED[chip], found
        expected = operation not in ELEMENTWISE and found.name not in NO_PRODUCTS
        assert found.products == expected, found


@pytest.mark.parametrize(("operation", "chip"), GRID)
def test_in_bfloat16(operation, chip):
    check(operation, chip, torch.bfloat16, 64)


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_in_float32(operation, width, chip):
    check(operation, chip, torch.float32, width)


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(
    ("operation", "width"),
    [
        ("ssd_scan", 128),
        ("gated_delta_scan", 128),
        ("gated_kalman_scan", 128),
        ("memory_attention", 128),
        ("memory_attention", 256),
    ],
)
def test_wide_heads(operation, width, chip):
    check(operation, chip, torch.bfloat16, width)


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
def test_small_sets_of_queries(chip):
    check("memory_attention", chip, torch.bfloat16, 64, chunk=4)


@pytest.mark.slow
@pytest.mark.parametrize("chip", CHIPS)
def test_complex_scan(chip):
    check("linear_scan", chip, torch.complex64, 64)


def test_a_kernel_that_spills_is_found(monkeypatch):
    kernels = import_module("bmojo_kernels.linear_scan.triton_gpu")
    monkeypatch.setattr(kernels, "STEPS", 32)
    with pytest.raises(AssertionError, match="stack="):
        check("linear_scan", "sm_90", torch.float32, 64)
