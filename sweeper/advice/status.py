"""`sweeper status` of an advice: its stage, runs, time and, once there is one, its interim ranking."""

from __future__ import annotations

from typing import Any, Final

from sweeper.advice.record import FILE, Ended, Record, ended_runs, read_record
from sweeper.advice.result import Row, ranking
from sweeper.advice.rounds import state
from sweeper.advice.words import ranking_lines
from sweeper.core.environment import Environment
from sweeper.core.text import duration
from sweeper.report.files import report_path
from sweeper.sweep.recorded import Standing, standing

ANSWER: Final = "advice"  # the folder of the run that holds the answer


def is_advice(env: Environment, name: str) -> bool:
    """Return True if a journal folder holds an advice."""
    return (env.journal / name / FILE).is_file()


def show_status(env: Environment, name: str) -> dict[str, Any]:
    """Print the progress of the advice in a journal folder, and return the JSON that `--json` prints.

    Raises:
        SweeperError: its record is damaged.
    """
    folder = env.journal / name
    record, now = read_record(folder), standing(env.journal, name)
    ended = list(ended_runs(folder, record))
    stage, rows, planned = _stage(record, now), _ranking(record, ended), _planned(record, ended)
    if stage == "finished":
        planned = len(ended)
    for line in _lines(env, name, now, stage, len(ended), planned, record, rows):
        env.say(line)
    found = [{"placement": row.placement.value, "accuracy": row.accuracy, "low": row.low, "high": row.high,
              "seeds": row.seeds, "verdict": row.verdict} for row in rows]  # fmt: skip
    return {
        "advice": name, "stage": stage, "finished": len(ended), "planned": planned,
        "seconds": _used(record, now),
        "budget": record.limits and record.limits.budget, **now.plain(),
        "ranking": [{key: value for key, value in row.items() if value == value} for row in found],
    }  # fmt: skip


def _lines(
    env: Environment, name: str, now: Standing, stage: str, done: int, planned: int | None, record: Record,
    rows: list[Row],
) -> list[str]:  # fmt: skip
    of = "" if planned is None else f"/{planned}" if stage == "finished" else f" of at most {planned}"
    limited = record.limits is not None and record.limits.trainings is None
    used = duration(_used(record, now)) + (f" of {duration(record.limits.budget)}" if record.limits and limited else "")
    how = "" if stage == "finished" else f", {now.how}"
    lines = [f"{name}: {stage}{how}, {done}{of} runs finished, {used} used"]
    lines += now.running_lines()
    if rows:
        lines += ["ranking:" if stage == "finished" else "ranking so far:", *ranking_lines(rows)]
    if stage == "finished" and (page := report_path(env, name).absolute()).exists():
        lines.append(f"report: {page}")
    elif not now.driven and stage != "finished":
        lines.append("to continue it, run the same sweeper advise again")
    return lines


def _stage(record: Record, now: Standing) -> str:
    """Return the stage that is being trained, or that an interrupted command left."""
    answers = [run.until for run in now.runs if run.folder == ANSWER and run.finished]
    if not now.driven and answers and answers[-1] >= max(run.until for run in now.runs):
        return "finished"
    if any(run.folder.startswith("recommendation") for run in now.running):
        return "retraining the recommendation"
    if record.plan is None:
        return "probe" if record.pilot is None else "pilot"
    return "screening" if record.cells is None else "comparison"


def _used(record: Record, now: Standing) -> float:
    """Return the seconds of the budget that are used: those saved last, and those of runs since then."""
    return record.spent.seconds + now.seconds(record.spent.when) if record.spent else now.seconds()


def _planned(record: Record, ended: list[Ended]) -> int | None:
    """Return the maximum number of runs, those of probe and pilot included; None before the pilot is over."""
    before = sum(each.run.stage in ("probe", "pilot") for each in ended)
    return None if record.plan is None else record.plan.trainings + before


def _ranking(record: Record, ended: list[Ended]) -> list[Row]:
    """Return the ranking after the looks so far; empty before the first."""
    if record.plan is None or record.cells is None:
        return []
    runs = {each.run: each for each in ended}
    outcomes = {run: each.outcome for run, each in runs.items() if run.stage in ("screening", "comparison")}
    found = state(record.plan, record.rounds, outcomes, record.cells)
    return ranking(found, runs, {}) if found.comparison.looks else []
