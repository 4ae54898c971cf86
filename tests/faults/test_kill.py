"""Kill sweeps with real training; the same command again ends as an unbroken one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from sweeper.core.text import counted
from sweeper.tracking.base import KILLED
from sweeper.tracking.reading import read_events
from tests.faults.tools.place import PATIENCE, Place
from tests.support.waiting import until

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


@pytest.mark.slow
def test_a_sweep_killed_with_a_trial_in_hand_finds_what_an_unbroken_one_finds(real: Place, finished_sweep: Any):
    command = (*finished_sweep.argv, "--no-final")
    with real.begin(*command) as first:
        until(lambda: real.measured("0002"), "the third trial's first epoch", PATIENCE)
        os.killpg(first.pid, signal.SIGKILL)
    left = [row.state for row in real.rows()]
    assert "running" in left
    finished = sum(state in ("complete", "pruned") for state in left)

    again = real.run(*command, "--json")
    assert again.returncode == 0, again.stderr
    assert f"continuing it ({counted(finished, 'trial')} finished)" in again.stderr
    result = json.loads(again.stdout)
    assert (result["finished"], result["failed"], result["added"]) == (6, 0, 6 - finished)
    unbroken = Place(finished_sweep.home, real.env)
    assert real.found() == unbroken.found()
    assert real.points("val/loss") == unbroken.points("val/loss")
    assert result["best"] == finished_sweep.result["best"]

    runs = real.runs()
    assert sorted(runs) == list(range(6))
    assert len(real.all_runs()) == 6 + 1  # and the sweep's summary run
    assert {run.info.status for run in real.all_runs()} == {"FINISHED"}
    assert {tuple(step for step, _ in points) for points in real.points("val/accuracy").values()} == {(1, 2)}
    attempts = {number: run.data.tags["sweeper.attempt"] for number, run in runs.items()}
    assert attempts == {number: "2" if left[number:][:1] == ["running"] else "1" for number in range(6)}


REGISTERING = """
import os, signal
from mlflow import MlflowClient
from sweeper.cli.main import main

MlflowClient.log_model_artifacts = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


@pytest.mark.slow
def test_a_sweep_killed_while_its_champion_is_registered_leaves_nothing_running_and_registers_it_once(real: Place):
    command = ("optimize", "--trials", "1", "--exp", "1", "--dataset", "sample", "--epochs", "1")
    killed = subprocess.run(
        [sys.executable, "-c", REGISTERING, *command], cwd=real.home, env=real.env, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert {run.info.status for run in real.all_runs()} == {"FINISHED"}
    again = real.run(*command)
    assert again.returncode == 0, again.stderr
    assert "registered model 'sweeper-sweep', version 1, alias champion" in again.stdout
    assert "registered" not in real.run(*command).stdout
    assert {run.info.status for run in real.all_runs()} == {"FINISHED"}


@pytest.mark.slow
def test_a_champion_that_is_terminated_does_not_stay_running(real: Place):
    (real.home / "space.yaml").write_text("lr: {low: 0.001, high: 0.01}\nbatch_size: [512]\n")
    command = ("optimize", "--exp", "1", "--dataset", "sample", "--space", "space.yaml", "--trials", "1",
               "--epochs", "3", "--tracking-uri", "offline")  # fmt: skip
    with real.begin(*command) as process:
        until(lambda: real.measured("champion-0000"), "the champion's first epoch", PATIENCE)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(PATIENCE) == 143
    assert read_events(real.home / "journal/sweep/champion-0000")[-1]["status"] == KILLED
    assert "SIGTERM" in real.said.splitlines()[-1]
