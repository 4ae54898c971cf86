"""`sweeper verify --plan`: train the next runs, record the report, and judge again."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.core.environment import NONE, Environment
from sweeper.core.errors import StudyConflict, StudyIncomplete, SweeperError
from sweeper.core.text import counted, duration
from sweeper.engine.choice import EngineChoice
from sweeper.replication.claims.ledger import Verified
from sweeper.replication.claims.next_runs import affordable, lines, steps
from sweeper.replication.plan import Options
from sweeper.replication.report_record import is_recorded
from sweeper.replication.reproduce import check_failed, choose_machine, record_only, reproduce
from sweeper.replication.runs import starts
from sweeper.replication.verify import verify
from sweeper.sweep.choose import Chosen


def train_next_runs(env: Environment, found: Verified, budget: float, workers: int) -> Verified:
    """Train the next runs that fit into the budget, record the report, and judge again.

    Args:
        env: its journal is that of `found`.
        found: the claims as judged so far.
        budget: seconds. The forecast of the chosen runs is within it, and no run starts after it. With 0 nothing is
            trained or recorded.
        workers: processes that share the cores. Times are comparable only with as many workers as before.

    Returns:
        The verdicts on all recorded runs. Chosen runs that failed, or that the budget was too short for, are missing.

    Raises:
        SweeperError: the recorded runs are of more than one data set, device or precision.
    """
    plan = steps(found.judged, found.details, found.runs)
    chosen = affordable(plan, budget * workers)
    for line in lines(plan, len(chosen)):
        env.say(line)
    if runs := tuple(run for step in chosen for run in step.runs):
        incomplete = _train(env, found, Options(found.protocol, engine=EngineChoice(workers=workers), runs=runs,
                                                seconds=budget))  # fmt: skip
        return replace(verify(found.journal, found.protocol), incomplete=incomplete)
    env.say("nothing to train" + (f": the first would take {duration(plan[0].seconds)}" if plan else ""))
    if budget:
        _record_missing(env, found)
    return found


def _train(env: Environment, found: Verified, options: Options) -> StudyIncomplete | None:
    """Train the runs of `options`, and return the error if some failed."""
    try:
        result = reproduce(env, _machine(env, found.journal, starts(found.runs)), options)
        for run, why in result["failed"].items():
            env.warn(f"{run} failed: {why}")
        if result["recorded"] + len(result["failed"]) < len(options.runs):
            planned = counted(len(options.runs), "planned run")
            env.warn(f"the budget sufficed for {result['recorded']} of {planned}")
        check_failed(result)
    except StudyIncomplete as error:
        return error
    return None


def _record_missing(env: Environment, found: Verified) -> None:
    """Record the report if an earlier command was stopped before it had."""
    if env.tracking_uri != NONE and not is_recorded(env, found.protocol, found.runs):
        with contextlib.suppress(StudyConflict):  # the command that is training records it
            record_only(env, found.protocol)


def _machine(env: Environment, journal: Path, recorded: Sequence[Mapping[str, Any]]) -> Chosen:
    """The data set, device and precision of the recorded runs."""
    params = [start["params"] for start in recorded]
    kinds = {(p["dataset"], p["device"].partition(":")[0], p["precision"]) for p in params}
    if len(kinds) != 1:
        shown = "; ".join(" ".join(kind) for kind in sorted(kinds)) or "none"
        raise SweeperError(
            f"{journal} holds runs of several kinds ({shown}). --plan continues runs of one kind: judge them without "
            "--plan, or set another SWEEPER_HOME."
        )
    return choose_machine(env, *kinds.pop())
