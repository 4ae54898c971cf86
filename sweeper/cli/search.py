"""The commands that train: train and optimize."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from sweeper.cli.options import (
    EXP_HELP,
    Experiment,
    Number,
    OrAuto,
    Split,
    ends_unread,
    engine_options,
    overrides,
    shared,
    storage_option,
)

if TYPE_CHECKING:
    from sweeper.core.environment import Environment
from sweeper.cli.environment import device_name, engine_choice, given, make_environment
from sweeper.cli.options import MAX_TRIALS
from sweeper.cli.say import print_json, say_where

DEFAULT_EXPERIMENT: Final = "0"  # MLflow's id of its experiment `Default`


@click.command()
@click.option("--exp", type=Experiment(), default=6, show_default=True, help=EXP_HELP)
@overrides
@click.option("--split", type=OrAuto(Split(["test", "holdout"])), default="auto", show_default=True,
              help="test: validate on the test images, as the article does; holdout: on held-out training images.",
)  # fmt: skip
@shared
@ends_unread
def train(exp: int, split: str | None, **options: Any) -> None:
    """Train one experiment and record its curves.

    auto takes the experiment's own value.
    """
    from sweeper.core.experiments import experiment

    fields = given(options, "epochs", "batch_size", "placement", "conv_dropout", "head_dropout", "lr", "seed")
    fields |= {"split": split} if split else {}
    fields |= device_name(options)
    experiment(exp, **fields)  # a wrong value is answered before anything large is imported
    env = make_environment(options)
    from sweeper.sweep.choose import choose
    from sweeper.sweep.train import train_one

    chosen = choose(env, exp, options["dataset"], options["device"], options["precision"], fields)
    joined = os.environ.get("MLFLOW_RUN_ID")
    result = train_one(env, chosen, joined)
    metrics = result["metrics"]
    env.say(f"final val accuracy {metrics['final/val_accuracy']:.4f}, loss {metrics['final/val_loss']:.4f}")
    say_where(env, result["run_id"])
    if joined and os.environ.get("MLFLOW_EXPERIMENT_ID") == DEFAULT_EXPERIMENT:
        env.say(
            "mlflow run put this run into the MLflow experiment Default. With --experiment-name bn-dropout it stands "
            "beside those of sweeper train and sweeper optimize."
        )
    print_json(env, result)


@click.command()
@click.option(
    "--trials",
    type=click.IntRange(1, MAX_TRIALS),
    default=50,
    show_default=True,
    help="Number of finished trials (complete or pruned) to reach.",
)
@click.option("--study", default="sweep", show_default=True, help="Name of the study; an existing one is continued.")
@click.option(
    "--exp",
    type=Experiment(),
    default=6,
    show_default=True,
    help="Experiment whose configuration the search varies.",
)
@click.option(
    "--model",
    type=OrAuto(click.Choice(["small", "medium", "large"])),
    default="auto",
    show_default=True,
    help="Network size.",
)
@click.option(
    "--augmentation",
    type=OrAuto(click.Choice(["none", "crop-flip", "crop-flip-erase"])),
    default="auto",
    show_default=True,
    help="Augmentation of the training images.",
)
@click.option("--epochs", type=OrAuto(click.IntRange(1)), default="auto", show_default=True, help="Epochs of a trial.")
@engine_options
@click.option(
    "--folds",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Number of stratified cross-validation folds; 0: one held-out set.",
)
@click.option(
    "--space",
    type=OrAuto(click.Path(path_type=Path)),
    default="auto",
    show_default=True,
    metavar="auto|FILE",
    help="Search space in YAML.",
)
@click.option(
    "--sampler",
    type=click.Choice(["tpe", "gp", "qmc", "random"]),
    default="tpe",
    show_default=True,
    help="Optuna sampler that proposes the next trial.",
)
@click.option(
    "--pruner",
    type=click.Choice(["percentile", "median", "none"]),
    default="percentile",
    show_default=True,
    help="Rule for stopping trials early, at each epoch from the third on: percentile stops those in the lowest "
    "quarter of the complete trials, median those in the lower half.",
)
@click.option(
    "--timeout",
    type=OrAuto(Number(0, min_open=True)),
    default="auto",
    show_default=True,
    metavar="auto|SECONDS",
    help="Start no trial after this time; auto: no limit.",
)
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=2,
    show_default=True,
    help="Number of retries after a worker died or memory ran out.",
)
@click.option(
    "--final/--no-final",
    default=True,
    show_default=True,
    help="Retrain the best configuration on train and validation images, and evaluate it once on the test images.",
)
@storage_option
@shared
@ends_unread
def optimize(exp: int, **options: Any) -> None:
    """Search placement, dropout rates and batch size.

    Finishes exactly --trials trials. Run the same command again to continue a stopped sweep.
    """
    from sweeper.core.config import check_name
    from sweeper.core.experiments import experiment
    from sweeper.study.space import default_space
    from sweeper.study.space_file import read_space

    check_name(options["study"])
    if options["folds"] == 1:
        raise click.BadParameter("1: cross-validation needs 2 or more folds, 0 means none", param_hint="--folds")
    space = read_space(options["space"]) if options["space"] else default_space()
    fields = given(options, "epochs", "model", "augmentation", "seed")
    fields |= {"split": "folds", "folds": options["folds"]} if options["folds"] else {"split": "holdout"}
    space.validate(experiment(exp, **fields, **device_name(options)))
    env = make_environment(options)
    start_workers(options)
    from sweeper.sweep import optimize
    from sweeper.sweep.choose import choose
    from sweeper.sweep.optimize import check_finished
    from sweeper.sweep.options import SweepOptions

    chosen = choose(env, exp, options["dataset"], options["device"], options["precision"], fields)
    asked = {
        name: options[name] for name in ("study", "trials", "sampler", "pruner", "seed", "timeout", "retries", "final")
    }
    result = optimize.optimize(env, chosen, SweepOptions(space=space, engine=engine_choice(options), **asked))
    _say_best(env, result)
    env.say(f"report: {result['report']}")
    say_where(env, None)
    print_json(env, result)
    check_finished(result, options["trials"])


def start_workers(options: dict[str, Any]) -> None:
    """Let what workers are forked from import torch while this process imports what it needs itself, which may be torch
    too."""
    from sweeper.engine.forkserver import FORKING, start_server

    if options["engine"] in FORKING:
        start_server()
    from sweeper.engine.choice import likely_here

    if likely_here(options["engine"], options["device"]):
        from sweeper.sweep.train import train_one  # noqa: F401


def _say_best(env: Environment, result: dict[str, Any]) -> None:
    counts = f"{result['finished']} trials finished: {result['complete']} complete, {result['pruned']} pruned"
    env.say(f"study {result['study']!r}: {counts}; {result['added']} added now")
    if best := result["best"]:
        shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in best["params"].items())
        env.say(f"best: trial {best['trial']}, val accuracy {best['val_accuracy']:.4f}, loss {best['val_loss']:.4f}")
        env.say(f"      {shown}")
    if test := result.get("test"):
        env.say(
            f"test accuracy of the best, retrained on train + validation: {test['test/accuracy']:.4f} (evaluated once)"
        )
