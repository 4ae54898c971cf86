"""Choose the next runs: those that decide open claims at the lowest cost.

Each inconclusive claim is taken to the interim analysis that would decide it, if the current estimates are the truth
(`ledger.seeds_needed`). Its cost is the time of the missing runs, at the pace of the recorded ones. The cheapest claim
comes first; runs planned for it are free for the claims that follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple

from sweeper.core.text import counted, duration
from sweeper.replication.claims.ledger import FIRST_LOOK, Detail, Judged, Runs
from sweeper.replication.runs import ArmRun
from sweeper.tracking.reading import read_events


class Step(NamedTuple):
    """One claim, the seeds that it is taken to, and the runs that this needs beyond those of earlier steps."""

    claim: int
    says: str
    seeds: int  # of each of its arms
    runs: tuple[tuple[str, int], ...]  # arm and seed
    seconds: float


def steps(judged: Sequence[Judged], details: Sequence[Detail | None], runs: Runs) -> list[Step]:
    """A step for each inconclusive claim that more seeds would decide, the cheapest first."""
    cost = {arm: fmean(map(seconds, of_arm)) for arm, of_arm in runs.items() if of_arm}
    waiting = {
        entry.claim.number: (entry, target)
        for entry, detail in zip(judged, details, strict=True)
        if detail is not None and (target := _target(entry, detail)) is not None
    }
    found: list[Step] = []
    planned: set[tuple[str, int]] = set()
    while waiting:
        candidates = [_step(entry, target, runs, cost, planned) for entry, target in waiting.values()]
        step = min(candidates, key=lambda step: (step.seconds, step.claim))
        planned.update(step.runs)
        del waiting[step.claim]
        found.append(step)
    return found


def _target(judged: Judged, detail: Detail) -> int | None:
    """The number of seeds to take a claim to: its first interim analysis, or the one that would decide it."""
    if judged.verdict != "inconclusive":
        return None
    if not judged.looked.looks:
        return FIRST_LOOK
    return detail.seeds_needed


def _step(judged: Judged, target: int, runs: Runs, cost: Mapping[str, float], planned: set[tuple[str, int]]) -> Step:
    recorded = {arm: {run.seed for run in runs[arm]} for arm in judged.claim.question.arms}
    missing = [
        (arm, seed)
        for seed in range(target)  # all arms of one seed in a row, because their times are compared
        for arm in judged.claim.question.arms
        if (arm, seed) not in planned and seed not in recorded[arm]
    ]
    claim = judged.claim
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
