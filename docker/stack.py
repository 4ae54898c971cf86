#!/usr/bin/env python3
"""Build, back up, restore and upgrade the containers of compose.yaml, and manage the users of their MLflow.

    docker/stack.py build                      build both images, labelled with the commit
    docker/stack.py backup FOLDER --keep 14    write a backup into FOLDER, also during a sweep; delete the oldest
    docker/stack.py restore BACKUP             fill new volumes from a backup
    docker/stack.py upgrade FOLDER             back up into FOLDER, then upgrade the databases for newer images
    docker/stack.py user NAME                  create a user, or give one a new password

It calls `docker compose`, or else `podman-compose`. SWEEPER_COMPOSE names another command, such as `docker compose
--file docker/compose.yaml --file mine.yaml`. It needs Python 3.9 or newer, and no packages.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
COMPOSE_FILE = str(HERE / "compose.yaml")
DATABASES = ("optuna", "mlflow")
VOLUMES = {"driver": "driver", "mlflow": "artifacts"}  # by the service that has it at /var/lib/sweeper
SUMS = "SHA256SUMS"
NAME = re.compile(r"sweeper-\d{8}T\d{6}Z")
START = "Start as usual: docker compose --file docker/compose.yaml up --detach --wait"
READY_SECONDS = 300.0
AS_POSTGRES = 'export PGPASSWORD="$(cat /run/secrets/postgres-password)"; exec'
# A file that grows while it is read makes tar exit with 1; the journal is made for that.
PACK = "tar -cf - . || [ $? = 1 ]"
UNPACK = '[ -z "$(ls -A)" ] || { echo "the volume is not empty" >&2; exit 1; }; tar -xf -'
USER = """
import json, pathlib, sys, base64, urllib.error, urllib.request
name, verb = sys.argv[1:]
admin = b"admin:" + pathlib.Path("/run/secrets/admin-password").read_bytes()
headers = {"Content-Type": "application/json", "Authorization": "Basic " + base64.b64encode(admin).decode()}
def ask(path, method, **body):
    url = "http://127.0.0.1:5000/api/2.0/mlflow/users/" + path
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    try:
        return urllib.request.urlopen(request, timeout=60).read()
    except urllib.error.HTTPError as error:
        return sys.exit(error.read().decode() or str(error)) if error.code != 400 or path != "create" else None
if verb == "delete":
    ask("delete", "DELETE", username=name)
else:
    password = sys.stdin.read()
    if ask("create", "POST", username=name, password=password) is None:
        ask("update-password", "PATCH", username=name, password=password)
