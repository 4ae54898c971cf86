"""MLflow: a thread that carries the journal to a tracking server.

Training never waits for MLflow. Each run is written to the journal first (journal.py); the
uploader repeats each step until the server has acknowledged it, and remembers how far it came in
`upload.json`. A batch repeated with the same times adds nothing in MLflow, so that a crash between
the upload and the note of it does no harm.
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, cast

import filelock

from sweeper.core.errors import SweeperError
from sweeper.core.files import remove_parts, write_whole
from sweeper.tracking.reading import ARTIFACTS, history, read_events
from sweeper.tracking.store import EXPERIMENT, check_stage, hide_password, reason_of, sqlite_file, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import Model
from sweeper.tracking.fetching import KEY_TAG, UPLOAD, _read_state
from sweeper.tracking.patience import _Patient, _retrying

OUTCOME_TAGS: Final = {"sweeper.state", "sweeper.reason", "sweeper.traceback"}
UPLOADER: Final = ".uploader"  # locked while a process uploads the run
XRAY: Final = "diagnostics/xray.json"
KEPT: Final = "evaluation"  # of a run's files, in the journal
SYNC_PATIENCE: Final = 120.0  # seconds
AWAY_AFTER: Final = 5  # failures in a row: a second and a half
Draw = Callable[[list[dict[str, float]], str], bytes]
Warn = Callable[[str], None]
Save = Callable[[str, "Model"], "Model"]  # into a folder; of the model's description it returns the completed one


class Uploader:
    """Carries run folders to one MLflow store."""

    def __init__(self, uri: str, home: Path, draw: Draw, warn: Warn) -> None:
        self.uri = store_uri(uri)
        self._home = home
        self._draw = draw
        self._warn = warn
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._failures = 0
        self._away = False

    @property
    def client(self) -> MlflowClient:
        """The MLflow client, once `connect` has made it."""
        assert self._client is not None, "connect() comes first"
        return self._client

    def connect(self, wait: Callable[[float], None] = time.sleep) -> None:
        """Import MLflow, create its database where there is none, and find or create the experiment.

        It is tried again, after `wait`, for as long as the server is away.

        Raises:
            SweeperError: the experiment was deleted, or the store is of another schema.
        """
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the retries are ours
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.store.db import utils as _  # noqa: F401 - it sets its logger's level when imported

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
        with self._alone():
            try:
                self._create_sqlite()
                self._client = MlflowClient(tracking_uri=self.uri)
                self._experiment_id = _retrying(self._find_experiment, self._report, wait)
            except SweeperError:
                raise
            except Exception as error:  # noqa: BLE001 - MLflow's own, or SQLAlchemy's for a file that is no database
                raise SweeperError(f"tracking store {hide_password(self.uri)}: {reason_of(error)}") from None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A new sqlite store is created by one process at a time: MLflow's own creation does not take two."""
        if not self.uri.startswith("sqlite"):
            yield
            return
        with filelock.FileLock(f"{sqlite_file(self.uri)}.lock"):
            yield

    def _create_sqlite(self) -> None:
        """Create a new sqlite store aside: what is killed in the middle of MLflow's migrations leaves a database that
        they may not be able to go on with. A file that is there, or a link, is left to MLflow."""
        file = sqlite_file(self.uri)
        if not self.uri.startswith("sqlite") or "?" in self.uri:
            return
        aside = f".{file.name}.creating-"
        _remove(file.parent, aside)
        if os.path.lexists(file):
            return
        for suffix in ("-journal", "-wal", "-shm"):  # of a removed database: they would be played into this one
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        new = file.with_name(aside + uuid.uuid4().hex[:8])
        try:
            store = SqlAlchemyStore(f"sqlite:///{new}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)  # type: ignore[no-untyped-call]
            store.engine.dispose()
            try:
                file.hardlink_to(new)
            except FileExistsError:
                pass  # somebody else was faster
            except OSError:  # a file system without hard links
                new.replace(file)
        finally:
            _remove(file.parent, aside)

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            location = (self._home / "mlartifacts").resolve().as_uri() if self.uri.startswith("sqlite") else None
            try:
                return str(self.client.create_experiment(EXPERIMENT, artifact_location=location))
            except MlflowException:  # somebody else was faster
                found = self.client.get_experiment_by_name(EXPERIMENT)
                if found is None:
                    raise
        check_stage(self.uri, found.experiment_id, found.lifecycle_stage)
        return str(found.experiment_id)

    def upload(self, folder: Path, wait: Callable[[float], None]) -> None:
        """Carry what is new in `folder` to MLflow, trying again for as long as the server is away."""
        self._calls = cast("MlflowClient", _Patient(self.client, self._report, wait))
        _retrying(lambda: self._upload_new(folder), self._report, wait)

    def _report(self, error: Exception | None) -> None:
        """Say once that the server went away, and once that it is back; a few refusals are not worth a word."""
        self._failures = 0 if error is None else self._failures + 1
        if error is not None and self._failures >= AWAY_AFTER and not self._away:
            self._warn(
                f"tracking server {hide_password(self.uri)} does not answer ({reason_of(error)[:120]}); "
                "training goes on, the journal keeps everything until it is back"
            )
        elif error is None and self._away:
            self._warn(f"tracking server {hide_password(self.uri)} is back")
        self._away = error is not None and (self._away or self._failures >= AWAY_AFTER)

    def _upload_new(self, folder: Path) -> None:
        with filelock.FileLock(folder / UPLOADER):  # a driver and `sweeper sync` may both be at it
            self._upload_alone(folder)

    def _upload_alone(self, folder: Path) -> None:
        events = read_events(folder)
        state = _read_state(folder, self.uri)
        new = events[state["events"] :]
        if not new:
            return
        starts = [e for e in new if e["event"] == "start"]
        if starts:
            state["run_id"] = self._begin({**starts[-1], "time": starts[0]["time"]}, state["run_id"])
        last = new[-1]
        measured = [e for e in new if e["event"] == "epoch" or (e["event"] == "end" and e is not last)]
        self._metrics(state["run_id"], measured)
        if last["event"] == "end":
            first = next(e for e in events if e["event"] == "start")
            self._end(folder, state["run_id"], last, history(events), first["name"])
        elif starts:
            self._calls.update_run(state["run_id"], status="RUNNING")
        write_whole(folder / UPLOAD, json.dumps(state | {"events": len(events)}).encode())

    def tidy(self, folder: Path) -> None:
        """Remove the files of a run that has ended and arrived whole, once nobody writes to it: MLflow has them.

        Those in `KEPT` stay, for `sweeper report`: they are small.
        """
        events = read_events(folder)
        if events and events[-1]["event"] == "end" and len(events) == _read_state(folder, self.uri)["events"]:
            _empty(folder / ARTIFACTS)

    def _begin(self, event: dict[str, Any], known: str | None) -> str:
        """Find or create the run, and give it its parameters, tags and data set."""
        from mlflow.entities import Param, RunTag

        run_id = event["run_id"] or known or self._find_run(event["key"]) or self._create_run(event)
        run = self._calls.get_run(run_id)
        for outdated in OUTCOME_TAGS & run.data.tags.keys():  # of an earlier attempt
            self.client.delete_tag(run_id, outdated)
        tags = {**event["tags"], KEY_TAG: event["key"], "mlflow.note.content": event["description"]}
        self._calls.log_batch(
            run_id,
            params=[Param(k, v) for k, v in _new_params(run, event["params"]).items()],
            tags=[RunTag(k, v) for k, v in tags.items()],
        )
        if event["run_id"]:
            self._calls.update_run(run_id, name=event["name"])
        if event["dataset"] and not (run.inputs and run.inputs.dataset_inputs):
            self._log_dataset(run_id, event["dataset"])
        return run_id

    def _find_run(self, key: str) -> str | None:
        runs = self._calls.search_runs([self._experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _create_run(self, event: dict[str, Any]) -> str:
        run = self.client.create_run(
            self._experiment_id, start_time=event["time"], run_name=event["name"], tags={KEY_TAG: event["key"]}
        )
        return str(run.info.run_id)

    def _log_dataset(self, run_id: str, dataset: dict[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=dataset["name"],
            digest=dataset["sha256"][:8],
            source_type="local",
            source=json.dumps({"uri": dataset["source"]}),
            profile=json.dumps(dataset["profile"]),
        )
        context = InputTag("mlflow.data.context", "training")
        self._calls.log_inputs(run_id, [DatasetInput(entity, [context])])

    def _metrics(self, run_id: str, epochs: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        points = [Metric(k, v, e["time"], e.get("step", 0)) for e in epochs for k, v in e["metrics"].items()]
        for first in range(0, len(points), 1000):  # MLflow's limit for a batch
            self._calls.log_batch(run_id, metrics=points[first : first + 1000])

    def _end(self, folder: Path, run_id: str, event: dict[str, Any], epochs: list[dict[str, float]], name: str) -> None:
        from mlflow.entities import Metric, RunTag

        remove_parts(folder)
        if epochs and "val/loss" in epochs[0]:
            write_whole(folder / ARTIFACTS / "curves" / "loss_accuracy.png", self._draw(epochs, name))
        _draw_xray(folder / ARTIFACTS / XRAY, name)
        if (folder / ARTIFACTS).is_dir() and any((folder / ARTIFACTS).iterdir()):
            self._artifacts(run_id, folder / ARTIFACTS)
        self._calls.log_batch(
            run_id,
            metrics=[Metric(k, v, event["time"], 0) for k, v in event["metrics"].items()],  # step 0: a bar, not a curve
            tags=[RunTag(k, v) for k, v in event["tags"].items()],
        )
        self._calls.set_terminated(run_id, event["status"], event["time"])

    def _artifacts(self, run_id: str, root: Path) -> None:
        """Each file by itself, so that a server that refuses one is asked for that one again."""
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            folder = path.parent.relative_to(root).as_posix()
            self._calls.log_artifact(run_id, str(path), None if folder == "." else folder)

    def registered(self, folder: Path) -> bool:
        """Whether `register` has come to its end for the run of `folder`."""
        return "registered" in _read_state(folder, self.uri)

    def file(self, folder: Path, name: str) -> bytes:
        """A file of a run that has arrived: from the journal, or where it is tidied up, from MLflow."""
        path = folder / ARTIFACTS / name
        if path.exists():
            return path.read_bytes()
        with TemporaryDirectory() as aside:
            return Path(self.client.download_artifacts(self._run_id(folder), name, aside)).read_bytes()

    def register(self, folder: Path, save: Save, name: str, alias: str) -> str:
        """Register the model that `save` saves, which the run of `folder` made, as a version of `name` with `alias`.

        A note of it is kept with the run. Calling it again after a crash registers nothing twice.

        Returns:
            The version that was registered.
        """
        run_id = self._run_id(folder)
        made = self.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        version = str(made[0].version) if made else self._log_model(run_id, save, name)
        self.client.set_registered_model_alias(name, alias, version)
        with filelock.FileLock(folder / UPLOADER):
            write_whole(folder / UPLOAD, json.dumps(_read_state(folder, self.uri) | {"registered": version}).encode())
        return version

    def _log_model(self, run_id: str, save: Save, name: str) -> str:
        """By `Model.log`, which takes a run that has ended: `mlflow.pytorch.log_model` wants it to be RUNNING again,
        where a crash leaves it for ever."""
        import mlflow
        from mlflow.models import Model

        mlflow.set_tracking_uri(self.uri)
        run = self.client.get_run(run_id)
        made = self.client.create_logged_model(run.info.experiment_id, "model", run_id, params=run.data.params)
        silence = io.StringIO()  # MLflow prints links and congratulations, to both
        with redirect_stdout(silence), redirect_stderr(silence):
            info = Model.log(
                None,
                _Flavor(save),
                run_id=run_id,
                model_id=made.model_id,
                registered_model_name=name,
                validate_serving_input=False,  # it would load the network, and torch, into this process
            )
        return str(info.registered_model_version)

    def _run_id(self, folder: Path) -> str:
        return str(_read_state(folder, self.uri)["run_id"])


class _Flavor:
    """To MLflow, a kind of model; ours is saved by `save`, which may do so in another process."""

    def __init__(self, save: Save) -> None:
        self._save = save

    def save_model(self, path: str, mlflow_model: Model, **_: Any) -> None:
        """Save the model in the folder `path`, and complete its description."""
        vars(mlflow_model).update(vars(self._save(path, mlflow_model)))


def _remove(folder: Path, prefix: str) -> None:
    """Remove the files of `folder` whose names begin with `prefix`: a database, and the journal that sqlite keeps."""
    for file in folder.glob(f"{glob.escape(prefix)}*"):
        file.unlink()


def _empty(artifacts: Path) -> None:
    """Remove the files of a run but those in `KEPT`."""
    for path in artifacts.glob("*"):
        if path.name != KEPT:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something was kept
        artifacts.rmdir()


def _draw_xray(source: Path, title: str) -> None:
    """Draw the X-ray of a run that has one, beside its file."""
    if source.exists():
        from sweeper.report.run.xray import figure  # matplotlib is loaded already: the curves are drawn first

        write_whole(source.with_suffix(".png"), figure(json.loads(source.read_bytes()), title))


def _new_params(run: Run, params: dict[str, str]) -> dict[str, str]:
    """Parameters that the run does not have. `mlflow run` has logged its own under some of the names, as they
    were typed; MLflow lets no parameter change, so where ours differs it goes under `config.NAME`."""
    present = run.data.params
    values = {k: v for k, v in params.items() if k not in present}
    values |= {f"config.{k}": v for k, v in params.items() if present.get(k, v) != v and f"config.{k}" not in present}
    return values
