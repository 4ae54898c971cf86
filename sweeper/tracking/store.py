"""What is behind a tracking URI: looked at before anything is created, and without importing MLflow."""

from __future__ import annotations

import base64
import configparser
import os
import re
import ssl
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from sweeper.core.errors import ServiceUnreachable, SweeperError, UsageError, one_line
from sweeper.core.urls import hide_query_password, refuse_query_password

if TYPE_CHECKING:
    import requests


EXPERIMENT: Final = "bn-dropout"
SQLITE_URI: Final = re.compile(r"sqlite:///(?!:memory:).")  # nobody could look at what is in memory
HOST: Final = re.compile(r"[A-Za-z0-9_.:%-]+")
SQLITE: Final = b"SQLite format 3\0"  # how such a file begins (sqlite.org/fileformat.html)
SECONDS: Final = 5  # that a store may take to answer


def preflight(uri: str) -> None:
    """Check, without importing MLflow, that there is a store behind `uri` that takes our runs, or that one can be made.

    Raises:
        UsageError: the URI is not one that MLflow tracks to, or has a password in its query part; the database is
            another program's; or MLflow's variables for TLS are wrong.
        ServiceUnreachable: the server does not answer within 5 seconds, or does not let us in.
        SweeperError: the experiment was deleted, or the folder of a sqlite file is missing or read-only.
    """
    scheme = uri.partition(":")[0]
    if SQLITE_URI.match(uri):
        _preflight_sqlite(uri)
    elif scheme in ("http", "https"):
        _preflight_http(uri)
    elif scheme in ("postgresql", "postgres") or scheme.startswith("postgresql+"):
        _preflight_postgresql(uri)
    else:
        raise UsageError(
            f"tracking URI {hide_password(uri)[:80]!r}: expected http://HOST:PORT, sqlite:///FILE, postgresql://…, "
            "offline or none"
        )


def _preflight_sqlite(uri: str) -> None:
    file = sqlite_file(uri)
    present = file.exists()
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK) or (present and not os.access(file, os.W_OK)):
        raise SweeperError(f"tracking database {file}: cannot be written; its folder must exist and be writable")
    if present and not _is_sqlite(file):
        raise SweeperError(f"tracking database {file}: not a database of sqlite; name another file with --tracking-uri")
    if present:  # rw: a transaction that a killed writer left half done is rolled back by the next one to read
        _preflight_database(uri, f"sqlite:///file:{quote(str(file.resolve()))}?mode=rw&uri=true", SweeperError)


def _is_sqlite(file: Path) -> bool:
    """Whether the file is a database of sqlite, or empty, which is to become one."""
    with file.open("rb") as stream:
        return stream.read(len(SQLITE)) in (SQLITE, b"")


