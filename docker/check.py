"""Hold compose.yaml and the Dockerfile to the rules of docs/explanation/security.md, as a part of `make check`.

Each rule is a function that yields what breaks it, one line each. Variables in compose.yaml count by their defaults.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

HERE: Final = Path(__file__).resolve().parent
DATABASE_WORDS: Final = ("postgres", "mlflow", "database", "admin")
CAPABILITIES: Final = {"proxy": ["NET_BIND_SERVICE"]}
OURS: Final = re.compile(r"(?:^|/)sweeper[\w-]*:")
WITHOUT_CREDENTIALS: Final = ("ray-head", "worker")
SECRET_NAME: Final = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|(^|_)KEY", re.IGNORECASE)
NAMES_A_FILE: Final = re.compile(r"_(FILE|PATH)$")
PASSWORD_IN_URL: Final = re.compile(r"://[^/@\s]*:[^/@\s]*@")
VERSION: Final = re.findall(r'__version__ = "(.+)"', (HERE.parent / "sweeper/__init__.py").read_text())[0]
PINNED: Final = re.compile(r"@sha256:[0-9a-f]{64}$|:\d+\.\d+[\w.-]*$")
DEFAULT: Final = re.compile(r"\$\{\w+(?::-([^}]*))?\}")

Service = dict[str, Any]


def compose_problems(text: str) -> list[str]:
    """What a compose.yaml does that it must not, one line each."""
    compose = yaml.safe_load(DEFAULT.sub(lambda match: match[1] or "", text))
    found = [*_of_secrets(compose)]
    for name, service in compose["services"].items():
        for rule in (_identity, _limits, _health, _image, _ports, _mounts, _environment, _networks):
            found += [f"{name}: {problem}" for problem in rule(name, service, compose)]
    return found


def _identity(name: str, service: Service, __: Any) -> Iterator[str]:
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", str(service.get("user"))):
        yield f"user {service.get('user')!r}: expected numbers, UID:GID, not 0"
    if service.get("read_only") is not True:
        yield "read_only is not true"
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add", []) != CAPABILITIES.get(name, []):
        yield f"cap_drop must be [ALL], and cap_add {CAPABILITIES.get(name, [])}"
    if service.get("security_opt") != ["no-new-privileges:true"]:
        yield "security_opt must be no-new-privileges:true alone"
    for key in ("privileged", "devices", "pid", "ipc", "userns_mode", "network_mode", "env_file"):
        if key in service:
            yield f"{key} is not allowed"


def _limits(_: str, service: Service, __: Any) -> Iterator[str]:
    if not re.fullmatch(r"\d+[mg]", str(service.get("mem_limit"))):
        yield f"mem_limit {service.get('mem_limit')!r}: expected such as 2g"
    if not isinstance(service.get("pids_limit"), int) or service["pids_limit"] <= 0:
        yield f"pids_limit {service.get('pids_limit')!r}: expected a number above 0"
    if "logging" not in service or "max-size" not in service["logging"].get("options", {}):
        yield "logs without max-size"
    for mount in service.get("tmpfs") or ["/tmp"]:  # noqa: S108 -- in the container
        if "size=" not in mount:
            yield f"tmpfs {mount}: without size= it may fill the memory"


def _health(_: str, service: Service, __: Any) -> Iterator[str]:
    is_command = service.get("restart") == "no"
    check = service.get("healthcheck", {})
    if not is_command and (not check.get("test") or check.get("disable")):
        yield "serves without a healthcheck"


def _image(_: str, service: Service, __: Any) -> Iterator[str]:
    for image in [service.get("image", ""), *service.get("build", {}).get("args", {}).get("PYTHON_IMAGE", "").split()]:
        if not PINNED.search(image):
            yield f"image {image!r} is not pinned to a version or a digest"
        if OURS.search(image) and not image.endswith(f":{VERSION}"):
            yield f"image {image!r}: expected the version of sweeper, {VERSION}"


def _ports(name: str, service: Service, _: Any) -> Iterator[str]:
    ports = service.get("ports", [])
    if ports and name != "mlflow" and not service.get("profiles"):
        yield "publishes a port; only mlflow may, and what a profile turns on"
    for port in ports if name != "proxy" else []:
        if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", str(port)):
            yield f"port {port!r} is not on loopback: expected 127.0.0.1:PORT:PORT"


def _mounts(_: str, service: Service, compose: Any) -> Iterator[str]:
    for mount in service.get("volumes", []):
        source, *_rest = mount.split(":")
        if source not in compose.get("volumes", {}) and not mount.endswith(":ro"):
            yield f"volume {mount}: a folder of the machine must be read-only"
        if source.endswith(".sock"):
            yield f"volume {mount}: a socket of the machine"
    for secret in service.get("secrets", []):
        if (source := secret if isinstance(secret, str) else secret["source"]) not in compose.get("secrets", {}):
            yield f"secret {source} is not declared"


def _environment(name: str, service: Service, _: Any) -> Iterator[str]:
    environment = service.get("environment", {})
    for key, value in environment.items():
        if SECRET_NAME.search(key) and not NAMES_A_FILE.search(key):
            yield f"variable {key}: a secret belongs in a file"
        if PASSWORD_IN_URL.search(str(value)):
            yield f"variable {key}: a password in a URL"
    words = str([environment, service.get("secrets")]).lower()
    if name in WITHOUT_CREDENTIALS and (found := [word for word in DATABASE_WORDS if word in words]):
        yield f"holds {found[0]}: a node that trains has no credentials of a store"
    if name == "mlflow":
        yield from _of_mlflow(service, environment)


def _of_mlflow(service: Service, environment: dict[str, Any]) -> Iterator[str]:
    if environment.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION") != "false":
        yield "job execution is on"
    if environment.get("MLFLOW_BASIC_AUTH_FAIL_CLOSED") != "true":
        yield "routes without a rule are open"
    hosts = environment.get("ALLOWED_HOSTS", "").split(",")
    published = [port.split(":")[1] for port in service.get("ports", [])]
    names = [(name, port) for port in published for name in ("127.0.0.1", "localhost")]
    wanted = ["mlflow", "mlflow:5000", *(host for name, port in names for host in (name, f"{name}:{port}"))]
    for host in [host for host in wanted if host not in hosts]:
        yield f"ALLOWED_HOSTS lacks {host}"
    if any("*" in host or not host for host in hosts):
        yield "ALLOWED_HOSTS has a wildcard or an empty name"


def _networks(name: str, service: Service, compose: Any) -> Iterator[str]:
    networks = service.get("networks", [])
    declared = compose.get("networks", {})
    if not networks:
        yield "is on the default network, which is not internal"
    for network in networks:
        if network not in declared:
            yield f"network {network} is not declared"
        elif not declared[network].get("internal") and not service.get("ports"):
            yield f"network {network} leads outside, and nothing is published"
    if name in WITHOUT_CREDENTIALS and networks != ["cluster"]:
        yield "must be on the network cluster alone"


def _of_secrets(compose: Any) -> Iterator[str]:
    for name, secret in compose.get("secrets", {}).items():
        if set(secret) != {"file"}:
            yield f"secret {name}: expected a file"


def dockerfile_problems(text: str) -> list[str]:
    """What a Dockerfile does that it must not, one line each."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    instructions = [(word.upper(), rest) for word, _, rest in (line.strip().partition(" ") for line in lines) if word]
    return [*_of_instructions(instructions), *_of_stages(instructions)]


