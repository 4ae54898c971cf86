"""MLflow: a thread that carries the journal to a tracking server.

Training never waits for MLflow. Each run is written to the journal first (journal.py); the
uploader repeats each step until the server has acknowledged it, and remembers how far it came in
`upload.json`. A batch repeated with the same times adds nothing in MLflow, so that a crash between
the upload and the note of it does no harm.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import io
import json
import logging
import os
import re
import shutil
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import quote, urlsplit

import filelock

from sweeper.environment import hide_query_password, refuse_query_password
from sweeper.errors import ServiceUnreachable, SweeperError, UsageError, one_line
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

if TYPE_CHECKING:
    import requests
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from torch import nn

EXPERIMENT: Final = "bn-dropout"
SQLITE_URI: Final = re.compile(r"sqlite:///(?!:memory:).")  # nobody could look at what is in memory
HOST: Final = re.compile(r"[A-Za-z0-9_.:%-]+")
OUTCOME_TAGS: Final = {"sweeper.state", "sweeper.reason", "sweeper.traceback"}
KEY_TAG: Final = "sweeper.key"
UPLOAD: Final = "upload.json"
UPLOADER: Final = ".uploader"  # locked while a process uploads the run
XRAY: Final = "diagnostics/xray.json"
SQLITE: Final = b"SQLite format 3\0"  # how such a file begins (sqlite.org/fileformat.html)
# In what MLflow says of a server that is away or overloaded, and of one that answered with a status.
PASSING: Final = re.compile(r"API request to (?!endpoint )|\blocked|OperationalError|Max retries")
ANSWERED: Final = re.compile(r"API request to endpoint .*? failed with error code (\d{3})")
KEPT: Final = "evaluation"  # of a run's files, in the journal
PREFLIGHT_SECONDS: Final = 5
SYNC_PATIENCE: Final = 120.0  # seconds
FIRST_PAUSE: Final = 0.1  # seconds before the second try
AWAY_AFTER: Final = 5  # failures in a row: a second and a half
LONGEST_PAUSE: Final = 10.0  # seconds between two tries while the server is away

T = TypeVar("T")
Draw = Callable[[list[dict[str, float]], str], bytes]
Warn = Callable[[str], None]


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
            self._warn(f"{folder}: MLflow refuses this run ({_one_line(error)}); it stays in the journal")


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
                self._client = MlflowClient(tracking_uri=self.uri)
                self._experiment_id = _retrying(self._find_experiment, self._report, wait)
            except SweeperError:
                raise
            except Exception as error:  # noqa: BLE001 - MLflow's own, or SQLAlchemy's for a file that is no database
                raise SweeperError(f"tracking store {hide_password(self.uri)}: {_one_line(error)}") from None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A new sqlite store is created by one process at a time: MLflow's own creation does not take two."""
        if not self.uri.startswith("sqlite"):
            yield
            return
        with filelock.FileLock(f"{sqlite_file(self.uri)}.lock"):
            yield

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
        _check_stage(self.uri, found.experiment_id, found.lifecycle_stage)
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
                f"tracking server {hide_password(self.uri)} does not answer ({_one_line(error)[:120]}); "
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

    def register(self, folder: Path, model: nn.Module, example: Any, name: str, alias: str) -> str:
        """Register `model`, which the run of `folder` made, as a version of `name`, and give it `alias`.

        A note of it is kept with the run. Calling it again after a crash registers nothing twice.

        Returns:
            The version that was registered.
        """
        run_id = self._run_id(folder)
        made = self.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
        version = str(made[0].version) if made else self._log_model(run_id, model, example, name)
        self.client.set_registered_model_alias(name, alias, version)
        with filelock.FileLock(folder / UPLOADER):
            write_whole(folder / UPLOAD, json.dumps(_read_state(folder, self.uri) | {"registered": version}).encode())
        return version

    def _log_model(self, run_id: str, model: nn.Module, example: Any, name: str) -> str:
        """By `Model.log`, which takes a run that has ended: `mlflow.pytorch.log_model` wants it to be RUNNING again,
        where a crash leaves it for ever."""
        import mlflow
        import mlflow.pytorch
        from mlflow.models import Model

        mlflow.set_tracking_uri(self.uri)
        run = self.client.get_run(run_id)
        made = self.client.create_logged_model(run.info.experiment_id, "model", run_id, params=run.data.params)
        silence = io.StringIO()  # MLflow prints links and congratulations, to both
        with redirect_stdout(silence), redirect_stderr(silence):
            info = Model.log(
                None,
                mlflow.pytorch,
                run_id=run_id,
                model_id=made.model_id,
                registered_model_name=name,
                pytorch_model=model,
                input_example=example,
                serialization_format="pt2",
                pip_requirements=[_pinned("torch"), _pinned("numpy")],
            )
        return str(info.registered_model_version)

    def _run_id(self, folder: Path) -> str:
        return str(_read_state(folder, self.uri)["run_id"])


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
            warn(f"{folder}: MLflow refuses this run ({_one_line(error)}); it stays in the journal")
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
        raise UsageError(f"run {run_id[:60]!r}: {_one_line(error)[:120]} in {hide_password(uri)}") from None
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


