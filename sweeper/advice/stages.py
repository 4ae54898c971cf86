"""The stages of an advice: probe and pilot, then rounds of the screening, then looks of the comparison.

If time is the limit, the number of further runs is decided before each round and each look, by the pace measured last.
The decision is recorded before the first of these runs. An interrupted command continues the batch that it was in, and
decides again after it, as an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from sweeper.advice.design import Plan
from sweeper.advice.pilot import (
    MOST_EPOCHS,
    RESERVE,
    SEEDS,
    Curve,
    Measured,
    make_plan,
    pilot_epochs,
    pilot_runs,
    replanned,
)
from sweeper.advice.record import Ended, busy_seconds
from sweeper.advice.rounds import State, state
from sweeper.advice.work import Work
from sweeper.core.errors import OutOfTime, StudyIncomplete
from sweeper.core.text import counted, duration

NEWS: Final = 0.1  # a plan that changes by less is not worth a line


def train_stages(work: Work) -> State:
    """Train the pilot, the screening and the comparison.

    Raises:
        UsageError: the budget is too short.
        OutOfTime: the budget ended before two placements could be compared.
        StudyIncomplete: runs failed.
    """
    work.progress.finished = work.progress.at_start = len(work.ended)
    if work.record.plan is None:
        runs = pilot_runs(work.question.placements)
        work.train(runs, _pilot_epochs(work))
        work.record.plan = _plan(work, [work.ended[run] for run in runs])
        work.save()
    before, whole = len(work.ended) - len(work.outcomes()), True
    while True:
        plan, found = _decide(work, cut=not whole)
        if not found.missing:
            if not found.comparison.looks and work.question.limits.trainings is None:
                _check_time(work, plan, found)
            return found
        work.progress.target = plan.trainings + before
        done = len(work.ended)
        whole = work.train(found.missing, plan.epochs, plan)
        if not whole and len(work.ended) == done and not found.cells:
            raise _out_of_time(work, plan, len(found.missing))


def _decide(work: Work, *, cut: bool) -> tuple[Plan, State]:
    """Decide on the next runs, and record it. A batch is continued as decided, unless time `cut` it short."""
    record, outcomes, limits = work.record, work.outcomes(), work.question.limits
    assert record.plan is not None
    work.budget.pace_before = record.plan.pace
    plan, due = record.plan, cut or len(outcomes) >= record.due
    if limits.trainings is not None:
        plan = plan._replace(trainings=max(plan.trainings, limits.trainings))
    elif due:
        plan = replanned(plan, len(outcomes), work.budget.room(plan.epochs), work.budget.pace)
        if abs(plan.trainings - record.plan.trainings) > NEWS * record.plan.trainings:
            work.view.say(f"by the pace of the latest runs, at most {counted(plan.trainings, 'run')}")
    found = state(plan, record.rounds, outcomes, record.cells)
    if due:
        record.due = len(outcomes) + len(found.missing)
    record.plan, record.rounds, record.cells = plan, [list(each) for each in found.rounds], dict(found.cells) or None
    work.save()
    return plan, found


def _check_time(work: Work, plan: Plan, found: State) -> None:
    """Raise OutOfTime if two placements could have been compared: the others diverged, or there was no time."""
    alive = [each for each in found.cells if found.cells[each] and each.value not in found.diverged]
    if len(alive) > 1:
        raise _out_of_time(work, plan, 0)


def _out_of_time(work: Work, plan: Plan, missing: int) -> OutOfTime:
    runs = missing + SEEDS * len(plan.placements) + 1
    needed = work.budget.used() + runs * plan.epochs / work.budget.pace / RESERVE
    return OutOfTime(
        f"the budget of {duration(work.budget.limit)} ended before two placements had {SEEDS} seeds each. Run the same "
        f"command with --budget {math.ceil(needed / 60)}m to continue."
    )


def _pilot_epochs(work: Work) -> int:
    """Return the epochs of the pilot. If time is the limit, first train the probe that they depend on."""
    asked, record = work.question.asked, work.record
    if record.pilot is None:
        record.pilot = asked.epochs or MOST_EPOCHS
        if asked.epochs is None and asked.trainings is None:
            runs = pilot_runs(work.question.placements, "probe")
            work.train(runs, 1)
            record.pilot = pilot_epochs(asked.budget, busy_seconds(work.ended[run] for run in runs))
        work.save()
    return record.pilot


def _plan(work: Work, pilot: Sequence[Ended]) -> Plan:
    """Return the plan that follows from the pilot, and print it.

    Raises:
        UsageError: there is too little time.
        StudyIncomplete: a pilot run diverged.
    """
    if not all(run.complete for run in pilot):
        raise StudyIncomplete("a pilot run diverged. Try a smaller --lr.")
    placements = work.question.placements
    curves = [
        Curve([each["val/accuracy"] for each in run.epochs], [each["val/loss"] for each in run.epochs]) for run in pilot
    ]
    measured = Measured(curves, busy_seconds(pilot), len(work.images[0].val), work.budget.used())
    plan, remarks = make_plan(placements, work.question.limits, measured, work.question.base.seed)
    for remark in remarks:
        work.env.warn(remark)
    work.view.say(
        f"{counted(len(placements), 'placement')}, at most {counted(plan.trainings, 'run')} of "
        f"{counted(plan.epochs, 'epoch')}: about {duration(plan.trainings * plan.epochs / measured.pace)}"
    )
    return plan
