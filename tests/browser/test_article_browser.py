"""The report of the reproduction and the ledger in a browser: without errors, and readable on any screen.

The runs are those of a simulated world: nothing is trained.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeper.replication.claims.ledger import Ledger
from sweeper.replication.pages.ledger_page import html, ledger_sections
from sweeper.replication.pages.page import article_page
from sweeper.replication.verify import judge_runs
from tests.browser.screen import NEEDS_CHROMIUM, assert_undisturbed, opened
from tests.replication.drawn import QUICK
from tests.support.worlds import World

pytestmark = NEEDS_CHROMIUM

WORLD = World().but("exp1", accuracy=0.895, nll=0.3).but("exp5", nll=0.255).but("exp8", accuracy=0.953)
SCREENS = pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)  # fmt: skip
CLAIMS = len(QUICK.claims())


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    names = sorted({arm for claim in QUICK.claims() for arm in claim.question.arms})
    drawn = WORLD.draw(names, 5, np.random.default_rng(0))
    runs = {arm: [run._replace(run_id=f"{arm}-{run.seed}") for run in of_arm] for arm, of_arm in drawn.items()}
    links = {f"{arm}-{seed}": f"http://127.0.0.1:5000/#/runs/{arm}-{seed}" for arm in runs for seed in range(5)}
    return replace(judge_runs(tmp_path_factory.mktemp("home") / "journal", QUICK, runs), links=links)


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory, ledger: Ledger) -> Path:
    path = tmp_path_factory.mktemp("study") / "reproduce-quick.html"
    path.write_bytes(article_page(ledger.runs, QUICK, ledger_sections(ledger)))
    return path


@pytest.fixture(scope="module")
def ledger_file(tmp_path_factory: pytest.TempPathFactory, ledger: Ledger) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.html"
    path.write_bytes(html(ledger))
    return path


# Texts of which a part lies outside of the screen, but for those in a box that scrolls and those folded away.
CUT = """width => [...document.querySelectorAll('main p, main h1, main h2, main h3, main td, main th, main figcaption')]
    .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > width + 1)
    .filter(e => {
        for (let p = e.parentElement; p; p = p.parentElement)
            if (['auto', 'scroll'].includes(getComputedStyle(p).overflowX)) return false;
        return true;
    }).map(e => e.innerText.slice(0, 60))"""

# The least contrast of the texts of a page to what lies behind them (WCAG 2.2, 1.4.3), and which it is.
CONTRAST = """() => {
    const numbers = color => color.match(/[\\d.]+/g).map(Number);
    const part = x => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    const behind = e => {
        for (; e; e = e.parentElement) {
            const color = numbers(getComputedStyle(e).backgroundColor);
            if (color.length < 4 || color[3] > 0) return color;
        }
        return [255, 255, 255];
    };
    const all = [...document.querySelectorAll('main p, main h1, main h2, main h3, main td, main th, main a')]
        .filter(e => e.checkVisibility() && e.innerText.trim()).map(e => {
            const [a, b] = [numbers(getComputedStyle(e).color), behind(e)].map(light).sort((x, y) => y - x);
            return [(a + 0.05) / (b + 0.05), e.innerText.slice(0, 60)];
        });
    return all.reduce((worst, next) => next[0] < worst[0] ? next : worst);
}"""


def assert_readable(page: Any, width: int) -> None:
    """Nothing is wider than the screen but what scrolls by itself, and every text stands out."""
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CUT, width) == []
    least, text = page.evaluate(CONTRAST)
    assert least >= 4.5, text


def assert_table(page: Any, anchor: str, rows: int) -> None:
    """A table is there, and sorts by a click on a header."""
    section = page.locator(f"#{anchor}")
    first = section.locator("table").first
    assert first.locator("tbody tr").count() == rows
    header = first.locator("thead th").first
    header.locator("button").click()
    order = first.locator("tbody tr > :first-child").all_inner_texts()
    header.locator("button").click()
    assert first.locator("tbody tr > :first-child").all_inner_texts() == order[::-1]
    assert header.get_attribute("aria-sort") == "descending"


@SCREENS
def test_the_study_is_drawn_without_a_complaint(browser: Any, study_file: Path, width: int, scheme: str) -> None:
    with opened(browser, study_file, width, scheme) as found:
        page = found.page
        charts = page.locator("[data-chart]")
        assert charts.count() == 10  # the eight figures, the arms, and the variance shift
        for i in range(charts.count()):
            assert charts.nth(i).locator("svg.main-svg").count() >= 1
            box, figure = charts.nth(i).bounding_box(), charts.nth(i).locator("svg.main-svg").first.bounding_box()
            assert figure["width"] > 250
            assert figure["width"] <= box["width"] + 1
        figures = page.locator("#figures-4-to-11 [data-chart]")
        assert figures.count() == 8
        assert figures.first.locator(".scatterlayer .trace").count() == 12  # 2 metrics of 2 splits, a line and a band
        assert_table(page, "against-the-article-s-numbers", 8)
        assert page.locator("#verdicts table tbody tr").count() == CLAIMS
        assert_readable(page, width)
        assert_undisturbed(found, study_file)


@SCREENS
def test_the_ledger_is_drawn_without_a_complaint(browser: Any, ledger_file: Path, width: int, scheme: str) -> None:
    with opened(browser, ledger_file, width, scheme) as found:
        page = found.page
        assert_table(page, "verdicts", CLAIMS)
        forest = page.locator("#differences img")
        assert forest.count() == 1
        assert forest.evaluate("image => image.complete && image.naturalWidth > 0")
        assert forest.bounding_box()["height"] > 100
        folded = page.locator("#what-counts-as-supported details")
        assert folded.count() == CLAIMS
        folded.first.locator("summary").click()
        assert folded.first.locator("p").first.is_visible()
        assert page.locator("#runs a").first.get_attribute("href").startswith("http://127.0.0.1:5000/")
        assert_readable(page, width)
        assert_undisturbed(found, ledger_file)
