r"""A report in one HTML file: pictures inlined, readable on a phone, in the dark and on paper.

`page` builds the text of the file, `figure_png` turns a figure into bytes. Nothing is loaded from anywhere: a
content security policy in the file forbids it.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from realization.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "Section", "Table", "figure_png", "page"]

PIXELS_PER_INCH = 105  # seven inches fill the text column
_NUMBER = re.compile(r"[-+−±]?[\d.,]+(e[-+]?\d+)?( ?%)?|–|")


class Picture(NamedTuple):
    """A picture of a report.

    Parameters
    ----------
    image : bytes or path
        PNG or SVG: its bytes, or the file that holds them.
    caption : str
        Plain words under the picture, markdown-light (see `page`).
    alt : str
        What the picture shows, for someone who cannot see it. Must not be empty.
    """

    image: bytes | str | Path
    caption: str
    alt: str


class Table(NamedTuple):
    """A table of a report: columns that hold numbers only (as such or in writing) are set flush right.

    Parameters
    ----------
    header : sequence of str
    rows : sequence of sequences of str, int, float or None
        Numbers are written with four significant digits, `None` as a dash.
    caption : str, optional
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report: a heading, text, then its table, then its pictures.

    Parameters
    ----------
    heading : str
    text : str, optional
        Markdown-light (see `page`).
    figures : sequence of Picture, or of tuples `(image, caption, alt)`
    table : Table or tuple `(header, rows)`, optional
    """

    heading: str
    text: str = ""
    figures: Sequence[Picture | tuple[bytes | str | Path, str, str]] = ()
    table: Table | tuple[Sequence[str], Sequence[Sequence[str | float | None]]] | None = None


def figure_png(figure: Figure, *, dpi: int = 160) -> bytes:
    r"""PNG of a matplotlib figure; equal figures give equal bytes.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        On a white ground, whatever the style.
    dpi : int
        Pixels per inch; 160 is sharp at 700 px width on a screen of double density.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from realization.report import figure_png
    >>> figure_png(Figure(figsize=(2, 1)))[:4]
    b'\x89PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="png", dpi=dpi, facecolor="white", bbox_inches="tight", metadata={"Software": None}
    )
    return buffer.getvalue()


def page(
    title: str,
    lead: str,
    sections: Sequence[Section],
    *,
    key_figures: Sequence[tuple[str, str]] = (),
    footer: str = "",
) -> str:
    """Self-contained HTML page.

    Text is markdown-light: a blank line parts paragraphs, lines that start with `- ` make a list, `**bold**`,
    `*italic*`, code between backticks and `[words](address)` work, and everything else appears as it is
    written (no HTML passes through).

    Parameters
    ----------
    title : str
        Heading of the page, plain text.
    lead : str
        What a hurried reader needs, in one or two sentences.
    sections : sequence of Section
        In reading order; from four on, a list of contents is set above them.
    key_figures : sequence of (value, label), optional
        Numbers that stand large under the lead.
    footer : str, optional
        Where it came from: the command, versions, time.

    Returns
    -------
    str
        The whole file, from `<!doctype html>` on.

    Raises
    ------
    DataError
        If a picture cannot be read, is neither PNG nor SVG, or has no alternative text; or a table row is not
        as long as its header.

    Examples
    --------
    >>> from realization.report import Section, page
    >>> fit = Section("Fit", "It follows.", table=(["one step, %"], [[95.6]]))
    >>> text = page("Dryer", "Order **4** explains the data.", [fit])
    >>> "<strong>4</strong>" in text, "<td class=number>95.6</td>" in text
    (True, True)
    """
    parts = [f"<h1>{_escape(title)}</h1>", f"<div class=lead>{_prose(lead)}</div>"]
    if key_figures:
        cards = "".join(
            f"<div><dt>{_inline(label)}</dt><dd>{_inline(value)}</dd></div>" for value, label in key_figures
        )
        parts.append(f"<dl class=key>{cards}</dl>")
    if len(sections) > 3:
        links = "".join(
            f'<li><a href="#s{i}">{_inline(section.heading)}</a></li>'
            for i, section in enumerate(sections, 1)
        )
        parts.append(f'<nav aria-label="Contents"><ol>{links}</ol></nav>')
    parts += [_section(i, section) for i, section in enumerate(sections, 1)]
    if footer:
        parts.append(f"<footer>{_prose(footer)}</footer>")
    body = "\n".join(parts)
    return _FRAME.format(title=_escape(title), style=_style(), body=body)


