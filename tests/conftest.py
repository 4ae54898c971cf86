"""Data shared by the tests: the embedded sample, a few hundred of its images, and one finished sweep."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line does; read when torch is imported
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels then run on the CPU; read when Triton is imported

import torch

from sweeper.core.config import RunConfig
from sweeper.data.sources import find
from sweeper.training.images import Data, load

pytest.register_assert_rewrite("tests.support")  # which tests import before pytest loads the plugins among them
torch.set_num_threads(1)  # the tests need no more, and the sums then come out in one order


@pytest.fixture(scope="session")
def sample() -> Data:
    """The embedded sample as `split=holdout` gives it: 6,000 training and 1,000 validation images."""
    return load(RunConfig(dataset="sample"), find("sample"))[0]


@pytest.fixture(scope="session")
def tiny(sample: Data) -> Data:
    """300 training and 100 validation images of all ten classes."""
    return Data(sample.train[torch.arange(300)], sample.val[torch.arange(100)])


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    """`until(condition, what)` waits, for at most a minute, and returns what the condition came to."""
    from tests.support.waiting import until

    return until


@dataclass(frozen=True)
class Sweep:
    """A sweep that a command has finished: the command, its folder, and what it printed."""

    argv: tuple[str, ...]
    home: Path
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The object that --json printed."""
        return json.loads(self.stdout)


SWEEP = ("optimize", "--trials", "6", "--exp", "1", "--dataset", "sample", "--train-images", "600", "--epochs", "2",
         "--workers", "1")  # fmt: skip


@pytest.fixture(scope="session")
def alone() -> dict[str, str]:
    """The environment of a command that nothing outside the test configures, on one core's worth of threads."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("SWEEPER_", "MLFLOW_", "PYTHONUNBUFFERED"))}
    return mine | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory, worker_id: str, alone: dict[str, str]) -> Sweep:
    """Six trials of two epochs and the champion, as the command leaves them; copy `home` before changing it.

    With pytest-xdist, one worker runs it for all of them.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "finished-sweep"
    with filelock.FileLock(f"{root}.lock"):
        if not root.exists():
            (root / "home").mkdir(parents=True)
            command = [sys.executable, "-m", "sweeper", *SWEEP, "--json"]
            with (root / "stdout").open("w") as out, (root / "stderr").open("w") as err:
                subprocess.run(command, cwd=root / "home", env=alone, stdout=out, stderr=err, timeout=900, check=False)
    sweep = Sweep(SWEEP, root / "home", (root / "stdout").read_text(), (root / "stderr").read_text())
    assert sweep.stdout, sweep.stderr
    return sweep


TO_HAVE_IT = {  # the beginning of a reason: how to have the tests
    "chromium is not installed": "apt-get install chromium",
    "FashionMNIST is not installed": "apt-get install dataset-fashion-mnist",
    "mounting a tmpfs is not permitted": "run as root, in a container with CAP_SYS_ADMIN",
    "no mount command": "apt-get install mount",
    "could not import 'ray'": "pip install 'ray[default]>=2.40'",
    "could not import 'sweeper.engine.ray'": "pip install 'ray[default]>=2.40'",
    "uv is not installed": "pip install uv",
    "no GPU": "run on a machine with a CUDA device",
}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """End with one line that says what was skipped, and how to have it."""
    yield
    reports = terminalreporter.stats.get("skipped", [])
    parts = []
    for reason, count in Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports).items():
        remedy = next((how for begin, how in TO_HAVE_IT.items() if reason.startswith(begin)), "")
        parts.append(f"{count}, {reason.splitlines()[0]}" + (f": {remedy}" if remedy else ""))
    if parts:
        terminalreporter.write_line(f"skipped tests: {'; '.join(parts)}")
