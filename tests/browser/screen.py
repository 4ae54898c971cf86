"""A browser, and a page on a screen with everything that it complains of or asks a network for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip


class Opened(NamedTuple):
    """A page in the browser, and everything that it complained of or asked a network for."""

    page: Any
    complaints: list[str]
    requests: list[str]


@contextmanager
def launched() -> Iterator[Any]:
    """The browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened_at(browser: Any, report: Path, width: int, scheme: str) -> Iterator[Opened]:
    """The report on a screen, once its charts are drawn."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found = Opened(page, [], [])
    page.on("console", lambda m: found.complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(report.as_uri())
    if page.locator("[data-chart]").count():
        page.wait_for_selector("html[data-drawn]")
    yield found
    page.close()
