"""Every error and warning names the page of the documentation that explains it, and the page is there."""

from __future__ import annotations

import ast
import importlib
import pickle
import re
import traceback

import pytest

from bmojo.cli import main
from bmojo.training import ConfigurationError, read_configuration
from bmojo.training.errors import DivergedError
from realization.errors import PAGES, DataError, page_of
from tests.source import ROOT, modules

DOCS = ROOT / "docs"
CONVENTIONS = (DOCS / "conventions.md").read_text(encoding="utf-8").splitlines()


def problems() -> dict[str, type]:
    """Every public class that derives from an error or a warning, by its name."""
    found = {}
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
            if bases and bases[0].endswith(("Error", "Warning", "Exception")) and node.name[0] != "_":
                found[node.name] = getattr(importlib.import_module(module), node.name)
    return found


PROBLEMS = problems()


def test_every_public_error_has_a_page_of_its_own():
    assert set(PAGES) == set(PROBLEMS)
    assert len(PROBLEMS) > 15


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_page_is_there_and_the_conventions_link_to_it(name):
    page = ROOT / page_of(PROBLEMS[name])
    assert page.is_file()
    row = next(
        line
        for line in (DOCS / "conventions.md").read_text().splitlines()
        if re.match(rf"\|.*`{name}`", line)
    )
    target = re.search(r"\((.*)\)", row)
    assert page == DOCS / ("conventions.md" if target is None else target[1])


def test_a_traceback_names_the_page_below_the_message():
    with pytest.raises(ConfigurationError) as caught:
        read_configuration({"task": {"kind": "needle"}, "train": {"stepz": 3}})
    told = traceback.format_exception_only(caught.value)
    assert told[-1] == "See docs/training.md.\n"
    assert "did you mean `steps`?" in told[-2]
    assert str(caught.value).endswith("did you mean `steps`?")
    assert DivergedError(3, float("inf"), 0.1).__notes__ == ["See docs/training.md."]


def test_an_error_that_travels_names_it_once():
    assert pickle.loads(pickle.dumps(DataError("gone"))).__notes__ == ["See docs/data.md."]


def test_the_command_says_it_in_its_line(capsys, tmp_path):
    assert main(["explore", str(tmp_path / "none.csv"), "--output", "y", "--no-open"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith(" (see docs/data.md)")
