"""`sweeper ui`: both pages of a finished sweep, on loopback, until one Ctrl-C."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

from sweeper.core.errors import SweeperError
from sweeper.server.ui import UiOptions, ui
from tests.support.served import free_port


@pytest.fixture(scope="module")
def shown(finished_sweep: Any, alone: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The process and its links."""
    ports = ("--port", str(free_port()), "--dashboard-port", str(free_port()))
    command = [sys.executable, "-m", "sweeper", "ui", "--no-browser", "--json", *ports]
    process = subprocess.Popen(command, cwd=finished_sweep.home, env=alone, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def query(link: str) -> dict[str, str]:
    """The query of a page of MLflow's, which stands after the #."""
    return {name: value for name, (value,) in parse_qs(urlsplit(urlsplit(link).fragment).query).items()}


def ask(link: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What the server of a link answers."""
    base = "{0.scheme}://{0.netloc}".format(urlsplit(link))
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_the_links_open_the_sweep_on_its_trials_best_first_and_on_their_curves(shown: Any):
    _, links = shown
    assert list(links) == ["trials", "curves", "studies"]
    asked = query(links["trials"])
    assert asked["workflowType"] == "machine_learning"
    assert query(links["curves"]) == asked | {"compareRunsMode": "CHART"}
    experiment = links["trials"].partition("/experiments/")[2].partition("/")[0]
    found = ask(
        links["trials"],
        "/api/2.0/mlflow/runs/search",
        {
            "experiment_ids": [experiment],
            "filter": asked["searchFilter"],
            "order_by": [f"{asked['orderByKey']} {'ASC' if asked['orderByAsc'] == 'true' else 'DESC'}"],
        },
    )
    values = [
        next(metric["value"] for metric in run["data"]["metrics"] if metric["key"] == "final/val_accuracy")
        for run in found["runs"]
    ]
    assert len(values) == 6
    assert values == sorted(values, reverse=True)


def test_the_dashboard_shows_the_study_and_changes_nothing(shown: Any):
    _, links = shown
    (study,) = ask(links["studies"], "/api/studies")["study_summaries"]
    assert study["study_name"] == "sweep"
    connection = http.client.HTTPConnection(urlsplit(links["studies"]).netloc, timeout=60)
    connection.request("DELETE", f"/api/studies/{study['study_id']}")
    assert connection.getresponse().status == http.client.METHOD_NOT_ALLOWED
    connection.close()


def test_both_listen_on_loopback_alone_and_one_ctrl_c_ends_them(shown: Any):
    process, links = shown
    parts = psutil.Process(process.pid).children(recursive=True)
    listening = {c.laddr for part in parts for c in part.net_connections() if c.status == psutil.CONN_LISTEN}
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {urlsplit(link).port for link in links.values()} <= {address.port for address in listening}
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert psutil.wait_procs(parts, timeout=60)[1] == []


def test_a_port_that_was_asked_for_and_is_in_use_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SweeperError, match=rf"^127.0.0.1:{port}: .* Choose another --port"):
            ui(UiOptions("sqlite:///x", None, port), lambda _: {}, print, print)


def test_a_server_elsewhere_is_only_linked(tmp_path: Path):
    said: list[str] = []
    ui(UiOptions("http://h:5000", None, browser=False), lambda base: {"runs": f"{base}/#/"}, said.append, print)
    assert said[0] == "runs:     http://h:5000/#/"
