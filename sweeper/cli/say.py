"""The last lines of a command: where to look, or JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sweeper.core.environment import Environment


def say_where(env: Environment, run_id: str | None) -> None:
    """Where the runs are, and how to look at them."""
    from sweeper.core.environment import NONE, OFFLINE
    from sweeper.tracking.fetching import ui_link
    from sweeper.tracking.store import hide_password, sqlite_file

    if env.tracking_uri in (NONE, OFFLINE):
        env.say(f"journal: {env.journal}" if env.tracking_uri == OFFLINE else "nothing was recorded")
        return
    if env.tracking_uri.startswith("sqlite"):
        env.say(f"MLflow database: {sqlite_file(env.tracking_uri).resolve()}")
        env.say(f"open it with:    {_mlflow()} server --port 5000 --workers 1 --backend-store-uri {env.tracking_uri}")
        env.say(f"then look at:    {ui_link('http://127.0.0.1:5000', env.tracking_uri, run_id)}")
    else:
        base = hide_password(env.tracking_uri) if env.tracking_uri.startswith("http") else "http://127.0.0.1:5000"
        env.say(f"look at:         {ui_link(base, env.tracking_uri, run_id)}")


def _mlflow() -> str:
    """The mlflow command of this environment, by a path if it is not the one on PATH."""
    ours = Path(sys.executable).parent / "mlflow"
    found = shutil.which("mlflow")
    active = "VIRTUAL_ENV" in os.environ or "CONDA_PREFIX" in os.environ
    if not ours.exists() or (active and found and Path(found).resolve() == ours.resolve()):
        return "mlflow"
    return os.path.relpath(ours) if ours.is_relative_to(Path.cwd()) else str(ours)


def print_json(env: Environment, result: dict[str, Any]) -> None:
    """Print the result, where JSON was asked for."""
    if env.json_output:
        click.echo(json.dumps(result))
