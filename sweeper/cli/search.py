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
    ends_unread,
    engine_options,
    given,
    or_auto,
    overrides,
    shared,
    storage_option,
)

if TYPE_CHECKING:
    from sweeper.core.environment import Environment

DEFAULT_EXPERIMENT: Final = "0"  # MLflow's id of its experiment `Default`


@click.command()
@click.option("--exp", type=Experiment(), default=6, help=EXP_HELP)
@overrides
@or_auto("--split", Split(["test", "holdout"]),
         "test: validate on the test images, as the article does; holdout: on held-out training images.")  # fmt: skip
@shared
@ends_unread
def train(exp: int, **options: Any) -> None:
    """Train one experiment and record its curves.

    auto takes the experiment's own value.
    """
    from sweeper.core.experiments import experiment

    fields = given(options, "epochs", "batch_size", "placement", "conv_dropout", "head_dropout", "lr", "seed", "split",
                   "device")  # fmt: skip
    config = experiment(exp, **fields)
    env = make_environment(options)
    from sweeper.sweep.records import say_where
    from sweeper.sweep.train import train_one

    where = {name: options[name] for name in ("dataset", "device", "precision")}
    joined = os.environ.get("MLFLOW_RUN_ID")
    result = train_one(env, config, joined, **where)
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
@or_auto("--model", click.Choice(["small", "medium", "large"]), "Network size.")
@or_auto("--augmentation", click.Choice(["none", "crop-flip", "crop-flip-erase"]),
         "Augmentation of the training images.")  # fmt: skip
@or_auto("--epochs", click.IntRange(1), "Epochs of a trial.")
@engine_options
@click.option("--folds", type=click.IntRange(0, 100), default=0,
              help="Number of stratified cross-validation folds; 0: one held-out set.")  # fmt: skip
@or_auto("--space", click.Path(path_type=Path), "Search space in YAML.", metavar="auto|FILE")
@click.option("--sampler", type=click.Choice(["auto", "gp", "tpe", "qmc", "random", "grid"]), default="auto",
              help="Rule that proposes the next trial: a Gaussian process, Optuna's TPE, a quasi-random sequence, "
              "random points, or every cell of a space of lists. auto: the study's own, gp for a new one.")  # fmt: skip
@click.option("--pruner", type=click.Choice(["auto", "none", "percentile", "median"]), default="auto",
              help="Rule for stopping trials early, from the third epoch on: percentile stops those in the lowest "
              "quarter of the complete trials, median those in the lower half. Both stop good trials that start "
              "slowly. auto: the study's own, none for a new one.")  # fmt: skip
@or_auto("--timeout", Number(0, min_open=True), "Start no trial after this time; auto: no limit.",
         metavar="auto|SECONDS")  # fmt: skip
@click.option("--retries", type=click.IntRange(0, 100), default=2,
              help="Number of retries after a worker died or memory ran out.")  # fmt: skip
@click.option("--final/--no-final", default=True,
              help="Retrain the best configuration on train and validation images, and evaluate it once on the test "
              "images.")  # fmt: skip
@storage_option
@shared
@ends_unread
def optimize(exp: int, **options: Any) -> None:
    """Search placement, dropout rates and batch size.

    Finishes exactly --trials trials. Run the same command again to continue a stopped sweep.
    """
    from sweeper.core.experiments import experiment
    from sweeper.sweep.options import SweepOptions, engine_choice, search_space, start_workers

    fields = given(options, "epochs", "model", "augmentation", "seed", "device")
    fields |= {"split": "folds", "folds": options["folds"]} if options["folds"] else {"split": "holdout"}
    names = ("trials", "study", "sampler", "pruner", "timeout", "retries", "final", "dataset", "device", "precision")
    asked = SweepOptions(experiment(exp, **fields), search_space(options["space"]), engine=engine_choice(options),
                         **{name: options[name] for name in names})  # fmt: skip
    env = make_environment(options)
    start_workers(asked.engine, asked.device)
    from sweeper.sweep.optimize import check_finished, optimize
    from sweeper.sweep.records import say_where

    result = optimize(env, asked)
    _say_best(env, result)
    env.say(f"report: {result['report']}")
    say_where(env)
    print_json(result, env.json_output)
    check_finished(result, asked.trials)


def _say_best(env: Environment, result: dict[str, Any]) -> None:
    from sweeper.core.text import counted
    from sweeper.sweep.progress import in_words

    counts = (
        f"{counted(result['finished'], 'trial')} finished: {result['complete']} complete, {result['pruned']} pruned"
    )
    env.say(f"study {result['study']!r}: {counts}; {result['added']} added now")
    if best := result["best"]:
        env.say(f"best: trial {best['trial']}, val accuracy {best['val_accuracy']:.4f}, loss {best['val_loss']:.4f}")
        env.say(f"      {in_words(best['params'])}")
    if test := result.get("test"):
        env.say(
            f"test accuracy of the best, retrained on train + validation: {test['test/accuracy']:.4f} (evaluated once)"
        )
