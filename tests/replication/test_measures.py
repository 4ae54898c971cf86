"""Measures of a run, against numbers found by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sweeper.replication.claims.measures import (
    ACCURACY,
    ACCURACY_COMPLETE,
    GAP,
    GAP_SLOPE,
    LOG_SECONDS,
    NLL,
    TRAIN_GAIN,
    VAL_SLOPE,
    VARIANCE_SHIFT,
    crossing,
    epochs_to,
    is_stable,
    last_part,
    onset,
    since,
    slope,
)
from sweeper.replication.runs import ArmRun

VAL = [0.9, 0.5, 0.4, 0.45, 0.5, 0.7]


NAMES = {"val": "val/loss", "gap": "gap/loss", "acc": "val/accuracy", "train": "train/accuracy", "s": "time/epoch_s",
         "members": "stack/members"}  # fmt: skip


def run(state: str = "complete", **series: list[float]) -> ArmRun:
    columns = {"epoch": range(1, 100)} | {NAMES[name]: values for name, values in series.items()}
    epochs = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=False)] if series else []
    return ArmRun("exp1", 0, state, epochs, {}, Path(), "", None)


def test_the_last_epoch_counts_not_the_best() -> None:
    assert ACCURACY(run(acc=[0.5, 0.9, 0.8])) == 0.8
    assert NLL(run(val=VAL)) == 0.7


def test_a_run_that_diverged_is_a_guess_where_that_has_a_value() -> None:
    lost = run("diverged", val=[9.0], acc=[0.3], gap=[1.0])
    assert (ACCURACY(lost), NLL(lost)) == (0.1, math.log(10))
    few = lost._replace(classes=4)
    assert (ACCURACY(few), NLL(few)) == (0.25, math.log(4))
    assert math.isnan(GAP(lost))
    assert math.isnan(ACCURACY_COMPLETE(lost))
    assert ACCURACY_COMPLETE(run(acc=[0.5, 0.8])) == 0.8


def test_what_a_run_does_not_have_is_nan() -> None:
    assert math.isnan(VARIANCE_SHIFT(run(val=VAL)))
    assert math.isnan(ACCURACY(run()))


def test_slopes() -> None:
    assert slope([1.0, 3.0, 5.0]) == pytest.approx(2)
    assert slope([2.0, 1.0, 3.0]) == pytest.approx(0.5)
    assert math.isnan(slope([1.0]))
    assert GAP_SLOPE(run(gap=[9, 9, 9, 0.1, 0.2, 0.3])) == pytest.approx(0.1)  # of the second half
    assert VAL_SLOPE(run(val=VAL)) == pytest.approx(0.2)  # of the last fifth, of two epochs at least


@pytest.mark.parametrize(
    ("count", "part", "kept"), [(20, 5, 4), (6, 5, 2), (6, 2, 3), (7, 2, 4), (12, 2, 6), (1, 5, 1)]
)
def test_last_parts(count: int, part: int, kept: int) -> None:
    assert len(last_part(list(range(count)), part)) == kept


@pytest.mark.parametrize(
    ("values", "epochs"),
    [([0.5, 0.9], 1.75), ([0.9], 0.875), ([0.7, 0.79, 0.7], 4), ([0.5, 0.8], 2), ([0.7, 0.9, 0.6], 1.5)],
)
def test_epochs_to_an_accuracy_are_linear_between_epochs(values: list[float], epochs: float) -> None:
    assert crossing(values, 0.8, before=0.1) == pytest.approx(epochs)
    assert epochs_to(0.8)(run(acc=values)) == pytest.approx(epochs)


def test_onset_and_what_is_lost_since_an_epoch() -> None:
    assert onset(run(val=VAL)) == 0.5
    assert since(3)(run(val=VAL)) == pytest.approx(0.3)
    assert math.isnan(since(6)(run(val=VAL)))


def test_what_the_second_half_gains_in_train_accuracy() -> None:
    assert TRAIN_GAIN(run(train=[0.5, 0.8, 0.85, 0.9])) == pytest.approx(0.1)


def test_the_first_epoch_takes_no_part_in_its_time() -> None:
    assert math.exp(LOG_SECONDS(run(s=[60.0, 2.0, 3.0, 4.0]))) == pytest.approx(3)
    assert math.exp(LOG_SECONDS(run(s=[60.0]))) == pytest.approx(60)
    assert math.isnan(LOG_SECONDS(run(s=[0.0, 0.0])))
    assert math.isnan(LOG_SECONDS(run()))


@pytest.mark.parametrize(
    ("last", "state", "stable"),
    [(0.4, "complete", True), (math.log(10), "complete", False), (0.4, "diverged", False)],
)
def test_what_is_stable(last: float, state: str, stable: bool) -> None:
    assert is_stable(run(state, val=[0.3, last])) is stable


def test_a_stacked_training_has_no_time_of_its_own() -> None:
    assert LOG_SECONDS(run(s=[9.0, 1.0, 1.0])) == 0.0
    assert math.isnan(LOG_SECONDS(run(s=[9.0, 1.0, 1.0], members=[4.0, 4.0, 4.0])))
