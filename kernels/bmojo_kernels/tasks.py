"""Tasks of a compiled kernel on several threads: one compilation, Numba's own pool.

A loop of Numba's that is parallel compiles all that it calls three times over. So a kernel here is a plain
function that takes a range of its tasks, and the parallel loop calls it by its address, which needs no copy.
Numba's pool is torch's own OpenMP where both use one, so that the threads that torch has just left waiting
take up the tasks; a pool beside it would have to compete with them for the cores.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import config, get_num_threads, prange, set_num_threads, types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["run_tasks", "task_count"]

_addresses: dict[tuple[Any, ...], int] = {}
_pool = {"begun": False, "left behind": False}


def _after_fork() -> None:
    _pool["left behind"] |= _pool["begun"] or "torch" in sys.modules


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def task_count(batch: int, channels: int, width: int) -> int:
    """Tasks of `width` channels for so many sequences or runs of rows."""
    return batch * -(-channels // width)


def run_tasks(kernel: Callable[..., None], arguments: Sequence[Any], count: int, threads: int) -> None:
    """Call `kernel(*arguments, first, last)` so that all tasks `0 ... count - 1` are done.

    In a process forked from one with a pool, torch's or Numba's, on one thread: OpenMP does not outlive that.
    """
    threads = min(threads, count, config.NUMBA_NUM_THREADS)  # pyright: ignore[reportAttributeAccessIssue]
    if threads <= 1 or _pool["left behind"]:
        kernel(*arguments, 0, count)
        return
    _pool["begun"] = True
    torch = sys.modules.get("torch")
    torchs = 0 if torch is None else torch.get_num_threads()  # first: Numba's pool changes it when it begins
    before = get_num_threads()
    set_num_threads(threads)
    try:
        _spread(_address(kernel, arguments), count, *arguments)
    except SystemError as told:  # a task's error, of which the loop knows only that there is one
        raise told.__cause__ or told from None
    finally:
        set_num_threads(before)
        # Numba's pool and torch's may be one and the same OpenMP, and its number of threads too.
        if torch is not None and torch.get_num_threads() != torchs:
            torch.set_num_threads(torchs)


def _address(kernel: Any, arguments: Sequence[Any]) -> int:
    """Where the machine code of a kernel for such arguments lies; compiled if there is none."""
    place = (kernel, *map(_kind, arguments))
    if place not in _addresses:
        signature = (*(numba.typeof(x) for x in arguments), types.int64, types.int64)
        kernel.compile(signature)
        compiled = kernel.overloads[signature]
        _addresses[place] = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    return _addresses[place]


def _kind(x: Any) -> Any:
    """What decides for which machine code an argument is, quicker than Numba's type of it."""
    if isinstance(x, np.ndarray):
        return x.dtype.str, x.ndim, x.flags.num
    return tuple(map(_kind, x)) if isinstance(x, tuple) else type(x)


@intrinsic
def _lay_down(typing, arguments):
    """Pointer to a copy of the tuple in the frame of the caller: to a parallel loop a pointer is a number."""

    def generate(context, builder, signature, values):
        laid = context.data_model_manager[arguments].as_data(builder, values[0])
        return cgutils.alloca_once_value(builder, laid)

    return types.CPointer(arguments)(arguments), generate


@intrinsic
def _call(typing, address, arguments, first, last):
    """Call the compiled function at an address with the arguments that lie there and a range of tasks."""
    kinds = (*arguments.dtype.types, types.int64, types.int64)

    def generate(context, builder, signature, values):
        place, given, *ends = values
        packed = context.data_model_manager[arguments.dtype].load_from_data_pointer(builder, given)
        unpacked = [builder.extract_value(packed, i) for i in range(len(arguments.dtype.types))]
        unpacked += [
            context.cast(builder, end, kind, types.int64)
            for end, kind in zip(ends, signature.args[2:], strict=True)
        ]
        shape = context.call_conv.get_function_type(types.none, kinds)
        function = builder.inttoptr(place, ir.PointerType(shape))
        status, _ = context.call_conv.call_function(builder, function, types.none, kinds, unpacked)
        with cgutils.if_unlikely(builder, status.is_error):
            context.call_conv.return_status_propagate(builder, status)
        return context.get_dummy_value()

    return types.none(address, arguments, first, last), generate


@numba.njit(cache=True, parallel=True)
def _spread(address, count, *arguments):
    given = _lay_down(arguments)  # pyright: ignore[reportCallIssue]
    for task in prange(count):
        _call(address, given, task, task + 1)  # pyright: ignore[reportCallIssue]
