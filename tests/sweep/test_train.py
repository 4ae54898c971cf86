"""A training as one run: its record in MLflow and in the journal."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

from sweeper.core.config import RunConfig
from sweeper.core.environment import EXPERIMENT
from sweeper.core.errors import DataError, SweeperError, TrainingError
from sweeper.data.fashion import SAMPLE
from sweeper.data.sources import find
from sweeper.sweep.signals import Signals
from sweeper.sweep.tracker import tracking
from sweeper.tracking.base import FAILED, FINISHED, RunInfo
from sweeper.tracking.reading import read_events
from sweeper.training.folds import finish
from sweeper.training.images import load
from sweeper.training.loop import train
from sweeper.training.networks import build_model
from tests.sweep.conftest import Place

if TYPE_CHECKING:
    from mlflow.entities import Run

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


@dataclass(frozen=True)
class Trained:
    """A training of two epochs, and the JSON of the command."""

    place: Place
    config: RunConfig
    result: dict[str, Any]

    @property
    def run(self) -> Run:
        (run,) = self.place.runs()
        return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Trained:
    place = Place(tmp_path_factory.mktemp("trained"))
    place.use_mlflow(empty_store)
    fields = {"epochs": 2, "batch_size": 256}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.sweep.train.cores", lambda: 1)
        result = place.train(**fields)
    return Trained(place, place.config(dataset="sample", **fields), result)


def test_a_training_is_one_finished_run_with_its_configuration(trained: Trained):
    run = trained.run
    assert run.info.status == "FINISHED"
    assert run.info.run_id == trained.result["run_id"]
    assert RunConfig.from_params(run.data.params) == trained.config
    assert trained.result["config"] == trained.config.model_dump(mode="json")
    assert run.data.tags["sweeper.kind"] == "run"
    assert run.data.tags["sweeper.dataset"] == "sample"
    assert run.data.tags["sweeper.dataset_sha256"] == SAMPLE.digest
    assert trained.place.warned == []


def test_a_training_has_its_metrics_at_each_epoch(trained: Trained):
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/ece", "gap/loss", "lr", "grad_norm"):
        points = trained.place.client.get_metric_history(trained.run.info.run_id, name)
        assert [point.step for point in points] == [1, 2]
    for name, value in trained.result["metrics"].items():
        assert trained.run.data.metrics[name] == pytest.approx(value)


def test_a_training_leaves_its_curves_configuration_weights_and_confusion(trained: Trained):
    files = trained.place.artifacts(trained.run)
    assert set(files) == {
        "config.json",
        "curves/history.csv",
        "curves/loss_accuracy.png",
        "evaluation/confusion.csv",
        "model/state.safetensors",
    }
    assert files["curves/loss_accuracy.png"].read_bytes().startswith(b"\x89PNG")
    assert RunConfig.model_validate_json(files["config.json"].read_text()) == trained.config
    epochs = list(csv.DictReader(files["curves/history.csv"].read_text().splitlines()))
    assert [row["epoch"] for row in epochs] == ["1", "2"]
    assert float(epochs[-1]["val/accuracy"]) == trained.result["metrics"]["final/val_accuracy"]
    confusion = list(csv.reader(files["evaluation/confusion.csv"].read_text().splitlines()))[1:]
    assert sum(int(n) for row in confusion for n in row[1:-1]) == SAMPLE.holdout


def test_the_weights_of_a_training_can_be_loaded_and_are_those_it_reports(trained: Trained):
    weights = safetensors.torch.load_file(trained.place.artifacts(trained.run)["model/state.safetensors"])
    build_model(trained.config, SAMPLE.spec).load_state_dict(weights)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    assert digest.hexdigest() == trained.result["weights_sha256"] == trained.run.data.tags["sweeper.weights_sha256"]


def test_a_training_gives_what_training_alone_gives(trained: Trained):
    (data,) = load(trained.config, find("sample"))
    assert trained.result["history_sha256"] == finish(train(trained.config, data)).history_sha256


def test_a_training_that_is_tried_again_is_one_run(place: Place, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:

        def out_of_memory(*_: Any) -> Any:
            patch.undo()
            raise torch.OutOfMemoryError("CUDA out of memory")
            yield

        patch.setattr("sweeper.engine.serial.start", out_of_memory)
        result = place.train()
    (folder,) = (place.home / "journal/runs").iterdir()
    assert str(folder) == result["journal"]
    assert [e.get("status") for e in read_events(folder) if e["event"] == "end"] == [FAILED, FINISHED]


def test_a_training_that_diverges_fails_in_mlflow_too(place: Place):
    with pytest.raises(TrainingError, match="loss"):
        place.train(lr=1e9)
    (folder,) = (place.home / "journal/runs").iterdir()
    end = read_events(folder)[-1]
    assert (end["status"], end["tags"]["sweeper.state"]) == (FAILED, "failed")


def test_the_sample_stands_in_for_fashion_mnist_with_a_warning_and_a_tag(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Here by a user who has no name, only a number, as in many containers."""

    def unreachable(_: Path) -> None:
        raise DataError("no network")

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("sweeper.data.fashion.locate", lambda *_: None)
    monkeypatch.setattr("sweeper.data.fashion.download", unreachable)
    monkeypatch.setattr("getpass.getuser", nobody)
    assert place.train("auto", batch_size=512)["config"]["dataset"] == "sample"
    assert "FashionMNIST was not found" in place.warned[0]
    (folder,) = (place.home / "journal/runs").iterdir()
    tags = read_events(folder)[0]["tags"]
    assert "FashionMNIST was not found" in tags["sweeper.dataset"]
    assert tags["mlflow.user"] == str(os.getuid())


def test_a_command_whose_runs_can_never_arrive_fails(place: Place, empty_store: Path):
    """The experiment was deleted after the command had checked the store."""
    place.use_mlflow(empty_store)
    with contextlib.closing(sqlite3.connect(place.home / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET name = ?, lifecycle_stage = 'deleted'", [EXPERIMENT])
    with (
        pytest.raises(SweeperError, match="experiments restore"),
        Signals() as signals,
        tracking(place.environment, signals) as tracker,
    ):
        tracker.start(RunInfo("key", "name", {}, {}, "", "runs/one")).end(FINISHED, {}, {})
    assert place.warned == []
