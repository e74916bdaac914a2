"""What an installed wheel has to do with its run-time dependencies alone: `make release-check` runs it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np

import realization as rz

SCRIPTS = Path(sys.executable).parent


def main() -> None:
    """Identify from a file by the command, read the model back, and name what is not installed."""
    assert "site-packages" in rz.__file__, f"{rz.__file__} is not the installed package"
    assert importlib.util.find_spec("torch") is None, "the base must not need torch"
    rng = np.random.default_rng(0)
    u = rng.standard_normal((400, 1))
    y = rz.StateSpace([[0.8]], [[1.0]], [[0.5]]).simulate(u) + 0.1 * rng.standard_normal((400, 1))
    with tempfile.TemporaryDirectory() as folder:
        table, place = Path(folder, "record.csv"), Path(folder, "model.json")
        np.savetxt(table, np.hstack([u, y]), delimiter=",", header="u,y", comments="")
        run("realization", "identify", table, "--input", "u", "--output", "y", "--out", place)
        model = rz.load_model(place)
        assert json.loads(place.read_text())
    pole = model.poles[np.abs(model.poles - 0.8).argmin()]
    assert abs(pole - 0.8) < 0.05, f"the plant's pole 0.8 came out as {pole}"
    assert run("realization", "--version") == f"realization {metadata.version('realization')}"
    refused = subprocess.run([SCRIPTS / "bmojo", "train", "x.toml"], capture_output=True, text=True)
    assert refused.returncode != 0
    assert "realization[bmojo]" in refused.stderr, refused.stderr
    print(f"realization {metadata.version('realization')}: installed, identifies, names what is missing")


def run(command: str, *arguments: str | Path) -> str:
    """What an installed command prints."""
    found = subprocess.run(
        [SCRIPTS / command, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return found.stdout.strip()


if __name__ == "__main__":
    main()
