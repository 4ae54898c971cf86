"""Check a tracking store before anything is created: a database without MLflow, a server by MLflow's own client."""

from __future__ import annotations

import os
import re
import shlex
import ssl
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlsplit

from sweeper.core.environment import ENCODED, OURS, MlflowExperiment, mlflow_command, sqlite_url
from sweeper.core.errors import ServiceUnreachable, SweeperError, UsageError, one_line
from sweeper.core.migrations import mlflow_revisions
from sweeper.core.urls import hide_query_password, refuse_query_password
from sweeper.tracking.client import open_client
from sweeper.tracking.patience import NOT_SERVED, passing

if TYPE_CHECKING:
    import sqlalchemy
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

SQLITE_URI: Final = re.compile(r"sqlite:///(?!:memory:).")  # one in memory would be lost
HOST: Final = re.compile(r"[A-Za-z0-9_.:%-]+")
SECONDS: Final = 10.0  # in which a server that fails is asked again, unless MLFLOW_HTTP_REQUEST_TIMEOUT is less
REFUSED_SECONDS: Final = 2.0  # the same for one that nobody listens for
PAUSE: Final = 0.5  # seconds between two tries
DATABASE_SECONDS: Final = 10  # to wait for a connection
MOST_ANSWER: Final = 10_000  # bytes to read of an answer
REFUSED: Final = "Connection refused"
DEFAULT_WORKSPACE: Final = "default"
ANSWER: Final = re.compile(r"API request to endpoint \S+ failed with error code (\d{3}) != 200\. Response body: '(.*)'")
TOO_MANY_REQUESTS: Final = "too many 429 error responses"  # in what urllib3 raises


def preflight(uri: str, experiment: MlflowExperiment = OURS) -> None:
    """Check that the store `uri` accepts our runs, or can be created.

    Raises:
        UsageError: the URI is malformed, has another scheme, or a password in its query part; the database is another
            program's; MLflow's variables for TLS are wrong; or there is no MLflow experiment with this id.
        ServiceUnreachable: the server does not answer in time, or does not accept our credentials.
        SweeperError: the MLflow experiment was deleted, or a sqlite file cannot be read or written.
    """
    scheme = uri.partition(":")[0]
    if SQLITE_URI.match(uri):
        _preflight_sqlite(uri, experiment)
    elif scheme in ("http", "https"):
        _preflight_http(uri, experiment)
    elif scheme in ("postgresql", "postgres") or scheme.startswith("postgresql+"):
        refuse_query_password(uri)
        _preflight_database(
            uri, re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri), ServiceUnreachable, experiment
        )
    else:
        raise UsageError(
            f"tracking URI {hide_password(uri)[:80]!r}: use http://HOST:PORT, sqlite:///FILE, postgresql://…, "
            "offline or none."
        )


def _preflight_sqlite(uri: str, experiment: MlflowExperiment) -> None:
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
        _preflight_database(uri, f"{url}?mode=rw&uri=true", SweeperError, experiment)
    elif experiment.id:
        raise _unknown(uri, experiment)


def _preflight_http(uri: str, experiment: MlflowExperiment) -> None:
    if not _names_a_host(uri):
        raise UsageError(f"tracking URI {hide_password(uri)[:80]!r}: use http://HOST:PORT.")
    try:
        with warnings.catch_warnings(action="ignore"):  # of TLS without verification
            found = _patiently(lambda: _find(uri, experiment))
    except SweeperError:
        raise
    except Exception as error:  # noqa: BLE001 - MLflow passes on those of requests, protobuf, and plugins
        if TOO_MANY_REQUESTS in str(error):
            return  # the server is busy: the uploader asks again
        raise _refusal(uri, error, experiment) from None
    if found is not None:
        check_stage(uri, found)


