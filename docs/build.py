"""Build the documentation into docs/_build/html: `python docs/build.py`. Warnings are errors."""

from __future__ import annotations

import argparse
import base64
import importlib
import json
import os
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import jupytext

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

MISSING = """```{note}
These pages were built without the demo's report, so its pictures are not here. Run `make demo`, then
`make docs`.
```
"""

NOT_RUN = """```{note}
This page was built without the measured records, so its cells were not run. Let the variable
`REALIZATION_DATA` name their folder, then `make docs`.
```
"""


def convert_notebooks(source: Path, target: Path) -> list[Path]:
    """Make an .ipynb under `target` of every .py under `source`; what is not there any more goes."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    made = []
    for path in sorted(source.glob("*.py")):
        made.append(target / f"{path.stem}.ipynb")
        jupytext.write(jupytext.read(path), made[-1])
    return made


class _Figures(HTMLParser):
    """Pictures of a report in reading order: heading, alternative text, width, caption, bytes."""

    MARKS: ClassVar = {"strong": "**", "em": "*", "code": "`"}

    def __init__(self, report: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str, str, bytes]] = []
        self._heading = self._text = self._alt = self._width = ""
        self._image = b""
        self.feed(report)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            attributes = dict(attrs)
            self._alt, self._width = attributes["alt"] or "", attributes.get("width") or ""
            self._image = base64.b64decode((attributes["src"] or "").partition(";base64,")[2])
        if tag in ("h2", "figcaption"):
            self._text = ""
        self._text += self.MARKS.get(tag, "")

    def handle_endtag(self, tag: str) -> None:
        self._text += self.MARKS.get(tag, "")
        if tag == "h2":
            self._heading = self._text
        elif tag == "figcaption":
            caption = " ".join(self._text.split())
            self.found.append((self._heading, self._alt, self._width, caption, self._image))

    def handle_data(self, data: str) -> None:
        self._text += data


def collect_demo(source: Path, target: Path) -> list[Path]:
    """Take pictures, captions and the report itself over from the main job, and write them as a page."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    page = target.parent / "demo.md"
    if not (source / "report.html").is_file():
        page.write_text(MISSING, encoding="utf-8")
        return []
    shutil.copy(source / "report.html", target)
    parts, made, last = ["{download}`The whole report <_generated/demo/report.html>`", ""], [], ""
    for heading, alt, width, caption, image in _Figures(
        (source / "report.html").read_text(encoding="utf-8")
    ).found:
        made.append(target / f"{len(made) + 1:02d}.png")
        made[-1].write_bytes(image)
        parts += [f"## {heading}", ""] if heading != last else []
        parts += [
            f"```{{figure}} _generated/demo/{made[-1].name}",
            f":alt: {alt}",
            f":width: {width or 700}px",
            "",
            caption,
            "```",
            "",
        ]
        last = heading
    page.write_text("\n".join(parts), encoding="utf-8")
    return made


def tabulate_results(source: Path, page: Path) -> int:
    """Write a table of every benchmark's rows, with the machine they ran on; returns how many there are.

    One more in front counts them; of those with many rows the table is folded until one looks for it.
    """
    parts, counts = [], ["| measured | rows | goals met | not met |", "|---|--:|--:|--:|"]
    count = 0
    for path in sorted(source.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        machine, versions = content["machine"], content["machine"]["versions"]
        ran_on = (
            f"{machine['cpu']}, {machine['threads']} threads, {machine['gpu'] or 'no GPU'}; "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
        )
        name, rows = content["name"].replace("_", " "), content["rows"]
        met, missed = (sum(row["met"] is answer for row in rows) for answer in (True, False))
        counts.append(
            f"| [{name}](#measured-{path.stem}) | {len(rows)} | {met or ''} | {missed or ''} |"
        )
        parts += [
            f"(measured-{path.stem})=",
            f"## {name}",
            "",
            f"`{content['command']}` on {ran_on}.",
            "",
        ]
        folded = len(rows) > 12
        if folded:
            parts += [f"<details><summary>{len(rows)} rows</summary>", ""]
        parts += [
            "| case | value | unit | peer | its value | goal | met |",
            "|---|--:|---|---|--:|--:|---|",
        ]
        for row in rows:
            told = {True: "yes", False: "**no**", None: ""}[row["met"]]
            cells = (row[part] for part in ("case", "value", "unit", "peer", "peer_value", "goal"))
            parts.append("| " + " | ".join([*map(_cell, cells), told]) + " |")
            count += 1
        parts += ["", "</details>", ""] if folded else [""]
    page.write_text("\n".join([*counts, "", *parts]), encoding="utf-8")
    return count


def collect_evidence(results: Path, target: Path) -> list[str]:
    """Write a page of each question of the evidence with its pictures; returns those that were run."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return importlib.import_module("evidence_pages").write_pages(results, target)
    finally:
        sys.path.pop(0)


def pages_left_unrun(notes: Path) -> list[str]:
    """Pages whose cells read measured records, where there are none; the notes that they include say so."""
    pages = [
        path
        for path in sorted(DOCS.glob("*.md"))
        if f"_generated/{path.name}" in path.read_text("utf-8")
    ]
    pages = [path for path in pages if "rz.load_data(" in path.read_text("utf-8")]
    unrun = not os.environ.get("REALIZATION_DATA")
    notes.mkdir(parents=True, exist_ok=True)
    for path in pages:
        (notes / path.name).write_text(NOT_RUN if unrun else "", encoding="utf-8")
    return [path.name for path in pages] if unrun else []


def _cell(value: object) -> str:
    return (
        ""
        if value is None
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value).replace("|", "\\|")
    )


def main(argv: list[str] | None = None) -> int:
    """Convert, collect, build; the exit code is Sphinx's."""
    from sphinx.cmd.build import build_main

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--demo", type=Path, default=ROOT / "out" / "demo", help="folder of the demo's report"
    )
    parser.add_argument(
        "--out", type=Path, default=DOCS / "_build" / "html", help="where the pages go"
    )
    parser.add_argument(
        "--unrun", action="store_true", help="leave all cells unrun: a minute, not ten"
    )
    options = parser.parse_args(argv)
    shutil.rmtree(DOCS / "_generated", ignore_errors=True)
    notebooks = convert_notebooks(ROOT / "notebooks", DOCS / "notebooks")
    pictures = collect_demo(options.demo, DOCS / "_generated" / "demo")
    rows = tabulate_results(ROOT / "benchmarks" / "results", DOCS / "_generated" / "measured.md")
    answered = collect_evidence(ROOT / "benchmarks" / "results", DOCS / "_generated" / "evidence")
    pages_left_unrun(DOCS / "_generated")
    print(
        f"{len(notebooks)} notebooks, {len(pictures)} pictures of the demo, {rows} rows measured, "
        f"{len(answered)} questions answered",
        file=sys.stderr,
    )
    doctrees = str(options.out.parent / "doctrees")
    unrun = ["-D", "nb_execution_mode=off"] if options.unrun else []
    command = ["-b", "html", "-W", "--keep-going", "-q", "-E", *unrun, "-d", doctrees]
    return build_main([*command, str(DOCS), str(options.out)])


if __name__ == "__main__":
    sys.exit(main())
