"""The package as others get it: a wheel in an environment of its own, the source distribution, and uv."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sweeper

pytest_plugins = ["tests.support.mlflow_store"]

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXAMPLE = "import sweeper; print(sweeper.__file__, sweeper.experiment(6).placement.value)"
UNREACHABLE = re.compile(r"error sending request|dns error|failed to fetch|connect", re.IGNORECASE)

Run = Callable[..., str]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a package is made of, without what earlier builds left."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, folder)
    shutil.copytree(ROOT / "sweeper", folder / "sweeper", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def built(checkout: Path) -> Path:
    """A folder with what `make dist` builds."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", "."]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True, timeout=300)
    return checkout / "dist"


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, which borrows all other packages from this one."""
    folder = tmp_path_factory.mktemp("wheel") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    install = [*pip, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder


@pytest.fixture
def run(environment: Path, tmp_path: Path, alone: dict[str, str]) -> Run:
    """Run a program of the environment in an empty folder, and return what it prints."""

    def call(*command: str, cwd: Path = tmp_path, env: dict[str, str] | None = None) -> str:
        mine = alone | {"PATH": f"{environment / 'bin'}:/usr/bin:/bin"} | (env or {})
        done = subprocess.run(command, cwd=cwd, env=mine, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_the_wheel_has_the_command_and_the_module(run: Run, environment: Path):
    assert run("sweeper", "--version").strip() == sweeper.__version__
    file, placement = run("python", "-c", EXAMPLE).split()
    assert Path(file).is_relative_to(environment)
    assert placement == "bn-dropout"


def test_the_wheel_trains_outside_the_checkout(run: Run, tmp_path: Path):
    said = run("sweeper", "train", "--exp", "1", "--dataset", "sample", "--epochs", "1", "--tracking-uri", "offline")
    assert "epoch 1/1" in said
    assert (tmp_path / "journal" / "runs").is_dir()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")  # MLflow's own
@pytest.mark.slow
def test_mlflow_runs_the_source_distribution(built: Path, run: Run, tmp_path: Path, empty_store: Path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    shutil.copy(empty_store, tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    given = [word for item in ("exp=1", "dataset=sample", "epochs=1") for word in ("-P", item)]
    run("python", "-m", "mlflow", "run", source.name, *given, env={"MLFLOW_TRACKING_URI": uri})

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert found.info.status == "FINISHED"
    assert f"sweeper {sweeper.__version__}" in found.data.tags["sweeper.versions"]


def test_what_messages_say_to_install_is_what_the_extras_need():
    extras = {need for extra in ("ray", "server") for need in PROJECT["optional-dependencies"][extra]}
    texts = [
        node.value
        for path in sorted((ROOT / "sweeper").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "pip install" in node.value
    ]
    named = {need for text in texts for need in re.findall(r"'([^']+)'", text.partition("pip install")[2])}
    assert named == extras
    assert not [text for text in texts if "sweeper" in text.partition("pip install")[2]]


def uv_or_skip(command: list[str], cwd: Path, env: dict[str, str]) -> str:
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("uv is not installed")
    done = subprocess.run(
        [program, *command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode and UNREACHABLE.search(done.stderr):
        pytest.skip("uv reaches no package index")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_uv_sync_finds_all_packages(checkout: Path, alone: dict[str, str]):
    said = uv_or_skip(["sync", "--dry-run", "--python", sys.executable], checkout, alone)
    assert f" + {PROJECT['name']} @ " in said
    assert " + torch==" in said


def test_uv_run_runs_the_command(checkout: Path, alone: dict[str, str], environment: Path):
    env = alone | {"UV_PROJECT_ENVIRONMENT": str(environment), "UV_OFFLINE": "1"}
    assert sweeper.__version__ in uv_or_skip(["run", "--no-sync", "sweeper", "--version"], checkout, env)
