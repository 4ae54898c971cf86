"""The command that prints click's shell completion script."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from sweeper.cli.command import command

PROGRAM: Final = "sweeper"
VARIABLE: Final = "_SWEEPER_COMPLETE"  # by which click knows that a shell asks


@command(
    "how-to/completion.md",
    'eval "$(sweeper completion bash)"',
    "sweeper completion zsh > ~/.zfunc/_sweeper",
    "sweeper completion fish > ~/.config/fish/completions/sweeper.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a shell completion script.

    It completes commands, options, and values such as placements, data sets and study names.
    """
    made = get_completion_class(shell)
    assert made is not None  # click has all three
    click.echo(made(context.find_root().command, {}, PROGRAM, VARIABLE).source())
