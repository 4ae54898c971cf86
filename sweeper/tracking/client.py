"""MLflow's client without output, telemetry or its own retries. Creating it imports MLflow, which takes seconds."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULTS: Final = {  # a user's own values win
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # sweeper retries, and reports an outage
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def open_client(uri: str) -> MlflowClient:
    """Make a client of the tracking store `uri`. It sends nothing yet, but opens a database."""
    silence()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def silence() -> None:
    """Import MLflow so that it prints, retries and reports nothing."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.store.db import utils as _  # noqa: F401 - it sets its logger's level when imported

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
