"""docker/stack.py, with a program in place of the compose command that keeps a database and volumes as files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

STACK = Path(__file__).resolve().parents[2] / "docker" / "stack.py"
COMPOSE = """
import os, pathlib, subprocess, sys
words, home = sys.argv[1:], pathlib.Path(os.environ["STANDIN"])
(home / "called").open("a").write(" ".join(words).replace(chr(10), " ") + chr(10))
script, data = words[-1], home / "data"
if os.environ.get("BREAKS", "nothing") in script:
    sys.exit("broken on purpose")
elif "pg_dump" in script:
    database = script.split("-d ")[1].split()[0]
    sys.stdout.write("PGDMP" + (data / database).read_text())
elif "pg_restore" in script:
    (data / script.split("-d ")[1].split()[0]).write_text(sys.stdin.read().removeprefix("PGDMP"))
elif "pg_tables" in script:
    print(int((data / script.split("-d ")[1].split()[0]).exists()))
elif "pg_stat_activity" in script:
    print(os.environ.get("DRIVERS", "0"))
elif "tar" in script:
    folder = data / (words[words.index("sh") + 1] + "-volume")
    folder.mkdir(exist_ok=True)
    sys.exit(subprocess.run(["sh", "-c", script], cwd=folder).returncode)
"""


class Standin:
    """An installation: secrets, a database of each name, and the volumes of two services."""

    def __init__(self, home: Path) -> None:
        self.home, self.data, self.secrets = home, home / "data", home / "secrets"
        self.data.mkdir(parents=True)
        (home / "compose.py").write_text(COMPOSE)

    def fill(self, text: str) -> None:
        self.secrets.mkdir(exist_ok=True)
        for name in ("admin-password", "ray-token"):
            (self.secrets / name).write_text(f"{name} of {self.home.name}")
        for database in ("optuna", "mlflow"):
            (self.data / database).write_text(f"{database} {text}")
        for service in ("driver", "mlflow"):
            folder = self.data / f"{service}-volume"
            folder.mkdir(exist_ok=True)
            (folder / "file").write_text(f"{service} {text}")

    def run(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        compose = f"{sys.executable} {self.home / 'compose.py'}"
        env = os.environ | {
            "SWEEPER_COMPOSE": compose, "STANDIN": str(self.home), "SWEEPER_SECRETS": str(self.secrets)
        }  # fmt: skip
        return subprocess.run([STACK, *words], env=env | variables, capture_output=True, text=True, check=False)

    def state(self) -> dict[str, str]:
        found = [*self.data.rglob("*"), *self.secrets.glob("*")]
        return {str(path.relative_to(self.home)): path.read_text() for path in found if path.is_file()}

    def called(self) -> list[str]:
        return (self.home / "called").read_text().splitlines()


@pytest.fixture
def there(tmp_path: Path) -> Standin:
    found = Standin(tmp_path / "there")
    found.fill("first")
    return found


def backups(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_restored_installation_is_the_one_that_was_backed_up(there: Standin, tmp_path: Path) -> None:
    before = there.state()
    assert there.run("backup", str(tmp_path / "kept")).returncode == 0
    (made,) = backups(tmp_path / "kept")
    assert sorted(path.name for path in made.iterdir()) == [
        "SHA256SUMS", "artifacts.tar", "driver.tar", "mlflow.dump", "optuna.dump", "secrets.tar",
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()} == {0o600}
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    order = [next(word for word in ("optuna", "driver -c", "mlflow -c", "mlflow") if word in line)
             for line in there.called()]  # fmt: skip
    assert order == ["optuna", "driver -c", "mlflow", "mlflow -c"]
    new = Standin(tmp_path / "new")
    done = new.run("restore", str(made))
    assert done.returncode == 0, done.stderr
    assert new.state() == before
    assert stat.S_IMODE(new.secrets.stat().st_mode) == 0o700


def test_the_oldest_backups_are_deleted_and_nothing_else(there: Standin, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for name in ("sweeper-20200101T000000Z", "sweeper-20210101T000000Z", "sweeper-mine", "sweeper-20200102T000000Z"):
        (kept / name).mkdir(parents=True)
        (kept / name / "SHA256SUMS").touch()
    (kept / "sweeper-20200102T000000Z" / "SHA256SUMS").unlink()  # nothing that we wrote
    done = there.run("backup", str(kept), "--keep", "2")
    assert done.returncode == 0, done.stderr
    left = [path.name for path in backups(kept)]
    assert left[:2] == ["sweeper-20200102T000000Z", "sweeper-20210101T000000Z"]
    assert left[-1] == "sweeper-mine"
    assert len(left) == 4


@pytest.mark.parametrize("breaks", ["pg_dump", "tar -cf", "-d mlflow"])
def test_a_backup_that_fails_leaves_nothing_and_deletes_nothing(there: Standin, tmp_path: Path, breaks: str) -> None:
    assert there.run("backup", str(tmp_path / "kept"), "--keep", "1").returncode == 0
    before = backups(tmp_path / "kept")
    done = there.run("backup", str(tmp_path / "kept"), "--keep", "1", BREAKS=breaks)
    assert done.returncode == 1
    assert "broken on purpose" in done.stderr
    assert backups(tmp_path / "kept") == before


@pytest.mark.parametrize("file", ["optuna.dump", "artifacts.tar", "SHA256SUMS"])
def test_a_damaged_backup_is_refused_before_anything_starts(there: Standin, tmp_path: Path, file: str) -> None:
    there.run("backup", str(tmp_path / "kept"))
    (made,) = backups(tmp_path / "kept")
    (made / file).unlink()
    new = Standin(tmp_path / "new")
    done = new.run("restore", str(made))
    assert done.returncode == 1
    assert file in done.stderr
    assert not (new.home / "called").exists()
    assert not new.secrets.exists()


def test_a_restore_overwrites_neither_secrets_nor_trials(there: Standin, tmp_path: Path) -> None:
    there.run("backup", str(tmp_path / "kept"))
    (made,) = backups(tmp_path / "kept")
    other = Standin(tmp_path / "other")
    other.fill("other")
    before = other.state()
    assert "holds other secrets" in other.run("restore", str(made)).stderr
    assert "is not empty" in there.run("restore", str(made)).stderr
    assert other.state() == before


def test_an_upgrade_begins_with_a_backup(there: Standin, tmp_path: Path) -> None:
    done = there.run("upgrade", str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    assert len(backups(tmp_path / "kept")) == 1
    stop = next(number for number, line in enumerate(there.called()) if "stop mlflow" in line)
    ran = [line.split()[-1] for line in there.called() if "upgrade-" in line]
    assert ran == ["upgrade-mlflow", "upgrade-optuna"]
    assert not [line for line in there.called()[:stop] if "upgrade-" in line]


@pytest.mark.parametrize(("variables", "said"), [({"DRIVERS": "1"}, "a sweep is running"), ({"BREAKS": "pg_dump"}, "")])
def test_an_upgrade_ends_before_the_schemas(
    there: Standin, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    done = there.run("upgrade", str(tmp_path / "kept"), **variables)
    assert done.returncode == 1
    assert said in done.stderr
    assert not [line for line in there.called() if "upgrade-" in line]


def test_the_password_of_a_user_is_on_no_command_line(there: Standin) -> None:
    done = there.run("user", "anna")
    name, _, password = done.stdout.removeprefix("user ").strip().partition(", password ")
    assert name == "anna"
    assert len(password) == 24
    assert password not in "".join(there.called())
    assert "admin is the user of the driver" in there.run("user", "admin").stderr
