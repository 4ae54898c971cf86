from __future__ import annotations

import base64
import contextlib
import datetime as dt
import http.server
import ipaddress
import json
import os
import re
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sweeper.core.errors import ServiceUnreachable, SweeperError, UsageError
from sweeper.sweep.tracker import FIGURES
from sweeper.tracking import mlflow as tracking
from sweeper.tracking import patience
from sweeper.tracking.base import FINISHED, RunInfo, RunLog
from sweeper.tracking.connection import Connection
from sweeper.tracking.fetching import KEY_TAG, run_id_of, ui_link
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.mlflow import MlflowTracker, sync
from sweeper.tracking.reading import ARTIFACTS, read_events
from sweeper.tracking.store import EXPERIMENT, hide_password, preflight, sqlite_file, store_uri
from sweeper.tracking.upload import Uploader
from tests.faults.tools.proxy import Proxy

pytest_plugins = ["tests.support.mlflow_store"]

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

LONG = 120.0  # seconds, for what takes a few
EPOCHS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Home:
    """A folder with a journal and, unless `uri` names another, an MLflow store."""

    folder: Path
    uri: str
    warned: list[str]

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def connection(self) -> Connection:
        return Connection(self.uri, self.folder, self.warned.append)

    def sync(self) -> int:
        return sync(self.journal, self.uri, self.journal.parent, FIGURES, self.warned.append)

    @contextlib.contextmanager
    def tracker(self, warn: Callable[[str], None] | None = None) -> Iterator[MlflowTracker]:
        tracker = MlflowTracker(self.journal, self.uri, FIGURES, warn or self.warned.append)
        try:
            yield tracker
        finally:
            tracker.close(LONG)

    def steps(self) -> dict[str, list[int]]:
        """The steps of `val/loss` of each run that MLflow has, by the run's key."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], run_view_type=3)
        assert len({run.data.tags[KEY_TAG] for run in runs}) == len(runs), "a run is there twice"
        return {
            run.data.tags[KEY_TAG]: [m.step for m in client.get_metric_history(run.info.run_id, "val/loss")]
            for run in runs
        }


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> Home:
    """A store that holds nothing yet."""
    return Home(tmp_path, f"sqlite:///{shutil.copy(empty_store, tmp_path)}", [])


def info(key: str = "k", run_id: str | None = None) -> RunInfo:
    dataset = {"name": "sample", "sha256": "0" * 64, "source": "/data", "profile": {}}
    return RunInfo(key, f"run {key}", {"lr": "0.001"}, {"a": "b"}, "A run.", f"demo/{key}", dataset, run_id)


def write(log: RunLog, steps: tuple[int, ...] = EPOCHS, *, end: bool = True) -> None:
    log.artifact("config.json", b"{}")
    for step in steps:
        log.epoch(step, {"train/loss": 1.0, "train/accuracy": 0.5, "val/loss": 1 / step, "val/accuracy": 0.5})
    if end:
        log.end(FINISHED, {"final/val_loss": 1 / len(steps)}, {"sweeper.state": "complete"})


def refusal(call: Callable[[], Any], kind: type[SweeperError]) -> str:
    """The message with which `call` is refused; always one line."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


# --- before anything is sent ---------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["", "mlflow.db", "foo://x", "file:///tmp/x", "databricks", "mysql://u:canary@h/db"])
def test_a_uri_that_sweeper_does_not_track_to_is_refused_with_those_it_does(uri: str) -> None:
    message = refusal(lambda: preflight(uri), UsageError)
    assert "expected http://HOST:PORT, sqlite:///FILE" in message
    assert "canary" not in message


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1:1",
        "http://u:canary@127.0.0.1:1",
        "postgresql://u:canary@127.0.0.1:1/db",
        "postgres://u:canary@127.0.0.1:1/db",
    ],
)
def test_a_store_that_does_not_answer_is_named_without_its_password(uri: str) -> None:
    message = refusal(lambda: preflight(uri), ServiceUnreachable)
    assert f"{uri.replace('u:canary', '***')} does not answer" in message
    assert "canary" not in message


@pytest.mark.parametrize(
    "uri", ["http://", "http://localhost:port", "http://u:canary@localhost", "http://a b", "http://[::1"]
)
def test_a_malformed_uri_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(SweeperError) as caught:
        preflight(uri)
    assert "canary" not in str(caught.value)


