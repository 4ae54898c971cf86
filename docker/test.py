"""`make docker-test`: a sweep in the containers of compose.yaml, and a check of docs/explanation/security.md there.

Builds the images, starts PostgreSQL, MLflow and a Ray cluster of two workers, runs a sweep of four trials, looks, runs
the restore drill (drill.py) and removes everything. Options are variables: PYTHON_IMAGE, POSTGRES_IMAGE, PROXY_IMAGE,
SWEEPER_TORCH (which torch; see the Dockerfile), PIP_INDEX_URL and the like, DOCKER_TEST_DIR, a folder with room for
the images (about 20 GB with CUDA; 40 GB for a podman without an overlay file system), and DOCKER_TEST_KEEP, a folder
in which podman keeps its images for the next run.
"""

# ruff: noqa: T201

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from drill import Drill
from engines import HERE, ROOT, Engine, base_images, engine

PROJECT: Final = "sweeper-test"
TRIALS: Final = 4
RUN_ON: Final = ("--engine", "ray", "--address", "auto")  # the workers
STUDY: Final = ("--study", "docker-test", "--dataset", "sample", "--model", "small", "--epochs", "1")
SWEEP: Final = ("optimize", "--trials", str(TRIALS), "--json", *STUDY, *RUN_ON)
DRIVER: Final = ("--profile", "driver", "run", "--rm", "--no-deps", "-T", "driver")
WORKERS: Final = 2
PROFILES: Final = {"dashboard": "dashboard", "proxy": "tls"}
BOX: Final = "box.example"  # what people on other machines call it
COMMIT: Final = "0123456789abcdef0123456789abcdef01234567-dirty"
NET_BIND_SERVICE: Final = f"{1 << 10:016x}"  # as the kernel shows it
STARTED: Final = time.monotonic()
UNLIMITED: Final = 2**50  # bytes; how a control group of the first version says that it has no limit
# What is looked at inside a container, by the user that its service runs as.
LOOK: Final = """
id -u
for path in /x /usr/x /opt/venv/x /etc/x; do (: > "$path") 2>/dev/null && echo "wrote $path"; done
echo ===; cat /proc/1/status
echo ===; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null
echo ===; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
echo ===; tr '\\0' '\\n' < /proc/1/environ
echo ===; ls /run/secrets
"""


def say(text: str) -> None:
    """One line, with the seconds since the start."""
    print(f"{time.monotonic() - STARTED:7.1f} s  {text}", flush=True)


def expect(holds: bool, what: str) -> None:
    """Say that it holds, or end the test."""
    if not holds:
        raise SystemExit(f"FAILED: {what}")
    say(f"ok: {what}")


