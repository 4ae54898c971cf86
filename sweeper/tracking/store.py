"""Check a tracking store before anything is created: a database without MLflow, a server by MLflow's own client."""

from __future__ import annotations

import os
import re
import shlex
import ssl
import warnings
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from sweeper.core.environment import ENCODED, mlflow_command, sqlite_url
from sweeper.core.errors import ServiceUnreachable, SweeperError, UsageError, one_line
from sweeper.core.urls import hide_query_password, refuse_query_password
from sweeper.tracking.client import one_request_of, open_client
from sweeper.tracking.patience import passing

EXPERIMENT: Final = "bn-dropout"
SQLITE_URI: Final = re.compile(r"sqlite:///(?!:memory:).")  # one in memory would be lost
HOST: Final = re.compile(r"[A-Za-z0-9_.:%-]+")
SECONDS: Final = 5  # to wait for an answer; MLflow takes whole ones
TOO_MANY_REQUESTS: Final = "too many 429 error responses"  # in what urllib3 raises


def preflight(uri: str) -> None:
    """Check that the store `uri` takes our runs, or can be created.

    Raises:
        UsageError: the URI is malformed, has another scheme, or a password in its query part; the database is another
            program's; or MLflow's variables for TLS are wrong.
        ServiceUnreachable: the server does not answer within 5 seconds, or does not accept our credentials.
        SweeperError: the MLflow experiment was deleted, or a sqlite file cannot be read or written.
    """
    scheme = uri.partition(":")[0]
    if SQLITE_URI.match(uri):
        _preflight_sqlite(uri)
    elif scheme in ("http", "https"):
        _preflight_http(uri)
    elif scheme in ("postgresql", "postgres") or scheme.startswith("postgresql+"):
        refuse_query_password(uri)
        _preflight_database(uri, re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri), ServiceUnreachable)
    else:
        raise UsageError(
            f"tracking URI {hide_password(uri)[:80]!r}: expected http://HOST:PORT, sqlite:///FILE, postgresql://…, "
            "offline or none."
        )


def _preflight_sqlite(uri: str) -> None:
    file = sqlite_file(uri)
    if ENCODED.search(str(file)) or "?" in str(file):
        raise UsageError(
            f"tracking database {file.absolute()}: MLflow cannot use a path with a ?, or a % before two digits. "
            "Rename the folder, or name another database with --tracking-uri."
        )
    present = file.exists()
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK) or (present and not os.access(file, os.W_OK)):
        raise SweeperError(
            f"tracking database {file.absolute()} cannot be written. Its folder must exist and be writable."
        )
    if present:  # rw: reading it may roll back a transaction that a killed writer left half done
        url = sqlite_url(Path(f"file:{quote(str(file.resolve()))}"))
        _preflight_database(uri, f"{url}?mode=rw&uri=true", SweeperError)


def _preflight_http(uri: str) -> None:
    if not _names_a_host(uri):
        raise UsageError(f"tracking URI {hide_password(uri)[:80]!r}: expected http://HOST:PORT.")
    try:
        with one_request_of(SECONDS), warnings.catch_warnings(action="ignore"):  # of TLS without verification
            found = open_client(uri).get_experiment_by_name(EXPERIMENT)
    except Exception as error:  # noqa: BLE001 - MLflow passes on those of requests, protobuf, and plugins
        if TOO_MANY_REQUESTS in str(error):
            return  # the server is busy: the uploader asks again
        raise _refusal(uri, error) from None
    if found is not None:
        check_stage(uri, found.experiment_id, found.lifecycle_stage)


