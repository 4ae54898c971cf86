"""The X-ray of a recorded run, by the journal and by MLflow, and that of weights in a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from sweeper.core.config import RunConfig
from sweeper.core.environment import OFFLINE, Environment
from sweeper.core.errors import DataError, SweeperError, UsageError
from sweeper.core.xray import CSV_FILE
from sweeper.sweep.examine import xray_of_file, xray_of_run
from sweeper.tracking.connection import relocate
from sweeper.tracking.fetching import UPLOAD
from sweeper.tracking.reading import ARTIFACTS, EVENTS, WEIGHTS, read_events
from tests.sweep.conftest import Place

# MLflow's own use of SQLAlchemy
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def home(tmp_path: Path, finished_sweep: Any) -> Path:
    """A copy of a finished sweep, whose database and notes of uploads name the files of the copy."""
    home = Path(shutil.copytree(finished_sweep.home, tmp_path / "home"))
    relocate(home / "mlflow.db", {f"{finished_sweep.home.as_uri()}/": f"{home.as_uri()}/"})
    for note in home.glob(f"journal/*/*/{UPLOAD}"):
        note.write_text(json.dumps(json.loads(note.read_text()) | {"store": f"sqlite:///{home / 'mlflow.db'}"}))
    return home


@pytest.fixture
def folder(home: Path) -> Path:
    """The folder of a trial with BatchNorm that was trained to its end."""
    return next(f for f in sorted((home / "journal/sweep").glob("00*")) if (f / ARTIFACTS / CSV_FILE).is_file())


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def examine(home: Path, said: list[str]) -> Iterator[Callable[..., dict[str, Any]]]:
    """`examine(run)` takes the X-ray of a run of the sweep."""
    threads = torch.get_num_threads()

    def examine(run: object, uri: str = f"sqlite:///{home / 'mlflow.db'}") -> dict[str, Any]:
        return xray_of_run(Environment(home, uri, "", None, False, said.append, said.append), str(run))

    yield examine
    torch.set_num_threads(threads)


def run_id(folder: Path) -> str:
    return str(json.loads((folder / UPLOAD).read_text())["run_id"])


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    events = read_events(folder)
    for event in events:
        change(event)
    (folder / EVENTS).write_text("".join(json.dumps(e) + "\n" for e in events))


def test_the_numbers_are_those_that_the_run_recorded(
    folder: Path, examine: Callable[..., dict[str, Any]], said: list[str]
):
    found = examine(folder, OFFLINE)
    recorded = json.loads((folder / ARTIFACTS / "diagnostics/xray.json").read_text())
    assert found["layers"] == recorded["layers"]
    assert found["images"] == recorded["images"]
    assert found["recalibration_gain_loss"] == recorded["recalibration_gain_loss"]
    assert found["recalibration_gain_accuracy"] == recorded["recalibration_gain_accuracy"]
    (table,) = said
    assert table.startswith(f"X-ray of {len(recorded['layers'])} BatchNorm layers")
    assert found["advice"].split()[0] in ("BatchNorm", "No")


def test_a_run_is_found_in_mlflow_as_in_the_journal(folder: Path, examine: Callable[..., dict[str, Any]]):
    here = examine(folder)
    assert examine(run_id(folder)) == here
    (folder / ARTIFACTS / WEIGHTS).unlink()  # as `sweeper sync --free` does
    assert examine(folder) == here


def test_a_run_without_batch_norm_has_its_sentence(home: Path, examine: Callable[..., dict[str, Any]], said: list[str]):
    plain = next(f for f in sorted((home / "journal/sweep").glob("00*")) if not (f / ARTIFACTS / CSV_FILE).is_file())
    assert examine(plain)["layers"] == []
    assert said == ["The network has no BatchNorm layer."]


def test_the_champion_is_examined_on_training_images(home: Path, examine: Callable[..., dict[str, Any]]):
    (champion,) = (home / "journal/sweep").glob("champion-*")
    assert "advice" in examine(champion)


def test_a_run_of_a_gpu_that_is_missing_is_examined_on_the_cpu(
    folder: Path, examine: Callable[..., dict[str, Any]], said: list[str]
):
    def move(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            event["params"]["device"] = "cuda:99"

    here = examine(folder)
    rewrite(folder, move)
    assert examine(folder)["layers"] == here["layers"]
    assert said[1].startswith("device='cuda:99': cannot be used here")
    assert said[1].endswith("The CPU is used instead.")


def change_weights(folder: Path) -> None:
    weights = safetensors.numpy.load_file(folder / ARTIFACTS / WEIGHTS)
    changed = {name: np.asarray(value + 1) for name, value in weights.items()}
    safetensors.numpy.save_file(changed, folder / ARTIFACTS / WEIGHTS)


@pytest.mark.parametrize(
    ("spoil", "error", "why"),
    [
        (lambda folder: (folder / ARTIFACTS / WEIGHTS).unlink(), UsageError, "has no weights"),
        (lambda folder: (folder / ARTIFACTS / WEIGHTS).write_bytes(b"no"), DataError, "is damaged"),
        (change_weights, DataError, "does not match its sweeper.weights_sha256"),
    ],
    ids=["missing", "damaged", "changed"],
)
def test_weights_that_are_not_those_of_the_run_are_refused(
    folder: Path,
    examine: Callable[..., dict[str, Any]],
    spoil: Callable[[Path], None],
    error: type[SweeperError],
    why: str,
):
    spoil(folder)
    with pytest.raises(error, match=why):
        examine(folder, OFFLINE)


def test_a_run_that_the_store_has_no_weights_of_is_refused(
    folder: Path, home: Path, examine: Callable[..., dict[str, Any]]
):
    number = run_id(folder)
    for file in home.glob(f"mlartifacts/**/{number}/artifacts/{WEIGHTS}"):
        file.unlink()
    with pytest.raises(UsageError, match="has no weights"):
        examine(number)


def test_another_data_set_is_refused(folder: Path, examine: Callable[..., dict[str, Any]]):
    rewrite(folder, lambda event: event.get("tags", {}).update({"sweeper.dataset_sha256": "0" * 64}))
    with pytest.raises(
        DataError, match="the images of sample have changed since they were recorded: their SHA-256 was 000000000000"
    ):
        examine(folder)


def test_there_is_no_such_run(examine: Callable[..., dict[str, Any]]):
    with pytest.raises(UsageError, match="is not a journal folder"):
        examine("nowhere", OFFLINE)


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_weights_in_a_file_have_the_numbers_of_their_run(place: Place, form: str):
    run = place.train(placement="dropout-bn", conv_dropout=0.2)
    file = Path(run["journal"]) / ARTIFACTS / WEIGHTS
    if form == "pt":
        torch.save(safetensors.torch.load_file(file), place.home / "net.pt")
        file = place.home / "net.pt"
    config = RunConfig.create(**run["config"])
    found = xray_of_file(place.environment, config, file, "sample", "cpu", {})
    assert len(found["layers"]) == 2
    assert found == xray_of_run(place.environment, run["journal"])
