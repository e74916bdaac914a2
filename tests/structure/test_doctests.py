"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import importlib.util

import numpy as np
import pytest

from tests.source import PACKAGES, modules

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
NEEDS_FILES = ("load_data(", "load_benchmark_model(")
# Kernels for a device are written in a language that is installed with the device's tools only; models for
# transformers need it.
NEEDED = {"triton_gpu": "triton", "hf": "transformers"}


def importable(module):
    needed = {NEEDED[part] for part in module.split(".") if part in NEEDED}
    return all(importlib.util.find_spec(name) is not None for name in needed)


MODULES = [name for name in modules() if importable(name)]


def examples(module, *, on_files):
    """Doctests of a module that load measured files, or those that do not."""
    found = doctest.DocTestFinder().find(importlib.import_module(module))
    for test in found:
        needs = any(call in example.source for example in test.examples for call in NEEDS_FILES)
        if test.examples and needs == on_files:
            yield test


def failures(tests):
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    with np.printoptions(precision=8, suppress=False, threshold=1000, linewidth=100, floatmode="maxprec"):
        for test in tests:
            runner.run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("module", MODULES)
def test_examples(module):
    report = failures(examples(module, on_files=False))
    assert not report, report


@pytest.mark.parametrize("module", ["realization.signals.datasets"])
def test_examples_on_measured_data(module, measured_data):
    report = failures(examples(module, on_files=True))
    assert not report, report


def test_no_other_module_needs_files():
    others = [m for m in MODULES if m != "realization.signals.datasets"]
    assert [m for m in others if list(examples(m, on_files=True))] == []


def test_there_are_examples_and_a_wrong_one_is_reported():
    assert all(any(list(examples(m, on_files=False)) for m in modules(p) if m in MODULES) for p in PACKAGES)
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert "Got:\n    2" in failures([wrong])
