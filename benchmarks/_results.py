"""What every benchmark writes: measured values beside their peers and goals, and the machine they ran on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("realization", "numpy", "scipy", "numba", "torch")


@dataclass
class Row:
    """One measured value.

    Parameters
    ----------
    case : str
        What was measured.
    value : float
        What came out.
    unit : str
        Of the value; seconds, `%`, `bytes`, ...
    peer : str, optional
        Whose value stands beside it.
    peer_value : float, optional
        In the same unit.
    ratio : float, optional
        `value / peer_value` unless given.
    goal : float, optional
        What the value is to reach.
    larger_is_better : bool
        Whether a value above the goal meets it.
    interval : pair of float, optional
        Where the true value lies with a probability that the benchmark names.
    """

    case: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    goal: float | None = None
    larger_is_better: bool = True
    interval: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain values, with the ratio and whether the goal is met."""
        plain = asdict(self)
        better = plain.pop("larger_is_better")
        if self.interval is None:
            plain.pop("interval")
        if self.ratio is None and self.peer_value:
            plain["ratio"] = self.value / self.peer_value
        plain["met"] = None
        if self.goal is not None:
            plain["met"] = self.value >= self.goal if better else self.value <= self.goal
        return plain


def write_results(name: str, rows: Sequence[Row]) -> Path:
    """Write `results/<name>.json` and print the rows."""
    FOLDER.mkdir(exist_ok=True)
    content = {
        "name": name,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": _commit(),
        "machine": machine(),
        "rows": [row.to_dict() for row in rows],
    }
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    for row in content["rows"]:
        print(line(row))
    return path


def line(row: dict[str, object]) -> str:
    """One row in writing."""
    text = f"{row['case']:<64} {row['value']:>10.4g} {row['unit']}"
    if row.get("interval"):
        text += " [{:.3g}, {:.3g}]".format(*row["interval"])
    if row["peer"]:
        ratio = "" if row["ratio"] is None else f", ratio {row['ratio']:.3g}"
        text += f"  ({row['peer']}: {row['peer_value']:.4g}{ratio})"
    if row["goal"] is not None:
        text += f"  goal {row['goal']:.4g}: {'met' if row['met'] else 'NOT MET'}"
    return text


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"cpu": _cpu(), "threads": os.cpu_count(), "gpu": _gpu(), "versions": versions}


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for entry in facts.read_text().splitlines():
            if entry.startswith("model name"):
                return entry.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    if "torch" not in sys.modules:
        return None
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _commit() -> str | None:
    command = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    return found.stdout.strip() or None
