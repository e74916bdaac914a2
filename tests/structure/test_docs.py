"""The documentation's own code: the landing page runs, formulas are found, pictures are taken over."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from types import ModuleType
from xml.etree import ElementTree

import matplotlib

matplotlib.use("agg")

import jupytext
import matplotlib.pyplot as plt
import pytest
from docutils.utils.math import MathError
from matplotlib.figure import Figure

import realization as rz
from realization.report import Section, figure_png, page
from tests.source import ROOT, public_names

DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", INDEX, flags=re.DOTALL)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build, mathematics = load("build"), load("mathematics")


@pytest.fixture
def dryer_at_hand(monkeypatch, rng):
    """The landing page names a measured record; another one stands in, so that nothing is fetched."""
    u = rng.standard_normal((400, 1))
    plant = rz.InnovationsModel([[0.8]], [[1.0]], [[1.0]], K=[[0.3]], Re=[[0.01]], dt=0.08)
    y = plant.simulate(u, e=0.1 * rng.standard_normal((400, 1)))
    monkeypatch.setattr(rz, "load_data", {"dryer": rz.IOData(y, u, 0.08)}.__getitem__)
    yield
    plt.close("all")


@pytest.mark.parametrize("block", BLOCKS, ids=["notebook", "signals", "layer"])
def test_each_door_of_the_landing_page_opens(block, dryer_at_hand, capsys):
    assert len([line for line in block.splitlines() if line and "import" not in line]) <= 5
    exec(compile(block, "docs/index.md", "exec"), {})


def test_the_landing_page_has_three_doors():
    assert len(BLOCKS) == 3
    assert len(re.findall(r"^## ", INDEX, flags=re.MULTILINE)) == 3


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("the $p$-th of $x_{t|t-1}$.", "the :math:`p`-th of :math:`x_{t|t-1}`."),
        ("two\n$a +\n  b$ lines", "two\n:math:`a + b` lines"),
        ("$n$s", ":math:`n`\\ s"),
        ("$$x = 1$$", "\n.. math::\n\n   x = 1\n"),
        ("    $$x\n    = 1$$ and more", "\n    .. math::\n\n       x\n       = 1\n\n    and more"),
        (">>> '$a$ $b$'\n'$a$ $b$'\n\n$c$", ">>> '$a$ $b$'\n'$a$ $b$'\n\n:math:`c`"),
        ("costs 5 $ or \\$6", "costs 5 $ or \\$6"),
    ],
)
def test_formulas_in_docstrings(docstring, expected):
    assert "\n".join(mathematics.to_roles(docstring.split("\n"))) == expected


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"a = b, \qquad c = d", ["a = b,", "c = d"]),
        (r"a \quad b \qquad c", ["a", "b", "c"]),
        (r"\begin{bmatrix} a \quad b \end{bmatrix}", [r"\begin{bmatrix} a \quad b \end{bmatrix}"]),
        (r"\left( a \quad b \right) \quad c", [r"\left( a \quad b \right)", "c"]),
        (r"x_{a \quad b}", [r"x_{a \quad b}"]),
        (r"a \quadratic b", [r"a \quadratic b"]),
    ],
)
def test_a_displayed_line_is_parted_at_its_wide_spaces(tex, expected):
    assert mathematics.pieces(tex) == expected


def test_words_stand_below_their_brace():
    tex = r"\underbrace{a + b}_{c} + \overbrace{d}^{e} + \hat x_t"
    root = ElementTree.fromstring(mathematics.translated(tex, as_block=True))
    tags = [part.tag.split("}")[-1] for part in root.iter() if len(part) == 2]
    assert tags == ["munder", "munder", "mover", "mover", "msub", "mover"]


@pytest.mark.parametrize(
    ("tex", "expected"),
    [
        (r"N \log\det R", "N_log_det_R"),
        (r"\operatorname{tr} C W", "tr_CW"),
        (r"-\log(1 - x)", "−log(1−x)"),
        (r"(p + m) \log N", "(p+m)_log_N"),
        (r"\frac12 \cos\omega", "12_cos_ω"),
    ],
)
def test_names_of_functions_stand_apart(tex, expected):
    parts = ElementTree.fromstring(mathematics.translated(tex, as_block=False)).iter()
    shown = "".join("_" if part.tag.endswith("mspace") else (part.text or "").strip() for part in parts)
    assert shown.replace(mathematics.APPLIED, "") == expected


def formulas(text: str) -> list[tuple[str, bool]]:
    """Formulas of a text, and whether each is displayed; code is passed over."""
    text = re.sub(r"```.*?```|``.*?``|`[^`\n]*`", "", text, flags=re.DOTALL)
    shown = [(tex, True) for tex in re.findall(r"\$\$(.+?)\$\$", text, flags=re.DOTALL)]
    rest = re.sub(r"\$\$.+?\$\$", "", text, flags=re.DOTALL)
    return shown + [(found["tex"], False) for found in mathematics.INLINE.finditer(rest)]


def test_every_formula_can_be_set():
    texts = {
        path: path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md") if "_" not in path.parts[-2][:1]
    }
    for package in ("realization", "bmojo", "bmojo_kernels"):
        for name, thing in public_names(package):
            texts[name] = "\n".join(
                line
                for line in (inspect.getdoc(thing) or "").split("\n")
                if not line.lstrip().startswith(">>>")
            )
    unknown, seen = [], 0
    for name, text in texts.items():
        for tex, shown in formulas(text):
            for piece in mathematics.pieces(tex) if shown else [tex]:
                seen += 1
                try:
                    mathematics.translated(piece, as_block=shown)
                except MathError as error:
                    unknown.append(f"{name}: {piece!r}: {error}")
    assert not unknown, "\n".join(unknown)
    assert seen > 500


PAGES = sorted(path for path in DOCS.rglob("*.md") if "{code-cell}" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(DOCS)) for path in PAGES])
def test_the_cells_of_a_page_run(path, tmp_path, monkeypatch, request):
    if "rz.load_data(" in path.read_text("utf-8"):
        request.getfixturevalue("measured_data")
    if "from bmojo.hf import" in path.read_text("utf-8"):
        pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    cells = re.findall(
        r"^```\{code-cell\}[^\n]*\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        lines = [line for line in cell.split("\n") if not line.startswith((":", "%"))]
        exec(compile("\n".join(lines), f"{path.name}, cell {number}", "exec"), names)
    plt.close("all")


@pytest.mark.parametrize("folder", ["", "somewhere"])
def test_without_records_a_page_of_measurements_is_built_but_not_run(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("REALIZATION_DATA", folder)
    assert build.pages_left_unrun(tmp_path) == ([] if folder else ["walkthrough.md"])
    assert ("REALIZATION_DATA" in (tmp_path / "walkthrough.md").read_text()) == (not folder)


def test_notebooks_are_converted(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gone.ipynb").write_text("{}")
    made = build.convert_notebooks(ROOT / "notebooks", tmp_path / "out")
    assert {path.stem for path in made} == {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    assert set((tmp_path / "out").iterdir()) == set(made)
    assert jupytext.read(made[0]).cells


def test_pictures_of_the_demo_are_taken_over(tmp_path):
    pictures = [figure_png(Figure(figsize=(size, 1))) for size in (1, 2, 3)]
    one = Section(
        "A & B", figures=[(pictures[0], "**Red** is `kept`.", "a < b"), (pictures[1], "Two.", "second")]
    )
    text = page(
        "Demo", "Lead.", [one, Section("Words only"), Section("C", figures=[(pictures[2], "", "third")])]
    )
    (tmp_path / "report.html").write_text(text)
    made = build.collect_demo(tmp_path, tmp_path / "generated" / "demo")
    assert [path.read_bytes() for path in made] == pictures
    assert (tmp_path / "generated" / "demo" / "report.html").read_text() == text
    written = (tmp_path / "generated" / "demo.md").read_text()
    assert re.findall(r"^## (.*)$", written, flags=re.MULTILINE) == ["A & B", "C"]
    assert re.findall(r"^:alt: (.*)$", written, flags=re.MULTILINE) == ["a < b", "second", "third"]
    assert "**Red** is `kept`." in written
    assert all(f"_generated/demo/{path.name}" in written for path in made)


def test_without_a_demo_the_page_says_how_to_make_it(tmp_path):
    assert build.collect_demo(tmp_path / "none", tmp_path / "generated" / "demo") == []
    assert "make demo" in (tmp_path / "generated" / "demo.md").read_text()


def test_every_measured_row_is_in_the_page(tmp_path):
    machine = {"cpu": "a processor", "threads": 2, "gpu": None, "versions": {"numpy": "2"}}
    row = {
        "case": "norm |G|",
        "value": 0.12345,
        "unit": "s",
        "peer": "other",
        "peer_value": 1.0,
        "goal": 0.1,
        "met": False,
    }
    content = {"name": "a_b", "command": "python x.py", "machine": machine, "rows": [row]}
    (tmp_path / "a_b.json").write_text(json.dumps(content))
    assert build.tabulate_results(tmp_path, tmp_path / "page.md") == 1
    text = (tmp_path / "page.md").read_text()
    assert "## a b" in text
    assert r"| norm \|G\| | 0.1235 | s | other | 1 | 0.1 | **no** |" in text
    assert "a processor, 2 threads, no GPU" in text
