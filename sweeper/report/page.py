"""One self-contained HTML page: sections of text, tables, pictures and charts, in a file that needs no network.

Everything that is not `Markup` is escaped. A Content-Security-Policy admits the two scripts of the page by their
hashes, pictures in `data:` URIs, and nothing that lies elsewhere. Style attributes have to be admitted
(`'unsafe-inline'`): plotly.js sets the pixels of a heat map and the gradient of a colour bar by them, and adds its
own style sheets. With scripts held by hashes, and no address to load from, a style can send nothing anywhere.

Charts are drawn by plotly.js, which the plotly package carries in one bundle only, of 4.8 MB; a page without
charts goes without it.
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

# What a colour is on light, and on dark. A chart names the light ones; page.js puts the dark ones in their place.
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
    "ramp-0": ("#BCCBDA", "#33475A"),  # of accuracies, the worst
    "ramp-1": ("#7DBBE2", "#3A75A3"),
    "ramp-2": ("#0072B3", "#56B0E6"),  # blue, but for the key that page.js finds it by
    "ramp-3": ("#002B45", "#D8EFFD"),
}
COLORWAY: Final = (BLUE, VERMILLION, GREEN, ORANGE, PINK, SKY, INK, GREY)
FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
LONGEST_LINE: Final = 26  # characters of a cell that is not broken
CHART_HEIGHT: Final = 420  # pixels, where a figure does not say
NOTHING: Final = "\N{EN DASH}"


class Section(NamedTuple):
    """A part of a page, with its entry in the table of contents."""

    title: str
    html: Markup


class Cell(NamedTuple):
    """A cell that shows one thing and sorts by another."""

    shown: str | Markup
    order: float | str | None


Value: TypeAlias = str | int | float | Markup | Cell | None


def page(title: str, lead: str, sections: Sequence[Section]) -> bytes:
    """The page, as UTF-8.

    Args:
        title: its heading, and the browser's.
        lead: the sentences below it: what the page says, in short.
        sections: in their order; their titles are its table of contents.
    """
    has_charts = any(" data-chart " in section.html for section in sections)
    scripts = [*([get_plotlyjs()] if has_charts else []), _asset("page.js")]
    names = _anchors(section.title for section in sections)
    parts = _templates().get_template("page.html").generate(  # a page of 10,000 trials is large: never two of it
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
    """A table whose first column names its rows; columns of numbers stand right, and sort as numbers.

    Args:
        headers: of the columns.
        rows: one value a column. None is a dash, which sorts last; a float has six digits, a `Cell` says itself.
        caption: what the table holds; it is read out, and shown above it.
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
    """A picture in the page itself.

    Args:
        content: a PNG.
        alt: what it shows, for those who do not see it.
        least_width: in pixels; where the page is narrower, the picture scrolls.

    Raises:
        ValueError: `content` is no PNG.
    """
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG")
    width, height = struct.unpack(">II", content[16:24])
    return _fragment("png", uri=_data_uri(content, "image/png"), alt=alt, width=width, height=height,
                     least_width=least_width)  # fmt: skip


def chart(figure: go.Figure, caption: str = "", *, least_width: int = 0) -> Markup:
    """A chart that can be explored, in the page's colours.

    Colours of `PALETTE` change with the reader's light or dark; the figure's title is left to the page.

    Args:
        figure: `layout.height` is its height in pixels.
        caption: what it shows; below it, and for those who do not see it.
        least_width: in pixels; where the page is narrower, the chart scrolls.
    """
    drawn = go.Figure(figure)
    height = drawn.layout.height or CHART_HEIGHT
    drawn.update_layout(template=_template(), height=height)
    json_text = _within_script(str(drawn.to_json()))
    return _fragment("chart", json=json_text, caption=caption, height=height, width=least_width)


def facts(pairs: Iterable[tuple[str, Value]]) -> Markup:
    """Names with their values, beside one another."""
    return _fragment("facts", pairs=[(name, _cell(value).shown) for name, value in pairs])


def figures(pairs: Iterable[tuple[str, Value]]) -> Markup:
    """The few numbers that matter most, large."""
    return _fragment("figures", pairs=[(name, _cell(value).shown) for name, value in pairs])


def text(words: str) -> Markup:
    """A paragraph."""
    return Markup("<p>{}</p>").format(words)


def heading(words: str) -> Markup:
    """A heading within a section."""
    return Markup("<h3>{}</h3>").format(words)


def folded(summary: str, html: Markup) -> Markup:
    """A part that opens on demand."""
    return Markup("<details><summary>{}</summary>{}</details>").format(summary, html)


def beside(*parts: Markup) -> Markup:
    """Parts side by side, where the page is wide enough."""
    return Markup('<div class="pair">{}</div>').format(Markup("").join(map(_boxed, parts)))


def download(name: str, content: bytes, media_type: str) -> Markup:
    """A link that saves `content`, which is in the page, as a file."""
    return Markup('<a class="download" download="{}" href="{}">{}</a>').format(
        name, _data_uri(content, media_type), name
    )


def _boxed(part: Markup) -> Markup:
    return Markup("<div>{}</div>").format(part)


def _cell(value: Value) -> Cell:
    match value:
        case Cell():
            return value
        case None:
            return Cell(NOTHING, None)
        case float() if value != value:
            return Cell(NOTHING, None)
        case float():
            return Cell(f"{value:.6g}", value)
        case bool():
            return Cell("yes" if value else "no", str(value))
        case int():
            return Cell(f"{value:,}", value)
        case _:
            return Cell(value, str(value))


def _anchors(titles: Iterable[str]) -> list[str]:
    """A name for each section that an address can end in; no two alike."""
    names = ["content", "dark"]  # which the page itself has
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
    """JSON in which nothing can end the script element that holds it."""
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
        keep_trailing_newline=False,
    )


@cache
def _asset(name: str) -> str:
    return (files("sweeper.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _template() -> go.layout.Template:
    """What all charts share."""
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
            "colorway": COLORWAY,
            "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
            "xaxis": axis,
            "yaxis": axis,
            "coloraxis": {"colorbar": {"outlinewidth": 0, "thickness": 12}},
            "legend": {"orientation": "h", "xref": "container", "x": 0, "yref": "container", "y": 0,
                       "yanchor": "bottom", "entrywidth": 93, "font": {"color": SOFT_INK, "size": 11}},
            "hoverlabel": {"bgcolor": PAPER, "bordercolor": GREY, "font": {"color": INK}, "align": "left"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": BLUE},
        }
    )  # fmt: skip
