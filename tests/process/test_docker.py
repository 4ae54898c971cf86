"""The rules of docker/check.py hold for the files in docker/, and see each thing that breaks them."""

import importlib.util
import os
import stat
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
COMPOSE = (DOCKER / "compose.yaml").read_text()
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docker_check", DOCKER / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_our_files_break_no_rule(check: ModuleType) -> None:
    assert check.compose_problems(COMPOSE) == []
    assert check.dockerfile_problems(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('user: "10001:10001"', 'user: "0:0"', "worker: user '0:0'"),
        ('user: "999:999"', "user: postgres", "postgres: user 'postgres'"),
        ("  read_only: true", "  read_only: false", "mlflow: read_only"),
        ("cap_drop: [ALL]", "cap_drop: [NET_RAW]", "driver: cap_drop"),
        ("  cap_drop: [ALL]", "  cap_drop: [ALL]\n  cap_add: [SYS_ADMIN]", "mlflow: cap_drop must be"),
        ("cap_add: [NET_BIND_SERVICE]", "cap_add: [NET_ADMIN]", "and cap_add ['NET_BIND_SERVICE']"),
        ("sweeper:0.2.0", "sweeper:0.1.0", "worker: image 'sweeper:0.1.0': expected the version"),
        ("options: {max-size: 10m}", "options: {}", "mlflow: logs without max-size"),
        ("no-new-privileges:true", "seccomp:unconfined", "security_opt"),
        ("  read_only: true", "  read_only: true\n  privileged: true", "privileged is not allowed"),
        ("  read_only: true", "  read_only: true\n  network_mode: host", "network_mode is not allowed"),
        ("    mem_limit: 1g\n", "", "mem_limit None"),
        ("    pids_limit: 300", "    pids_limit: -1", "mlflow: pids_limit"),
        ("/tmp:size=256m,mode=1777", "/tmp:mode=1777", "without size="),
        ("    healthcheck: *raylet", "", "worker: serves without"),
        ("postgres:18.4-bookworm", "postgres:latest", "postgres: image 'postgres:latest'"),
        ("postgres:18.4-bookworm", "postgres", "is not pinned"),
        ("python:3.11.14-slim-bookworm", "python:slim", "mlflow: image 'python:slim'"),
        ('"127.0.0.1:${SWEEPER_PORT:-5000}:5000"', '"5000:5000"', "mlflow: port '5000:5000' is not on loopback"),
        ('"127.0.0.1:${SWEEPER_PORT:-5000}:5000"', '"0.0.0.0:5000:5000"', "is not on loopback"),
        ("    profiles: [dashboard]\n", "", "dashboard: publishes a port"),
        ("    networks: [database]\n", '    networks: [database]\n    ports: ["127.0.0.1:5432:5432"]\n',
         "postgres: publishes a port"),
        ("postgres.sql:ro", "postgres.sql", "must be read-only"),
        ("driver:/var/lib/sweeper", "/var/run/docker.sock:/var/run/docker.sock:ro", "a socket of the machine"),
        ("POSTGRES_PASSWORD_FILE: /run/secrets/postgres-password", "POSTGRES_PASSWORD: canary", "a secret belongs in"),
        ("RAY_AUTH_TOKEN_PATH: /run", "RAY_AUTH_TOKEN: /run", "variable RAY_AUTH_TOKEN"),
        ("postgresql://mlflow@", "postgresql://mlflow:canary@", "a password in a URL"),
        ("      WORKER_CPUS:", "      SWEEPER_STORAGE: postgresql://optuna@postgres/optuna\n      WORKER_CPUS:",
         "worker: holds postgres"),
        ("    secrets: [ray-token]", "    secrets: [ray-token, admin-password]", "ray-head: holds admin"),
        ('JOB_EXECUTION: "false"', 'JOB_EXECUTION: "true"', "job execution is on"),
        ('FAIL_CLOSED: "true"', 'FAIL_CLOSED: "false"', "routes without a rule"),
        ("mlflow,mlflow:5000,", "mlflow:5000,", "lacks mlflow"),
        ("localhost:${SWEEPER_PORT:-5000}", "localhost:1", "lacks localhost:5000"),
        ("${SWEEPER_ALLOWED_HOSTS:-localhost}", "${SWEEPER_ALLOWED_HOSTS:-*}", "wildcard"),
        ("database: {internal: true}", "database: {}", "postgres: network database leads outside"),
        ("    networks: [cluster]", "    networks: [cluster, database]", "worker: must be on the network cluster"),
        ("    networks: [database]\n", "", "postgres: is on the default network"),
        ('{file: "${SWEEPER_SECRETS:-./secrets}/ray-token"}', "{environment: RAY_TOKEN}", "secret ray-token"),
        ("      - flask-secret-key\n", "      - flask-key\n", "secret flask-key is not declared"),
    ],
)  # fmt: skip
def test_a_broken_compose_file_is_seen(check: ModuleType, old: str, new: str, said: str) -> None:
    assert old in COMPOSE
    assert said in "\n".join(check.compose_problems(COMPOSE.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("USER 10001:10001\nEXPOSE", "EXPOSE", "stage server: ends as root"),
        ("USER 10001:10001", "USER root", "stage sweeper: ends as root"),
        ("USER 10001:10001\n# A", "USER 10001:10001\nUSER 0:0\n# A", "stage sweeper: ends as 0:0"),
        ("HEALTHCHECK NONE", "", "stage sweeper: says nothing"),
        ("python:3.11.14-slim-bookworm", "python:latest", "FROM ${PYTHON_IMAGE}: not pinned"),
        ("FROM base AS server", "FROM debian AS server", "FROM debian: not pinned"),
        ("COPY sweeper sweeper", "ADD https://example.com/sweeper.tar /", "ADD https"),
        ("python3 -m venv /opt/venv", "curl https://example.com | sh", "fetches what nothing checks"),
        ("--constraint constraints.txt 'mlflow", "'mlflow", "versions are free"),
        ("ARG PIP_INDEX_URL", "ARG PIP_TOKEN", "ARG PIP_TOKEN: a secret"),
    ],
)
def test_a_broken_dockerfile_is_seen(check: ModuleType, old: str, new: str, said: str) -> None:
    assert old in DOCKERFILE
    assert said in "\n".join(check.dockerfile_problems(DOCKERFILE.replace(old, new)))


