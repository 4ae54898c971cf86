"""`sweeper ui`: MLflow on the runs of a home and the Optuna dashboard on its studies, for a person on this machine."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from sweeper.core.environment import Say
from sweeper.core.errors import SweeperError
from sweeper.server.options import ServeOptions
from sweeper.server.postgres import libpq_variables
from sweeper.server.serve import MLFLOW_VARIABLES, READY_SECONDS, answers, check_port, mlflow_server
from sweeper.server.supervisor import Group

LOOPBACK: Final = "127.0.0.1"
PORT, DASHBOARD_PORT = 5000, 8080
DASHBOARD: Final = "optuna_dashboard"


@dataclass(frozen=True)
class UiOptions:
    """The MLflow store and the study database to show.

    Attributes:
        tracking_uri: of the store; a running server is linked, not started again.
        storage: SQLAlchemy's URL of the database; None for no dashboard.
        port: of MLflow; None for the usual one, or a free one if that is in use.
        dashboard_port: the same for the dashboard.
        browser: open the page in a browser, if this machine has one that shows windows.
    """

    tracking_uri: str
    storage: str | None
    port: int | None = None
    dashboard_port: int | None = None
    browser: bool = True


def ui(
    options: UiOptions, links: Callable[[str], Mapping[str, str]], say: Say, started: Callable[[dict[str, str]], None]
) -> None:
    """Show the pages until a signal arrives or a part dies; then stop both.

    Args:
        options: What to show.
        links: Returns the pages of an MLflow server by their names; the first is opened.
        say: Prints a line for people.
        started: Called once, when both are healthy, with the links.

    Raises:
        SweeperError: a port is in use, or a part died.
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived.
    """
    remote = options.tracking_uri.startswith("http")
    with TemporaryDirectory(prefix="sweeper-ui-") as folder, Group(Path(folder) / "log") as group:
        base, parts = options.tracking_uri, {}
        if not remote:
            port = _port(options.port, PORT, "port")
            base = parts["mlflow"] = f"http://{LOOPBACK}:{port}"
            variables = MLFLOW_VARIABLES | libpq_variables() | {"MLFLOW_BACKEND_STORE_URI": options.tracking_uri}
            group.start("mlflow", mlflow_server(ServeOptions(port=port), Path(folder)), variables)
        if options.storage is not None and importlib.util.find_spec(DASHBOARD):
            port = _port(options.dashboard_port, DASHBOARD_PORT, "dashboard-port")
            parts["dashboard"] = f"http://{LOOPBACK}:{port}"
            command = [sys.executable, "-m", "sweeper.server.dashboard", str(port)]
            group.start("dashboard", command, libpq_variables() | {"DATABASE_URL": options.storage})
        found = dict(links(base))  # while the parts start
        for part, url in parts.items():
            group.ready(part, partial(answers, url), READY_SECONDS)
        if "dashboard" in parts:
            found["studies"] = f"{parts['dashboard']}/dashboard/"
        for name, url in found.items():
            say(f"{name + ':':<9} {url}")
        say("press Ctrl-C to stop" if parts else "nothing to serve here")
        started(found)
        if options.browser and _has_windows():
            webbrowser.open(next(iter(found.values())))
        if parts:
            group.watch()


def _port(asked: int | None, usual: int, name: str) -> int:
    """Return the port that was asked for, or the usual one, or a free one if that is in use."""
    try:
        check_port(LOOPBACK, asked or usual, name)
    except SweeperError:
        if asked is not None:
            raise
        with socket.socket() as free:
            free.bind((LOOPBACK, 0))
            return int(free.getsockname()[1])
    return asked or usual


def _has_windows() -> bool:
    """Return True if a browser would open a window, rather than take over the terminal."""
    return sys.platform in ("darwin", "win32") or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
