"""The command that answers: advise."""

from __future__ import annotations

from typing import Any

import click

from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import (
    EXP_HELP,
    MAX_TRIALS,
    PLACEMENTS,
    Duration,
    Experiment,
    Number,
    augmentation_option,
    ends_unread,
    engine_options,
    given,
    network_fields,
    network_options,
    or_auto,
    shared,
)


class Placements(click.ParamType[Any]):
    """Placements, such as bn,bn-dropout."""

    name = "PLACEMENT,PLACEMENT…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names, or fail with a list of all."""
        names = tuple(name.strip() for name in str(value).split(",")) if isinstance(value, str) else tuple(value)
        if unknown := [name for name in names if name not in PLACEMENTS]:
            self.fail(f"{unknown[0]!r} is not a placement. They are: {', '.join(PLACEMENTS)}.", param, ctx)
        return names


@click.command()
@click.option("--exp", type=Experiment(), default=6, help=EXP_HELP)
@click.option("--budget", type=Duration(), default="1h", help="Time for all trainings, such as 15m or 2h.")
@click.option(
    "--name", metavar="NAME", help="Name of the advice, to continue it by. [default: the network's and the images']"
)
@or_auto("--placements", Placements(), "Placements to compare; auto: all that the network has room for.")
@or_auto("--epochs", click.IntRange(1), "Epochs of a training; auto: until the plain network overfits, at most 30.")
@or_auto("--trainings", click.IntRange(1, MAX_TRIALS), "Number of trainings, in place of --budget.")
@network_options
@augmentation_option
@or_auto("--batch-size", click.IntRange(1), "Images in an optimizer step.")
@or_auto("--lr", Number(0, min_open=True), "Learning rate about which each placement's own is sought.")
@click.option("--test/--no-test", default=True,
              help="Retrain the recommendation on train and validation images, and evaluate it once on the test "
              "images.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show the plan; train nothing.")
@engine_options
@shared
@ends_unread
def advise(exp: int, **options: Any) -> None:
    """Say how the two layers should be combined in a network.

    Compares all placements of BatchNorm and Dropout in one network on one set of images, each at its own rates and
    learning rate, with fresh seeds and intervals. Run the same command again to continue.
    """
    from sweeper.core.experiments import experiment
    from sweeper.core.placements import Placement
    from sweeper.sweep.options import engine_choice, start_workers

    fields = given(options, "augmentation", "batch_size", "lr", "seed", "device", "dataset", "image_size")
    config, engine = experiment(exp, **fields, **network_fields(options), split="holdout"), engine_choice(options)
    env = make_environment(options)
    if not options["dry_run"]:
        start_workers(engine, options["device"])
    from sweeper.advice.advise import advise, dry_run, resolve
    from sweeper.advice.work import Asked, usual_name

    names = ("budget", "trainings", "epochs", "dataset", "device", "precision", "test")
    asked = Asked(config, options["name"] or usual_name(config, options["dataset"]),
                  placements=tuple(map(Placement, options["placements"] or ())), engine=engine,
                  **{each: options[each] for each in names})  # fmt: skip
    question = resolve(env, asked)
    if options["dry_run"]:
        print_json(dry_run(env, question), env.json_output)
        return
    advice = advise(env, question)
    from sweeper.sweep.records import say_where

    say_where(env, advice.run_id)
    print_json(advice.plain(), env.json_output)
