"""Matplotlib figures: each is a whole picture for any input, and the tuples that decide what is drawn."""

from __future__ import annotations

import io
import math
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sweeper.core.metric import ACCURACY, LOSS, Metric
from sweeper.core.results import Mistake
from sweeper.report.figure import axis_ends, axis_floor, is_room_above, limits
from sweeper.report.run.curves import best_epoch, curves
from sweeper.report.run.errors import errors_picture
from sweeper.report.sweep.pictures import (
    PlacementRow,
    best_so_far,
    by_placement,
    history,
    importance,
    jitter,
    placements,
    rank,
    share_in_words,
)
from sweeper.report.sweep.rows import SweptTrial
from sweeper.study.importance import Importance
from tests.support import swept

TRIAL_FIGURES = [history, placements]
PLACEMENTS = ["none", "bn", "dropout", "bn-dropout", "dropout-bn", "bn-head-dropout", "ic"]


def trial(number: int, value: float | None = 0.9, state: str = "complete", **params: Any) -> SweptTrial:
    return swept.trial(number, value, state=state, params=params)


def shares(*pairs: tuple[str, float]) -> list[Importance]:
    return [Importance(name, share, share / 2, share * 1.5, 9) for name, share in pairs]


def study(count: int) -> list[SweptTrial]:
    """Trials of all states, one diverged, with conditional rates."""
    rng = random.Random(count)
    states = ["complete", "pruned", "complete", "failed", "running"]
    return [
        trial(
            number,
            None if states[number % 5] in ("failed", "running") else 0.1 if number % 50 == 2 else rng.gauss(0.92, 0.01),
            states[number % 5],
            placement=rng.choice(PLACEMENTS),
            lr=10 ** rng.uniform(-4, -2),
        )
        for number in range(count)
    ]


def epoch(number: int, val: float = 0.9, loss: float = 0.3) -> dict[str, float]:
    return {"epoch": number, "train/accuracy": 0.95, "val/accuracy": val, "train/loss": 0.1, "val/loss": loss}


def assert_is_figure(png: bytes) -> None:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.size) == ("PNG", (1500, 675))
        assert "Software" not in image.info
        colours = image.convert("RGB")
    assert colours.getcolors(maxcolors=8) is None, "the figure is blank"
    pixels = np.asarray(colours)
    for border in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
        assert (border == 255).all(), "something is cut off at the border"


# --- whole pictures ----------------------------------------------------------------------------------

STUDIES = {
    "no trial": [],
    "one": study(1),
    "two": study(2),
    "fifty": study(50),
    "a thousand": study(1000),
    "only pruned": [t._replace(state="pruned", value=0.8) for t in study(30)],
    "only pruned, nothing reported": [t._replace(state="pruned", value=None) for t in study(30)],
    "only failed": [trial(i, None, "failed", lr=1e-3) for i in range(3)],
    "all equal": [trial(i, 0.9, placement="bn", lr=1e-3) for i in range(20)],
    "no parameters": [trial(0), trial(1)],
    "not finite": [trial(0, math.nan, lr=1e-3), trial(1, math.inf, lr=1e-2)],
    "not from 0": [trial(10**6, 0.9, placement="ic"), trial(10**6 + 7, 0.2, "pruned", placement="ic")],
    "many categories": [trial(i, 0.9, placement=f"{'long-' * 20}{i}") for i in range(40)],
    "mathematics": [trial(0, 0.9, placement="$x^$"), trial(1, 0.91, placement="$")],
}


@pytest.mark.parametrize("draw", TRIAL_FIGURES)
@pytest.mark.parametrize(("name", "metric"), [*((name, ACCURACY) for name in STUDIES), ("fifty", LOSS)])
def test_a_figure_of_trials_is_a_whole_picture(draw: Callable[..., bytes], name: str, metric: Metric):
    assert_is_figure(draw(STUDIES[name], metric, name))