class Quiet(http.server.BaseHTTPRequestHandler):
    """Answers with what `reply` is given, and logs nothing."""

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def answering(status: int, body: bytes = b"{}") -> type[Quiet]:
    class Handler(Quiet):
        def do_GET(self) -> None:
            self.reply(status, body)

    return Handler


@contextlib.contextmanager
def listening(handler: Any, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server on loopback that answers one request after the other with `handler`."""
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("status", [200, 429])
def test_a_server_that_answers_or_is_busy_is_there(status: int, slash: str) -> None:
    with listening(answering(status)) as uri:
        preflight(uri + slash)


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_only_fails_does_not_answer(status: int) -> None:
    with listening(answering(status)) as uri:
        message = refusal(lambda: preflight(uri), ServiceUnreachable)
    assert f"{uri} does not answer" in message
    assert str(status) in message


def test_a_server_that_never_answers_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")  # which the check does not wait for, and leaves as it is
    monkeypatch.setattr("sweeper.tracking.store.SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "timed out" in refusal(lambda: preflight(uri), ServiceUnreachable)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "600"


class Babble(http.server.BaseHTTPRequestHandler):
    """What is not an HTTP server says something else."""

    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"SSH-2.0-OpenSSH\r\n")


def test_a_port_that_speaks_something_else_does_not_answer() -> None:
    with listening(Babble) as uri:
        assert "does not answer" in refusal(lambda: preflight(uri), ServiceUnreachable)


class Guarded(Quiet):
    """Lets in a user and a password, or a token."""

    RIGHT = (f"Basic {base64.b64encode(b'user:secret').decode()}", "Bearer token")

    def do_GET(self) -> None:
        known = self.headers["Authorization"] in self.RIGHT
        self.reply(200 if known else 401, b"{}" if known else b"You are not authenticated.")


@pytest.mark.parametrize(
    ("given", "lets_in"),
    [
        ({}, False),
        ({"user": "user:secret@"}, True),
        ({"user": "user:canary@"}, False),
        ({"MLFLOW_TRACKING_USERNAME": "user", "MLFLOW_TRACKING_PASSWORD": "canary"}, False),
        ({"MLFLOW_TRACKING_TOKEN": "token"}, True),
    ],
)
def test_a_server_is_asked_with_the_credentials_that_mlflow_would_use(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], lets_in: bool
) -> None:
    for name in (n for n in given if n.isupper()):
        monkeypatch.setenv(name, given[name])
    with listening(Guarded) as server:
        uri = server.replace("//", f"//{given.get('user', '')}")
        if lets_in:
            preflight(uri)
        else:
            message = refusal(lambda: preflight(uri), ServiceUnreachable)
            assert "does not accept these credentials" in message
            assert "canary" not in message


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that nobody else has signed, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests of sweeper")])
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    written = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(written + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextlib.contextmanager
def behind_tls(certificate: Path, asks: bool = False) -> Iterator[tuple[str, list[str]]]:
    """A server that shows the certificate, and `asks` for the same one; its URI, and the paths it was asked for."""
    paths: list[str] = []

    class Handler(Quiet):
        def do_GET(self) -> None:
            paths.append(self.path.partition("?")[0])
            self.reply(200, b"{}")

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    if asks:
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(certificate)
    with listening(Handler, tls) as uri:
        yield uri, paths


def tls_variables(monkeypatch: pytest.MonkeyPatch, certificate: Path, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value.format(certificate=certificate))


HERE = "{certificate}"


@pytest.mark.parametrize(
    ("values", "asks"),
    [
        ({"SERVER_CERT_PATH": HERE}, False),
        ({"SERVER_CERT_PATH": HERE, "INSECURE_TLS": "false"}, False),
        ({"INSECURE_TLS": "True"}, False),
        ({"SERVER_CERT_PATH": HERE, "CLIENT_CERT_PATH": HERE}, True),
    ],
)
def test_a_server_of_a_private_ca_is_asked_as_mlflow_is_told_to(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], asks: bool
) -> None:
    tls_variables(monkeypatch, certificate, **values)
    with behind_tls(certificate, asks) as (uri, paths):
        preflight(uri)
    assert len(paths) == 1


@pytest.mark.parametrize(
    ("values", "asks", "says"),
    [
        ({}, False, "self-signed certificate (_ssl"),
        ({"INSECURE_TLS": "0"}, False, "Set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of its CA"),
        ({"SERVER_CERT_PATH": HERE}, True, "does not answer"),
    ],
)
def test_a_certificate_that_is_not_trusted_is_an_error(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], asks: bool, says: str
) -> None:
    tls_variables(monkeypatch, certificate, **values)
    with behind_tls(certificate, asks) as (uri, paths):
        assert says in refusal(lambda: preflight(uri), ServiceUnreachable)
    assert paths == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"INSECURE_TLS": "yes"}, "MLFLOW_TRACKING_INSECURE_TLS value must be one of"),
        ({"INSECURE_TLS": "1", "SERVER_CERT_PATH": HERE}, "When 'ignore_tls_verification' is true"),
        ({"SERVER_CERT_PATH": "nowhere.pem"}, "invalid path: nowhere.pem. Check the variables MLFLOW_TRACKING_"),
        ({"CLIENT_CERT_PATH": "nowhere.pem"}, "invalid path: nowhere.pem. Check the variables MLFLOW_TRACKING_"),
    ],
)
def test_settings_of_tls_that_mlflow_does_not_take_are_named(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], says: str
) -> None:
    tls_variables(monkeypatch, certificate, **values)
    assert says in refusal(lambda: preflight("https://127.0.0.1:1"), UsageError)


def test_a_sqlite_file_may_be_there_or_its_folder(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    preflight(uri)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").touch()
    preflight(uri)


KILLED_WHILE_WRITING = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size = 1")  # pages reach the file before the end of the transaction
connection.execute("PRAGMA journal_mode = {mode}")
connection.execute("CREATE TABLE experiments (experiment_id, lifecycle_stage, name)")
connection.execute("CREATE TABLE large (text)")
connection.commit()
connection.executemany("INSERT INTO large VALUES (?)", [("x" * 4000,)] * 100)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("mode", "left"), [("delete", "-journal"), ("wal", "-wal")])
def test_a_sqlite_file_whose_writer_was_killed_in_a_transaction_is_used_again(
    tmp_path: Path, mode: str, left: str
) -> None:
    file = tmp_path / "mlflow.db"
    subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING.format(mode=mode), file], timeout=60)
    assert (tmp_path / f"mlflow.db{left}").stat().st_size > 0  # what the next reader rolls back, or leaves out
    preflight(f"sqlite:///{file}")
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM large").fetchone() == (0,)


CONNECTS = """
import sys
from pathlib import Path
from sweeper.tracking.connection import Connection
Connection(sys.argv[1], Path(sys.argv[2]), print).connect()
"""


def test_a_store_whose_creation_was_killed_is_created_again(tmp_path: Path, until: Callable[..., Any]) -> None:
    file, stale = tmp_path / "mlflow.db", tmp_path / "mlflow.db-journal"
    connect = [sys.executable, "-c", CONNECTS, f"sqlite:///{file}", str(tmp_path)]
    with subprocess.Popen(connect) as creating:
        until(lambda: list(tmp_path.glob(".mlflow.db.creating-*")), "a part of the store")
        creating.kill()
    assert not file.exists()
    preflight(f"sqlite:///{file}")
    stale.write_bytes(b"of a database that was removed")
    subprocess.run(connect, check=True, timeout=60)
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT name FROM experiments").fetchall() == [("Default",), (EXPERIMENT,)]


def test_a_sqlite_file_in_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = refusal(lambda: preflight(f"sqlite:///{tmp_path}/no/mlflow.db"), SweeperError)
    assert f"{tmp_path}/no/mlflow.db: cannot be written" in message


# --- URIs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:canary@h:1/x", "http://***@h:1/x"),
        ("postgresql+psycopg://u:canary@h/db", "postgresql+psycopg://***@h/db"),
        ("http://token@h", "http://***@h"),
        ("from http://u:canary@a to http://u:canary@b", "from http://***@a to http://***@b"),
        ("http://h:1/x", "http://h:1/x"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://h/x@y", "http://h/x@y"),
        ("postgresql://h/db?user=u&password=can@ary&host=/x", "postgresql://h/db?user=u&password=***&host=/x"),
        ("postgresql://h/db?sslpassword=canary", "postgresql://h/db?sslpassword=***"),
        ("postgresql://h/db?passfile=/x", "postgresql://h/db?passfile=/x"),
    ],
)
def test_user_and_password_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert hide_password(text) == shown


@pytest.mark.parametrize("uri", ["postgresql://u:can/ary@h/db", "postgresql://u:can@ary@h/db"])
def test_a_password_of_unusual_letters_is_hidden(uri: str) -> None:
    assert "ary" not in hide_password(uri)


@pytest.mark.parametrize("use", [preflight, store_uri])
def test_a_password_in_the_query_of_a_uri_is_refused_and_not_shown(use: Callable[[str], object]) -> None:
    message = refusal(lambda: use("postgres://127.0.0.1:1/db?user=u&password=canary"), UsageError)
    assert "put the password into ~/.pgpass" in message
    assert "canary" not in message


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////srv/mlflow.db", "/srv/mlflow.db"),
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:///folder/x.db", "folder/x.db"),
    ],
)
def test_the_file_of_a_sqlite_uri(uri: str, file: str) -> None:
    assert sqlite_file(uri) == Path(file)


def test_a_link_leads_to_the_run_or_to_the_table_of_runs(home: Home) -> None:
    home.connection().connect()
    with_id = ui_link("http://h:5000/", home.uri, "abc")
    assert with_id == "http://h:5000/#/experiments/1/runs/abc"
    assert ui_link("http://h:5000", home.uri, None) == (
        "http://h:5000/#/experiments/1/runs?workflowType=machine_learning"
    )


def test_a_link_to_a_server_that_is_away_leads_to_its_front_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert ui_link("http://127.0.0.1:1", "http://127.0.0.1:1", "abc") == "http://127.0.0.1:1"


# --- connecting ----------------------------------------------------------------------------------


def test_a_new_store_is_made_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    home = Home(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", [])
    real, together = mlflow.MlflowClient, threading.Barrier(3)

    def make(**where: str) -> mlflow.MlflowClient:
        with pytest.raises(filelock.Timeout):  # whoever makes it keeps the others out
            filelock.FileLock(tmp_path / "mlflow.db.lock").acquire(timeout=0)
        return real(**where)

    def connect(_: int) -> list[str]:
        connection = home.connection()
        together.wait()
        connection.connect()
        return sorted(e.name for e in connection.client.search_experiments())

    monkeypatch.setattr(mlflow, "MlflowClient", make)
    with ThreadPoolExecutor(together.parties) as pool:
        seen = list(pool.map(connect, range(together.parties)))
    assert seen == [["Default", EXPERIMENT]] * together.parties
    assert home.warned == []


def test_files_go_beside_the_store(home: Home) -> None:
    connection = home.connection()
    connection.connect()
    experiment = connection.client.get_experiment_by_name(EXPERIMENT)
    assert experiment.artifact_location == (home.folder / "mlartifacts").as_uri()


def test_the_values_of_an_end_that_another_attempt_followed_arrive_as_well(home: Home) -> None:
    journal = JournalTracker(home.journal)
    write(journal.start(info()))
    journal.start(info()).end(FINISHED, {}, {"sweeper.state": "complete"})  # before anything was sent
    assert home.sync() == 1
    from mlflow import MlflowClient

    run = MlflowClient(tracking_uri=home.uri).get_run(run_id_of(home.journal, "demo/k", home.uri) or "")
    assert run.data.metrics["final/val_loss"] == 1 / len(EPOCHS)
    assert run.info.status == FINISHED


def test_a_deleted_experiment_is_an_error_that_says_how_to_restore_it(home: Home) -> None:
    connection = home.connection()
    connection.connect()
    experiment = connection.client.get_experiment_by_name(EXPERIMENT).experiment_id
    connection.client.delete_experiment(experiment)
    with home.tracker() as tracker:
        write(tracker.start(info()))
        assert not tracker.flush(LONG)
        message = refusal(tracker.check, SweeperError)
        assert f"MLFLOW_TRACKING_URI={home.uri} mlflow experiments restore --experiment-id {experiment}" in message
        assert tracker.close(LONG) == 1
    assert refusal(home.sync, SweeperError) == message

    connection.client.restore_experiment(experiment)
    assert home.sync() == 1
    assert home.steps() == {"k": [1, 2, 3, 4]}


def test_a_file_that_is_no_database_is_an_error_in_one_line(home: Home) -> None:
    sqlite_file(home.uri).write_bytes(b"not a database" * 100)
    assert "mlflow.db" in refusal(home.connection().connect, SweeperError)


# --- uploading -----------------------------------------------------------------------------------


class Flaky:
    """A client whose first call of one method fails: its request is lost, or the answer to it."""

    def __init__(self, client: Any, method: str, lost: str) -> None:
        self._client, self._method, self._lost = client, method, lost
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._client, name)
        if name != self._method or self.failed:
            return real

        def fail(*args: Any, **kwargs: Any) -> None:
            self.failed = True
            if self._lost == "answer":
                real(*args, **kwargs)
            raise ConnectionError("the connection was lost")

        return fail


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize(
    "method",
    ["search_runs", "create_run", "get_run", "log_batch", "log_inputs", "log_artifact", "set_terminated"],
)
def test_whatever_is_lost_on_the_way_arrives_once_in_the_end(
    home: Home, monkeypatch: pytest.MonkeyPatch, method: str, lost: str
) -> None:
    write(JournalTracker(home.journal).start(info()))
    connection = home.connection()
    connection.connect()
    flaky = Flaky(connection.client, method, lost)
    monkeypatch.setattr(Connection, "client", flaky)
    pauses: list[float] = []
    Uploader(connection, FIGURES).upload(home.journal / "demo/k", pauses.append)
    assert flaky.failed
    assert len(pauses) == 1
    assert home.steps() == {"k": [1, 2, 3, 4]}
    assert home.warned == []  # one refusal is not worth a word
    run = flaky.get_run(run_id_of(home.journal, "demo/k", home.uri))
    assert (run.info.status, run.data.tags["sweeper.state"]) == (FINISHED, "complete")
    assert len(run.inputs.dataset_inputs) == 1


def test_the_pauses_between_tries_grow_to_a_limit_and_the_outage_is_reported_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(JournalTracker(home.journal).start(info()))
    connection = home.connection()
    connection.connect()
    real = connection.client.search_runs
    pauses: list[float] = []

    def away(*args: Any, **kwargs: Any) -> Any:
        if len(pauses) < 10:
            raise ConnectionError("refused")
        return real(*args, **kwargs)

    monkeypatch.setattr(connection.client, "search_runs", away)
    Uploader(connection, FIGURES).upload(home.journal / "demo/k", pauses.append)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10])
    assert ["does not answer" in message for message in home.warned] == [True, False]
    assert home.steps() == {"k": [1, 2, 3, 4]}


def test_an_outage_costs_nothing_but_a_warning(
    tmp_path: Path, make_server: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.1)
    server, warned = make_server(), threading.Event()
    home = Home(tmp_path, server.uri, [])

    def warn(message: str) -> None:
        home.warned.append(message)
        warned.set()

    with home.tracker(warn) as tracker:
        assert warned.wait(LONG)  # the server is away
        write(tracker.start(info()))
        tracker.check()
        assert not tracker.flush(0.0)
        assert [e["event"] for e in read_events(home.journal / "demo/k")] == ["start", *["epoch"] * 4, "end"]
        assert ["does not answer" in message for message in home.warned] == [True]
        server.start()
        assert tracker.flush(LONG)
    assert home.steps() == {"k": [1, 2, 3, 4]}
    assert ["does not answer" in message for message in home.warned] == [True, False]
    server.stop()


def test_sync_carries_what_was_written_without_a_server_and_nothing_twice(home: Home) -> None:
    offline = JournalTracker(home.journal)
    write(offline.start(info("one")))
    write(offline.start(info("two")), (1, 2), end=False)
    assert (home.sync(), home.sync()) == (2, 0)
    assert home.steps() == {"one": [1, 2, 3, 4], "two": [1, 2]}
    write(offline.start(info("two")))
    assert (home.sync(), home.sync()) == (1, 0)
    assert home.steps() == {"one": [1, 2, 3, 4], "two": [1, 2, 3, 4]}
    assert home.warned == []


def test_sync_with_a_server_that_is_away_says_so_at_once(tmp_path: Path) -> None:
    home = Home(tmp_path, "http://127.0.0.1:1", [])
    write(JournalTracker(home.journal).start(info()))
    assert "does not answer" in refusal(home.sync, ServiceUnreachable)


def test_sync_does_not_wait_for_ever_for_a_server_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Leaving(Quiet):
        asked = 0

        def do_GET(self) -> None:
            Leaving.asked += 1
            self.reply(200 if Leaving.asked == 1 else 503, b"{}")

    monkeypatch.setattr(tracking, "SYNC_PATIENCE", 0.3)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.1)
    (tmp_path / "journal").mkdir()
    with listening(Leaving) as uri:
        message = refusal(Home(tmp_path, uri, []).sync, ServiceUnreachable)
    assert "went away" in message


def test_a_server_that_answers_with_pages_is_not_asked_again_and_again(tmp_path: Path) -> None:
    with listening(answering(200, b"<p>Please log in</p>")) as uri:
        connection = Home(tmp_path, uri, []).connection()
        message = refusal(lambda: connection.connect(lambda _: pytest.fail("it is asked again")), SweeperError)
    assert "JSON" in message


def test_a_damaged_run_does_not_hold_up_the_others(home: Home) -> None:
    offline = JournalTracker(home.journal)
    for key in ("bad", "good"):
        write(offline.start(info(key)))
    events = home.journal / "demo/bad/events.jsonl"
    events.write_bytes(events.read_bytes().replace(b'{"event": "epoch"', b'{"event" "epoch"', 1))
    damaged = f"{events}: line 2 is damaged; restore the file from a copy, or move its folder away"
    with home.tracker() as tracker:
        tracker.reconcile("demo")
        tracker.catch_up("demo")
        assert tracker.flush(LONG)
    assert home.steps() == {"good": [1, 2, 3, 4]}
    assert home.warned == [damaged]
    assert home.sync() == 0
    assert home.warned == [damaged] * 2


def test_a_run_whose_end_did_not_arrive_before_its_process_was_gone_is_ended_by_the_next_one(home: Home) -> None:
    with home.tracker() as tracker:
        log = tracker.start(info("ours"))
        assert tracker.flush(LONG)
    write(log)  # as by a process whose uploader is gone
    write(JournalTracker(home.journal).start(info("offline")))
    with home.tracker() as tracker:
        tracker.reconcile("demo")
        assert tracker.flush(LONG)
    assert home.steps() == {"ours": [1, 2, 3, 4]}
    run_id = run_id_of(home.journal, "demo/ours", home.uri)
    assert tracker.connection.client.get_run(run_id).info.status == FINISHED


def test_a_new_process_carries_what_an_earlier_one_left_of_the_same_study(home: Home) -> None:
    offline = JournalTracker(home.journal)
    write(offline.start(info("left")))
    with home.tracker() as tracker:
        tracker.catch_up("demo")
        assert tracker.flush(LONG)
        tracker.catch_up("demo")
        tracker.catch_up("other")
        assert tracker.flush(0.0)
    assert home.steps() == {"left": [1, 2, 3, 4]}


def test_a_run_that_mlflow_refuses_does_not_hold_up_the_others(home: Home) -> None:
    missing = uuid.uuid4().hex
    with home.tracker() as tracker:
        write(tracker.start(info("bad", run_id=missing)))
        write(tracker.start(info("good")))
        assert not tracker.flush(LONG)
        assert tracker.close(LONG) == 1
    assert home.steps() == {"good": [1, 2, 3, 4]}
    assert home.warned
    assert all("demo/bad: MLflow refuses this run" in message and missing in message for message in home.warned)
    assert len(read_events(home.journal / "demo/bad")) == 6


def test_a_run_that_mlflow_refuses_is_reported_once(home: Home) -> None:
    with home.tracker() as tracker:
        log = tracker.start(info(run_id=uuid.uuid4().hex))
        for step in EPOCHS:
            write(log, (step,), end=False)
            tracker.flush(LONG)
    assert len(home.warned) == 1


def test_sync_carries_the_others_where_mlflow_refuses_a_run(home: Home) -> None:
    offline = JournalTracker(home.journal)
    write(offline.start(info("bad", run_id=uuid.uuid4().hex)))
    write(offline.start(info("good")))
    with contextlib.suppress(SweeperError):
        home.sync()
    assert home.steps() == {"good": [1, 2, 3, 4]}


def test_a_file_that_is_refused_for_good_holds_up_no_other_run(tmp_path: Path, mlflow_server: Any) -> None:
    proxy = Proxy(int(mlflow_server.uri.rpartition(":")[2]))
    proxy.too_large = re.compile(rb"PUT \S+/large\.bin ")
    home = Home(tmp_path, f"http://127.0.0.1:{proxy.port}", [])
    bad, good = f"bad-{uuid.uuid4().hex}", f"good-{uuid.uuid4().hex}"  # on a server that is not ours alone
    with home.tracker() as tracker:
        log = tracker.start(info(bad))
        log.artifact("large.bin", b"x" * 100_000)
        write(log)
        write(tracker.start(info(good)))
        assert not tracker.flush(LONG)
        assert tracker.close(LONG) == 1
    (said,) = home.warned
    assert f"{bad}: MLflow refuses this run (413" in said
    assert (finished(home, bad), finished(home, good)) == (False, True)

    assert "MLflow refused 1" in refusal(home.sync, SweeperError)
    assert home.warned == [said] * 2
    proxy.too_large = None
    assert home.sync() == 1
    assert finished(home, bad)
    proxy.cut()


def finished(home: Home, key: str) -> bool:
    """Whether MLflow has the run, and its end."""
    from mlflow import MlflowClient

    run_id = run_id_of(home.journal, f"demo/{key}", home.uri)
    return bool(run_id and MlflowClient(tracking_uri=home.uri).get_run(run_id).info.status == FINISHED)


class AskedAgain(BaseException):
    """The uploader waits before it asks again."""


@pytest.mark.parametrize(
    ("status", "body", "passes"),
    [
        (413, "<p>Too large</p>", False),
        (403, '{"message": "your request was blocked"}', False),
        (408, "", True),
        (429, "", True),
        (503, "", True),
        (599, "<p>as error code 413 is not</p>", True),
    ],
)
def test_a_server_is_asked_again_only_where_that_may_help(tmp_path: Path, status: int, body: str, passes: bool) -> None:
    def wait(_: float) -> None:
        raise AskedAgain

    with listening(answering(status, body.encode())) as uri, pytest.raises(AskedAgain if passes else SweeperError):
        Home(tmp_path, uri, []).connection().connect(wait)


def test_files_of_a_new_attempt_survive_the_upload_of_the_last_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    ending, go_on = threading.Event(), threading.Event()
    with home.tracker() as tracker:
        log = tracker.start(info())
        assert tracker.flush(LONG)
        client = tracker.connection.client
        real = client.set_terminated

        def slow(*args: Any) -> None:
            real(*args)
            ending.set()
            assert go_on.wait(LONG)

        monkeypatch.setattr(client, "set_terminated", slow)
        log.end("FAILED", {}, {})
        assert ending.wait(LONG)
        again = tracker.start(info())
        again.artifact("model/state.safetensors", b"weights")
        go_on.set()
        assert tracker.flush(LONG)
        again.end(FINISHED, {}, {})
        assert tracker.flush(LONG)
        run_id = run_id_of(home.journal, "demo/k", home.uri)
        assert "model" in [file.path for file in client.list_artifacts(run_id)]


def test_a_run_with_an_xray_gets_its_figure(home: Home, tmp_path: Path) -> None:
    """Drawn when the run is carried, from the file in the journal, so that no trial waits for it."""
    side = {"mean": 0.0, "variance": 1.0, "dead": 0.0, "low": -4.0, "high": 4.0, "shares": [0.25] * 4}
    layer = {"position": "after conv 1", "ratio": 1.2, "signed": -0.2, "spread": [1.1, 1.3], "floor": 1.02,
             "closed_form": None, "before": side, "after": side}  # fmt: skip
    log = JournalTracker(home.journal).start(info())
    log.artifact("diagnostics/xray.json", json.dumps({"layers": [layer]}).encode())
    write(log)
    assert home.sync() == 1
    (figure,) = home.folder.glob("mlartifacts/**/diagnostics/xray.png")
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_of_the_files_that_mlflow_has_a_report_needs_a_few_still(home: Home) -> None:
    with home.tracker() as tracker:
        log = tracker.start(info())
        log.artifact("evaluation/confusion.csv", b"a,b")
        log.artifact("model/state.safetensors", b"weights")
        write(log)
    artifacts = home.journal / "demo/k" / ARTIFACTS
    assert [str(path.relative_to(artifacts)) for path in artifacts.rglob("*.*")] == ["evaluation/confusion.csv"]
