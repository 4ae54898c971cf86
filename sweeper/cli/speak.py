"""Write lines for people on stdout, or on stderr if stdout is for JSON. Warnings are coloured on a terminal."""

from __future__ import annotations

import os
from typing import Final

import click

from sweeper.core.environment import Say
from sweeper.core.text import in_one_line, printable

QUIET: Final = "sweeper.quiet"  # keys of click's Context.meta, which the options of every command set
VERBOSE: Final = "sweeper.verbose"


def colours() -> bool | None:
    """Return False if NO_COLOR forbids colours, else None: click then colours a terminal (no-color.org)."""
    return False if os.environ.get("NO_COLOR") else None


def is_set(key: str) -> bool:
    """Return True if the command line has the option `key`."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get(key))


def speaker(json_output: bool) -> Say:
    """Return the function that prints a line for people. With --quiet it prints nothing."""
    return lambda text: None if is_set(QUIET) else click.echo(printable(text), err=json_output)


def warn(text: str) -> None:
    """Print a warning in one line."""
    click.echo(click.style("warning:", fg="yellow") + f" {in_one_line(text)}", err=True, color=colours())


def complain(text: str) -> None:
    """Print an error in one line."""
    click.echo(click.style("error:", fg="red", bold=True) + f" {in_one_line(text)}", err=True, color=colours())
