"""Orders from another terminal: a sweep that was paused, stopped and killed still finishes exactly N trials."""

from __future__ import annotations

import json
import os
import signal

import pytest

from tests.faults.conftest import Tally
from tests.faults.tools.place import PATIENCE, SWEEP, Place
from tests.support.waiting import until

pytest_plugins = ["tests.support.mlflow_store"]

TRIALS = 4
COMMAND = (*SWEEP, "--trials", str(TRIALS), "--epochs", "4", "--tracking-uri", "offline", "--json")


@pytest.mark.slow
def test_a_sweep_that_was_paused_skipped_and_stopped_comes_to_exactly_n(place: Place, tally: Tally) -> None:
    gate = place.home / "go on"
    place.faults = {"gate": {"at": "training", "file": str(gate), "beyond": 2}}  # no trial ends before it is open
    other = Place(place.home, place.env, {}, name="other")
    with place.begin(*COMMAND) as driver:
        until(lambda: place.count("reporting") == 2, "two epochs", PATIENCE)
        assert other.run("pause", "sweep").returncode == 0
        until(lambda: "paused; continue with sweeper resume" in place.said, "the pause", PATIENCE)
        shown = other.run("status", "sweep").stdout
        assert shown.startswith("study sweep: paused, 0/4 trials finished")
        assert other.run("skip", "sweep", "0").returncode == 0
        assert other.run("resume", "sweep").returncode == 0
        until(lambda: "trial 0: skipped" in place.said, "the trial to be skipped", PATIENCE)
        gate.touch()
        until(lambda: place.count("reporting") > 2, "an epoch of the next trial", PATIENCE)
        os.killpg(driver.pid, signal.SIGKILL)
    gate.unlink()
    with place.begin(*COMMAND) as driver:
        until(lambda: place.count("reporting") == 2, "two epochs", PATIENCE)
        assert other.run("stop", "sweep").returncode == 0
        assert driver.wait(PATIENCE) == 3
    assert "stopped by sweeper stop. Run the same command again to continue." in place.said
    refused = other.run("pause", "sweep")
    assert refused.returncode == 2
    assert refused.stderr == "error: study 'sweep' is not running. Start it with sweeper optimize.\n"
    place.faults = {}
    done = place.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    states = [row.state for row in place.rows()]
    assert json.loads(done.stdout)["finished"] == TRIALS
    lost = {
        "trials not finished": TRIALS - sum(state in ("complete", "pruned") for state in states),
        "trials that failed": states.count("failed"),
        "trials skipped, but for one": states.count("skipped") - 1,
        "left RUNNING in the study": place.unfinished(),
    }
    tally("G1", {"pause, skip and stop": 3, "kill -9 of the driver": 1, "trials": TRIALS}, lost)
