"""A study as rows."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator

import pytest

from sweeper.study.rows import elapsed


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("day", "start", "end", "minutes"),
    [
        ((2026, 7, 1), (2, 50), (3, 10), 20),
        ((2026, 10, 25), (2, 50), (2, 10), 20),  # the clock was set back, from 3 to 2
        ((2026, 10, 25), (1, 30), (3, 30), 180),
        ((2026, 10, 25), (2, 20), (2, 40), 20),
        ((2026, 3, 29), (1, 50), (3, 10), 20),  # the clock was set forward, from 2 to 3
    ],
)
def test_the_time_of_a_trial_does_not_depend_on_summer_time(
    day: tuple[int, int, int], start: tuple[int, int], end: tuple[int, int], minutes: int
):
    assert elapsed(dt.datetime(*day, *start), dt.datetime(*day, *end)) == 60 * minutes
