"""`sweeper serve` as a process: one server open on loopback, one behind passwords."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from click.testing import CliRunner

from sweeper.cli.main import cli
from sweeper.core.errors import ServiceUnreachable, SweeperError, UsageError
from sweeper.server.options import ServeOptions
from sweeper.server.postgres import OPTUNA, Embedded
from sweeper.server.serve import serve
from tests.support.served import CANARY, Served, free_port

pytest_plugins = ["tests.support.postgres", "tests.support.served"]

STRANGERS = ["evil.example", "10.attacker.example", "192.168.evil.com"]
ROUTES = Path(__file__).parents[1] / "support" / "served_routes.py"


@pytest.fixture
def admin(guarded: Served) -> str:
    return f"admin:{(guarded.home / 'secrets' / 'admin-password').read_text()}"


# --- a server on loopback ----------------------------------------------------------------------------


def test_the_two_lines_are_all_that_a_sweep_needs(served: Served):
    kinds = [tag["value"] for run in served.runs() for tag in run["data"]["tags"] if tag["key"] == "sweeper.kind"]
    assert kinds.count("trial") == 3
    status, studies = served.request(
        "/api/studies", port=served.dashboard_port, host=f"127.0.0.1:{served.dashboard_port}"
    )
    assert status == 200
    assert [s["study_name"] for s in json.loads(studies)["study_summaries"]] == ["sweep"]
    assert list((served.home / "artifacts").rglob("loss_accuracy.png"))
    importances = served.request(
        "/api/studies/1/param_importances", port=served.dashboard_port, host=f"127.0.0.1:{served.dashboard_port}"
    )[1]
    assert json.loads(importances)["param_importances"][0]


@pytest.mark.parametrize("host", STRANGERS)
def test_a_strange_host_is_refused(served: Served, host: str):
    ports = [served.port, served.dashboard_port]
    for name in (host, *(f"{host}:{port}" for port in ports)):
        assert {served.request(path, host=name)[0] for path in ("/", "/api/2.0/mlflow/experiments/search")} == {403}
        assert served.request("/api/studies", host=name, port=served.dashboard_port)[0] == 403


def test_the_dashboard_is_for_reading(served: Served):
    host = f"localhost:{served.dashboard_port}"
    for method in ("POST", "PUT", "DELETE"):
        path = "/api/studies" if method == "POST" else "/api/studies/1"
        assert served.request(path, method=method, host=host, port=served.dashboard_port, body={})[0] == 405
    reader = Embedded(served.home / "postgres").databases.url(OPTUNA, "dashboard")
    with psycopg.connect(reader) as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (3,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM trials")


def test_nothing_but_the_two_ports_is_listened_on(served: Served):
    listened = {
        (c.laddr.ip, c.laddr.port)
        for part in served.parts
        if part.is_running()
        for c in part.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }
    assert listened == {("127.0.0.1", served.port), ("127.0.0.1", served.dashboard_port)}


def test_mlflow_is_one_process_and_executes_no_jobs(served: Served):
    (mlflow,) = served.mlflow()
    assert mlflow.environ().get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION") == "false"


def test_the_process_that_starts_a_server_becomes_it():
    """All of its variables and those that MLflow adds, nothing of its memory."""
    starts = "from sweeper.server.mlflow import replace_process as start; import sys; print('begun', flush=True); "
    says = "import os; print(os.environ['NEW'], os.environ['OLD'], os.getpid())"
    code = f"{starts} start([sys.executable, '-c', {says!r}], extra_env={{'NEW': '1'}}, capture_output=False)"
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "OLD": "2"}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.communicate()[0] == f"begun\n1 2 {process.pid}\n"


def test_check_says_how_each_part_is(served: Served, tmp_path: Path):
    command = [sys.executable, "-m", "sweeper", "serve", "--check", "--json", "--home"]
    done = subprocess.run([*command, str(served.home)], env=served.env, capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["parts"]) == (
        0, {"postgresql": True, "mlflow": True, "dashboard": True},
    )  # fmt: skip
    nobody = subprocess.run([*command, str(tmp_path)], env=served.env, capture_output=True, text=True)
    assert (nobody.returncode, json.loads(nobody.stdout)["healthy"]) == (4, False)


def test_serve_creates_its_home_and_leaves_no_empty_one(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for name, options in (("refused", ("--host", "0.0.0.0")), ("begun", ("--no-dashboard", "--port", port))):
            done = CliRunner().invoke(cli, ["serve", "--home", str(tmp_path / name), *options])
            assert isinstance(done.exception, SweeperError)
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_a_second_one_on_the_same_home_is_refused(served: Served):
    with pytest.raises(SweeperError, match=f"in use by process {served.process.pid} since .* runs sweeper serve"):
        serve(served.home, ServeOptions(port=free_port(), dashboard_port=None), print)


def test_a_killed_server_leaves_no_process_and_a_clean_database(
    served: Served, until: Callable[..., Any], tmp_path: Path
):
    """The last test of `served`, which it ends."""
    assert len(served.parts) > 10  # PostgreSQL has eight of its own
    served.process.kill()
    served.process.wait()
    until(lambda: not any(part.is_running() for part in served.parts), "every process to end")
    assert not (served.home / "postgres" / "postmaster.pid").exists()
    command = [sys.executable, "-m", "sweeper", "backup", "again.tar", "--home", str(served.home), "--json"]
    again = subprocess.run(command, cwd=tmp_path, env=served.env, capture_output=True, text=True)  # starts PostgreSQL
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["artifacts"] == len([p for p in served.home.glob("artifacts/**/*") if p.is_file()])
    assert [path.name for path in tmp_path.iterdir()] == ["again.tar"]


# --- a server for other machines ---------------------------------------------------------------------


def test_only_health_version_and_static_files_answer_without_a_password(guarded: Served, tmp_path: Path):
    config = (guarded.home / "secrets" / "basic-auth.ini").read_text()
    lines = [f"database_uri = sqlite:///{tmp_path / 'auth.db'}" if "_uri" in li else li for li in config.splitlines()]
    (tmp_path / "basic-auth.ini").write_text("\n".join(lines))
    env = guarded.env | {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "basic-auth.ini"), "_MLFLOW_SGI_NAME": "uvicorn"}
    env |= {
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-this-test-alone",
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/m.db",
    }
    listed = subprocess.run([sys.executable, str(ROUTES)], env=env, cwd=tmp_path, capture_output=True, text=True)
    routes = json.loads(listed.stdout)
    assert len(routes) > 500
    assert {"/gateway/mlflow/v1/models", "/v1/traces", "/signup", "/graphql"} < {path for _, path in routes}
    opened = {path for method, path in routes if guarded.request(path, method=method)[0] not in (401, 403)}
    # server-info tells the kind of store and which features are on, to clients that have yet to log in.
    infos = {"/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info"}
    assert opened == {"/health", "/static-files/1"} | infos
    info = json.loads(guarded.request("/api/3.0/mlflow/server-info")[1])
    assert set(info) == {
        "store_type", "features_enabled", "workspaces_enabled", "trace_archival_enabled", "multipart_uploads_enabled",
        "multipart_downloads_enabled", "presigned_upload_model_id_supported", "presigned_upload_run_id_supported",
    }  # fmt: skip


def test_a_known_host_and_a_password_are_let_in(guarded: Served, admin: str):
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert guarded.request(path, user=admin, host=f"box.example:{guarded.port}")[0] == 200
    assert guarded.request(path, user="admin:password1234")[0] == 401
    assert {guarded.request(path, user=admin, host=host)[0] for host in STRANGERS} == {403}


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://box.example:{port}", 200), ("https://box.example", 200), ("https://evil.example", 403)],
)
def test_a_browser_on_another_machine_sees_the_runs(guarded: Served, admin: str, origin: str, status: int):
    path, host = "/ajax-api/2.0/mlflow/runs/search", f"box.example:{guarded.port}"
    asked = {"experiment_ids": ["0"]}
    sent = origin.format(port=guarded.port)
    assert guarded.request(path, method="POST", user=admin, host=host, body=asked, origin=sent)[0] == status


def test_a_new_user_may_do_nothing_yet(guarded: Served, admin: str):
    new = {"username": "newcomer", "password": "newcomer-password"}
    assert guarded.request("/api/2.0/mlflow/users/create", method="POST", user=admin, body=new)[0] == 200
    mine = f"{new['username']}:{new['password']}"
    assert guarded.request("/api/2.0/mlflow/experiments/get?experiment_id=0", user=mine)[0] == 403
    assert guarded.request("/api/2.0/mlflow/experiments/get?experiment_id=0", user=admin)[0] == 200


def test_a_password_that_is_not_that_of_the_database_is_not_announced(guarded: Served, tmp_path: Path):
    """A new home on the database of another one: MLflow keeps the administrator that it has."""
    command = [sys.executable, "-m", "sweeper", "serve", "--auth", "--no-dashboard", "--home", str(tmp_path)]
    command += ["--port", str(free_port())]
    done = subprocess.run(command, env=guarded.env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    path = tmp_path / "secrets" / "admin-password"
    assert done.stderr.startswith(f"error: {path} does not hold the password of admin in this database")
    assert len(done.stderr.splitlines()) == 1
    assert path.read_text() not in done.stderr


def test_secrets_are_in_files_of_their_owner_alone(guarded: Served, admin: str):
    secrets = {path.name: path.read_text() for path in (guarded.home / "secrets").iterdir()}
    assert {name: len(secrets[name]) for name in ("admin-password", "flask-secret-key")} == {
        "admin-password": 32, "flask-secret-key": 32,
    }  # fmt: skip
    assert {stat.S_IMODE((guarded.home / "secrets" / name).stat().st_mode) for name in secrets} == {0o600}
    words = [secrets["admin-password"], secrets["flask-secret-key"], CANARY]
    shown = {"output": guarded.said + guarded.errors, "ps": " ".join(" ".join(p.cmdline()) for p in guarded.parts)}
    shown |= {str(path): path.read_text() for path in guarded.home.glob("*.json")}
    shown |= {str(path): path.read_text() for path in (guarded.home / "log").iterdir()}
    assert [(word, where) for word in words for where, text in shown.items() if word in text] == []


def test_secrets_are_in_the_environment_of_those_alone_who_need_them(guarded: Served, admin: str):
    password = admin.partition(":")[2]
    holding = {p.pid for p in guarded.parts if CANARY in " ".join(p.environ().values())}
    assert holding == {p.pid for p in guarded.mlflow()}
    assert not [p for p in guarded.parts if password in " ".join(p.environ().values())]


def test_a_part_that_dies_ends_all_and_is_named(tmp_path: Path, alone: dict[str, str], until: Callable[..., Any]):
    doomed = Served(tmp_path, alone)
    doomed.mlflow()[0].kill()
    doomed.process.communicate(timeout=60)
    assert doomed.process.returncode == 1
    assert doomed.errors.startswith("error: mlflow stopped (killed by SIGKILL), so everything was stopped. ")
    assert len(doomed.errors.splitlines()) == 1
    until(lambda: not any(part.is_running() for part in doomed.parts), "every process to end")


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ServeOptions(host="0.0.0.0"), "--host 0.0.0.0 exposes the server to other machines. Add --auth"),
        (ServeOptions(host="192.0.2.1", auth=True), "and --allowed-hosts"),
        (ServeOptions(host="::", allowed_hosts=("box",)), "Add --auth"),
        (ServeOptions(allowed_hosts=("*",)), "wildcards are not allowed"),
        (ServeOptions(allowed_hosts=("box, evil",)), "wildcards are not allowed"),
        (ServeOptions(port=8080), "--dashboard-port 8080: the same as --port"),
        (ServeOptions(database_url="sqlite:///x.db"), "--database-url: sqlite allows one writer only"),
        (ServeOptions(database_url="mysql://x"), "use sqlite:///FILE or postgresql://"),
    ],
)
def test_what_would_be_open_or_cannot_work_is_refused(options: ServeOptions, said: str, tmp_path: Path):
    with pytest.raises(UsageError, match=said.replace(".", "[.]")):
        serve(tmp_path, options, print)
    assert list(tmp_path.iterdir()) == []


def test_hosts_are_allowed_with_and_without_the_port():
    hosts = ServeOptions(host="::", port=5001, allowed_hosts=("box.example", "proxy.example:443", "[fd00::1]")).hosts
    assert hosts.split(",") == [
        "proxy.example:443", "127.0.0.1", "127.0.0.1:5001", "localhost", "localhost:5001", "[::1]", "[::1]:5001",
        "box.example", "box.example:5001", "[fd00::1]", "[fd00::1]:5001",
    ]  # fmt: skip


def test_a_port_in_use_is_reported_before_anything_starts(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SweeperError, match=f"127.0.0.1:{port}: Address already in use. Choose another --port"):
            serve(tmp_path, ServeOptions(port=port), print)
    assert not (tmp_path / "postgres").exists()


def test_a_database_that_does_not_answer_is_unreachable_and_its_password_is_not_shown(tmp_path: Path):
    url = f"postgresql://me:{CANARY}@127.0.0.1:1/postgres"
    with pytest.raises(ServiceUnreachable, match="Connection refused") as refused:
        serve(tmp_path, ServeOptions(port=free_port(), dashboard_port=None, database_url=url), print)
    assert CANARY not in str(refused.value)
