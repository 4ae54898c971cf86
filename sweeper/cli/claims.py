"""The commands that judge an article: reproduce and verify."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweeper.cli.command import command, group
from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import (
    ARTICLES,
    FILE,
    MAX_SEEDS,
    MAX_WORKERS,
    PATH,
    PROTOCOLS,
    article_dataset_option,
    article_options,
    chosen_article,
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
    tracking_option,
)
from sweeper.cli.values import Count, Duration, Experiments

if TYPE_CHECKING:
    from sweeper.core.environment import Environment
    from sweeper.replication.article import Article, ProtocolName, Reproduction
    from sweeper.replication.claims.ledger import Ledger


@command(
    "results/reproduction.md",
    "sweeper reproduce --protocol quick --workers 2 --dry-run",
    "sweeper reproduce --exp 4-6 --seeds 5",
    "sweeper reproduce --protocol quick --export quick.tar.gz",
)
@group(
    "Article",
    *article_options,
    or_auto("--exp", Experiments(), "Experiments of learnopencv, by number.", "all"),
    or_auto(
        "--arms",
        click.Choice(["all", "experiments"]),
        "experiments: learnopencv's eight; all: also the variants that the claims compare.",
        "experiments with --exp, else all",
    ),
)
@group(
    "Training",
    or_auto("--seeds", Count(1, MAX_SEEDS), "Seeds per arm.", "5, or as the claims file says"),
    click.option(
        "--protocol",
        type=click.Choice(PROTOCOLS),
        default="full",
        help="full: all training images; quick: fewer, of learnopencv 12,000; quick-6: quick as 0.1 had it, 6 epochs.",
    ),
    click.option("--dry-run", is_flag=True, help="Show what would be trained and how long it would take."),
)
@group("Execution", *engine_options, device_option, precision_option)
@ray_options
@group(
    "Recording",
    click.option("--export", type=FILE, metavar="FILE", help="Write the recorded runs into a new file; train nothing."),
    click.option(
        "--import",
        "import_",
        type=FILE,
        metavar="FILE",
        help="Take up the runs of such a file, of its protocol; train nothing.",
    ),
)
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
    """Train an article's arms with several seeds.

    Recorded runs are not trained again. Run the same command again to continue.
    """
    article = chosen_article(options["article"], options["claims_file"])
    if options["export"] or options["import_"]:
        _move_runs(article, options)
        return
    if article.name != ARTICLES[0]:
        refuse(f"chooses among the arms of {ARTICLES[0]}. Leave it out.", "exp", "arms")
    from sweeper.core.environment import OFFLINE
    from sweeper.replication.articles import under
    from sweeper.sweep.options import engine_choice, start_workers

    of = under(article, options["protocol"])
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
    asked = Options(of, options["exp"] or (), only, options["seeds"], engine)
    chosen = choose_machine(env, _dataset(article, options), options["device"], options["precision"])
    if options["dry_run"]:
        print_json(dry_run(env, chosen, asked), env.json_output)
        return
    result = reproduce(env, chosen, asked)
    _say_arms(env, of, result)
    say_where(env)
    print_json(result, env.json_output)
    check_failed(result)


def _dataset(article: Article, options: dict[str, Any]) -> str:
    """The images to train on: those of the claims file, if it names some."""
    if article.dataset == "auto":
        return str(options["dataset"])
    refuse(f"has no part here: the claims file names {article.dataset}. Leave it out.", "dataset")
    return article.dataset


def _move_runs(article: Article, options: dict[str, Any]) -> None:
    """Write the recorded runs into a file, or take up those of one."""
    if options["export"] and options["import_"]:
        raise click.UsageError("--export and --import are two commands. Leave one of them out.")
    name = "--export" if options["export"] else "--import"
    kept = {"export", "import_", "json_output", "article", "claims_file"}
    kept |= {"protocol"} if options["export"] else set()
    refuse(f"has no part in {name}. Leave it out.", *options.keys() - kept)
    from sweeper.replication.articles import under
    from sweeper.replication.recording import export_runs, import_runs

    env = make_environment(options, check_tracking=False)
    if options["export"]:
        result = export_runs(env, under(article, options["protocol"]), options["export"])
    else:
        result = import_runs(env, article, options["import_"])
    print_json(result, env.json_output)


@command(
    "explanation/claims.md",
    "sweeper verify --protocol quick",
    "sweeper verify --train --budget 30m",
    "sweeper verify --claims claims.yaml --train --budget 2h",
)
@group(
    "Article",
    *article_options,
    click.option("--protocol", type=click.Choice(PROTOCOLS), default="full", help="Protocol of the runs to judge."),
    or_auto(
        "--journal",
        PATH,
        "Folder of the recorded runs, or a file of reproduce --export.",
        "SWEEPER_HOME/journal",
        "DIR|FILE",
    ),
)
@group(
    "Training",
    click.option(
        "--train",
        is_flag=True,
        help="Train the runs that decide open claims at the lowest cost, then judge again. Of a claims file "
        "also those that are missing.",
    ),
    click.option("--plan", is_flag=True, help="Show what --train would train."),
    click.option(
        "--budget",
        type=Duration(),
        default="30m",
        help="Time for the runs of --train and --plan, such as 90s, 30m or 2h.",
    ),
    click.option(
        "--workers",
        type=Count(1, MAX_WORKERS),
        default=1,
        help="Worker processes for --train. Use as many as the recorded runs did.",
    ),
    data_dir_option,
)
@group("Tracking", tracking_option, experiment_option)
@output_options
def verify(
    article: str, claims_file: Path | None, protocol: ProtocolName, journal: Path | None, train: bool, plan: bool,
    budget: float, workers: int, **options: Any,
) -> None:  # fmt: skip
    """Judge an article's claims from recorded runs.

    Uses the runs of sweeper reproduce. Writes the ledger of verdicts to report/PROTOCOL in SWEEPER_HOME, of other
    articles than learnopencv to report/NAME-PROTOCOL, as ledger.html, .md, .png and .json.
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
    named = chosen_article(article, claims_file)
    env = make_environment(options, check_tracking=train)
    from sweeper.replication import verify
    from sweeper.replication.articles import under
    from sweeper.replication.recording import journal_of

    of = under(named, protocol)
    with journal_of(journal or env.journal, of) as folder:
        found = verify.verify(folder, of, empty=(train or plan) and named.name != ARTICLES[0])
        if plan:
            from sweeper.replication.next_runs import show_next_runs

            show_next_runs(env, found, budget, workers)
        if train:
            from sweeper.replication.next_runs import train_next_runs

            found = train_next_runs(env, found, budget, workers)
        if not found.runs:  # nothing to judge yet
            print_json({"article": named.name, "protocol": protocol, "runs": {}}, env.json_output)
            return
        ledger, result = verify.publish(env, found)
    _say_ledger(env, ledger, result)
    print_json(result, env.json_output)
    if found.incomplete:
        raise found.incomplete


def _say_arms(env: Environment, of: Reproduction, result: dict[str, Any]) -> None:
    from sweeper.replication.runs import ArmSummary, table

    env.say(f"{result['recorded']} of {result['runs']} runs are recorded; {result['added']} new")
    for line in table([ArmSummary(**row) for row in result["arms"]]):
        env.say(line)
    env.say(f"to judge the claims: sweeper verify {of.options}")


def _say_ledger(env: Environment, ledger: Ledger, result: dict[str, Any]) -> None:
    """Print the table of verdicts, as wide as the terminal."""
    from sweeper.replication.pages.ledger import counts, provenance_line, text_table, untestable

    width = shutil.get_terminal_size((100, 24)).columns
    if not env.json_output:
        for line in (*text_table(ledger, width), *untestable(ledger, width)):
            env.say(line)
    env.say(f"{counts(ledger)}. {provenance_line(ledger)}")
    env.say(f"ledger: {result['report']}/ledger.html")
