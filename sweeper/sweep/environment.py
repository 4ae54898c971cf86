"""Resolve and check, once a command, where it keeps its state."""

from __future__ import annotations

import os
from pathlib import Path

from sweeper.core.environment import NONE, OFFLINE, Environment, Say, check_home, storage_url, tracking_url
from sweeper.core.urls import database_url
from sweeper.tracking.store import preflight, store_uri


def resolve_environment(
    *,
    tracking_uri: str | None,
    storage: str | None,
    data_dir: Path | None,
    json_output: bool,
    warn: Say,
    say: Say,
    check_tracking: bool,
) -> Environment:
    """Resolve options and variables into the environment of a command. None stands for a default below SWEEPER_HOME.

    `check_tracking` also asks the tracking store, if there is one, whether it takes runs.

    Raises:
        UsageError: a URI is wrong.
        SweeperError: SWEEPER_HOME is not a directory, or the tracking store cannot be used.
        ServiceUnreachable: the tracking server does not answer.
    """
    home = check_home(Path(os.environ.get("SWEEPER_HOME") or "."))
    uri = tracking_url(home) if tracking_uri is None else store_uri(tracking_uri)
    if os.environ.get("SWEEPER_OFFLINE") == "1":
        uri = OFFLINE
    if check_tracking and uri not in (OFFLINE, NONE):
        preflight(uri)
    storage = storage_url(home) if storage is None else storage
    database_url(storage)
    return Environment(home, uri, storage, data_dir, json_output, warn, say)
