"""G1, G3 and G7: exactly N trials, nothing RUNNING for ever, and a bad trial is a recorded fact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from typing import Any

import pytest

from sweeper.tracking.reading import read_events
from tests.faults.conftest import Tally
from tests.faults.tools.place import OFFLINE, PATIENCE, SWEEP, Place

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

TRIALS, EPOCHS = 6, 3
COMMAND = (*SWEEP, "--trials", str(TRIALS), "--epochs", str(EPOCHS), "--workers", "2", "--json")


def finished_by(place: Place, done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Count what a sweep that ended well has lost, doubled, or left running."""
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["finished"] == TRIALS
    rows, runs = place.rows(), place.all_runs()
    numbers = Counter(run.data.tags.get("sweeper.trial") for run in runs if run.data.tags["sweeper.kind"] == "trial")
    stored = Counter((n, *point) for n, points in place.points("val/accuracy").items() for point in points)
    journal = Counter((row.number, *point) for row in rows for point in measured(place, row.number))
    return {
        "trials not finished": TRIALS - sum(row.state in ("complete", "pruned") for row in rows),
        "trials too many": len(rows) - TRIALS,
        "numbers out of order": [row.number for row in rows] != list(range(TRIALS)),
        "trials without a run in MLflow": len({str(n) for n in range(TRIALS)} - numbers.keys()),
        "runs doubled in MLflow": sum(n - 1 for n in numbers.values()),
        "left RUNNING in the study": place.unfinished(),
        "left RUNNING in MLflow": sum(run.info.status == "RUNNING" for run in runs),
        "epochs lost": (journal - stored).total(),
        "epochs doubled": (stored - journal).total(),
    }


def events(place: Place, trial: int) -> list[dict[str, Any]]:
    return read_events(place.home / f"journal/sweep/{trial:04d}")


def measured(place: Place, trial: int) -> list[tuple[int, float]]:
    """(step, accuracy) of each epoch of a trial in the journal."""
    return [(e["step"], e["metrics"]["val/accuracy"]) for e in events(place, trial) if e["event"] == "epoch"]


def long_but(quick: set[Any], values: list[Any]) -> list[Any]:
    """The values as parameters; all but the quick ones belong to the long form."""
    return [pytest.param(v, marks=() if v in quick else pytest.mark.slow, id="-".join(map(str, v))) for v in values]


# --- G1: kill -9 ---------------------------------------------------------------------------------------

# Trials that begin or end in one pass share an event, so that of those there are three at least.
OF_THE_DRIVER = [(at, nth) for at in ("submitted", "reporting", "over") for nth in (2, 5)]
OF_THE_DRIVER += [(at, nth) for at in ("begun", "telling") for nth in (2, 3)]
OF_THE_DRIVER += [("appending", 7), ("renaming", 8), ("uploading", 4), ("noting", 3)]


@pytest.mark.parametrize("point", long_but({("telling", 2)}, OF_THE_DRIVER))
def test_a_driver_killed_with_a_trial_in_hand_comes_to_exactly_n(place: Place, tally: Tally, point: tuple[str, int]):
    place.strike(*point, signal.SIGKILL)
    place.stopped_by(signal.SIGKILL, *COMMAND)
    assert place.unfinished() > 0, "the kill hit no live trial"
    place.faults = {}
    tally("G1", {"kill -9 of the driver": 1, "trials": TRIALS}, finished_by(place, place.run(*COMMAND)))


# The writes of a trial whose training, the second to begin, ends in each way: lines of the journal, the outcome in the
# study, a batch in MLflow and the note of it.
OUTCOMES = {"complete": {}, "pruned": {"2": "nan"}, "failed": {"2": "fails"}, "retried": {"2": "exit"}}
WRITES = [("appending", nth) for nth in range(3, 13)] + [(at, nth) for at in ("telling", "noting") for nth in (2, 3)]
PLACED = [(how, *write) for how in OUTCOMES for write in WRITES]


@pytest.mark.slow
@pytest.mark.parametrize("kill", PLACED, ids=lambda kill: "-".join(map(str, kill)))
def test_a_kill_between_any_two_writes_of_a_trial_loses_nothing(place: Place, tally: Tally, kill: tuple[str, str, int]):
    how, at, nth = kill
    command = (*SWEEP, "--trials", str(TRIALS), "--epochs", str(EPOCHS), "--workers", "1", "--json")
    place.strike(at, nth, signal.SIGKILL)
    place.faults["outcomes"] = OUTCOMES[how]
    place.stopped_by(signal.SIGKILL, *command)
    place.faults = {}
    lost = finished_by(place, place.run(*command))
    failed = sum(row.state == "failed" for row in place.rows())
    assert failed == 0 or how == "failed"
    if failed:  # it is recorded, and another trial took its place
        lost |= {"trials too many": lost["trials too many"] - failed, "numbers out of order": 0}
    tally("G1", {"kill -9 between two writes": 1, "trials": TRIALS}, lost)


# The finalists' runs, two seeds of two configurations, begin after the six trials.
OF_FINALISTS = [("submitted", 7), ("submitted", 9), ("renaming", 50)]


@pytest.mark.slow
@pytest.mark.parametrize("point", OF_FINALISTS, ids=lambda point: "-".join(map(str, point)))
def test_a_driver_killed_among_the_finalists_trains_each_once(place: Place, tally: Tally, point: tuple[str, int]):
    command = (*COMMAND, "--finalists", "2", "--finalist-seeds", "2")
    place.strike(*point, signal.SIGKILL)
    place.stopped_by(signal.SIGKILL, *command)
    place.faults = {}
    done = place.run(*command)
    lost = finished_by(place, done)
    finalists = [run for run in place.all_runs() if run.data.tags["sweeper.kind"] == "finalist"]
    assert json.loads(done.stdout)["best"]["seeds"] == 2
    lost["finalists' runs lost or doubled"] = abs(len(finalists) - 4)
    lost["names doubled"] = len(finalists) - len({run.info.run_name for run in finalists})
    tally("G1", {"kill -9 of the driver": 1, "finalists' runs": 4}, lost)