def main() -> None:
    """Run it all; exit code 0 if every check holds."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    work = Path(tempfile.mkdtemp(prefix="sweeper-docker-test-", dir=os.environ.get("DOCKER_TEST_DIR", "/var/tmp")))  # noqa: S108
    secrets = work / "secrets"
    subprocess.run([HERE / "make-secrets", secrets], check=True)
    with socket.socket() as free, socket.socket() as other:
        for each in (free, other):
            each.bind(("127.0.0.1", 0))
        port, tls_port = free.getsockname()[1], other.getsockname()[1]
    certify(secrets)
    images = {"SWEEPER_SERVER_IMAGE": "localhost/sweeper-server:test", "SWEEPER_IMAGE": "localhost/sweeper:test"}
    variables = images | {"SWEEPER_SECRETS": str(secrets), "SWEEPER_PORT": str(port)}
    variables |= {
        "SWEEPER_URL": f"https://{BOX}",
        "SWEEPER_TLS_ADDRESS": "127.0.0.1",
        "SWEEPER_TLS_PORT": str(tls_port),
    }
    try:
        with engine(PROJECT, work, variables) as found:
            say(f"engine: {found.program}")
            build(found, work, images)
            try:
                check(found, secrets, f"http://127.0.0.1:{port}", tls_port)
                drill = Drill(found, PROJECT, work, DRIVER, expect, start)
                drill.hold(RUN_ON)
                drill.upgrade()
            finally:
                profiles = [word for name in ("driver", "dashboard", "tls") for word in ("--profile", name)]
                found.composed(*profiles, "down", "--volumes", "--timeout", "5")
                for image in images.values() if not os.environ.get("DOCKER_TEST_KEEP") else ():
                    found.run("rmi", "--force", image, check=False)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    left = [line for line in Path("/proc/mounts").read_text().splitlines() if str(work) in line]
    expect(not work.exists() and not left, "nothing is left")
    say(f"passed, with {' '.join(RUN_ON)}")


def build(found: Engine, work: Path, images: dict[str, str]) -> None:
    """Build both images."""
    compose, file = (HERE / "compose.yaml").read_text(), (HERE / "Dockerfile").read_text()
    python = os.environ.get("PYTHON_IMAGE") or re.findall(r"^ARG PYTHON_IMAGE=(\S+)", file, re.MULTILINE)[0]
    postgres = os.environ.get("POSTGRES_IMAGE") or re.findall(r"POSTGRES_IMAGE:-([^}]+)}", compose)[0]
    proxy = os.environ.get("PROXY_IMAGE") or re.findall(r"PROXY_IMAGE:-([^}]+)}", compose)[0]
    python, postgres, proxy = base_images(found, work, python, postgres, proxy)
    found.environment |= {"POSTGRES_IMAGE": postgres, "PROXY_IMAGE": proxy}
    given = {"PYTHON_IMAGE": python, "TORCH": os.environ.get("SWEEPER_TORCH", ""), "COMMIT": COMMIT}
    given |= {name: os.environ.get(name, "") for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")}
    say(f"bases: {python}, {postgres}")
    for target, image in zip(("server", "sweeper"), images.values(), strict=True):
        taken = given if target == "sweeper" else {name: value for name, value in given.items() if name != "TORCH"}
        found.build(image, target, taken)
        size = int(found.run("image", "inspect", "--format", "{{.Size}}", image))
        say(f"built {target}: {size / 1e9:.2f} GB")
        label = '{{index .Config.Labels "org.opencontainers.image.revision"}}'
        said = found.run("image", "inspect", "--format", label, image).strip()
        expect(said == COMMIT, f"the label of {target} names the commit")


def check(found: Engine, secrets: Path, url: str, tls_port: int) -> None:
    """Start the services one after the other, run the sweep, and look."""
    values = {path.name: path.read_text() for path in secrets.iterdir() if path.name != "tls-certificate"}
    check_host_secrets(secrets)
    running: dict[str, str] = {}
    for service in ("postgres", "mlflow", "ray-head", "worker"):
        running |= start(found, service)
    check_strangers(url)
    result = sweep(found, values)
    expect(result["finished"] == result["complete"] + result["pruned"] == TRIALS, f"{TRIALS} finished trials: {result}")
    running |= start(found, "dashboard")  # which waits for the tables that the first sweep makes
    running |= start(found, "proxy")
    check_study(found, running["postgres 1"])
    check_runs(url, values["admin-password"])
    check_proxy(secrets, tls_port, values["admin-password"])
    check_people(found, url)
    check_project(found, url, values["admin-password"])
    check_ray(found, running["worker 1"])
    check_walls(found, running)
    for name, container in running.items():
        check_container(found, name, container, values)
    check_ports(found, running)
    check_processes(values)


def start(found: Engine, service: str) -> dict[str, str]:
    """Start a service and wait for it. The ids of its containers, by names with numbers."""
    profile = ["--profile", PROFILES[service]] if service in PROFILES else []
    scale = ["--scale", f"worker={WORKERS}"] if service == "worker" else []
    found.composed(*profile, "up", "--detach", "--no-build", "--no-deps", *scale, service)
    ids = found.containers(PROJECT, service)
    expect(len(ids) == (WORKERS if scale else 1), f"{service}: {len(ids)} started")
    for container in ids:
        found.wait_until_healthy(container)
    say(f"{service} is healthy")
    return {f"{service} {number}": container for number, container in enumerate(ids, 1)}


def check_host_secrets(secrets: Path) -> None:
    """Another user of this machine reads no secret."""
    if os.geteuid() == 0:
        read = ["cat", str(secrets / "admin-password")]
        done = subprocess.run(read, check=False, capture_output=True, user=65534, group=65534, extra_groups=[])
        expect(done.returncode != 0 and not done.stdout, "another user of this machine cannot read the secrets")


def certify(secrets: Path) -> None:
    """Draw a certificate for the proxy, as docs/how-to/operate.md says."""
    made = ("-keyout", str(secrets / "tls-key"), "-out", str(secrets / "tls-certificate"))
    name = ("-subj", f"/CN={BOX}", "-addext", f"subjectAltName=DNS:{BOX}")
    drawn = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name, *made)
    subprocess.run(drawn, check=True, capture_output=True)
    for name in ("tls-key", "tls-certificate"):
        (secrets / name).chmod(0o444)


def ask(
    url: str, password: str = "", host: str = "", data: bytes | None = None, user: str = "admin"
) -> tuple[int, bytes]:
    """The status and the body of an answer."""
    request = urllib.request.Request(url, data)  # noqa: S310 -- loopback
    if data is not None:
        request.add_header("Content-Type", "application/json")
    if password:
        request.add_header("Authorization", f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}")
    if host:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def check_strangers(url: str) -> None:
    """Nobody gets anything without a password, or under another name."""
    paths = ("api/2.0/mlflow/experiments/search?max_results=1", "api/2.0/mlflow-artifacts/artifacts", "metrics", "",
             "graphql", "api/2.0/mlflow/users/get?username=admin")  # fmt: skip
    for path in paths:
        expect(ask(f"{url}/{path}")[0] == 401, f"/{path} without a password: 401")
        expect(ask(f"{url}/{path}", "wrong-password-of-nobody")[0] == 401, f"/{path} with a wrong password: 401")
    for host in ("evil.example", "10.attacker.example", "192.168.evil.com"):
        expect(ask(f"{url}/{paths[0]}", host=host)[0] == 403, f"Host {host}: 403")


def sweep(found: Engine, values: dict[str, str]) -> dict[str, Any]:
    """Run the sweep; look at its container while it runs. What `--json` printed."""
    command = [*found.compose, *DRIVER, *SWEEP]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env=found.environment, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            while not (ids := found.containers(PROJECT, "driver")) and process.poll() is None:
                time.sleep(0.5)
            if ids:
                check_container(found, "driver", ids[0], values)
            output, _ = process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        errors.seek(0)
        lines = [line for line in errors.read().splitlines() if "systemd" not in line]
    print("\n".join(f"           | {line}" for line in lines[-20:]), flush=True)
    expect(process.returncode == 0 and bool(ids), "the sweep ended with 0")
    summary: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return summary


def check_study(found: Engine, postgres: str) -> None:
    """The trials are in the database of Optuna, and the dashboard's role may only read them."""

    def query(role: str, sql: str) -> str:
        command = f'PGPASSWORD="$(cat /run/secrets/{role}-database-password)" psql -h 127.0.0.1 -U {role} -d optuna'
        return found.run("exec", postgres, "sh", "-c", f'{command} -Atc "{sql}" 2>&1', check=False).strip()

    finished = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"
    expect(query("optuna", finished) == str(TRIALS), f"{TRIALS} finished trials in PostgreSQL")
    expect(query("dashboard", finished) == str(TRIALS), "the dashboard's role reads them")
    expect("permission denied" in query("dashboard", "DELETE FROM trials"), "the dashboard's role changes nothing")