def _of_instructions(instructions: list[tuple[str, str]]) -> Iterator[str]:
    for word, rest in instructions:
        if word == "ADD":
            yield f"ADD {rest}: use COPY, which fetches and unpacks nothing"
        if word in ("ARG", "ENV") and SECRET_NAME.search(rest.partition("=")[0]):
            yield f"{word} {rest}: a secret would stay in the image"
        if word == "RUN" and (re.search(r"\b(curl|wget)\b", rest) or re.search(r"https?://", rest)):
            yield f"RUN {rest}: fetches what nothing checks"
        for part in re.split(r"&&|;", rest) if word == "RUN" else ():
            if "pip install" in part and not re.search(r"--constraint|--no-deps", part):
                yield f"RUN {part.strip()}: versions are free; use --constraint constraints.txt"


def _of_stages(instructions: list[tuple[str, str]]) -> Iterator[str]:
    arguments = dict(rest.split("=", 1) for word, rest in instructions if word == "ARG" and "=" in rest)
    stages: dict[str, list[tuple[str, str]]] = {}
    bases: dict[str, str] = {}
    for word, rest in instructions:
        if word == "FROM":
            base, _, stage = rest.partition(" AS ")
            bases[stage], stages[stage] = base, []
            image = re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match[1], ""), base)
            if base not in stages and not PINNED.search(image):
                yield f"FROM {base}: not pinned to a version or a digest"
        elif stages:
            stages[list(stages)[-1]].append((word, rest))
    copied = {match[1] for word, rest in instructions if (match := re.search(r"--from=(\S+)", rest))}
    for stage in stages.keys() - copied - set(bases.values()):
        users = [rest for word, rest in stages[stage] if word == "USER"]
        if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
            yield f"stage {stage}: ends as {users[-1] if users else 'root'}; expected USER UID:GID, not 0"
        if "HEALTHCHECK" not in [word for word, _ in stages[stage]]:
            yield f"stage {stage}: says nothing of HEALTHCHECK"


def main() -> None:
    """Print what breaks a rule, and exit with 1 if anything does."""
    problems = {
        "compose.yaml": compose_problems((HERE / "compose.yaml").read_text()),
        "Dockerfile": dockerfile_problems((HERE / "Dockerfile").read_text()),
    }
    lines = [f"docker/{file}: {problem}" for file, found in problems.items() for problem in found]
    sys.exit("\n".join(lines) or 0)


if __name__ == "__main__":
    main()
