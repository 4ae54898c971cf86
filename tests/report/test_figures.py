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

from sweeper.report.figure import TrialPoint, axis_floor, is_room_above, limits
from sweeper.report.run.curves import apart, best_epoch, curves
from sweeper.report.sweep.pictures import (
    PlacementRow,
    best_so_far,
    by_placement,
    history,
    importance,
    jitter,
    placements,
    rank,
)
from sweeper.study.importance import Importance

TRIAL_FIGURES = [history, placements]
PLACEMENTS = ["none", "bn", "dropout", "bn-dropout", "dropout-bn", "bn-head-dropout", "ic"]


def trial(number: int, value: float | None = 0.9, state: str = "complete", **params: Any) -> TrialPoint:
    return TrialPoint(number, state, value, params)


def shares(*pairs: tuple[str, float]) -> list[Importance]:
    return [Importance(name, share, share / 2, share * 1.5) for name, share in pairs]


def study(count: int) -> list[TrialPoint]:
    """Trials of all states, one diverged, with conditional rates and a weight decay of 0."""
    rng = random.Random(count)
    states = ["complete", "pruned", "complete", "failed", "running"]
    return [
        trial(
            number,
            None if states[number % 5] in ("failed", "running") else 0.1 if number % 50 == 2 else rng.gauss(0.92, 0.01),
            states[number % 5],
            placement=(placement := rng.choice(PLACEMENTS)),
            lr=10 ** rng.uniform(-4, -2),
            batch_size=rng.choice([64, 128, 256]),
            weight_decay=rng.choice([0.0, 0.02]),
            **({"head_dropout": rng.uniform(0, 0.5)} if placement not in ("none", "bn") else {}),
        )
        for number in range(count)
    ]


def epoch(number: int, val: float = 0.9, loss: float = 0.3) -> dict[str, float]:
    return {"epoch": number, "train/accuracy": 0.95, "val/accuracy": val, "train/loss": 0.1, "val/loss": loss}


def assert_is_figure(png: bytes) -> None:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.size) == ("PNG", (1500, 675))
        assert "Software" not in image.info
        picture = image.convert("RGB")
    assert len(picture.getcolors(picture.width * picture.height)) > 8, "the figure is blank"
    pixels = np.asarray(picture)
    border = np.concatenate([pixels[:4].reshape(-1, 3), pixels[-4:].reshape(-1, 3),
                             pixels[:, :4].reshape(-1, 3), pixels[:, -4:].reshape(-1, 3)])  # fmt: skip
    assert (border == 255).all(), "something is cut off at the border"


# --- pictures ----------------------------------------------------------------------------------------

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
    "one parameter, pruned": [trial(i, 0.8, "pruned", lr=10.0**-i) for i in range(3)],
    "not finite": [trial(0, math.nan, lr=1e-3), trial(1, math.inf, lr=1e-2)],
    "not from 0": [trial(10**6, 0.9, placement="ic"), trial(10**6 + 7, 0.2, "pruned", placement="ic")],
    "many parameters": [trial(i, 0.9 + i / 1000, **{f"parameter_{k}": k * i for k in range(14)}) for i in range(9)],
    "many categories": [trial(i, 0.9, placement=f"{'long-' * 20}{i}", flag=i % 2 == 0) for i in range(40)],
    "mathematics": [trial(0, 0.9, placement="$x^$", **{"$_": "{$"}), trial(1, 0.91, placement="$", **{"$_": "}"})],
}


@pytest.mark.parametrize("draw", TRIAL_FIGURES)
@pytest.mark.parametrize("name", STUDIES)
def test_a_figure_of_trials_is_a_whole_picture(draw: Callable[..., bytes], name: str):
    assert_is_figure(draw(STUDIES[name], name))


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
        [("p" * 200 + str(i), 0.9**i) for i in range(60)],
        [("$lr", 0.7), ("$", 0.3)],
    ],
    ids=["none", "one", "all 0", "not finite", "sixty long names", "mathematics"],
)
def test_importance_is_a_whole_picture(importances: Sequence[tuple[str, float]]):
    assert_is_figure(importance(shares(*importances), "importance"))


@pytest.mark.parametrize("title", ["", "$5 and $x^", "W" * 300, "two\nlines\tand more", "Größe, naïve"])
def test_any_title_fits(title: str):
    assert_is_figure(history(study(10), title))
    assert_is_figure(importance([], title))


