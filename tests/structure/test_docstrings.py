"""Every public name says what it does: shapes, parameters as in the signature, an example."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.source import PACKAGES, is_ours, public_names

HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}$", re.MULTILINE)
ARRAY = re.compile(r"ArrayLike|NDArray|ndarray|Tensor|\bArray\b")
SHAPE = re.compile(r"shape|\(\s*[A-Za-z0-9]\w*(\s*[-+*/,]\s*[A-Za-z0-9.]\w*)*\s*,?\s*\)|scalar")


def sections(docstring: str | None) -> dict[str, str]:
    """Text under each numpydoc heading; the part before the first one is under `""`."""
    pieces = HEADING.split(inspect.cleandoc(docstring or ""))
    return {"": pieces[0]} | dict(zip(pieces[1::2], pieces[2::2], strict=True))


def entries(text: str) -> dict[str, str]:
    """Name to entry of a Parameters or Attributes section; names that share an entry share its text."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in text.strip("\n").splitlines():
        if line and not line[0].isspace():
            names = [name.strip().lstrip("*") for name in line.split(" : ")[0].split(",")]
            found |= dict.fromkeys(names, "")
        found |= {name: found[name] + line + "\n" for name in names}
    return found


def parameters(thing: object) -> dict[str, inspect.Parameter]:
    found = inspect.signature(thing).parameters  # pyright: ignore[reportArgumentType]
    return {name: p for name, p in found.items() if name not in ("self", "cls") and not name.startswith("_")}


def methods(thing: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties that the project wrote for a class, inherited ones included."""
    for name in dir(thing):
        raw = inspect.getattr_static(thing, name)
        if isinstance(raw, property):
            raw = raw.fget
        elif isinstance(raw, functools.cached_property):
            raw = raw.func
        elif isinstance(raw, classmethod | staticmethod):
            raw = raw.__func__
        if not name.startswith("_") and inspect.isfunction(raw) and is_ours(raw):
            yield name, raw


def is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Exception)


def faults_of(name: str, thing: object) -> list[str]:
    """What the docstring of a public name lacks."""
    doc = sections(thing.__doc__)
    if not doc[""].strip():
        return [f"{name}: no docstring"]
    if isinstance(thing, ModuleType) or not callable(thing) or is_error(thing):
        return []
    faults = [] if ">>>" in doc.get("Examples", "") else [f"{name}: no example"]
    faults += parameter_faults(name, thing, required=not isinstance(thing, type))
    if isinstance(thing, type):
        for method, function in methods(thing):
            if not (function.__doc__ or "").strip():
                faults.append(f"{name}.{method}: no docstring")
            elif not isinstance(inspect.getattr_static(thing, method), property):
                faults += parameter_faults(f"{name}.{method}", function, required=False)
    return faults


def parameter_faults(name: str, thing: object, *, required: bool) -> list[str]:
    """Parameters that are documented and not there, there and not documented, or arrays without a shape."""
    doc = sections(thing.__doc__)
    taken = parameters(thing)
    if "Parameters" not in doc:
        if isinstance(thing, type) and "Attributes" in doc:  # a result: its fields are attributes
            missing = set(taken) - set(entries(doc["Attributes"]))
            return [f"{name}: fields without a word: {sorted(missing)}"] if missing else []
        return [f"{name}: no Parameters for {sorted(taken)}"] if required and taken else []
    documented = entries(doc["Parameters"])
    faults = []
    if set(documented) != set(taken):
        faults.append(f"{name}: documents {sorted(documented)}, takes {sorted(taken)}")
    for parameter in taken.values():
        annotation, entry = str(parameter.annotation), documented.get(parameter.name, "")
        if ARRAY.search(annotation) and "IOData" not in annotation and entry and required:
            faults += [] if SHAPE.search(entry) else [f"{name}: no shape for {parameter.name}"]
    return faults


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_explain_themselves(package):
    faults = [fault for name, thing in public_names(package) for fault in faults_of(name, thing)]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_things_that_are_there_once(package):
    names = [name for name, _ in public_names(package) if name.count(".") == 1]
    assert len(set(names)) == len(names) > 0


class Sample:
    """A thing.

    Examples
    --------
    >>> 1
    1
    """

    def method(self, x):
        return x


class TestTheChecksSeeWhatTheyShould:
    """A check that cannot fail is none."""

    @staticmethod
    def documented(docstring, annotation="ArrayLike"):
        def function(x, order=1):
            return x

        function.__doc__ = docstring
        function.__annotations__ = {"x": annotation}
        return faults_of("f", function)

    GOOD = """Do it.

    Parameters
    ----------
    x : array_like, shape (T, p)
    order : int

    Examples
    --------
    >>> 1
    1
    """

    def test_a_good_one_passes(self):
        assert self.documented(self.GOOD) == []

    @pytest.mark.parametrize("docstring", [None, "", "   \n"])
    def test_no_docstring(self, docstring):
        assert self.documented(docstring) == ["f: no docstring"]

    def test_no_example(self):
        assert self.documented(self.GOOD.replace(">>> 1", "1")) == ["f: no example"]

    def test_no_parameters(self):
        assert "f: no Parameters for ['order', 'x']" in self.documented("Do it.")

    def test_a_wrong_name(self):
        assert self.documented(self.GOOD.replace("order :", "n :")) == [
            "f: documents ['n', 'x'], takes ['order', 'x']"
        ]

    def test_no_shape(self):
        assert self.documented(self.GOOD.replace(", shape (T, p)", "")) == ["f: no shape for x"]
        assert self.documented(self.GOOD.replace(", shape (T, p)", ""), "int") == []

    def test_shared_entries(self):
        assert (
            self.documented(
                self.GOOD.replace("x : array_like, shape (T, p)\n    order : int", "x, order : (N,)")
            )
            == []
        )

    def test_a_method_without_a_word(self):
        Sample.method.__module__ = "realization.sample"
        assert faults_of("Sample", Sample) == ["Sample.method: no docstring"]


def test_headings_stand_over_their_dashes():
    torn = re.compile(r"^\s*\w[\w ]* -{4,}$", re.MULTILINE)
    found = [
        path.name
        for folder in PACKAGES.values()
        for path in folder.rglob("*.py")
        if torn.search(path.read_text("utf-8"))
    ]
    assert not found
