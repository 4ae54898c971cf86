"""The commands that train: train and optimize."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import click

from sweeper.cli.command import command, group
from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import (
    MAX_TRIALS,
    PATH,
    data_dir_option,
    data_options,
    device_option,
    ends_unread,
    engine_options,
    experiment_option,
    field_options,
    fields_of,
    folds_option,
    given,
    moved_option,
    or_auto,
    output_options,
    precision_option,
    ray_options,
    refuse,
    storage_option,
    system_metrics_option,
    tracking_option,
)
from sweeper.cli.values import Count, Duration, Split, StudyName, Varied
from sweeper.core.metric import METRICS

if TYPE_CHECKING:
    from sweeper.core.environment import Environment

DEFAULT_EXPERIMENT: Final = "0"  # MLflow's id of its experiment `Default`


@command(
    "reference/cli.md#sweeper-train",
    "sweeper train --exp 6",
    "sweeper train --exp 1 --dataset sample --epochs 1",
    "sweeper train --model resnet20 --placement bn-pool-dropout --split holdout",
)
@group(
    "Training",
    *field_options(),
    or_auto(
        "--split",
        Split(["test", "holdout"]),
        "test: validate on the test images, as the article does; holdout: on held-out training images.",
        "test; with --folds, the folds",
    ),
    folds_option,
)
@group("Execution", device_option, precision_option)
@group("Data", *data_options)
@group("Tracking", tracking_option, experiment_option, system_metrics_option)
@output_options
@ends_unread
def train(exp: int, **options: Any) -> None:
    """Train one experiment and record its curves."""
    from sweeper.core.experiments import experiment

    if options["folds"]:
        refuse("cannot be combined with --folds, which sets the split. Leave one of them out.", "split")
    fields = given(options, "split") | fields_of(options)
    config = experiment(exp, **fields)
    env = make_environment(options)
    from sweeper.sweep.links import say_where
    from sweeper.sweep.networks import find_network
    from sweeper.sweep.train import train_one

    network = find_network(env, config, options["dataset"], fields)
    where = {name: options[name] for name in ("dataset", "device", "precision", "system_metrics")}
    joined = os.environ.get("MLFLOW_RUN_ID")
    result = train_one(env, network.config, joined, source=network.source, **where).plain()
    metrics = result["metrics"]
    env.say(f"final val accuracy {metrics['final/val_accuracy']:.4f}, loss {metrics['final/val_loss']:.4f}")
    say_where(env, result["run_id"])
    if joined and os.environ.get("MLFLOW_EXPERIMENT_ID") == DEFAULT_EXPERIMENT:
        env.say(
            "mlflow run put this run into the MLflow experiment Default. Add --experiment-name bn-dropout to put it "
            "next to those of sweeper train and sweeper optimize."
        )
    print_json(result, env.json_output)


@command(
    "explanation/search.md",
    "sweeper optimize --trials 50 --dataset sample --model small --epochs 6",
    "sweeper optimize --study rates --placement bn-dropout --lr 1e-3",
    "sweeper optimize --study lr --vary lr=1e-4..1e-2:log --timeout 2h",
)
@group(
    "Search",
    click.option(
        "--trials",
        "--n-trials",
        "trials",
        type=Count(1, MAX_TRIALS),
        default=50,
        help="Number of trials to finish (complete or pruned).",
    ),
    click.option(
        "--study",
        "--study-name",
        "study",
        type=StudyName(),
        default="sweep",
        help="Name of the study; an existing one is continued.",
    ),
    or_auto(
        "--space",
        PATH,
        "Search space in YAML.",
        "placement, rates and batch size, except those given",
        "FILE",
    ),
    click.option(
        "--vary",
        type=Varied(),
        multiple=True,
        help="Dimension to add to the search space: a range such as lr=1e-4..1e-2 (or 1e-4..1e-2:log), or a list "
        "such as placement=bn,bn-dropout. May be repeated.",
    ),
    click.option(
        "--metric",
        type=click.Choice(["auto", *METRICS]),
        default="auto",
        metavar="METRIC",
        show_default=False,
        help=f"Validation metric to optimize: {', '.join(METRICS)}; ece is the expected calibration error. "
        "[default: val/accuracy, or the study's own]",
    ),
    click.option(
        "--sampler",
        type=click.Choice(["auto", "gp", "tpe", "qmc", "random", "grid"]),
        default="auto",
        metavar="[gp|tpe|qmc|random|grid]",
        show_default=False,
        help="Sampler of trials: a Gaussian process, Optuna's TPE, a quasi-random sequence, random points, or every "
        "cell of a grid. [default: gp, or the study's own]",
    ),
    click.option(
        "--pruner",
        type=click.Choice(["auto", "none", "percentile", "median"]),
        default="auto",
        metavar="[none|percentile|median]",
        show_default=False,
        help="Rule for stopping trials early, from epoch 3 on, once 5 trials are complete: percentile stops a "
        "trial whose best value so far is among the worst quarter of the complete trials at that epoch, "
        "median among the worst half. Both stop good trials that start slowly. [default: none, or the "
        "study's own]",
    ),
    folds_option,
    or_auto("--seeds-per-cell", Count(1, 100), "With --sampler grid: seeds per cell, instead of --trials.", "none"),
    click.option(
        "--one-seed",
        is_flag=True,
        help="Train each configuration once: if the sampler proposes one again, ask it for another. Without "
        "this option, a repeat is trained with the next seed.",
    ),
    click.option(
        "--enqueue",
        type=PATH,
        metavar="FILE",
        help="Configurations to train first, in YAML or CSV; the sampler fills in what a row leaves out.",
    ),
    click.option(
        "--from",
        "from_study",
        metavar="STUDY[@URL]",
        help="Study whose best configurations are trained first, and its database. [default: --storage]",
    ),
    click.option("--top", type=Count(1, 100), default=5, help="Number of configurations to take from --from."),
    click.option(
        "--include-experiments",
        is_flag=True,
        help="First train the article's experiments that lie in the search space.",
    ),
    or_auto(
        "--finalists",
        Count(0, 100),
        "Number of best configurations to retrain with fresh seeds; the best mean becomes the champion. 0: none.",
        "5 in a sweep of 20 trials or more, else 0",
    ),
    click.option("--finalist-seeds", type=Count(1, 100), default=3, help="Fresh seeds per finalist."),
    click.option(
        "--final/--no-final",
        "--retrain-best/--no-retrain-best",
        "final",
        default=True,
        help="Retrain the best configuration on train and validation images, and evaluate it once on the "
        "test images. [default: yes]",
        show_default=False,
    ),
)
@group("Training", *field_options(searched=True))
@group(
    "Execution",
    *engine_options,
    or_auto(
        "--timeout", Duration(positive=True), "Start no trial after this time, such as 90s, 30m or 2h.", "no limit"
    ),
    click.option("--retries", type=Count(0, 100), default=2, help="Retries after a worker died or memory ran out."),
    device_option,
    precision_option,
)
@ray_options
@group("Data", *data_options)
@group("Tracking", tracking_option, experiment_option, storage_option, system_metrics_option)
@output_options
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
    env = make_environment(options)
    network = find_network(env, config, options["dataset"], fields)
    config = network.config
    space = search_space(options["space"], network.placements, options["vary"], fields)
    if options["seeds_per_cell"]:
        refuse("cannot be combined with --seeds-per-cell. Leave one of them out.", "trials")
        options["trials"] = grid_trials(options["sampler"], space, config, options["seeds_per_cell"])
    asked = SweepOptions(config, space, engine=engine, source=network.source,
                         **{name: options[name] for name in names})  # fmt: skip
    if not options["from_study"]:
        refuse("only works with --from STUDY. Add it, or leave --top out.", "top")
    known = known_configurations(env, asked, file=options["enqueue"], study=options["from_study"], top=options["top"],
                                 experiments=options["include_experiments"])  # fmt: skip
    start_workers(asked.engine, asked.device)
    from sweeper.sweep.links import say_where
    from sweeper.sweep.optimize import check_finished, optimize

    result = optimize(env, asked, known)
    _say_best(env, result)
    env.say(f"report: {result['report']}")
    say_where(env, study=result["study"], metric=METRICS[result["metric"]])
    print_json(result, env.json_output)
    check_finished(result, asked.trials)


@command(
    "how-to/resume-and-control.md",
    "sweeper confirm sweep",
    "sweeper confirm sweep --top 3 --seeds 10",
    "sweeper confirm sweep --trial 7",
)
@click.argument("study", type=StudyName())
@group(
    "Search",
    click.option("--top", type=Count(1, 100), default=5, help="Number of best configurations to train."),
    click.option(
        "--trial",
        "trials",
        type=Count(0),
        multiple=True,
        help="Trial whose configuration to train instead of the best. May be repeated.",
    ),
    click.option("--seeds", type=Count(1, 100), default=3, help="Fresh seeds per configuration."),
)
@group("Execution", *engine_options, device_option)
@ray_options
@group("Data", moved_option, data_dir_option)
@group("Tracking", tracking_option, experiment_option, storage_option)
@output_options
@ends_unread
def confirm(study: str, **options: Any) -> None:
    """Retrain the best configurations with fresh seeds.

    The best values of a search are partly luck. Fresh seeds show how good a configuration really is. Recorded runs are
    not trained again: run the same command again to continue. The test images are not read.
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
    counts = f"{counted(result['finished'], 'trial')} finished ({', '.join(parts)}"
    env.say(f"study {result['study']!r}: {counts}; {result['added']} new)")
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
        env.say(f"test accuracy of the champion, retrained on train + validation: {words} (evaluated once)")
