"""`sweeper serve`: PostgreSQL, an MLflow server and the Optuna dashboard, started, watched and stopped as one.

Runs and trials go into two databases of one PostgreSQL, artifacts through the MLflow server into a folder. While it
serves, `serve.json` in the home says what runs where; a file lock keeps a second one away from the same home.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import datetime as dt
import ipaddress
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from io import StringIO
from pathlib import Path
from typing import Any, Final

import filelock

from sweeper.core.environment import Say
from sweeper.core.errors import SweeperError, UsageError
from sweeper.server.postgres import MLFLOW, OPTUNA, Databases, Embedded, external, package_folder
from sweeper.server.supervisor import Group, clean_environment

READY_SECONDS: Final = 300.0  # for what takes about ten; a loaded machine is slow, not broken
PROBE_SECONDS: Final = 5.0
STATE, LOCK, SECRETS, ARTIFACTS, DATA = "serve.json", "serve.lock", "secrets", "artifacts", "postgres"
ADMIN: Final = "admin"
SECRET_BYTES: Final = 24  # 32 characters
WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 -- names of addresses, nothing is bound
# Run in processes of their own: they import much, once, and a URL on a command line shows its password.
MAKE_TABLES: Final = "import os, optuna; optuna.storages.RDBStorage(os.environ['DATABASE_URL'])"
UPGRADE: Final = {
    MLFLOW: "import os; from mlflow.cli import cli; cli(['db', 'upgrade', os.environ['DATABASE_URL']])",
    OPTUNA: "import os; from optuna.storages import RDBStorage as S; "
    "S(os.environ['DATABASE_URL'], skip_compatibility_check=True, skip_table_creation=True).upgrade()",
}


@dataclass(frozen=True)
class ServeOptions:
    """What to serve, and to whom. `dashboard_port` None: no dashboard; `allowed_hosts`: names besides loopback's."""

    host: str = "127.0.0.1"
    port: int = 5000
    dashboard_port: int | None = 8080
    database_url: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    auth: bool = False
    upgrade: bool = False

    def check(self) -> None:
        """Refuse what would be open to strangers, or cannot work.

        Raises:
            UsageError: one line.
        """
        if wrong := [h for h in self.allowed_hosts if not re.fullmatch(r"[\w.-]+(:\d+)?|\[[\da-fA-F:.]+\](:\d+)?", h)]:
            raise UsageError(
                f"--allowed-hosts {wrong[0]!r}: expected a name as in a browser's address line, no wildcard"
            )
        if not is_loopback(self.host) and not (self.auth and self.allowed_hosts):
            raise UsageError(
                f"--host {self.host}: other machines could reach it; that needs --auth, and --allowed-hosts with the "
                "names they use"
            )
        if self.dashboard_port == self.port:
            raise UsageError(f"--dashboard-port {self.port}: the same as --port")

    @property
    def reachable_host(self) -> str:
        """The host part of a URL from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"[{host}]" if ":" in host else host

    @property
    def hosts(self) -> str:
        """What the header Host may be, as MLflow takes it: loopback and the given names, with and without the port."""
        own = () if self.host in WILDCARDS else (self.reachable_host,)
        names = dict.fromkeys(("127.0.0.1", "localhost", "[::1]", *own, *self.allowed_hosts))
        ported = [n for n in names if re.search(r":\d+$", n) and not n.endswith("]")]
        return ",".join([*ported, *(h for n in names if n not in ported for h in (n, f"{n}:{self.port}"))])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def held(home: Path, purpose: str) -> Iterator[None]:
    """Keep other processes from serving, backing up or restoring this home.

    Raises:
        SweeperError: another process holds it; the message says which. Or the home cannot be written.
    """
    lock, state = filelock.FileLock(home / LOCK), home / STATE
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        found = read_state(home) or {}
        who = f"process {found['pid']} since {found['since']}" if found else "another process"
        raise SweeperError(
            f"{home.resolve()} is in use by {who}, which runs sweeper {found.get('purpose', '?')}"
        ) from None
    except OSError as error:
        raise SweeperError(f"{home}: {error.strerror}; it must be a folder that can be written") from None
    try:
        write_state(home, {"purpose": purpose})
        yield
    finally:
        state.unlink(missing_ok=True)
        lock.release()


def write_state(home: Path, state: dict[str, Any]) -> None:
    """Say who uses this home, and how."""
    now = dt.datetime.now().astimezone().isoformat(timespec="seconds")
    _write_private(home / STATE, json.dumps({"pid": os.getpid(), "since": now} | state))


def read_state(home: Path) -> dict[str, Any] | None:
    """What the process that holds this home wrote with `write_state`; None if nobody holds it."""
    try:
        with filelock.FileLock(home / LOCK, timeout=0):
            return None
    except filelock.Timeout:
        pass
    except OSError:
        return None
    try:
        state: dict[str, Any] = json.loads((home / STATE).read_text())
    except (OSError, ValueError):  # it is about to write it
        return None
    return state


def _write_private(path: Path, text: str) -> None:
    """Write a file for its owner alone, aside and then renamed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:  # noqa: PTH123
        stream.write(text)
    aside.replace(path)