def preflight(uri: str) -> None:
    """Check, without importing MLflow, that there is a store behind `uri` that takes our runs, or that one can be made.

    Raises:
        UsageError: the URI is not one that MLflow tracks to, or has a password in its query part; the database is
            another program's; or MLflow's variables for TLS are wrong.
        ServiceUnreachable: the server does not answer within 5 seconds, or does not let us in.
        SweeperError: the experiment was deleted, or the folder of a sqlite file is missing or read-only.
    """
    scheme = uri.partition(":")[0]
    if SQLITE_URI.match(uri):
        _preflight_sqlite(uri)
    elif scheme in ("http", "https"):
        _preflight_http(uri)
    elif scheme in ("postgresql", "postgres") or scheme.startswith("postgresql+"):
        _preflight_postgresql(uri)
    else:
        raise UsageError(
            f"tracking URI {hide_password(uri)[:80]!r}: expected http://HOST:PORT, sqlite:///FILE, postgresql://…, "
            "offline or none"
        )


def _preflight_sqlite(uri: str) -> None:
    file = sqlite_file(uri)
    present = file.exists()
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK) or (present and not os.access(file, os.W_OK)):
        raise SweeperError(f"tracking database {file}: cannot be written; its folder must exist and be writable")
    if present and not _is_sqlite(file):
        raise SweeperError(f"tracking database {file}: not a database of sqlite; name another file with --tracking-uri")
    if present:  # rw: a transaction that a killed writer left half done is rolled back by the next one to read
        _preflight_database(uri, f"sqlite:///file:{quote(str(file.resolve()))}?mode=rw&uri=true", SweeperError)


def _is_sqlite(file: Path) -> bool:
    """Whether the file is a database of sqlite, or empty, which is to become one."""
    with file.open("rb") as stream:
        return stream.read(len(SQLITE)) in (SQLITE, b"")


