"""One driver a study, beside a sqlite file and in PostgreSQL."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sweeper.core.errors import ServiceUnreachable, StudyConflict
from sweeper.core.urls import database_url
from sweeper.study.lock import acquire, driver_of, is_driven

pytest_plugins = ["tests.support.postgres"]

HOLD = """
import sys
from sweeper.core.urls import database_url
from sweeper.study.lock import acquire
held = acquire(database_url(sys.argv[1]), "demo")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sweeper.db'}"
    new: Callable[[], str] = request.getfixturevalue("new_database")
    return new()


def test_the_second_is_told_who_holds_the_study_and_since_when(url: str):
    first = acquire(database_url(url), "demo")
    with pytest.raises(StudyConflict) as caught:
        acquire(database_url(url), "demo")
    assert re.fullmatch(
        rf"study 'demo' is in use by process {os.getpid()} on \S+ since 20\S+\. Wait for it, or stop it\.",
        str(caught.value),
    )
    assert is_driven(database_url(url), "demo")
    assert re.fullmatch(rf"process {os.getpid()} on \S+ since 20\S+", driver_of(database_url(url), "demo"))
    first.check()
    first.release()
    assert not is_driven(database_url(url), "demo")
    assert driver_of(database_url(url), "demo") == ""
    acquire(database_url(url), "demo").release()


def test_studies_are_locked_one_by_one(url: str):
    first, other = acquire(database_url(url), "demo"), acquire(database_url(url), "other")
    first.release()
    with pytest.raises(StudyConflict):
        acquire(database_url(url), "other")
    other.release()


def test_the_lock_of_a_process_that_was_killed_is_free(url: str, until: Callable[..., Any]):
    with subprocess.Popen([sys.executable, "-c", HOLD, url], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StudyConflict, match=f"process {process.pid} "):
            acquire(database_url(url), "demo")
        process.kill()
    until(lambda: not is_driven(database_url(url), "demo"), "that nobody drives it")

    def free() -> bool:
        try:
            acquire(database_url(url), "demo").release()
        except StudyConflict:
            return False
        return True

    until(free, "the lock to be free")


def test_a_released_lock_is_free_before_the_server_sees_the_end_of_its_connection(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
):
    url = database_url(new_database())
    open_still: list[psycopg.Connection[Any]] = []
    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "close", lambda connection: open_still.append(connection))
        acquire(url, "demo").release()
        acquire(url, "demo").release()
    for connection in open_still:
        connection.close()


def test_a_lock_that_was_lost_with_its_connection_is_noticed(new_database: Callable[[], str], postgres_server: Any):
    held = acquire(database_url(new_database()), "demo")
    held.check()
    postgres_server.psql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'sweeper%'"
    )
    with pytest.raises(ServiceUnreachable, match="lost the connection that locks study 'demo'"):
        held.check()


def test_a_password_is_in_no_message():
    url = database_url("postgres://somebody:canary@127.0.0.1:1/optuna")
    with pytest.raises(ServiceUnreachable) as caught:
        acquire(url, "demo")
    assert "canary" not in str(caught.value)
    assert "somebody:***@127.0.0.1" in str(caught.value)
