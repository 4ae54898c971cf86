"""`sweeper verify --train`: choose the runs that decide open claims at the lowest cost, train them, and judge again.

Each inconclusive claim is taken to the interim analysis that would decide it, if the current estimates are the truth
(`Judged.seeds_needed`). Of a claims file, each claim is first taken to the seeds that the file names. Its cost is the
time of the missing runs, at the pace of the recorded ones. The cheapest claim comes first; runs planned for it are free
for the claims that follow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple

from sweeper.core.cores import cores
from sweeper.core.environment import NONE, Environment
from sweeper.core.errors import StudyConflict, StudyIncomplete, SweeperError
from sweeper.core.text import counted, duration
from sweeper.engine.choice import EngineChoice
from sweeper.replication.article import DEFAULT
from sweeper.replication.claims.ledger import FIRST_LOOK, Judged, Ledger, Runs
from sweeper.replication.plan import SPEED, Options, cost, kind_of
from sweeper.replication.report_record import is_recorded
from sweeper.replication.reproduce import check_failed, choose_machine, record_only, reproduce
from sweeper.replication.runs import ArmRun, read_runs, starts
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


def steps(
    judged: Sequence[Judged], runs: Runs, missing: Mapping[str, float] | None = None, seeds: int = 0
) -> list[Step]:
    """A step for each inconclusive claim that more seeds would decide, the cheapest first.

    Args:
        judged: the claims.
        runs: those that are recorded.
        missing: the seconds of a run of the arms without one; without it, their claims have no step.
        seeds: those that each open claim is taken to at first.
    """
    cost = dict(missing or {}) | {arm: fmean(map(seconds_of, of_arm)) for arm, of_arm in runs.items() if of_arm}
    waiting = [entry for entry in judged if _target(entry, seeds)]
    found: list[Step] = []
    planned: set[tuple[str, int]] = set()
    while waiting:
        candidates = [_step(entry, runs, cost, planned, seeds) for entry in waiting]
        step = min(candidates, key=lambda step: (step.seconds, step.claim))
        planned.update(step.runs)
        waiting = [entry for entry in waiting if entry.claim.number != step.claim]
        found.append(step)
    return found


def _target(judged: Judged, seeds: int) -> int | None:
    """The number of seeds to take a claim to: at first `seeds`, then the interim analysis that would decide it."""
    if judged.verdict in ("inconclusive", "untestable") and judged.seeds < seeds:
        return seeds
    if judged.verdict == "inconclusive" and not judged.looks:
        return FIRST_LOOK
    return judged.seeds_needed


def _step(
    judged: Judged, runs: Runs, cost: Mapping[str, float], planned: set[tuple[str, int]], seeds: int
) -> Step:  # fmt: skip
    claim, target = judged.claim, _target(judged, seeds) or 0
    known = planned | {(arm, run.seed) for arm in claim.question.arms for run in runs.get(arm, ())}
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


def seconds_of(run: ArmRun) -> float:
    """The time from a run's last start to its end by its journal, else that of its epochs."""
    events = read_events(run.folder)
    starts = [event["time"] for event in events if event["event"] == "start"]
    if starts and events[-1]["event"] == "end":
        return float(events[-1]["time"] - starts[-1]) / 1000
    return sum(epoch.get("time/epoch_s", 0.0) for epoch in run.epochs)


# --- training -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NextRuns:
    """The next runs of a ledger, and the machine to train them on.

    Attributes:
        steps: all of them.
        chosen: those that fit into the budget.
        machine: the data set, device and precision of the recorded runs, or of this machine without one; None if there
            is nothing to plan for.
    """

    steps: list[Step]
    chosen: list[Step]
    machine: Chosen | None

    @property
    def nothing(self) -> str:
        """Say that there is nothing to train."""
        return "nothing to train" + (f": the first would take {duration(self.steps[0].seconds)}" if self.steps else "")


def _next_runs(env: Environment, ledger: Ledger, budget: float, workers: int, *, train: bool) -> NextRuns:
    """Print the next steps, and return them."""
    of, runs = ledger.of, ledger.runs
    machine, missing, seeds = None, {}, 0
    if of.article.name != DEFAULT:
        seeds, arms = of.protocol.seeds, [arm for arm in of.select() if not runs.get(arm)]
        machine = _machine(env, ledger) if arms else None
        missing = {arm: _forecast(ledger, machine, arm, workers) for arm in arms if machine}
    plan = steps(ledger.judged, runs, missing, seeds)
    chosen = affordable(plan, budget * workers)
    for line in lines(plan, len(chosen)):
        env.say(line)
    return NextRuns(plan, chosen, machine or (_machine(env, ledger) if train and chosen else None))


def _forecast(ledger: Ledger, machine: Chosen, arm: str, workers: int) -> float:
    """The seconds of a run of an arm that has none, at the pace of the recorded ones, else of the log."""

    def work(name: str) -> float:
        return cost(ledger.of.config(name, seed=0), machine.source.spec)

    recorded = [(work(name), seconds_of(run)) for name, of_arm in ledger.runs.items() for run in of_arm]
    pace = sum(done for done, _ in recorded) / sum(took for _, took in recorded) if recorded else 0.0
    return work(arm) / (pace or SPEED * cores() / workers)


def show_next_runs(env: Environment, ledger: Ledger, budget: float, workers: int) -> None:
    """Print the runs that `train_next_runs` would train, and how to train them."""
    found = _next_runs(env, ledger, budget, workers, train=False)
    if found.chosen:
        env.say(f"nothing was trained; to train them: sweeper verify {ledger.of.options} --train")
    else:
        env.say(found.nothing)


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
        SweeperError: the recorded runs are of more than one data set, device or precision; or there is still none.
    """
    found = _next_runs(env, ledger, budget, workers, train=True)
    if found.chosen and found.machine:
        runs = tuple(run for step in found.chosen for run in step.runs)
        options = Options(ledger.of, engine=EngineChoice(workers=workers), runs=runs, seconds=budget)
        incomplete = _train(env, found.machine, options)
        if incomplete and not read_runs(ledger.journal, ledger.of):
            raise incomplete
        return replace(verify(ledger.journal, ledger.of), incomplete=incomplete)
    env.say(found.nothing)
    if budget and ledger.runs and env.tracking_uri != NONE and not is_recorded(env, ledger.of, ledger.runs):
        with contextlib.suppress(StudyConflict):  # another command is training; it records the report at its end
            record_only(env, ledger.of)
    return ledger


def _train(env: Environment, machine: Chosen, options: Options) -> StudyIncomplete | None:
    """Train the runs of `options`, and return the error if some failed."""
    try:
        result = reproduce(env, machine, options)
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
    """The data set, device and precision of the recorded runs; without any, of the claims file and this machine."""
    if not ledger.runs:
        return choose_machine(env, ledger.of.article.dataset, "auto", "auto")
    kinds = {kind_of(start["params"]) for start in starts(ledger.runs)}
    if len(kinds) != 1:
        shown = "; ".join(map(" ".join, sorted(kinds))) or "none"
        raise SweeperError(
            f"{ledger.journal} holds runs of several kinds ({shown}), and --train continues runs of one kind. "
            "Run sweeper verify without --train, or set another SWEEPER_HOME."
        )
    (found,) = kinds
    return choose_machine(env, found.dataset, found.device, found.precision)
