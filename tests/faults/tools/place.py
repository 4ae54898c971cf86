"""A folder in which commands run, and what they leave there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.core.environment import EXPERIMENT
from sweeper.study.reading import read_study
from sweeper.study.rows import TrialRow
from sweeper.tracking.reading import read_events, run_folders

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ROOT = Path(__file__).parents[3]
PATIENCE = 300  # seconds, for a command that takes twenty
SWEEP = ("optimize", "--exp", "1", "--dataset", "sample", "--no-final")
OFFLINE = ("--tracking-uri", "offline")


@dataclass
class Place:
    """A folder for commands; with `faults`, tests.faults.tools.launch runs them, with stub training.

    Two places with the same `home` need different names.
    """

    home: Path
    env: dict[str, str]
    faults: dict[str, Any] | None = None
    name: str = ""
    aside: Path | None = None  # for what the tests note; by default beside `home`
    _begun: int = field(default=0)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        self._begun += 1
        return subprocess.run(
            self._command(argv), cwd=self.home, env=self._env(), capture_output=True, text=True, timeout=PATIENCE,
            check=False,
        )  # fmt: skip

    @contextmanager
    def begin(self, *argv: str, stdout: Any = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
        """Start a command in a process group of its own, of which nothing is left after the block."""
        self._begun += 1
        with (
            self._said().open("w+") as said,
            subprocess.Popen(
                self._command(argv), cwd=self.home, env=self._env(), stdout=stdout, stderr=said, text=True,
                start_new_session=True,
            ) as process,
        ):  # fmt: skip
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def _command(self, argv: tuple[str, ...]) -> list[str]:
        module = "sweeper" if self.faults is None else "tests.faults.tools.launch"
        return [sys.executable, "-m", module, *argv]

    def _env(self) -> dict[str, str]:
        """Return the environment of the command; each command has marks of its own."""
        if self.faults is None:
            return self.env
        self.marks.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(ROOT), self.env.get("PYTHONPATH", "")])
        return self.env | {"PYTHONPATH": path, "FAULTS": json.dumps(self.faults | {"marks": str(self.marks)})}

    def _said(self) -> Path:
        return (self.aside or self.home.parent) / f"said{self.name}-{self._begun}"

    @property
    def said(self) -> str:
        """The stderr of the command that was begun last."""
        return self._said().read_text()

    @property
    def marks(self) -> Path:
        """The folder in which the events of the present command are counted."""
        return self._marks(self._begun)

    def _marks(self, begun: int) -> Path:
        return (self.aside or self.home.parent) / f"marks{self.name}-{begun}"

    def count(self, event: str) -> int:
        """Return how often an event has happened in the present command."""
        mark = self.marks / event
        return mark.stat().st_size if mark.exists() else 0

    @property
    def struck(self) -> bool:
        """True once a fault has struck the command."""
        return (self.marks / "struck").exists()

    def strike(self, at: str, nth: int, signum: signal.Signals, **more: Any) -> None:
        """Strike the next command with a signal at the nth time of an event, while a training is unfinished.

        Trainings wait for the strike after the first ten epochs: four trials of three have an epoch by then, so that
        the uploader, which has a thread of its own and comes to each of them, has to do with four. It can be later
        than all trainings.
        """
        gate = {"gate": {"at": "training", "file": str(self._marks(self._begun + 1) / "struck"), "beyond": 10}}
        late = at in ("uploading", "noting")
        self.faults = {"strikes": [{"at": at, "nth": nth, "signal": signum.name, **more}]} | (gate if late else {})

    def stopped_by(self, signum: signal.Signals, *argv: str) -> str:
        """Run a command until the signal of a fault ends it, check that it did, and return its stderr."""
        with self.begin(*argv) as process:
            code = process.wait(PATIENCE)
        assert self.struck, self.said
        assert code in (-signum, 128 + signum), self.said
        return self.said

    def measured(self, run: str) -> bool:
        """Return True if the run in that folder has an epoch in the journal."""
        return any(e["event"] == "epoch" for e in read_events(self.home / "journal/sweep" / run))

    def unfinished(self) -> int:
        """Return how many trials the study calls running."""
        return sum(row.state == "running" for row in self.rows())

    def left_running(self) -> dict[str, int]:
        """Count the runs that have no end, in the journal and in MLflow."""
        ends = [read_events(folder)[-1]["event"] for folder in run_folders(self.home / "journal")]
        return {
            "runs without an end in the journal": sum(end != "end" for end in ends),
            "left RUNNING in MLflow": sum(run.info.status == "RUNNING" for run in self.all_runs()),
        }

    def rows(self) -> list[TrialRow]:
        return read_study("sweep", f"sqlite:///{self.home / 'sweeper.db'}").rows

    def found(self) -> list[tuple[Any, ...]]:
        """Return each trial with its parameters and values."""
        return [(row.number, row.state, dict(row.params), row.value, row.loss, row.epochs) for row in self.rows()]

    def runs(self) -> dict[int, Run]:
        """Return MLflow's run of each trial, of which there is one."""
        found = [run for run in self.all_runs() if run.data.tags["sweeper.kind"] == "trial"]
        runs = {int(run.data.tags["sweeper.trial"]): run for run in found}
        assert len(runs) == len(found)
        return runs

    @property
    def _client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=f"sqlite:///{self.home / 'mlflow.db'}")

    def all_runs(self) -> list[Run]:
        """Return every run in MLflow; none where a command ended before its first upload."""
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        return list(self._client.search_runs([experiment.experiment_id], run_view_type=3)) if experiment else []

    def points(self, name: str) -> dict[int, list[tuple[int, float]]]:
        """Return (step, value) of every point of a metric, for each trial."""
        return {
            number: [(p.step, p.value) for p in self._client.get_metric_history(run.info.run_id, name)]
            for number, run in self.runs().items()
        }
