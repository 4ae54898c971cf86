"""The report in a browser: drawn without a complaint of its policy, sorted by mouse and keyboard, on any screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper.report.sweep.page import draw, sweep_page
from tests.browser.screen import NEEDS_CHROMIUM, assert_undisturbed, opened
from tests.support.swept import CHAMPION, IMPORTANCES, picture, searched, sweep, trial

CANARY = "<img src=x onerror=console.error('canary')>"

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trials = [*searched(30), trial(30, 0.3, state="pruned", reason=CANARY)]
    found = sweep(*trials, importances=IMPORTANCES, champion=CHAMPION._replace(errors=picture(1500, 400)))
    path = tmp_path_factory.mktemp("report") / "demo.html"
    path.write_bytes(sweep_page(found, draw(found)))
    return path


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_report_is_drawn_without_a_complaint_and_without_a_network(
    browser: Any, report: Path, width: int, scheme: str
) -> None:
    with opened(browser, report, width, scheme) as found:
        assert_undisturbed(found, report)
        charts = found.page.locator("[data-chart]")
        assert charts.count() == 9
        for i in range(charts.count()):
            assert charts.nth(i).locator("svg.main-svg").count() >= 1
        assert found.page.evaluate("document.documentElement.scrollWidth") == width
        assert found.page.locator("img[src=x]").count() == 0


def test_the_page_and_its_charts_follow_the_readers_light_and_dark(
    browser: Any, report: Path, until: Callable[..., Any]
) -> None:
    label = "getComputedStyle(document.querySelector('[data-chart] .xtick text')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, report) as (page, complaints, _):
        light = page.evaluate(label), page.evaluate(paper)
        page.emulate_media(color_scheme="dark")
        until(lambda: page.evaluate(label) != light[0], "dark charts")
        assert page.evaluate(paper) != light[1]
        page.emulate_media(color_scheme="light")
        until(lambda: page.evaluate(label) == light[0], "light charts")
        assert complaints == []


def column(page: Any, number: int) -> list[str]:
    """The texts of a column of the leaderboard."""
    cells = page.locator(f"#leaderboard tbody tr > :nth-child({number})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_a_table_sorts_by_a_click(browser: Any, report: Path) -> None:
    with opened(browser, report) as (page, _, _):
        header = page.locator("#leaderboard thead th").nth(3)
        assert header.inner_text().startswith("Val accuracy")
        assert header.get_attribute("aria-sort") is None
        best_first = column(page, 4)
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == "ascending"
        assert column(page, 4) == best_first[::-1]
        header.locator("button").click()
        assert header.get_attribute("aria-sort") == "descending"
        assert column(page, 4) == best_first


def test_a_phone_shows_the_placement_and_the_value_of_each_configuration_without_scrolling(
    browser: Any, report: Path
) -> None:
    with opened(browser, report, 390, "light") as (page, _, _):
        headers = page.locator("#leaderboard thead th")
        names = [name.strip() for name in headers.all_inner_texts()]
        assert names[2] == "placement"
        assert names[3].startswith("Val accuracy")
        box = headers.nth(3).bounding_box()
        assert box["x"] + box["width"] <= 390


def test_a_table_sorts_by_the_keyboard_and_what_is_missing_comes_last(browser: Any, report: Path) -> None:
    with opened(browser, report) as (page, _, _):
        headers = page.locator("#leaderboard thead th")
        names = [name.strip() for name in headers.all_inner_texts()]
        place = next(i for i, name in enumerate(names) if name.startswith("conv_dropout"))
        headers.nth(place - 1).locator("button").focus()
        page.keyboard.press("Tab")
        for key in ("Enter", "Space"):
            page.keyboard.press(key)
            shown = column(page, place + 1)
            numbers = [float(text) for text in shown if text != "\N{EN DASH}"]
            assert shown[len(numbers) :] == ["\N{EN DASH}"]  # of bn, which has no rate
            assert numbers == sorted(numbers, reverse=key == "Space")
        assert [h for h in (headers.nth(i).get_attribute("aria-sort") for i in range(len(names))) if h] == [
            "descending"
        ]


def test_it_prints_on_paper_in_light_colours(browser: Any, report: Path) -> None:
    with opened(browser, report, 1280, "dark") as (page, complaints, _):
        assert page.pdf(format="A4").startswith(b"%PDF")
        assert complaints == []
