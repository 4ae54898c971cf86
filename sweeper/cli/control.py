"""The commands that control a running sweep: pause, resume, stop, skip and workers."""

from __future__ import annotations

from typing import Any

import click

from sweeper.cli.command import Command, command
from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import MAX_WORKERS, output_options, storage_option
from sweeper.cli.values import Count, StudyName


def database(function: Command) -> Command:
    """Add the options of a command that controls a sweep through its study's database."""
    return storage_option(output_options(function))


@command("how-to/resume-and-control.md", "sweeper pause sweep", "sweeper resume sweep")
@click.argument("study", type=StudyName())
@database
def pause(study: str, **options: Any) -> None:
    """Pause a running sweep.

    Its trials pause after their current epoch, and keep their memory for ten minutes. Run this on any machine that can
    reach the study's database.
    """
    _order(study, "pause", options)


@command("how-to/resume-and-control.md", "sweeper resume sweep", "sweeper status sweep")
@click.argument("study", type=StudyName())
@database
def resume(study: str, **options: Any) -> None:
    """Resume a paused sweep."""
    _order(study, "run", options)


@command("how-to/resume-and-control.md", "sweeper stop sweep", "sweeper status sweep")
@click.argument("study", type=StudyName())
@database
def stop(study: str, **options: Any) -> None:
    """Stop a running sweep; it can be continued later.

    It exits with code 3. Run the command that started it again to continue it.
    """
    _order(study, "stop", options)


@command("how-to/resume-and-control.md", "sweeper status sweep", "sweeper skip sweep 12")
@click.argument("study", type=StudyName())
@click.argument("trial", type=Count(0))
@database
def skip(study: str, trial: int, **options: Any) -> None:
    """Stop a running trial and train another instead."""
    from sweeper.sweep.control import skip

    env = make_environment(options, check_tracking=False)
    print_json(skip(env, study, trial), env.json_output)


@command("how-to/resume-and-control.md", "sweeper workers sweep 4", "sweeper workers sweep 1")
@click.argument("study", type=StudyName())
@click.argument("number", type=Count(1, MAX_WORKERS))
@database
def workers(study: str, number: int, **options: Any) -> None:
    """Set how many trials a running sweep trains at once."""
    from sweeper.sweep.control import set_workers

    env = make_environment(options, check_tracking=False)
    print_json(set_workers(env, study, number), env.json_output)


def _order(study: str, wanted: str, options: dict[str, Any]) -> None:
    from sweeper.sweep.control import order

    env = make_environment(options, check_tracking=False)
    print_json(order(env, study, wanted), env.json_output)
