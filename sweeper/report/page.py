"""One self-contained HTML page: sections of text, tables, pictures and charts, in a file that needs no network.

Everything that is not `Markup` is escaped. A Content-Security-Policy admits the page's two scripts by their hashes and
pictures in `data:` URIs, and nothing from elsewhere. It must admit style attributes (`'unsafe-inline'`): plotly.js uses
them for the pixels of a heat map and the gradient of a colour bar, and adds its own style sheets. With no other script
and no address to load from, a style can send nothing anywhere.

The plotly package has plotly.js in one bundle only, of 4.8 MB. A page without charts omits it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple, TypeAlias

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sweeper import __version__
from sweeper.report.figure import BLUE, GREY, GRID, INK, ORANGE, SOFT_INK, VERMILLION

PAPER: Final = "#FFFFFF"
GREEN: Final = "#009E73"
PINK: Final = "#CC79A7"
SKY: Final = "#56B4E9"
PURPLE: Final = "#5E4FA2"
BROWN: Final = "#8C510A"
OLIVE: Final = "#9A8700"

# Each colour on light and on dark. Charts use the light ones, which page.js replaces by the dark ones.
PALETTE: Final = {
    "paper": (PAPER, "#12161B"),
    "raised": ("#F6F8FA", "#1A1F26"),
    "ink": (INK, "#E6EAEE"),
    "soft-ink": (SOFT_INK, "#A0AAB5"),
    "grey": (GREY, "#77818C"),
    "grid": (GRID, "#2B323A"),
    "blue": (BLUE, "#4FA8E0"),
    "orange": (ORANGE, "#EDB033"),
    "vermillion": (VERMILLION, "#F58443"),
    "green": (GREEN, "#2CC295"),
    "pink": (PINK, "#DF9CC2"),
    "sky": (SKY, "#8CCFF5"),
    "purple": (PURPLE, "#A79BE0"),
    "brown": (BROWN, "#C98E4A"),
    "olive": (OLIVE, "#E0D050"),
    "ramp-0": ("#BCCBDA", "#33475A"),  # the worst accuracies
    "ramp-1": ("#7DBBE2", "#3A75A3"),
    "ramp-2": ("#0072B3", "#56B0E6"),  # one off from blue: page.js needs distinct keys
    "ramp-3": ("#002B45", "#D8EFFD"),
}
FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
LONGEST_LINE: Final = 26  # characters that a cell shows in one line
CHART_HEIGHT: Final = 420  # pixels, by default
NOTHING: Final = "\N{EN DASH}"


class Section(NamedTuple):
    """A part of a page; its title is an entry of the table of contents."""

    title: str
    html: Markup


class Cell(NamedTuple):
    """A cell that shows one thing and sorts by another."""

    shown: str | Markup
    order: float | str | None


Value: TypeAlias = str | int | float | Markup | Cell | None


def page(title: str, lead: str, sections: Sequence[Section]) -> bytes:
    """Return the page in UTF-8.

    Args:
        title: the heading, and the title in the browser.
        lead: the sentences below it, which summarise the page.
        sections: in their order.
    """
    has_charts = any(" data-chart " in section.html for section in sections)
    scripts = [*([get_plotlyjs()] if has_charts else []), _asset("page.js")]
    names = _anchors(section.title for section in sections)
    parts = _templates().get_template("page.html").generate(  # in parts: a page of 10,000 trials is large
        title=title,
        lead=lead,
        sections=list(zip(names, sections, strict=True)),
        policy=_policy(scripts),
        scripts=scripts,
        style=_asset("page.css"),
        palette=PALETTE,
        dark=json.dumps(dict(PALETTE.values())),
        version=__version__,
    )  # fmt: skip
    return b"".join(part.encode() for part in parts)


def table(
    headers: Sequence[str], rows: Iterable[Sequence[Value]], *, caption: str = "", sortable: bool = True
) -> Markup:
    """Return a table whose first column names its rows; columns of numbers are on the right, and sort as numbers.

    Args:
        headers: of the columns.
        rows: one value for each column. None is a dash, which sorts last; a float has six digits.
        caption: shown above the table, and read out by screen readers.
        sortable: a click or a key on a header sorts by it.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [
        bool(cells) and all(isinstance(row[i].order, int | float | None) for row in cells) for i in range(len(headers))
    ]
    return _fragment(
        "table", headers=headers, rows=cells, numeric=numeric, caption=caption, sortable=sortable, longest=LONGEST_LINE
    )