def _section(number: int, section: Section) -> str:
    parts = [f'<section id="s{number}">', f"<h2>{_inline(section.heading)}</h2>", _prose(section.text)]
    if section.table is not None:
        table = section.table
        parts.append(_table(table if isinstance(table, Table) else Table(table[0], table[1])))
    parts += [_figure(Picture(*figure)) for figure in section.figures]
    return "\n".join([*(part for part in parts if part), "</section>"])


def _figure(picture: Picture) -> str:
    if not picture.alt.strip():
        raise DataError("a picture came without alternative text; say in `alt` what it shows.")
    kind, image = _image(picture.image)
    source = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
    return (
        f'<figure><img src="{source}"{_width(image)} alt="{_escape(picture.alt)}">'
        f"<figcaption>{_prose(picture.caption)}</figcaption></figure>"
    )


def _image(image: bytes | str | Path) -> tuple[str, bytes]:
    name = "a picture" if isinstance(image, bytes) else str(image)
    if not isinstance(image, bytes):
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise DataError(f"picture {name} cannot be read: {reason}.") from None
    if image.startswith(b"\x89PNG"):
        return "png", image
    if b"<svg" in image[:1000]:
        return "svg+xml", image
    raise DataError(f"{name} is neither PNG nor SVG; save it as one of these.")


def _width(image: bytes) -> str:
    """Width attribute that shows a PNG as large as it was drawn, whatever its resolution."""
    found = image.find(b"pHYs", 0, 200)
    if not image.startswith(b"\x89PNG") or found < 0:
        return ""
    pixels, per_metre = (int.from_bytes(image[at : at + 4], "big") for at in (16, found + 4))
    return f" width={round(pixels / per_metre / 0.0254 * PIXELS_PER_INCH)}" if per_metre else ""


def _table(table: Table) -> str:
    for row in table.rows:
        if len(row) != len(table.header):
            raise DataError(
                f"a table row has {len(row)} cells and its header {len(table.header)}: {list(row)!r}."
            )
    columns = list(zip(*table.rows)) if table.rows else [()] * len(table.header)
    numeric = [bool(column) and all(_is_number(cell) for cell in column) for column in columns]

    def cells(tag: str, row: Sequence[str | float | None]) -> str:
        marked = (
            f"<{tag}{' class=number' if right else ''}>{_cell(x)}</{tag}>" for x, right in zip(row, numeric)
        )
        return f"<tr>{''.join(marked)}</tr>"

    caption = f"<caption>{_inline(table.caption)}</caption>" if table.caption else ""
    body = "\n".join(cells("td", row) for row in table.rows)
    return (
        f"<div class=scroll tabindex=0><table>{caption}<thead>{cells('th', table.header)}</thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _is_number(cell: str | float | None) -> bool:
    return not isinstance(cell, str) or _NUMBER.fullmatch(cell.strip()) is not None


def _cell(value: str | float | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return _inline(value.replace("-", "−") if _is_number(value) else value)
    return str(int(value)) if isinstance(value, Integral) else f"{value:.4g}".replace("-", "−")


def _style() -> str:
    return resources.files("realization.report").joinpath("style.css").read_text(encoding="utf-8")


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def _prose(text: str) -> str:
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines()]
        if lines and all(line.startswith("- ") for line in lines):
            blocks.append("<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>")
        elif block:
            blocks.append(f"<p>{_inline(' '.join(lines))}</p>")
    return "\n".join(blocks)


def _inline(text: str) -> str:
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(
        f"<code>{_escape(piece[1:-1])}</code>" if piece.startswith("`") and len(piece) > 2 else _marked(piece)
        for piece in pieces
    )


def _marked(text: str) -> str:
    text = re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", _escape(text))
    text = re.sub(r"\[([^\]]+)\]\(((?:https?://|#|\.{0,2}/)?[^\s():]+)\)", r'<a href="\2">\1</a>', text)
    text = re.sub(r"\*\*(\S(?:.*?\S)?)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"(?<![\w*])\*(\S(?:[^*]*?\S)?)\*(?![\w*])", r"<em>\1</em>", text)


_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