def _preflight_http(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UsageError(f"tracking URI {hide_password(uri)[:80]!r}: expected http://HOST:PORT") from None
    if not HOST.fullmatch(host):
        raise UsageError(f"tracking URI {hide_password(uri)[:80]!r}: expected http://HOST:PORT")
    address = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    answer = _ask(uri, f"{parts.scheme}://{address}{parts.path.rstrip('/')}/health")
    if answer.status_code >= 500:  # else somebody is there
        raise _silent(uri, f"{answer.status_code} {answer.reason}")
    _preflight_experiment(uri)


def _preflight_experiment(uri: str) -> None:
    """Ask a server that is there for the experiment, as MLflow's client would."""
    if os.environ.get("MLFLOW_TRACKING_AUTH") or os.environ.get("MLFLOW_TRACKING_AWS_SIGV4"):
        return  # a plugin signs the requests, which only MLflow can load
    where = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name"
    answer = _ask(uri, where, params={"experiment_name": EXPERIMENT}, headers=_authorization())
    if answer.status_code in (401, 403):
        raise ServiceUnreachable(
            f"tracking server {hide_password(uri)} does not let us in ({answer.status_code}); user and password go "
            "into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if answer.status_code == 429 or answer.status_code >= 500:
        return  # it is busy: the uploader asks again
    try:
        content = answer.json()
        found = content.get("experiment") or {}
        stage = found.get("lifecycle_stage", "")
    except (ValueError, AttributeError):
        raise ServiceUnreachable(f"{hide_password(uri)} is no MLflow server ({answer.status_code})") from None
    _check_stage(uri, found.get("experiment_id"), stage)


def _ask(uri: str, where: str, **given: Any) -> requests.Response:
    """What the server of `uri` answers to a GET of `where`, over TLS as MLflow's client is told to."""
    import requests
    from urllib3.exceptions import InsecureRequestWarning

    tls = _tls(where.startswith("https"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)  # the user has asked for it
            return requests.get(where, timeout=PREFLIGHT_SECONDS, **tls, **given)
    except (OSError, ValueError) as error:  # all of requests' own, and what it lets through
        root = _root(error)
        reason = _one_line(root)[:120]
        if isinstance(root, ssl.SSLCertVerificationError):
            raise ServiceUnreachable(
                f"tracking server {hide_password(uri)}: its certificate is not trusted ({reason}); name the file of "
                "its CA in MLFLOW_TRACKING_SERVER_CERT_PATH"
            ) from None
        raise _silent(uri, reason) from None


def _tls(used: bool) -> dict[str, Any]:
    """How MLflow's client checks the server's certificate, and which one it shows: arguments of `requests.get`.

    Raises:
        UsageError: a variable has a wrong value, or two exclude each other; a file is missing, if TLS is `used`.
    """
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "false")
    files = {name: os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("SERVER_CERT_PATH", "CLIENT_CERT_PATH")}
    if insecure.lower() not in ("true", "false", "1", "0"):
        raise UsageError(f"MLFLOW_TRACKING_INSECURE_TLS={insecure[:40]!r}: expected true or false")
    checked, authority = insecure.lower() in ("false", "0"), files["SERVER_CERT_PATH"]
    if authority is not None and not checked:
        raise UsageError(
            "MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH: MLflow takes one of the two; unset one"
        )
    for name, path in files.items():
        if used and path and not os.path.exists(path):  # noqa: PTH110 - Path's raises for a name above 255 characters
            raise UsageError(f"MLFLOW_TRACKING_{name}={path[:80]!r}: no such file")
    return {"verify": checked if authority is None else authority, "cert": files["CLIENT_CERT_PATH"]}


def _root(error: BaseException) -> BaseException:
    """Where an error comes from that requests has wrapped several times."""
    while True:
        wrapped = next((e for e in error.args if isinstance(e, BaseException)), None)
        inner = error.__cause__ or error.__context__ or wrapped
        if inner is None:
            return error
        error = inner


def _authorization() -> dict[str, str]:
    """The header of MLflow's own client; what the URL or ~/.netrc says, requests adds itself."""
    file = configparser.ConfigParser(interpolation=None)
    file.read(os.path.expanduser("~/.mlflow/credentials"))  # noqa: PTH111 - Path's refuses a user without a home
    written = {name.upper(): value for name, value in file.items("mlflow")} if file.has_section("mlflow") else {}
    user, password = (
        os.environ.get(name) or written.get(name, "")
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    )
    if user and password:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _silent(uri: str, reason: str) -> ServiceUnreachable:
    return ServiceUnreachable(
        f"tracking server {hide_password(uri)} does not answer ({reason}); start it, or use --tracking-uri offline"
    )


def _preflight_postgresql(uri: str) -> None:
    refuse_query_password(uri)
    _preflight_database(uri, re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri), ServiceUnreachable)


def _preflight_database(uri: str, url: str, unusable: type[SweeperError]) -> None:
    """Look for the experiment in the database of `url`, which may be empty yet."""
    import sqlalchemy

    local = url.startswith("sqlite")
    options = {"timeout": PREFLIGHT_SECONDS} if local else {"connect_timeout": PREFLIGHT_SECONDS}
    named = sqlalchemy.text("SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = :name")
    try:
        engine = sqlalchemy.create_engine(url, connect_args=options, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()
            found = connection.execute(named, {"name": EXPERIMENT}).all() if "experiments" in tables else []
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        reason = hide_password(_one_line(getattr(error, "orig", None) or error)[:250])
        if "locked" in reason and local:
            return  # it is busy: the uploader asks again
        what = "cannot be read" if local else "does not answer"
        raise unusable(f"tracking database {hide_password(uri)} {what} ({reason})") from None
    if tables and "experiments" not in tables:
        raise UsageError(
            f"tracking database {hide_password(uri)}: another program's, with tables such as {tables[0]!r}; "
            "name another one with --tracking-uri"
        )
    for number, stage in found:
        _check_stage(uri, number, stage)


def _check_stage(uri: str, number: object, stage: str) -> None:
    """Refuse the experiment `number` if it was deleted.

    Raises:
        SweeperError: it was; the message says how to restore it.
    """
    if stage == "deleted":
        raise SweeperError(
            f"MLflow experiment {EXPERIMENT!r} was deleted; restore it with: "
            f"MLFLOW_TRACKING_URI={hide_password(uri)} mlflow experiments restore --experiment-id {number}"
        )


def store_uri(uri: str) -> str:
    """`uri` as MLflow knows it: `postgres://` is `postgresql://`.

    Raises:
        UsageError: it is that of a database, and has a password in its query part.
    """
    if uri.startswith("postgres"):
        refuse_query_password(uri)
    return re.sub(r"^postgres://", "postgresql://", uri)


def sqlite_file(uri: str) -> Path:
    """The file of a sqlite URI."""
    return Path(uri.removeprefix("sqlite:///"))


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


def hide_password(text: str) -> str:
    """`text` with the user and password of any URL in it left out."""
    return hide_query_password(re.sub(r"//([^/@\s:]*:\S*|[^/@\s]*)@", "//***@", text))


def _one_line(error: BaseException) -> str:
    return hide_password(one_line(error))


def _pinned(package: str) -> str:
    from importlib.metadata import version

    return f"{package}=={version(package)}"