def serve(home: Path, options: ServeOptions, say: Say, started: Any = lambda _: None) -> None:
    """Serve until a signal arrives or a part dies; then stop every part.

    Args:
        home: Folder of the databases, artifacts, secrets and logs.
        options: What to serve.
        say: Takes the lines that a person reads.
        started: Called once with what `--json` prints, when every part is healthy.

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
            _python(MAKE_TABLES, databases.url(OPTUNA), "making the tables of Optuna")
        databases.let_dashboard_read()
        if options.dashboard_port is not None:
            _start_dashboard(group, options.dashboard_port, databases)
        found = _addresses(options, databases)
        for part in ("mlflow", "dashboard"):
            if part in found:
                url = found[part]
                group.ready(part, lambda url=url: answers(url), READY_SECONDS)  # type: ignore[misc]
        if options.auth:
            _check_admin(found["mlflow"], home)
        write_state(home, {"purpose": "serve", **found})
        _tell(home, options, found, databases, say)
        started({"pid": os.getpid(), **found})
        group.watch()


def start_databases(group: Group, home: Path, url: str | None) -> Databases:
    """The PostgreSQL of a URL, or the embedded one as a part of `group`.

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
        if port is None:
            continue
        try:
            family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as free:
                free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                free.bind(address)
        except OSError as error:
            raise SweeperError(
                f"{host}:{port}: {error.strerror}; choose another --{name}, or stop what listens there"
            ) from None


def bring_schemas_up(databases: Databases, upgrade: bool) -> None:
    """Refuse or upgrade the schema of an older release.

    Raises:
        SweeperError: a schema is old and `upgrade` is false, or of a newer release; or its upgrade failed.
    """
    old = [name for name in (MLFLOW, OPTUNA) if databases.outdated(name)]
    if old and not upgrade:
        raise SweeperError(
            f"database {' and '.join(map(repr, old))}: the schema of an older release; take a backup with: sweeper "
            "backup FILE, then upgrade it with: sweeper serve --upgrade"
        )
    for name in old:
        _python(UPGRADE[name], databases.url(name), f"the upgrade of database {name!r}")


def _python(code: str, url: str, what: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], env=clean_environment(_libpq() | {"DATABASE_URL": url}),
                          check=False, capture_output=True, text=True, start_new_session=True)  # fmt: skip
    if done.returncode != 0:
        raise SweeperError(f"{what} failed: {' '.join(done.stderr.split())[-400:]}")


def _libpq() -> dict[str, str]:
    """The variables that say how PostgreSQL is reached, such as PGPASSFILE and PGSSLMODE."""
    return {name: value for name, value in os.environ.items() if name.startswith("PG")}


def _start_mlflow(group: Group, home: Path, options: ServeOptions, databases: Databases) -> None:
    artifacts = (home / ARTIFACTS).resolve()
    artifacts.mkdir(mode=0o700, exist_ok=True)
    command = [
        sys.executable, "-m", "sweeper.server.mlflow", "--host", options.host, "--port", str(options.port),
        "--workers", "1", "--artifacts-destination", str(artifacts), "--allowed-hosts", options.hosts,
        "--uvicorn-opts", "--log-level warning",
    ]  # fmt: skip
    variables = _libpq() | {
        "MLFLOW_BACKEND_STORE_URI": databases.url(MLFLOW),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if options.auth:
        command += ["--app-name", "basic-auth"]
        variables |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(_auth_config(home, databases)),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secret(home, "flask-secret-key"),
            "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        }
    group.start("mlflow", command, variables)


def secret(home: Path, name: str) -> str:
    """A generated secret, kept in a file that only its owner can read."""
    folder = home / SECRETS
    folder.mkdir(mode=0o700, exist_ok=True)
    if not (folder / name).exists():
        _write_private(folder / name, secrets.token_urlsafe(SECRET_BYTES))
    return (folder / name).read_text()


def _auth_config(home: Path, databases: Databases) -> Path:
    """Write what MLflow's authentication reads: a user gets no permission that was not granted."""
    values = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": databases.url(MLFLOW),
        "admin_username": ADMIN,
        "admin_password": secret(home, "admin-password"),
    }
    config = configparser.ConfigParser()
    config["mlflow"] = {name: value.replace("%", "%%") for name, value in values.items()}
    text = StringIO()
    config.write(text)
    path = (home / SECRETS / "basic-auth.ini").resolve()
    _write_private(path, text.getvalue())
    return path


