"""Build the documentation into docs/_build/html: `python docs/build.py`. Warnings are errors."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import jupytext
from sphinx.cmd.build import build_main

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent


def convert_notebooks(source: Path, target: Path) -> list[Path]:
    """Make an .ipynb under `target` of every .py under `source`; what is not there any more goes."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    made = []
    for path in sorted(source.glob("*.py")):
        made.append(target / f"{path.stem}.ipynb")
        jupytext.write(jupytext.read(path), made[-1])
    return made


def collect_demo(source: Path, target: Path) -> list[Path]:
    """Copy the pictures of the main job's report, and write the part of the page that shows them."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    pictures = [Path(shutil.copy(path, target)) for path in sorted(source.glob("*.png"))]
    blocks = [
        f"```{{figure}} _generated/demo/{picture.name}\n:alt: {_words(picture.stem)}\n:width: 100%\n\n"
        f"{_words(picture.stem).capitalize()}.\n```\n"
        for picture in pictures
    ]
    missing = (
        "```{note}\nThese pages were built without the demo's report, so its pictures are not here. Run "
        "`make demo`, then `make docs`.\n```\n"
    )
    (target.parent / "demo.md").write_text("\n".join(blocks) or missing, encoding="utf-8")
    return pictures


def _words(stem: str) -> str:
    return stem.lstrip("0123456789-_").replace("_", " ").replace("-", " ")


def main(argv: list[str] | None = None) -> int:
    """Convert, collect, build; the exit code is Sphinx's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--demo", type=Path, default=ROOT / "out" / "demo", help="folder of the demo's report"
    )
    parser.add_argument("--out", type=Path, default=DOCS / "_build" / "html", help="where the pages go")
    options = parser.parse_args(argv)
    shutil.rmtree(DOCS / "_generated", ignore_errors=True)
    notebooks = convert_notebooks(ROOT / "notebooks", DOCS / "notebooks")
    pictures = collect_demo(options.demo, DOCS / "_generated" / "demo")
    print(f"{len(notebooks)} notebooks, {len(pictures)} pictures of the demo", file=sys.stderr)
    doctrees = str(options.out.parent / "doctrees")
    return build_main(
        ["-b", "html", "-W", "--keep-going", "-q", "-E", "-d", doctrees, str(DOCS), str(options.out)]
    )


if __name__ == "__main__":
    sys.exit(main())