@pytest.mark.parametrize(
    "epochs",
    [
        [],
        [epoch(1)],
        [epoch(2, 0.8), epoch(1, 0.7)],
        [epoch(e, 0.9 - 1 / e, 1 / e) for e in range(1, 301)],
        [epoch(e) for e in range(1, 9)],
        [epoch(1, math.nan, math.inf)],
        [epoch(1, 0.8), epoch(2, math.nan, math.nan), epoch(3, 0.9)],
    ],
    ids=["none", "one", "two, reversed", "300", "constant", "not finite", "with a hole"],
)
def test_curves_are_a_whole_picture(epochs: Sequence[Mapping[str, float]]):
    assert_is_figure(curves(epochs, "run"))


@pytest.mark.parametrize(
    "importances",
    [
        [],
        [("lr", 1.0)],
        [("lr", 0.0), ("placement", 0.0)],
        [("lr", math.nan)],
        [("lr", 0.5), ("conv_dropout", math.nan)],
        [("p" * 200 + str(i), 0.9**i) for i in range(60)],
        [("$lr", 0.7), ("$", 0.3)],
    ],
    ids=["none", "one", "all 0", "not measured", "one not measured", "sixty long names", "mathematics"],
)
def test_importance_is_a_whole_picture(importances: Sequence[tuple[str, float]]):
    assert_is_figure(importance(shares(*importances), "importance"))


@pytest.mark.parametrize("title", ["", "$5 and $x^", "W" * 300, "two\nlines\tand more", "Größe, naïve"])
def test_any_title_fits(title: str):
    assert_is_figure(history(study(10), ACCURACY, title))
    assert_is_figure(importance([], title))


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (8, 1), (9, 2), (32, 4)])
def test_errors_are_drawn_in_rows_of_eight(count: int, rows: int):
    mistake = Mistake(np.eye(28, dtype=np.uint8) * 255, "Coat", "$Shirt", 0.99)
    with Image.open(io.BytesIO(errors_picture([mistake] * count))) as image:
        assert image.size == (1500, round(1.62 * 150 * rows))


@pytest.mark.parametrize("colour", [(255, 0, 0), (200, 200, 200)])
def test_an_error_is_shown_as_the_image_is(colour: tuple[int, int, int]):
    channels = 1 if len(set(colour)) == 1 else 3
    pixels = np.full((28, 28, 3), colour, np.uint8)[..., :channels]
    with Image.open(io.BytesIO(errors_picture([Mistake(pixels, "Coat", "Shirt", 0.99)]))) as image:
        assert image.convert("RGB").getpixel((100, 60)) == colour


def test_long_names_of_classes_are_cut_where_they_would_meet():
    pixels = np.zeros((28, 28, 1), np.uint8)
    long, cut = (errors_picture([Mistake(pixels, name, "Shirt", 0.99)] * 8) for name in ("W" * 90, "W" * 14 + "\u2026"))
    assert long == cut


def test_a_champion_without_errors_has_a_picture_that_says_so():
    assert_is_figure(errors_picture([]))


# --- drawing -----------------------------------------------------------------------------------------


def all_figures() -> list[Callable[[], bytes]]:
    trials = study(60)
    return [
        partial(curves, [epoch(e, 0.9 - 1 / e) for e in range(1, 21)], "curves"),
        partial(importance, shares(("lr", 0.6), ("placement", 0.4)), "importance"),
        *(partial(draw, trials, ACCURACY, "trials") for draw in TRIAL_FIGURES),
    ]


def test_four_threads_draw_the_same_bytes_as_one_and_leave_no_global_state():
    before = dict(matplotlib.rcParams)
    alone = [draw() for draw in all_figures()]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda draw: draw(), all_figures() * 2))
    assert together == alone * 2
    assert dict(matplotlib.rcParams) == before


def test_the_order_of_the_trials_does_not_matter():
    trials = study(60)
    shuffled = random.Random(0).sample(trials, len(trials))
    for draw in TRIAL_FIGURES:
        assert draw(trials, ACCURACY, "trials") == draw(shuffled, ACCURACY, "trials")


def test_pyplot_is_not_imported():
    program = "import sys, sweeper.report.sweep.page; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- what is drawn -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([epoch(1, 0.8), epoch(2, 0.9), epoch(3, 0.85)], 2),
        ([epoch(1, 0.9, 0.3), epoch(2, 0.9, 0.2), epoch(3, 0.9, 0.2)], 2),
        ([epoch(1, math.nan), epoch(2, 0.1)], 2),
    ],
)
def test_the_best_epoch_is_the_most_accurate_then_of_the_lowest_loss_then_the_first(rows: Any, best: int):
    assert best_epoch(rows) == rows[best - 1]
    assert best_epoch([epoch(1, math.nan)]) is None