def _start_dashboard(group: Group, port: int, databases: Databases) -> None:
    variables = _libpq() | {"DATABASE_URL": databases.reading_url()}
    group.start("dashboard", [sys.executable, "-m", "sweeper.server.dashboard", str(port)], variables)


def _addresses(options: ServeOptions, databases: Databases) -> dict[str, Any]:
    """Where the parts are, without passwords."""
    found = {
        "mlflow": f"http://{options.reachable_host}:{options.port}",
        "storage": databases.url(OPTUNA, password=False),
        "embedded": databases.embedded,
    }
    if options.dashboard_port is not None:
        found["dashboard"] = f"http://127.0.0.1:{options.dashboard_port}"
    return found


def _tell(home: Path, options: ServeOptions, found: dict[str, Any], databases: Databases, say: Say) -> None:
    say(f"export MLFLOW_TRACKING_URI={found['mlflow']}")
    say(f"export SWEEPER_STORAGE='{found['storage']}'")
    if options.auth:
        say(f"export MLFLOW_TRACKING_USERNAME={ADMIN}")
        say(f"export MLFLOW_TRACKING_PASSWORD=\"$(cat '{(home / SECRETS / 'admin-password').resolve()}')\"")
    if databases.password:
        say("# the password of the database is not shown: put it into ~/.pgpass or PGPASSWORD")
    say(f"# runs:   {found['mlflow']}/#/experiments?workflowType=machine_learning")
    if "dashboard" in found:
        say(f"# trials: {found['dashboard']}/dashboard/")


def answers(url: str) -> bool:
    """Whether a server that listens there says it is healthy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=PROBE_SECONDS) as response:
            return bool(response.status == 200)
    except (OSError, ValueError):
        return False


def _check_admin(url: str, home: Path) -> None:
    """Log in as the administrator, whom MLflow makes once: a database that has one keeps its password.

    Raises:
        SweeperError: the password in the file is not that of the database.
    """
    path = home / SECRETS / "admin-password"
    token = base64.b64encode(f"{ADMIN}:{path.read_text()}".encode()).decode()
    request = urllib.request.Request(  # noqa: S310 - of this machine
        f"{url}/api/2.0/mlflow/users/get?username={ADMIN}", headers={"Authorization": f"Basic {token}"}
    )
    try:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=READY_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.UNAUTHORIZED:
            raise SweeperError(
                f"{path.resolve()}: not the password of {ADMIN} in this database, which an earlier home set; put the "
                f"secrets of that home into {path.parent.resolve()}"
            ) from None
        raise SweeperError(f"{url}: MLflow answers {error.code} to {ADMIN}; see {home / 'log'}") from None
    except OSError as error:
        raise SweeperError(f"{url}: MLflow does not let {ADMIN} in: {error}") from None


def check(home: Path, database_url: str | None) -> dict[str, Any]:
    """How each part of the `sweeper serve` on this home is; `healthy` is whether all are.

    Raises:
        UsageError: it uses a PostgreSQL that a URL named, and `database_url` is None, or is no URL of one.
    """
    named = external(database_url) if database_url else None
    state = read_state(home)
    if state is None or "mlflow" not in state:
        return {"healthy": False, "home": str(home.resolve()), "parts": {}}
    if not state["embedded"] and named is None:
        raise UsageError("--check: name the database with --database-url or SWEEPER_DATABASE_URL, as for sweeper serve")
    databases = named or Embedded(home / DATA).databases
    parts = {"postgresql": databases.answer() and {MLFLOW, OPTUNA} <= databases.present()}
    parts |= {name: answers(state[name]) for name in ("mlflow", "dashboard") if name in state}
    return {"healthy": all(parts.values()), "home": str(home.resolve()), "pid": state["pid"], "parts": parts}
