"""The front of accuracy, loss and time: who is on it, its table and its file."""

from __future__ import annotations

import csv
import re

from hypothesis import given
from hypothesis import strategies as st

from sweeper.report.sweep.charts import time_accuracy
from sweeper.report.sweep.front import front, pareto
from sweeper.report.sweep.page import draw, sweep_page
from sweeper.report.sweep.rows import Configuration
from sweeper.report.sweep.tables import front_csv, front_table, leaderboard
from tests.support.swept import sweep, trial

Point = tuple[float, float, float]


def brute_force(points: list[Point]) -> list[int]:
    def dominates(a: Point, b: Point) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    return [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]


few = st.integers(0, 4).map(float)  # so that many are equal in a coordinate


@given(st.lists(st.tuples(few, few, few), max_size=30))
def test_the_front_is_that_of_every_pair_compared(points: list[Point]) -> None:
    assert pareto(points) == brute_force(points)


def configurations() -> list[Configuration]:
    """A fast one, an accurate one of two seeds, one of the lowest loss, and one that the accurate one surpasses."""
    return sweep(
        trial(0, 0.80, loss=0.5, seconds=1.0, params={"batch_size": 512}),
        trial(1, 0.92, loss=0.3, seconds=5.0, params={"batch_size": 64}),
        trial(2, 0.90, loss=0.3, seconds=7.0, params={"batch_size": 64}),
        trial(3, 0.85, loss=0.2, seconds=9.0, params={"batch_size": 32}),
        trial(4, 0.85, loss=0.4, seconds=8.0, params={"batch_size": 128}),
        trial(5, 0.99, loss=None, seconds=8.0, params={"batch_size": 256}),
        trial(6, 0.99, loss=0.1, seconds=None, params={"batch_size": 16}),
    ).configurations()


def test_a_configuration_is_on_the_front_by_its_means() -> None:
    assert [c.trials[0].number for c in front(configurations())] == [1, 3, 0]


def test_the_table_shows_the_interval_where_there_are_seeds() -> None:
    first, *others = front(configurations())
    first = first._replace(standing=first.standing._replace(low=0.88, high=0.94))
    words = str(front_table([first, *others], ["batch_size"]))
    assert re.findall(r"\[88.00, 94.00\]", words) == ["[88.00, 94.00]"]
    assert words.count("<tr>") == 4
    assert ">6.0<" in words  # the mean of 5 and 7 seconds


def test_the_file_of_the_front_has_a_row_for_each_configuration_on_it() -> None:
    found = sweep(
        trial(0, 0.8, loss=0.5, seconds=1.0, params={"placement": "bn"}),
        trial(1, 0.9, loss=0.25, seconds=4.0, params={"placement": "ic"}),
        trial(2, 0.8, loss=0.75, seconds=6.0, params={"placement": "ic"}),
        trial(3, 0.7, loss=0.5, seconds=6.0, params={"placement": "none"}),
    )
    first, second = csv.DictReader(front_csv(found).decode().splitlines())
    standings = {c.trials[0].number: c.standing for c in found.configurations()}
    assert (first["trial"], first["seeds"], first["val_loss"], first["seconds"]) == ("1", "2", "0.5", "5.0")
    assert float(first["val_accuracy"]) == standings[1].shrunken
    assert (float(first["low"]), float(first["high"])) == (standings[1].low, standings[1].high)
    assert (second["trial"], second["seeds"], second["seconds"], second["placement"]) == ("0", "1", "1.0", "bn")


def test_the_chart_rings_the_front_and_joins_that_of_accuracy_and_time() -> None:
    timed = [c for c in configurations() if c.loss is not None and c.seconds]
    *_, ring, line = time_accuracy(timed, front(timed)).data
    assert list(ring.x) == [6.0, 9.0, 1.0]
    assert list(line.x) == [1.0, 6.0]


def test_the_page_says_how_many_are_on_the_front() -> None:
    found = sweep(trial(0), trial(1, 0.8, seconds=1.0, params={"placement": "ic"}))
    assert "2 configurations of 2 are on the front" in sweep_page(found, draw(found)).decode()


def test_the_leaderboard_remarks_on_the_edge_of_the_search_space() -> None:
    found = sweep(trial(0), trial(1, 0.8, params={"batch_size": 128}))
    assert "try smaller" not in str(leaderboard(found))
    words = str(leaderboard(found._replace(settings={"space.batch_size": [64, 128, 256]})))
    assert "The best batch size, 64, is the smallest value searched: try smaller ones." in words