def _patiently(ask: Callable[[], Experiment | None]) -> Experiment | None:
    """Ask a server; retry on failure, as it may have just started."""
    start = time.monotonic()
    while True:
        try:
            return ask()
        except Exception as error:
            limit = min(SECONDS, float(os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") or SECONDS))
            limit = min(limit, REFUSED_SECONDS) if REFUSED in str(error) else limit
            if not passing(error) or TOO_MANY_REQUESTS in str(error) or time.monotonic() - start + PAUSE > limit:
                raise
            time.sleep(PAUSE)


def _find(uri: str, experiment: MlflowExperiment) -> Experiment | None:
    """Return the MLflow experiment on a server, or None if it is to be created there, in a workspace that exists."""
    client = open_client(absolute(uri))
    found = find_experiment(client, experiment)
    if found is not None and found.artifact_location.startswith("mlflow-artifacts:"):
        _check_artifacts(uri)
    if found is None and (workspace := _workspace()) not in ("", DEFAULT_WORKSPACE):
        client.get_workspace(workspace)
    return found


def find_experiment(client: MlflowClient, experiment: MlflowExperiment) -> Experiment | None:
    """Return the MLflow experiment; None if there is none of this name. MLflow raises its error for an unknown id."""
    return client.get_experiment(experiment.id) if experiment.id else client.get_experiment_by_name(experiment.name)


def _unknown(uri: str, experiment: MlflowExperiment) -> UsageError:
    return UsageError(
        f"{hide_password(uri)} has no MLflow experiment {experiment}. Correct MLFLOW_EXPERIMENT_ID, or use "
        "--experiment-name."
    )


def _check_artifacts(uri: str) -> None:
    """Raise a SweeperError if the server takes no artifacts; MLflow's client hides the reason."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    path = "/api/2.0/mlflow-artifacts/artifacts"
    login = get_default_host_creds(uri)  # type: ignore[no-untyped-call]
    options = {"raise_on_status": False, "params": {"path": "nothing"}, "stream": True}
    with http_request(login, path, "GET", **options) as answer:  # type: ignore[no-untyped-call]
        text = answer.raw.read(MOST_ANSWER, decode_content=True).decode(errors="replace")
    if NOT_SERVED in text:
        raise SweeperError(
            f"tracking server {hide_password(uri)} does not accept artifacts: {one_line(text)}. Restart it with "
            "--serve-artifacts."
        )


def _workspace() -> str:
    return os.environ.get("MLFLOW_WORKSPACE", "").strip()


def _names_a_host(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return parts.port != 0 and HOST.fullmatch(parts.hostname or "") is not None
    except ValueError:
        return False


def _refusal(uri: str, error: Exception, experiment: MlflowExperiment) -> SweeperError:
    """Return the error to raise when MLflow's client fails with `error` at its first request."""
    server = f"tracking server {hide_password(uri)}"
    root = root_of(error)
    reason, code = reason_of(root), getattr(error, "error_code", "")
    if code == "RESOURCE_DOES_NOT_EXIST" and experiment.id:
        return _unknown(uri, experiment)
    if code == "PERMISSION_DENIED":
        return ServiceUnreachable(
            f"{server}: {_user(uri)} may not use the MLflow experiment {experiment} (PERMISSION_DENIED: {reason}). "
            "Ask its owner for the permission EDIT, or log in as another user."
        )
    if code == "UNAUTHENTICATED":
        return ServiceUnreachable(
            f"{server} does not accept these credentials ({code}). Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD."
        )
    if isinstance(root, ssl.SSLCertVerificationError):
        return ServiceUnreachable(
            f"{server}: its certificate is not trusted ({reason}). Set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of "
            "its CA."
        )
    if _workspace() and "orkspace" in reason:
        return UsageError(f"{server}: {reason}. Check MLFLOW_WORKSPACE={shlex.quote(_workspace())}.")
    if code == "INVALID_PARAMETER_VALUE" or "invalid path: " in reason or type(error) is ValueError:
        return UsageError(f"{server}: {reason}. Check the variables MLFLOW_TRACKING_*.")
    if not passing(error):
        return ServiceUnreachable(f"{hide_password(uri)} is not an MLflow server ({reason}). Check --tracking-uri.")
    how = "Is `sweeper serve` running? Start it" if REFUSED in reason else "Start it"
    return ServiceUnreachable(f"{server} does not answer ({reason}). {how}, or use --tracking-uri offline.")


def _user(uri: str) -> str:
    """The user whom MLflow's client logs in as, for messages."""
    name = urlsplit(uri).username or os.environ.get("MLFLOW_TRACKING_USERNAME")
    return f"user {name!r}" if name else "the owner of this token" if "MLFLOW_TRACKING_TOKEN" in os.environ else "you"


def root_of(error: BaseException) -> BaseException:
    """Return the first of a chain of errors. One of urllib3 has its cause among its arguments."""
    wrapped = next((each for each in error.args if isinstance(each, BaseException)), None)
    inner = error.__cause__ or error.__context__ or wrapped
    return root_of(inner) if inner else error


def _preflight_database(
    uri: str, url: str, unusable: type[SweeperError], experiment: MlflowExperiment
) -> None:  # fmt: skip
    """Look for the MLflow experiment in the database `url`, which may be empty yet."""
    import sqlalchemy

    local = url.startswith("sqlite")
    options = {"timeout": DATABASE_SECONDS} if local else {"connect_timeout": DATABASE_SECONDS}
    try:
        engine = sqlalchemy.create_engine(url, connect_args=options, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            tables = sqlalchemy.inspect(connection).get_table_names()
            held = _read(connection) if "experiments" in tables else Held([], set(), set(), None)
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        reason = hide_password(reason_of(getattr(error, "orig", None) or error)[:250])
        if "locked" in reason and local:
            return  # it is busy: the uploader asks again
        what = "cannot be read" if local else "does not answer"
        raise unusable(f"tracking database {hide_password(uri)} {what} ({reason}). Check --tracking-uri.") from None
    if tables and "experiments" not in tables:
        raise UsageError(
            f"tracking database {hide_password(uri)} belongs to another program (it has a table {tables[0]!r}). "
            "Name another one with --tracking-uri."
        )
    _check_schema(uri, held.schema)
    workspace = _check_workspace(uri, held)
    ours = [each for each in held.experiments if each.is_(experiment, workspace)]
    if experiment.id and not ours:
        raise _unknown(uri, experiment)
    for found in ours:
        check_stage(uri, found)


class Row(NamedTuple):
    """An MLflow experiment in a database, with the names of MLflow's own entity."""

    experiment_id: str
    lifecycle_stage: str
    workspace: str
    name: str

    def is_(self, experiment: MlflowExperiment, workspace: str) -> bool:
        """Return True if this is the experiment with that name or ID."""
        same = self.experiment_id == experiment.id if experiment.id else self.name == experiment.name
        return same and self.workspace == workspace


class Held(NamedTuple):
    """The content of an MLflow database: experiments, workspaces, schema."""

    experiments: list[Row]
    workspaces: set[str]
    used: set[str]  # workspaces of experiments
    schema: str | None


def _read(connection: sqlalchemy.Connection) -> Held:
    import sqlalchemy

    inspector = sqlalchemy.inspect(connection)
    tables, columns = inspector.get_table_names(), [c["name"] for c in inspector.get_columns("experiments")]
    where = f"COALESCE(workspace, '{DEFAULT_WORKSPACE}')" if "workspace" in columns else f"'{DEFAULT_WORKSPACE}'"
    rows = connection.execute(
        sqlalchemy.text(f"SELECT experiment_id, lifecycle_stage, {where}, name FROM experiments")  # noqa: S608 - ours
    ).all()
    made = connection.execute(sqlalchemy.text("SELECT name FROM workspaces")).all() if "workspaces" in tables else []
    version = sqlalchemy.text("SELECT version_num FROM alembic_version")
    schema = connection.execute(version).scalar() if "alembic_version" in tables else None
    found = [Row(str(number), stage, where, name) for number, stage, where, name in rows]
    return Held(found, {name for (name,) in made}, {where for _, _, where, _ in rows}, schema)


def _check_schema(uri: str, schema: str | None) -> None:
    """Raise a SweeperError if the installed MLflow would refuse the schema after training."""
    known, newest = mlflow_revisions()
    if schema is None or not newest or schema in newest:
        return
    shown = hide_password(absolute(uri))
    if schema in known:
        raise SweeperError(
            f"tracking database {shown} has the schema of an older MLflow. Take a backup, then upgrade it with: "
            f"{mlflow_command()} db upgrade {shlex.quote(shown)}"
        )
    raise SweeperError(
        f"tracking database {shown} has the schema {schema[:40]!r}, which the installed MLflow does not support. "
        "Install the release that created it, or name another database with --tracking-uri."
    )


def _check_workspace(uri: str, held: Held) -> str:
    """Return the workspace that MLflow will use in a database.

    Raises:
        UsageError: MLflow would refuse it after training.
    """
    shown, named = f"tracking database {hide_password(uri)}", _workspace()
    if os.environ.get("MLFLOW_ENABLE_WORKSPACES", "").lower() not in ("true", "1"):
        if others := sorted(held.used - {DEFAULT_WORKSPACE}):
            raise UsageError(
                f"{shown} has experiments in workspaces ({', '.join(others)[:100]}). Set "
                "MLFLOW_ENABLE_WORKSPACES=true, and name one with MLFLOW_WORKSPACE."
            )
        return DEFAULT_WORKSPACE
    if not named:
        raise UsageError("MLFLOW_ENABLE_WORKSPACES is set, but no workspace is named. Set MLFLOW_WORKSPACE.")
    if named not in held.workspaces | {DEFAULT_WORKSPACE}:
        raise UsageError(f"{shown} has no workspace {named!r}. Create it, or name another with MLFLOW_WORKSPACE.")
    return named


def check_stage(uri: str, found: Experiment | Row) -> None:
    """Raise a SweeperError that says how to restore the MLflow experiment if it was deleted."""
    if found.lifecycle_stage == "deleted":
        raise SweeperError(
            f"MLflow experiment {found.name!r} was deleted. Restore it with: "
            f"{mlflow_line(uri, f'experiments restore --experiment-id {found.experiment_id}')}"
        )


def mlflow_line(uri: str, command: str) -> str:
    """Return a command of MLflow on the store `uri`, for a shell."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(hide_password(absolute(uri)))} {mlflow_command()} {command}"


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
    """Return a store's URI: that of a sqlite file with its absolute path.

    MLflow keeps a store by its URI: by a relative one it would write into the database of an earlier working directory.
    """
    return sqlite_url(sqlite_file(uri).absolute()) if is_sqlite(uri) and "?" not in uri else uri


def hide_password(text: str) -> str:
    """Return `text` without the user and password of any URL in it."""
    return hide_query_password(re.sub(r"//([^/@\s:]*:\S*|[^/@\s]*)@", "//***@", text))


def reason_of(error: BaseException) -> str:
    """Return the message of `error` in one line, without user and password; of a server's answer, what it says."""
    text = one_line(error, 4_000)
    answer = ANSWER.search(text)
    return hide_password(one_line(f"{answer[1]}: {answer[2]}" if answer and answer[2] else text))
