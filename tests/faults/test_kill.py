"""A sweep that is killed or interrupted, and the same command again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeper.tracking.base import KILLED
from sweeper.tracking.reading import read_events
from tests.faults.tools.place import PATIENCE, Place

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


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


REGISTERING = """
import os, signal
from mlflow import MlflowClient
from sweeper.cli.main import main

MlflowClient.log_model_artifacts = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


def test_a_sweep_that_is_killed_while_its_champion_is_registered_leaves_nothing_running_and_registers_it_once(
    tmp_path: Path, empty_store: Path, alone: dict[str, str]
):
    place = Place(tmp_path / "home", alone)
    place.home.mkdir()
    shutil.copy(empty_store, place.home)
    command = ("optimize", "--trials", "1", "--exp", "1", "--dataset", "sample", "--epochs", "1")
    killed = subprocess.run(
        [sys.executable, "-c", REGISTERING, *command], cwd=place.home, env=alone, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {run.info.status for run in place.all_runs()} == {"FINISHED"}
    again = place.run(*command)
    assert again.returncode == 0, again.stderr
    assert "registered model 'sweeper-sweep', version 1, alias champion" in again.stdout
    assert "registered" not in place.run(*command).stdout
    assert {run.info.status for run in place.all_runs()} == {"FINISHED"}


# --- Ctrl-C, and a polite request ----------------------------------------------------------------------

SPACE = "lr: {low: 0.001, high: 0.01}\nbatch_size: [512]\n"
SHORT = ("optimize", "--exp", "1", "--dataset", "sample", "--space", "space.yaml")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
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