def all_figures() -> list[Callable[[], bytes]]:
    trials = study(60)
    return [
        partial(curves, [epoch(e, 0.9 - 1 / e) for e in range(1, 21)], "curves"),
        partial(importance, shares(("lr", 0.6), ("placement", 0.4)), "importance"),
        *(partial(draw, trials, "trials") for draw in TRIAL_FIGURES),
    ]


def test_a_figure_is_the_same_bytes_each_time():
    assert [draw() for draw in all_figures()] == [draw() for draw in all_figures()]


def test_the_order_of_the_trials_does_not_matter():
    trials = study(60)
    shuffled = random.Random(0).sample(trials, len(trials))
    for draw in TRIAL_FIGURES:
        assert draw(trials, "trials") == draw(shuffled, "trials")


def test_four_threads_draw_what_one_draws():
    figures = all_figures()
    alone = [draw() for draw in figures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda draw: draw(), figures * 4))
    assert together == alone * 4


def test_drawing_leaves_no_global_state():
    before = dict(matplotlib.rcParams)
    for draw in all_figures():
        draw()
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_imported():
    program = "import sys, sweeper.report.sweep.page; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- curves ------------------------------------------------------------------------------------------


def test_the_best_epoch_is_the_most_accurate_then_of_the_lowest_loss_then_the_first():
    assert best_epoch([epoch(1, 0.8), epoch(2, 0.9), epoch(3, 0.85)]) == 1
    assert best_epoch([epoch(1, 0.9, 0.3), epoch(2, 0.9, 0.2), epoch(3, 0.9, 0.2)]) == 1
    assert best_epoch([epoch(1, math.nan), epoch(2, 0.1)]) == 1
    assert best_epoch([epoch(1, math.nan)]) is None
    assert best_epoch([]) is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(1.0, 3.0, (1.0, 3.0)), (2.0, 2.5, (1.75, 2.75)), (2.5, 2.0, (2.75, 1.75)), (2.0, 2.0, (2.5, 1.5))],
)
def test_labels_are_moved_apart_in_their_order(first: float, second: float, expected: tuple[float, float]):
    assert apart(first, second, 1.0) == expected


def test_a_note_stands_where_there_is_more_room():
    assert is_room_above([0.1, 0.2, math.nan], 0.0, 1.0)
    assert not is_room_above([0.7, 0.9], 0.0, 1.0)
    assert is_room_above([math.nan], 0.0, 1.0)


# --- history -----------------------------------------------------------------------------------------


def test_best_so_far_holds_the_complete_trials_that_improved():
    trials = [
        trial(4, 0.95),
        trial(0, 0.90),
        trial(1, 0.99, "pruned"),
        trial(2, 0.89),
        trial(3, 0.90),
        trial(5, None, "failed"),
        trial(6, math.nan),
    ]
    assert best_so_far(trials) == [(0, 0.90), (4, 0.95)]
    assert best_so_far([trial(0, 0.9, "pruned")]) == []


def test_an_axis_starts_above_the_outliers():
    assert axis_floor([0.10, 0.90, 0.91, 0.92, 0.93, 0.94]) == 0.90
    assert axis_floor([0.88, 0.90, 0.91, 0.92]) == 0.88
    assert axis_floor([0.5]) == 0.5
    assert axis_floor([0.1, 0.9, 0.9, 0.9, 0.9, 0.9]) == 0.9


@given(st.lists(st.floats(0, 1), min_size=1))
def test_an_axis_starts_at_one_of_the_values(values: list[float]):
    assert axis_floor(values) in values


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan)), st.floats(0, 1))
def test_limits_hold_every_value_and_are_never_empty(values: list[float], margin: float):
    low, high = limits(values, margin)
    assert low < high
    assert all(low <= value <= high for value in values if math.isfinite(value))


# --- importance --------------------------------------------------------------------------------------


def test_importances_are_ranked():
    found = shares(("b", 0.2), ("c", 0.5), ("a", 0.2), ("d", math.nan))
    assert [importance.parameter for importance in rank(found)] == ["c", "a", "b"]


# --- placements --------------------------------------------------------------------------------------


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
    assert by_placement(trials) == [
        PlacementRow("ic", (0.10, 0.93, 0.92), ()),
        PlacementRow("bn", (0.91,), (0.99,)),
        PlacementRow("dropout", (), (0.99,)),
    ]


def test_jitter_spreads_the_dots():
    assert jitter(0) == []
    assert jitter(1) == [0.0]
    offsets = sorted(jitter(100))
    assert offsets[0] >= -0.5
    assert offsets[-1] < 0.5
    assert max(np.diff(offsets)) < 0.03
