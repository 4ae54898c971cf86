"""The commands that read runs: status, report, sync, replay and xray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import (
    batch_options,
    data_dir_option,
    dataset_options,
    device_option,
    given,
    json_option,
    moved_option,
    network_fields,
    network_options,
    or_auto,
    refuse,
    storage_option,
    tracking_option,
)

if TYPE_CHECKING:
    from sweeper.replication.arms import ProtocolName

OF_A_RUN: Final = {"data_dir", "tracking_uri", "json_output"}  # options of xray


@click.command()
@click.argument("study", required=False)
@storage_option
@json_option
def status(study: str | None, **options: Any) -> None:
    """Show the progress of a sweep, by default the newest."""
    from sweeper.sweep.records import show_status

    env = make_environment(options, check_tracking=False)
    print_json(show_status(env, study), env.json_output)


@click.command()
@click.argument("study", required=False)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Output file. [default: report/STUDY.html in SWEEPER_HOME]")  # fmt: skip
@or_auto("--protocol", click.Choice(["full", "quick"]),
         "Protocol of the reproduction; auto: the one with runs, or full.")  # fmt: skip
@tracking_option
@storage_option
@json_option
def report(study: str | None, output: Path | None, protocol: ProtocolName | None, **options: Any) -> None:
    """Write the report of a sweep as one HTML file.

    The default is the newest sweep. The file needs no network.

    STUDY is a sweep, or the word reproduce for the runs of sweeper reproduce. Beside that report the article's eight
    figures are written as a PNG image for print. --storage is for a sweep. --protocol and --tracking-uri are for the
    reproduction, whose report links its runs in MLflow.
    """
    if study == "reproduce":
        refuse("is for the report of a sweep. Leave it out: the reproduction is read from the journal.", "storage")
        from sweeper.replication.report import write_reproduction_report

        env = make_environment(options, check_tracking=False)
        result = write_reproduction_report(env, protocol, output)
    else:
        refuse("is for sweeper report reproduce. Leave it out.", "protocol", "tracking_uri")
        from sweeper.sweep.records import write_sweep_report

        env = make_environment(options, check_tracking=False)
        result = write_sweep_report(env, study, output)
    print_json(result, env.json_output)


@click.command()
@click.argument("journal", required=False, type=click.Path(path_type=Path))
@click.option("--all", "again", is_flag=True, help="Upload every run again, from its first event.")
@click.option("--free", is_flag=True, help="Then delete from the journal the files that MLflow is seen to hold.")
@tracking_option
@json_option
def sync(journal: Path | None, again: bool, free: bool, **options: Any) -> None:
    """Upload journaled runs to MLflow.

    For runs that were recorded offline, or during an outage of the server. A run that was deleted in MLflow is named
    once and left alone. --all tries it again. No run and no point is ever there twice."""
    from sweeper.sweep.records import upload

    env = make_environment(options, check_tracking=False)
    print_json(upload(env, journal, again=again, free=free), env.json_output)


@click.command()
@click.argument("run", metavar="RUN_ID|FOLDER")
@moved_option
@data_dir_option
@tracking_option
@json_option
def replay(run: str, dataset: str | None, **options: Any) -> None:
    """Train a recorded run again and compare bit by bit.

    RUN_ID is a run in MLflow, FOLDER one of a journal. Exit code 1: the runs differ.
    """
    from sweeper.sweep.replay import replay

    env = make_environment(options, check_tracking=False)
    result = replay(env, run, dataset)
    print_json(result, env.json_output)
    if not result["identical"]:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("run", metavar="[RUN_ID|FOLDER]", required=False)
@click.option("--weights", type=click.Path(path_type=Path), metavar="FILE",
              help="Weights of --model: FILE.safetensors, or a state_dict written by torch.save.")  # fmt: skip
@network_options
@batch_options
@dataset_options
@data_dir_option
@device_option
@tracking_option
@json_option
def xray(run: str | None, weights: Path | None, **options: Any) -> None:
    """Measure the variance shift of BatchNorm layers.

    Prints a row a BatchNorm layer and one sentence of advice. Nothing is trained or recorded.

    Examines a run, RUN_ID in MLflow or FOLDER of a journal, or a network with weights from a file: --model and
    --weights. The options of that network and its images are those of sweeper train; auto takes the value of
    experiment 6. In Python, sweeper.xray(model, batches) examines any network.
    """
    if run is not None and weights is None:
        refuse("is for --weights. Leave it out: a run has its own.", *options.keys() - OF_A_RUN)
        from sweeper.sweep.examine import xray_of_run

        env = make_environment(options, check_tracking=False)
        result = xray_of_run(env, run)
    elif run is None and weights is not None and options["model"] is not None:
        refuse("is for a run. Leave it out.", "tracking_uri")
        from sweeper.core.experiments import experiment
        from sweeper.sweep.examine import xray_of_file

        fields = given(options, "batch_size", "placement", "conv_dropout", "head_dropout", "augmentation", "dataset",
                       "image_size", "device") | network_fields(options)  # fmt: skip
        config = experiment(6, split="holdout", **fields)
        env = make_environment(options, check_tracking=False)
        result = xray_of_file(env, config, weights, options["dataset"], options["device"], fields)
    else:
        raise click.UsageError("name a run, or a network with both --model and --weights")
    print_json(result, env.json_output)
