"""The page holds what it was given, escaped, in one file; its policy admits its own scripts and nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import struct
from functools import cache
from html.parser import HTMLParser

import plotly.graph_objects as go
import pytest
from markupsafe import Markup
from PIL import Image

from sweeper.report.figure import BLUE, INK
from sweeper.report.page import (
    NOTHING,
    PALETTE,
    Cell,
    Section,
    beside,
    chart,
    download,
    facts,
    figures,
    folded,
    heading,
    page,
    png,
    table,
    text,
)

CANARY = "<script>alert('canary')</script>"
PLOTLY_BYTES = 4_000_000


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text of its scripts by their type."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self._type: str | None = None
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script" and self.get_starttag_text() is not None:
            kind, before = self.scripts[-1]
            self.scripts[-1] = (kind, before + data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self.found.append(("/script", {}))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@cache
def parsed(content: bytes) -> Elements:
    return Elements(content)


def policy(content: bytes) -> dict[str, list[str]]:
    """The directives of a page's Content-Security-Policy."""
    metas = [m for m in parsed(content).named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert len(metas) == 1
    directives = [directive.split() for directive in str(metas[0]["content"]).split(";")]
    return {name: sources for name, *sources in directives}


def small(*sections: Section) -> bytes:
    return page("Title", "Lead.", sections or [Section("One", text("words"))])


@cache
def with_chart() -> bytes:
    return small(Section("Chart", chart(go.Figure(go.Scatter(y=[1, 2], line={"color": BLUE})), "A line")))


# --- escaping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made",
    [
        lambda: page(CANARY, "lead", []),
        lambda: page("title", CANARY, []),
        lambda: small(Section(CANARY, text("words"))),
        lambda: small(Section("One", text(CANARY))),
        lambda: small(Section("One", heading(CANARY))),
        lambda: small(Section("One", folded(CANARY, text("words")))),
        lambda: small(Section("One", facts([(CANARY, CANARY)]))),
        lambda: small(Section("One", figures([(CANARY, CANARY)]))),
        lambda: small(Section("One", table([CANARY], [[CANARY]], caption=CANARY))),
        lambda: small(Section("One", table(["a"], [[Cell(CANARY, CANARY)]]))),
        lambda: small(Section("One", download(CANARY, b"", "text/csv"))),
        lambda: small(Section("One", beside(text(CANARY), text(CANARY)))),
        lambda: small(Section("One", chart(go.Figure(), CANARY))),
        lambda: small(Section("One", chart(go.Figure(go.Scatter(y=[1], name=CANARY))))),
    ],
)
def test_what_is_no_markup_is_escaped(made: object) -> None:
    content = made()  # type: ignore[operator]
    assert b"alert(" in content
    assert b"<script>alert" not in content


def test_an_attribute_cannot_be_left() -> None:
    image = png(picture(3, 2), '" onerror="alert(1)')
    ((_, attributes),) = [(t, a) for t, a in Elements(str(image).encode()).found if t == "img"]
    assert set(attributes) == {"src", "alt", "width", "height"}
    assert attributes["alt"] == '" onerror="alert(1)'


def test_data_of_a_chart_cannot_end_its_script() -> None:
    made = chart(go.Figure(go.Scatter(y=[1], name="</script><!-- & >")))
    ((kind, data),) = Elements(str(made).encode()).scripts
    assert kind == "application/json"
    assert json.loads(data)["data"][0]["name"] == "</script><!-- & >"


# --- policy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [small(), with_chart()], ids=["plain", "chart"])
def test_the_policy_admits_exactly_the_scripts_of_the_page(content: bytes) -> None:
    scripts = [script for kind, script in parsed(content).scripts if kind is None]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy(content)["script-src"] == [f"'sha256-{value}'" for value in hashes]


def test_the_policy_loads_nothing() -> None:
    directives = policy(with_chart())
    assert directives.pop("script-src")
    assert directives == {
        "default-src": ["'none'"],
        "style-src": ["'unsafe-inline'"],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }


