"""Tracking servers, before anything is created."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import http.server
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sweeper.core.errors import ServiceUnreachable, SweeperError, UsageError
from sweeper.tracking.store import preflight
from tests.support.refusals import refusal
from tests.support.tracked import Quiet, answering, listening

# MLflow's own use of SQLAlchemy 2.1
pytest_plugins = ["tests.support.mlflow_store"]

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")


# --- servers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["", "mlflow.db", "foo://x", "file:///tmp/x", "databricks", "mysql://u:canary@h/db"])
def test_a_uri_that_sweeper_does_not_track_to_is_refused_with_those_it_does(uri: str) -> None:
    message = refusal(lambda: preflight(uri), UsageError)
    assert "use http://HOST:PORT, sqlite:///FILE" in message
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


def test_a_server_that_never_answers_is_waited_for_as_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "timed out" in refusal(lambda: preflight(uri), ServiceUnreachable)


def in_turn(*answers: tuple[int, bytes]) -> type[Quiet]:
    """A server that gives these answers, and the last one for ever."""
    left = list(answers)

    class InTurn(Quiet):
        def answer(self) -> None:
            self.reply(*(left.pop(0) if len(left) > 1 else left[0]))

    return InTurn


def test_a_server_that_has_just_started_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    with listening(in_turn((503, b"starting"), (502, b"starting"), (200, b"{}"))) as uri:
        preflight(uri)


def test_nobody_who_listens_is_asked_after() -> None:
    assert "Is `sweeper serve` running?" in refusal(lambda: preflight("http://127.0.0.1:1"), ServiceUnreachable)


def test_what_a_user_may_not_do_is_not_called_a_wrong_password() -> None:
    body = b'{"error_code": "PERMISSION_DENIED", "message": "Permission denied"}'
    with listening(answering(403, body)) as uri:
        message = refusal(lambda: preflight(uri.replace("//", "//ada:canary@")), ServiceUnreachable)
    for part in ("'ada'", "experiment 'bn-dropout'", "permission EDIT"):
        assert part in message
    assert "MLFLOW_TRACKING_PASSWORD" not in message
    assert "canary" not in message


EXPERIMENT_OF_A_SERVER = (
    b'{"experiment": {"experiment_id": "1", "name": "bn-dropout", "lifecycle_stage": "active", '
    b'"artifact_location": "mlflow-artifacts:/1"}}'
)
NO_ARTIFACTS = b"Endpoint: /api disabled due to the mlflow server running with `--no-serve-artifacts`."


def test_a_server_that_serves_no_artifacts_is_refused_with_its_reason() -> None:
    with listening(in_turn((200, EXPERIMENT_OF_A_SERVER), (503, NO_ARTIFACTS))) as uri:
        message = refusal(lambda: preflight(uri), SweeperError)
    assert "does not accept artifacts" in message
    assert "--no-serve-artifacts" in message


def test_no_more_is_read_of_an_answer_than_is_needed() -> None:
    sent = []

    class Endless(Quiet):
        def answer(self) -> None:
            if "artifacts" not in self.path:
                self.reply(200, EXPERIMENT_OF_A_SERVER)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(300_000_000))
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has left
                while sum(sent) < 300_000_000:
                    sent.append(self.wfile.write(b" " * 1_000_000))

    with listening(Endless) as uri:
        preflight(uri)
    assert 0 < sum(sent) < 50_000_000  # what the sockets hold


def test_a_workspace_that_a_server_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team-a")
    body = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Workspace \'team-a\' not found"}'
    with listening(answering(404, body)) as uri:
        assert "Check MLFLOW_WORKSPACE=team-a" in refusal(lambda: preflight(uri), UsageError)


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

    def answer(self) -> None:
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
        def answer(self) -> None:
            paths.append(self.path.partition("?")[0])
            self.reply(200, b"{}")

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    if asks:
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(certificate)
    with listening(Handler, tls) as uri:
        yield uri, paths


def set_tls(monkeypatch: pytest.MonkeyPatch, certificate: Path, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value.format(certificate=certificate))


HERE = "{certificate}"


@pytest.mark.parametrize(
    ("values", "asks", "says"),
    [
        ({"SERVER_CERT_PATH": HERE}, False, ""),
        ({"SERVER_CERT_PATH": HERE, "INSECURE_TLS": "false"}, False, ""),
        ({"INSECURE_TLS": "True"}, False, ""),
        ({"SERVER_CERT_PATH": HERE, "CLIENT_CERT_PATH": HERE}, True, ""),
        ({}, False, "self-signed certificate (_ssl"),
        ({"INSECURE_TLS": "0"}, False, "Set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of its CA"),
        ({"SERVER_CERT_PATH": HERE}, True, "does not answer"),
    ],
)
def test_a_server_of_a_private_ca_is_asked_as_mlflow_is_told_to(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, str], asks: bool, says: str
) -> None:
    set_tls(monkeypatch, certificate, values)
    with behind_tls(certificate, asks) as (uri, paths):
        if says:
            assert says in refusal(lambda: preflight(uri), ServiceUnreachable)
        else:
            preflight(uri)
    assert len(paths) == (0 if says else 1)


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
    set_tls(monkeypatch, certificate, values)
    assert says in refusal(lambda: preflight("https://127.0.0.1:1"), UsageError)
