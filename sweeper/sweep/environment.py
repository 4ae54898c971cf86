"""Resolve and check, once per command, where it keeps its state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sweeper.core.environment import (
    NONE,
    OFFLINE,
    OURS,
    Environment,
    MlflowExperiment,
    Say,
    check_home,
    storage_url,
    tracking_url,
)
from sweeper.core.errors import UsageError
from sweeper.core.urls import database_url
from sweeper.tracking.store import preflight, store_uri

DEFAULT: Final = "0"  # the id of MLflow's experiment Default


def chosen_experiment(name: str | None) -> MlflowExperiment:
    """Return the MLflow experiment that an option or MLflow's variables name, by default ours.

    `mlflow run` without --experiment-name puts its own run into MLflow's experiment Default, which nobody chose.

    Raises:
        UsageError: the name is empty.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or None if name is None else name
    number = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
    if name is not None:
        if not name.strip():
            raise UsageError("--experiment-name is empty. Name an MLflow experiment, or leave it out.")
        return MlflowExperiment(name)
    unchosen = number == DEFAULT and "MLFLOW_RUN_ID" in os.environ
    return MlflowExperiment(id=number) if number and not unchosen else OURS


def resolve_environment(options: Mapping[str, Any], warn: Say, say: Say, *, check_tracking: bool) -> Environment:
    """Resolve the options of a command, and the process's variables, into its environment.

    `check_tracking` also checks that the tracking store, if there is one, accepts runs.

    Raises:
        UsageError: a URI is wrong.
        SweeperError: SWEEPER_HOME is not a directory, or the tracking store cannot be used.
        ServiceUnreachable: the tracking server does not answer.
    """
    home = check_home(options.get("home") or Path(os.environ.get("SWEEPER_HOME") or "."))
    uri, storage, data_dir = options.get("tracking_uri"), options.get("storage"), options.get("data_dir")
    uri = tracking_url(home) if uri is None else store_uri(uri)
    if os.environ.get("SWEEPER_OFFLINE") == "1":
        uri = OFFLINE
    experiment = chosen_experiment(options.get("experiment_name"))
    if check_tracking and uri not in (OFFLINE, NONE):
        preflight(uri, experiment)
    storage = storage_url(home) if storage is None else storage
    database_url(storage)
    # The default URLs stay relative, as the journal has them; all that is printed is absolute.
    data_dir = None if data_dir is None else data_dir.absolute()
    return Environment(home.absolute(), uri, storage, data_dir, options["json_output"], warn, say,
                       options.get("progress", True), options.get("verbose", False), experiment)  # fmt: skip
