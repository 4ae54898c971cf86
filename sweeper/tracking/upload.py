"""The upload of a run: from its folder in the journal to its run in MLflow.

Each step is repeated until the server has acknowledged it, and `upload.json` notes how far the upload has come. MLflow
stores a batch that is sent twice with the same times once, so a crash before that note does no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from sweeper.core.errors import RecordError
from sweeper.core.files import remove_parts
from sweeper.core.inside import WAY_OUT, files_inside, lock_inside, read_inside, write_inside
from sweeper.tracking.connection import Connection
from sweeper.tracking.fetching import KEY_TAG, UPLOAD, UPLOADER, read_state, write_state
from sweeper.tracking.finding import MISSING, Events, find_run
from sweeper.tracking.notes import NOTE_TAG
from sweeper.tracking.patience import Patient, Wait, passing, retrying
from sweeper.tracking.reading import ARTIFACTS, history, read_all_events, read_events, run_folders
from sweeper.tracking.schema import MOST_ARTIFACT
from sweeper.tracking.store import hide_password, mlflow_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

OTHER_TAG: Final = "sweeper.other_training"  # of a run: another run of the same trial, from a copy of the journal
OUTCOME_TAGS: Final = {"sweeper.state", "sweeper.reason", "sweeper.traceback"}
XRAY: Final = "diagnostics/xray.json"
MOST_XRAY: Final = 10_000_000  # bytes of the file `XRAY`
MOST_NAME: Final = 500  # MLflow's limit for the name of a data set
MOST_METRICS: Final = 1000  # MLflow's limit for a batch


class Figures(NamedTuple):
    """Draws the figures of a run as PNG files, each under a title."""

    curves: Callable[[list[dict[str, float]], str], bytes]  # of the metrics of each epoch
    xray: Callable[[Mapping[str, Any], str], bytes]  # of the content of `XRAY`


def upload(connection: Connection, draw: Figures, folder: Path, wait: Wait) -> bool:
    """Upload the new events and files of the run in `folder`, and retry as long as the server does not answer.

    Returns False, with a warning the first time, if the run was deleted in MLflow.
    """
    run = _Upload(connection, draw, folder, wait)
    return retrying(run.upload_new, connection.report, wait)


def check_count(folder: Path, events: list[dict[str, Any]], state: Mapping[str, Any]) -> None:
    """Raise a RecordError if more events are said to be uploaded than there are."""
    if state["events"] > len(events):
        raise RecordError(
            f"{folder / UPLOAD} counts {state['events']} events, and the run has {len(events)}. {WAY_OUT}"
        )


def forget_lost(connection: Connection, root: Path) -> list[Path]:
    """Forget uploads that the store has lost, for example after its database was deleted or restored.

    The runs were uploaded one after the other, so the last one stands for the others.

    Returns:
        The folders of the runs to upload again.
    """
    uploaded = []
    for folder, events in read_all_events(root, lambda _: None):
        try:
            state = read_state(folder, connection.uri)
        except RecordError:  # of which `behind` warns
            continue
        if events and events[-1]["event"] == "end" and len(events) == state["events"]:
            uploaded.append((state.get("time", events[-1]["time"]), folder, state))
    uploaded.sort(key=lambda each: each[0], reverse=True)
    if not uploaded or _has_ended(connection, uploaded[0][2]["run_id"]):
        return []
    lost = [folder for _, folder, state in uploaded if not _has_ended(connection, state["run_id"])]
    for folder in lost:
        _forget(folder, connection.uri)
    return lost


def forget_all(root: Path, uri: str) -> None:
    """Forget all uploads to the store `uri`, and which runs were deleted there. Each finds its run again."""
    for folder in run_folders(root):
        with contextlib.suppress(RecordError):  # of which `behind` warns
            _forget(folder, uri)


def _forget(folder: Path, uri: str) -> None:
    with lock_inside(folder, UPLOADER):
        state = read_state(folder, uri)
        write_state(folder, {"store": state["store"], "run_id": None, "events": 0})


def _has_ended(connection: Connection, run_id: str | None) -> bool:
    """Return True unless the store lacks the run or its end. A run deleted by hand, or not to be read, is there."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return False
    try:
        return bool(connection.client.get_run(run_id).info.end_time)
    except MlflowException as error:
        if passing(error):
            raise
        return bool(error.error_code != MISSING)


