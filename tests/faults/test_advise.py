"""G4 for an advice: killed in each of its stages and continued, it is the one that an unbroken command gives."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from tests.faults.conftest import Tally
from tests.faults.tools.place import OFFLINE, PATIENCE, Place
from tests.support.waiting import until

pytest_plugins = ["tests.support.mlflow_store"]

COMMAND = ("advise", "--exp", "1", "--dataset", "sample", "--placements", "none,bn,bn-dropout", "--trainings", "32",
           "--epochs", "2", "--no-test", "--name", "asked", *OFFLINE)  # fmt: skip
STAGES = {"pilot": 2, "screening": 9, "a proposed round": 16, "comparison": 25}


def answer(place: Place) -> dict[str, Any]:
    """What the advice says, without times and paths, and the keys of its runs without its identity."""
    folder = place.home / "journal" / "advise-asked"
    found: dict[str, Any] = json.loads((folder / "advice/artifacts/advice.json").read_text())
    for name in ("seconds", "report", "answers"):
        del found[name]
    for row in found["ranking"]:
        del row["epoch_s"]
    starts = [json.loads(path.read_text().splitlines()[0]) for path in folder.glob("*/*/events.jsonl")]
    return found | {"runs": sorted(start["key"].partition("/")[2] for start in starts)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, alone: dict[str, str]) -> Place:
    """A place where the command has ended, and nobody killed it."""
    place = Place(tmp_path_factory.mktemp("finished") / "home", alone, {})
    place.home.mkdir()
    done = place.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def unbroken(finished: Place) -> dict[str, Any]:
    return answer(finished)


@pytest.mark.parametrize(
    ("at", "nth"),
    [
        *(pytest.param("submitted", nth, id=stage, marks=pytest.mark.slow) for stage, nth in STAGES.items()),
        pytest.param("appending", 40, id="half a line"),
    ],
)
def test_an_advice_killed_and_continued_gives_the_answer_of_an_unbroken_one(
    place: Place, tally: Tally, unbroken: dict[str, Any], at: str, nth: int
):
    place.faults = {"strikes": [{"at": at, "nth": nth, "signal": "SIGKILL"}]}
    place.stopped_by(signal.SIGKILL, *COMMAND)
    place.faults = {}
    done = place.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    found = answer(place)
    tally("G4", {"kill -9 of sweeper advise": 1}, {"answers with other runs or verdicts": int(found != unbroken)})


def test_a_finished_advice_trains_nothing_when_it_is_asked_for_again(finished: Place, unbroken: dict[str, Any]):
    finished.faults = {"strikes": [{"at": "submitted", "nth": 1, "signal": "SIGKILL"}]}
    done = finished.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    assert answer(finished) == unbroken


def test_an_advice_with_other_settings_is_refused(finished: Place):
    done = finished.run(*COMMAND, "--lr", "0.01")
    assert done.returncode == 2
    assert "lr" in done.stderr
    assert "Use the old ones" in done.stderr


@pytest.mark.slow
def test_an_advice_that_was_paused_and_stopped_gives_the_answer_of_an_unbroken_one(
    place: Place, tally: Tally, unbroken: dict[str, Any]
):
    gate = place.home / "go on"
    place.faults = {"gate": {"at": "training", "file": str(gate), "beyond": 2}}
    other = Place(place.home, place.env, {}, name="other")
    command = (*COMMAND, "--workers", "2", "--json")  # with one worker, the driver itself would wait at the gate
    with place.begin(*command) as driver:
        until(lambda: place.count("training") > 2, "two epochs", PATIENCE)
        assert other.run("pause", "advise-asked").stdout.startswith("advise-asked: pausing")
        until(lambda: "paused; continue with sweeper resume" in place.said, "the pause", PATIENCE)
        assert other.run("resume", "advise-asked").returncode == 0
        until(lambda: "resumed" in place.said, "the advice to go on", PATIENCE)
        assert other.run("stop", "advise-asked").returncode == 0
        assert driver.wait(PATIENCE) == 3
    assert "stopped by sweeper stop. Run the same command again to continue." in place.said
    assert other.run("pause", "advise-asked").returncode == 2
    place.faults = {}
    done = place.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    tally(
        "G4",
        {"pause and stop of sweeper advise": 1},
        {"answers with other runs or verdicts": int(answer(place) != unbroken)},
    )
