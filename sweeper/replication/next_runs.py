"""`sweeper verify --train`: choose the runs that decide open claims at the lowest cost, train them, and judge again.

Each inconclusive claim is taken to the interim analysis that would decide it, if the current estimates are the truth
(`Judged.seeds_needed`). Its cost is the time of the missing runs, at the pace of the recorded ones. The cheapest claim
comes first; runs planned for it are free for the claims that follow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple

from sweeper.core.environment import NONE, Environment
from sweeper.core.errors import StudyConflict, StudyIncomplete, SweeperError
from sweeper.core.text import counted, duration
from sweeper.engine.choice import EngineChoice
from sweeper.replication.claims.ledger import FIRST_LOOK, Judged, Ledger, Runs
from sweeper.replication.plan import Options, kind_of
from sweeper.replication.report_record import is_recorded
from sweeper.replication.reproduce import check_failed, choose_machine, record_only, reproduce
from sweeper.replication.runs import ArmRun, starts
from sweeper.replication.verify import verify
from sweeper.sweep.choose import Chosen
from sweeper.tracking.reading import read_events


class Step(NamedTuple):
    """One claim, the seeds that it is taken to, and the runs that this needs beyond those of earlier steps."""

    claim: int
    says: str
    seeds: int  # of each of its arms
    runs: tuple[tuple[str, int], ...]  # arm and seed
    seconds: float


def steps(judged: Sequence[Judged], runs: Runs) -> list[Step]:
    """A step for each inconclusive claim that more seeds would decide, the cheapest first."""
    cost = {arm: fmean(map(seconds, of_arm)) for arm, of_arm in runs.items() if of_arm}
    waiting = [entry for entry in judged if _target(entry)]
    found: list[Step] = []
    planned: set[tuple[str, int]] = set()
    while waiting:
        candidates = [_step(entry, runs, cost, planned) for entry in waiting]
        step = min(candidates, key=lambda step: (step.seconds, step.claim))
        planned.update(step.runs)
        waiting = [entry for entry in waiting if entry.claim.number != step.claim]
        found.append(step)
    return found


def _target(judged: Judged) -> int | None:
    """The number of seeds to take a claim to: its first interim analysis, or the one that would decide it."""
    if judged.verdict == "inconclusive" and not judged.looks:
        return FIRST_LOOK
    return judged.seeds_needed


def _step(judged: Judged, runs: Runs, cost: Mapping[str, float], planned: set[tuple[str, int]]) -> Step:
    claim, target = judged.claim, _target(judged) or 0
    known = planned | {(arm, run.seed) for arm in claim.question.arms for run in runs[arm]}
    missing = [
        (arm, seed)
        for seed in range(target)  # all arms of one seed in a row, because their times are compared
        for arm in claim.question.arms
        if (arm, seed) not in known
    ]
    return Step(claim.number, claim.says, target, tuple(missing), sum(cost[arm] for arm, _ in missing))


def affordable(steps: Sequence[Step], budget: float) -> list[Step]:
    """The first steps that fit into `budget` seconds."""
    total = accumulate(step.seconds for step in steps)
    return [step for step, so_far in zip(steps, total, strict=True) if so_far <= budget]


def lines(steps: Sequence[Step], affordable: int) -> list[str]:
    """The steps in words; the first `affordable` of them fit into the budget."""
    said = []
    for index, step in enumerate(steps):
        what = f"{counted(len(step.runs), 'run')} more" if step.runs else "with the runs above"
        mark = "" if index < affordable else "  (beyond the budget)"
        said.append(f"claim {step.claim:>2} to {step.seeds} seeds: {what}, {duration(step.seconds)}{mark}  {step.says}")
    return said


def seconds(run: ArmRun) -> float:
    """The time from a run's last start to its end by its journal, else that of its epochs."""
    events = read_events(run.folder)
    starts = [event["time"] for event in events if event["event"] == "start"]
    if starts and events[-1]["event"] == "end":
        return float(events[-1]["time"] - starts[-1]) / 1000
    return sum(epoch.get("time/epoch_s", 0.0) for epoch in run.epochs)


# --- training -------------------------------------------------------------------------------------------


def _chosen(env: Environment, ledger: Ledger, budget: float, workers: int) -> tuple[list[Step], list[Step]]:
    """Print the next steps, and return all of them and those that fit into the budget."""
    plan = steps(ledger.judged, ledger.runs)
    chosen = affordable(plan, budget * workers)
    for line in lines(plan, len(chosen)):
        env.say(line)
    return plan, chosen


def show_next_runs(env: Environment, ledger: Ledger, budget: float, workers: int) -> None:
    """Print the runs that `train_next_runs` would train, and how to train them."""
    plan, chosen = _chosen(env, ledger, budget, workers)
    if chosen:
        env.say(f"nothing was trained; to train them: sweeper verify --protocol {ledger.protocol} --train")
    else:
        env.say(_nothing(plan))


def _nothing(plan: list[Step]) -> str:
    return "nothing to train" + (f": the first would take {duration(plan[0].seconds)}" if plan else "")


def train_next_runs(env: Environment, ledger: Ledger, budget: float, workers: int) -> Ledger:
    """Train the next runs that fit into the budget, record the report, and judge again.

    Args:
        env: its journal is that of `ledger`.
        ledger: the claims as judged so far.
        budget: seconds. The forecast of the chosen runs is within it, and no run starts after it. With 0 nothing is
            trained or recorded.
        workers: processes that share the cores. Times are comparable only with as many workers as before.

    Returns:
        The verdicts on all recorded runs. Chosen runs that failed, or that the budget was too short for, are missing.

    Raises:
        SweeperError: the recorded runs are of more than one data set, device or precision.
    """
    plan, chosen = _chosen(env, ledger, budget, workers)
    if runs := tuple(run for step in chosen for run in step.runs):
        engine = EngineChoice(workers=workers)
        incomplete = _train(env, ledger, Options(ledger.protocol, engine=engine, runs=runs, seconds=budget))
        return replace(verify(ledger.journal, ledger.protocol), incomplete=incomplete)
    env.say(_nothing(plan))
    if budget and env.tracking_uri != NONE and not is_recorded(env, ledger.protocol, ledger.runs):
        with contextlib.suppress(StudyConflict):  # another command is training; it records the report at its end
            record_only(env, ledger.protocol)
    return ledger


def _train(env: Environment, ledger: Ledger, options: Options) -> StudyIncomplete | None:
    """Train the runs of `options`, and return the error if some failed."""
    try:
        result = reproduce(env, _machine(env, ledger), options)
        for run, why in result["failed"].items():
            env.warn(f"{run} failed: {why}")
        if result["recorded"] + len(result["failed"]) < len(options.runs):
            planned = counted(len(options.runs), "planned run")
            env.warn(f"the budget was enough for {result['recorded']} of {planned}")
        check_failed(result)
    except StudyIncomplete as error:
        return error
    return None


def _machine(env: Environment, ledger: Ledger) -> Chosen:
    """The data set, device and precision of the recorded runs."""
    kinds = {kind_of(start["params"]) for start in starts(ledger.runs)}
    if len(kinds) != 1:
        shown = "; ".join(map(" ".join, sorted(kinds))) or "none"
        raise SweeperError(
            f"{ledger.journal} holds runs of several kinds ({shown}), and --train continues runs of one kind. "
            "Run sweeper verify without --train, or set another SWEEPER_HOME."
        )
    (found,) = kinds
    return choose_machine(env, found.dataset, found.device, found.precision)
