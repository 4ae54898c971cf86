"""The commands of a server: serve, ui, backup, restore."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from sweeper.cli.command import Command, command, group
from sweeper.cli.environment import make_environment, print_json
from sweeper.cli.options import PATH, experiment_option, output_options, storage_option, tracking_option
from sweeper.cli.speak import speaker
from sweeper.cli.values import Count
from sweeper.core.errors import Interrupted

home_option = click.option(
    "--home", type=PATH, envvar="SWEEPER_HOME", default=".", metavar="DIR", show_default=False,
    help="Folder for databases, artifacts, secrets and logs; serve and restore create it. "
    "[env: SWEEPER_HOME; default: the working directory]",
)  # fmt: skip
PORT: Final = Count(1, 65535)


def at_home(function: Command) -> Command:
    """Add the options for the location of the data."""
    return group(
        "Home",
        home_option,
        click.option("--database-url", envvar="SWEEPER_DATABASE_URL", metavar="URL",
                     help="Existing PostgreSQL, such as postgresql://USER@HOST/postgres. Put a password into "
                     "the variable or PGPASSFILE: other users can see command lines. "
                     "[env: SWEEPER_DATABASE_URL; default: start one in HOME/postgres]"),
    )(output_options(function))  # fmt: skip


@command("how-to/server.md", "sweeper serve --home DIR", "sweeper serve --home DIR --check")
@click.option("--host", default="127.0.0.1",
              help="Address to listen on. Other than loopback, it needs --auth and --allowed-hosts.")  # fmt: skip
@click.option("--port", type=PORT, default=5000, help="Port of the MLflow server.")
@click.option("--dashboard/--no-dashboard", default=True,
              help="Serve the Optuna dashboard, read-only and on loopback.")  # fmt: skip
@click.option("--dashboard-port", type=PORT, default=8080, help="Port of the Optuna dashboard.")
@click.option("--auth", is_flag=True, help="Require a user name and password; those of an admin are generated.")
@click.option("--allowed-hosts", multiple=True, metavar="HOST",
              help="Host name that clients may use besides localhost. May be repeated.")  # fmt: skip
@click.option("--upgrade", is_flag=True,
              help="Upgrade the databases of an older MLflow or Optuna. Take a backup first.")  # fmt: skip
@click.option("--check", is_flag=True,
              help="Report the health of the running server; exit code 4 if a part is unhealthy.")  # fmt: skip
@at_home
def serve(home: Path, database_url: str | None, json_output: bool, check: bool, **options: Any) -> None:
    """Serve MLflow, PostgreSQL and the Optuna dashboard.

    Runs until Ctrl-C, and prints the settings that sweeper and mlflow need to reach it.
    """
    from sweeper.core.environment import check_home, new_home
    from sweeper.server import serve
    from sweeper.server.options import ServeOptions

    say = speaker(json_output)
    if check:
        result = serve.check(check_home(home, _named()), database_url)
        for part, healthy in result["parts"].items():
            say(f"{part}: {'healthy' if healthy else 'does not answer'}")
        if not result["parts"]:
            say(f"no sweeper serve is running on {result['home']}")
        print_json(result, json_output)
        raise click.exceptions.Exit(0 if result["healthy"] else 4)
    hosts = tuple(name.strip() for given in options["allowed_hosts"] for name in given.split(","))
    asked = ServeOptions(
        dashboard_port=options["dashboard_port"] if options["dashboard"] else None, allowed_hosts=hosts,
        database_url=database_url, **{name: options[name] for name in ("host", "port", "auth", "upgrade")},
    )  # fmt: skip
    with new_home(home, _named()):
        serve.serve(home, asked, say, lambda result: print_json(result, json_output))


@command("reference/cli.md#sweeper-ui", "sweeper ui", "sweeper ui --home demo", "sweeper ui --no-browser --port 5001")
@group(
    "Home",
    home_option,
    tracking_option,
    experiment_option,
    storage_option,
)
@click.option("--port", type=PORT, help="Port of the MLflow server. [default: 5000, or a free one]")
@click.option("--dashboard-port", type=PORT, help="Port of the Optuna dashboard. [default: 8080, or a free one]")
@click.option("--browser/--no-browser", default=True, show_default=False,
              help="Open the page in a browser. [default: if a graphical one is found]")  # fmt: skip
@output_options
def ui(port: int | None, dashboard_port: int | None, browser: bool, **options: Any) -> None:
    """Show runs and studies in MLflow and Optuna.

    Serves the runs of this home in MLflow and, if it is installed, its studies in the Optuna dashboard. Both listen on
    loopback only. Ctrl-C stops them.
    """
    from sweeper.core.environment import check_home
    from sweeper.server.ui import ui
    from sweeper.sweep.links import pages, ui_options

    env = make_environment(options | {"home": check_home(options["home"], _named())})
    asked = ui_options(env, port, dashboard_port, browser=browser)
    try:
        ui(asked, lambda base: pages(env, base), env.say, lambda links: print_json(links, env.json_output))
    except Interrupted as stopped:
        env.say("stopped")
        raise click.exceptions.Exit(stopped.exit_code) from None


@command("how-to/backup.md", "sweeper backup all.tar --home DIR", "sweeper backup all.tar")
@click.argument("file", type=click.Path(path_type=Path))
@at_home
def backup(file: Path, home: Path, database_url: str | None, json_output: bool) -> None:
    """Back up a server's databases, artifacts and secrets.

    The server may be running."""
    from sweeper.core.environment import check_home
    from sweeper.server import backup

    result = backup.backup(check_home(home, _named()), file, database_url)
    speaker(json_output)(
        f"{result['file']}: {result['bytes']:,} bytes, {result['artifacts']} artifacts and both databases"
    )
    print_json(result, json_output)


@command("how-to/backup.md", "sweeper restore all.tar --home NEW", "sweeper serve --home NEW")
@click.argument("file", type=click.Path(path_type=Path))
@at_home
def restore(file: Path, home: Path, database_url: str | None, json_output: bool) -> None:
    """Restore a backup into a new home."""
    from sweeper.core.environment import new_home
    from sweeper.server import backup

    with new_home(home, _named()):
        result = backup.restore(home, file, database_url)
    speaker(json_output)(
        f"{result['home']}: both databases and {result['artifacts']} artifacts; start it with: "
        f"sweeper serve --home {shlex.quote(result['home'])}"
    )
    print_json(result, json_output)


def _named() -> str:
    """Return the source of the home: the option or the variable."""
    given = click.get_current_context().get_parameter_source("home") is ParameterSource.COMMANDLINE
    return "--home" if given else "SWEEPER_HOME"
