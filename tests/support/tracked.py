"""A journal and an MLflow store to upload it to, and servers on loopback that answer as they are told. A plugin."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.environment import EXPERIMENT
from sweeper.sweep.tracker import FIGURES
from sweeper.tracking.base import FINISHED, RunInfo, RunLog
from sweeper.tracking.connection import Connection
from sweeper.tracking.fetching import KEY_TAG
from sweeper.tracking.mlflow import MlflowTracker, sync

LONG = 120.0  # seconds, for what takes a few
EPOCHS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Home:
    """A folder with a journal and, unless `uri` names another, an MLflow store."""

    folder: Path
    uri: str
    warned: list[str]

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def connection(self) -> Connection:
        return Connection(self.uri, self.folder, self.warned.append)

    def sync(self, *, again: bool = False) -> int:
        return sync(self.journal, self.uri, self.folder, FIGURES, self.warned.append, again=again)

    @contextlib.contextmanager
    def tracker(self, warn: Callable[[str], None] | None = None) -> Iterator[MlflowTracker]:
        tracker = MlflowTracker(self.journal, self.uri, FIGURES, warn or self.warned.append)
        try:
            yield tracker
        finally:
            tracker.close(LONG)

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def steps(self) -> dict[str, list[int]]:
        """The steps of `val/loss` of each run that MLflow has, by the run's key."""
        client = self.client()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        runs = client.search_runs([experiment.experiment_id], run_view_type=3)
        assert len({run.data.tags[KEY_TAG] for run in runs}) == len(runs), "a run is there twice"
        return {
            run.data.tags[KEY_TAG]: [m.step for m in client.get_metric_history(run.info.run_id, "val/loss")]
            for run in runs
        }


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> Home:
    """A store that holds nothing yet."""
    return Home(tmp_path, f"sqlite:///{shutil.copy(empty_store, tmp_path)}", [])


def info(key: str = "k", run_id: str | None = None) -> RunInfo:
    dataset = {"name": "sample", "sha256": "0" * 64, "source": "/data", "profile": {}}
    return RunInfo(key, f"run {key}", {"lr": "0.001"}, {"a": "b"}, "A run.", f"demo/{key}", dataset, run_id)


def write(log: RunLog, steps: tuple[int, ...] = EPOCHS, *, end: bool = True) -> None:
    log.artifact("config.json", b"{}")
    for step in steps:
        log.epoch(step, {"train/loss": 1.0, "train/accuracy": 0.5, "val/loss": 1 / step, "val/accuracy": 0.5})
    if end:
        log.end(FINISHED, {"final/val_loss": 1 / len(steps)}, {"sweeper.state": "complete"})


class Quiet(http.server.BaseHTTPRequestHandler):
    """Answers requests as a subclass says, and logs nothing."""

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.reply(200, b"{}")

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def answering(status: int, body: bytes = b"{}") -> type[Quiet]:
    class Handler(Quiet):
        def answer(self) -> None:
            self.reply(status, body)

    return Handler


@contextlib.contextmanager
def listening(handler: Any, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server on loopback that answers one request after the other with `handler`."""
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
