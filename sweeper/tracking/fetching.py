"""Runs in MLflow: how far each was uploaded, its record to train it again, and its address."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final, cast
from urllib.parse import quote, urlencode

from pydantic import ValidationError

from sweeper.core.environment import OURS, MlflowExperiment
from sweeper.core.errors import RecordError, UsageError
from sweeper.core.inside import WAY_OUT, lock_inside, read_inside, write_inside
from sweeper.core.metric import Metric
from sweeper.tracking.base import Record
from sweeper.tracking.client import open_client
from sweeper.tracking.epochs import STACKED, read_epoch
from sweeper.tracking.schema import MOST_STATE, STATE
from sweeper.tracking.schema import reason_of as why
from sweeper.tracking.store import (
    absolute,
    find_experiment,
    hide_password,
    is_sqlite,
    preflight,
    reason_of,
    sqlite_file,
    store_uri,
)

KEY_TAG: Final = "sweeper.key"
UPLOAD: Final = "upload.json"
WORKFLOW: Final = {"workflowType": "machine_learning"}  # of MLflow's two interfaces, the one for model training
CURVES: Final = {"compareRunsMode": "CHART"}  # the curves of all runs in common charts, in place of the table
UPLOADER: Final = ".uploader"  # locked while a process uploads the run, or changes its `UPLOAD`


def read_state(folder: Path, uri: str) -> dict[str, Any]:
    """Return the ID of a run folder's run in the store `uri`, and the number of events uploaded to it.

    Raises:
        RecordError: the file is not a regular file, or is damaged.
    """
    store = hide_password(uri)
    nothing = {"store": store, "run_id": None, "events": 0}
    try:
        state = cast("dict[str, Any]", STATE.validate_json(read_inside(folder, UPLOAD, MOST_STATE)))
    except FileNotFoundError:
        return nothing
    except ValidationError as error:
        raise RecordError(f"{folder / UPLOAD} is damaged ({why(error)}). {WAY_OUT}") from None
    return state if state["store"] == store else nothing


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state that `read_state` reads. The caller holds the lock `UPLOADER`."""
    write_inside(folder, UPLOAD, json.dumps(state).encode())


def update_state(folder: Path, uri: str, **fields: Any) -> None:
    """Add `fields` to the state that `read_state` reads."""
    with lock_inside(folder, UPLOADER):
        write_state(folder, read_state(folder, uri) | fields)


def run_id_of(root: Path, folder: str, uri: str) -> str | None:
    """Return the ID of the run in the store `uri` that a run folder was uploaded to, or None."""
    run_id: str | None = read_state(root / folder, uri)["run_id"]
    return run_id


def fetch(uri: str, run_id: str, experiment: MlflowExperiment = OURS) -> Record:
    """Return the run `run_id` of the store `uri`, to train it again.

    Raises:
        UsageError: the store has no such run, or sweeper did not record it.
        ServiceUnreachable: the server does not answer.
    """
    preflight(uri, experiment)
    if is_sqlite(uri) and not sqlite_file(uri).exists():
        raise UsageError(
            f"run {run_id[:60]!r} is not a journal folder, and there is no {sqlite_file(uri)}. Check the "
            "name, or name an MLflow store with --tracking-uri."
        )
    client = open_client(absolute(store_uri(uri)))
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
        if KEY_TAG not in run.data.tags:
            raise UsageError(f"run {run_id!r} of {hide_password(uri)} was not recorded by sweeper. Name another run.")
        metrics: dict[int, dict[str, float]] = {}
        for name in run.data.metrics:
            for point in client.get_metric_history(run_id, name):
                metrics.setdefault(point.step, {})[name] = point.value
    except MlflowException as error:
        raise UsageError(
            f"run {run_id[:60]!r}: {reason_of(error)[:120]} in {hide_password(uri)}. Check the ID."
        ) from None
    metrics.pop(0, None)  # the values of the run's end
    epochs = {number: read_epoch(number, stored) for number, stored in metrics.items()}
    params, tags = dict(run.data.params), dict(run.data.tags)
    again = tags.get("sweeper.attempt", "1") != "1"  # MLflow does not say which attempt an epoch is of
    return Record(params, tags, {} if again else epochs, epochs if again else {}, STACKED in run.data.metrics)


def fetch_file(uri: str, run_id: str, name: str, experiment: MlflowExperiment = OURS) -> bytes:
    """Return a file of the run `run_id` of the store `uri`.

    Raises:
        FileNotFoundError: the store has no such file, or cannot send it.
        ServiceUnreachable: the server does not answer.
    """
    preflight(uri, experiment)
    client = open_client(absolute(store_uri(uri)))
    from mlflow.exceptions import MlflowException

    with TemporaryDirectory() as aside:
        try:
            return Path(client.download_artifacts(run_id, name, aside)).read_bytes()
        except (MlflowException, OSError) as error:
            raise FileNotFoundError(f"{name}: {reason_of(error)}") from None


def ui_link(
    base: str, uri: str, run_id: str | None = None, query: Mapping[str, str] = MappingProxyType({}),
    experiment: MlflowExperiment = OURS,
) -> str:  # fmt: skip
    """Return the address of the run in MLflow's UI, or of the table of runs, with `query` in it."""
    import requests

    client = open_client(absolute(uri))
    from mlflow.exceptions import MlflowException

    try:
        found = find_experiment(client, experiment)
    except (MlflowException, requests.RequestException):
        return base  # the server is down: link to its front page
    number = found.experiment_id if found else "1"
    if run_id is not None:  # `mlflow run` may have put it into another MLflow experiment
        with contextlib.suppress(MlflowException, requests.RequestException):
            number = client.get_run(run_id).info.experiment_id
    path = f"runs/{run_id}" if run_id else "runs"
    return f"{base.rstrip('/')}/#/experiments/{number}/{path}?{urlencode({**WORKFLOW, **query}, quote_via=quote)}"


def sweep_query(study: str, metric: Metric) -> dict[str, str]:
    """Return the query with which MLflow's table of runs shows the trials of a study, the best first."""
    return {
        "searchFilter": f"tags.`sweeper.study` = '{study}' and tags.`sweeper.kind` = 'trial'",
        "orderByKey": f"metrics.`{metric.final}`",
        "orderByAsc": str(not metric.maximized).lower(),
        "startTime": "ALL",
        "lifecycleFilter": "Active",
    }