def png(content: bytes, alt: str, *, least_width: int = 0) -> Markup:
    """Return a picture that is stored in the page itself.

    Args:
        content: a PNG.
        alt: the description for screen readers.
        least_width: in pixels; where the page is narrower, the picture scrolls.

    Raises:
        ValueError: `content` is not a PNG.
    """
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG")
    width, height = struct.unpack(">II", content[16:24])
    return _fragment("png", uri=_data_uri(content, "image/png"), alt=alt, width=width, height=height,
                     least_width=least_width)  # fmt: skip


def chart(figure: go.Figure, caption: str = "", *, least_width: int = 0) -> Markup:
    """Return an interactive chart, whose colours of `PALETTE` follow the reader's light or dark scheme.

    Args:
        figure: `layout.height` is its height in pixels.
        caption: shown below it, and the description for screen readers.
        least_width: in pixels; where the page is narrower, the chart scrolls.
    """
    drawn = go.Figure(figure)
    height = drawn.layout.height or CHART_HEIGHT
    drawn.update_layout(template=_template(), height=height)
    json_text = _within_script(str(drawn.to_json()))
    return _fragment("chart", json=json_text, caption=caption, height=height, width=least_width)


def facts(pairs: Iterable[tuple[str, Value]]) -> Markup:
    """Return names with their values, side by side."""
    return _fragment("pairs", pairs=[(name, _cell(value).shown) for name, value in pairs], kind="facts")


def figures(pairs: Iterable[tuple[str, Value]]) -> Markup:
    """Return the most important numbers, large."""
    return _fragment("pairs", pairs=[(name, _cell(value).shown) for name, value in pairs], kind="figures")


def text(words: str) -> Markup:
    """Return a paragraph."""
    return Markup("<p>{}</p>").format(words)


def heading(words: str) -> Markup:
    """Return a heading within a section."""
    return Markup("<h3>{}</h3>").format(words)


def folded(summary: str, html: Markup) -> Markup:
    """Return a part that opens on demand."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, html)


def beside(*parts: Markup) -> Markup:
    """Return parts side by side, where the page is wide enough."""
    boxes = Markup("").join(Markup("<div>{}</div>").format(part) for part in parts)
    return Markup('<div class="pair">{}</div>').format(boxes)


def download(name: str, content: bytes, media_type: str) -> Markup:
    """Return a link that saves `content`, which is stored in the page, as a file."""
    link = Markup('<a class="download" download="{}" href="{}">{}</a>')
    return link.format(name, _data_uri(content, media_type), name)


def _cell(value: Value) -> Cell:
    match value:
        case Cell():
            return value
        case float() if value == value:
            return Cell(f"{value:.6g}", value)
        case None | float():
            return Cell(NOTHING, None)
        case bool():
            return Cell("yes" if value else "no", str(value))
        case int():
            return Cell(f"{value:,}", value)
        case _:
            return Cell(value, str(value))


def _anchors(titles: Iterable[str]) -> list[str]:
    """Return a distinct id for each section, to link to."""
    names = ["content", "dark"]  # ids of the page itself
    for title in titles:
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        names.append(name if name not in names else f"{name}-{len(names)}")
    return names[2:]


def _policy(scripts: Iterable[str]) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _within_script(text: str) -> str:
    """Escape JSON so that it cannot end the script element that holds it."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _fragment(name: str, **values: Any) -> Markup:
    html: Markup = getattr(_templates().get_template("parts.html").module, name)(**values)
    return html


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("sweeper.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    return (files("sweeper.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _template() -> go.layout.Template:
    """Return the layout that all charts share."""
    axis = {
        "gridcolor": GRID, "linecolor": GREY, "zerolinecolor": GRID, "automargin": True,
        "tickcolor": GREY, "ticks": "outside", "ticklen": 4, "tickfont": {"color": SOFT_INK},
        "title": {"font": {"color": SOFT_INK, "size": 13}, "standoff": 8},
    }  # fmt: skip
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "xref": "container", "x": 0, "yref": "container", "y": 0,
                       "yanchor": "bottom", "entrywidth": 93, "font": {"color": SOFT_INK, "size": 11}},
            "hoverlabel": {"bgcolor": PAPER, "bordercolor": GREY, "font": {"color": INK}, "align": "left"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": BLUE},
        }
    )  # fmt: skip
