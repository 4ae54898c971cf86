"""Show where to see the results: lines at the end of a command, and the pages of `sweeper ui`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sweeper.core.environment import EXPERIMENT, NONE, OFFLINE, Environment, program, tracking_url
from sweeper.core.errors import UsageError
from sweeper.core.metric import ACCURACY, Metric
from sweeper.core.urls import database_url

if TYPE_CHECKING:
    from sweeper.server.ui import UiOptions

SHOWN: Final = "SWEEPER_MLFLOW_URL"  # the address of the server for a browser, where it is another than for us
EXPERIMENT_NAME: Final = "MLFLOW_EXPERIMENT_NAME"


def say_where(env: Environment, run_id: str | None = None, study: str | None = None, metric: Metric = ACCURACY) -> None:
    """Print where the runs are recorded, and how to view a run, or the trials of a study."""
    from sweeper.tracking.store import absolute, hide_password, is_sqlite, sqlite_file

    if env.tracking_uri in (NONE, OFFLINE):
        env.say(f"journal: {env.journal}" if env.tracking_uri == OFFLINE else "nothing was recorded")
        return
    if is_sqlite(env.tracking_uri):
        env.say(f"MLflow database: {sqlite_file(absolute(env.tracking_uri))}")
    if env.tracking_uri.startswith("http"):
        from sweeper.tracking.fetching import sweep_query, ui_link

        query = sweep_query(study, metric) if study else {}
        base = os.environ.get(SHOWN) or hide_password(env.tracking_uri)
        env.say(f"view in MLflow: {ui_link(base, env.tracking_uri, run_id, query, env.experiment)}")
    else:
        env.say(f"view in MLflow: {ui_command(env)}")


def ui_command(env: Environment) -> str:
    """Return the command that shows the runs of this environment."""
    from sweeper.tracking.store import absolute, hide_password

    words = []
    if env.home.resolve() != Path.cwd():
        words += ["--home", str(env.home)]
    if absolute(env.tracking_uri) != tracking_url(env.home) and "MLFLOW_TRACKING_URI" not in os.environ:
        words += ["--tracking-uri", hide_password(absolute(env.tracking_uri))]
    if env.experiment.name != EXPERIMENT and EXPERIMENT_NAME not in os.environ:
        words += ["--experiment-name", env.experiment.name]
    return " ".join([program("sweeper"), "ui", *map(shlex.quote, words)])


def pages(env: Environment, base: str) -> dict[str, str]:
    """Return the pages of an MLflow server at `base`: the newest sweep's trials and curves, or all runs."""
    from sweeper.study.reading import read_study
    from sweeper.tracking.fetching import CURVES, sweep_query, ui_link

    try:
        view = read_study(None, env.storage)
    except UsageError:  # no study yet
        return {"runs": ui_link(base, env.tracking_uri, experiment=env.experiment)}
    query = sweep_query(view.name, view.metric)
    return {
        "trials": ui_link(base, env.tracking_uri, query=query, experiment=env.experiment),
        "curves": ui_link(base, env.tracking_uri, query=query | CURVES, experiment=env.experiment),
    }


def ui_options(env: Environment, port: int | None, dashboard_port: int | None, *, browser: bool) -> UiOptions:
    """Return what `sweeper ui` shows of this environment.

    Raises:
        UsageError: nothing is recorded there.
    """
    from sweeper.server.ui import UiOptions
    from sweeper.tracking.store import absolute, is_sqlite, sqlite_file

    if env.tracking_uri in (NONE, OFFLINE):
        raise UsageError(f"--tracking-uri {env.tracking_uri}: not an MLflow store. Name a server or a database.")
    uri = absolute(env.tracking_uri)
    if is_sqlite(uri) and not sqlite_file(uri).is_file():
        raise UsageError(
            f"{sqlite_file(uri)}: no such file. Run sweeper train or optimize first, or name another --home."
        )
    url = database_url(env.storage)
    if url.get_backend_name() == "sqlite":
        file = Path(url.database or "").absolute()
        url = url.set(database=str(file))
        if not file.is_file():
            return UiOptions(uri, None, port, dashboard_port, browser)
    return UiOptions(uri, url.render_as_string(hide_password=False), port, dashboard_port, browser)
