"""`python -m bmojo.demo`: run the main job and write its report."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the main job; returns the exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the command line when left out.
    """
    parser = argparse.ArgumentParser(
        prog="bmojo demo",
        description="From a measured signal to its realization, to its innovations, to a layer that "
        "remembers. Trains small models live (about two minutes on two cores) and writes a report.",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo"), help="folder of the report (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of parameters and data (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="models trained at a time (default: one per core)")
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"bmojo: error: the folder {options.out} cannot be made: {error.strerror}", file=sys.stderr)
        return 2
    return _run(options.out, options.seed, options.workers)


def _run(out: Path, seed: int, workers: int | None) -> int:
    try:
        from bmojo.demo.contenders import CONTENDERS
        from bmojo.demo.race import race
        from bmojo.demo.report import write_report
        from bmojo.demo.signal import measured_records, study
        from realization.errors import RealizationWarning
    except ImportError as error:
        print(f"bmojo: error: {error}; the demo needs: pip install 'realization[demo]'", file=sys.stderr)
        return 2
    began = time.perf_counter()
    studies = []
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", RealizationWarning)
        for name, (record, clock) in measured_records().items():
            print(f"{name}: identifying, judging, lifting {record!r}")
            studies.append(study(name, record, clock))
            fits = ", ".join(f"{rule} {fit:.1f} %" for rule, fit in studies[-1].fits.items())
            print(f"  order {studies[-1].fit.order}; {fits}; lifted to {studies[-1].lift_error:.0e}")
    for message in sorted(
        {str(doubt.message) for doubt in doubts if issubclass(doubt.category, RealizationWarning)}
    ):
        print(f"  note: {message}")
    outcomes = race(CONTENDERS, seed=seed, workers=workers)
    path = write_report(out, studies, outcomes, seconds=time.perf_counter() - began)
    print(f"the report: {path} ({time.perf_counter() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
