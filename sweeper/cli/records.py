"""The commands that read runs: status, report, sync, replay and xray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sweeper.cli.command import command, group
from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import (
    PATH,
    PROTOCOLS,
    article_options,
    chosen_article,
    data_dir_option,
    device_option,
    experiment_option,
    fields_of,
    image_options,
    moved_option,
    network_options,
    or_auto,
    output_options,
    refuse,
    storage_option,
    store_options,
    tracking_option,
)
from sweeper.cli.speak import warn
from sweeper.cli.values import StudyName

if TYPE_CHECKING:
    from sweeper.core.environment import Environment
    from sweeper.replication.article import ProtocolName

OF_A_REPLICATION: Final = ("article", "claims_file", "protocol", "tracking_uri", "experiment_name")
OF_A_RUN: Final = {"data_dir", "tracking_uri", "experiment_name", "json_output"}  # options of xray


@command("how-to/resume-and-control.md", "sweeper status", "sweeper status sweep --json")
@click.argument("study", required=False, type=StudyName())
@storage_option
@output_options
def status(study: str | None, **options: Any) -> None:
    """Show the progress of a sweep, by default the newest.

    Also of an advice or a reproduction, by its folder in the journal, such as advise-net.
    """
    env = make_environment(options, check_tracking=False)
    print_json(_status(env, study), env.json_output)


def _status(env: Environment, name: str | None) -> dict[str, Any]:
    """Show the progress of what has this name: an advice, a reproduction, else a sweep."""
    if name is not None and name.startswith("advise-"):
        from sweeper.advice import status as advice

        if advice.is_advice(env, name):
            return advice.show_status(env, name)
    if name is not None and name.startswith("reproduce-"):
        from sweeper.replication import status as reproduction

        if reproduction.is_reproduction(env, name):
            return reproduction.show_status(env, name)
    from sweeper.sweep.records import show_status

    return show_status(env, name)


@command(
    "reference/cli.md#sweeper-report",
    "sweeper report",
    "sweeper report sweep --output sweep.html",
    "sweeper report --replication",
)
@click.argument("study", required=False, type=StudyName())
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Output file. [default: report/STUDY.html in SWEEPER_HOME]")  # fmt: skip
@click.option("--replication", is_flag=True, help="Report on the runs of sweeper reproduce.")
@group(
    "Replication",
    *article_options,
    or_auto("--protocol", click.Choice(PROTOCOLS), "Protocol for --replication.", "the one with runs, or full"),
)
@store_options
@storage_option
@output_options
def report(
    study: str | None,
    output: Path | None,
    replication: bool,
    article: str,
    claims_file: Path | None,
    protocol: ProtocolName | None,
    **options: Any,
) -> None:
    """Write the report of a sweep as one HTML file.

    The default is the newest sweep. The file works offline.

    --replication reports on sweeper reproduce instead, with links to its runs in MLflow. It also writes the article's
    eight figures next to the report, as a PNG image for print.
    """
    if study == "reproduce":
        warn("sweeper report reproduce is now sweeper report --replication. Use the new form.")
        study, replication = None, True
    if replication:
        if study is not None:
            raise click.UsageError(
                f"--replication reports on sweeper reproduce, not on {study!r}. Leave one of them out."
            )
        refuse("is only for the report of a sweep. Leave it out: --replication reads the journal.", "storage")
        named = chosen_article(article, claims_file)
        from sweeper.replication.report import write_reproduction_report

        env = make_environment(options, check_tracking=False)
        result = write_reproduction_report(env, named, protocol, output)
    else:
        refuse("is only for sweeper report --replication. Leave it out.", *OF_A_REPLICATION)
        from sweeper.sweep.records import write_sweep_report

        env = make_environment(options, check_tracking=False)
        result = write_sweep_report(env, study, output)
    print_json(result, env.json_output)


@command(
    "explanation/architecture.md#journal",
    "sweeper sync",
    "sweeper sync --tracking-uri http://127.0.0.1:5000",
    "sweeper sync --free",
)
@click.argument("journal", required=False, type=click.Path(path_type=Path))
@click.option("--all", "again", is_flag=True, help="Upload every run again, from its first event.")
@click.option("--free", is_flag=True, help="Afterwards, delete journal files that MLflow has.")
@store_options
@output_options
def sync(journal: Path | None, again: bool, free: bool, **options: Any) -> None:
    """Upload journaled runs to MLflow.

    Use it for runs recorded offline or during a server outage. A run deleted in MLflow stays deleted: a warning names
    it once, and --all tries it again. Runs and metrics are never duplicated."""
    from sweeper.sweep.records import upload

    env = make_environment(options, check_tracking=False)
    print_json(upload(env, journal, again=again, free=free), env.json_output)


@command(
    "how-to/replay.md",
    "sweeper replay 0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "sweeper replay journal/sweep/0007",
)
@click.argument("run", metavar="RUN_ID|FOLDER")
@moved_option
@data_dir_option
@store_options
@output_options
def replay(run: str, dataset: str | None, **options: Any) -> None:
    """Train a recorded run again and compare bit for bit.

    RUN_ID is a run in MLflow, FOLDER one in a journal. Exits with code 1 if the runs differ.
    """
    from sweeper.sweep.replay import replay

    env = make_environment(options, check_tracking=False)
    result = replay(env, run, dataset)
    print_json(result, env.json_output)
    if not result["identical"]:
        raise click.exceptions.Exit(1)


@command(
    "how-to/xray-your-model.md",
    "sweeper xray 0a1b2c3d4e5f60718293a4b5c6d7e8f9",
    "sweeper xray journal/sweep/0007",
    "sweeper xray --model resnet20 --weights model.safetensors --dataset sample",
)
@click.argument("run", metavar="[RUN_ID|FOLDER]", required=False)
@group(
    "Network",
    click.option(
        "--weights",
        type=PATH,
        metavar="FILE",
        help="Weights of --model: FILE.safetensors, or a state_dict written by torch.save.",
    ),
    *network_options(),
)
@group("Execution", device_option)
@group("Data", *image_options)
@group("Tracking", tracking_option, experiment_option)
@output_options
def xray(run: str | None, weights: Path | None, **options: Any) -> None:
    """Measure the variance shift of BatchNorm layers.

    Prints one row per BatchNorm layer and one sentence of advice. Trains and records nothing.

    Examines a run (RUN_ID in MLflow, or FOLDER in a journal), or a network with weights from a file (--model and
    --weights). In Python, sweeper.xray(model, batches) examines any network.
    """
    if run is not None and weights is None:
        refuse("is only for --weights. Leave it out: a run has its own.", *options.keys() - OF_A_RUN)
        from sweeper.sweep.examine import xray_of_run

        env = make_environment(options, check_tracking=False)
        result = xray_of_run(env, run)
    elif run is None and weights is not None and options["model"] is not None:
        refuse("is only for a recorded run. Leave it out.", "tracking_uri", "experiment_name")
        from sweeper.core.experiments import experiment
        from sweeper.sweep.examine import xray_of_file

        fields = fields_of(options)
        config = experiment(6, split="holdout", **fields)
        env = make_environment(options, check_tracking=False)
        result = xray_of_file(env, config, weights, options["dataset"], options["device"], fields)
    else:
        raise click.UsageError("name a run, or a network with both --model and --weights")
    print_json(result, env.json_output)
