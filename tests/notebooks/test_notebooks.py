"""Every notebook runs in a kernel of its own, opens with a question and ends with exercises."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return jupytext.read(request.param)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS, f"no notebook in {FOLDER}"


def test_runs(notebook: nbformat.NotebookNode, tmp_path: Path) -> None:
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a notebook shows pictures"
    complaints = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not complaints, complaints


def test_opens_with_a_question(notebook: nbformat.NotebookNode) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    paragraphs = [part for part in first.source.split("\n\n") if not part.startswith("# ")]
    assert first.source.startswith("# ")
    assert re.fullmatch(r"\*\*.*\?\*\*", paragraphs[0].strip(), flags=re.DOTALL), paragraphs[0]


def test_ends_with_exercises_whose_solutions_are_hidden_and_tested(notebook: nbformat.NotebookNode) -> None:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    exercises = len(re.findall(r"\*\*Exercise \d+", text))
    solutions = [cell for cell in notebook.cells if "hide-cell" in cell.metadata.get("tags", ())]
    assert exercises >= 3
    assert len(solutions) == exercises
    for cell in solutions:
        assert "assert " in cell.source
        assert cell.metadata["jupyter"]["source_hidden"] is True


def test_cites_its_sources(notebook: nbformat.NotebookNode) -> None:
    last = notebook.cells[-1]
    assert last.cell_type == "markdown"
    assert last.source.startswith("## Sources")
