"""The entry point. Each command imports what it needs when it runs, so that --help is fast."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
from typing import Final

import click
import cloup

from sweeper import __version__
from sweeper.cli import advise, claims, completion, control, records, search, server, surroundings
from sweeper.cli.command import FORMAT, WIDTH, Commands, general, sections
from sweeper.cli.speak import colours, complain
from sweeper.core.errors import Interrupted, SweeperError

SHOWS: Final = {"-h", "--help", "-V", "--version", "status"}  # may end early when nobody reads any more
# How long torch's threads spin at a barrier. The default spins for milliseconds, and a second
# process on the same cores then makes training up to ten times slower (docs/development/log.md).
SPIN_COUNT: Final = "10000"
# Thresholds of the garbage collector. By Python's own, it searches everything that torch, MLflow and pandas import
# again and again while they are imported, which takes seconds of a short command.
COLLECT_AFTER: Final = 50_000, 10, 20


def _with_hyphens(name: str) -> str:
    """Accept `--conv_dropout` for `--conv-dropout`: `mlflow run` passes parameters on by the names it knows."""
    return name.replace("_", "-")


@cloup.group(
    cls=Commands,
    formatter_settings=FORMAT,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": WIDTH,
        "show_default": True,
        "token_normalize_func": _with_hyphens,
    },
    sections=sections(
        Ask=(advise.advise,),
        Train=(search.train, search.optimize, search.confirm),
        Inspect=(records.status, records.report, server.ui, records.xray, records.replay, records.sync),
        Control=(control.pause, control.resume, control.stop, control.skip, control.workers),
        Article=(claims.reproduce, claims.verify),
        Server=(server.serve, server.backup, server.restore),
        Shell=(completion.completion,),
    ),
    epilog="\b\nExamples:\n  sweeper train --exp 6\n  sweeper optimize --trials 50\n"
    "  sweeper advise --exp 6 --budget 1h\n\nMore: docs/reference/cli.md",
)
@click.version_option(__version__, "-V", "--version", message="%(version)s")
@general
def cli() -> None:
    """Find out how Batch Normalization and Dropout should be combined in a network. Every run is tracked in MLflow.

    State is kept in SWEEPER_HOME, by default the working directory: mlflow.db, mlartifacts, sweeper.db and journal.
    """


def main() -> None:
    """Run the command line. Every error is one line on stderr and an exit code."""
    surroundings.prepare()
    debug = "--debug" in sys.argv[1:]
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    gc.set_threshold(*COLLECT_AFTER)
    atexit.register(_leave_uncollected)
    try:
        code = cli(standalone_mode=False, color=colours())
    except click.exceptions.NoArgsIsHelpError as error:  # no command
        click.echo(error.format_message(), err=True)
        code = error.exit_code
    except click.ClickException as error:
        code = _complain(_usage(error), error.exit_code)
    except click.Abort:
        code = 130
    except SystemExit:  # click's, with code 1 if nobody reads any more
        if not SHOWS & set(sys.argv[1:]):
            raise
        code = 0
    except KeyboardInterrupt:
        code = 130
    except Interrupted as stopped:
        code = _complain(str(stopped), stopped.exit_code)
    except Exception as error:
        if debug:
            raise
        code = _complain(_explain(error), getattr(error, "exit_code", 1))
    _drop_unwritten()
    sys.exit(code if isinstance(code, int) else 0)


def _leave_uncollected() -> None:
    """Skip the interpreter's final garbage collection, which searches everything imported.

    Not with Triton, which torch loads to export a champion: it warns about objects that are left at exit.
    """
    if "triton" not in sys.modules:
        gc.freeze()


def _drop_unwritten() -> None:
    """Discard output that cannot be written. Python would retry on exit, and change the exit code to 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _usage(error: click.ClickException) -> str:
    """Return click's message as one line that names the command's --help."""
    text = " ".join(error.format_message().split())
    ctx = getattr(error, "ctx", None)
    return f"{text[0].lower()}{text[1:].rstrip('.')} (see {ctx.command_path if ctx else 'sweeper'} --help)"


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    known = isinstance(error, SweeperError) or hasattr(error, "exit_code")
    return text if known else f"{type(error).__name__}: {text or 'no message'} (sweeper --debug … shows where)"


def _complain(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # stderr may be the stdout that takes no more
        complain(text)
    return code