def _preflight_http(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UsageError(f"tracking URI {hide_password(uri)[:80]!r}: expected http://HOST:PORT") from None
    if not HOST.fullmatch(host):
        raise UsageError(f"tracking URI {hide_password(uri)[:80]!r}: expected http://HOST:PORT")
    address = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    answer = _ask(uri, f"{parts.scheme}://{address}{parts.path.rstrip('/')}/health")
    if answer.status_code >= 500:  # else somebody is there
        raise _silent(uri, f"{answer.status_code} {answer.reason}")
    _preflight_experiment(uri)


def _preflight_experiment(uri: str) -> None:
    """Ask a server that is there for the experiment, as MLflow's client would."""
    if os.environ.get("MLFLOW_TRACKING_AUTH") or os.environ.get("MLFLOW_TRACKING_AWS_SIGV4"):
        return  # a plugin signs the requests, which only MLflow can load
    where = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name"
    answer = _ask(uri, where, params={"experiment_name": EXPERIMENT}, headers=_authorization())
    if answer.status_code in (401, 403):
        raise ServiceUnreachable(
            f"tracking server {hide_password(uri)} does not let us in ({answer.status_code}); user and password go "
            "into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if answer.status_code == 429 or answer.status_code >= 500:
        return  # it is busy: the uploader asks again
    try:
        content = answer.json()
        found = content.get("experiment") or {}
        stage = found.get("lifecycle_stage", "")
    except (ValueError, AttributeError):
        raise ServiceUnreachable(f"{hide_password(uri)} is no MLflow server ({answer.status_code})") from None
    check_stage(uri, found.get("experiment_id"), stage)


def _ask(uri: str, where: str, **given: Any) -> requests.Response:
    """What the server of `uri` answers to a GET of `where`, over TLS as MLflow's client is told to."""
    import requests
    from urllib3.exceptions import InsecureRequestWarning

    tls = _tls(where.startswith("https"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)  # the user has asked for it
            return requests.get(where, timeout=SECONDS, **tls, **given)
    except (OSError, ValueError) as error:  # all of requests' own, and what it lets through
        root = _root(error)
        reason = reason_of(root)[:120]
        if isinstance(root, ssl.SSLCertVerificationError):
            raise ServiceUnreachable(
                f"tracking server {hide_password(uri)}: its certificate is not trusted ({reason}); name the file of "
                "its CA in MLFLOW_TRACKING_SERVER_CERT_PATH"
            ) from None
        raise _silent(uri, reason) from None


def _tls(used: bool) -> dict[str, Any]:
    """How MLflow's client checks the server's certificate, and which one it shows: arguments of `requests.get`.

    Raises:
        UsageError: a variable has a wrong value, or two exclude each other; a file is missing, if TLS is `used`.
    """
    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "false")
    files = {name: os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("SERVER_CERT_PATH", "CLIENT_CERT_PATH")}
    if insecure.lower() not in ("true", "false", "1", "0"):
        raise UsageError(f"MLFLOW_TRACKING_INSECURE_TLS={insecure[:40]!r}: expected true or false")
    checked, authority = insecure.lower() in ("false", "0"), files["SERVER_CERT_PATH"]
    if authority is not None and not checked:
        raise UsageError(
            "MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH: MLflow takes one of the two; unset one"
        )
    for name, path in files.items():
        if used and path and not os.path.exists(path):  # noqa: PTH110 - Path's raises for a name above 255 characters
            raise UsageError(f"MLFLOW_TRACKING_{name}={path[:80]!r}: no such file")
    return {"verify": checked if authority is None else authority, "cert": files["CLIENT_CERT_PATH"]}


def _root(error: BaseException) -> BaseException:
    """Where an error comes from that requests has wrapped several times."""
    while True:
        wrapped = next((e for e in error.args if isinstance(e, BaseException)), None)
        inner = error.__cause__ or error.__context__ or wrapped
        if inner is None:
            return error
        error = inner


def _authorization() -> dict[str, str]:
    """The header of MLflow's own client; what the URL or ~/.netrc says, requests adds itself."""
    file = configparser.ConfigParser(interpolation=None)
    file.read(os.path.expanduser("~/.mlflow/credentials"))  # noqa: PTH111 - Path's refuses a user without a home
    written = {name.upper(): value for name, value in file.items("mlflow")} if file.has_section("mlflow") else {}
    user, password = (
        os.environ.get(name) or written.get(name, "")
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    )
    if user and password:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _silent(uri: str, reason: str) -> ServiceUnreachable:
    return ServiceUnreachable(
        f"tracking server {hide_password(uri)} does not answer ({reason}); start it, or use --tracking-uri offline"
    )


def _preflight_postgresql(uri: str) -> None:
    refuse_query_password(uri)
    _preflight_database(uri, re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", uri), ServiceUnreachable)


def _preflight_database(uri: str, url: str, unusable: type[SweeperError]) -> None:
    """Look for the experiment in the database of `url`, which may be empty yet."""
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
        raise unusable(f"tracking database {hide_password(uri)} {what} ({reason})") from None
    if tables and "experiments" not in tables:
        raise UsageError(
            f"tracking database {hide_password(uri)}: another program's, with tables such as {tables[0]!r}; "
            "name another one with --tracking-uri"
        )
    for number, stage in found:
        check_stage(uri, number, stage)


def check_stage(uri: str, number: object, stage: str) -> None:
    """Refuse the experiment `number` if it was deleted.

    Raises:
        SweeperError: it was; the message says how to restore it.
    """
    if stage == "deleted":
        raise SweeperError(
            f"MLflow experiment {EXPERIMENT!r} was deleted; restore it with: "
            f"MLFLOW_TRACKING_URI={hide_password(uri)} mlflow experiments restore --experiment-id {number}"
        )


def store_uri(uri: str) -> str:
    """`uri` as MLflow knows it: `postgres://` is `postgresql://`.

    Raises:
        UsageError: it is that of a database, and has a password in its query part.
    """
    if uri.startswith("postgres"):
        refuse_query_password(uri)
    return re.sub(r"^postgres://", "postgresql://", uri)


def sqlite_file(uri: str) -> Path:
    """The file of a sqlite URI."""
    return Path(uri.removeprefix("sqlite:///"))


def hide_password(text: str) -> str:
    """`text` with the user and password of any URL in it left out."""
    return hide_query_password(re.sub(r"//([^/@\s:]*:\S*|[^/@\s]*)@", "//***@", text))


def reason_of(error: BaseException) -> str:
    """What `error` says, in one line, without user and password."""
    return hide_password(one_line(error))
