"""Tasks of a kernel on several threads: each is done once, whatever the arguments, and after a fork too."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from bmojo_kernels.tasks import run_tasks, task_count


@numba.njit(nogil=True)
def mark(done, offset, first, last):
    for i in range(first, last):
        done[i] += offset + i


@numba.njit(nogil=True)
def gather(pairs, scale, negative, out, first, last):
    for i in range(first, last):
        total = pairs[0][0][i] * scale + pairs[1][0][i]
        out[i] = -total if negative else total


@numba.njit(nogil=True)
def refuse(done, first, last):
    for i in range(first, last):
        if done[i] > 0:
            raise ValueError("no place is left")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_each_task_is_done_once(threads, count):
    done = np.zeros(60, np.int64)
    run_tasks(mark, [done, 7], count, threads)
    np.testing.assert_array_equal(done, np.where(np.arange(60) < count, np.arange(60) + 7, 0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arguments_of_every_kind_arrive(dtype):
    a, b = np.random.default_rng(0).standard_normal((2, 1, 40)).astype(dtype)
    out = np.empty(40, dtype)
    for negative in (False, True):
        run_tasks(gather, [(a, b), a.dtype.type(2), negative, out], 40, 2)
        np.testing.assert_allclose(out, (-1) ** negative * (2 * a[0] + b[0]), rtol=1e-6)


def test_arrays_of_another_order_have_machine_code_of_their_own():
    wide = np.zeros((2, 40), np.int64)
    for done in (wide[0], wide.T[:, 1], np.zeros(80, np.int64)[::2]):
        run_tasks(mark, [done, 1], 40, 2)
        np.testing.assert_array_equal(done, np.arange(40) + 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_task_is_raised(threads):
    with pytest.raises(ValueError, match="no place"):
        run_tasks(refuse, [np.ones(9, np.int64)], 9, threads)
    run_tasks(refuse, [np.zeros(9, np.int64)], 9, threads)


def test_two_callers_at_once_do_not_meet():
    with ThreadPoolExecutor(2) as pool:
        rows = np.zeros((40, 1000), np.int64)
        list(pool.map(lambda row: run_tasks(mark, [row, 1], 1000, 2), rows))
    np.testing.assert_array_equal(rows, np.broadcast_to(np.arange(1000) + 1, rows.shape))


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize("loaded", ["numpy", "torch"])
def test_a_forked_process_goes_on(loaded):
    code = f"""
import os, numpy as np, {loaded}, bmojo_kernels as bk
x = np.random.default_rng(0).random((2, 4096, 64), dtype=np.float32)
if {loaded == "torch"}:
    torch.ones(300, 300) @ torch.ones(300, 300)
wanted = bk.linear_scan(x, x)[0]
child = os.fork()
if child == 0:
    os._exit(0 if (bk.linear_scan(x, x)[0] == wanted).all() else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300
    )
    assert run.stdout.strip() == "0", run.stderr


def test_tasks_of_sequences_and_channels():
    assert [task_count(3, 100, width) for width in (32, 100, 200)] == [12, 3, 3]
