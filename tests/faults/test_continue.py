"""G4 and G5: the same command again continues, and a second driver is refused."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import Tally
from tests.faults.tools.place import OFFLINE, PATIENCE, SWEEP, Place
from tests.support.waiting import until

pytest_plugins = ["tests.support.mlflow_store", "tests.support.postgres"]

POINTS = ("asked", "begun", "submitted", "reporting", "over", "telling", "appending", "renaming")


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_sweep_killed_again_and_again_finds_what_an_unbroken_one_finds(
    place: Place, alone: dict[str, str], tmp_path: Path, tally: Tally, kills: int
):
    trials = 2 * kills + 4
    command = (*SWEEP, *OFFLINE, "--trials", str(trials), "--epochs", "4", "--seed", "5")
    unbroken = Place(tmp_path / "unbroken/home", alone, {})
    unbroken.home.mkdir(parents=True)
    assert unbroken.run(*command).returncode == 0

    points = random.Random(20261123)
    for _ in range(kills):
        at, nth = points.choice(POINTS), points.randint(1, 2)
        place.faults = {"strikes": [{"at": at, "nth": nth, "signal": "SIGKILL"}]}
        place.stopped_by(signal.SIGKILL, *command)
    place.faults = {}
    assert place.run(*command).returncode == 0
    expected = unbroken.found()
    assert len(expected) == trials
    wrong = sum(ours != theirs for ours, theirs in zip(place.found(), expected, strict=True))
    tally(
        "G4",
        {"kill -9 of one sweep": kills, "trials": trials},
        {"trials with other parameters or values": wrong},
    )


def start_two(place: Place, tmp_path: Path, study: str, *storage: str) -> tuple[list[int], list[str]]:
    """Start two drivers of a study at once, and return their exit codes and what each wrote on stderr.

    The one that holds the study waits in its first epoch until the other has ended.
    """
    command = (*SWEEP, *OFFLINE, "--trials", "2", "--epochs", "1", "--study", study, *storage)
    go = tmp_path / f"go-{study}"
    faults = {"gate": {"at": "reporting", "file": str(go)}}
    both = [Place(place.home, place.env, faults, name=f"-{study}-{one}") for one in "ab"]
    with both[0].begin(*command) as first, both[1].begin(*command) as second:
        until(lambda: (first.poll(), second.poll()) != (None, None), "one of them to be refused", PATIENCE)
        go.touch()
        codes = [first.wait(PATIENCE), second.wait(PATIENCE)]
    return codes, [driver.said for driver in both]


@pytest.mark.parametrize(
    ("database", "times"),
    [("sqlite", 1), *(pytest.param(d, 10, marks=pytest.mark.slow) for d in ("sqlite", "PostgreSQL"))],
)
def test_of_two_drivers_at_a_time_one_is_refused(
    request: pytest.FixtureRequest,
    place: Place,
    tmp_path: Path,
    tally: Tally,
    database: str,
    times: int,
):
    storage = ("--storage", request.getfixturevalue("new_database")()) if database == "PostgreSQL" else ()
    for number in range(times):
        codes, said = start_two(place, tmp_path, f"s{number}", *storage)
        assert sorted(codes) == [0, 2], said
        (line,) = said[codes.index(2)].splitlines()
        assert line.startswith(f"error: study 's{number}' is in use by ")
    tally("G5", {f"pairs of drivers started at once on {database}": times}, {"both accepted, or none": 0})


def test_status_can_be_asked_while_a_driver_is_at_work(place: Place, tmp_path: Path):
    place.faults = {"gate": {"at": "reporting", "file": str(tmp_path / "go")}}
    with place.begin(*SWEEP, *OFFLINE, "--trials", "1", "--epochs", "1") as driver:
        until(lambda: place.count("reporting"), "the first epoch", PATIENCE)
        status = Place(place.home, place.env).run("status", "--json")
        (tmp_path / "go").touch()
        assert driver.wait(PATIENCE) == 0
    assert [trial["state"] for trial in json.loads(status.stdout)["trials"]] == ["running"]
