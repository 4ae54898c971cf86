"""A page on a screen, with everything that it complains of or asks a network for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


class Opened(NamedTuple):
    """A page in the browser, and everything that it complained of or asked a network for."""

    page: Any
    complaints: list[str]
    requests: list[str]


@contextmanager
def opened(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> Iterator[Opened]:
    """The page of a file on a screen, once its charts are drawn."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found = Opened(page, [], [])
    page.on("console", lambda m: found.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(file.as_uri())
    if page.locator("[data-chart]").count():
        page.wait_for_selector("html[data-drawn]")
    yield found
    page.close()


def assert_undisturbed(found: Opened, file: Path) -> None:
    """The browser complained of nothing, and the page loaded nothing but itself."""
    assert found.complaints == []
    assert [url for url in found.requests if not url.startswith("data:")] == [file.as_uri()]
