"""The next runs: what is trained, in which order, and that it depends on nothing but plan and outcomes."""

from __future__ import annotations

import pytest

from sweeper.advice.design import Cell, Outcome, Run, fewest_trainings
from sweeper.advice.rounds import state
from sweeper.core.config import RunConfig
from sweeper.core.placements import PLAIN, Placement
from tests.advice.worlds import finish, of_stage, outcome, peaked, plan


def test_the_best_cell_of_each_placement_is_compared_with_fresh_seeds() -> None:
    found, outcomes = finish(plan(100), lambda run: outcome(run, noise=0.002))
    base = RunConfig(dataset="sample")
    searched = {run.configuration(base).seed for run in of_stage(outcomes, "screening")}
    compared = {run.configuration(base).seed for run in of_stage(outcomes, "comparison")}
    assert not searched & compared
    for placement, cell in found.cells.items():
        assert cell is not None
        assert cell.placement == placement
        assert peaked(cell) > 0.89 + 0.02 * placement.has_batch_norm
        assert 1.0 < cell.lr < 4.5
    assert {run.cell for run in of_stage(outcomes, "comparison")} == set(found.cells.values())


def test_no_more_than_the_plans_trainings_are_used() -> None:
    for trainings in (fewest_trainings(PLAIN, 3), 75):
        _, outcomes = finish(plan(trainings), lambda run: outcome(run, noise=0.01))
        assert trainings - 8 < len(outcomes) <= trainings


def test_what_is_told_apart_gets_no_more_seeds() -> None:
    def truth(cell: Cell) -> float:
        return 0.8 if cell.placement == "ic" else 0.9

    found, outcomes = finish(plan(90), lambda run: outcome(run, truth, noise=0.004))
    seeds = dict.fromkeys(PLAIN, 0)
    for run in of_stage(outcomes, "comparison"):
        seeds[run.cell.placement] += 1
    assert seeds[Placement.IC] == 3 < seeds[Placement(found.comparison.best)]
    worse = found.comparison.between(found.comparison.best, "ic")
    assert worse is not None
    assert worse.low > 0


@pytest.mark.parametrize("kept", [20, 45, 60])
def test_an_interrupted_advice_trains_what_an_unbroken_one_does(kept: int) -> None:
    """Kill it after any run, here each batch half done: the recorded rounds and outcomes lead to the same runs."""
    whole, outcomes = finish(plan(80), lambda run: outcome(run, noise=0.005))
    known = dict(list(outcomes.items())[:kept])
    rounds = [each for each in whole.rounds if any(run in known for run in each)]
    cells = None
    while (found := state(plan(80), rounds, known, cells)).missing:
        rounds, cells = list(found.rounds), found.cells or None
        known |= {run: outcome(run, noise=0.005) for run in found.missing[:5]}
    assert known.keys() == outcomes.keys()
    assert found.comparison.found == whole.comparison.found
    assert found.cells == whole.cells


def test_more_trainings_later_add_seeds_and_no_round() -> None:
    short, outcomes = finish(plan(70), lambda run: outcome(run, noise=0.01))
    longer = state(plan(140), short.rounds, outcomes, short.cells)
    assert longer.rounds == short.rounds
    assert longer.cells == short.cells
    assert longer.missing
    assert {run.stage for run in longer.missing} == {"comparison"}


def test_a_placement_that_diverges_is_not_compared() -> None:
    def train(run: Run) -> Outcome:
        return Outcome(None) if run.cell.placement == "dropout" else outcome(run, noise=0.005)

    found, outcomes = finish(plan(90), train)
    assert found.cells[Placement.DROPOUT] is None
    assert not [run for run in of_stage(outcomes, "comparison") if run.cell.placement == "dropout"]
    assert found.comparison.best != "dropout"


def test_a_seed_that_diverges_takes_its_placement_out_of_the_comparison() -> None:
    def train(run: Run) -> Outcome:
        lost = run.stage == "comparison" and run.cell.placement == "bn" and run.seed == 1
        return Outcome(None) if lost else outcome(run, noise=0.005)

    found, _ = finish(plan(90), train)
    assert found.diverged == {"bn": 3}
    assert found.comparison.best != "bn"


def test_equal_placements_are_not_told_apart() -> None:
    found, _ = finish(plan(80), lambda run: outcome(run, truth=lambda cell: 0.9, noise=0.004))
    assert not any(each.told for each in found.comparison.found.values())
