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
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import filelock

from sweeper.errors import ServiceUnreachable, SweeperError, UsageError
from sweeper.journal import (
    ARTIFACTS,
    JournalLog,
    JournalTracker,
    Record,
    RunInfo,
    end_all_abandoned,
    history,
    read_all_events,
    read_events,
    remove_parts,
    write_whole,
)
from sweeper.preflight import EXPERIMENT, check_stage, hide_password, preflight, reason_of, sqlite_file, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import Model

OUTCOME_TAGS: Final = {"sweeper.state", "sweeper.reason", "sweeper.traceback"}
KEY_TAG: Final = "sweeper.key"
UPLOAD: Final = "upload.json"
UPLOADER: Final = ".uploader"  # locked while a process uploads the run
XRAY: Final = "diagnostics/xray.json"
# In what MLflow says of a server that is away or overloaded, and of one that answered with a status.
PASSING: Final = re.compile(r"API request to (?!endpoint )|\blocked|OperationalError|Max retries")
ANSWERED: Final = re.compile(r"API request to endpoint .*? failed with error code (\d{3})")
KEPT: Final = "evaluation"  # of a run's files, in the journal
SYNC_PATIENCE: Final = 120.0  # seconds
FIRST_PAUSE: Final = 0.1  # seconds before the second try
AWAY_AFTER: Final = 5  # failures in a row: a second and a half
LONGEST_PAUSE: Final = 10.0  # seconds between two tries while the server is away

T = TypeVar("T")
Draw = Callable[[list[dict[str, float]], str], bytes]
Warn = Callable[[str], None]
Save = Callable[[str, "Model"], "Model"]  # into a folder; of the model's description it returns the completed one


