"""The pilot: how long trainings are, how many fit, and when one may be stopped."""

from __future__ import annotations

import numpy as np
import pytest

from sweeper.advice.design import Cell, Outcome, Plan, Run, fewest_trainings
from sweeper.advice.pilot import (
    Curve,
    Limits,
    Measured,
    enough_epochs,
    fair_rung,
    make_plan,
    pilot_epochs,
    pilot_runs,
    replanned,
)
from sweeper.advice.screening import is_hopeless
from sweeper.core.errors import UsageError
from sweeper.core.placements import LAYERED, PLAIN, Placement

EPOCHS = np.arange(1, 31)


def _curve(lowest: int, half: float, top: float = 0.9) -> Curve:
    """A network whose validation loss is lowest after `lowest` epochs, and which makes half its way in `half`."""
    return Curve(list(top - 0.5 * 0.5 ** (EPOCHS / half)), list(0.3 + 0.001 * (EPOCHS - lowest) ** 2))


QUICK, SLOW = _curve(8, 1.0), _curve(30, 2.0)


def test_the_pilot_trains_a_plain_a_slow_and_a_whole_network() -> None:
    for placements in (PLAIN, LAYERED):
        plain, slow, both = (run.cell for run in pilot_runs(placements))
        assert plain.placement == Placement.NONE
        assert (slow.placement, slow.head_dropout) == (Placement.DROPOUT, 0.5)
        assert both.placement.has_batch_norm
        assert both.head_dropout


def test_two_placements_are_enough() -> None:
    assert [run.cell.placement for run in pilot_runs((Placement.NONE, Placement.BN))] == ["none", "bn"]


def test_trainings_last_until_the_plain_network_overfits_for_as_long_again() -> None:
    assert enough_epochs(QUICK, SLOW) == 16


def test_trainings_last_until_the_slow_network_has_learnt() -> None:
    slower = _curve(30, 5.0)
    assert enough_epochs(QUICK, slower) > 20
    assert slower.accuracy[enough_epochs(QUICK, slower) - 1] > max(slower.accuracy) - 0.012


def test_a_run_is_stopped_only_once_slow_starters_have_caught_up() -> None:
    rung, margin = fair_rung(QUICK, SLOW, 20, 5_000)
    assert 10 <= rung <= 16
    assert margin >= 0.02
    assert fair_rung(QUICK, SLOW, 20, 200)[1] > 0.1  # on 200 images, two networks differ by as much without a reason
    assert fair_rung(QUICK, _curve(30, 30.0), 20, 5_000) == (0, 1.0)


def test_only_a_run_far_below_the_best_of_its_placement_is_stopped() -> None:
    plan = Plan(PLAIN, 100, epochs=4, rung=2, margin=0.02)
    best = {Run("screening", Cell(Placement.BN)): Outcome(0.9, (0.5, 0.8, 0.85, 0.9))}
    other = Run("screening", Cell(Placement.BN, lr=3.0))
    assert is_hopeless(plan, other, 2, 0.77, best)
    assert not is_hopeless(plan, other, 2, 0.79, best)
    assert not is_hopeless(plan, other, 3, 0.5, best)
    assert not is_hopeless(plan, Run("screening", Cell(Placement.DROPOUT)), 2, 0.3, best)
    assert not is_hopeless(plan, Run("comparison", Cell(Placement.BN)), 2, 0.3, best)


def test_the_pilot_takes_a_sixth_of_the_budget() -> None:
    assert pilot_epochs(3600, 60) == 10
    assert pilot_epochs(3600, 2) == 30
    assert pilot_epochs(60, 60) == 5


def _measured(seconds: float) -> Measured:
    return Measured([QUICK, SLOW, QUICK], seconds, 5_000, seconds)


def test_the_budget_is_divided_by_the_pace() -> None:
    plan, remarks = make_plan(PLAIN, Limits(3600), _measured(90), seed=3)
    assert (plan.epochs, plan.seed, plan.placements) == (16, 3, PLAIN)
    assert plan.trainings == int(0.9 * (3600 - 90) / 16) - 1
    assert not remarks


def test_a_short_budget_shortens_the_trainings_and_says_so() -> None:
    fewest = fewest_trainings(PLAIN, 3)
    plan, remarks = make_plan(PLAIN, Limits(700), _measured(90), seed=0)
    assert plan.trainings >= fewest
    assert plan.epochs < 16
    assert "the budget is short" in remarks[0]


def test_too_short_a_budget_is_refused_with_one_that_is_enough() -> None:
    with pytest.raises(UsageError, match=r"Use --budget (\d+)m") as error:
        make_plan(PLAIN, Limits(200, epochs=10), _measured(90), seed=0)
    minutes = int(str(error.value).split("--budget ")[1].split("m")[0])
    plan, _ = make_plan(PLAIN, Limits(60 * minutes, epochs=10), _measured(90), seed=0)
    assert plan.trainings >= fewest_trainings(PLAIN, 3)


def test_a_plain_network_that_still_learns_is_remarked_on() -> None:
    _, remarks = make_plan(PLAIN, Limits(36_000), Measured([_curve(40, 1.0), SLOW], 60, 5_000, 60), seed=0)
    assert "still learns" in remarks[0]


def test_the_time_before_the_pilot_counts() -> None:
    late = _measured(90)._replace(used=600)
    assert make_plan(PLAIN, Limits(3600), late, seed=0)[0].trainings == int(0.9 * (3600 - 600) / 16) - 1


def test_a_later_plan_has_room_for_more_runs_at_another_pace() -> None:
    plan, _ = make_plan(PLAIN, Limits(3600), _measured(90), seed=0)
    assert replanned(plan, 40, 20, 2.0) == plan._replace(trainings=60, pace=2.0)
