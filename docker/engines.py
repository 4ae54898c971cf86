"""The container engines that `make docker-test` runs in: Docker, or podman with a store of its own.

podman is set up for machines where little is there: its images, volumes and networks lie in one folder, without
systemd, run by runc. Where the kernel mounts no overlay file system, each layer is a copy of all files (vfs). A base
image that no registry gives is made by debootstrap.
"""

# ruff: noqa: T201

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
PODMAN_COMPOSE: Final = "podman-compose==1.6.0"
FOR_PODMAN: Final = ("podman", "runc", "netavark", "aardvark-dns", "catatonit", "iptables")
HEALTHY_SECONDS: Final = 600  # for what takes about 30; a loaded machine is slow, not broken
CONTAINERS_CONF: Final = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
static_dir = "{store}/libpod"
tmp_dir = "{store}/tmp"
volume_path = "{store}/volumes"
[network]
network_backend = "netavark"
network_config_dir = "{store}/networks"
"""
STORAGE_CONF: Final = """
[storage]
driver = "{driver}"
graphroot = "{store}/images"
runroot = "{store}/run"
"""


@dataclass(frozen=True)
class Engine:
    """A container engine: its program, how it is told of a compose file, and what a build and a `run` need besides."""

    program: str
    compose: tuple[str, ...]
    building: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, check: bool = True) -> str:
        """What a command of the engine prints on stdout."""
        return self._call((self.program, *arguments), check=check)

    def composed(self, *arguments: str) -> str:
        """What a command on the compose file prints on stdout."""
        return self._call((*self.compose, *arguments), check=True)

    def stack(self, *arguments: str) -> str:
        """Run a command of stack.py on these containers, and return what it prints on stdout."""
        return self._call((str(HERE / "stack.py"), *arguments), check=True, SWEEPER_COMPOSE=" ".join(self.compose))

    def _call(self, command: tuple[str, ...], *, check: bool, **variables: str) -> str:
        environment = self.environment | variables
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def build(self, image: str, target: str, arguments: dict[str, str]) -> None:
        """Build one target of our Dockerfile."""
        given = [word for name, value in arguments.items() if value for word in ("--build-arg", f"{name}={value}")]
        self.run(
            "build", *self.building, *given, "--file", "docker/Dockerfile", "--target", target, "--tag", image, "."
        )

    def has(self, image: str) -> bool:
        """Return True if there is an image of this name."""
        return self.run("images", "--quiet", image, check=False).strip() != ""

    def containers(self, project: str, service: str) -> list[str]:
        """The ids of a service's containers that run."""
        labels = (f"com.docker.compose.project={project}", f"com.docker.compose.service={service}")
        return self.run("ps", "--quiet", "--no-trunc", *(f"--filter=label={label}" for label in labels)).split()

    def wait_until_healthy(self, container: str) -> None:
        """Ask the container's own health check, as nothing else does where podman finds no systemd."""
        until = time.monotonic() + HEALTHY_SECONDS
        while not self.is_healthy(container):
            if time.monotonic() > until:
                raise RuntimeError(f"{container} is not healthy:\n{self.run('logs', '--tail', '40', container)}")
            time.sleep(1)

    def is_healthy(self, container: str) -> bool:
        """Return True if the container passes its health check."""
        if self.program == "docker":
            return self.run("inspect", "--format", "{{.State.Health.Status}}", container).strip() == "healthy"
        asked = subprocess.run(
            ["podman", "healthcheck", "run", container], check=False, capture_output=True, env=self.environment
        )
        return asked.returncode == 0