@pytest.mark.parametrize("nth", long_but({(4,)}, [(n,) for n in (1, 4, 7, 8, 10, 12, 14, 17)]))
def test_a_worker_killed_in_a_training_costs_no_trial(place: Place, tally: Tally, nth: tuple[int]):
    place.strike("training", *nth, signal.SIGKILL)
    done = place.run(*COMMAND)
    assert place.struck
    ends = [e for n in range(TRIALS) for e in events(place, n) if e["event"] == "end"]
    assert sum("SIGKILL" in e["tags"].get("sweeper.reason", "") for e in ends) == 1
    tally("G1", {"kill -9 of a worker": 1, "trials": TRIALS}, finished_by(place, done))


@pytest.mark.slow
def test_the_process_that_workers_are_forked_from_is_killed(place: Place, tally: Tally):
    place.strike("training", 4, signal.SIGKILL, whom="parent")
    done = place.run(*COMMAND)
    assert place.struck
    tally("G1", {"kill -9 of the fork server": 1, "trials": TRIALS}, finished_by(place, done))


# --- G3: nothing stays RUNNING -------------------------------------------------------------------------

PHASES = ("begun", "reporting", "telling")
ENDS = [(phase, signum.name) for phase in PHASES for signum in (signal.SIGKILL, signal.SIGTERM)]


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS, ids="-".join)
def test_what_an_ended_driver_left_running_is_finished_by_the_next(place: Place, tally: Tally, end: tuple[str, str]):
    phase, signum = end
    place.strike(phase, 3, signal.Signals[signum])
    place.stopped_by(signal.Signals[signum], *COMMAND)
    assert place.unfinished() > 0
    place.faults = {}
    tally("G3", {f"{signum} to the driver": 1, "trials": TRIALS}, finished_by(place, place.run(*COMMAND)))


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("then", ["SIGCONT", "SIGKILL"])
def test_a_driver_that_is_stopped_goes_on_or_is_replaced(place: Place, tally: Tally, phase: str, then: str):
    place.strike(phase, 3, signal.SIGSTOP)
    with place.begin(*COMMAND) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert place.unfinished() > 0
        os.kill(process.pid, signal.Signals[then])
        assert process.wait(PATIENCE) == (0 if then == "SIGCONT" else -signal.SIGKILL), place.said
    if then == "SIGCONT":
        assert {row.state for row in place.rows()} == {"complete"}
    place.faults = {}
    did = {f"SIGSTOP of the driver, then {then}": 1, "trials": TRIALS}
    tally("G3", did, finished_by(place, place.run(*COMMAND)))


# --- G7: a bad trial is a recorded fact ----------------------------------------------------------------


def test_a_bad_trial_is_pruned_repeated_or_replaced(place: Place, tally: Tally):
    """NaN in the 2nd training to begin, a runaway loss in the 3rd, no memory in the 4th, which is trained again; the
    worker dies in the 6th and in the repetitions of it."""
    place.faults = {"outcomes": {"2": "nan", "3": "runaway", "4": "memory", **dict.fromkeys("678", "exit")}}
    done = place.run(*SWEEP, "--trials", str(TRIALS), "--epochs", str(EPOCHS), "--pruner", "none", "--json")
    rows = place.rows()
    assert [row.state for row in rows] == ["complete", "pruned", "pruned", *["complete"], "failed", *["complete"] * 2]
    assert "loss nan" in rows[1].reason
    assert "loss 1e+09" in rows[2].reason
    assert "exit code 9" in rows[4].reason
    assert [len(attempts(place, row.number)) for row in rows] == [1, 1, 1, 2, 3, 1, 1]
    for row in rows:
        assert len(set(attempts(place, row.number))) == 1  # the same parameters
    assert json.loads(done.stdout)["failed"] == 1
    status = {number: run.info.status for number, run in place.runs().items()}
    assert status == {number: "FAILED" if number == 4 else "FINISHED" for number in range(TRIALS + 1)}
    did = {"trainings that end in NaN": 1, "with a runaway loss": 1, "without memory": 1, "with a dead worker": 3}
    tally("G7", did, {"trials not finished": TRIALS - json.loads(done.stdout)["finished"]})


def attempts(place: Place, trial: int) -> list[str]:
    """The parameters with which a trial began, one an attempt."""
    return [json.dumps(e["params"], sort_keys=True) for e in events(place, trial) if e["event"] == "start"]


@pytest.mark.parametrize(
    ("outcome", "code", "trials"), [("wrong", 2, 1), pytest.param("fails", 3, 3, marks=pytest.mark.slow)]
)
def test_what_no_trial_can_be_trained_with_stops_the_sweep(
    place: Place, tally: Tally, outcome: str, code: int, trials: int
):
    place.faults = {"outcomes": dict.fromkeys(map(str, range(1, 20)), outcome)}
    done = place.run(*SWEEP, *OFFLINE, "--trials", "20", "--epochs", "1")
    assert done.returncode == code
    (line,) = done.stderr.splitlines()
    assert {"wrong": "batch_size=", "fails": "expected more than 1 value"}[outcome] in line
    states = [row.state for row in place.rows()]
    assert states == ["failed"] * trials
    tally("G7", {"sweeps that nothing can be trained in": 1}, {"trials begun in vain": len(states) - trials})
