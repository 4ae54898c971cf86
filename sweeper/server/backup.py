"""`sweeper backup` and `sweeper restore`: both databases, the artifacts and the secrets of a home, in one file.

The file is a tar: `mlflow.dump` and `optuna.dump` (of pg_dump), `artifacts/`, `secrets/`, and at its end
`manifest.json` with the SHA-256 of every other member. The trials are dumped first, then the runs, then the artifacts:
what a dump names is in the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

from psycopg import sql

from sweeper.core.errors import SweeperError, one_line
from sweeper.server.postgres import MLFLOW, OPTUNA, Databases, Embedded, run_tool
from sweeper.server.serve import ARTIFACTS, DATA, SECRETS, held, read_state, start_databases
from sweeper.server.supervisor import Group

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
NO_OWNERS: Final = ("--no-owner", "--no-privileges")  # the databases may get other owners
KEPT_SECRETS: Final = ("admin-password", "flask-secret-key")


class _Hashing:
    """A file that hashes what is read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.sha256 = stream, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes."""
        block = self._stream.read(size)
        self.sha256.update(block)
        return block


def backup(home: Path, file: Path, database_url: str | None = None) -> dict[str, Any]:
    """Write the state of a home into `file`, whole or not at all; `sweeper serve` may be running.

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
        raise SweeperError(f"{home}: nothing was served from here. Name the home with --home or SWEEPER_HOME.")
    partial = file.with_name(f".{file.name}.partial")
    dumps = file.with_name(f".{file.name}.dumps")
    try:
        with contextlib.ExitStack() as stack:
            dumps.mkdir(mode=0o700, exist_ok=True)
            databases = stack.enter_context(_databases(home, database_url))
            for name in (OPTUNA, MLFLOW):
                _tool("pg_dump", databases, name, *NO_OWNERS, "--format=custom", f"--file={dumps / name}.dump")
            digests = _write(partial, dumps, home)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
        shutil.rmtree(dumps, ignore_errors=True)
    return {"file": str(file.absolute()), "bytes": file.stat().st_size, "artifacts": _artifacts(digests)}


def _artifacts(digests: Mapping[str, str]) -> int:
    return sum(name.startswith(f"{ARTIFACTS}/") for name in digests)


@contextlib.contextmanager
def _databases(home: Path, url: str | None) -> Iterator[Databases]:
    """Yield the databases of a home: those being served, or ones started until the block ends."""
    served = (read_state(home) or {}).get("purpose") == "serve"
    if served and url is None:
        yield Embedded(home / DATA).databases
        return
    with contextlib.ExitStack() as stack:
        if not served:  # a second backup would stop the PostgreSQL of the first as a leftover
            stack.enter_context(held(home, "backup"))
        yield start_databases(stack.enter_context(Group(home / "log")), home, url)


def _tool(program: str, databases: Databases, name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs on a database, with the password not on the command line."""
    target = f"--dbname={databases.url(name, password=False)}"
    run_tool(program, target, *arguments, password=databases.password)


def _write(partial: Path, dumps: Path, home: Path) -> dict[str, str]:
    """Write the tar through to the disk; return the SHA-256 of its members."""
    files = {f"{name}.dump": dumps / f"{name}.dump" for name in (MLFLOW, OPTUNA)}
    files |= {f"{SECRETS}/{name}": home / SECRETS / name for name in KEPT_SECRETS if (home / SECRETS / name).exists()}
    artifacts = sorted(path for path in (home / ARTIFACTS).rglob("*") if path.is_file())
    files |= {path.relative_to(home).as_posix(): path for path in artifacts}
    digests: dict[str, str] = {}
    opened = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)  # it holds secrets
    with os.fdopen(opened, "wb") as stream:
        with tarfile.open(fileobj=stream, mode="w", dereference=True) as tar:
            for name, path in files.items():
                with contextlib.suppress(FileNotFoundError), path.open("rb") as content:  # deleted meanwhile
                    reader = _Hashing(content)
                    tar.addfile(tar.gettarinfo(arcname=name, fileobj=content), reader)
                    digests[name] = reader.sha256.hexdigest()
            text = json.dumps({"format": FORMAT, "sha256": digests}).encode()
            info = tarfile.TarInfo(MANIFEST)
            info.size = len(text)
            tar.addfile(info, BytesIO(text))
        stream.flush()
        os.fsync(stream.fileno())
    return digests


def restore(home: Path, file: Path, database_url: str | None = None) -> dict[str, Any]:
    """Fill a new home with the state in a backup.

    Returns:
        The result for `--json`.

    Raises:
        SweeperError: the home is in use or not new, or the file is not a whole backup; nothing is left behind.
        ServiceUnreachable: the PostgreSQL of `database_url` does not answer.
    """
    home, file = home.resolve(), file.resolve()
    if not file.is_file():
        raise SweeperError(f"{file}: no such file. Name one that sweeper backup wrote.")
    partial = home / "restore.partial"
    with held(home, "restore"):
        if present := [name for name in (DATA, ARTIFACTS, SECRETS) if (home / name).exists()]:
            raise SweeperError(f"{home} already has {', '.join(present)}. Restore into a new home.")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o700)
            digests = _unpack(file, partial)
            with Group(home / "log") as group:
                databases = start_databases(group, partial, database_url)
                _load(databases, partial)
            for name in (SECRETS, ARTIFACTS, DATA):
                if (partial / name).exists():
                    (partial / name).replace(home / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return {"home": str(home.absolute()), "artifacts": _artifacts(digests)}


def _unpack(file: Path, folder: Path) -> dict[str, str]:
    """Unpack a backup into a folder and check each file; return the SHA-256 of its members."""
    try:
        with tarfile.open(file) as tar:
            for name in (ARTIFACTS, SECRETS):
                (folder / name).mkdir(mode=0o700)
            names = tar.getnames()
            tar.extractall(folder, filter="data")
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        digests: dict[str, str] = manifest["sha256"]
        if unknown := set(names) - {MANIFEST, *digests}:
            raise ValueError(f"{min(unknown)} is not in its manifest")
        for name, digest in digests.items():
            with (folder / name).open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                    raise ValueError(f"{name} is damaged")
    except (tarfile.TarError, FileNotFoundError, EOFError, ValueError, KeyError) as error:
        raise SweeperError(
            f"{file}: not a whole backup of sweeper ({one_line(error, 120)}). Restore another."
        ) from None
    if manifest["format"] != FORMAT:
        raise SweeperError(
            f"{file} is a backup of format {manifest['format']}, and this release reads format {FORMAT}. "
            "Restore it with the release that made it."
        )
    return digests


def _load(databases: Databases, folder: Path) -> None:
    """Fill new databases from the dumps; where that fails, remove them."""
    if present := {MLFLOW, OPTUNA} & databases.present():
        raise SweeperError(f"that server already has {' and '.join(sorted(present))}. Restore onto one without them.")
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
