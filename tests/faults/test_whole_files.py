"""G8: files are whole or absent, on a full disk and after a kill in the middle of a write."""

from __future__ import annotations

import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from sweeper.tracking.reading import read_events
from tests.faults.conftest import Tally
from tests.faults.tools.place import OFFLINE, SWEEP, Place
from tests.faults.tools.tmpfs import mounted

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

COMMAND = (*SWEEP, "--trials", "4", "--epochs", "2", "--pruner", "none")


def check_files(home: Path) -> dict[str, int]:
    """Read every file below `home`; what is there is whole.

    Returns:
        How many files there are, and how many of them are not.
    """
    counts = {"files": 0, "torn files": 0}
    for path in home.rglob("*"):
        if path.is_file() and not path.name.endswith(".part"):
            counts["files"] += 1
            counts["torn files"] += not is_whole(path)
    return counts


def is_whole(path: Path) -> bool:
    match path.suffix:
        case ".safetensors":
            return len(safetensors.torch.load(path.read_bytes())) == 1
        case ".json":
            return bool(json.loads(path.read_bytes()))
        case ".jsonl":
            return isinstance(read_events(path.parent), list)  # the readable lines; none, if the first was torn
        case ".csv":
            text = path.read_text()
            return text.endswith("\n") and len({line.count(",") for line in text.splitlines()}) == 1
        case ".db":
            with sqlite3.connect(path) as connection:
                return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        case _:
            return True


def parts(home: Path) -> list[Path]:
    return list(home.rglob("*.part"))


@pytest.mark.parametrize("weights", [400_000, *(pytest.param(w, marks=pytest.mark.slow) for w in (30_000, 5_000_000))])
def test_a_full_disk_is_one_line_and_leaves_whole_files(
    tmp_path: Path, alone: dict[str, str], tally: Tally, weights: int
):
    with mounted(tmp_path / "full") as folder:
        place = Place(folder / "home", alone, {"weights": weights})
        place.home.mkdir()
        place.aside = tmp_path
        done = place.run(*SWEEP, *OFFLINE, "--trials", "500", "--epochs", "2", "--pruner", "none")
        assert done.returncode == 1
        assert done.stderr.startswith("error: "), done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "No space left on device" in done.stderr or "disk is full" in done.stderr
        assert parts(place.home) == []
        counts = check_files(place.home)
        assert counts["files"] > 2
    tally("G8", {"full disks": 1, "files": counts["files"]}, {"torn files": counts["torn files"]})


POINTS: list[tuple[str, int]] = [("renaming", n) for n in range(1, 9)] + [("appending", n) for n in range(1, 9)]
QUICK = [("renaming", 4), ("appending", 3)]


@pytest.mark.parametrize("points", [QUICK, pytest.param(POINTS, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_a_kill_in_the_middle_of_a_write_leaves_whole_files(place: Place, tally: Tally, points: list[Any]):
    """One sweep, killed at each of the points in turn and begun again after it."""
    torn = 0
    for at, nth in points:
        place.faults = {"strikes": [{"at": at, "nth": nth, "signal": "SIGKILL"}]}
        command = (*COMMAND, "--trials", "40") if len(points) > len(QUICK) else COMMAND
        place.stopped_by(signal.SIGKILL, *command)
        torn += check_files(place.home)["torn files"]
    place.faults = {}
    done = place.run(*command)
    assert done.returncode == 0, done.stderr
    counts = check_files(place.home)
    assert parts(place.home) == []  # the next start removes what the kills left
    assert uploaded_parts(place) == []
    tally("G8", {"kills during a write": len(points), "files": counts["files"]}, {"torn files": torn})


def uploaded_parts(place: Place) -> list[str]:
    """Files in MLflow that were only half written."""
    return [str(path) for path in (place.home / "mlartifacts").rglob("*") if ".part" in path.name]
