"""A sweep that is killed or interrupted, and the same command again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sweeper.journal import KILLED, read_events
from sweeper.study import TrialRow, read_study
from sweeper.tracking import EXPERIMENT

if TYPE_CHECKING:
    from mlflow.entities import Run

pytest_plugins = ["mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

PATIENCE = 300  # seconds, for a command that takes twenty


@dataclass(frozen=True)
class Place:
    """A folder that commands run in."""

    home: Path
    env: dict[str, str]

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = [sys.executable, "-m", "sweeper", *argv]
        return subprocess.run(
            command, cwd=self.home, env=self.env, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    @contextmanager
    def begin(self, *argv: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command in a process group of its own, of which nothing is left after the block."""
        command = [sys.executable, "-m", "sweeper", *argv]
        with (
            (self.home.parent / "said").open("w+") as said,
            subprocess.Popen(
                command, cwd=self.home, env=self.env, stdout=subprocess.DEVNULL, stderr=said, text=True,
                start_new_session=True,
            ) as process,
        ):  # fmt: skip
            try:
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    @property
    def said(self) -> str:
        """What the command that was begun last has written on stderr."""
        return (self.home.parent / "said").read_text()

    def measured(self, run: str) -> bool:
        """Whether the run of that folder has an epoch in the journal."""
        return any(e["event"] == "epoch" for e in read_events(self.home / "journal/sweep" / run))

    def rows(self) -> list[TrialRow]:
        return read_study("sweep", f"sqlite:///{self.home / 'sweeper.db'}").rows

    def runs(self, kind: str = "trial") -> dict[int, Run]:
        """MLflow's runs of trials by their number; there is one each."""
        found = [run for run in self.all_runs() if run.data.tags["sweeper.kind"] == kind]
        runs = {int(run.data.tags["sweeper.trial"]): run for run in found}
        assert len(runs) == len(found)
        return runs

    def all_runs(self) -> list[Run]:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{self.home / 'mlflow.db'}")
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id], run_view_type=3))

    def points(self, name: str) -> dict[int, list[tuple[int, float]]]:
        """(step, value) of every point of a metric of each trial."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{self.home / 'mlflow.db'}")
        return {
            number: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
            for number, run in self.runs().items()
        }


def results(place: Place) -> list[tuple[Any, ...]]:
    return [(row.number, row.state, dict(row.params), row.value, row.loss, row.epochs) for row in place.rows()]


# --- kill -9 -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Killed:
    """A sweep killed in its third trial, after a second driver had been turned away, and then run again."""

    place: Place
    second: subprocess.CompletedProcess[str]
    left: list[str]
    again: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def killed(
    tmp_path_factory: pytest.TempPathFactory,
    finished_sweep: Any,
    empty_store: Path,
    alone: dict[str, str],
    until: Callable[..., Any],
) -> Killed:
    place = Place(tmp_path_factory.mktemp("killed") / "home", alone)
    place.home.mkdir()
    shutil.copy(empty_store, place.home)
    command = (*finished_sweep.argv, "--no-final")
    with place.begin(*command) as first:
        until(lambda: place.measured("0000"), "the first trial's first epoch", PATIENCE)
        second = place.run(*command)
        alive = first.poll() is None
        until(lambda: place.measured("0002"), "the third trial's first epoch", PATIENCE)
        os.killpg(first.pid, signal.SIGKILL)
    assert alive
    left = [row.state for row in place.rows()]
    return Killed(place, second, left, place.run(*command, "--json"))


def test_a_second_driver_of_a_study_is_turned_away_in_one_line(killed: Killed):
    assert killed.second.returncode == 2
    assert killed.second.stdout == ""
    (line,) = killed.second.stderr.splitlines()
    assert line.startswith("error: study 'sweep' is being driven by process ")


def test_a_sweep_that_was_killed_ends_with_exactly_its_trials(killed: Killed):
    assert "running" in killed.left  # it was killed with a trial in hand
    assert killed.again.returncode == 0, killed.again.stderr
    result = json.loads(killed.again.stdout)
    finished = sum(state in ("complete", "pruned") for state in killed.left)
    assert (result["finished"], result["failed"], result["added"]) == (6, 0, 6 - finished)
    assert [row.number for row in killed.place.rows()] == list(range(6))
    assert f"continuing, {finished} trials are finished" in killed.again.stderr


def test_a_sweep_that_was_killed_finds_what_an_unbroken_one_finds(killed: Killed, finished_sweep: Any):
    unbroken = Place(finished_sweep.home, killed.place.env)
    assert results(killed.place) == results(unbroken)
    assert killed.place.points("val/loss") == unbroken.points("val/loss")
    assert json.loads(killed.again.stdout)["best"] == finished_sweep.result["best"]


def test_each_trial_of_a_sweep_that_was_killed_is_one_finished_run_with_each_step_once(killed: Killed):
    runs = killed.place.runs()
    assert sorted(runs) == list(range(6))
    assert len(killed.place.all_runs()) == 6 + 1  # and the study's own
    assert {run.info.status for run in killed.place.all_runs()} == {"FINISHED"}
    assert {tuple(step for step, _ in points) for points in killed.place.points("val/accuracy").values()} == {(1, 2)}
    attempts = {number: run.data.tags["sweeper.attempt"] for number, run in runs.items()}
    assert attempts == {number: "2" if killed.left[number:][:1] == ["running"] else "1" for number in range(6)}


# --- Ctrl-C, and a polite request ----------------------------------------------------------------------

SPACE = "lr: {low: 0.001, high: 0.01}\nbatch_size: [512]\n"
SHORT = ("optimize", "--exp", "1", "--dataset", "sample", "--space", "space.yaml")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_leaves_nothing_running_and_can_be_continued(
    tmp_path: Path,
    empty_store: Path,
    alone: dict[str, str],
    until: Callable[..., Any],
    signum: signal.Signals,
    code: int,
):
    place = Place(tmp_path / "home", alone)
    place.home.mkdir()
    shutil.copy(empty_store, place.home)
    (place.home / "space.yaml").write_text(SPACE)
    command = (*SHORT, "--trials", "2", "--epochs", "2", "--no-final")
    with place.begin(*command) as process:
        until(lambda: place.measured("0000"), "the first trial's first epoch", PATIENCE)
        os.killpg(process.pid, signum)  # as a terminal does, the workers too
        assert process.wait(PATIENCE) == code
    *warnings, error = place.said.splitlines()
    assert error.startswith("error: ")
    assert signum.name in error
    assert all(line.startswith("warning: ") for line in warnings)  # and no traceback, of a worker neither
    assert [row.state for row in place.rows()] == ["running"]
    assert read_events(place.home / "journal/sweep/0000")[-1]["status"] == KILLED
    assert [run.info.status for run in place.all_runs()] == [KILLED]

    again = place.run(*command)
    assert again.returncode == 0, again.stderr
    assert [row.state for row in place.rows()] == ["complete"] * 2
    assert {run.info.status for run in place.all_runs()} == {"FINISHED"}
    assert {tuple(s for s, _ in points) for points in place.points("val/accuracy").values()} == {(1, 2)}


def test_a_champion_that_is_terminated_does_not_stay_running(
    tmp_path: Path, alone: dict[str, str], until: Callable[..., Any]
):
    place = Place(tmp_path / "home", alone)
    place.home.mkdir()
    (place.home / "space.yaml").write_text(SPACE)
    with place.begin(*SHORT, "--trials", "1", "--epochs", "3", "--tracking-uri", "offline") as process:
        until(lambda: place.measured("champion-0000"), "the champion's first epoch", PATIENCE)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    assert read_events(place.home / "journal/sweep/champion-0000")[-1]["status"] == KILLED
    assert "SIGTERM" in place.said.splitlines()[-1]
