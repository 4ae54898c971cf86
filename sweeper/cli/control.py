"""The commands that give a running sweep orders: pause, resume, stop, skip and workers."""

from __future__ import annotations

from typing import Any

import click

from sweeper.cli.command import Command, command
from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import MAX_WORKERS, output_options, storage_option
from sweeper.cli.values import Count, StudyName


def database(function: Command) -> Command:
    """Add the options of a command that gives orders through the study's database."""
    return storage_option(output_options(function))


@command("how-to/resume-and-control.md", "sweeper pause sweep", "sweeper resume sweep")
@click.argument("study", type=StudyName())
@database
def pause(study: str, **options: Any) -> None:
    """Let a running sweep wait.

    Its trainings stop at the end of their epochs, and keep their memory for ten minutes. Any machine that reaches the
    database of the study can give the order.
    """
    _order(study, "pause", options)


@command("how-to/resume-and-control.md", "sweeper resume sweep", "sweeper status sweep")
@click.argument("study", type=StudyName())
@database
def resume(study: str, **options: Any) -> None:
    """Let a paused sweep go on."""
    _order(study, "run", options)


@command("how-to/resume-and-control.md", "sweeper stop sweep", "sweeper status sweep")
@click.argument("study", type=StudyName())
@database
def stop(study: str, **options: Any) -> None:
    """End a running sweep, to be continued later.

    It ends with exit code 3, and the command that started it continues it.
    """
    _order(study, "stop", options)


@command("how-to/resume-and-control.md", "sweeper status sweep", "sweeper skip sweep 12")
@click.argument("study", type=StudyName())
@click.argument("trial", type=Count(0))
@database
def skip(study: str, trial: int, **options: Any) -> None:
    """End a running trial, and train another instead."""
    from sweeper.sweep.control import skip

    env = make_environment(options, check_tracking=False)
    print_json(skip(env, study, trial), env.json_output)


@command("how-to/resume-and-control.md", "sweeper workers sweep 4", "sweeper workers sweep 1")
@click.argument("study", type=StudyName())
@click.argument("number", type=Count(1, MAX_WORKERS))
@database
def workers(study: str, number: int, **options: Any) -> None:
    """Set how many trainings a running sweep runs."""
    from sweeper.sweep.control import set_workers

    env = make_environment(options, check_tracking=False)
    print_json(set_workers(env, study, number), env.json_output)


def _order(study: str, wanted: str, options: dict[str, Any]) -> None:
    from sweeper.sweep.control import order

    env = make_environment(options, check_tracking=False)
    print_json(order(env, study, wanted), env.json_output)
