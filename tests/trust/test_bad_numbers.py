"""Every public function against bad numbers: the error it documents, or the right answer.

The calls are in `calls.py`, what is done to them in `spoiling.py`. Nothing else may come out: no other
exception, no hang, no value that is not finite where none is documented, no imaginary part dropped.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import bmojo_kernels as bk
import numpy as np
import pytest
import torch

import realization as rz
from tests.tolerances import assert_close
from tests.trust.calls import EXCEPTED, Call, kernel_calls, model_of, realization_calls, record_of
from tests.trust.spoiling import numbers_in, same_values, spoiled, within

CALLS = {"realization": realization_calls(), "bmojo_kernels": kernel_calls()}
FAMILY = {"realization": rz.RealizationError, "bmojo_kernels": ValueError}
LONG = {  # seconds each
    "bj", "covariances", "identify", "kalman_filter", "markov_parameters", "memory_curve", "okid", "pem",
    "window_memory", "detect_changes", "oe", "armax", "controllability_matrix", "observability_matrix",
    "kalman_smoother", "log_likelihood", "varx", "reconstruction_curve",
}  # fmt: skip
DOCUMENTED: dict[tuple[str, str], str] = {
    ("memory_curve", ".information"): "infinite where the state determines the input",
    ("memory_curve", ".fisher"): "infinite where no noise hides the input",
    ("estimate_order", ".ratios"): "infinite over a value of zero",
    ("detect_changes", ".statistic"): "NaN where a window is not full",
    ("kalman_filter", ".innovations"): "NaN where an output is missing",
    ("residual_tests", ".residuals"): "NaN where an output is missing",
    ("identify", ".candidates"): "NaN for the simulation of a record without inputs",
}
BEYOND = {  # results that no float64 holds
    ("uncertainty", "tiny outputs"): "the variance of a gain of 1e150 is 1e300 times that of the record",
    ("uncertainty", "tiny record"): "likewise",
    ("uncertainty", "raw, tiny"): "likewise",
}
UNTRIED = {
    ("window_memory", "length: 100000"): "a QR factorization a sample: minutes, as asked",
}


def names(package: str) -> list[Any]:
    return [
        pytest.param(name, call, id=name, marks=[pytest.mark.slow] * (name in LONG))
        for name, call in CALLS[package].items()
    ]


@pytest.mark.parametrize("module", [rz, bk], ids=["realization", "bmojo_kernels"])
def test_every_public_name_has_a_call_or_a_reason(module: ModuleType):
    called, excepted = set(CALLS[module.__name__]), set(EXCEPTED)
    assert set(module.__all__) <= called | excepted
    assert called <= set(module.__all__)
    assert not called & excepted
    assert all(len(reason) > 10 for reason in EXCEPTED.values())


def faults(package: str, name: str, call: Call) -> list[str]:
    found = []
    for what, bad in spoiled(call):
        if (name, what) in UNTRIED:
            continue
        try:
            with within(60), np.errstate(all="ignore"):
                result = bad()
        except FAMILY[package] as error:
            found += [] if len(str(error)) > 10 else [f"{what}: an error without words: {error!r}"]
            continue
        except Exception as error:
            found.append(f"{what}: {type(error).__name__}: {error}")
            continue
        if package == "realization" and (name, what.partition(": ")[2]) not in BEYOND:
            found += [
                f"{what}: {where} is not finite"
                for where, numbers in numbers_in(result)
                if not np.isfinite(numbers).all() and not any(
                    name == one and where.startswith(place) for one, place in DOCUMENTED
                )
            ]  # fmt: skip
    return found


def checked(package: str, name: str, call: Call) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        found = faults(package, name, call)
    assert not found, f"{name}\n" + "\n".join(found)


@pytest.mark.parametrize(("name", "call"), names("realization"))
def test_realization(name: str, call: Call):
    checked("realization", name, call)


@pytest.mark.parametrize(("name", "call"), names("bmojo_kernels"))
def test_kernels(name: str, call: Call):
    checked("bmojo_kernels", name, call)


def tensors_of(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each tensor of an argument with its place, and the argument with an array there."""
    if isinstance(value, torch.Tensor):
        yield name, value.numpy()
    elif isinstance(value, tuple):
        for k, part in enumerate(value):
            for place, spoilt in tensors_of(part, f"{name}[{k}]"):
                yield place, (*value[:k], spoilt, *value[k + 1 :])


@pytest.mark.parametrize(("name", "call"), kernel_calls().items())
def test_an_array_in_place_of_a_tensor_is_named(name: str, call: Call):
    for argument, value in call.arguments.items():
        for place, spoilt in tensors_of(value, argument):
            said = rf"{name}: {re.escape(place)} of type ndarray came; a tensor is needed, such as torch\.as"
            with pytest.raises(ValueError, match=said):
                call.changed(argument, spoilt)()


def test_where_the_first_is_a_tensor_the_others_are_too():
    x = torch.ones(1, 4, 2)
    with pytest.raises(ValueError, match=r"linear_scan: b of type ndarray came; a tensor is needed"):
        bk.linear_scan(x, x.numpy())
    with pytest.raises(ValueError, match=r"linear_step: state of type ndarray came; a tensor is needed"):
        bk.linear_step(x[0], x[0], x[0].numpy())


@pytest.mark.parametrize("package", CALLS)
def test_the_layout_of_an_array_does_not_matter(package: str):
    for name, call in CALLS[package].items():
        others = list(same_values(call))
        expected = list(numbers_in(call())) if others else []
        for what, other in others:
            for (where, plain), (_, found) in zip(expected, numbers_in(other()), strict=True):
                scale = max(1.0, float(np.abs(plain[np.isfinite(plain)]).max(initial=0.0)))
                assert_close(found, plain, "recurrence", scale=scale, what=f"{name}, {what}: {where}")


@pytest.mark.parametrize("exponent", [-498, 498])
def test_units_change_nothing_but_the_units(exponent: int):
    model = model_of(1, 1)
    data, factor = record_of(model), 2.0**exponent  # 1e150 and 1e-150
    outputs, inputs = rz.IOData(factor * data.y, data.u), rz.IOData(data.y, factor * data.inputs)
    for estimate in (rz.n4sid, rz.moesp, rz.cva, rz.ssarx, rz.pbsid):
        plain, louder, driven = (estimate(record, 2).model for record in (data, outputs, inputs))
        for scaled, by in ((louder, factor), (driven, 1 / factor)):
            assert_close(np.sort_complex(scaled.poles), np.sort_complex(plain.poles), "iterative")
            assert_close(scaled.impulse_response(8) / by, plain.impulse_response(8), "iterative")
    assert_close(rz.fit_percent(outputs.y, 0.9 * outputs.y), rz.fit_percent(data.y, 0.9 * data.y), "exact")


def test_a_bad_sample_of_a_recurrence_does_not_reach_back():
    a, b = np.full((1, 8, 2), 0.5), np.ones((1, 8, 2))
    spoilt = b.copy()
    spoilt[0, 5, 0] = np.nan
    h, _ = bk.linear_scan(a, spoilt)
    assert_close(h[:, :5], bk.linear_scan(a, b)[0][:, :5], "bitwise")
    assert_close(h[..., 1], bk.linear_scan(a, b)[0][..., 1], "bitwise")
    assert np.isnan(h[0, 5:, 0]).all()
