"""Which backend runs: the compiled one of the device, the one asked for, or a clear refusal."""

from __future__ import annotations

import subprocess
import sys

import bmojo_kernels as bk
import numpy as np
import pytest
import torch
from bmojo_kernels import backends


@pytest.mark.parametrize("operation", backends.KERNELS)
def test_the_cpu_has_a_compiled_kernel_for_everything(operation):
    assert bk.backend_for(operation, dtype="float64") == "numba"
    assert backends.choose(operation, "cpu", "naive") == "naive"


@pytest.mark.parametrize("dtype", ["float32", torch.float32, np.float32, np.dtype("float32")])
def test_devices_and_dtypes_by_name_or_object(dtype):
    assert bk.backend_for("linear_scan", device=torch.device("cpu"), dtype=dtype) == "numba"
    assert bk.backend_for("linear_scan", device="cpu:0", dtype=dtype) == "numba"


def test_a_gpu_gets_triton_or_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(backends.KERNELS, "linear_scan", {"triton": ("float32",)})
    monkeypatch.setattr(backends, "HAS_TRITON", True)
    assert bk.backend_for("linear_scan", device="cuda:1") == "triton"
    with pytest.raises(ValueError, match=r"float64 came.*float32"):
        bk.backend_for("linear_scan", device="cuda", dtype=torch.float64)
    monkeypatch.setattr(backends, "HAS_TRITON", False)
    with pytest.raises(ValueError, match=r"pip install 'realization\[gpu\]'"):
        bk.backend_for("linear_scan", device="cuda")


def test_triton_on_the_cpu_only_where_it_interprets(monkeypatch):
    monkeypatch.setitem(backends.KERNELS, "linear_scan", {"numba": ("float32",), "triton": ("float32",)})
    monkeypatch.setattr(backends, "HAS_TRITON", True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        backends.choose("linear_scan", "cpu", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backends.choose("linear_scan", "cpu", "triton") == "triton"
    assert backends.choose("linear_scan", "cpu") == "numba"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no_scan", "cpu"), "the operations are"),
        (("linear_scan", "cpu", "cuda"), "'naive', 'numba' or 'triton'"),
        (("linear_scan", "cuda", "numba"), r"\.cpu\(\)"),
        (("lti_scan", "cuda"), "no triton kernel"),
        (("linear_scan", "cpu", None, "int64"), "int64 came"),
    ],
)
def test_refusals_say_what_there_is(arguments, message):
    with pytest.raises(ValueError, match=message):
        backends.choose(*arguments)


def test_the_pool_leaves_the_number_of_threads_of_torch_as_it_is():
    """In a process of its own: the first call starts Numba's pool, which may share OpenMP with torch."""
    code = (
        "import torch; torch.set_num_threads(1); import bmojo_kernels as bk; x = torch.rand(2, 4096, 64); "
        "bk.linear_scan(x, x); bk.linear_scan(x, x); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
