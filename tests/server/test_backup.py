"""`sweeper backup`, `restore` and the upgrade of a schema, on a server that runs."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.errors import SweeperError
from sweeper.server.backup import backup, restore
from sweeper.server.options import ServeOptions
from sweeper.server.postgres import MLFLOW, OPTUNA, Databases, Embedded, external
from sweeper.server.serve import bring_schemas_up, held, serve
from sweeper.server.supervisor import Group
from tests.support.postgres import postgres
from tests.support.served import Served, free_port

pytest_plugins = ["tests.support.postgres", "tests.support.served"]

TABLES = {
    MLFLOW: ("experiments", "runs", "metrics", "params", "tags", "registered_model_aliases", "alembic_version"),
    OPTUNA: ("studies", "trials", "trial_values", "trial_params", "trial_intermediate_values", "alembic_version"),
}


def contents(databases: Databases) -> dict[str, list[Any]]:
    """Every row of the tables that a person would miss."""
    rows = {}
    for name, tables in TABLES.items():
        with databases.connected(name) as connection:
            for table in tables:
                rows[f"{name}.{table}"] = sorted(connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr)
    return rows


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def backed_up(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of `served`, made while it runs."""
    file = tmp_path_factory.mktemp("backup") / "all.tar"
    weights = next((served.home / "artifacts").rglob("*.safetensors"))
    os.link(weights, weights.with_name("linked"))  # as a tool that saves space does
    backup(served.home, file)
    return file


@pytest.fixture(scope="module")
def restored(backed_up: Path, tmp_path_factory: pytest.TempPathFactory, alone: dict[str, str]) -> Path:
    """A home that was made of the backup, by a command that made its folder too."""
    parent = tmp_path_factory.mktemp("restored")
    command = [sys.executable, "-m", "sweeper", "restore", os.path.relpath(backed_up, parent), "--json"]
    done = subprocess.run([*command, "--home", "new"], cwd=parent, env=alone, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["home"]) == (0, str(parent / "new")), done.stderr
    return parent / "new"


def test_a_backup_is_restored_whole(served: Served, backed_up: Path, restored: Path):
    assert stat.S_IMODE(backed_up.stat().st_mode) == 0o600
    assert [path.name for path in backed_up.parent.iterdir()] == ["all.tar"]
    with Group(restored / "log") as group:
        after = contents(Embedded(restored / "postgres").start(group))
    before = contents(Embedded(served.home / "postgres").databases)
    assert after == before
    assert {name: len(rows) > 0 for name, rows in after.items()} == dict.fromkeys(after, True)
    assert files(restored / "artifacts") == files(served.home / "artifacts")
    assert files(restored / "secrets") == {}


@pytest.mark.parametrize("version", [16, 18])
def test_a_backup_is_restored_to_the_server_of_a_url_and_made_from_there(
    served: Served, backed_up: Path, tmp_path: Path, version: int
):
    again = tmp_path / "again.tar"
    with postgres(tmp_path, version) as server:
        url = server.get_uri("postgres")
        for home, file in ((tmp_path / "one", backed_up), (tmp_path / "two", again)):
            home.mkdir()
            restore(home, file, url)
            assert contents(external(url)) == contents(Embedded(served.home / "postgres").databases)
            assert files(home / "artifacts") == files(served.home / "artifacts")
            assert not (home / "postgres").exists()
            if not again.exists():
                backup(home, again, url)
                for name in (MLFLOW, OPTUNA):
                    server.psql(f"DROP DATABASE {name}")


def test_a_second_backup_leaves_the_postgresql_of_the_first_alone(tmp_path: Path):
    with held(tmp_path, "backup"), Group(tmp_path / "log") as group:
        databases = Embedded(tmp_path / "postgres").start(group)
        with pytest.raises(SweeperError, match=f"in use by process {os.getpid()} since .* runs sweeper backup"):
            backup(tmp_path, tmp_path / "all.tar")
        assert databases.answer()
    assert not (tmp_path / "all.tar").exists()


def test_a_backup_is_not_written_over(backed_up: Path, served: Served):
    with pytest.raises(SweeperError, match=r"all[.]tar exists[.] Name another file"):
        backup(served.home, backed_up)


def test_a_home_in_use_is_not_restored_into(backed_up: Path, restored: Path):
    with pytest.raises(SweeperError, match=r"already has postgres, artifacts, .*Restore into a new home"):
        restore(restored, backed_up)


@pytest.mark.parametrize("damage", ["truncated", "changed", "another tar", "one file more"])
def test_a_damaged_backup_leaves_nothing_behind(backed_up: Path, tmp_path: Path, damage: str):
    file, home = tmp_path / "damaged.tar", tmp_path / "home"
    home.mkdir()
    content = backed_up.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        middle = content.index(b"PGDMP") + 5000
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        file.write_bytes(content)
        with tarfile.open(file, "a" if damage == "one file more" else "w") as tar:
            tar.add(__file__, "artifacts/more.py")
    with pytest.raises(SweeperError, match="is not a complete sweeper backup"):
        restore(home, file)
    assert [path.name for path in home.iterdir()] == ["serve.lock"]


def test_an_old_schema_is_refused_until_it_is_upgraded(restored: Path, tmp_path: Path):
    home = tmp_path / "home"
    shutil.copytree(restored / "postgres", home / "postgres")
    if os.geteuid() == 0:
        owner = (restored / "postgres").stat().st_uid
        for path in (home / "postgres", *(home / "postgres").rglob("*")):
            os.chown(path, owner, owner)
    with Group(home / "log") as group:
        databases = Embedded(home / "postgres").start(group)
        with databases.connected(OPTUNA) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
        with databases.connected(MLFLOW) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'of-the-future'")
        assert databases.outdated(OPTUNA)
        with pytest.raises(SweeperError, match="'mlflow' has the schema of-the-future, which the installed mlflow"):
            databases.outdated(MLFLOW)
        with databases.connected(MLFLOW) as connection:
            connection.execute("DELETE FROM alembic_version")
    options = ServeOptions(port=free_port(), dashboard_port=None)
    with pytest.raises(
        SweeperError, match=r"database 'optuna' has the schema of an older release.*sweeper serve --upgrade"
    ):
        serve(home, options, print)
    assert not (home / "postgres" / "postmaster.pid").exists()  # it was stopped
    with Group(home / "log") as group:
        databases = Embedded(home / "postgres").start(group)
        bring_schemas_up(databases, upgrade=True)
        assert not databases.outdated(OPTUNA)
        assert databases.revision(OPTUNA) != "v3.0.0.d"
