"""Tracking stores in files, before anything is created, and URIs."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.core.environment import tracking_url
from sweeper.core.errors import SweeperError, UsageError
from sweeper.tracking.store import hide_password, preflight, sqlite_file, store_uri
from tests.support.refusals import refusal

# MLflow's own use of SQLAlchemy 2.1
pytest_plugins = ["tests.support.mlflow_store"]

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


# --- files ---------------------------------------------------------------------------------------


def test_a_sqlite_file_may_be_there_or_its_folder(tmp_path: Path) -> None:
    message = refusal(lambda: preflight(f"sqlite:///{tmp_path}/no/mlflow.db"), SweeperError)
    assert f"{tmp_path}/no/mlflow.db cannot be written" in message
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    preflight(uri)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").touch()
    preflight(uri)


@pytest.mark.parametrize("name", ["a%20b", "a?b"])
def test_a_path_that_mlflow_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    message = refusal(lambda: preflight(tracking_url(tmp_path / name)), UsageError)
    assert f"{tmp_path}/{name}/mlflow.db: MLflow cannot use a path with" in message
    assert [path.name for path in tmp_path.rglob("*")] == [name]


KILLED_WHILE_WRITING = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 1")  # pages reach the file before the end of the transaction
connection.execute("PRAGMA journal_mode = {mode}")
connection.execute("CREATE TABLE experiments (experiment_id, lifecycle_stage, name)")
connection.execute("CREATE TABLE large (text)")
connection.commit()
connection.executemany("INSERT INTO large VALUES (?)", [("x" * 4000,)] * 100)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("mode", "left"), [("delete", "-journal"), ("wal", "-wal")])
def test_a_sqlite_file_whose_writer_was_killed_in_a_transaction_is_used_again(
    tmp_path: Path, mode: str, left: str
) -> None:
    file = tmp_path / "mlflow.db"
    subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING.format(mode=mode), file], timeout=60)
    assert (tmp_path / f"mlflow.db{left}").stat().st_size > 0  # what the next reader rolls back, or leaves out
    preflight(f"sqlite:///{file}")
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM large").fetchone() == (0,)


def change(file: Path, *statements: str) -> str:
    """Change an MLflow database, and return its URI."""
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return f"sqlite:///{file}"


@pytest.mark.parametrize(
    ("schema", "says"), [("0a8213491aaa", "mlflow db upgrade sqlite:///"), ("of the future", "does not support")]
)
def test_a_schema_that_mlflow_would_refuse_is_said_at_once(
    tmp_path: Path, empty_store: Path, schema: str, says: str
) -> None:
    uri = change(Path(shutil.copy(empty_store, tmp_path)), f"UPDATE alembic_version SET version_num = '{schema}'")
    assert says in refusal(lambda: preflight(uri), SweeperError)


def test_the_workspace_that_mlflow_would_use_is_checked(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = change(
        Path(shutil.copy(empty_store, tmp_path)),
        "INSERT INTO workspaces (name) VALUES ('team-a'), ('team-b')",
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage, workspace) "
        "VALUES (7, 'bn-dropout', 'deleted', 'team-b')",
    )
    assert "Set MLFLOW_ENABLE_WORKSPACES=true" in refusal(lambda: preflight(uri), UsageError)
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    assert "Set MLFLOW_WORKSPACE" in refusal(lambda: preflight(uri), UsageError)
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team-c")
    assert "has no workspace 'team-c'" in refusal(lambda: preflight(uri), UsageError)
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team-b")
    assert "restore --experiment-id 7" in refusal(lambda: preflight(uri), SweeperError)
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team-a")
    preflight(uri)


# --- URIs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:canary@h:1/x", "http://***@h:1/x"),
        ("postgresql+psycopg://u:canary@h/db", "postgresql+psycopg://***@h/db"),
        ("http://token@h", "http://***@h"),
        ("postgresql://u:can/ary@h/db", "postgresql://***@h/db"),
        ("postgresql://u:can@ary@h/db", "postgresql://***@h/db"),
        ("from http://u:canary@a to http://u:canary@b", "from http://***@a to http://***@b"),
        ("http://h:1/x", "http://h:1/x"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://h/x@y", "http://h/x@y"),
        ("postgresql://h/db?user=u&password=can@ary&host=/x", "postgresql://h/db?user=u&password=***&host=/x"),
        ("postgresql://h/db?sslpassword=canary", "postgresql://h/db?sslpassword=***"),
        ("postgresql://h/db?passfile=/x", "postgresql://h/db?passfile=/x"),
    ],
)
def test_user_and_password_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert hide_password(text) == shown


@pytest.mark.parametrize("use", [preflight, store_uri])
def test_a_password_in_the_query_of_a_uri_is_refused_and_not_shown(use: Callable[[str], object]) -> None:
    message = refusal(lambda: use("postgres://127.0.0.1:1/db?user=u&password=canary"), UsageError)
    assert "Put the password into ~/.pgpass" in message
    assert "canary" not in message


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////srv/mlflow.db", "/srv/mlflow.db"),
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:///folder/x.db", "folder/x.db"),
        ("sqlite:///my%20folder/my x.db", "my folder/my x.db"),
        (tracking_url(Path("/a%20b?c d")), "/a%20b?c d/mlflow.db"),
    ],
)
def test_the_file_of_a_sqlite_uri(uri: str, file: str) -> None:
    assert sqlite_file(uri) == Path(file)
