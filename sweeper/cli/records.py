"""The commands that read runs: status, report, sync and replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper.cli.options import (
    OrAuto,
    json_option,
    storage_option,
    tracking_option,
)
from sweeper.core.errors import SweeperError, UsageError

if TYPE_CHECKING:
    from sweeper.replication.arms import ProtocolName
from sweeper.cli.environment import make_environment
from sweeper.cli.options import refuse
from sweeper.cli.say import print_json


@click.command()
@click.argument("study", required=False)
@storage_option
@json_option
def status(study: str | None, **options: Any) -> None:
    """Show the progress of a sweep, by default the newest."""
    from sweeper.study.reading import read_study
    from sweeper.sweep.progress import status_lines

    env = make_environment(options)
    view = read_study(study, env.storage)
    if not env.json_output:
        for line in status_lines(view):
            env.say(line)
    trials = [row._asdict() | {"params": dict(row.params)} for row in view.rows]
    print_json(env, {"study": view.name, "target": view.target, "trials": trials})


@click.command()
@click.argument("study", required=False)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Output file. [default: report/STUDY.html in SWEEPER_HOME]")  # fmt: skip
@click.option("--protocol", type=OrAuto(click.Choice(["full", "quick"])), default="auto", show_default=True,
              help="Protocol of the reproduction; auto: the one with runs, or full.")  # fmt: skip
@tracking_option
@storage_option
@json_option
def report(study: str | None, output: Path | None, protocol: ProtocolName | None, **options: Any) -> None:
    """Write a sweep's report as one HTML file.

    The default is the newest sweep. The file needs no network.

    STUDY is a sweep, or the word reproduce, for the runs of sweeper reproduce; the article's eight figures are then
    written beside the report as well, as a PNG image for print. --storage is for a sweep, --protocol for the
    reproduction, and so is --tracking-uri, for links to its runs in MLflow.
    """
    if study == "reproduce":
        refuse("for a sweep only; the reproduction is read from the journal: leave it out", "storage")
    else:
        refuse("for sweeper report reproduce only: leave it out", "protocol", "tracking_uri")
    from sweeper.replication.pages.page import finished_runs
    from sweeper.report.files import report_path, write_report
    from sweeper.report.sweep.page import sweep_report
    from sweeper.study.reading import read_record

    env = make_environment(options, check_tracking=False)
    if study == "reproduce":
        from sweeper.replication import verify
        from sweeper.replication.arms import PROTOCOLS

        protocol, runs = finished_runs(env, protocol)
        name = PROTOCOLS[protocol].folder
        page, figures = verify.report(env, protocol, runs)
    else:
        record = read_record(study, env.storage)
        name, page, figures = record.name, sweep_report(env, record), b""
    path = output or report_path(env, name)
    write_report(path, page)
    result: dict[str, Any] = {"study": name, "report": str(path), "bytes": len(page)}
    env.say(f"report of {name!r}: {path} ({len(page) / 1e6:.1f} MB)")
    if figures:
        result["figures"] = str(path.with_suffix(".png"))
        write_report(path.with_suffix(".png"), figures)
        env.say(f"figures 4 to 11 for print: {result['figures']}")
    print_json(env, result)


@click.command()
@click.argument("journal", required=False, type=click.Path(path_type=Path))
@tracking_option
@json_option
def sync(journal: Path | None, **options: Any) -> None:
    """Upload journaled runs to MLflow.

    For runs that were recorded offline, or during an outage of the server."""
    from sweeper.core.environment import NONE, OFFLINE
    from sweeper.core.text import counted
    from sweeper.sweep.tracker import FIGURES
    from sweeper.tracking import mlflow
    from sweeper.tracking.store import hide_password

    env = make_environment(options)
    root = journal or env.journal
    if not root.is_dir():
        raise SweeperError(f"{root}: not a folder; name a journal, which a run leaves in SWEEPER_HOME/journal")
    if env.tracking_uri in (OFFLINE, NONE):
        raise UsageError(f"--tracking-uri {env.tracking_uri}: a journal is carried to a server or a database")
    carried = mlflow.sync(root, env.tracking_uri, env.home, FIGURES, env.warn)
    env.say(f"{counted(carried, 'run')} carried from {root} to {hide_password(env.tracking_uri)}")
    print_json(env, {"carried": carried})


@click.command()
@click.argument("run", metavar="RUN_ID|FOLDER")
@click.option("--data-dir", type=OrAuto(click.Path(path_type=Path)), default="auto", show_default=True,
              metavar="auto|DIR", help="Folder of the four FashionMNIST files.")  # fmt: skip
@tracking_option
@json_option
def replay(run: str, **options: Any) -> None:
    """Train a recorded run again and compare bit by bit.

    RUN_ID is a run in MLflow, FOLDER one of a journal. Exit code 1: the runs differ.
    """
    from sweeper.sweep import replay

    env = make_environment(options, check_tracking=False)
    done = replay.replay(env, run)
    if done.identical:
        weights = "the weights" if done.weights else "no weights, which were not recorded"
        env.say(f"identical: {done.epochs} epochs and {weights}")
    else:
        env.say(f"different: {done.difference}")
        env.say("not as it was: " + ("; ".join(done.environment) or "nothing that was recorded"))
    print_json(env, done.describe())
    if not done.identical:
        raise click.exceptions.Exit(1)
