"""The packages as files and as public names, for tests of structure."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

__all__ = ["PACKAGES", "ROOT", "Import", "imports_of", "is_ours", "modules", "public_names", "run_python"]

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "bmojo_kernels": ROOT / "kernels" / "bmojo_kernels",
    "realization": ROOT / "realization",
    "bmojo": ROOT / "bmojo",
}


@dataclass(frozen=True)
class Import:
    """One imported name: the module that it comes from, and whether importing the file runs it."""

    target: str
    line: int
    at_module_level: bool


def modules(*packages: str) -> dict[str, Path]:
    """Dotted name and file of every module of the packages (of all three when none is named)."""
    found = {}
    for package in packages or PACKAGES:
        folder = PACKAGES[package]
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(module: str, path: Path, known: dict[str, Path]) -> list[Import]:
    """Every import of a file; `from package import name` counts as the module `name` where it is one."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[Import] = []

    def visit(node: ast.AST, at_module_level: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, at_module_level) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(package, node)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.append(Import(whole if whole in known else base, node.lineno, at_module_level))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, False)
            for child in node.orelse:
                visit(child, at_module_level)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, at_module_level and not inside)

    visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), True)
    return found


def _absolute(package: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, node.module] if node.module else parts)


def public_names(package: str) -> Iterator[tuple[str, object]]:
    """What `__all__` of a package names, and what `__all__` of the modules among it names."""
    module = importlib.import_module(package)
    for name in module.__all__:
        thing = getattr(module, name)
        yield f"{package}.{name}", thing
        if isinstance(thing, ModuleType):
            for inner in getattr(thing, "__all__", ()):
                yield f"{package}.{name}.{inner}", getattr(thing, inner)


def is_ours(thing: object) -> bool:
    """Whether a class or function is defined in one of the packages."""
    return str(getattr(thing, "__module__", "")).split(".")[0] in PACKAGES


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that sees the packages of this checkout."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        timeout=300,
        check=False,
    )
