"""What the operations share: which backend runs, on how many threads, and where results are put."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import config, get_num_threads

if TYPE_CHECKING:
    import torch

__all__ = [
    "as_numpy",
    "backend_for",
    "choose",
    "empty_like",
    "interpreting",
    "is_tensor",
    "task_width",
    "thread_count",
]

REAL = ("float32", "float64", "bfloat16")
COMPLEX = ("complex64", "complex128")

# What each operation has beside its naive definition, and the dtypes that this takes. On a GPU float64 is no
# faster than on the processor next to it; there it only ranks.
KERNELS: dict[str, dict[str, tuple[str, ...]]] = {
    "causal_conv1d": {"numba": REAL, "triton": ("float32", "bfloat16")},
    "gated_delta_scan": {"numba": REAL, "triton": ("float32", "bfloat16")},
    "gated_kalman_scan": {"numba": REAL, "triton": ("float32", "bfloat16")},
    "innovation_topk": {"numba": REAL, "triton": REAL},
    "linear_scan": {"numba": REAL + COMPLEX, "triton": ("float32", "bfloat16", "complex64")},
    "lti_scan": {"numba": ("float64",)},
    "memory_attention": {"numba": REAL, "triton": ("float32", "bfloat16")},
    "selective_scan": {"numba": REAL, "triton": ("float32", "bfloat16")},
    "ssd_scan": {"numba": REAL, "triton": ("float32", "bfloat16")},
}
HAS_TRITON = find_spec("triton") is not None


def backend_for(operation: str, *, device: Any = "cpu", dtype: Any = "float32") -> str:
    """What runs an operation on a device: "numba" on the CPU, "triton" on a GPU.

    Parameters
    ----------
    operation : str
        Name of a function of this package.
    device : str or torch.device
    dtype : str or dtype
        Of NumPy or torch, or its name.

    Returns
    -------
    backend : {"numba", "triton"}

    Raises
    ------
    ValueError
        If nothing compiled runs it there; the message says what does.

    Examples
    --------
    >>> import bmojo_kernels as bk
    >>> bk.backend_for("linear_scan", device="cpu", dtype="bfloat16")
    'numba'
    """
    return choose(operation, str(device).split(":")[0], dtype=dtype)


def choose(operation: str, device_type: str, backend: str | None = None, dtype: Any = None) -> str:
    """The backend that runs an operation on a device, the one asked for or the compiled one.

    Parameters
    ----------
    operation : str
    device_type : str
        `tensor.device.type`; "cpu" for arrays.
    backend : {None, "naive", "numba", "triton"}
        None takes the compiled kernel of the device; there is never a slow one in its place.
    dtype : str or dtype, optional
        Checked where it is given.

    Returns
    -------
    backend : {"naive", "numba", "triton"}

    Raises
    ------
    ValueError
        If there is no such operation or backend, or it does not run on the device or for the dtype.
    """
    if operation not in KERNELS:
        raise ValueError(f"{operation!r} came; the operations are {', '.join(KERNELS)}.")
    if backend not in (None, "naive", "numba", "triton"):
        raise ValueError(
            f"{operation}: backend={backend!r} came; None, 'naive', 'numba' or 'triton' is needed."
        )
    if backend == "naive":
        return "naive"
    chosen = backend or ("numba" if device_type == "cpu" else "triton")
    if chosen == "numba" and device_type != "cpu":
        raise ValueError(
            f"{operation}: backend='numba' runs on the CPU, the tensors are on {device_type!r}. Move them "
            "with .cpu(), or leave backend out."
        )
    if chosen not in KERNELS[operation]:
        raise ValueError(
            f"{operation}: no {chosen} kernel ({device_type!r} asked for it); there are "
            f"{', '.join([*KERNELS[operation], 'naive'])}. Move the tensors with .cpu(), or say "
            "backend='naive'."
        )
    if chosen == "triton":
        _check_triton(operation, device_type)
    kinds, name = KERNELS[operation][chosen], "" if dtype is None else _dtype_name(dtype)
    if name and name not in kinds:
        raise ValueError(f"{operation}: {name} came; the {chosen} kernel takes {', '.join(kinds)}.")
    return chosen


def _check_triton(operation: str, device_type: str) -> None:
    if not HAS_TRITON:
        raise ValueError(
            f"{operation}: the tensors on {device_type!r} need Triton, which is not installed: "
            "pip install 'realization[gpu]', or move them with .cpu()."
        )
    if device_type == "cpu" and not interpreting():
        raise ValueError(
            f"{operation}: backend='triton' needs tensors on a GPU. On the CPU Triton only interprets, "
            "slowly, for tests: set TRITON_INTERPRET=1 before the first import; or leave backend out."
        )


def interpreting() -> bool:
    """Whether Triton's kernels are interpreted: on CPU tensors, one program after the other."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def _dtype_name(dtype: Any) -> str:
    """`float32` of torch.float32, numpy.float32, dtype("float32") or its name."""
    if isinstance(dtype, type):
        return np.dtype(dtype).name
    return str(dtype).removeprefix("torch.")


def is_tensor(x: Any) -> bool:
    """Whether `x` is a torch tensor; torch is not loaded to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def thread_count(work: int) -> int:
    """Threads for so many elementary steps: torch's number where torch is loaded, else Numba's.

    A few thousand steps are done before a second thread has woken up.
    """
    if work < 1 << 15:
        return 1
    torch = sys.modules.get("torch")
    wanted = get_num_threads() if torch is None else torch.get_num_threads()
    return max(1, min(wanted, config.NUMBA_NUM_THREADS))  # pyright: ignore[reportAttributeAccessIssue]


def task_width(batch: int, channels: int, threads: int, widest: int | None = None) -> int:
    """Channels that one task takes, so that each thread has one; whole cache lines of float32."""
    pieces, line = -(-threads // max(batch, 1)), 16
    wanted = -(-channels // pieces) if widest is None else min(widest, -(-channels // pieces))
    return max(line, -(-wanted // line) * line)


def as_numpy(x: torch.Tensor) -> np.ndarray:
    """The tensor's own memory, contiguous, a parameter's copied; a bfloat16 tensor as its bits (uint16)."""
    import torch

    if isinstance(
        x, torch.nn.Parameter
    ):  # `fully_shard` takes its memory away, which an array would hold fast
        x = x.clone()
    x = x.detach().contiguous()
    return (x.view(torch.uint16) if x.dtype is torch.bfloat16 else x).numpy()


def empty_like(x: torch.Tensor) -> torch.Tensor:
    """Uninitialized contiguous memory of a tensor's shape and dtype.

    NumPy asks the system for large pages and torch's own allocator does not: at tens of megabytes the first
    touch of a result would otherwise take longer than its computation.
    """
    import torch

    if x.dtype is torch.bfloat16:
        return torch.from_numpy(np.empty(tuple(x.shape), np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.empty(tuple(x.shape), as_numpy(x[:0]).dtype))
