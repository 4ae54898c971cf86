"""The run that holds the report of the reproduction: its page, its figures for print, and which runs they show."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sweeper.core.environment import Environment
from sweeper.replication.article import Reproduction
from sweeper.replication.claims.ledger import Runs
from sweeper.replication.claims.looks import fingerprint
from sweeper.replication.runs import DIVERGED, read_runs
from sweeper.replication.verify import report
from sweeper.tracking.base import FINISHED, RunInfo, Tracker
from sweeper.tracking.reading import read_events

FINGERPRINT_TAG: Final = "sweeper.fingerprint"  # identifies the runs that the report shows


def record_report(env: Environment, of: Reproduction, tracker: Tracker) -> None:
    """Record the report of the reproduction, with its figures for print, in a run of its own.

    Later reports go to the same run. No-op if that run has ended and shows the current runs.
    """
    runs = read_runs(env.journal, of)
    folder = _folder(of)
    events = read_events(env.journal / folder)
    if not runs or _shows(events, runs):
        return
    page, figures = report(env, of, runs)
    tags = {"sweeper.kind": "study", "sweeper.study": of.folder, "sweeper.article": of.article.name,
            "sweeper.protocol": of.name}  # fmt: skip
    info = RunInfo(
        key=events[0]["key"] if events else f"{uuid.uuid4().hex}/{folder}", name=of.folder,
        folder=folder, params={"protocol": of.name}, tags=tags,
        description=f"The claims of {of.article.name} beside our runs, protocol {of.name}: {of.protocol.title}. The "
                    f"runs are those with the tags `sweeper.article` = {of.article.name}, `sweeper.protocol` = "
                    f"{of.name} and `sweeper.kind` = run.",
    )  # fmt: skip
    log = tracker.start(info)
    log.artifact("report.html", page)
    log.artifact("figures-4-to-11.png", figures)
    states = [run.state for of_arm in runs.values() for run in of_arm]
    log.end(FINISHED, {f"study/{state}": float(states.count(state)) for state in ("complete", DIVERGED)},
            {"sweeper.state": "complete", FINGERPRINT_TAG: fingerprint(runs)})  # fmt: skip


def is_recorded(env: Environment, of: Reproduction, runs: Runs) -> bool:
    """Return True if the report of `runs` is recorded."""
    return _shows(read_events(env.journal / _folder(of)), runs)


def _folder(of: Reproduction) -> str:
    """The folder of the run that holds the report, beside those of the arms; `study` is a stored name."""
    return f"{of.folder}/study"


def _shows(events: Sequence[Mapping[str, Any]], runs: Runs) -> bool:
    """Return True if the run that holds the report has ended and shows `runs`."""
    if not events or events[-1]["event"] != "end":
        return False
    return (events[-1]["status"], events[-1]["tags"].get(FINGERPRINT_TAG)) == (FINISHED, fingerprint(runs))
