"""MLflow stores to test against: an empty database, and servers. A plugin of pytest."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from sqlalchemy.exc import SADeprecationWarning

START_SECONDS = 120  # for what takes ten, or less


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database that holds nothing, to be copied: making one takes seconds."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SADeprecationWarning)  # MLflow's own use of SQLAlchemy
        MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    return folder / "mlflow.db"


class MlflowServer:
    """`mlflow server` on a loopback port of its own, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and return when it listens."""
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(self._folder / "artifacts")),
        ]
        mine = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        mine |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process = subprocess.Popen(
            command, cwd=self._folder, env=mine, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        said: list[str] = []
        listens = threading.Event()
        threading.Thread(target=_listen, args=(self._process.stdout, said, listens), daemon=True).start()
        assert listens.wait(START_SECONDS), "mlflow server does not start"
        assert "Uvicorn running" in said[-1], "".join(said)

    def stop(self) -> None:
        """Kill it and every process it started."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _listen(stream: IO[str], said: list[str], listens: threading.Event) -> None:
    """Read all that a server says, so that it is never held up; tell when it listens, or has ended."""
    with stream:
        for line in stream:
            if not listens.is_set():
                said.append(line)
            if "Uvicorn running" in line:
                listens.set()
    said.append("")
    listens.set()


@pytest.fixture(scope="session")
def make_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Callable[[], MlflowServer]]:
    """Makes MLflow servers, each with a store of its own and not started yet; all are killed at the end."""
    made: list[MlflowServer] = []

    def make() -> MlflowServer:
        folder = tmp_path_factory.mktemp("server")
        shutil.copy(empty_store, folder)
        made.append(MlflowServer(folder))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture(scope="session")
def mlflow_server(make_server: Callable[[], MlflowServer]) -> MlflowServer:
    """An MLflow server that answers, shared by all tests: look only at runs of your own."""
    server = make_server()
    server.start()
    return server
