"""One driver per study: a lock that the operating system or PostgreSQL drops when its holder dies.

It is a file lock next to a sqlite file, or an advisory lock on a separate PostgreSQL connection.
A second driver is refused, in a message that names the holder.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, LiteralString

import filelock
import psycopg
import sqlalchemy

from sweeper.core.errors import ServiceUnreachable, StudyConflict, SweeperError, one_line

CONNECT_SECONDS: Final = 5
SOMEBODY: Final = "another process"
HOLDER: Final = """
    SELECT a.application_name, a.backend_start FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
    WHERE l.locktype = 'advisory' AND l.granted
      AND l.classid = %s AND l.objid = %s AND l.objsubid = 2
"""


class Lock:
    """A study held by this process. This one is for a database in memory, which no other process sees."""

    def check(self) -> None:
        """Raise an error if the lock was lost."""

    def release(self) -> None:
        """Release the study for another driver."""


def acquire(url: sqlalchemy.URL, name: str) -> Lock:
    """Hold the study `name` in the database of `url`.

    Raises:
        StudyConflict: another driver holds it; the message names it.
        SweeperError: the folder of the sqlite file is missing or not writable.
        ServiceUnreachable: PostgreSQL does not answer.
    """
    if url.get_backend_name() == "postgresql":
        return AdvisoryLock(url, name)
    if not url.database or url.database == ":memory:":
        return Lock()
    return FileLock(Path(url.database), name)


@contextlib.contextmanager
def creation(url: sqlalchemy.URL) -> Iterator[None]:
    """Within the block, no other process creates tables in the database of `url`: Optuna expects to be alone.

    Raises:
        ServiceUnreachable: PostgreSQL does not answer.
    """
    if url.get_backend_name() == "postgresql":
        with closing(_connect(url)) as connection:
            _ask(url, connection, "SELECT pg_advisory_lock(%s, %s)", _numbers("creation"))  # until it is closed
            yield
    elif url.database and url.database != ":memory:":
        with filelock.FileLock(f"{url.database}.lock"):
            yield
    else:
        yield


def is_driven(url: sqlalchemy.URL, name: str) -> bool:
    """Return False if no driver holds the study `name`, without holding it even for a moment."""
    return bool(driver_of(url, name))


def driver_of(url: sqlalchemy.URL, name: str) -> str:
    """Return who drives the study `name`, and since when; an empty string if nobody does."""
    if url.get_backend_name() == "postgresql":
        with closing(_connect(url)) as connection:
            return _holder(connection, _numbers(f"/{name}"))
    holder = ""
    try:
        holder = Path(f"{url.database}.{name}.holder").read_text()
        _, pid, _, host = holder.split()[:4]
        if host == socket.gethostname():
            os.kill(int(pid), 0)
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except (OSError, ValueError):
        return holder or SOMEBODY  # another user's process, or a file that is being written
    return holder


def _holder(connection: psycopg.Connection[Any], numbers: tuple[int, int]) -> str:
    row = connection.execute(HOLDER, [n % 2**32 for n in numbers]).fetchone()
    if row is None:
        return ""
    _, pid, host = (*row[0].split(), "", "", "")[:3]
    return f"process {pid} on {host} since {row[1].isoformat(timespec='seconds')}" if pid else SOMEBODY


def _numbers(what: str) -> tuple[int, int]:
    """Return the two 32-bit numbers by which PostgreSQL knows a lock."""
    digest = hashlib.sha256(f"sweeper{what}".encode()).digest()
    return int.from_bytes(digest[:4], signed=True), int.from_bytes(digest[4:8], signed=True)


def _connect(url: sqlalchemy.URL) -> psycopg.Connection[Any]:
    try:
        return psycopg.connect(
            url.set(drivername="postgresql").render_as_string(hide_password=False),
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name=f"sweeper {os.getpid()} {socket.gethostname()}"[:63],
            keepalives_idle=20, keepalives_interval=10, keepalives_count=3,
            options="-c tcp_keepalives_idle=20 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3",
        )  # fmt: skip
    except psycopg.Error as error:
        raise _unreachable(url, error) from None


def _ask(url: sqlalchemy.URL, connection: psycopg.Connection[Any], query: LiteralString, numbers: Sequence[int]) -> Any:
    """Return the first row of the answer."""
    try:
        return connection.execute(query, numbers).fetchone()
    except psycopg.Error as error:
        raise _unreachable(url, error) from None


def _unreachable(url: sqlalchemy.URL, error: psycopg.Error) -> ServiceUnreachable:
    reason = one_line(error).replace(url.password or "\0", "***")
    return ServiceUnreachable(
        f"storage {url.render_as_string(hide_password=True)} cannot be opened ({reason}). Check --storage."
    )


def _refusal(name: str, holder: str) -> StudyConflict:
    return StudyConflict(f"study {name!r} is in use by {holder}. Wait for it, or stop it.")


class FileLock(Lock):
    """A lock file next to a sqlite file, `FILE.STUDY.lock`; its holder is named in `FILE.STUDY.holder`."""

    def __init__(self, database: Path, name: str) -> None:
        database = database.absolute()
        if not database.parent.is_dir():
            raise SweeperError(
                f"storage {database}: the folder {database.parent} does not exist. Create it, or change --storage."
            )
        path = database.with_name(f"{database.name}.{name}.lock")
        self._holder = holder = path.with_suffix(".holder")
        self._lock = filelock.FileLock(path)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            who = SOMEBODY
            with contextlib.suppress(OSError):
                who = holder.read_text()[:120] or who
            raise _refusal(name, who) from None
        except OSError as error:
            raise SweeperError(
                f"storage {database}: {error.strerror}. Its folder must exist and be writable."
            ) from None
        now = dt.datetime.now().astimezone().isoformat(timespec="seconds")
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {now}")

    def release(self) -> None:
        """Release the study for another driver."""
        with contextlib.suppress(OSError):
            self._holder.unlink(missing_ok=True)
        self._lock.release()


class AdvisoryLock(Lock):
    """A session-level advisory lock of PostgreSQL, by two 32-bit numbers made from the study's name.

    The server drops it when the connection ends, also when this process is killed or its machine is lost
    (within a minute: the connection has TCP keepalives at both ends).
    """

    def __init__(self, url: sqlalchemy.URL, name: str) -> None:
        numbers = _numbers(f"/{name}")
        self._name, self._shown = name, url.render_as_string(hide_password=True)
        self._connection = _connect(url)
        held = _ask(url, self._connection, "SELECT pg_try_advisory_lock(%s, %s)", numbers)
        if held != (True,):
            holder = _holder(self._connection, numbers) or SOMEBODY
            self._connection.close()
            raise _refusal(name, holder)

    def check(self) -> None:
        """Check that the lock's connection is alive.

        Raises:
            ServiceUnreachable: the connection is lost, and the lock with it.
        """
        try:
            self._connection.execute("SELECT 1")
        except psycopg.Error:
            raise ServiceUnreachable(
                f"storage {self._shown}: lost the connection that locks study {self._name!r}. When the database is "
                "back, run the same command again to continue."
            ) from None

    def release(self) -> None:
        """Release the study right away: the server notices a closed connection only later."""
        with contextlib.suppress(psycopg.Error):  # the connection is lost, and the lock with it
            self._connection.execute("SELECT pg_advisory_unlock_all()")
        self._connection.close()