@contextlib.contextmanager
def engine(project: str, work: Path, variables: dict[str, str]) -> Iterator[Engine]:
    """Docker where its engine and `docker compose` answer, else podman with everything below `work`.

    Args:
        project: the name of the project of the compose file.
        work: an empty folder.
        variables: what the compose file refers to, besides the variables of this process.

    Raises:
        RuntimeError: there is neither.
    """
    environment = {**os.environ, **variables}
    file = ("--project-name", project, "--file", str(HERE / "compose.yaml"))
    if all(_answers("docker", *words) for words in (["info"], ["compose", "version"])):
        yield Engine("docker", ("docker", "compose", *file), (), environment)
        return
    if missing := [program for program in FOR_PODMAN if not _installed(program)]:
        raise RuntimeError(f"no docker with compose answers, and podman lacks {', '.join(missing)}: install them")
    driver = "overlay" if _mounts_overlay(work) else "vfs"
    kept = os.environ.get("DOCKER_TEST_KEEP", "")
    store = Path(kept).resolve() if kept else work / "store"
    store.mkdir(parents=True, exist_ok=True)
    for name, text in (("CONTAINERS_CONF", CONTAINERS_CONF), ("CONTAINERS_STORAGE_CONF", STORAGE_CONF)):
        (work / name).write_text(text.format(store=store, driver=driver))
        environment[name] = str(work / name)
    # The cache of pip, which a build mounts, lies there too.
    environment["TMPDIR"] = str(work)
    # Docker mounts nothing in a read-only container that was not asked for.
    command = (_podman_compose(work), *file, "--podman-run-args=--read-only-tmpfs=false")
    podman = Engine("podman", command, tuple(_podman_build_options(layers=driver == "overlay")), environment)
    try:
        yield podman
    finally:
        podman.run("rm", "--all", "--force", "--time", "5", check=False)
        podman.run("network", "prune", "--force", check=False)
        if not kept:
            podman.run("rmi", "--all", "--force", check=False)


def _answers(*command: str) -> bool:
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _installed(program: str) -> bool:
    """In PATH, or where Debian keeps what podman calls itself."""
    folders = (os.environ.get("PATH", ""), "/usr/sbin", "/usr/lib/podman", "/usr/libexec/podman")
    return shutil.which(program, path=":".join(folders)) is not None


def _mounts_overlay(work: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=work) as aside:
        for name in ("lower", "upper", "work", "merged"):
            (Path(aside) / name).mkdir()
        options = ",".join(f"{name}dir={aside}/{name}" for name in ("lower", "upper", "work"))
        mounted = _answers("mount", "-t", "overlay", "-o", options, "overlay", f"{aside}/merged")
        return mounted and _answers("umount", f"{aside}/merged")


def _podman_compose(work: Path) -> str:
    if found := shutil.which("podman-compose"):
        return found
    subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True)
    subprocess.run([work / "venv/bin/pip", "install", "--quiet", PODMAN_COMPOSE], check=True)
    return str(work / "venv/bin/podman-compose")


def _podman_build_options(*, layers: bool) -> Iterator[str]:
    """In a build, pip reaches its index as it does on this machine."""
    yield from ("--isolation", "chroot", "--network", "host", f"--layers={str(layers).lower()}", "--format", "docker")
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    if certificates:
        yield from ("--secret", f"id=ca,src={certificates}")
    for folder in os.environ.get("PIP_FIND_LINKS", "").split():
        if Path(folder).is_dir():
            yield from ("--volume", f"{folder}:{folder}:ro")


def base_images(found: Engine, work: Path, *images: str) -> tuple[str, ...]:
    """The names of the images of Python, PostgreSQL and Caddy; of stand-ins where the registry does not give one.

    Raises:
        RuntimeError: neither a registry nor debootstrap is at hand.
    """
    made = "localhost/standin-python:3.11", "localhost/standin-postgres:15", "localhost/standin-proxy:2.6"
    if all(found.has(image) for image in made):
        return made
    if all(_pulls(found, image) for image in images):
        return images
    if found.program == "docker" or not shutil.which("debootstrap") or os.geteuid() != 0:
        raise RuntimeError(f"{', '.join(images)} cannot be pulled; stand-ins need podman, debootstrap and root")
    print("no registry gives the base images: making stand-ins of Debian's packages", flush=True)
    folder = work / "standin"
    include = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", include, "bookworm", folder], check=True, capture_output=True)
    subprocess.run(["tar", "-C", folder, "-cf", work / "standin.tar", "."], check=True)
    found.run("import", str(work / "standin.tar"), made[0])
    shutil.rmtree(folder)
    (work / "standin.tar").unlink()
    for name, image in (("postgres", made[1]), ("proxy", made[2])):
        found.run("build", *found.building, "--build-arg", f"BASE={made[0]}", "--tag", image,
                  "--file", str(HERE / f"standin/{name}.Dockerfile"), str(HERE / "standin"))  # fmt: skip
    return made


def _pulls(found: Engine, image: str) -> bool:
    done = subprocess.run(
        [found.program, "pull", image], check=False, capture_output=True, text=True, env=found.environment
    )
    if done.returncode != 0:
        print(f"{image}: {done.stderr.strip().splitlines()[-1][:200]}", flush=True)
    return done.returncode == 0
