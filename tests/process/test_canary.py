"""A sweep is given passwords for its server and its database; then they are looked for wherever they must not be."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from sweeper.server.postgres import MLFLOW

pytest_plugins = ["tests.support.postgres", "tests.support.served"]

STORAGE_CANARY = "canary-of-the-study"


@dataclass
class Trail:
    """Everything that a sweep and its server left where others can read it, by where that is."""

    places: dict[str, bytes] = field(default_factory=dict)

    def add(self, place: str, content: bytes | str) -> None:
        self.places[place] = self.places.get(place, b"") + (content.encode() if isinstance(content, str) else content)

    def holding(self, secret: str) -> list[str]:
        return [place for place, content in self.places.items() if secret.encode() in content]


def tables(url: str) -> Iterator[tuple[str, bytes]]:
    """Each table of a database, as text."""
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname = 'public'")
        for (name,) in names.fetchall():
            with connection.cursor().copy(f"COPY {name} TO STDOUT") as rows:  # type: ignore[arg-type]
                yield name, b"".join(bytes(row) for row in rows)


def watch(process: subprocess.Popen[bytes], trail: Trail) -> None:
    """Note the command lines of a command and its children, and what the children have in their environment."""
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(process.pid)
            mine = parent.cmdline()
            trail.add("ps", " ".join(mine))
            for child in parent.children(recursive=True):
                with contextlib.suppress(psutil.Error, OSError):
                    command = child.cmdline()
                    if not command or command == mine:
                        continue  # it is ending, or was forked and shows its parent's environment until its own program
                    trail.add("ps", " ".join(command))
                    if Path(command[0]).name != "git":  # which MLflow calls, in the driver's name
                        trail.add("environment of a worker", Path(f"/proc/{child.pid}/environ").read_bytes())
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)


@pytest.fixture(scope="module")
def secrets(guarded: Any) -> dict[str, str]:
    return {"server": (guarded.home / "secrets" / "admin-password").read_text(), "database": STORAGE_CANARY}


@pytest.fixture(scope="module")
def trail(
    guarded: Any, secrets: dict[str, str], postgres_server: Any, tmp_path_factory: pytest.TempPathFactory
) -> Trail:
    """What a sweep, the commands that look at it, and commands that fail leave behind."""
    home = tmp_path_factory.mktemp("canary")
    postgres_server.psql(f"CREATE ROLE sweeping LOGIN PASSWORD '{STORAGE_CANARY}'")
    postgres_server.psql("CREATE DATABASE sweeping OWNER sweeping")
    rules = postgres_server.pgdata / "pg_hba.conf"
    rules.write_text(f"local all sweeping scram-sha-256\n{rules.read_text()}")
    postgres_server.psql("SELECT pg_reload_conf()")
    storage = postgres_server.get_uri("sweeping").replace("postgres:@", f"sweeping:{STORAGE_CANARY}@")
    env = guarded.env | {
        "SWEEPER_HOME": str(home),
        "MLFLOW_TRACKING_URI": f"http://admin:{secrets['server']}@127.0.0.1:{guarded.port}",
        "SWEEPER_STORAGE": storage,
    }
    found = Trail()

    def run(*argv: str, code: int = 0, **variables: str) -> None:
        command = [sys.executable, "-m", "sweeper", *argv]
        with (home.with_suffix(".out")).open("w+b") as out:
            process = subprocess.Popen(command, env=env | variables, cwd=home, stdout=out, stderr=out)
            watch(process, found)
            out.seek(0)
            said = out.read()
        found.add(f"what {' '.join(argv[:2])} says", said)
        assert process.returncode == code, said.decode()

    sweep = ("optimize", "--trials", "2", "--exp", "1", "--dataset", "sample", "--train-images", "600", "--epochs", "1",
             "--seed")  # fmt: skip
    run(*sweep, "0", "--json")
    run("status", "--json")
    run("report")
    run("sync")
    run("replay", "sweep/0000")
    wrong = f"http://admin:{secrets['server']}@127.0.0.1:1"
    run("--debug", *sweep, "1", code=1)  # another seed: refused, with a traceback
    run(*sweep, "0", code=4, MLFLOW_TRACKING_URI=wrong)
    run("--debug", *sweep, "0", code=1, MLFLOW_TRACKING_URI=wrong)
    run("--debug", *sweep, "0", code=1, SWEEPER_STORAGE=storage.replace("/sweeping?", "/nowhere?"))
    for file in (f for folder in (home, guarded.home) for f in folder.rglob("*") if f.is_file()):
        if file.parent != guarded.home / "secrets":
            found.add(str(file), file.read_bytes())
    found.add("what serve says", guarded.said + guarded.errors)
    found.add("ps", "".join(" ".join(part.cmdline()) for part in guarded.parts if part.is_running()))
    for database in ("sweeping", MLFLOW):
        for name, rows in tables(postgres_server.get_uri(database)):
            found.add(f"table {name} of {database}", rows)
    return found


def test_the_trail_is_that_of_a_sweep(trail: Trail):
    assert b"optimize" in trail.places["ps"]
    assert trail.places["environment of a worker"]
    for part in ("trials", "runs", "tags", "params", "report/sweep.html", "events.jsonl"):
        assert any(part in place for place in trail.places), part
    assert b"Traceback" in trail.places["what --debug optimize says"]


def test_no_password_is_left_where_others_can_read_it(trail: Trail, secrets: dict[str, str]):
    assert {name: trail.holding(secret) for name, secret in secrets.items()} == {"server": [], "database": []}
