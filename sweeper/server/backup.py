"""`sweeper backup` and `sweeper restore`: both databases, the artifacts and the secrets of a home, in one file.

The file is a tar: `mlflow.dump` and `optuna.dump` (of pg_dump), `artifacts/`, `secrets/`, and at its end
`manifest.json` with the SHA-256 and size of every other member. The trials are dumped first, then the runs, then
the artifacts: what a dump names is in the file.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from psycopg import sql

from sweeper.core.errors import SweeperError
from sweeper.core.urls import refuse_query_password
from sweeper.server.archive import unpack, write_archive
from sweeper.server.postgres import MLFLOW, OPTUNA, Databases, Embedded, run_tool
from sweeper.server.serve import ARTIFACTS, DATA, SECRETS, held, read_state, start_databases
from sweeper.server.supervisor import Group

NO_OWNERS: Final = ("--no-owner", "--no-privileges")  # the databases may get other owners


def backup(home: Path, file: Path, database_url: str | None = None) -> dict[str, Any]:
    """Write the state of a home to `file`, completely or not at all; `sweeper serve` may be running.

    Returns:
        The result for `--json`.

    Raises:
        SweeperError: the file exists or cannot be written; the home has no databases or is being restored.
        ServiceUnreachable: the PostgreSQL of `database_url` does not answer.
    """
    home, file = home.resolve(), file.resolve()  # the programs of PostgreSQL run in another folder
    if file.exists():
        raise SweeperError(f"{file} exists. Name another file.")
    if database_url is None and not (home / DATA).exists():
        raise SweeperError(f"{home}: sweeper serve has not run here. Name the home with --home or SWEEPER_HOME.")
    partial = file.with_name(f".{file.name}.partial")
    dumps = file.with_name(f".{file.name}.dumps")
    try:
        with contextlib.ExitStack() as stack:
            dumps.mkdir(mode=0o700, exist_ok=True)
            databases = stack.enter_context(_databases(home, database_url))
            for name in (OPTUNA, MLFLOW):
                _tool("pg_dump", databases, name, *NO_OWNERS, "--format=custom", f"--file={dumps / name}.dump")
            digests = write_archive(partial, dumps, home)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
        shutil.rmtree(dumps, ignore_errors=True)
    return {"file": str(file.absolute()), "bytes": file.stat().st_size, "artifacts": _artifacts(digests)}


def _artifacts(digests: Mapping[str, str]) -> int:
    return sum(name.startswith(f"{ARTIFACTS}/") for name in digests)


@contextlib.contextmanager
def _databases(home: Path, url: str | None) -> Iterator[Databases]:
    """Yield the databases of a home: the running ones, or ones started until the end of the block."""
    served = (read_state(home) or {}).get("purpose") == "serve"
    if served and url is None:
        yield Embedded(home / DATA).databases
        return
    with contextlib.ExitStack() as stack:
        if not served:  # a second backup would stop the PostgreSQL of the first as a leftover
            stack.enter_context(held(home, "backup"))
        yield start_databases(stack.enter_context(Group(home / "log")), home, url)


def _tool(program: str, databases: Databases, name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs on a database, without its password on the command line."""
    target = f"--dbname={databases.url(name, password=False)}"
    run_tool(program, target, *arguments, password=databases.password)


def restore(home: Path, file: Path, database_url: str | None = None) -> dict[str, Any]:
    """Fill a new home with the state in a backup.

    Returns:
        The result for `--json`.

    Raises:
        SweeperError: the home is in use or not new, or the file is no complete backup; nothing is left behind.
        ServiceUnreachable: the PostgreSQL of `database_url` does not answer.
    """
    home, file = home.resolve(), file.resolve()
    refuse_query_password(database_url or "")
    if not file.is_file():
        raise SweeperError(f"{file}: no such file. Name one that sweeper backup wrote.")
    partial, log = home / "restore.partial", home / "log"
    made = [*([] if log.exists() else [log]), *(home / name for name in (SECRETS, ARTIFACTS, DATA))]
    with held(home, "restore"):
        if present := [name for name in (DATA, ARTIFACTS, SECRETS) if (home / name).exists()]:
            raise SweeperError(f"{home} already has {', '.join(present)}. Restore into a new home.")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o700)
            digests = unpack(file, partial)
            with Group(log) as group:
                databases = start_databases(group, partial, database_url)
                _load(databases, partial)
            for name in (SECRETS, ARTIFACTS, DATA):
                if (partial / name).exists():
                    (partial / name).replace(home / name)
        except BaseException:
            for folder in made:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return {"home": str(home.absolute()), "artifacts": _artifacts(digests)}


def _load(databases: Databases, folder: Path) -> None:
    """Fill new databases from the dumps; if that fails, remove them."""
    if present := {MLFLOW, OPTUNA} & databases.present():
        raise SweeperError(
            f"that server already has {' and '.join(sorted(present))}. Restore to a server without them."
        )
    try:
        databases.create()
        for name in (MLFLOW, OPTUNA):
            script = _script(folder / f"{name}.dump")
            _tool("psql", databases, name, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction",
                  f"--file={script}")  # fmt: skip
            script.unlink()
    except BaseException:
        with databases.connected() as connection:
            for name in (MLFLOW, OPTUNA):
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
        raise


def _script(dump: Path) -> Path:
    """Write the statements of a dump, without a setting that older servers do not know."""
    script = dump.with_suffix(".sql")
    run_tool("pg_restore", *NO_OWNERS, f"--file={script}", str(dump))
    with script.open("r+b") as stream:  # in place: a comment of the same length, among the first settings
        head = stream.read(4096)
        stream.seek(0)
        stream.write(head.replace(b"\nSET transaction_timeout", b"\n--- transaction_timeout", 1))
    return script
