"""Find a run in MLflow, and fetch its files."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Final

from sweeper.core.errors import UsageError
from sweeper.tracking.base import Record
from sweeper.tracking.store import EXPERIMENT, hide_password, preflight, reason_of, sqlite_file, store_uri

KEY_TAG: Final = "sweeper.key"
UPLOAD: Final = "upload.json"


def run_id_of(root: Path, folder: str, uri: str) -> str | None:
    """The run in the store `uri` that a run folder was uploaded to, or None while it was not."""
    run_id: str | None = _read_state(root / folder, uri)["run_id"]
    return run_id


def fetch(uri: str, run_id: str) -> Record:
    """The run `run_id` of the store `uri`, to be trained again.

    Raises:
        UsageError: the store has no such run, or it is none of sweeper's.
        ServiceUnreachable: the server does not answer.
    """
    preflight(uri)
    if uri.startswith("sqlite") and not sqlite_file(uri).exists():
        raise UsageError(f"run {run_id[:60]!r}: no folder of a journal, and there is no {sqlite_file(uri)} to look in")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=store_uri(uri))
    try:
        run = client.get_run(run_id)
        if KEY_TAG not in run.data.tags:
            raise UsageError(f"run {run_id!r} of {hide_password(uri)}: not one that sweeper recorded")
        epochs: dict[int, dict[str, float]] = {}
        for name in run.data.metrics:
            for point in client.get_metric_history(run_id, name):
                epochs.setdefault(point.step, {})[name] = point.value
    except MlflowException as error:
        raise UsageError(f"run {run_id[:60]!r}: {reason_of(error)[:120]} in {hide_password(uri)}") from None
    epochs.pop(0, None)  # the values of the run's end
    params, tags = dict(run.data.params), dict(run.data.tags)
    if tags.get("sweeper.attempt", "1") != "1":  # MLflow does not say which attempt an epoch is of
        return Record(params, tags, {}, epochs)
    return Record(params, tags, epochs, {})


def _read_state(folder: Path, uri: str) -> dict[str, Any]:
    """How far the folder has been carried to the store `uri`; another store has nothing of it."""
    path, store = folder / UPLOAD, hide_password(uri)
    state: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return state if state.get("store") == store else {"store": store, "run_id": None, "events": 0}


def ui_link(base: str, uri: str, run_id: str | None) -> str:
    """Where MLflow's UI shows the run, or else the table of all runs (not its page for GenAI)."""
    import requests
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=uri)
    try:
        found = client.get_experiment_by_name(EXPERIMENT)
    except (MlflowException, requests.RequestException):
        return base  # the server is away: its front page will do
    number = found.experiment_id if found else "1"
    if run_id is not None:  # `mlflow run` may have put it into another experiment
        with contextlib.suppress(MlflowException, requests.RequestException):
            number = client.get_run(run_id).info.experiment_id
    path = f"runs/{run_id}" if run_id else "runs?workflowType=machine_learning"
    return f"{base.rstrip('/')}/#/experiments/{number}/{path}"
