"""Who may import whom, and what an import may load."""

from __future__ import annotations

import graphlib
import json

import pytest

from tests.source import PACKAGES, ROOT, imports_of, modules, run_python

# A package may import itself and those named here.
ALLOWED = {
    "bmojo_kernels": set(),
    "realization": {"bmojo_kernels"},
    "bmojo": {"bmojo_kernels", "realization"},
}
HEAVY = ("torch", "matplotlib", "pandas", "statsmodels")


def test_the_packages_are_there():
    known = modules()
    assert {"bmojo", "bmojo_kernels", "realization", "realization.systems.models"} <= set(known)
    assert all(path.is_file() for path in known.values())


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_point_one_way(package):
    """`bmojo_kernels <- realization <- bmojo`, wherever in a file the import stands."""
    known = modules()
    forbidden = set(PACKAGES) - ALLOWED[package] - {package} | (
        {"torch"} if package == "realization" else set()
    )
    wrong = [
        f"{path.relative_to(ROOT)}:{item.line} imports {item.target}"
        for module, path in modules(package).items()
        for item in imports_of(module, path, known)
        if item.target.split(".")[0] in forbidden
    ]
    assert not wrong, "\n".join(wrong)


def cycle(edges):
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None


def module_edges(package):
    known = modules()
    return {
        module: {item.target for item in imports_of(module, path, known) if item.at_module_level} - {module}
        for module, path in modules(package).items()
    }


def test_a_cycle_would_be_seen():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_imports_one_that_imports_it(package):
    found = cycle(module_edges(package))
    assert found is None, " <- ".join(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_imports_one_that_imports_it(package):
    """The same for folders: `systems` uses `signals`, so `signals` must not load `systems`."""
    rooms: dict[str, set[str]] = {}
    for module, targets in module_edges(package).items():
        room = ".".join(module.split(".")[:2])
        if room == package:
            continue  # the package's front door imports every room
        found = {".".join(t.split(".")[:2]) for t in targets if t.startswith(f"{package}.")}
        rooms.setdefault(room, set()).update(found - {room})
    found = cycle(rooms)
    assert found is None, " <- ".join(found)


def test_the_folder_of_the_kernels_is_no_package():
    assert (ROOT / "kernels" / "bmojo_kernels" / "__init__.py").is_file()
    assert not (ROOT / "kernels" / "__init__.py").exists()


def loaded_by(statement):
    """Top-level names of all modules that a statement loads in a fresh interpreter."""
    code = (
        f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{n.split('.')[0] for n in sys.modules}})))"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def test_what_loads_is_seen():
    assert "pandas" in loaded_by("import pandas")


def test_realization_loads_nothing_heavy():
    loaded = loaded_by("import realization")
    assert {"realization", "numpy"} <= loaded
    assert not loaded & set(HEAVY)


def test_the_kernels_load_no_torch():
    loaded = loaded_by("import bmojo_kernels")
    assert "numba" in loaded
    assert not loaded & {*HEAVY, "realization"}


WITHOUT_TORCH = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_without_torch_bmojo_names_its_extra():
    result = run_python(WITHOUT_TORCH + "import bmojo")
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError:")
    assert "pip install 'realization[bmojo]'" in last


def test_without_torch_the_command_says_so_in_a_line():
    result = run_python(WITHOUT_TORCH + "sys.argv = ['/usr/bin/bmojo', 'train']\nimport bmojo")
    assert result.returncode == 1
    assert result.stderr.strip() == "bmojo needs PyTorch: pip install 'realization[bmojo]'"


def test_without_torch_the_rest_works():
    use = "import numpy, realization, bmojo_kernels\nprint(realization.ho_kalman(numpy.ones(5)).order)"
    result = run_python(WITHOUT_TORCH + use)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "1"
