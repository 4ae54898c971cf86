"""Resolve and check, once a command, where it keeps its state."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.core.environment import NONE, OFFLINE, Environment, Say, check_home, storage_url, tracking_url
from sweeper.core.urls import database_url
from sweeper.tracking.store import preflight, store_uri


def resolve_environment(options: Mapping[str, Any], warn: Say, say: Say, *, check_tracking: bool) -> Environment:
    """Resolve the options of a command, and the process's variables, into its environment.

    `check_tracking` also asks the tracking store, if there is one, whether it takes runs.

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
    if check_tracking and uri not in (OFFLINE, NONE):
        preflight(uri)
    storage = storage_url(home) if storage is None else storage
    database_url(storage)
    # The default URLs stay relative, as the journal has them; all that is printed is absolute.
    data_dir = None if data_dir is None else data_dir.absolute()
    return Environment(home.absolute(), uri, storage, data_dir, options["json_output"], warn, say,
                       options.get("progress", True), options.get("verbose", False))  # fmt: skip
