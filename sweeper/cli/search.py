"""The commands that train: train and optimize."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import (
    EXP_HELP,
    MAX_TRIALS,
    Experiment,
    Number,
    Split,
    Varied,
    data_dir_option,
    device_option,
    ends_unread,
    engine_options,
    field_options,
    fields_of,
    folds_option,
    given,
    moved_option,
    or_auto,
    refuse,
    shared,
    storage_option,
    system_metrics_option,
    tracked,
)
from sweeper.core.metric import METRICS

if TYPE_CHECKING:
    from sweeper.core.environment import Environment

DEFAULT_EXPERIMENT: Final = "0"  # MLflow's id of its experiment `Default`


@click.command()
@click.option("--exp", type=Experiment(), default=6, help=EXP_HELP)
@field_options
@folds_option
@or_auto("--split", Split(["test", "holdout"]),
         "test: validate on the test images, as the article does; holdout: on held-out training images.")  # fmt: skip
@system_metrics_option
@shared
@ends_unread
def train(exp: int, **options: Any) -> None:
    """Train one experiment and record its curves.

    auto takes the experiment's own value.
    """
    from sweeper.core.experiments import experiment

    if options["folds"]:
        refuse("is what --folds decides. Leave one of them out.", "split")
    fields = given(options, "split") | fields_of(options)
    config = experiment(exp, **fields)
    env = make_environment(options)
    from sweeper.sweep.networks import find_network
    from sweeper.sweep.records import say_where
    from sweeper.sweep.train import train_one

    config = find_network(config, options["dataset"], env.data_dir, fields).config
    where = {name: options[name] for name in ("dataset", "device", "precision", "system_metrics")}
    where["image_size"] = options["image_size"] or 0
    joined = os.environ.get("MLFLOW_RUN_ID")
    result = train_one(env, config, joined, **where).plain()
    metrics = result["metrics"]
    env.say(f"final val accuracy {metrics['final/val_accuracy']:.4f}, loss {metrics['final/val_loss']:.4f}")
    say_where(env, result["run_id"])
    if joined and os.environ.get("MLFLOW_EXPERIMENT_ID") == DEFAULT_EXPERIMENT:
        env.say(
            "mlflow run put this run into the MLflow experiment Default. With --experiment-name bn-dropout it stands "
            "beside those of sweeper train and sweeper optimize."
        )
    print_json(result, env.json_output)


@click.command()
@click.option("--trials", type=click.IntRange(1, MAX_TRIALS), default=50,
              help="Number of finished trials (complete or pruned) to reach.")  # fmt: skip
@click.option("--study", default="sweep", help="Name of the study; an existing one is continued.")
@click.option("--exp", type=Experiment(), default=6, help="Experiment whose configuration the search varies.")
@field_options
@folds_option
@engine_options
@or_auto("--space", click.Path(path_type=Path), "Search space in YAML.", metavar="auto|FILE")
@click.option("--vary", type=Varied(), multiple=True,
              help="Dimension to add to the search space: lr=1e-4..1e-2:log, a range (with :log a logarithmic one), or "
              "placement=bn,bn-dropout, a list. May be repeated.")  # fmt: skip
@click.option(
    "--enqueue",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Known configurations to train first, in YAML or CSV; the sampler proposes what a row leaves out.",
)
@click.option(
    "--from",
    "from_study",
    metavar="STUDY[@URL]",
    help="Study whose best configurations are trained first; URL: of its database. [default: --storage]",
)
@click.option("--top", type=click.IntRange(1, 100), default=5, help="Number of configurations of --from.")
@click.option("--include-experiments", is_flag=True,
              help="Train the article's experiments first, as far as they lie in the search space.")  # fmt: skip
@click.option("--metric", type=click.Choice(["auto", *METRICS]), default="auto",
              help="Metric of the validation images to search for: the highest accuracy, the lowest loss or the lowest "
              "expected calibration error (ECE). auto: the study's own, val/accuracy for a new one.")  # fmt: skip
@click.option("--sampler", type=click.Choice(["auto", "gp", "tpe", "qmc", "random", "grid"]), default="auto",
              help="Rule that proposes the next trial: a Gaussian process, Optuna's TPE, a quasi-random sequence, "
              "random points, or every cell of a space of lists. auto: the study's own, gp for a new one.")  # fmt: skip
@click.option("--pruner", type=click.Choice(["auto", "none", "percentile", "median"]), default="auto",
              help="Rule for stopping trials early, from epoch 3 on, once 5 trials are complete: percentile stops a "
              "trial whose best value so far is among the worst quarter of the complete trials at that epoch, median "
              "among the worst half. Both stop good trials that start slowly. auto: the study's own, none for a new "
              "one.")  # fmt: skip
@or_auto("--timeout", Number(0, min_open=True), "Start no trial after this time; auto: no limit.",
         metavar="auto|SECONDS")  # fmt: skip
@click.option("--retries", type=click.IntRange(0, 100), default=2,
              help="Number of retries after a worker died or memory ran out.")  # fmt: skip
@or_auto("--seeds-per-cell", click.IntRange(1, 100), "With --sampler grid: number of seeds of every cell, in place of "
         "--trials.")  # fmt: skip
@click.option("--one-seed", is_flag=True,
              help="Train each configuration once: if the sampler proposes one again, ask it for another. Without "
              "this option, a repeat is trained with the next seed.")  # fmt: skip
@or_auto("--finalists", click.IntRange(0, 100), "Number of the best configurations that are trained again with fresh "
         "seeds, to choose the champion by their means; 0: none; auto: 5 in a sweep of 20 trials or more.")  # fmt: skip
@click.option("--finalist-seeds", type=click.IntRange(1, 100), default=3,
              help="Number of fresh seeds of each finalist.")  # fmt: skip
@click.option("--final/--no-final", default=True,
              help="Retrain the best configuration on train and validation images, and evaluate it once on the test "
              "images.")  # fmt: skip
@system_metrics_option
@storage_option
@shared
@ends_unread
def optimize(exp: int, **options: Any) -> None:
    """Search placement, dropout rates and batch size.

    Finishes exactly --trials trials. Run the same command again to continue a stopped sweep.
    """
    from sweeper.core.config import MODELS
    from sweeper.core.experiments import experiment
    from sweeper.sweep.networks import find_network
    from sweeper.sweep.options import (
        SweepOptions,
        engine_choice,
        grid_trials,
        known_configurations,
        search_space,
        start_workers,
    )

    fields = {"split": "holdout"} | fields_of(options)
    names = ("trials", "study", "metric", "sampler", "pruner", "timeout", "retries", "one_seed", "finalists",
             "finalist_seeds", "final", "dataset", "device", "precision", "system_metrics")  # fmt: skip
    config, engine = experiment(exp, **fields), engine_choice(options)
    if config.model not in MODELS:
        start_workers(engine, options["device"])  # one of them calls the function that builds the network
    network = find_network(config, options["dataset"], options["data_dir"], fields)
    config = network.config
    space = search_space(options["space"], network.placements, options["vary"], fields)
    if options["seeds_per_cell"]:
        refuse("is what --seeds-per-cell decides. Leave one of them out.", "trials")
        options["trials"] = grid_trials(options["sampler"], space, config, options["seeds_per_cell"])
    asked = SweepOptions(config, space, engine=engine, image_size=options["image_size"] or 0,
                         **{name: options[name] for name in names})  # fmt: skip
    if not options["from_study"]:
        refuse("is for --from STUDY", "top")
    env = make_environment(options)
    known = known_configurations(env, asked, file=options["enqueue"], study=options["from_study"], top=options["top"],
                                 experiments=options["include_experiments"])  # fmt: skip
    start_workers(asked.engine, asked.device)
    from sweeper.sweep.optimize import check_finished, optimize
    from sweeper.sweep.records import say_where

    result = optimize(env, asked, known)
    _say_best(env, result)
    env.say(f"report: {result['report']}")
    say_where(env)
    print_json(result, env.json_output)
    check_finished(result, asked.trials)


@click.command()
@click.argument("study")
@click.option("--top", type=click.IntRange(1, 100), default=5, help="Number of configurations, the best of the search.")
@click.option("--trial", "trials", type=click.IntRange(0), multiple=True,
              help="A trial whose configuration is trained, in place of the best; may be repeated.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1, 100), default=3, help="Number of fresh seeds of each configuration.")
@engine_options
@moved_option
@data_dir_option
@device_option
@storage_option
@tracked
@ends_unread
def confirm(study: str, **options: Any) -> None:
    """Train the best again with fresh seeds, and compare.

    A search chooses by its own seeds, so its best values are partly luck. Fresh seeds show how good a configuration
    is. Recorded runs are not trained again: to continue a stopped command, run it again. The test images are not read.
    """
    from sweeper.sweep.options import engine_choice, start_workers

    env = make_environment(options)
    engine = engine_choice(options)
    start_workers(engine, options["device"])
    from sweeper.sweep.confirm import Confirmation, confirm

    asked = Confirmation(study, options["top"], options["trials"], options["seeds"], options["device"], engine,
                         options["dataset"])  # fmt: skip
    print_json(confirm(env, asked), env.json_output)


def _say_best(env: Environment, result: dict[str, Any]) -> None:
    from sweeper.core.intervals import accuracy_words, limits
    from sweeper.core.text import counted

    parts = [f"{result[state]} {state}" for state in ("complete", "pruned", "duplicate") if state in result]
    counts = f"{counted(result['finished'], 'trial')} finished: {', '.join(parts)}"
    env.say(f"study {result['study']!r}: {counts}; {result['added']} added now")
    metric, *others = METRICS[result["metric"]].with_others
    if best := result["best"]:
        interval = limits(best["low"], best["high"]) if "low" in best else ""
        beside = ", ".join(f"{other.noun} {best[other.key]:.4f}" for other in others)
        env.say(
            f"best: trial {best['trial']}, {metric.label} {best[metric.key]:.4f}{interval}, "
            f"{counted(best['seeds'], 'seed')}, {beside}"
        )
        env.say(f"train it again: {result['command']}")
    for remark in result["remarks"]:
        env.say(remark)
    if test := result.get("test"):
        words = accuracy_words(test, metric)
        env.say(f"test accuracy of the best, retrained on train + validation: {words} (evaluated once)")