def finished_runs(url: str, password: str, kind: str) -> list[dict[str, Any]]:
    """The runs of our experiment with the tag `sweeper.kind`, which must all be finished."""
    _, body = ask(f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=bn-dropout", password)
    query = {"experiment_ids": [json.loads(body)["experiment"]["experiment_id"]]}
    query["filter"] = f"tags.`sweeper.kind` = '{kind}'"
    _, body = ask(f"{url}/api/2.0/mlflow/runs/search", password, data=json.dumps(query).encode())
    runs: list[dict[str, Any]] = json.loads(body).get("runs", [])
    states = {run["info"]["status"] for run in runs}
    expect(states <= {"FINISHED"}, f"no {kind} in MLflow but finished ones")
    return runs


def check_project(found: Engine, url: str, password: str) -> None:
    """`mlflow run` inside a container trains, and joins its run in MLflow."""
    given = [word for pair in ("exp=1", "dataset=sample", "epochs=1") for word in ("-P", pair)]
    found.composed(*DRIVER, "mlflow", "run", "/opt/sweeper", "--experiment-name", "bn-dropout", *given)
    expect(len(finished_runs(url, password, "run")) == 1, "mlflow run in a container: 1 finished run")


def check_runs(url: str, password: str) -> None:
    """Each trial is a run in MLflow, whose files the server hands out."""
    runs = finished_runs(url, password, "trial")
    expect(len(runs) == TRIALS, f"{TRIALS} finished runs in MLflow")
    for run in runs:
        wanted = f"get-artifact?run_uuid={run['info']['run_id']}&path=curves/history.csv"
        status, history = ask(f"{url}/{wanted}", password)
        name = run["info"]["run_name"]
        expect(status == 200 and b"," in history, f"curves/history.csv of {name}: {len(history)} bytes")
        expect(ask(f"{url}/{wanted}")[0] == 401, "the same without a password: 401")


def check_proxy(secrets: Path, port: int, password: str) -> None:
    """A browser on another machine reads the runs, over TLS and by the public name; no other page does."""
    trusted = ssl.create_default_context(cafile=str(secrets / "tls-certificate"))
    basic = base64.b64encode(f"admin:{password}".encode()).decode()

    def browse(origin: str, **more: str) -> int:
        connection = http.client.HTTPSConnection(BOX, context=trusted)
        connection.sock = trusted.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname=BOX)
        headers = {"Host": BOX, "Origin": origin, "Content-Type": "application/json"} | more
        connection.request("POST", "/ajax-api/2.0/mlflow/runs/search", b'{"experiment_ids": ["1"]}', headers)
        return connection.getresponse().status

    expect(browse(f"https://{BOX}") == 401, "the proxy passes nobody without a password: 401")
    known = {"Authorization": f"Basic {basic}"}
    expect(browse(f"https://{BOX}", **known) == 200, f"a page of https://{BOX} reads the runs: 200")
    expect(browse("https://evil.example", **known) == 403, "a page of https://evil.example does not: 403")