class _Upload:
    """The upload of one run folder."""

    def __init__(self, connection: Connection, draw: Figures, folder: Path, wait: Wait) -> None:
        self._connection = connection
        self._draw = draw
        self._folder = folder
        self._calls = cast("MlflowClient", Patient(connection.client, connection.report, wait))

    def upload_new(self) -> bool:
        """Upload the events that MLflow does not have yet, then the files: a refused file holds back no event.

        Returns False if the run was deleted in MLflow.
        """
        with lock_inside(self._folder, UPLOADER):  # a sweep and `sweeper sync` may both upload the run
            events = read_events(self._folder)
            state = read_state(self._folder, self._connection.uri)
            check_count(self._folder, events, state)
            if len(events) > state["events"] and not state.get("deleted"):
                files_inside(self._folder, ARTIFACTS, MOST_ARTIFACT)  # refused before anything is sent
                state = self._upload(events, state)
                write_state(self._folder, state)
            if state.get("files") and events[-1]["event"] == "end" and not state.get("deleted"):
                self._artifacts(state["run_id"])
                write_state(self._folder, state | {"files": False})
            return not state.get("deleted")

    def _upload(self, events: Events, state: dict[str, Any]) -> dict[str, Any]:
        """Upload the events that the folder's run in MLflow lacks, and return the state to note."""
        found = find_run(self._calls, self._connection.experiment_id, events, state["run_id"], state["events"])
        if found.other:
            self._connection.warn_once(
                f"{self._folder.parent}: {hide_password(self._connection.uri)} has other results for some of these "
                "runs, perhaps from a copy of this journal. They are uploaded as separate runs. To keep two sweeps "
                "apart, give one of them another --study."
            )
        run = found.run or self._create_run(events[0], found.other)
        run_id = str(run.info.run_id)
        if run_id != state["run_id"]:
            state = {"store": state["store"], "run_id": run_id, "events": 0}
        if found.deleted:
            restore = mlflow_line(self._connection.uri, f"runs restore --run-id {run_id}")
            self._connection.warn(
                f"{self._folder}: its run was deleted in MLflow, and stays deleted. To restore it, run: {restore}; "
                "then upload it with: sweeper sync --all"
            )
            return state | {"deleted": True}
        if new := events[found.events :]:
            self._send(run, events, new)
        return state | {"events": len(events), "time": time.time_ns() // 1_000_000, "files": bool(new)}

    def _send(self, run: Run, events: Events, new: Events) -> None:
        """Upload the new ones of the events."""
        run_id = str(run.info.run_id)
        starts = [e for e in new if e["event"] == "start"]
        if starts:
            self._begin(run, starts[-1])
        last = new[-1]
        self._metrics(run_id, [e for e in new if e["event"] == "epoch" or (e["event"] == "end" and e is not last)])
        if last["event"] == "end":
            self._end(run_id, events)
        elif starts:
            self._calls.update_run(run_id, status="RUNNING")

    def _create_run(self, start: dict[str, Any], other: str | None) -> Run:
        return self._connection.client.create_run(  # not patient: two of these make two runs
            self._connection.experiment_id,
            start_time=start["time"],
            run_name=start["name"],
            tags={KEY_TAG: start["key"]} | ({OTHER_TAG: other} if other else {}),
        )

    def _begin(self, run: Run, start: dict[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        run_id = run.info.run_id
        for outdated in OUTCOME_TAGS & run.data.tags.keys():  # of an earlier attempt
            self._connection.client.delete_tag(run_id, outdated)
        tags = {**start["tags"], KEY_TAG: start["key"], NOTE_TAG: start["description"]}
        self._calls.log_batch(
            run_id,
            params=[Param(k, v) for k, v in _new_params(run, start["params"]).items()],
            tags=[RunTag(k, v) for k, v in tags.items()],
        )
        if start["run_id"]:
            self._calls.update_run(run_id, name=start["name"])
        if start["dataset"] and not (run.inputs and run.inputs.dataset_inputs):
            self._log_dataset(run_id, start["dataset"])

    def _log_dataset(self, run_id: str, dataset: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=dataset["name"][-MOST_NAME:],
            digest=_digest(dataset),
            source_type="local",
            source=json.dumps({"uri": dataset["source"]}),
            profile=json.dumps(dataset["profile"]),
        )
        context = InputTag("mlflow.data.context", "training")
        self._calls.log_inputs(run_id, [DatasetInput(entity, [context])])

    def _metrics(self, run_id: str, epochs: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        points = [Metric(k, v, e["time"], e.get("step", 0)) for e in epochs for k, v in e["metrics"].items()]
        for first in range(0, len(points), MOST_METRICS):
            self._calls.log_batch(run_id, metrics=points[first : first + MOST_METRICS])

    def _end(self, run_id: str, events: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, RunTag

        end = events[-1]
        self._draw_figures(history(events), events[0]["name"])
        self._calls.log_batch(
            run_id,
            metrics=[Metric(k, v, end["time"], 0) for k, v in end["metrics"].items()],  # step 0: a bar, not a curve
            tags=[RunTag(k, v) for k, v in end["tags"].items()],
        )
        self._calls.set_terminated(run_id, end["status"], end["time"])

    def _draw_figures(self, epochs: list[dict[str, float]], title: str) -> None:
        remove_parts(self._folder)
        if epochs and "val/loss" in epochs[0]:
            write_inside(self._folder, f"{ARTIFACTS}/curves/loss_accuracy.png", self._draw.curves(epochs, title))
        with contextlib.suppress(FileNotFoundError):
            xray = json.loads(read_inside(self._folder, f"{ARTIFACTS}/{XRAY}", MOST_XRAY))
            picture = f"{ARTIFACTS}/{XRAY.removesuffix('.json')}.png"
            write_inside(self._folder, picture, self._draw.xray(xray, title))

    def _artifacts(self, run_id: str) -> None:
        """Upload each file by itself, so that only a refused one is sent again."""
        root = self._folder / ARTIFACTS
        for name in files_inside(self._folder, ARTIFACTS, MOST_ARTIFACT):
            path = self._folder / name
            folder = path.parent.relative_to(root).as_posix()
            self._calls.log_artifact(run_id, str(path), None if folder == "." else folder)


def _digest(dataset: dict[str, Any]) -> str:
    """Return the start of the images' SHA-256, then that of the profile's.

    MLflow keeps one profile for a name and digest, and runs differ in it: a champion is trained on more images.
    """
    profile = json.dumps(dataset["profile"], sort_keys=True).encode()
    return f"{dataset['sha256'][:8]}-{hashlib.sha256(profile).hexdigest()[:8]}"


def _new_params(run: Run, params: dict[str, str]) -> dict[str, str]:
    """Return the parameters that the run does not have.

    `mlflow run` has logged some of them as they were typed, and MLflow lets no parameter change. One that differs is
    logged as `config.NAME`.
    """
    present = run.data.params
    values = {k: v for k, v in params.items() if k not in present}
    values |= {f"config.{k}": v for k, v in params.items() if present.get(k, v) != v and f"config.{k}" not in present}
    return values
