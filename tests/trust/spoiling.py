"""What can be wrong with an argument, by its kind, and what a result holds."""

from __future__ import annotations

import dataclasses
import inspect
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

import realization as rz
from tests.trust.calls import Call

__all__ = ["numbers_in", "same_values", "spoiled", "within"]

BIG = 1e150


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in what takes longer: a hang is a failure as well."""

    def late(*_: object) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def spoiled(call: Call) -> Iterator[tuple[str, Call]]:
    """The call with one argument spoiled, and what was done to which."""
    for name, value in call.arguments.items():
        for what, bad in _bad(value, _takes_arrays(call, name)):
            yield f"{name}: {what}", call.changed(name, bad)


def same_values(call: Call) -> Iterator[tuple[str, Call]]:
    """The call with an array laid out otherwise in memory: read-only, strided, in Fortran's order."""
    for name, value in call.arguments.items():
        for what, other in _relaid(value):
            yield f"{name}: {what}", call.changed(name, other)


def _takes_arrays(call: Call, name: str) -> bool:
    annotation = inspect.signature(call.function).parameters.get(name)
    return annotation is not None and "ArrayLike" in str(annotation.annotation)


def _bad(value: Any, arrays: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, np.ndarray):
        yield from _bad_arrays(value)
    elif _is_tensor(value):
        yield from _bad_tensors(value)
    elif isinstance(value, rz.IOData):
        yield from _bad_records(value)
        if arrays:
            yield from ((f"raw, {what}", bad) for what, bad in _bad_arrays(np.array(value.y)))
    elif isinstance(value, rz.StateSpace):
        yield from _bad_models(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield from ((repr(bad), bad) for bad in (0, -1, 2.5, float("nan"), 10**5))
    elif isinstance(value, float):
        yield from ((repr(bad), bad) for bad in (0.0, -1.0, float("nan"), float("inf"), BIG, 1 / BIG))
    elif isinstance(value, tuple | list) and value and not isinstance(value[0], str):
        yield "empty", type(value)()
        for bad in (-1, float("nan"), float("inf")):
            yield f"{bad} within", type(value)([bad, *value[1:]])


def _bad_arrays(x: Any) -> Iterator[tuple[str, Any]]:
    for bad in (np.nan, np.inf):
        spoilt = x.astype(complex if np.iscomplexobj(x) else float)
        spoilt.flat[x.size // 2] = bad
        yield f"{bad} within", spoilt
    yield "empty", x[:0]
    yield "nothing", np.zeros(0)
    yield "a number", 1.0
    yield "one sample", x[:1]
    yield "two samples", x[:2]
    yield "one dimension more", x[None, None]
    yield "one dimension less", x[0]
    yield "text", x.astype(str)
    yield "objects", np.full(x.shape, None, dtype=object)
    yield "a complex part", x + 1j
    yield "whole numbers", np.round(4 * x.real).astype(np.int64)
    yield "truth values", x.real > 0
    yield "half precision", x.real.astype(np.float16)
    yield "zeros", 0 * x
    yield "huge", x * BIG
    yield "tiny", x / BIG


def _bad_tensors(x: Any) -> Iterator[tuple[str, Any]]:
    import torch

    yield "empty", x[:0]
    if x.ndim > 1:
        yield "no steps", x[:, :0]
        yield "one step", x[:, :1]
    yield "one dimension more", x[None]
    yield "one dimension less", x[0]
    yield "one column more", torch.cat([x, x[..., :1]], -1)
    for kind in (torch.int64, torch.bool, torch.float16, torch.complex128, torch.float32):
        yield str(kind), x.to(kind)
    yield "an array", x.numpy()


def _bad_records(data: rz.IOData) -> Iterator[tuple[str, Any]]:
    y, u = np.array(data.y), data.u
    yield "one sample", data[:1]
    yield "two samples", data[:2]
    yield "ten samples", data[:10]
    yield "constant outputs", rz.IOData(np.ones_like(y), u)
    yield "zeros", rz.IOData(0 * y, None if u is None else 0 * u)
    yield "outputs twice", rz.IOData(np.hstack([y, y]), u)
    yield "missing samples", rz.IOData(np.where(np.arange(len(y))[:, None] % 7, y, np.nan), u, missing=True)
    yield "only missing samples", rz.IOData(np.full_like(y, np.nan), u, missing=True)
    yield "two experiments", rz.IOData(y, u, starts=(0, len(y) // 2))
    for scale, word in ((BIG, "huge"), (1 / BIG, "tiny")):
        yield f"{word} outputs", rz.IOData(y * scale, u)
        if u is not None:
            yield f"{word} inputs", rz.IOData(y, u * scale)
            yield f"{word} record", rz.IOData(y * scale, u * scale)
    if u is not None:
        yield "no inputs", rz.IOData(y)
        yield "an input twice", rz.IOData(y, np.hstack([u, u]))
        yield "constant inputs", rz.IOData(y, np.ones_like(u))


def _bad_models(model: rz.StateSpace) -> Iterator[tuple[str, Any]]:
    n, m, p = model.n_states, model.n_inputs, model.n_outputs
    yield "no states", _like(model, A=np.zeros((0, 0)), B=np.zeros((0, m)), C=np.zeros((p, 0)))
    yield "no memory", _like(model, A=np.zeros((n, n)))
    yield "zeros", _like(model, A=0 * model.A, B=0 * model.B, C=0 * model.C)
    yield "an integrator", _like(model, A=np.eye(n))
    yield "unstable", _like(model, A=2 * np.eye(n))
    yield "continuous time", _like(model, dt=0.0)
    for scale, word in ((BIG, "huge"), (1 / BIG, "tiny")):
        yield f"{word} A", _like(model, A=model.A * scale)
        yield f"{word} B", _like(model, B=model.B * scale)
        yield f"{word} C", _like(model, C=model.C * scale)
        yield f"{word} state", _like(model, B=model.B * scale, C=model.C / scale)


def _like(model: rz.StateSpace, **changed: Any) -> rz.StateSpace:
    """The model with other matrices; its noise gain fits the order."""
    names = list(type(model).__dataclass_fields__)
    taken = {name: getattr(model, name) for name in names} | changed
    if "K" in taken and len(taken["A"]) == 0:
        taken["K"] = np.zeros((0, model.n_outputs))
    return type(model)(**taken)


def _relaid(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, np.ndarray) and value.size:
        still = value.copy()
        still.setflags(write=False)
        yield "read-only", still
        wide = np.repeat(value, 2, axis=-1)[..., ::2]
        yield "strided", wide
        yield "backwards in memory", np.ascontiguousarray(value[::-1])[::-1]
        yield "Fortran's order", np.asfortranarray(value)
    elif _is_tensor(value):
        tensor: Any = value
        yield "strided", tensor.repeat_interleave(2, -1)[..., ::2]
        yield "transposed in memory", tensor.transpose(0, -1).contiguous().transpose(0, -1)


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch"


def numbers_in(result: Any, where: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Every number of a result with its place: arrays, fields, entries."""
    if isinstance(result, rz.IOData):
        return  # checked when it was made; NaN stands for missing samples there
    if _is_tensor(result):
        result = result.detach().double().numpy() if not result.is_complex() else result.numpy()
    if isinstance(result, np.ndarray | float | complex | np.number):
        array = np.asarray(result)
        if array.dtype.kind in "fc":
            yield where, array
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            if not field.name.startswith("_"):
                yield from numbers_in(getattr(result, field.name), f"{where}.{field.name}")
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from numbers_in(value, f"{where}[{key}]")
    elif isinstance(result, tuple | list):
        for number, value in enumerate(result):
            yield from numbers_in(value, f"{where}[{number}]")