def check_people(found: Engine, url: str) -> None:
    """A user with a password of their own reads all runs, and writes to nobody else's MLflow experiment."""
    password = found.stack("user", "anna").strip().rpartition(" ")[2]
    query, run = json.dumps({"experiment_ids": ["1"]}).encode(), json.dumps({"experiment_id": "1"}).encode()
    status, body = ask(f"{url}/api/2.0/mlflow/runs/search", password, data=query, user="anna")
    expect(status == 200 and len(json.loads(body)["runs"]) >= TRIALS, "a user reads the runs: 200")
    status, _ = ask(f"{url}/api/2.0/mlflow/runs/create", password, data=run, user="anna")
    expect(status == 403, "and makes none in their MLflow experiment: 403")
    found.stack("user", "anna", "--delete")
    expect(ask(url, password, user="anna")[0] == 401, "a deleted user: 401")


def check_ray(found: Engine, worker: str) -> None:
    """All nodes are in the cluster, and nobody joins it without the token."""
    code = "import ray; ray.init(address='auto'); print('CPUs', ray.cluster_resources().get('CPU'))"
    said = found.run("exec", worker, "python", "-c", code)
    expect(f"CPUs {float(WORKERS)}" in said, f"a Ray cluster of {WORKERS} processors")
    stranger = ("--env", "RAY_AUTH_MODE=disabled", "--env", "RAY_AUTH_TOKEN_PATH=")
    said = found.run("exec", *stranger, worker, "python", "-c", code, check=False)
    expect("CPUs" not in said, "nobody joins it without its token")


