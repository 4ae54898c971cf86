"""The commands that judge an article: reproduce and verify."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper.cli.options import (
    MAX_WORKERS,
    Duration,
    Experiments,
    OrAuto,
    ends_unread,
    engine_options,
    json_option,
    machine,
    tracked,
    tracking_option,
)

if TYPE_CHECKING:
    from sweeper.core.environment import Environment
    from sweeper.replication.arms import ProtocolName
    from sweeper.replication.claims.ledger import Ledger
from sweeper.cli.environment import engine_choice, make_environment
from sweeper.cli.options import MAX_SEEDS, refuse
from sweeper.cli.say import print_json, say_where
from sweeper.cli.search import start_workers


@click.command()
@click.option(
    "--exp",
    type=OrAuto(Experiments()),
    default="auto",
    show_default=True,
    help="Experiments of the article, by number; auto: all.",
)
@click.option(
    "--seeds",
    type=OrAuto(click.IntRange(1, MAX_SEEDS)),
    default="auto",
    show_default=True,
    help="Number of seeds of each arm; auto: the protocol's.",
)
@click.option(
    "--protocol",
    type=click.Choice(["full", "quick"]),
    default="full",
    show_default=True,
    help="full: all training images; quick: 12,000 of them and 6 epochs.",
)
@click.option(
    "--arms",
    type=OrAuto(click.Choice(["all", "experiments"])),
    default="auto",
    show_default=True,
    help="experiments: the article's eight; all: also the variants that the claims compare; "
    "auto: experiments with --exp, else all.",
)
@engine_options
@click.option("--dry-run", is_flag=True, help="Show what would be trained and for how long; train nothing.")
@click.option("--offline", is_flag=True, help="The same as --tracking-uri offline.")
@machine
@tracked
@ends_unread
def reproduce(**options: Any) -> None:
    """Train the article's experiments with several seeds.

    Recorded runs are not trained again. Run the same command again to continue.
    """
    from sweeper.core.environment import OFFLINE

    if options["offline"] or options["dry_run"]:
        options["tracking_uri"] = OFFLINE
    env = make_environment(options)
    if not options["dry_run"]:
        start_workers(options)
    from sweeper.replication import reproduce
    from sweeper.replication.plan import Options
    from sweeper.replication.reproduce import check_failed, choose_machine, dry_run

    only = options["arms"] == "experiments" or (options["arms"] is None and options["exp"] is not None)
    asked = Options(options["protocol"], options["exp"] or (), only, options["seeds"], engine_choice(options))
    chosen = choose_machine(env, options["dataset"], options["device"], options["precision"])
    if options["dry_run"]:
        print_json(env, dry_run(env, chosen, asked))
        return
    result = reproduce.reproduce(env, chosen, asked)
    _say_arms(env, result)
    say_where(env, None)
    print_json(env, result)
    check_failed(result)


@click.command()
@click.option(
    "--protocol",
    type=click.Choice(["full", "quick"]),
    default="full",
    show_default=True,
    help="Protocol of the runs to judge.",
)
@click.option(
    "--journal",
    type=OrAuto(click.Path(path_type=Path)),
    default="auto",
    show_default=True,
    metavar="auto|DIR",
    help="Folder of the recorded runs; auto: SWEEPER_HOME/journal.",
)
@click.option(
    "--plan",
    is_flag=True,
    help="Train the runs that decide open claims at the lowest cost, then judge again.",
)
@click.option(
    "--budget",
    type=Duration(),
    default="30m",
    show_default=True,
    help="Time for --plan, such as 90s, 30m or 2h; 0: only show what it would train.",
)
@click.option(
    "--data-dir",
    type=OrAuto(click.Path(path_type=Path)),
    default="auto",
    show_default=True,
    metavar="auto|DIR",
    help="Folder of the FashionMNIST files, for --plan.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, MAX_WORKERS),
    default=1,
    show_default=True,
    help="Number of worker processes for --plan; use that of the recorded runs.",
)
@tracking_option
@json_option
def verify(
    protocol: ProtocolName, journal: Path | None, plan: bool, budget: float, workers: int, **options: Any
) -> None:
    """Judge the article's 28 claims from recorded runs.

    The runs are those of sweeper reproduce. The ledger of verdicts is written to report/PROTOCOL in SWEEPER_HOME, as
    ledger.html, .md, .png and .json.
    """
    if not plan:
        refuse("for --plan only, which trains; add --plan, or leave it out", "budget", "workers", "data_dir")
    if journal is not None and plan:
        raise click.UsageError("--plan trains into SWEEPER_HOME/journal: set SWEEPER_HOME in place of --journal")
    env = make_environment(options, check_tracking=plan)
    from sweeper.replication import verify
    from sweeper.replication.verify import publish

    found = verify.verify(journal or env.journal, protocol)
    if plan:
        from sweeper.replication.next_runs import train_next_runs

        found = train_next_runs(env, found, budget, workers)
    ledger, result = publish(env, found)
    _say_ledger(env, ledger, result)
    print_json(env, result)
    if found.incomplete:
        raise found.incomplete


def _say_arms(env: Environment, result: dict[str, Any]) -> None:
    from sweeper.replication.runs import ArmSummary, table

    env.say(f"{result['recorded']} of {result['runs']} runs are recorded; {result['added']} added now")
    for line in table([ArmSummary(**row) for row in result["arms"]]):
        env.say(line)
    env.say(f"to judge the claims of the article: sweeper verify --protocol {result['protocol']}")


def _say_ledger(env: Environment, ledger: Ledger, result: dict[str, Any]) -> None:
    """The table of verdicts, as wide as the terminal."""
    from sweeper.replication.pages.ledger import counts, provenance_line, text_table, untestable

    width = shutil.get_terminal_size((100, 24)).columns
    if not env.json_output:
        for line in (*text_table(ledger, width), *untestable(ledger, width)):
            env.say(line)
    env.say(f"{counts(ledger)}. {provenance_line(ledger)}")
    env.say(f"ledger: {result['report']}/ledger.html")
