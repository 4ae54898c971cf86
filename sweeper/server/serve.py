"""`sweeper serve`: PostgreSQL, an MLflow server and the Optuna dashboard, started, watched and stopped as one.

Runs and trials go into two databases of one PostgreSQL, artifacts through the MLflow server into a folder. While it
serves, `serve.json` in the home lists its parts and their addresses. A file lock keeps other processes off the home.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import os
import secrets
import shlex
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import filelock

from sweeper.core.environment import Say
from sweeper.core.errors import SweeperError, UsageError
from sweeper.server.options import ServeOptions
from sweeper.server.postgres import (
    MLFLOW,
    OPTUNA,
    Databases,
    Embedded,
    external,
    libpq_variables,
    package_folder,
)
from sweeper.server.supervisor import Group, run

READY_SECONDS: Final = 300.0  # a part takes about 10; a loaded machine is slow, not broken
PROBE_SECONDS: Final = 5.0
STATE, LOCK, SECRETS, ARTIFACTS, DATA = "serve.json", "serve.lock", "secrets", "artifacts", "postgres"
ADMIN: Final = "admin"
SECRET_BYTES: Final = 24  # 32 characters
MLFLOW_VARIABLES: Final = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
# Each runs once, in its own process. The URL is in a variable, as a command line would show its password.
MAKE_TABLES: Final = "import os, optuna; optuna.storages.RDBStorage(os.environ['DATABASE_URL'])"
UPGRADE: Final = {
    MLFLOW: "import os; from mlflow.cli import cli; cli(['db', 'upgrade', os.environ['DATABASE_URL']])",
    OPTUNA: "import os; from optuna.storages import RDBStorage as S; "
    "S(os.environ['DATABASE_URL'], skip_compatibility_check=True, skip_table_creation=True).upgrade()",
}


@contextlib.contextmanager
def held(home: Path, purpose: str) -> Iterator[None]:
    """Keep other processes from serving, backing up or restoring this home.

    Raises:
        SweeperError: another process holds it, which the message names; or the home cannot be written.
    """
    lock, state = filelock.FileLock(home / LOCK), home / STATE
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        found = read_state(home) or {}
        who = f"process {found['pid']} since {found['since']}" if found else "another process"
        raise SweeperError(
            f"{home.resolve()} is in use by {who}, which runs sweeper {found.get('purpose', '?')}. Stop it, or wait "
            "for it."
        ) from None
    except OSError as error:
        raise SweeperError(f"could not lock {home}: {error.strerror}. Name a writable directory.") from None
    try:
        write_state(home, {"purpose": purpose})
        yield
    finally:
        state.unlink(missing_ok=True)
        lock.release()


def write_state(home: Path, state: dict[str, Any]) -> None:
    """Record which process uses this home, and how."""
    now = dt.datetime.now().astimezone().isoformat(timespec="seconds")
    _write_private(home / STATE, json.dumps({"pid": os.getpid(), "since": now} | state))


def read_state(home: Path) -> dict[str, Any] | None:
    """Return the record that the holder of this home wrote with `write_state`; None if nobody holds it."""
    try:
        with filelock.FileLock(home / LOCK, timeout=0):
            return None
    except filelock.Timeout:
        pass
    except OSError:
        return None
    try:
        state: dict[str, Any] = json.loads((home / STATE).read_text())
    except (OSError, ValueError):  # not written yet
        return None
    return state


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, aside and then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:  # noqa: PTH123
        stream.write(text)
    aside.replace(path)


def serve(home: Path, options: ServeOptions, say: Say, started: Any = lambda _: None) -> None:
    """Serve until a signal arrives or a part dies; then stop every part.

    Args:
        home: Folder of the databases, artifacts, secrets and logs.
        options: What to serve.
        say: Prints a line for people.
        started: Called once, when every part is healthy, with the result for `--json`.

    Raises:
        UsageError: an option is wrong, or a package is missing.
        SweeperError: a port is in use, another process holds the home, a schema is old, a part died, or the admin of
            the database has another password.
        ServiceUnreachable: the PostgreSQL of --database-url does not answer.
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived.
    """
    options.check()
    if options.dashboard_port is not None:
        package_folder("optuna_dashboard")
    if options.auth:
        package_folder("flask_wtf")  # of mlflow[auth]
    password = external(options.database_url).password if options.database_url else ""
    with held(home, "serve"), Group(home / "log", [password]) as group:
        _check_ports(options)
        databases = start_databases(group, home, options.database_url)
        databases.create()
        bring_schemas_up(databases, options.upgrade)
        _start_mlflow(group, home, options, databases)  # which makes its tables itself
        if databases.revision(OPTUNA) is None:
            _python(MAKE_TABLES, databases.url(OPTUNA), "creating the tables of Optuna")
        databases.let_dashboard_read()
        if options.dashboard_port is not None:
            command = [sys.executable, "-m", "sweeper.server.dashboard", str(options.dashboard_port)]
            group.start("dashboard", command, libpq_variables() | {"DATABASE_URL": databases.reading_url()})
        found: dict[str, Any] = {
            "mlflow": f"http://{options.reachable_host}:{options.port}",
            "storage": databases.url(OPTUNA, password=False),
            "embedded": databases.embedded,
        }
        if options.dashboard_port is not None:
            found["dashboard"] = f"http://127.0.0.1:{options.dashboard_port}"
        for part in ("mlflow", "dashboard"):
            if part in found:
                group.ready(part, partial(answers, found[part]), READY_SECONDS)
        if options.auth:
            _check_admin(found["mlflow"], home)
        write_state(home, {"purpose": "serve", **found})
        _say_settings(home, options, found, databases, say)
        started({"pid": os.getpid(), **found})
        group.watch()


def start_databases(group: Group, home: Path, url: str | None) -> Databases:
    """Connect to the PostgreSQL of a URL, or start the embedded one as a part of `group`.

    Raises:
        ServiceUnreachable: the one of the URL does not answer.
        SweeperError: the embedded one does not start.
    """
    if url is None:
        return Embedded(home / DATA).start(group)
    databases = external(url)
    with databases.connected():
        return databases


def _check_ports(options: ServeOptions) -> None:
    for name, host, port in (
        ("port", options.host, options.port),
        ("dashboard-port", "127.0.0.1", options.dashboard_port),
    ):
        if port is not None:
            check_port(host, port, name)


def check_port(host: str, port: int, name: str) -> None:
    """Refuse a port that another program uses; `name` is its option.

    Raises:
        SweeperError: one line.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(address)
    except OSError as error:
        raise SweeperError(
            f"{host}:{port}: {error.strerror}. Choose another --{name}, or stop the program that uses the port."
        ) from None