def check_container(found: Engine, name: str, container: str, values: dict[str, str]) -> None:
    """What compose.yaml declares is so inside the container."""
    parts = found.run("exec", container, "sh", "-c", LOOK).split("===\n")
    user, *written = parts[0].split("\n")
    expect(user not in ("", "0") and not any(written), f"{name}: user {user}, a read-only root {written}")
    status = dict(line.split(":\t", 1) for line in parts[1].splitlines() if ":\t" in line)
    allowed = NET_BIND_SERVICE if name.startswith("proxy") else "0" * 16
    wanted = {"CapBnd": allowed, "NoNewPrivs": "1", "Seccomp": "2"}
    shown = {key: status.get(key) for key in wanted}
    held = "one" if name.startswith("proxy") else "no"
    filtered = shown == wanted and status.get("CapEff") in ("0" * 16, allowed)  # Docker gives it to root alone
    expect(filtered, f"{name}: {held} capability, no new privileges, a filter of system calls")
    expect(int(parts[2].split()[0]) < UNLIMITED, f"{name}: at most {int(parts[2].split()[0]) >> 20} MiB")
    expect(parts[3].strip().isdigit(), f"{name}: at most {parts[3].strip()} processes")
    described = found.run("inspect", container)
    expect(not any(value in described for value in values.values()), f"{name}: no secret in what the engine shows")
    held = [key for key, value in values.items() if value in parts[4]]
    known = ["flask-secret-key"] if name.startswith("mlflow") else []  # MLflow takes it from nowhere else
    expect(held == known, f"{name}: secrets in the environment of its process: {held or 'none'}")
    if name.startswith(("worker", "ray")):
        expect(parts[5].split() == ["ray-token"], f"{name}: holds the cluster's token and nothing else")


def check_ports(found: Engine, running: dict[str, str]) -> None:
    """What is published, and where."""
    for name, container in running.items():
        bindings = json.loads(found.run("inspect", "--format", "{{json .HostConfig.PortBindings}}", container)) or {}
        addresses = {binding["HostIp"] for each in bindings.values() for binding in each or []}
        expected = {"127.0.0.1"} if name.startswith(("mlflow", "dashboard", "proxy")) else set()
        expect(addresses == expected, f"{name}: published on {addresses or 'nothing'}")


def check_walls(found: Engine, running: dict[str, str]) -> None:
    """A worker reaches the head of the cluster, and neither the database nor MLflow, by address or by name."""
    format_ = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    ports = {"ray-head 1": 6379, "postgres 1": 5432, "mlflow 1": 5000}
    for name, port in ports.items():
        targets = [*found.run("inspect", "--format", format_, running[name]).split(), name.split()[0]]
        code = f"import socket; socket.create_connection((__import__('sys').argv[1], {port}), 3); print('connected')"
        said = [found.run("exec", running["worker 1"], "python", "-c", code, target, check=False) for target in targets]
        reached = any("connected" in each for each in said)
        verb = "reaches" if reached else "does not reach"
        expect(reached == name.startswith("ray"), f"worker 1 {verb} {name} at {targets}")


def check_processes(values: dict[str, str]) -> None:
    """No secret is on a command line of this machine, which shows those of the containers too."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_text(errors="replace"))
    expect(any("mlflow" in line and "server" in line for line in lines), "the containers' command lines are seen")
    expect(not any(value in line for line in lines for value in values.values()), "no secret is on a command line")


if __name__ == "__main__":
    main()