def _names_a_host(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return parts.port != 0 and HOST.fullmatch(parts.hostname or "") is not None
    except ValueError:
        return False


def _refusal(uri: str, error: Exception) -> SweeperError:
    """Return the error to raise when MLflow's client fails with `error` at its first request."""
    server = f"tracking server {hide_password(uri)}"
    root = _root(error)
    reason, code = reason_of(root)[:200], getattr(error, "error_code", "")
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return ServiceUnreachable(
            f"{server} does not accept these credentials ({code}). Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD."
        )
    if isinstance(root, ssl.SSLCertVerificationError):
        return ServiceUnreachable(
            f"{server}: its certificate is not trusted ({reason}). Set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of "
            "its CA."
        )
    if code == "INVALID_PARAMETER_VALUE" or "invalid path: " in reason or type(error) is ValueError:
        return UsageError(f"{server}: {reason}. Check the variables MLFLOW_TRACKING_*.")
    if not passing(error):
        return ServiceUnreachable(f"{hide_password(uri)} is not an MLflow server ({reason}). Check --tracking-uri.")
    return ServiceUnreachable(f"{server} does not answer ({reason}). Start it, or use --tracking-uri offline.")


def _root(error: BaseException) -> BaseException:
    """Return the first of a chain of errors. One of urllib3 has its cause among its arguments."""
    wrapped = next((each for each in error.args if isinstance(each, BaseException)), None)
    inner = error.__cause__ or error.__context__ or wrapped
    return _root(inner) if inner else error


def _preflight_database(uri: str, url: str, unusable: type[SweeperError]) -> None:
    """Look for the MLflow experiment in the database `url`, which may be empty yet."""
    import sqlalchemy

    local = url.startswith("sqlite")
    options = {"timeout": SECONDS} if local else {"connect_timeout": SECONDS}
    named = sqlalchemy.text("SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = :name")
    try:
        engine = sqlalchemy.create_engine(url, connect_args=options, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()
            found = connection.execute(named, {"name": EXPERIMENT}).all() if "experiments" in tables else []
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        reason = hide_password(reason_of(getattr(error, "orig", None) or error)[:250])
        if "locked" in reason and local:
            return  # it is busy: the uploader asks again
        what = "cannot be read" if local else "does not answer"
        raise unusable(f"tracking database {hide_password(uri)} {what} ({reason}). Check --tracking-uri.") from None
    if tables and "experiments" not in tables:
        raise UsageError(
            f"tracking database {hide_password(uri)} is another program's, with tables such as {tables[0]!r}. "
            "Name another one with --tracking-uri."
        )
    for number, stage in found:
        check_stage(uri, number, stage)


def check_stage(uri: str, number: object, stage: str) -> None:
    """Raise a SweeperError that says how to restore the MLflow experiment `number` if it was deleted."""
    if stage == "deleted":
        raise SweeperError(
            f"MLflow experiment {EXPERIMENT!r} was deleted. Restore it with: "
            f"MLFLOW_TRACKING_URI={shlex.quote(hide_password(absolute(uri)))} {mlflow_command()} experiments restore "
            f"--experiment-id {number}"
        )


def store_uri(uri: str) -> str:
    """Return `uri` as MLflow knows it, or raise a UsageError if a database's has a password in its query part."""
    if uri.startswith("postgres"):
        refuse_query_password(uri)
    if is_sqlite(uri) and "?" not in uri and "%" in uri:
        return sqlite_url(sqlite_file(uri))  # MLflow would create the folder of the encoded path
    return re.sub(r"^postgres://", "postgresql://", uri)


def is_sqlite(uri: str) -> bool:
    """Return True if the store is a sqlite file."""
    return uri.startswith("sqlite")


def sqlite_file(uri: str) -> Path:
    """Return the file of a sqlite URI, as SQLAlchemy decodes it for MLflow."""
    import sqlalchemy

    return Path(sqlalchemy.make_url(uri).database or "")


def absolute(uri: str) -> str:
    """Return a store's URI for messages: that of a sqlite file with its absolute path."""
    return sqlite_url(sqlite_file(uri).absolute()) if is_sqlite(uri) and "?" not in uri else uri


def hide_password(text: str) -> str:
    """Return `text` without the user and password of any URL in it."""
    return hide_query_password(re.sub(r"//([^/@\s:]*:\S*|[^/@\s]*)@", "//***@", text))


def reason_of(error: BaseException) -> str:
    """Return the message of `error` in one line, without user and password."""
    return hide_password(one_line(error))
