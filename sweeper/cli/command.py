"""The layout of every command: options in groups, examples, a link to its page, and shared options."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any, Final

import click
import cloup

from sweeper.cli.speak import QUIET, VERBOSE

WIDTH: Final = 100  # columns of --help at most
Command = Callable[..., Any]
Decorator = Callable[[Command], Command]
THEME: Final = cloup.HelpTheme(
    heading=cloup.Style(bold=True), col1=cloup.Style(fg="cyan"), invoked_command=cloup.Style(bold=True)
)
FORMAT: Final = cloup.HelpFormatter.settings(theme=THEME, max_width=WIDTH)


def _flag(*names: str, key: str, help_text: str) -> Decorator:
    def keep(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[key] = True

    return click.option(*names, is_flag=True, expose_value=False, callback=keep, help=help_text)


GENERAL: Final = (
    _flag("-q", "--quiet", key=QUIET, help_text="Print warnings, errors and JSON only."),
    _flag("-v", "--verbose", key=VERBOSE, help_text="Print every epoch instead of a live table."),
    _flag("--debug", key="sweeper.debug", help_text="Show tracebacks of errors."),
)


def general(function: Command) -> Command:
    """Add the options that the top-level command also has."""
    return functools.reduce(lambda made, option: option(made), reversed(GENERAL), function)


def command(page: str, *examples: str) -> Callable[[Command], click.Command]:
    """Turn a function into a command.

    Args:
        page: its page in docs/.
        examples: command lines for its help.
    """
    shown = "".join(f"\n  {line}" for line in examples)

    def make(function: Command) -> click.Command:
        epilog = f"\b\nExamples:{shown}\n\nMore: docs/{page}"
        made: click.Command = cloup.command(epilog=epilog, formatter_settings=FORMAT)(function)
        return made

    return make


def group(title: str, *options: Decorator) -> Decorator:
    """Put options below a heading of `--help`, in their order."""
    return cloup.option_group(title, *options)


class Commands(cloup.Group):
    """A group of commands in sections that suggests a similar command for an unknown one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command, or fail with a suggestion."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], known, n=1, cutoff=0.7)
            hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(known)}"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


def sections(**commands: Iterable[click.Command]) -> list[cloup.Section]:
    """Return the commands below headings, in their order."""
    return [cloup.Section(title, list(listed)) for title, listed in commands.items()]