def test_no_element_names_another_address() -> None:
    content = small(Section("All", png(picture(1, 1), "p") + download("t.csv", b"a", "text/csv")))
    addresses = [
        value
        for made in (content, with_chart())
        for _, attributes in parsed(made).found
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert addresses
    assert [value for value in addresses if not str(value).startswith(("data:", "#"))] == []
    style = content[content.index(b"<style>") : content.index(b"</style>")]
    assert b"url(" not in style
    assert b"@import" not in style


def test_only_a_page_with_charts_carries_plotly() -> None:
    assert len(small()) < 50_000
    assert len(with_chart()) > PLOTLY_BYTES


# --- structure ------------------------------------------------------------------------------------


def test_every_section_is_in_the_table_of_contents() -> None:
    content = small(Section("All trials", text("a")), Section("All, trials!", text("b")), Section("Dark", text("c")))
    elements = Elements(content)
    links = [str(a["href"]) for a in elements.named("a") if a.get("class") != "skip"]
    names = [str(a["id"]) for _, a in elements.found if "id" in a]
    assert len(set(links)) == 3
    assert len(set(names)) == len(names)
    assert {link.removeprefix("#") for link in links} <= set(names)


def test_a_page_says_its_language_and_its_width() -> None:
    elements = Elements(small())
    assert elements.named("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in elements.named("meta")


# --- tables ---------------------------------------------------------------------------------------


def test_a_table_names_its_columns_and_rows() -> None:
    elements = Elements(str(table(["Trial", "Accuracy"], [[1, 0.9]], caption="All of them")).encode())
    assert [a.get("scope") for a in elements.named("th")] == ["col", "col", "row"]
    assert len(elements.named("caption")) == 1
    assert elements.named("table") == [{"data-sortable": None}]
    assert Elements(str(table(["a"], [], sortable=False)).encode()).named("table") == [{}]


def test_columns_of_numbers_stand_right() -> None:
    html = str(table(["Name", "Count", "Mixed", "Empty"], [["a", 1, 1, None], ["b", None, "x", None]]))
    classes = [a.get("class") for a in Elements(html.encode()).named("th")][:4]
    assert classes == [None, "number", None, "number"]


def test_a_long_text_is_broken_into_lines() -> None:
    html = str(table(["Name", "Why"], [["a", "short"], ["b", "long " * 20]]))
    assert [a.get("class") for a in Elements(html.encode()).named("td")] == [None, "wrap"]


@pytest.mark.parametrize(
    ("value", "shown", "order"),
    [
        (1234, "1,234", "1234"),
        (0.123456789, "0.123457", "0.123456789"),
        (float("nan"), NOTHING, ""),
        (None, NOTHING, ""),
        ("words", "words", None),
        (True, "yes", "True"),
        (Cell("91.20%", 0.912), "91.20%", "0.912"),
        (Cell(Markup("<b>bold</b>"), "bold"), "<b>bold</b>", "bold"),
    ],
)
def test_a_cell_shows_one_thing_and_sorts_by_another(value: object, shown: str, order: str | None) -> None:
    html = str(table(["a", "b"], [["row", value]]))  # type: ignore[list-item]
    ((attributes, content),) = re.findall(r"<td([^>]*)>(.*)</td>", html)
    assert content == shown
    found = re.search(r'data-order="([^"]*)"', attributes)
    assert (found[1] if found else None) == order


# --- pictures and charts --------------------------------------------------------------------------


def picture(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def test_a_picture_is_in_the_page_with_its_size() -> None:
    content = picture(30, 20)
    (image,) = Elements(str(png(content, "thirty by twenty")).encode()).named("img")
    assert (image["width"], image["height"], image["alt"]) == ("30", "20", "thirty by twenty")
    assert base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,")) == content


def test_what_is_no_png_is_refused() -> None:
    with pytest.raises(ValueError, match="not a PNG"):
        png(struct.pack("8x"), "nothing")


def test_a_chart_keeps_the_figure_it_was_given() -> None:
    figure = go.Figure(go.Scatter(y=[1, 2]))
    before = figure.to_json()
    drawn = json.loads(Elements(str(chart(figure, "c")).encode()).scripts[0][1])
    assert figure.to_json() == before
    assert drawn["layout"]["height"] == 420
    assert drawn["layout"]["template"]["layout"]["font"]["color"] == INK


def test_every_colour_has_one_partner_on_dark() -> None:
    light = [pair[0] for pair in PALETTE.values()]
    assert len(set(light)) == len(light)
    content = small()
    (dark,) = [script for kind, script in Elements(content).scripts if kind == "application/json"]
    assert json.loads(dark) == dict(PALETTE.values())


def test_a_download_is_in_the_page() -> None:
    (link,) = Elements(str(download("trials.csv", b"a,b\n", "text/csv")).encode()).named("a")
    assert link["download"] == "trials.csv"
    assert base64.b64decode(str(link["href"]).removeprefix("data:text/csv;base64,")) == b"a,b\n"
