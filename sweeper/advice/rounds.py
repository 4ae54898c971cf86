"""The next runs, and the conclusions so far: pure functions of plan and outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sweeper.advice.comparison import MOST_SEEDS, Arm, Comparison
from sweeper.advice.design import Cell, Outcome, Outcomes, Plan, Run
from sweeper.advice.questions import QUESTIONS
from sweeper.advice.screening import Screening
from sweeper.core.placements import Placement
from sweeper.replication.claims.ledger import look_times

Cells = Mapping[Placement, Cell | None]


class State(NamedTuple):
    """The progress of the screening and the comparison.

    Attributes:
        rounds: the runs of the screening, by round; the last round may be new.
        missing: the runs to train next, in order; empty once everything is complete.
        cells: each placement's cell for the comparison; empty during the screening. None: all its cells diverged.
        comparison: the looks so far.
        diverged: the placements that left the comparison because a seed diverged, and at how many seeds.
    """

    rounds: Sequence[Sequence[Run]]
    missing: Sequence[Run]
    cells: Cells
    comparison: Comparison
    diverged: Mapping[Arm, int]


def state(
    plan: Plan, rounds: Sequence[Sequence[Run]], outcomes: Outcomes, cells: Cells | None = None
) -> State:  # fmt: skip
    """Return the state after these outcomes.

    Args:
        plan: the decisions made before the screening.
        rounds: screening rounds that were proposed before; they are kept as they are.
        outcomes: of the runs that have ended.
        cells: that the comparison started with, if it has started; then there are no further rounds.
    """
    comparison = Comparison(len(plan.placements))
    rounds, known = list(rounds), dict[Run, Outcome]()
    for each in rounds:
        if missing := [run for run in each if run not in outcomes]:
            return State(rounds, missing, {}, comparison, {})
        known |= {run: outcomes[run] for run in each}
    if cells is None:
        screening = Screening(plan)
        if new := screening.round(known):
            return State([*rounds, new], new, {}, comparison, {})
        cells = screening.best(known)
    missing, diverged = _compare(comparison, cells, plan.trainings - len(outcomes), outcomes)
    return State(rounds, missing, cells, comparison, diverged)


def _compare(comparison: Comparison, cells: Cells, room: int, outcomes: Outcomes) -> tuple[list[Run], dict[Arm, int]]:
    """Take the looks that the outcomes allow; return the missing runs of the next, and the arms that diverged.

    A look takes the seeds of all unsettled arms. If there is no room for as many runs, only the best arms continue: at
    the first look those that the screening found to be the best.
    """
    arms = {placement.value: cell for placement, cell in cells.items() if cell is not None}
    active, diverged = list(arms), dict[Arm, int]()
    for seeds in look_times(MOST_SEEDS):
        runs = {arm: [Run("comparison", arms[arm], seed) for seed in range(seeds)] for arm in active}
        active = _affordable(runs, room, outcomes)
        if len(active) < 2:
            break
        wanted = [runs[arm][seed] for seed in range(seeds) for arm in active]
        if missing := [run for run in wanted if run not in outcomes]:
            return missing, diverged
        values = {arm: [outcomes[run].accuracy for run in runs[arm]] for arm in active}
        whole = {arm: [v for v in each if v is not None] for arm, each in values.items() if None not in each}
        diverged |= dict.fromkeys(values.keys() - whole.keys(), seeds)
        if len(whole) < 2:
            break
        comparison.look(whole, seeds)
        active = unsettled(comparison)
    return [], diverged


def _affordable(runs: Mapping[Arm, Sequence[Run]], room: int, outcomes: Outcomes) -> list[Arm]:
    """Return the arms whose missing runs fit into the room, the first ones first."""
    chosen = []
    for arm, each in runs.items():
        missing = sum(run not in outcomes for run in each)
        if missing <= room:
            chosen.append(arm)
            room -= missing
    return chosen


def unsettled(comparison: Comparison) -> list[Arm]:
    """Return the unsettled arms of the last look, best first."""
    look, best = comparison.looks[-1], comparison.best
    pairs = [(best, arm) for arm in look.values if arm != best]
    pairs += [pair for question in QUESTIONS for pair in question.pairs if look.values.keys() >= set(pair)]
    still = {arm for pair in pairs if (known := comparison.between(*pair)) and not known.settled for arm in pair}
    return sorted(still, key=lambda arm: (-look.means[arm], arm))