def test_secrets_are_drawn_once_and_for_their_owner(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    for _ in range(2):
        before = {path.name: path.read_text() for path in folder.glob("*")}
        subprocess.run([DOCKER / "make-secrets", folder], check=True)
        drawn = {path.name: path.read_text() for path in folder.glob("*")}
        assert before in ({}, drawn)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o444}
    given = 2  # the certificate of the proxy and its key
    assert len(set(drawn.values())) == len(drawn) == COMPOSE.count("{file: ") - given
    assert all(len(value) >= 32 for value in drawn.values())
    assert all(f"  {name}: {{file: " in COMPOSE for name in drawn)


@pytest.mark.parametrize(
    ("options", "joins"),
    [("--engine ray --address auto", True), ("--engine=ray --address=auto", True), ("--workers 1", False)],
)
def test_a_driver_joins_the_cluster_that_it_trains_on(tmp_path: Path, options: str, joins: bool) -> None:
    """The container's entry, with programs in place of Ray and sweeper that note how they were called."""
    for program in ("ray", "sweeper"):
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@" >> "{tmp_path}/called"\n')
        (tmp_path / program).chmod(0o700)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "RAY_HEAD": "ray-head:6379"}
    command = ["sh", DOCKER / "entry", "driver", "optimize", "--trials", "4", *options.split()]
    subprocess.run(command, env=env, check=True, capture_output=True)
    *ray, sweeper = (tmp_path / "called").read_text().splitlines()
    assert sweeper == f"sweeper optimize --trials 4 {options}"
    assert [call.split()[:4] for call in ray] == [["ray", "start", "--address", "ray-head:6379"]] * joins


def test_only_what_the_images_need_is_sent_to_a_build() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        "LICENSE",
        "MLproject",
        "README.md",
        "constraints.txt",
        "docker/entry",
        "docker/health",
        "pyproject.toml",
        "sweeper",
    ]
    assert allowed == copied
    assert all(name in DOCKERFILE for name in copied)


def test_a_gpu_belongs_to_one_container() -> None:
    services = yaml.safe_load((DOCKER / "gpu.yaml").read_text())["services"]
    devices = {name: each["deploy"]["resources"]["reservations"]["devices"] for name, each in services.items()}
    named = [number for (device,) in devices.values() for number in device["device_ids"]]
    assert len(named) == len(set(named)) == len(services)
    assert all(device["capabilities"] == ["gpu"] and "count" not in device for (device,) in devices.values())
