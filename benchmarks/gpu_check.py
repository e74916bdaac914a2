"""Are the kernels right on a GPU, and how fast: `make gpu-check` writes results/h200.json.

First everything is compiled, side by side, each case called once, while the parity cases of
`tests/kernels/triton` run; then the benchmarks one after the other. Each case has a process of its own: one
that fails takes no other with it. Cases that are done for the same sources are not run again, so that a run
which had to end early goes on. Needs no installation: PYTHONPATH=.:kernels.

`--dry` goes the same way on the CPU with tiny sizes, Triton interpreting; its times mean nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/h200.json"
MODULES = ("gpu_scans", "gpu_attention", "gpu_layer")
PARITY = "tests/kernels/triton/parity.py"
LIMIT = 450  # seconds: the whole is to end within eight minutes
CASE_LIMIT = 40
SLOW = {
    "layer busy": 180,
    "layer training compiled": 120,
    "gated_delta_scan peer": 120,
    "ssd_scan peer": 120,
}  # to begin with
# What takes a compiler long, or is the least of it, comes last.
LAST = (
    "layer training graphed",
    "layer busy",
    "layer training compiled",
    "linear_scan peer",
    *(f"memory_attention {width} {part}" for part in ("fading", "set") for width in (64, 128)),
    "gated_delta_scan peer",
    "ssd_scan peer",
)
Cases = Callable[[], dict[str, Any]]
CHILDREN = multiprocessing.get_context("fork")


def main() -> int:
    options = parse()
    sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "benchmarks")]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:3])
    if options.dry:
        os.environ["TRITON_INTERPRET"] = "1"
    begun, record = time.monotonic(), resume(options)
    units = ["parity", *cases()]
    waiting = [
        unit for unit in units if unit not in record["done"] and (not options.only or unit in options.only)
    ]
    tests = None
    if "parity" in waiting:
        waiting.remove("parity")
        tests = Parity(options.dry)
    if waiting and not options.dry:
        prepare(cases, waiting, options.limit / 2)
    if tests is not None:
        keep(options, record, "parity", tests.found(options.limit - (time.monotonic() - begun)))
    for unit, found in measured(cases, waiting, options.dry, begun + options.limit):
        keep(options, record, unit, found)
    return report(record, units)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds")
    parser.add_argument("--only", nargs="*", default=[], help="units: parity, or cases of the benchmarks")
    options = parser.parse_args()
    if options.dry and options.out == RESULTS:
        options.out = ROOT / "out/gpu_check_dry.json"
    return options


def cases() -> dict[str, Any]:
    """Of each case's name, what yields its rows."""
    return {
        name: case
        for module in MODULES
        if find_spec(module)
        for name, case in import_module(module).CASES.items()
    }


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


def keep(options: argparse.Namespace, record: dict, unit: str, found: dict) -> None:
    """Add what a unit gave, and write all."""
    record["rows"] += found.get("rows", [])
    record["machine"] = found.get("machine", record["machine"])
    record["failures"].pop(unit, None)
    if "failure" in found:
        record["failures"][unit] = found["failure"]
    else:
        record["done"].append(unit)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial = options.out.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(options.out)


class Parity:
    """The parity cases, begun at once in processes of their own."""

    def __init__(self, dry: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        environment = os.environ | {"BMOJO_DEVICE": "cpu" if dry else "cuda"}
        command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", PARITY]
        command += [f"--junitxml={self.folder.name}/found.xml", "-p", "no:cacheprovider"]
        if dry:
            command += ["-k", "nothing_to_see or extreme"]
        elif find_spec("xdist"):
            command += ["-n", str(os.cpu_count() or 1)]
        self.process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def found(self, limit: float) -> dict:
        """Each case as a row: 1 for one that holds."""
        from _results import Row

        try:
            said, _ = self.process.communicate(timeout=max(limit, 1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            return {"failure": f"took longer than {limit:.0f} s more"}
        found = Path(self.folder.name) / "found.xml"
        rows = []
        for case in ElementTree.parse(found).getroot().iter("testcase") if found.exists() else ():
            if case.find("skipped") is None:
                holds = case.find("failure") is None and case.find("error") is None
                rows.append(Row(f"parity {case.get('name')}", float(holds), "holds", goal=1.0).to_dict())
        return {"rows": rows} | ({} if self.process.returncode == 0 else {"failure": said[-12000:]})


def prepare(cases: Cases, units: Sequence[str], limit: float) -> list[str]:
    """Call each case once, side by side: what they compile is then on disk. Those that came to an end."""
    begun = time.monotonic()
    waiting, running = list(units), {}
    while (waiting or running) and time.monotonic() - begun < limit:
        while waiting and len(running) < (os.cpu_count() or 1):
            unit = waiting.pop(0)
            running[unit] = CHILDREN.Process(target=once, args=(cases, unit))
            running[unit].start()
        time.sleep(0.05)
        running = {unit: process for unit, process in running.items() if process.is_alive()}
    for process in running.values():
        process.kill()
    return [unit for unit in units if unit not in waiting and unit not in running]


def once(cases: Cases, unit: str) -> None:
    """Inside a process that only compiles."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    from gpu_timing import Device

    list(cases()[unit](Device(False, once=True)))


def measured(
    cases: Cases, units: Sequence[str], dry: bool, until: float, limit: float = CASE_LIMIT
) -> Iterator[tuple[str, dict]]:
    """Rows of each case, or how it failed, until a time; a process that dies is followed by another."""
    waiting = list(units)
    while waiting and time.monotonic() < until:
        here, there = CHILDREN.Pipe(duplex=False)
        process = CHILDREN.Process(target=child, args=(cases, waiting, dry, there))
        process.start()
        there.close()
        while waiting:
            longest = SLOW.get(waiting[0], limit)
            left = min(longest, until - time.monotonic())
            try:
                if not here.poll(max(left, 0)):
                    found = {"failure": f"took longer than {left:.0f} s"} if left == longest else None
                    process.kill()
                else:
                    found = here.recv()
            except EOFError:
                process.join()
                found = {"failure": f"the process ended with {process.exitcode}"}
            if found is None:
                break
            yield waiting.pop(0), found
            if not process.is_alive() and "rows" not in found:
                break
        process.join(1)
        process.kill()


def child(cases: Cases, units: Sequence[str], dry: bool, pipe: Any) -> None:
    """Inside the process that measures, one case after the other."""
    import gc

    import torch
    from _results import machine
    from gpu_timing import Device

    for unit in units:
        try:
            torch.manual_seed(0)
            rows = [row.to_dict() for row in cases()[unit](Device(dry))]
            found = {"rows": rows, "machine": machine()}
        except Exception:
            found = {"failure": traceback.format_exc()[-3000:]}
        pipe.send(found)
        gc.collect()
        if not dry:
            torch.cuda.empty_cache()


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
        print(f"FAILED {unit}: ...{text[-900:]}")
    left = [unit for unit in units if unit not in record["done"] and unit not in record["failures"]]
    if left:
        print(f"not yet run: {', '.join(left)}; the same command goes on with them")
    return 1 if record["failures"] or broken else 0


if __name__ == "__main__":
    sys.exit(main())
