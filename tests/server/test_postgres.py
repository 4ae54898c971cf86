"""The embedded PostgreSQL: it is started again whatever ended it, on its own data alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sweeper.core.errors import SweeperError
from sweeper.server.postgres import MLFLOW, OPTUNA, Embedded
from sweeper.server.supervisor import Group


def test_a_database_that_died_is_started_again(tmp_path: Path):
    database = Embedded(tmp_path / "postgres")
    with Group(tmp_path / "log") as group:
        database.start(group).create()
        os.kill(int((tmp_path / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        with pytest.raises(SweeperError, match=r"postgresql stopped \(killed by SIGKILL\)"):
            group.watch()
    assert (tmp_path / "postgres" / "postmaster.pid").exists()
    with Group(tmp_path / "log") as group:
        assert {MLFLOW, OPTUNA} < database.start(group).present()
        with Group(tmp_path / "log") as other:  # a server that nobody watches any more is stopped first
            assert {MLFLOW, OPTUNA} < database.start(other).present()


def test_a_note_of_a_process_that_is_another_by_now_is_dropped(tmp_path: Path):
    database = Embedded(tmp_path / "postgres")
    with Group(tmp_path / "log") as group:
        database.start(group)
    (tmp_path / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path / 'postgres'}\n")
    with Group(tmp_path / "log") as group:
        assert database.start(group).answer()


def test_data_of_another_version_is_refused(tmp_path: Path):
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("9\n")
    with (
        pytest.raises(SweeperError, match="the data was created by PostgreSQL 9, but"),
        Group(tmp_path / "log") as group,
    ):
        Embedded(tmp_path / "postgres").start(group)