class MlflowTracker(JournalTracker):
    """The journal, and a thread that uploads it to MLflow as it grows."""

    def __init__(self, root: Path, uri: str, draw: Draw, warn: Warn) -> None:
        super().__init__(root, warn)
        self.uploader = Uploader(uri, root.parent, draw, warn)
        self._pending: dict[Path, int] = {}  # folder: how often it was written to
        self._refused: set[Path] = set()
        self._carried: set[Path] = set()
        self._wake = threading.Condition()
        self._closing = False
        self._connected = False
        self._fatal: SweeperError | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow-uploader", daemon=True)
        self._thread.start()

    def start(self, run: RunInfo) -> JournalLog:
        """Begin, or continue, the run's folder, and upload what is written to it."""
        store = hide_password(self.uploader.uri)
        return self._log(run, written=self._notify, store=store)

    def check(self) -> None:
        """Raise what makes every upload impossible, such as a deleted experiment."""
        if self._fatal is not None:
            raise self._fatal

    def close(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for the uploads; the number of runs that have not arrived."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(timeout)
        for folder in self._carried - self._pending.keys():
            self.uploader.tidy(folder)
        return len(self._pending) + len(self._refused)

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until MLflow answers and has everything written so far; whether it has."""
        with self._wake:
            self._wake.wait_for(lambda: (self._connected and not self._pending) or self._fatal, timeout)
            return self._connected and not self._pending and not self._refused

    def reconcile(self, below: str) -> None:
        """End what processes that are gone left without an end, also in MLflow if it was meant for this store.

        That is also where a run has its end in the journal, and its process was gone before MLflow had it.
        """
        super().reconcile(below)
        store = hide_password(self.uploader.uri)
        for folder, events in behind(self.root / below, self.uploader.uri):
            if events[-1]["event"] == "end" and events[0].get("store") == store:
                self._notify(folder)

    def catch_up(self, below: str) -> None:
        """Upload what earlier processes wrote below the folder `below` and could not bring there."""
        for folder, _ in behind(self.root / below, self.uploader.uri):
            self._notify(folder)

    def _notify(self, folder: Path) -> None:
        with self._wake:
            self._pending[folder] = self._pending.get(folder, 0) + 1
            self._wake.notify_all()

    def _run(self) -> None:
        try:
            self.uploader.connect()
        except SweeperError as error:
            with self._wake:
                self._fatal = error
                self._wake.notify_all()
            return
        with self._wake:
            self._connected = True
            self._wake.notify_all()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                folder, writes = next(iter(self._pending.items()))
            self._upload(folder)
            with self._wake:
                if self._pending[folder] == writes:  # nothing was written meanwhile
                    del self._pending[folder]
                self._wake.notify_all()

    def _upload(self, folder: Path) -> None:
        try:
            self.uploader.upload(folder, time.sleep)
            self._refused.discard(folder)
            self._carried.add(folder)
        except Exception as error:  # noqa: BLE001 - one run that MLflow refuses must not end the uploads of the others
            if folder in self._refused:
                return
            self._refused.add(folder)
            self._warn(f"{folder}: MLflow refuses this run ({reason_of(error)}); it stays in the journal")


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


def sync(root: Path, uri: str, home: Path, draw: Draw, warn: Warn) -> int:
    """Upload every run of the journal at `root` that has not arrived; the number of runs carried.

    A run without an end whose process is gone is ended as killed; one that is being written is carried as far as it is.
    Artifacts of a new sqlite store go below `home`.

    Raises:
        ServiceUnreachable: the server does not answer.
    """
    preflight(uri)
    uploader = Uploader(uri, home, draw, warn)
    deadline = time.monotonic() + SYNC_PATIENCE

    def wait(seconds: float) -> None:
        if time.monotonic() > deadline:
            raise ServiceUnreachable(f"tracking server {hide_password(uri)} went away; `sweeper sync` again continues")
        time.sleep(seconds)

    uploader.connect(wait)
    end_all_abandoned(root, warn)
    waiting = [folder for folder, _ in behind(root, uri)]
    refused = []
    for folder in waiting:
        try:
            uploader.upload(folder, wait)
            uploader.tidy(folder)
        except SweeperError:
            raise
        except Exception as error:  # noqa: BLE001 - one run that MLflow refuses must not keep the others
            refused.append(folder)
            warn(f"{folder}: MLflow refuses this run ({reason_of(error)}); it stays in the journal")
    if refused:
        raise SweeperError(f"{len(waiting) - len(refused)} runs were carried, {len(refused)} were refused")
    return len(waiting)


def _draw_xray(source: Path, title: str) -> None:
    """Draw the X-ray of a run that has one, beside its file."""
    if source.exists():
        from sweeper.report import xray  # matplotlib is loaded already: the curves are drawn first

        write_whole(source.with_suffix(".png"), xray.figure(json.loads(source.read_bytes()), title))


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


def behind(root: Path, uri: str) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """The runs below `root` of which the store `uri` lacks a part, with their events; damaged ones are passed over, as
    whoever ends abandoned runs has warned of them."""
    for folder, events in read_all_events(root, lambda _: None):
        if len(events) > _read_state(folder, uri)["events"]:
            yield folder, events


def _read_state(folder: Path, uri: str) -> dict[str, Any]:
    """How far the folder has been carried to the store `uri`; another store has nothing of it."""
    path, store = folder / UPLOAD, hide_password(uri)
    state: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return state if state.get("store") == store else {"store": store, "run_id": None, "events": 0}


def _new_params(run: Run, params: dict[str, str]) -> dict[str, str]:
    """Parameters that the run does not have. `mlflow run` has logged its own under some of the names, as they
    were typed; MLflow lets no parameter change, so where ours differs it goes under `config.NAME`."""
    present = run.data.params
    values = {k: v for k, v in params.items() if k not in present}
    values |= {f"config.{k}": v for k, v in params.items() if present.get(k, v) != v and f"config.{k}" not in present}
    return values


def _retrying(call: Callable[[], T], report: Callable[[Exception | None], None], wait: Callable[[float], None]) -> T:
    """Call until the server answers. What it answers, good or bad, is passed on."""
    pause = FIRST_PAUSE
    while True:
        try:
            result = call()
        except Exception as error:
            if not _passing(error):
                raise
            report(error)
            wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            report(None)
            return result


class _Patient:
    """A client each call of which is repeated until the server answers, where repeating it changes nothing.

    The others are repeated with the whole upload, which first looks what is there.
    """

    def __init__(
        self, client: MlflowClient, report: Callable[[Exception | None], None], wait: Callable[[float], None]
    ) -> None:
        self._client, self._report, self._wait = client, report, wait

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *given, **named: _retrying(
            lambda: getattr(self._client, name)(*given, **named), self._report, self._wait
        )


def _passing(error: Exception) -> bool:
    """Whether trying again may help: the server is away, overloaded, or its database is locked."""
    import requests
    from mlflow.exceptions import MlflowException

    if isinstance(error, requests.exceptions.HTTPError) and error.response is not None:  # of the artifacts
        return _busy(error.response.status_code)
    if isinstance(error, requests.exceptions.RequestException | ConnectionError | TimeoutError):
        return True
    if isinstance(error, MlflowException):
        if error.error_code not in ("TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED"):
            return False
        answered = ANSWERED.search(str(error))
        return _busy(int(answered[1])) if answered else PASSING.search(str(error)) is not None
    return "OperationalError" in type(error).__name__


def _busy(status: int) -> bool:
    """Whether a server that answers with this HTTP status may take the same request later."""
    return status in (408, 429) or status >= 500


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
