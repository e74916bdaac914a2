r"""Sphinx extension: `$...$` in docstrings is mathematics, and mathematics becomes MathML.

MathML is part of the page: nothing is fetched when it is read, and it prints. Docutils brings the translator;
a formula that it does not know is a warning, hence an error of the build.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NoReturn
from xml.etree import ElementTree

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

__all__ = ["pieces", "setup", "to_roles", "translated"]

ElementTree.register_namespace("", "http://www.w3.org/1998/Math/MathML")

BLOCK = re.compile(
    r"^(?P<indent> *)\$\$(?P<tex>.+?)\$\$(?P<rest>[^\n]*)$", re.DOTALL | re.MULTILINE
)
INLINE = re.compile(r"(?<![\\$\w])\$(?=\S)(?P<tex>[^$]*[^$\s\\])\$(?P<after>\w?)")
ALIASES = {
    r"\iff": r"\Longleftrightarrow",
    r"\implies": r"\Longrightarrow",
    r"\dots": r"\ldots",
    r"\setminus": r"\backslash",  # a sign that every font has
    r"\big": r"\bigl",
    r"\Big": r"\Bigl",
    r"\tfrac": r"\frac",
}
"""Commands that the translator lacks, in words that it has."""

BARE_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")
"""`\\frac12`, which TeX reads as one half."""

APPLIED = "\u2061"
"""What the translator writes behind the name of a function; no browser leaves space for it."""

SEPARATOR = re.compile(r",?\s*\\q?quad(?![A-Za-z])\s*")
BRACES = "\u23df\u23de"
ACCENTS = frozenset("ˆ^ˉ¯˜~˙¨⃗→ˇ˘‾")


def to_roles(lines: Iterable[str]) -> list[str]:
    """Turn `$$...$$` into math directives and `$...$` into math roles; doctests stay as they are."""
    turned: list[str] = []
    for is_code, chunk in _chunks(lines):
        text = "\n".join(chunk)
        if not is_code:
            text = INLINE.sub(_inline, BLOCK.sub(_block, text))
        turned += text.split("\n")
    return turned


def _chunks(lines: Iterable[str]) -> Iterator[tuple[bool, list[str]]]:
    chunk: list[str] = []
    is_code = False
    for line in lines:
        starts = line.lstrip().startswith(">>>")
        if (starts and not is_code) or (is_code and not line.strip()):
            if chunk:
                yield is_code, chunk
            chunk, is_code = [], starts
        chunk.append(line)
    if chunk:
        yield is_code, chunk


def _block(found: re.Match[str]) -> str:
    indent, rest = found["indent"], found["rest"].strip()
    tex = f"\n{indent}   ".join(line.strip() for line in found["tex"].strip().split("\n"))
    after = f"\n{indent}{rest}" if rest.strip(".,;") else ""
    return f"\n{indent}.. math::\n\n{indent}   {tex}\n{after}"


def _inline(found: re.Match[str]) -> str:
    tex = " ".join(found["tex"].split())
    return f":math:`{tex}`" + (f"\\ {found['after']}" if found["after"] else "")


def _process_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    lines[:] = to_roles(lines)


def translated(tex: str, *, as_block: bool) -> str:
    """MathML of a formula.

    Raises
    ------
    docutils.utils.math.MathError
        If the formula has a command that the translator does not know.
    """
    from docutils.utils.math.latex2mathml import tex2mathml

    for alias, meaning in ALIASES.items():
        tex = re.sub(re.escape(alias) + r"(?![A-Za-z])", lambda _, known=meaning: known, tex)
    tex = BARE_FRACTION.sub(r"\\frac{\1}{\2}", tex)
    if as_block and r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    return _with_indices_beside(tex2mathml(tex, as_block=as_block))


def _mathml(tex: str, node: nodes.Element, *, as_block: bool) -> str:
    from docutils.utils.math import MathError
    from sphinx.util import logging

    try:
        return translated(tex, as_block=as_block)
    except MathError as error:
        logging.getLogger(__name__).warning("formula %r: %s", tex, error, location=node)
        return f"<code>{html.escape(tex)}</code>"


def _with_indices_beside(mathml: str) -> str:
    """Set the index of an accented letter beside it, and words below a brace; the translator swaps them."""
    named = re.compile(r"&(?!lt;|gt;|amp;|quot;|apos;)\w+;")
    root = ElementTree.fromstring(named.sub(lambda found: html.unescape(found[0]), mathml))
    for element in root.iter():
        if element.tag.endswith(("msub", "msup")) and element[0].tag.endswith(("munder", "mover")):
            mark = (element[0][1].text or "").strip()
            if mark in BRACES:
                element.tag = element.tag.replace("msub", "munder").replace("msup", "mover")
        if element.tag.endswith("munderover") and (element[2].text or "").strip() in ACCENTS:
            space = element.tag.removesuffix("munderover")
            letter, index, accent = element
            element.clear()
            element.tag = f"{space}msub"
            accented = ElementTree.SubElement(element, f"{space}mover", accent="true")
            accented.extend([letter, accent])
            element.append(index)
    _set_names_apart(root)
    return ElementTree.tostring(root, encoding="unicode")


def _set_names_apart(root: ElementTree.Element) -> None:
    """Thin spaces around the names of functions, as TeX has them: none beside a sign or an open bracket."""
    space = root.tag.removesuffix("math")
    thin = {"width": "0.1667em"}
    for row in root.iter():
        set_apart: list[ElementTree.Element] = []
        parts = list(row)
        for i, part in enumerate(parts):
            named = i + 1 < len(parts) and parts[i + 1].text == APPLIED
            if named and i > 0 and (_is_quantity(parts[i - 1]) or parts[i - 1].text in (")", "]")):
                set_apart.append(ElementTree.Element(f"{space}mspace", thin))
            set_apart.append(part)
            if part.text == APPLIED and i + 1 < len(parts) and _is_quantity(parts[i + 1]):
                set_apart.append(ElementTree.Element(f"{space}mspace", thin))
        if len(set_apart) > len(parts):
            row[:] = set_apart


def _is_quantity(part: ElementTree.Element) -> bool:
    """Whether it is a letter, a number or made of them, not a sign, a bracket or a space."""
    first = part
    while len(first) and not first.tag.endswith(("mfrac", "mroot", "msqrt", "mtable")):
        first = first[0]
    return not first.tag.endswith(("mo", "mspace", "mtext"))


def pieces(tex: str) -> list[str]:
    """Parts of a displayed line between wide spaces, so that a narrow page can break it there."""
    parts, depth, start = [], 0, 0
    for found in re.finditer(r"\\left|\\right|\\begin|\\end|(?<!\\)[{}]|" + SEPARATOR.pattern, tex):
        token = found[0]
        if token in ("{", r"\left", r"\begin"):
            depth += 1
        elif token in ("}", r"\right", r"\end"):
            depth -= 1
        elif depth == 0:
            parts.append(tex[start : found.start()] + ("," if token.startswith(",") else ""))
            start = found.end()
    return [part for part in (*parts, tex[start:]) if part.strip()]


def _visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    mathml = _mathml(node.astext(), node, as_block=False)
    if "mark" in node:
        mathml = f'<span class="with-mark">{mathml}{node["mark"]}</span>'
    translator.body.append(mathml)
    _skip()


def _visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    formulas = "".join(
        f"<div>{_mathml(piece, node, as_block=True)}</div>" for piece in pieces(node.astext())
    )
    translator.body.append(f'<div class="math-block">{formulas}</div>')
    _skip()


def _keep_marks(app: Sphinx, tree: nodes.document, name: str) -> None:
    """Give each formula in a line the mark behind it, which would else begin the next line."""
    from docutils import nodes

    for formula in list(tree.findall(nodes.math)):
        place = formula.parent.index(formula) + 1
        behind = formula.parent[place] if place < len(formula.parent) else None
        mark = re.match(r"[.,;:!?)]+", behind) if isinstance(behind, nodes.Text) else None
        if mark is not None and behind is not None:
            formula["mark"] = mark[0]
            formula.parent[place] = nodes.Text(behind[len(mark[0]) :])


def _skip() -> NoReturn:
    from docutils.nodes import SkipNode

    raise SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer, and the docstring step ahead of napoleon's (which has priority 500)."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_html_math_renderer(
        "mathml", inline_renderers=(_visit_inline, None), block_renderers=(_visit_block, None)
    )
    app.connect("doctree-resolved", _keep_marks)
    app.connect("autodoc-process-docstring", _process_docstring, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