"""


class Failure(Exception):
    """A command failed. The message says what failed, and how to fix it."""


def compose_command() -> list[str]:
    """The words of the compose command, with our compose file."""
    if given := os.environ.get("SWEEPER_COMPOSE"):
        return shlex.split(given)
    asked = ["docker", "compose", "version"]
    with contextlib.suppress(OSError):
        if subprocess.run(asked, check=False, capture_output=True).returncode == 0:
            return ["docker", "compose", "--file", COMPOSE_FILE]
    if shutil.which("podman-compose"):
        return ["podman-compose", "--file", COMPOSE_FILE]
    raise Failure("neither docker compose nor podman-compose was found. Install one of them.")


def compose(*words: str, given: IO[bytes] | bytes | None = None, into: IO[bytes] | None = None) -> str:
    """Run a compose command and return what it prints, or write it to `into`.

    Raises:
        Failure: it ended with another code than 0.
    """
    command = [*compose_command(), *words]
    fed = {"input": given} if isinstance(given, bytes) else {"stdin": given or subprocess.DEVNULL}
    done = subprocess.run(command, check=False, stdout=into or subprocess.PIPE, stderr=subprocess.PIPE, **fed)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-2000:]
        shown = " ".join(command).partition("\n")[0][:300]
        raise Failure(f"{shown}: exit code {done.returncode}\n{said}")
    return (done.stdout or b"").decode()


def in_postgres(command: str, **streams: IO[bytes]) -> str:
    """Run a program of PostgreSQL in its container, as its superuser; the password is on no command line."""
    return compose("exec", "-T", "postgres", "sh", "-c", f"{AS_POSTGRES} {command}", **streams)


def query(database: str, statement: str) -> str:
    """The answer of a database."""
    return in_postgres(f"psql -U postgres -d {database} -Atqc {shlex.quote(statement)}").strip()


def tables(database: str) -> int:
    """How many tables a database has."""
    return int(query(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))


def once(service: str, script: str, **streams: IO[bytes]) -> str:
    """Run a script in a new container of a service."""
    words = ("--profile", "driver", "run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", service, "-c", script)
    return compose(*words, **streams)


def secrets_folder() -> Path:
    """The folder of secrets, as compose.yaml finds it."""
    lines = (HERE / ".env").read_text().splitlines() if (HERE / ".env").exists() else []
    named = [line.partition("=")[2] for line in lines if line.startswith("SWEEPER_SECRETS=")]
    folder = os.environ.get("SWEEPER_SECRETS") or (named[-1].strip("'\"") if named else "secrets")
    return HERE / folder


def build() -> None:
    """Build both images, with the commit in their labels and in the runs that they will make."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(git, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"warning: the images name no commit: {done.stderr.strip()}", file=sys.stderr)
    os.environ.setdefault("SWEEPER_COMMIT", done.stdout.strip())
    command = [*compose_command(), "build", "mlflow", "worker"]
    if (code := subprocess.run(command, check=False).returncode) != 0:
        raise Failure(f"{shlex.join(command)}: exit code {code}")


