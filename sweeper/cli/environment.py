"""The environment of a command, and its JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from sweeper.cli.speak import QUIET, VERBOSE, is_set, speaker, warn

if TYPE_CHECKING:
    from sweeper.core.environment import Environment


def make_environment(options: dict[str, Any], *, check_tracking: bool = True) -> Environment:
    """Resolve the options of a command and the process's variables into its environment, and check it."""
    from sweeper.sweep.environment import resolve_environment

    return resolve_environment(
        options | {"progress": not is_set(QUIET), "verbose": is_set(VERBOSE)},
        warn=warn,
        say=speaker(options["json_output"]),
        check_tracking=check_tracking,
    )


def print_json(result: dict[str, Any], json_output: bool) -> None:
    """Print the result if JSON was asked for."""
    if json_output:
        click.echo(json.dumps(result))