def test_a_note_stands_where_there_is_more_room():
    assert is_room_above([0.1, 0.2, math.nan], 0.0, 1.0)
    assert not is_room_above([0.7, 0.9], 0.0, 1.0)
    assert is_room_above([math.nan], 0.0, 1.0)


def test_best_so_far_holds_the_complete_trials_that_improved():
    values = [(4, 0.95), (0, 0.90), (2, 0.89), (3, 0.90), (6, math.nan)]
    trials = [*(trial(*pair) for pair in values), trial(1, 0.99, "pruned"), trial(5, None, "failed")]
    assert best_so_far(trials, ACCURACY) == [(0, 0.90), (4, 0.95)]
    assert best_so_far(trials, LOSS) == [(0, 0.90), (2, 0.89)]
    assert best_so_far([trial(0, 0.9, "pruned")], ACCURACY) == []


def test_an_axis_starts_above_the_outliers():
    assert axis_floor([0.10, 0.90, 0.91, 0.92, 0.93, 0.94]) == 0.90
    assert axis_floor([0.88, 0.90, 0.91, 0.92]) == 0.88
    assert axis_floor([0.1, 0.9, 0.9, 0.9, 0.9, 0.9]) == 0.9


@given(st.lists(st.floats(0, 1), min_size=1))
def test_an_axis_starts_at_one_of_the_values(values: list[float]):
    assert axis_floor(values) in values


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan)), st.floats(0, 1))
def test_limits_hold_every_value_and_are_never_empty(values: list[float], margin: float):
    low, high = limits(values, margin)
    assert low < high
    assert all(low <= value <= high for value in values if math.isfinite(value))


def test_importances_are_ranked():
    found = shares(("b", 0.2), ("c", 0.5), ("a", 0.2), ("d", math.nan))
    assert [importance.parameter for importance in rank(found)] == ["c", "a", "b", "d"]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Importance("lr", 0.5, 0.25, 0.75, 9), "0.50 [0.25, 0.75], 9 trials"),
        (Importance("lr", 0.0, 0.0, 0.0, 9), "0.00 [0.00, 0.00], 9 trials"),
        (Importance("lr", math.nan, math.nan, math.nan, 3), "not measured: 3 complete trials have it, 8 are needed"),
        (Importance("lr", math.nan, math.nan, math.nan, 9), "not measured: the 9 trials that have it are alike in it"),
    ],
)
def test_a_share_that_was_not_measured_is_not_0(found: Importance, words: str):
    assert share_in_words(found).startswith(words)


def test_an_axis_of_losses_ends_below_the_outliers():
    assert axis_ends([0.3, 0.31, 0.32, 0.33, 2.3], LOSS) == (0.3, 0.33)
    assert axis_ends([0.1, 0.90, 0.91, 0.92, 0.93], ACCURACY) == (0.90, 0.93)


def test_placements_are_sorted_by_the_median_of_complete_trials():
    trials = [
        trial(3, 0.92, placement="ic"),
        trial(0, 0.10, placement="ic"),
        trial(1, 0.93, placement="ic"),
        trial(2, 0.91, placement="bn"),
        trial(4, 0.99, "pruned", placement="bn"),
        trial(5, 0.99, "pruned", placement="dropout"),
        trial(6, None, "failed", placement="none"),
        trial(7, 0.95),
    ]
    ic, bn, dropout = (
        PlacementRow("ic", (0.10, 0.93, 0.92), ()), PlacementRow("bn", (0.91,), (0.99,)),
        PlacementRow("dropout", (), (0.99,)),
    )  # fmt: skip
    assert by_placement(trials, ACCURACY) == [ic, bn, dropout]
    assert by_placement(trials, LOSS) == [bn, ic, dropout]


def test_jitter_spreads_the_dots():
    assert jitter(0) == []
    offsets = sorted(jitter(100))
    assert -0.5 <= offsets[0] <= offsets[-1] < 0.5
    assert max(np.diff(offsets)) < 0.03
