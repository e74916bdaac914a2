"""Are the kernels right on a GPU, and how fast: `make gpu-check` writes results/h200.json.

First the parity cases of `tests/kernels/triton`, then the benchmarks, each case in a process of its own: one
that fails takes no other with it. Cases that are done for the same sources are not run again, so that a run
which had to end early goes on. Needs no installation: PYTHONPATH=.:kernels.

`--dry` goes the same way on the CPU with tiny sizes, Triton interpreting; its times mean nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/h200.json"
MODULES = ("gpu_scans", "gpu_attention")
PARITY = "tests/kernels/triton/parity.py"
LIMIT = 450  # seconds: the whole is to end within eight minutes
CASE_LIMIT = 150


def main() -> int:
    options = parse()
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "benchmarks")]
    if options.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    if options.case:
        return run_case(options)
    begun = time.monotonic()
    record = resume(options)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])
    units = ["parity", *names()]
    waiting = [
        unit for unit in units if unit not in record["done"] and (not options.only or unit in options.only)
    ]
    for unit in waiting:
        left = options.limit - (time.monotonic() - begun)
        if left < 20:
            break
        limit = left if unit == "parity" else min(left, CASE_LIMIT)
        rows, failure = parity(options, limit) if unit == "parity" else apart(unit, options, limit)
        record["rows"] += rows
        record["failures"].pop(unit, None)
        if failure:
            record["failures"][unit] = failure
        else:
            record["done"].append(unit)
        write(options, record)
    return report(record, units)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds")
    parser.add_argument("--only", nargs="*", default=[], help="units: parity, or cases of the benchmarks")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.dry and options.out == RESULTS:
        options.out = ROOT / "out/gpu_check_dry.json"
    return options


def names() -> list[str]:
    return [case for module in MODULES for case in import_module(module).CASES]


def fingerprint() -> str:
    """Of all that the figures depend on, so that a copy without git knows itself too."""
    sources = [*ROOT.glob("kernels/bmojo_kernels/**/*.py"), *ROOT.glob("benchmarks/gpu_*.py"), ROOT / PARITY]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def resume(options: argparse.Namespace) -> dict:
    """What is done for the same sources, from the output or else from the repository's results."""
    from _results import _commit

    known = {"sources": fingerprint(), "dry": options.dry}
    for path in (options.out, RESULTS):
        if path.exists():
            record = json.loads(path.read_text())
            if all(record.get(key) == value for key, value in known.items()):
                return record
    command = "python benchmarks/gpu_check.py" + (" --dry" if options.dry else "")
    start = {"name": "h200", "command": command, "commit": _commit(), "machine": None}
    return start | known | {"rows": [], "done": [], "failures": {}}


def write(options: argparse.Namespace, record: dict) -> None:
    import torch  # noqa: F401 - the machine's GPU is asked of torch
    from _results import machine

    record["machine"] = machine()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial = options.out.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(options.out)


def parity(options: argparse.Namespace, limit: float) -> tuple[list[dict], str | None]:
    """Each parity case as a row: 1 for one that holds."""
    from _results import Row

    environment = os.environ | {"BMOJO_DEVICE": "cpu" if options.dry else "cuda"}
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", PARITY]
        command += [f"--junitxml={found}", "-p", "no:cacheprovider"]
        if not options.dry and has("xdist"):
            command += ["-n", str(min(8, os.cpu_count() or 1))]
        if options.dry:
            command += ["-k", "nothing_to_see or extreme"]
        failure = run(command, environment, limit)
        if not found.exists():
            return [], failure or "no report was written"
        rows = []
        for case in ElementTree.parse(found).getroot().iter("testcase"):
            if case.find("skipped") is None:
                holds = case.find("failure") is None and case.find("error") is None
                rows.append(Row(f"parity {case.get('name')}", float(holds), "holds", goal=1.0).to_dict())
    return rows, failure


def has(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None


def apart(unit: str, options: argparse.Namespace, limit: float) -> tuple[list[dict], str | None]:
    """Rows of one case, from a process of its own; what came before it failed counts."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--case", unit, "--out", str(out)]
        failure = run(command + ["--dry"] * options.dry, dict(os.environ), limit)
        rows = json.loads(out.read_text()) if out.exists() else []
    return (rows if failure is None else []), failure


def run(command: list[str], environment: dict[str, str], limit: float) -> str | None:
    """None, or the end of what a process said that failed or took too long."""
    try:
        found = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {limit:.0f} s"
    return None if found.returncode == 0 else (found.stdout[-3000:] + found.stderr[-3000:])


def run_case(options: argparse.Namespace) -> int:
    """Inside the process of one case."""
    import torch
    from gpu_timing import Device

    torch.manual_seed(0)
    cases = {name: case for module in MODULES for name, case in import_module(module).CASES.items()}
    rows = [row.to_dict() for row in cases[options.case](Device(options.dry))]
    options.out.write_text(json.dumps(rows))
    return 0


def report(record: dict, units: list[str]) -> int:
    """Print the rows, what failed and what is left; 1 where something failed."""
    from _results import line

    broken = [row for row in record["rows"] if row["unit"] == "holds" and not row["met"]]
    for row in record["rows"]:
        if row["unit"] != "holds":
            print(line(row))
    held = sum(row["unit"] == "holds" for row in record["rows"])
    print(f"parity: {held - len(broken)} of {held} cases hold")
    for row in broken:
        print(f"  NOT: {row['case']}")
    for unit, text in record["failures"].items():
        print(f"FAILED {unit}: ...{text[-600:]}")
    left = [unit for unit in units if unit not in record["done"] and unit not in record["failures"]]
    if left:
        print(f"not yet run: {', '.join(left)}; the same command goes on with them")
    return 1 if record["failures"] or broken else 0


if __name__ == "__main__":
    sys.exit(main())
