from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import filelock
import pytest

from sweeper.core.environment import EXPERIMENT, mlflow_command, tracking_url
from sweeper.core.errors import SweeperError
from sweeper.tracking.fetching import ui_link
from sweeper.tracking.store import preflight, sqlite_file
from tests.support.refusals import refusal
from tests.support.tracked import LONG, Home, answering, info, listening, write

pytest_plugins = ["tests.support.mlflow_store", "tests.support.tracked"]

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


CONNECTS = """
import sys
from pathlib import Path
from sweeper.tracking.connection import Connection
Connection(sys.argv[1], Path(sys.argv[2]), print).connect()
"""


def test_a_store_whose_creation_was_killed_is_created_again(tmp_path: Path, until: Callable[..., Any]) -> None:
    file, stale = tmp_path / "mlflow.db", tmp_path / "mlflow.db-journal"
    connect = [sys.executable, "-c", CONNECTS, f"sqlite:///{file}", str(tmp_path)]
    with subprocess.Popen(connect) as creating:
        until(lambda: list(tmp_path.glob(".mlflow.db.creating-*")), "a part of the store")
        creating.kill()
    assert not file.exists()
    preflight(f"sqlite:///{file}")
    stale.write_bytes(b"of a database that was removed")
    assert subprocess.run(connect, check=True, timeout=300, capture_output=True).stderr == b""
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT name FROM experiments").fetchall() == [("Default",), (EXPERIMENT,)]


def test_a_new_store_is_made_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    home = Home(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", [])
    real, together = mlflow.MlflowClient, threading.Barrier(3)

    def make(**where: str) -> mlflow.MlflowClient:
        with pytest.raises(filelock.Timeout):  # whoever makes it keeps the others out
            filelock.FileLock(tmp_path / "mlflow.db.lock").acquire(timeout=0)
        return real(**where)

    def connect(_: int) -> list[str]:
        connection = home.connection()
        together.wait()
        connection.connect()
        return sorted(e.name for e in connection.client.search_experiments())

    monkeypatch.setattr(mlflow, "MlflowClient", make)
    with ThreadPoolExecutor(together.parties) as pool:
        seen = list(pool.map(connect, range(together.parties)))
    assert seen == [["Default", EXPERIMENT]] * together.parties
    assert home.warned == []


def test_a_deleted_experiment_is_an_error_that_says_how_to_restore_it(home: Home) -> None:
    connection = home.connection()
    connection.connect()
    experiment = connection.client.get_experiment_by_name(EXPERIMENT).experiment_id
    connection.client.delete_experiment(experiment)
    with home.tracker() as tracker:
        write(tracker.start(info()))
        assert not tracker.flush(LONG)
        message = refusal(tracker.check, SweeperError)
        assert (
            f"MLFLOW_TRACKING_URI={home.uri} {mlflow_command()} experiments restore --experiment-id {experiment}"
            in message
        )
        assert tracker.close(LONG) == 1
    assert refusal(home.sync, SweeperError) == message

    connection.client.restore_experiment(experiment)
    assert home.sync() == 1
    assert home.steps() == {"k": [1, 2, 3, 4]}


def test_a_file_that_is_no_database_is_an_error_in_one_line(home: Home) -> None:
    sqlite_file(home.uri).write_bytes(b"not a database" * 100)
    assert "mlflow.db" in refusal(home.connection().connect, SweeperError)


class AskedAgain(BaseException):
    """The uploader waits before it asks again."""


@pytest.mark.parametrize(
    ("status", "body", "passes"),
    [
        (200, "<p>Please log in</p>", False),
        (413, "<p>Too large</p>", False),
        (403, '{"message": "your request was blocked"}', False),
        (408, "", True),
        (429, "", True),
        (503, "", True),
        (599, "<p>as error code 413 is not</p>", True),
    ],
)
def test_a_server_is_asked_again_only_where_that_may_help(tmp_path: Path, status: int, body: str, passes: bool) -> None:
    def wait(_: float) -> None:
        raise AskedAgain

    with listening(answering(status, body.encode())) as uri, pytest.raises(AskedAgain if passes else SweeperError):
        Home(tmp_path, uri, []).connection().connect(wait)


def test_files_go_beside_the_store_and_a_link_leads_to_the_run_or_to_the_table_of_runs(home: Home) -> None:
    connection = home.connection()
    connection.connect()
    experiment = connection.client.get_experiment_by_name(EXPERIMENT)
    assert experiment.artifact_location == (home.folder / "mlartifacts").as_uri()
    with_id = ui_link("http://h:5000/", home.uri, "abc")
    assert with_id == "http://h:5000/#/experiments/1/runs/abc?workflowType=machine_learning"
    assert ui_link("http://h:5000", home.uri, None) == (
        "http://h:5000/#/experiments/1/runs?workflowType=machine_learning"
    )


def test_a_link_to_a_server_that_is_away_leads_to_its_front_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert ui_link("http://127.0.0.1:1", "http://127.0.0.1:1", "abc") == "http://127.0.0.1:1"


@pytest.mark.parametrize("encode", [tracking_url, lambda folder: f"sqlite:///{quote(str(folder))}/mlflow.db"])
def test_a_folder_with_spaces_and_a_percent_holds_the_store_and_nothing_else(
    tmp_path: Path, encode: Callable[[Path], str]
) -> None:
    folder = tmp_path / "my data" / "100 % of it"
    folder.mkdir(parents=True)
    home = Home(folder, encode(folder), [])
    preflight(home.uri)
    with home.tracker() as tracker:
        log = tracker.start(info())
        log.artifact("a.txt", b"a")
        write(log)
    preflight(home.uri)
    assert {path.name for path in folder.iterdir()} == {"journal", "mlartifacts", "mlflow.db", "mlflow.db.lock"}
    assert sorted(p.relative_to(folder).parts[0] for p in folder.rglob("a.txt")) == ["journal", "mlartifacts"]
    assert list(tmp_path.iterdir()) == [tmp_path / "my data"]  # not "my%20data"
    assert home.steps() == {"k": [1, 2, 3, 4]}
    assert home.warned == []


def test_a_home_that_was_moved_keeps_its_files_together(home: Home, tmp_path_factory: pytest.TempPathFactory):
    with home.tracker() as tracker:
        write(tracker.start(info("before")))
    moved = tmp_path_factory.mktemp("elsewhere") / "it's 100 % moved"
    home.folder.rename(moved)
    here = Home(moved, f"sqlite:///{moved / 'mlflow.db'}", [])
    with here.tracker() as tracker:
        write(tracker.start(info("after")))
        assert tracker.flush(LONG)
    assert not home.folder.exists()
    assert [f"this home was moved from {home.folder}." in warning for warning in here.warned] == [True]
    client = here.client()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment.artifact_location == (moved / "mlartifacts").as_uri()
    for run in client.search_runs([experiment.experiment_id]):
        assert run.info.artifact_uri.startswith(moved.as_uri())
        assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"config.json", "curves"}