def bring_schemas_up(databases: Databases, upgrade: bool) -> None:
    """Refuse or upgrade the schema of an older release.

    Raises:
        SweeperError: a schema is old and `upgrade` is false, or of a newer release; or its upgrade failed.
    """
    old = [name for name in (MLFLOW, OPTUNA) if databases.outdated(name)]
    if old and not upgrade:
        raise SweeperError(
            f"database {' and '.join(map(repr, old))} has the schema of an older release. Take a backup with: sweeper "
            "backup FILE, then upgrade it with: sweeper serve --upgrade"
        )
    for name in old:
        _python(UPGRADE[name], databases.url(name), f"the upgrade of database {name!r}")


def _python(code: str, url: str, task: str) -> None:
    run([sys.executable, "-c", code], task, libpq_variables() | {"DATABASE_URL": url})


def _start_mlflow(group: Group, home: Path, options: ServeOptions, databases: Databases) -> None:
    artifacts = (home / ARTIFACTS).resolve()
    artifacts.mkdir(mode=0o700, exist_ok=True)
    command = mlflow_server(options, artifacts)
    variables = MLFLOW_VARIABLES | libpq_variables() | {"MLFLOW_BACKEND_STORE_URI": databases.url(MLFLOW)}
    if options.auth:
        command += ["--app-name", "basic-auth"]
        variables |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(_auth_config(home, databases)),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secret(home, "flask-secret-key"),
            "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        }
    group.start("mlflow", command, variables)


def mlflow_server(options: ServeOptions, artifacts: Path) -> list[str]:
    """Return the command of an MLflow server, which takes artifacts into the folder `artifacts`."""
    return [
        sys.executable, "-m", "sweeper.server.mlflow", "--host", options.host, "--port", str(options.port),
        "--workers", "1", "--artifacts-destination", str(artifacts), "--allowed-hosts", options.hosts,
        "--cors-allowed-origins", options.origins, "--uvicorn-opts", "--log-level warning",
    ]  # fmt: skip


