"""From options to an environment, an engine and a device."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sweeper.core.environment import Environment
    from sweeper.engine.choice import EngineChoice


def make_environment(options: dict[str, Any], *, check_tracking: bool = True) -> Environment:
    """The environment that a command's options and the process's variables describe."""
    from sweeper.core.environment import NONE, OFFLINE, Environment, check_home, storage_url, tracking_url
    from sweeper.core.urls import database_url
    from sweeper.tracking.store import preflight, store_uri

    home = check_home(Path(os.environ.get("SWEEPER_HOME") or "."))
    json_output = bool(options.get("json_output"))
    uri, storage = options.get("tracking_uri"), options.get("storage")
    uri = tracking_url(home) if uri is None else store_uri(uri)
    if os.environ.get("SWEEPER_OFFLINE") == "1":
        uri = OFFLINE
    if check_tracking and "tracking_uri" in options and uri not in (OFFLINE, NONE):
        preflight(uri)
    storage = storage_url(home) if storage is None else storage
    database_url(storage)
    return Environment(
        home=home,
        tracking_uri=uri,
        storage=storage,
        data_dir=options.get("data_dir"),
        json_output=json_output,
        warn=lambda text: click.echo(f"warning: {text}", err=True),
        say=lambda text: click.echo(text, err=json_output),
    )


def given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """The options that were given a value, as fields of a run."""
    return {name: options[name] for name in names if options[name] is not None}


def engine_choice(options: dict[str, Any]) -> EngineChoice:
    """The engine that the options name."""
    from sweeper.engine.choice import EngineChoice

    return EngineChoice(options["engine"], options["workers"], options["address"], options["cpus_per_trial"],
                        options["gpus_per_trial"])  # fmt: skip


def device_name(options: dict[str, Any]) -> dict[str, str]:
    """The device as a field of a configuration, unless it is to be found."""
    return {} if options["device"] == "auto" else {"device": options["device"]}
