"""Read or upload the records of earlier commands: `sweeper status`, `report` and `sync`.

Each function imports what it needs, so that `status` does not wait for MLflow or the drawing libraries.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import SweeperError, UsageError
from sweeper.core.intervals import TEST, accuracy_words
from sweeper.core.text import counted, duration
from sweeper.sweep.progress import accuracy_beside, in_short, in_words

if TYPE_CHECKING:
    from sweeper.core.metric import Metric
    from sweeper.study.reading import StudyView
    from sweeper.study.rows import TrialRow


def show_status(env: Environment, study: str | None) -> dict[str, Any]:
    """Print the progress of a sweep, by default the newest, and return the JSON that `--json` prints.

    Raises:
        UsageError: there is no such study.
    """
    from sweeper.study.reading import read_study

    view = read_study(study, env.storage)
    if not env.json_output:
        for line in [*status_lines(view), *end_lines(env, view)]:
            env.say(line)
    trials = [row._asdict() | {"params": dict(row.params)} for row in view.rows]
    return {
        "study": view.name, "target": view.target, "metric": view.metric.name, "driver": view.driver or None,
        "trials": trials,
    }  # fmt: skip


def status_lines(view: StudyView) -> list[str]:
    """Describe a study in a few lines."""
    from sweeper.study.rows import ranking

    states = [row.state if row.copy_of is None else "duplicate" for row in view.rows]
    done = sum(states.count(state) for state in ("complete", "pruned", "duplicate"))
    duplicates = f", {counted(copies, 'duplicate')}" if (copies := states.count("duplicate")) else ""
    waiting = f", {states.count('waiting')} enqueued" if "waiting" in states else ""
    stopped = not view.driven and done < view.target
    begun = f"{states.count('running')} {'interrupted' if stopped else 'running'}"
    how = "stopped, " if stopped else "paused, " if view.paused and done < view.target else ""
    lines = [
        f"study {view.name}: {how}{done}/{counted(view.target, 'trial')} finished, "
        f"{states.count('complete')} complete, {states.count('pruned')} pruned{duplicates}, "
        f"{states.count('failed')} failed, "
        f"{begun}{waiting}"
    ]
    lines += [f"  driver: {view.driver}"] if view.driver else []
    lines += [
        f"  trial {row.number}: epoch {row.epochs}, {_value(view.metric, row)}, {in_words(row.params)}, "
        f"{'' if row.seconds is None else duration(row.seconds)}"
        for row in view.rows
        if row.state == "running" and not stopped
    ]
    best = ranking(view.rows, view.metric)[:5]
    lines += ["best so far:"] if best else []
    lines += [
        f"  {view.metric.label} {in_short(each.standing)}{accuracy_beside(view.metric, each.scores)}: "
        f"{in_words(each.params)}"
        for each in best
    ]
    seconds = [row.seconds for row in view.rows if row.state in ("complete", "pruned") and row.seconds]
    if stopped:
        lines.append(f"to continue it: {view.command or 'run the same sweeper optimize again'}")
    elif seconds and done < view.target and "running" in states:
        left = (view.target - done) * sum(seconds) / len(seconds) / max(view.workers, 1)
        lines.append(f"about {duration(left)} left")
    return lines


def end_lines(env: Environment, view: StudyView) -> list[str]:
    """Describe the champion and the report of a study that has ended."""
    from sweeper.report.files import report_path
    from sweeper.sweep.champion_record import recorded_champions

    lines = []
    for number, metrics in list(recorded_champions(env, view.name, view.uid).items())[-1:]:
        words = f"test accuracy {accuracy_words(metrics, view.metric)}" if TEST in metrics else "not evaluated"
        lines.append(f"champion: trial {number}, {words}")
    page = report_path(env, view.name).absolute()
    return [*lines, f"report: {page}"] if page.exists() else lines


def this_command() -> str:
    """Return the command of this process for a shell, without passwords; an empty string for another program."""
    from sweeper.tracking.store import hide_password

    if Path(sys.argv[0]).name not in ("sweeper", "__main__.py"):
        return ""
    return shlex.join(["sweeper", *(hide_password(word) for word in sys.argv[1:])])


def _value(metric: Metric, row: TrialRow) -> str:
    return "no epoch yet" if row.value is None else f"{metric.label} {row.value:.4f}"


def write_sweep_report(env: Environment, study: str | None, output: Path | None) -> dict[str, Any]:
    """Write the report of a sweep, by default of the newest, and return the JSON that `--json` prints.

    Raises:
        UsageError: there is no such study.
        SweeperError: the file cannot be written.
    """
    from sweeper.report.files import report_path, write_report
    from sweeper.report.sweep.page import sweep_report
    from sweeper.study.reading import read_record

    record = read_record(study, env.storage)
    page = sweep_report(env, record)
    path = (output or report_path(env, record.name)).absolute()
    write_report(path, page)
    env.say(f"report of {record.name!r}: {path} ({len(page) / 1e6:.1f} MB)")
    return {"study": record.name, "report": str(path), "bytes": len(page)}


def upload(env: Environment, journal: Path | None, *, again: bool = False, free: bool = False) -> dict[str, Any]:
    """Upload the runs of a journal, by default that of `env`, and return the JSON that `--json` prints.

    With `again`, upload all of them again. With `free`, then delete the files that the store lists.

    Raises:
        UsageError: there is no tracking store to upload to.
        SweeperError: there is no such journal, or the store cannot be used.
    """
    from sweeper.sweep.tracker import FIGURES
    from sweeper.tracking.mlflow import free_disk, sync
    from sweeper.tracking.store import absolute, hide_password

    root = (journal or env.journal).absolute()
    if not root.is_dir():
        raise SweeperError(f"{root} is not a directory. Name a journal, such as SWEEPER_HOME/journal.")
    if env.tracking_uri in (OFFLINE, NONE):
        raise UsageError(f"--tracking-uri {env.tracking_uri}: not an MLflow store. Name a server or a database.")
    store = hide_password(absolute(env.tracking_uri))
    uploaded = sync(root, env.tracking_uri, env.home, FIGURES, env.warn, again=again, experiment=env.experiment)
    env.say(f"uploaded {counted(uploaded, 'run')} from {root} to {store}")
    if not free:
        return {"carried": uploaded}
    freed = free_disk(root, env.tracking_uri, env.home, env.warn, env.experiment)
    env.say(f"freed {freed.bytes / 1e6:.1f} MB: deleted {counted(freed.files, 'file')} that {store} holds")
    if freed.kept:
        env.warn(
            f"kept {counted(freed.kept, 'file')} that MLflow does not list. To upload again, run: sweeper sync --all"
        )
    return {"carried": uploaded, "freed": freed.bytes}
