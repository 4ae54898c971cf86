"""G9: SIGINT and SIGTERM end a sweep with the right exit code, and leave nothing RUNNING.

The seconds from the signal to the end are noted, and appear in docs/explanation/reliability.md: on a busy machine they
say nothing.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sweeper.tracking.base import FAILED, KILLED
from sweeper.tracking.reading import read_events, run_folders
from tests.faults.conftest import Tally
from tests.faults.tools.place import PATIENCE, SWEEP, Place
from tests.faults.tools.tally import note
from tests.support.waiting import until

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

POINTS = ("asked", "begun", "submitted", "training", "reporting", "telling", "renaming", "uploading", "noting")
RUNS = 40
SHORT = 2


def cases() -> list[Any]:
    """(signal, event, nth) of each run; the first few are the short form."""
    numbers = random.Random(20261123)
    order = [(s, at) for at in POINTS for s in (signal.SIGINT, signal.SIGTERM)]
    drawn = [(*order[n % len(order)], numbers.randint(1, 3)) for n in range(RUNS)]
    return [
        pytest.param(*case, marks=() if n < SHORT else pytest.mark.slow, id=f"{n}-{case[0].name}-{case[1]}")
        for n, case in enumerate(drawn)
    ]


@pytest.mark.parametrize(("signum", "at", "nth"), cases())
def test_a_signal_ends_a_sweep_and_leaves_nothing_running(
    place: Place, tally: Tally, signum: signal.Signals, at: str, nth: int
):
    """The signal goes to all processes of the command, as a terminal sends it."""
    place.strike(at, nth, signum, whom="group")
    with place.begin(*SWEEP, "--trials", "6", "--epochs", "3", "--workers", "2") as process:
        until(lambda: place.struck or process.poll() is not None, "the signal", PATIENCE)
        assert process.wait(PATIENCE) == 128 + signum, place.said
    note({"ended_s": time.time() - (place.marks / "struck").stat().st_mtime})
    *warnings, error = place.said.splitlines()
    assert error == f"error: stopped by {signum.name}"
    assert all(line.startswith("warning: ") for line in warnings), place.said  # no traceback, of a worker neither
    assert_every_run_has_an_end(place)
    tally("G9", {f"{signum.name} to all processes of a sweep": 1}, place.left_running())


def assert_every_run_has_an_end(place: Place) -> None:
    """None of them need be killed: the signal may meet the last training of those that were running at its end."""
    last = [read_events(folder)[-1] for folder in run_folders(place.home / "journal")]
    assert {event["event"] for event in last} <= {"end"}, last


def statuses(place: Place) -> list[str]:
    """Return the status of each run that has an end in the journal."""
    ends = [read_events(folder)[-1] for folder in run_folders(place.home / "journal")]
    return sorted(end["status"] for end in ends if end["event"] == "end")


@pytest.mark.slow
def test_the_sigterm_that_follows_a_ctrl_c_on_mlflow_run_cuts_nothing_off(place: Place, tally: Tally):
    """MLflow sends it a quarter of a second after the Ctrl-C; nothing has arrived in its store by then."""
    go = place.home.parent / "go"
    strike = {"at": "training", "nth": 4, "signal": "SIGINT", "whom": "group"}
    place.faults = {"strikes": [strike], "gate": {"at": "uploading", "file": str(go)}}
    with place.begin(*SWEEP, "--trials", "6", "--epochs", "3", "--workers", "2") as process:
        until(lambda: place.struck or process.poll() is not None, "the signal", PATIENCE)
        time.sleep(0.25)
        process.send_signal(signal.SIGTERM)
        go.touch()
        assert process.wait(PATIENCE) == 128 + signal.SIGINT, place.said
    assert place.said.splitlines()[-1] == "error: stopped by SIGINT"
    tally("G9", {"SIGINT to all processes of a sweep, then SIGTERM to its driver": 1}, place.left_running())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("full", "code", "error"),
    [
        pytest.param(False, 141, "stopped by SIGPIPE", id="no reader"),
        pytest.param(True, 1, "<stdout>: No space left on device", id="full disk"),
    ],
)
def test_a_stdout_that_takes_no_more_ends_a_sweep_and_leaves_nothing_running(
    place: Place, tally: Tally, full: bool, code: int, error: str
):
    """The first of three trials fails after a second, which is the first thing that is said."""
    command = (*SWEEP, "--trials", "3", "--epochs", "3", "--workers", "3")
    place.faults = {"outcomes": {"1": "fails"}, "pace": 1.0}
    with ExitStack() as stack:
        reader, writer = os.pipe()
        os.close(reader)
        stack.callback(os.close, writer)
        stdout = stack.enter_context(Path("/dev/full").open("w")) if full else writer
        process = stack.enter_context(place.begin(*command, stdout=stdout))
        assert process.wait(PATIENCE) == code, place.said
    assert place.said.splitlines()[-1] == f"error: {error}"
    assert statuses(place) == [FAILED, KILLED, KILLED]
    left = place.left_running()
    place.faults = {}
    assert place.run(*command).returncode == 0
    states = [row.state for row in place.rows()]
    left |= {
        "left RUNNING in the study": states.count("running"),
        "trials not finished": 3 - states.count("complete") - states.count("pruned"),
    }
    tally("G3", {"sweeps whose stdout took no more": 1}, left)
