"""The command: what it writes, what it prints, and one line for everything that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import numpy as np
import pytest

from realization.cli import main
from realization.signals import list_data
from realization.systems import InnovationsModel, StateSpace, load_model, save_model

FILE = ["plant.csv", "--input", "valve", "--output", "level"]


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a record to work on, where the command runs."""
    u = rng.choice([-1.0, 1.0], size=(240, 1))
    plant = InnovationsModel([[0.8]], [[1.0]], [[1.0]], K=[[0.3]], Re=[[0.01]])
    y = plant.simulate(u, e=0.1 * rng.standard_normal((240, 1)))
    write(tmp_path / "plant.csv", "valve,level,still", np.hstack([u, y, np.ones((240, 1))]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, header: str, rows: np.ndarray) -> None:
    path.write_text(header + "\n" + "\n".join(",".join(map(str, row)) for row in rows.tolist()) + "\n")


def run(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as end:
        return int(str(end.code))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_identify_writes_model_and_report(folder, capsys):
    arguments = [*FILE, "--dt", "0.5", "--order", "1", "--out", "model.json", "--report", "report.html"]
    assert run("identify", *arguments) == 0
    out, err = capsys.readouterr()
    model = load_model(folder / "model.json")
    assert isinstance(model, InnovationsModel)
    assert (model.n_states, model.dt) == (1, 0.5)
    assert abs(model.A[0, 0] - 0.8) < 0.05
    assert out.splitlines()[0] == "order: 1"
    assert all("held back" in line for line in out.splitlines()[1:])
    assert all(line.startswith("realization: ") for line in err.splitlines())
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "plant: what the model knows" in page
    assert page.count("<img ") >= 4


def test_identify_by_column_number_and_without_inputs(folder):
    assert run("identify", "plant.csv", "--output", "1", "--order", "2", "--out", "series.npz") == 0
    assert load_model(folder / "series.npz").n_inputs == 0


def test_a_column_of_dates_gives_the_step(folder, capsys):
    rows = (folder / "plant.csv").read_text().splitlines()
    start = np.datetime64("2025-03-04T08:00:00")
    dates = ["time", *(str(start + 10 * k) for k in range(len(rows) - 1))]
    dated = "\n".join(f"{date},{row}" for date, row in zip(dates, rows))
    (folder / "plant.csv").write_text(dated.replace(".", "#").replace(",", ";").replace("#", ","))
    assert run("identify", *FILE, "--time", "time", "--order", "1", *OUT) == 0
    assert load_model(folder / "m.json").dt == 10.0
    assert "a sample each 10 s" in capsys.readouterr().err


def test_a_gap_is_told_with_what_to_do(folder, capsys):
    rows = (folder / "plant.csv").read_text().splitlines()
    rows[31] = "1.0,,1.0"
    (folder / "gap.csv").write_text("\n".join(rows))
    assert run("identify", "gap.csv", *FILE[1:], *OUT) == 2
    assert "missing=True" in capsys.readouterr().err
    dated = [f"{2 * k},{row}" for k, row in enumerate(rows)]
    (folder / "gap.csv").write_text("\n".join(["t," + rows[0], *dated[1:]]))
    assert run("identify", "gap.csv", *FILE[1:], "--time", "t", *OUT) == 2
    assert "missing in gap.csv: 1 values" in capsys.readouterr().err


def test_the_model_is_made_from_the_first_part_only(folder, capsys):
    assert run("identify", *FILE, "--order", "1", "--split", "0.5", "--out", "whole.json") == 0
    rows = (folder / "plant.csv").read_text().splitlines()
    spoilt = rows[:121] + [f"{row.split(',')[0]},{17 * i % 5},1" for i, row in enumerate(rows[121:])]
    (folder / "plant.csv").write_text("\n".join(spoilt) + "\n")
    assert run("identify", *FILE, "--order", "1", "--split", "0.5", "--out", "spoilt.json") == 0
    assert (folder / "whole.json").read_bytes() == (folder / "spoilt.json").read_bytes()


def test_report_judges_a_saved_model(folder, capsys):
    assert run("identify", *FILE, "--order", "1", "--out", "m.json", "--report", "a.html", "--keep", "4") == 0
    assert run("report", "m.json", *FILE, "--report", "b.html", "--keep", "4") == 0
    first, second = (
        (folder / name).read_text().partition("How well it does</h2>") for name in ("a.html", "b.html")
    )
    assert "The 4 most surprising are kept" in second[2]
    assert second[2] == first[2]


def test_data_lists_the_sets(capsys):
    assert run("data") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == list(list_data())


def test_data_writes_a_set_that_identify_can_read(folder, measured_data, capsys):
    assert run("data", "dryer", "--out", "dryer.csv") == 0
    arguments = ["--input", "heater voltage", "--output", "air temperature", "--order", "4", "--dt", "0.08"]
    assert run("identify", "dryer.csv", *arguments, "--out", "dryer.json") == 0
    fit = float(capsys.readouterr().out.splitlines()[1].split(": ")[1].split()[0])
    assert fit > 90


OUT = ["--out", "m.json"]
WRONG = {
    "no such file": ("identify", "none.csv", "--output", "a", *OUT),
    "a folder": ("identify", ".", "--output", "a", *OUT),
    "binary": ("identify", "binary.csv", "--output", "0", *OUT),
    "not a number": ("identify", "nan.csv", "--output", "y", *OUT),
    "text": ("identify", "text.csv", "--output", "y", *OUT),
    "no such column": ("identify", "plant.csv", "--output", "nope", *OUT),
    "no such column number": ("identify", "plant.csv", "--output", "7", *OUT),
    "constant output": ("identify", "plant.csv", "--output", "still", *OUT),
    "constant input": ("identify", "plant.csv", "--input", "still", "--output", "level", *OUT),
    "short": ("identify", "short.csv", "--output", "y", *OUT),
    "no output": ("identify", "plant.csv", "--input", "valve", *OUT),
    "no place for the model": ("identify", *FILE),
    "no such folder": ("identify", *FILE, "--out", "nowhere/m.json"),
    "a folder as place": ("identify", *FILE, *OUT, "--report", "sub"),
    "wrong ending": ("identify", *FILE, "--out", "m.txt"),
    "over the data": ("identify", "plant.json", "--output", "0", "--out", "plant.json"),
    "one place twice": ("identify", *FILE, "--out", "m.json", "--report", "m.json"),
    "order in words": ("identify", *FILE, *OUT, "--order", "many"),
    "negative order": ("identify", *FILE, *OUT, "--order", "-1"),
    "order beyond the data": ("identify", *FILE, *OUT, "--order", "5000"),
    "split": ("identify", *FILE, *OUT, "--split", "1"),
    "step": ("identify", *FILE, *OUT, "--dt", "0"),
    "keep without report": ("identify", *FILE, *OUT, "--keep", "3"),
    "negative keep": ("identify", *FILE, *OUT, "--report", "r.html", "--keep", "-3"),
    "no such model": ("report", "none.json", *FILE, "--report", "r.html"),
    "no model": ("report", "plant.json", *FILE, "--report", "r.html"),
    "no noise model": ("report", "plain.json", *FILE, "--report", "r.html"),
    "other channels": ("report", "model.json", "plant.csv", "--output", "level", "--report", "r.html"),
    "other step": ("report", "model.json", *FILE, "--dt", "0.1", "--report", "r.html"),
    "over the model": ("report", "model.json", *FILE, "--report", "model.json"),
    "no such set": ("data", "none", "--out", "x.csv"),
    "set without place": ("data", "dryer"),
    "place without set": ("data", "--out", "x.csv"),
    "no such command": ("frobnicate",),
    "no command": (),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_is_written(case, folder, capsys):
    (folder / "binary.csv").write_bytes(bytes(range(256)))
    (folder / "nan.csv").write_text("y\n" + "1\n2\n" * 20 + "nan\n")
    (folder / "text.csv").write_text("y\n" + "1\n2\n" * 20 + "three\n")
    (folder / "short.csv").write_text("y\n1\n2\n4\n")
    (folder / "plant.json").write_text(json.dumps({"a": 1}))
    (folder / "sub").mkdir()
    save_model(StateSpace([[0.5]], [[1.0]], [[1.0]]), "plain.json")
    save_model(InnovationsModel([[0.5]], [[1.0]], [[1.0]], dt=0.5), "model.json")
    before = contents(folder)
    assert run(*WRONG[case]) == 2
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert last.startswith("realization: error: ")
    assert len(last) > len("realization: error: ") + 15
    assert sum("error:" in line for line in err.splitlines()) == 1
    assert "Traceback" not in err
    assert out == ""
    assert contents(folder) == before


def test_a_report_that_cannot_be_made_leaves_no_model_behind(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert run("identify", *FILE, "--order", "1", *OUT, "--report", "r.html") == 2
    assert "pip install 'realization[plot]'" in capsys.readouterr().err
    assert not (folder / "m.json").exists()


def test_warnings_are_one_line_each(folder, capsys, monkeypatch):
    import warnings

    from realization.errors import ExcitationWarning
    from realization.identification import identify

    def doubtful(*args, **options):
        warnings.warn("identify: the input excites\nfew directions.", ExcitationWarning, stacklevel=2)
        return identify(*args, **options)

    monkeypatch.setattr("realization.identification.identify", doubtful)
    assert run("identify", *FILE, "--order", "1", *OUT) == 0
    told = "realization: warning: the input excites few directions. (see docs/derivations/okid.md)"
    assert told in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("command", ["identify", "report", "data"])
def test_help_is_complete(command, capsys):
    assert run(command, "--help") == 0
    text = capsys.readouterr().out
    assert "example:\n  realization " in text
    options = [line.split()[0] for line in text.splitlines() if line.startswith("  -")]
    assert "-h," in options
    lines = " ".join(text.split())
    for option in options[1:]:
        assert lines.count(option.strip(",")) >= 2, f"{option} is in the usage and explained"


def test_the_installed_command_and_its_version():
    finished = subprocess.run(
        [sys.executable, "-m", "realization.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == f"realization {metadata.version('realization')}"


def test_interrupting_is_quiet(folder, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("realization.identification.identify", stop)
    assert run("identify", *FILE, *OUT) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "realization: interrupted"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_every_command(shell, capsys):
    with pytest.raises(SystemExit) as left:
        main(["--print-completion", shell])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("identify", "inspect", "report"))


def test_bash_completes(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    asked = (
        "source completion; COMP_WORDS=(realization in); COMP_CWORD=1; _shtab_realization; echo $COMPREPLY"
    )
    found = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "inspect"
