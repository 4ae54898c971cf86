"""G9: SIGINT and SIGTERM end a sweep with the right exit code, and leave nothing RUNNING.

The seconds from the signal to the end are noted, and appear in docs/reliability.md: on a busy machine they say nothing.
"""

from __future__ import annotations

import random
import signal
import time
from typing import Any

import pytest

from faults.conftest import Tally
from faults.tools.place import PATIENCE, SWEEP, Place
from faults.tools.tally import note
from sweeper.journal import KILLED, read_events, run_folders

pytest_plugins = ["mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

POINTS = ("asked", "submitted", "training", "reporting", "telling", "renaming", "uploading", "noting")
RUNS = 40
SHORT = 2


def cases() -> list[Any]:
    """(signal, event, nth) of each run; the first few are the short form."""
    numbers = random.Random(20261123)
    order = [(s, at) for at in POINTS for s in (signal.SIGINT, signal.SIGTERM)]
    drawn = [(*order[n % len(order)], numbers.randint(1, 4)) for n in range(RUNS)]
    return [
        pytest.param(*case, marks=() if n < SHORT else pytest.mark.slow, id=f"{n}-{case[0].name}-{case[1]}")
        for n, case in enumerate(drawn)
    ]


@pytest.mark.parametrize(("signum", "at", "nth"), cases())
def test_a_signal_ends_a_sweep_and_leaves_nothing_running(
    place: Place, tally: Tally, until: Any, signum: signal.Signals, at: str, nth: int
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
    ends = [read_events(folder)[-1] for folder in run_folders(place.home / "journal")]
    assert KILLED in {e.get("status") for e in ends}
    left = {
        "runs without an end in the journal": sum(e["event"] != "end" for e in ends),
        "left RUNNING in MLflow": sum(run.info.status == "RUNNING" for run in place.all_runs()),
    }
    tally("G9", {f"{signum.name} to all processes of a sweep": 1}, left)
