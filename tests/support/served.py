"""`sweeper serve` as a process: one open on loopback, one behind passwords. A plugin of pytest."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

CANARY = "canary-of-the-database"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Served:
    """A `sweeper serve` that is ready: its process, what it printed, and the processes it started."""

    def __init__(self, home: Path, env: dict[str, str], *argv: str) -> None:
        self.home, self.env, self.port, self.dashboard_port = home, env, free_port(), free_port()
        self._errors = home.with_suffix(".err")
        ports = ("--port", str(self.port), "--dashboard-port", str(self.dashboard_port))
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sweeper", "serve", "--home", str(home), *ports, *argv],
                env=env, cwd=home, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        self.said = ""
        last = "# runs:" if "--no-dashboard" in argv else "# trials:"
        while last not in self.said:
            line = self.process.stdout.readline()
            assert line, self.errors
            self.said += line
        self.parts = psutil.Process(self.process.pid).children(recursive=True)

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def mlflow(self) -> list[psutil.Process]:
        """The processes of MLflow."""
        return [p for p in self.parts if "mlflow" in " ".join(p.cmdline())]

    def request(
        self,
        path: str,
        *,
        method: str = "GET",
        host: str = "localhost",
        user: str = "",
        port: int = 0,
        body: Any = None,
        origin: str = "",
    ) -> tuple[int, bytes]:
        """Status and body of one request; `user` is NAME:PASSWORD."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=60)
        headers = {"Host": host, "Content-Type": "application/json"}
        headers |= {"Origin": origin} if origin else {}
        headers |= {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
        connection.request(method, path, headers=headers, body=None if body is None else json.dumps(body))
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content

    def runs(self) -> list[dict[str, Any]]:
        """All runs of MLflow."""
        experiments = json.loads(self.request("/api/2.0/mlflow/experiments/search?max_results=100")[1])["experiments"]
        ids = [e["experiment_id"] for e in experiments]
        found = self.request("/api/2.0/mlflow/runs/search", method="POST", body={"experiment_ids": ids})[1]
        runs: list[dict[str, Any]] = json.loads(found)["runs"]
        return runs

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, alone: dict[str, str]) -> Iterator[Served]:
    """A server with a PostgreSQL of its own, and a finished sweep of three trials."""
    server = Served(tmp_path_factory.mktemp("served"), alone)
    try:
        work = tmp_path_factory.mktemp("work")
        sweep = "-m sweeper optimize --trials 3 --exp 1 --dataset sample --epochs 1 --json"
        done = subprocess.run(
            ["sh", "-c", f"{server.said}\n'{sys.executable}' {sweep}"],
            env=alone,
            cwd=work,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["complete"] == 3
        assert list(work.glob("*.db")) == []  # everything went to the server
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, alone: dict[str, str], postgres_server: Any) -> Iterator[Served]:
    """A server for other machines, with passwords, on a PostgreSQL that a URL names."""
    url = postgres_server.get_uri("postgres").replace("postgres:@", f"postgres:{CANARY}@")
    argv = ("--auth", "--host", "0.0.0.0", "--allowed-hosts", "box.example", "--no-dashboard")
    server = Served(tmp_path_factory.mktemp("guarded"), alone | {"SWEEPER_DATABASE_URL": url}, *argv)
    yield server
    server.stop()
