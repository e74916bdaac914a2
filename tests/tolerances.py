"""The one table of tolerances, and the comparisons that use it.

An error is held against `rtol * |expected| + atol * scale`, entry by entry; `scale` is the largest entry
expected (1 where all are zero), because rounding in linear algebra is relative to the norm, not to the entry.

Kinds
-----
bitwise      the same numbers: storage, reordering, frozen sets
exact        one identity of exact arithmetic, evaluated in two ways: rounding only
recurrence   the same over a long or growing recurrence: rounding adds up
iterative    a fixed point or factorization whose condition enters: Riccati, gramian, eigenvalues
optimum      a minimizer found by search
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["TOLERANCES", "Tolerance", "assert_close", "assert_same_system", "tolerance"]


@dataclass(frozen=True)
class Tolerance:
    """Entry-wise relative tolerance, and absolute tolerance in units of the largest entry."""

    rtol: float
    atol: float


TOLERANCES: dict[str, dict[str, Tolerance]] = {
    "bitwise": {dtype: Tolerance(0.0, 0.0) for dtype in ("float64", "float32", "float16", "bfloat16")},
    "exact": {
        "float64": Tolerance(1e-12, 1e-12),
        "float32": Tolerance(1e-5, 1e-5),
        "float16": Tolerance(4e-3, 4e-3),
        "bfloat16": Tolerance(2e-2, 2e-2),
    },
    "recurrence": {
        "float64": Tolerance(1e-11, 1e-11),
        "float32": Tolerance(5e-5, 5e-5),
        "float16": Tolerance(1e-2, 1e-2),
        "bfloat16": Tolerance(4e-2, 4e-2),
    },
    "iterative": {
        "float64": Tolerance(1e-8, 1e-9),
        "float32": Tolerance(1e-3, 1e-3),
    },
    "optimum": {
        "float64": Tolerance(1e-5, 1e-6),
        "float32": Tolerance(1e-2, 1e-2),
    },
}


def tolerance(kind: str = "exact", dtype: Any = "float64") -> Tolerance:
    """The entry of the table for a kind of comparison and a dtype of NumPy or torch, or its name."""
    return TOLERANCES[kind][_dtype_name(dtype)]


def assert_close(
    actual: Any,
    expected: Any,
    kind: str = "exact",
    *,
    dtype: Any = None,
    scale: float | None = None,
    what: str = "",
) -> None:
    """Compare two arrays or tensors; the dtype is the one of `actual` unless it is given."""
    bound = tolerance(kind, _dtype_of(actual) if dtype is None else dtype)
    got, wanted = _numpy(actual), _numpy(expected)
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, expected {wanted.shape}"
    largest = np.abs(wanted).max(initial=0.0)
    scale = (float(largest) or 1.0) if scale is None else scale
    np.testing.assert_allclose(got, wanted, rtol=bound.rtol, atol=bound.atol * scale, err_msg=what)


def assert_same_system(actual: Any, expected: Any, count: int | None = None, kind: str = "exact") -> None:
    """Two models have the same Markov parameters, and so have their noise paths where both have one."""
    assert actual.dt == expected.dt
    length = actual.n_states + expected.n_states + 2 if count is None else count
    paths = [(actual, expected)]
    if hasattr(actual, "noise") and hasattr(expected, "noise"):
        paths.append((actual.noise, expected.noise))
    for got, wanted in paths:
        assert_close(_markov(got, length), _markov(wanted, length), kind, what="Markov parameters")


def _markov(model: Any, count: int) -> np.ndarray:
    h, reached = [model.D], model.B
    for _ in range(count - 1):
        h.append(model.C @ reached)
        reached = model.A @ reached
    return np.array(h)


def _dtype_name(dtype: Any) -> str:
    name = str(dtype).removeprefix("torch.") if not isinstance(dtype, type) else np.dtype(dtype).name
    return {"complex128": "float64", "complex64": "float32"}.get(name, name)


def _dtype_of(values: Any) -> str:
    name = _dtype_name(values.dtype) if hasattr(values, "dtype") else "float64"
    return name if name in TOLERANCES["bitwise"] else "float64"


def _numpy(values: Any) -> np.ndarray:
    """As float64 or complex128; tensors come off their device and graph."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.numpy() if values.is_complex() else values.double().numpy()
    array = np.asarray(values)
    return array.astype(complex if np.iscomplexobj(array) else float)