def backup(folder: Path, keep: int) -> Path:
    """Write a backup, completely or not at all, and then delete the oldest beyond `keep`.

    The trials are read first, then the journal, the runs and their files: each is at least as new as what names it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone(folder):
        for left in folder.glob(".sweeper-*.partial"):
            shutil.rmtree(left)
        name = time.strftime("sweeper-%Y%m%dT%H%M%SZ", time.gmtime())
        partial = folder / f".{name}.partial"
        partial.mkdir(mode=0o700)
        try:
            dump("optuna", partial)
            pack("driver", partial)
            dump("mlflow", partial)
            pack("mlflow", partial)
            with private(partial / "secrets.tar") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
                archive.add(secrets_folder(), ".")
            lines = [f"{digest(path)}  {path.name}\n" for path in sorted(partial.iterdir())]
            with private(partial / SUMS) as stream:
                stream.write("".join(lines).encode())
            partial.rename(folder / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        whole = sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name) and (path / SUMS).exists())
        for old in whole[:-keep]:
            shutil.rmtree(old)
            print(f"deleted {old}")
    size = sum(path.stat().st_size for path in (folder / name).iterdir())
    print(f"{folder / name}: {size / 1e6:.1f} MB")
    return folder / name


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within the block, no other backup writes into the folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Failure(f"{folder}: another backup is being written. Wait for it.") from None
    finally:
        os.close(handle)


def private(path: Path) -> IO[bytes]:
    """A new file that only its owner reads."""
    path.touch(0o600, exist_ok=False)
    return path.open("r+b")


def dump(database: str, folder: Path) -> None:
    """Dump a database."""
    with private(folder / f"{database}.dump") as stream:
        in_postgres(f"pg_dump -U postgres -d {database} --format=custom", into=stream)
        stream.seek(0)
        if stream.read(5) != b"PGDMP":
            raise Failure(f"pg_dump of {database} wrote no dump. Look at: compose logs postgres")


def pack(service: str, folder: Path) -> None:
    """Pack the volume of a service, and read what was packed to its end."""
    with private(folder / f"{VOLUMES[service]}.tar") as stream:
        once(service, PACK, into=stream)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as archive:
            archive.getmembers()


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def restore(source: Path) -> None:
    """Fill new volumes from a backup."""
    check_sums(source)
    restore_secrets(source / "secrets.tar", secrets_folder())
    compose("up", "--detach", "--no-deps", "postgres")
    wait_for_postgres()
    if full := [name for name in DATABASES if tables(name)]:
        raise Failure(
            f"the database {full[0]} is not empty. Restore into new volumes: back up what is there, and delete it with "
            "docker compose down --volumes."
        )
    for service, volume in VOLUMES.items():
        with (source / f"{volume}.tar").open("rb") as stream:
            once(service, UNPACK, given=stream)
    for name in DATABASES:
        with (source / f"{name}.dump").open("rb") as stream:
            in_postgres(f"pg_restore -U postgres -d {name} --exit-on-error --single-transaction", given=stream)
    print(f"restored. {START}")


def check_sums(source: Path) -> None:
    """Compare the files of a backup with their sums."""
    if not (source / SUMS).is_file():
        raise Failure(f"{source}: no {SUMS}, so this is no complete backup. Name a folder that backup wrote.")
    for line in (source / SUMS).read_text().splitlines():
        wanted, name = line.split("  ", 1)
        if not (source / name).is_file() or digest(source / name) != wanted:
            raise Failure(f"{source / name} is missing or damaged. Restore another backup.")


def restore_secrets(file: Path, folder: Path) -> None:
    """Unpack the secrets, or see that they are those that are there: the users and their passwords go with them."""
    with tarfile.open(file) as archive:
        packed = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        values = {name: stream.read() for name, stream in packed.items() if stream}
    if (folder / "admin-password").exists():
        if (folder / "admin-password").read_bytes() != values["admin-password"]:
            raise Failure(f"{folder} holds other secrets than the backup. Move it away, and restore again.")
        return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name, value in values.items():
        (folder / name).write_bytes(value)
        (folder / name).chmod(0o444)


def wait_for_postgres() -> None:
    """Wait until it listens, which it does after its first set-up."""
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            compose("exec", "-T", "postgres", "pg_isready", "--host=127.0.0.1", "--username=postgres")
        except Failure as failure:
            if time.monotonic() > until:
                raise Failure(f"PostgreSQL does not start. Look at: compose logs postgres\n{failure}") from None
            time.sleep(1)
        else:
            return


def upgrade(folder: Path, keep: int) -> None:
    """Back up, stop what uses the databases, and upgrade them for the images that are now built."""
    backup(folder, keep)
    compose("--profile", "dashboard", "stop", "mlflow", "dashboard")
    busy = query("optuna", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'optuna'")
    if busy != "0":
        raise Failure("a sweep is running. End it with `driver stop STUDY`, and upgrade again. MLflow is stopped.")
    for database, service in (("mlflow", "mlflow"), ("optuna", "driver")):
        if tables(database):
            once(service, f"exec entry upgrade-{database}")
    print(f"the databases are upgraded. {START}")


def user(name: str, *, delete: bool) -> None:
    """Create a user of MLflow, or give one a new password; or delete one."""
    if name == "admin":
        raise Failure("admin is the user of the driver: its password stays that of the secrets.")
    password = secrets.token_urlsafe(18)
    verb = "delete" if delete else "set"
    compose("exec", "-T", "mlflow", "python", "-c", USER, name, verb, given=b"" if delete else password.encode())
    print(f"deleted {name}" if delete else f"user {name}, password {password}")


def arguments() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build")
    for name in ("backup", "upgrade"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        command.add_argument("--keep", type=int, default=14, help="how many backups stay; 14")
    commands.add_parser("restore").add_argument("source", type=Path)
    command = commands.add_parser("user")
    command.add_argument("name")
    command.add_argument("--delete", action="store_true")
    given = parser.parse_args()
    if getattr(given, "keep", 1) < 1:
        parser.error("--keep: expected 1 or more")
    return given


def main() -> None:
    """Run one command."""
    given = vars(arguments())
    command = {"build": build, "backup": backup, "restore": restore, "upgrade": upgrade, "user": user}
    try:
        command[given.pop("command")](**given)
    except (Failure, OSError, tarfile.TarError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
