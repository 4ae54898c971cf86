"""Take the pictures of a sweep's report that the documentation shows.

    python docs/report_screenshots.py FILE

FILE is what `sweeper report` wrote. Opens it in Debian's chromium (package chromium; another one by CHROMIUM=/path)
and writes docs/images/report-*.png.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run"]  # fmt: skip


def open_report(browser: Browser, file: Path, width: int, height: int, scheme: str) -> Page:
    """The report on a screen of so many pixels, once its charts are drawn."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(file.resolve().as_uri())
    page.wait_for_selector("html[data-drawn]")
    return page


def show(page: Page, section: str, name: str) -> None:
    """A picture of the screen with `section` at its head."""
    page.evaluate(f"document.getElementById('{section}').scrollIntoView()")
    page.screenshot(path=IMAGES / f"report-{name}.png")


def main(file: Path) -> None:
    """Write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = open_report(browser, file, 1280, 860, "light")
        page.screenshot(path=IMAGES / "report-summary.png")
        show(page, "parallel-coordinates", "landscape")
        show(page, "champion", "champion")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
