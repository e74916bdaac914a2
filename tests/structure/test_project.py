"""The project's own files: Makefile, packaging, layout."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib

from tests.source import PACKAGES, ROOT


def makefile():
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def targets():
    """Targets that a person calls: those declared as commands."""
    (line,) = re.findall(r"^\.PHONY:(.*)$", makefile(), re.MULTILINE)
    return set(line.split())


def test_every_rule_without_a_file_is_declared():
    rules = set(re.findall(r"^([a-z][a-z-]*):", makefile(), re.MULTILINE))
    assert rules == targets()


def test_help_lists_every_target():
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    result = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    described = dict(re.findall(r"^\s*make ([a-z-]+)\s+(\S.*)$", result.stdout, re.MULTILINE))
    assert set(described) == targets()


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_name_and_version_are_readable():
    assert project()["name"] == "realization"
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", project()["version"])


def test_the_base_is_light_and_the_extras_are_there():
    base = {re.split(r"[<>=\[ ]", requirement)[0] for requirement in project()["dependencies"]}
    assert not base & {"torch", "matplotlib", "pandas", "statsmodels"}
    assert {"bmojo", "demo", "docs", "notebooks", "plot", "test"} <= set(project()["optional-dependencies"])


def test_packages_are_typed():
    assert all((folder / "py.typed").is_file() for folder in PACKAGES.values())


def test_test_folders_are_no_packages():
    assert list((ROOT / "tests").rglob("__init__.py")) == []