def secret(home: Path, name: str) -> str:
    """Return a generated secret, kept in a file that only its owner may read."""
    folder = home / SECRETS
    folder.mkdir(mode=0o700, exist_ok=True)
    if not (folder / name).exists():
        _write_private(folder / name, secrets.token_urlsafe(SECRET_BYTES))
    return (folder / name).read_text()


def _auth_config(home: Path, databases: Databases) -> Path:
    """Write the configuration of MLflow's authentication: a user has the permissions that were granted, no others."""
    values = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": databases.url(MLFLOW),
        "admin_username": ADMIN,
        "admin_password": secret(home, "admin-password"),
    }
    lines = [f"{name} = {value.replace('%', '%%')}\n" for name, value in values.items()]
    path = (home / SECRETS / "basic-auth.ini").resolve()
    _write_private(path, "".join(["[mlflow]\n", *lines]))
    return path


def _say_settings(home: Path, options: ServeOptions, found: dict[str, Any], databases: Databases, say: Say) -> None:
    say(f"export MLFLOW_TRACKING_URI={shlex.quote(found['mlflow'])}")
    say(f"export SWEEPER_STORAGE={shlex.quote(found['storage'])}")
    if options.auth:
        say(f"export MLFLOW_TRACKING_USERNAME={ADMIN}")
        file = shlex.quote(str((home / SECRETS / "admin-password").resolve()))
        say(f'export MLFLOW_TRACKING_PASSWORD="$(cat {file})"')
    if databases.password:
        say("# the database password is not shown; put it into ~/.pgpass or PGPASSWORD")
    say(f"# runs:   {found['mlflow']}/#/experiments?workflowType=machine_learning")
    if "dashboard" in found:
        say(f"# trials: {found['dashboard']}/dashboard/")


def answers(url: str) -> bool:
    """Return True if the server at `url` is healthy."""
    try:
        return _status(f"{url}/health", PROBE_SECONDS) == 200
    except (OSError, ValueError):
        return False


def _status(request: str | urllib.request.Request, seconds: float) -> int:
    """Return the status of a request that goes through no proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=seconds) as response:
        return int(response.status)


def _check_admin(url: str, home: Path) -> None:
    """Log in as the admin. MLflow creates one once; a database that has one keeps its password.

    Raises:
        SweeperError: the password in the file is not that of the database.
    """
    path = home / SECRETS / "admin-password"
    token = base64.b64encode(f"{ADMIN}:{path.read_text()}".encode()).decode()
    request = urllib.request.Request(  # noqa: S310 - of this machine
        f"{url}/api/2.0/mlflow/users/get?username={ADMIN}", headers={"Authorization": f"Basic {token}"}
    )
    try:
        _status(request, READY_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.UNAUTHORIZED:
            raise SweeperError(
                f"{path.resolve()} does not hold the password of {ADMIN} in this database, which another home set. "
                f"Copy that home's secrets into {path.parent.resolve()}."
            ) from None
        raise SweeperError(f"{url}: MLflow answered {error.code} to {ADMIN}. See {(home / 'log').resolve()}.") from None
    except OSError as error:
        raise SweeperError(f"{url}: {ADMIN} could not log in ({error}). See {(home / 'log').resolve()}.") from None


def check(home: Path, database_url: str | None) -> dict[str, Any]:
    """Return the health of each part of the `sweeper serve` on this home, and of all as `healthy`.

    Raises:
        UsageError: it uses the PostgreSQL of a URL, and `database_url` is None or not such a URL.
    """
    named = external(database_url) if database_url else None
    state = read_state(home)
    if state is None or "mlflow" not in state:
        return {"healthy": False, "home": str(home.resolve()), "parts": {}}
    if not state["embedded"] and named is None:
        raise UsageError("--check needs the database: name it with --database-url or SWEEPER_DATABASE_URL.")
    databases = named or Embedded(home / DATA).databases
    parts = {"postgresql": databases.answer() and {MLFLOW, OPTUNA} <= databases.present()}
    parts |= {name: answers(state[name]) for name in ("mlflow", "dashboard") if name in state}
    return {"healthy": all(parts.values()), "home": str(home.resolve()), "pid": state["pid"], "parts": parts}
