"""MLflow's client, set up for sweeper: silent, without telemetry, and without retries of its own.

Importing MLflow takes seconds, so that nothing here imports it before it is called.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULTS: Final = {  # a user's own values win
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # sweeper retries, and reports an outage
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def open_client(uri: str) -> MlflowClient:
    """A client of the tracking store `uri`. Sends nothing yet, except that it opens a database."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.store.db import utils as _  # noqa: F401 - it sets its logger's level when imported

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def one_request_of(seconds: float) -> Iterator[None]:
    """Within the block, a request is sent once and waits at most `seconds` for an answer, whatever the user has set."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{seconds:g}"}
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
