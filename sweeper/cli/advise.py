"""The command that compares placements: advise."""

from __future__ import annotations

from typing import Any

import click

from sweeper.cli.command import command, group
from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import (
    MAX_TRIALS,
    PLACEMENTS,
    data_options,
    device_option,
    ends_unread,
    engine_options,
    experiment_option,
    field_options,
    fields_of,
    or_auto,
    output_options,
    precision_option,
    ray_options,
    tracking_option,
)
from sweeper.cli.values import Count, Duration


class Placements(click.ParamType[Any]):
    """Placements, such as bn,bn-dropout."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return the names, or fail with a list of all."""
        names = tuple(str(value).split(","))
        if unknown := [name for name in names if name not in PLACEMENTS]:
            self.fail(f"{unknown[0]!r} is not a placement. Placements are {', '.join(PLACEMENTS)}.", param, ctx)
        return names


@command(
    "how-to/advise.md",
    "sweeper advise --exp 6 --budget 1h",
    "sweeper advise --model net.py:build --dataset folder:photos --budget 1h",
    "sweeper advise --exp 1 --dataset sample --placements bn,bn-dropout --dry-run",
)
@group(
    "Question",
    or_auto("--placements", Placements(), "Placements to compare, such as bn,bn-dropout.",
            "all that the network supports", "LIST"),
    click.option("--budget", type=Duration(positive=True), default="1h",
                 help="Total training time, such as 15m or 2h."),
    or_auto("--trainings", Count(1, MAX_TRIALS), "Number of training runs, instead of --budget.",
            "as many as the budget allows"),
    click.option("--name", metavar="NAME",
                 help="Name by which to continue the advice. [default: from network and data set]"),
    click.option("--test/--no-test", default=True,
                 help="Retrain the recommended configuration on train and validation images, and evaluate it once "
                 "on the test images."),
    click.option("--register", metavar="NAME",
                 help="Register the retrained configuration as this MLflow model, with the alias champion."),
    click.option("--dry-run", is_flag=True, help="Show the plan without training."),
)  # fmt: skip
@group("Training", *field_options(asked=True))
@group("Execution", *engine_options, device_option, precision_option)
@ray_options
@group("Data", *data_options)
@group("Tracking", tracking_option, experiment_option)
@output_options
@ends_unread
def advise(exp: int, **options: Any) -> None:
    """Find how best to combine BatchNorm and Dropout.

    Compares all placements of the two in one network on one data set. Each gets its own rates and learning rate, and is
    judged on fresh seeds, with confidence intervals. Run the same command again to continue.
    """
    from sweeper.core.experiments import experiment
    from sweeper.core.placements import Placement
    from sweeper.sweep.options import engine_choice, start_workers

    epochs = options.pop("epochs")
    config, engine = experiment(exp, **fields_of(options), split="holdout"), engine_choice(options)
    env = make_environment(options)
    if not options["dry_run"]:
        start_workers(engine, options["device"])
    from sweeper.advice.advise import advise, dry_run, resolve
    from sweeper.advice.work import Asked, usual_name

    names = ("budget", "trainings", "dataset", "device", "precision", "test", "register")
    asked = Asked(config, options["name"] or usual_name(config, options["dataset"]), epochs=epochs, engine=engine,
                  placements=tuple(map(Placement, options["placements"] or ())),
                  **{each: options[each] for each in names})  # fmt: skip
    question = resolve(env, asked)
    if options["dry_run"]:
        print_json(dry_run(env, question), env.json_output)
        return
    advice = advise(env, question)
    from sweeper.sweep.links import say_where

    say_where(env)
    print_json(advice.plain(), env.json_output)
