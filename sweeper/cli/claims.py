"""The commands that judge an article: reproduce and verify."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper.cli.command import command, group
from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import (
    MAX_SEEDS,
    MAX_WORKERS,
    PATH,
    article_dataset_option,
    data_dir_option,
    device_option,
    ends_unread,
    engine_options,
    experiment_option,
    or_auto,
    output_options,
    precision_option,
    ray_options,
    refuse,
    store_options,
    tracking_option,
)
from sweeper.cli.values import Count, Duration, Experiments

if TYPE_CHECKING:
    from sweeper.core.environment import Environment
    from sweeper.replication.arms import ProtocolName
    from sweeper.replication.claims.ledger import Ledger


@command(
    "results/reproduction.md",
    "sweeper reproduce --protocol quick --dry-run",
    "sweeper reproduce --protocol quick --workers 2",
    "sweeper reproduce --exp 4-6 --seeds 5",
)
@group(
    "Training",
    or_auto("--exp", Experiments(), "Experiments of the article, by number.", "all"),
    or_auto("--seeds", Count(1, MAX_SEEDS), "Seeds per arm.", "5"),
    click.option(
        "--protocol",
        type=click.Choice(["full", "quick"]),
        default="full",
        help="full: all training images; quick: 12,000 of them and 6 epochs.",
    ),
    or_auto(
        "--arms",
        click.Choice(["all", "experiments"]),
        "experiments: the article's eight; all: also the variants that the claims compare.",
        "experiments with --exp, else all",
    ),
    click.option("--dry-run", is_flag=True, help="Show what would be trained and how long it would take."),
)
@group("Execution", *engine_options, device_option, precision_option)
@ray_options
@group("Data", article_dataset_option, data_dir_option)
@group(
    "Tracking",
    tracking_option,
    experiment_option,
    click.option("--offline", is_flag=True, help="The same as --tracking-uri offline."),
)
@output_options
@ends_unread
def reproduce(**options: Any) -> None:
    """Train the article's experiments with several seeds.

    Recorded runs are not trained again. Run the same command again to continue.
    """
    from sweeper.core.environment import OFFLINE
    from sweeper.sweep.options import engine_choice, start_workers

    if options["offline"] or options["dry_run"]:
        options["tracking_uri"] = OFFLINE
    env = make_environment(options)
    engine = engine_choice(options)
    if not options["dry_run"]:
        start_workers(engine, options["device"])
    from sweeper.replication.plan import Options
    from sweeper.replication.reproduce import check_failed, choose_machine, dry_run, reproduce
    from sweeper.sweep.links import say_where

    only = options["arms"] == "experiments" or (options["arms"] is None and options["exp"] is not None)
    asked = Options(options["protocol"], options["exp"] or (), only, options["seeds"], engine)
    chosen = choose_machine(env, options["dataset"], options["device"], options["precision"])
    if options["dry_run"]:
        print_json(dry_run(env, chosen, asked), env.json_output)
        return
    result = reproduce(env, chosen, asked)
    _say_arms(env, result)
    say_where(env)
    print_json(result, env.json_output)
    check_failed(result)


@command(
    "explanation/claims.md", "sweeper verify", "sweeper verify --protocol quick", "sweeper verify --train --budget 30m"
)
@click.option("--protocol", type=click.Choice(["full", "quick"]), default="full", help="Protocol of the runs to judge.")
@or_auto("--journal", PATH, "Folder of the recorded runs.", "SWEEPER_HOME/journal", "DIR")
@click.option("--train", is_flag=True,
              help="Train the runs that decide open claims at the lowest cost, then judge again.")  # fmt: skip
@click.option("--plan", is_flag=True, help="Show what --train would train.")
@click.option("--budget", type=Duration(), default="30m",
              help="Time for the runs of --train and --plan, such as 90s, 30m or 2h.")  # fmt: skip
@data_dir_option
@click.option("--workers", type=Count(1, MAX_WORKERS), default=1,
              help="Worker processes for --train. Use as many as the recorded runs did.")  # fmt: skip
@store_options
@output_options
def verify(
    protocol: ProtocolName, journal: Path | None, train: bool, plan: bool, budget: float, workers: int, **options: Any
) -> None:
    """Judge the article's 28 claims from recorded runs.

    Uses the runs of sweeper reproduce. Writes the ledger of verdicts to report/PROTOCOL in SWEEPER_HOME, as
    ledger.html, .md, .png and .json.
    """
    if train and plan:
        raise click.UsageError("--plan and --train cannot be combined. Leave one of them out.")
    if not train:
        refuse(
            "only works with --train. Add --train, or leave the option out.",
            "data_dir",
            *(() if plan else ("budget", "workers")),
        )
    if journal is not None and train:
        raise click.UsageError("--train writes to SWEEPER_HOME/journal. Set SWEEPER_HOME instead of --journal.")
    env = make_environment(options, check_tracking=train)
    from sweeper.replication import verify

    found = verify.verify(journal or env.journal, protocol)
    if plan:
        from sweeper.replication.next_runs import show_next_runs

        show_next_runs(env, found, budget, workers)
    if train:
        from sweeper.replication.next_runs import train_next_runs

        found = train_next_runs(env, found, budget, workers)
    ledger, result = verify.publish(env, found)
    _say_ledger(env, ledger, result)
    print_json(result, env.json_output)
    if found.incomplete:
        raise found.incomplete


def _say_arms(env: Environment, result: dict[str, Any]) -> None:
    from sweeper.replication.runs import ArmSummary, table

    env.say(f"{result['recorded']} of {result['runs']} runs are recorded; {result['added']} new")
    for line in table([ArmSummary(**row) for row in result["arms"]]):
        env.say(line)
    env.say(f"to judge the claims of the article: sweeper verify --protocol {result['protocol']}")


def _say_ledger(env: Environment, ledger: Ledger, result: dict[str, Any]) -> None:
    """Print the table of verdicts, as wide as the terminal."""
    from sweeper.replication.pages.ledger import counts, provenance_line, text_table, untestable

    width = shutil.get_terminal_size((100, 24)).columns
    if not env.json_output:
        for line in (*text_table(ledger, width), *untestable(ledger, width)):
            env.say(line)
    env.say(f"{counts(ledger)}. {provenance_line(ledger)}")
    env.say(f"ledger: {result['report']}/ledger.html")
