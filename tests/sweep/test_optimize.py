"""What the commands leave behind: the runs and files of a training and of a sweep."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest
import safetensors.torch
import torch

from sweeper.core.config import RunConfig
from sweeper.core.environment import NONE, OFFLINE, Environment
from sweeper.core.errors import DataError, Interrupted, OutOfTime, SpaceError, SweeperError, TrainingError
from sweeper.data import fashion as dataset
from sweeper.data import splits
from sweeper.data.fashion import SAMPLE, SAMPLE_DIR, IdxFile, read_idx
from sweeper.data.splits import Split, load
from sweeper.engine import choice as engine_choice
from sweeper.engine.choice import EngineChoice
from sweeper.engine.serial import SerialEngine
from sweeper.study.reading import read_study
from sweeper.study.space import Choice, Space, default_space
from sweeper.sweep import optimize as service
from sweeper.sweep.choose import Chosen, choose
from sweeper.sweep.describe import describe_run
from sweeper.sweep.optimize import check_finished, optimize
from sweeper.sweep.options import SweepOptions
from sweeper.sweep.signals import Signals
from sweeper.sweep.tracker import tracking
from sweeper.sweep.train import train_one
from sweeper.tracking.base import FAILED, FINISHED, RunInfo
from sweeper.tracking.reading import read_events
from sweeper.tracking.registry import Registry
from sweeper.tracking.store import EXPERIMENT
from sweeper.training.folds import finish
from sweeper.training.images import Data
from sweeper.training.images import load as load_tensors
from sweeper.training.loop import train
from sweeper.training.network import build_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

pytest_plugins = ["tests.support.mlflow_store"]
pytestmark = [
    # MLflow's own use of SQLAlchemy 2.1
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"),
]


@dataclass
class Place:
    """A folder to work in, and everything that was said there."""

    home: Path
    tracking_uri: str = OFFLINE
    said: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    @property
    def environment(self) -> Environment:
        storage = f"sqlite:///{self.home / 'sweeper.db'}"
        return Environment(self.home, self.tracking_uri, storage, None, False, self.warned.append, self.said.append)

    @property
    def client(self) -> MlflowClient:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=f"sqlite:///{self.home / 'mlflow.db'}")

    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        return list(self.client.search_runs([experiment.experiment_id], run_view_type=3))

    def kinds(self) -> dict[str, int]:
        return Counter(run.data.tags["sweeper.kind"] for run in self.runs())

    def artifacts(self, run: Run) -> dict[str, Path]:
        root = self.home / "mlartifacts" / run.info.run_id / "artifacts"
        return {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}

    def choose(self, precision: str = "fp32", **fields: Any) -> Chosen:
        fields = {"split": "holdout", "epochs": 1, **fields}
        return choose(self.environment, 1, "sample", "cpu", precision, fields)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """What is trained in this process has one thread, as everywhere in the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.sweep.train.cores", lambda: 1)
        yield


# --- one run -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A training of two epochs, and what the command says of it."""

    place: Place
    config: RunConfig
    result: dict[str, Any]

    @property
    def run(self) -> Run:
        (run,) = self.place.runs()
        return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Trained:
    home = tmp_path_factory.mktemp("trained")
    place = Place(home, f"sqlite:///{shutil.copy(empty_store, home)}")
    chosen = place.choose(epochs=2, batch_size=256)
    return Trained(place, chosen.config, train_one(place.environment, chosen, None))


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
    build_model(trained.config).load_state_dict(weights)
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    assert digest.hexdigest() == trained.result["weights_sha256"] == trained.run.data.tags["sweeper.weights_sha256"]


def test_a_training_gives_what_training_alone_gives(trained: Trained, sample: Data):
    alone = finish(train(trained.config, sample))
    assert trained.result["history_sha256"] == alone.history_sha256


def test_a_training_that_is_tried_again_is_one_run(place: Place, monkeypatch: pytest.MonkeyPatch):
    def out_of_memory(*_: Any) -> Any:
        monkeypatch.undo()
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    monkeypatch.setattr("sweeper.engine.serial.start", out_of_memory)
    result = train_one(place.environment, place.choose(), None)
    (folder,) = (place.home / "journal/runs").iterdir()
    assert str(folder) == result["journal"]
    assert [e.get("status") for e in read_events(folder) if e["event"] == "end"] == [FAILED, FINISHED]


def test_a_training_that_diverges_fails_in_mlflow_as_well(place: Place):
    with pytest.raises(TrainingError, match="loss"):
        train_one(place.environment, place.choose(lr=1e9), None)
    (folder,) = (place.home / "journal/runs").iterdir()
    end = read_events(folder)[-1]
    assert (end["status"], end["tags"]["sweeper.state"]) == (FAILED, "failed")


def test_a_user_without_a_name_is_a_number(place: Place, monkeypatch: pytest.MonkeyPatch):
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)
    chosen = place.choose()
    info = describe_run(chosen, chosen.config, load(chosen.config, chosen.folder), kind="run", threads=1)
    assert info.tags["mlflow.user"] == str(os.getuid())


def test_a_command_whose_runs_can_never_arrive_fails(place: Place, empty_store: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever the preflight overlooked, or happened since."""
    place.tracking_uri = f"sqlite:///{shutil.copy(empty_store, place.home)}"
    with contextlib.closing(sqlite3.connect(place.home / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET name = ?, lifecycle_stage = 'deleted'", [EXPERIMENT])
    monkeypatch.setattr(service, "preflight", lambda _: None)
    run = RunInfo("key", "name", {}, {}, "", "runs/one")
    with (
        pytest.raises(SweeperError, match="experiments restore"),
        Signals() as signals,
        tracking(place.environment, signals) as tracker,
    ):
        tracker.start(run).end(FINISHED, {}, {})
    assert place.warned == []


# --- the data set --------------------------------------------------------------------------------------


def test_the_sample_stands_in_for_fashion_mnist_with_a_warning_and_a_tag(place: Place, monkeypatch: pytest.MonkeyPatch):
    def unreachable(_: Path) -> None:
        raise DataError("no network")

    monkeypatch.setattr(dataset, "locate", lambda *_: None)
    monkeypatch.setattr(dataset, "download", unreachable)
    chosen = choose(place.environment, 1, "auto", "cpu", "fp32", {"epochs": 1, "batch_size": 512})
    assert (chosen.config.dataset, chosen.substituted) == ("sample", True)
    assert "FashionMNIST was not found" in place.warned[0]
    train_one(place.environment, chosen, None)
    (folder,) = (place.home / "journal/runs").iterdir()
    assert "FashionMNIST was not found" in read_events(folder)[0]["tags"]["sweeper.dataset"]


# --- a finished sweep ----------------------------------------------------------------------------------


@pytest.fixture
def finished(finished_sweep: Any) -> Place:
    """Six trials and their champion, to be looked at only."""
    return Place(finished_sweep.home)


def test_a_sweep_is_a_run_for_each_trial_one_for_the_study_and_one_for_the_champion(finished: Place):
    assert finished.kinds() == {"trial": 6, "study": 1, "champion": 1}
    assert {run.info.status for run in finished.runs()} == {"FINISHED"}
    trials = [run for run in finished.runs() if run.data.tags["sweeper.kind"] == "trial"]
    assert sorted(run.data.tags["sweeper.trial"] for run in trials) == list("012345")
    assert {run.data.tags["sweeper.study"] for run in finished.runs()} == {"sweep"}
    for run in trials:
        assert {"config.json", "curves/loss_accuracy.png", "curves/history.csv"} <= set(finished.artifacts(run))


def test_only_the_champion_has_test_metrics_and_it_has_no_validation(finished: Place, finished_sweep: Any):
    for run in finished.runs():
        tested = {name for name in run.data.metrics if name.startswith("test/")}
        if run.data.tags["sweeper.kind"] == "champion":
            assert tested == {"test/accuracy", "test/loss", "test/ece"}
            assert not [name for name in run.data.metrics if name.startswith(("val/", "gap/"))]
            assert run.data.metrics["test/accuracy"] == finished_sweep.result["test"]["test/accuracy"]
            assert run.data.tags["sweeper.trial"] == str(finished_sweep.result["best"]["trial"])
        else:
            assert tested == set()


def test_the_champion_is_a_registered_model(finished: Place):
    version = finished.client.get_model_version_by_alias("sweeper-sweep", "champion")
    (champion,) = (run for run in finished.runs() if run.data.tags["sweeper.kind"] == "champion")
    assert (int(version.version), version.run_id) == (1, champion.info.run_id)


def test_the_study_run_holds_its_table_figures_and_best_trial(finished: Place, finished_sweep: Any):
    (study,) = (run for run in finished.runs() if run.data.tags["sweeper.kind"] == "study")
    files = finished.artifacts(study)
    assert {"study/trials.csv", "study/summary.json", "study/history.png"} <= set(files)
    summary = json.loads(files["study/summary.json"].read_text())
    assert summary["best"] == finished_sweep.result["best"]
    rows = list(csv.DictReader(files["study/trials.csv"].read_text().splitlines()))
    assert [row["trial"] for row in rows] == list("012345")
    assert max(float(row["val_accuracy"]) for row in rows) == summary["best"]["val_accuracy"]
    assert study.data.metrics["study/complete"] == 6
    assert study.data.metrics["best/val_accuracy"] == summary["best"]["val_accuracy"]


def test_the_best_trial_is_the_one_of_highest_validation_accuracy(finished: Place, finished_sweep: Any):
    trials = [run for run in finished.runs() if run.data.tags["sweeper.kind"] == "trial"]
    best = max(trials, key=lambda run: (run.data.metrics["final/val_accuracy"], -run.data.metrics["final/val_loss"]))
    assert best.data.tags["sweeper.trial"] == str(finished_sweep.result["best"]["trial"])


def test_the_same_command_again_adds_nothing_and_tests_nothing_again(
    finished_sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(finished_sweep.home, tmp_path, dirs_exist_ok=True)
    place = Place(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    kinds = place.kinds()
    monkeypatch.setattr(engine_choice, "ProcessEngine", lambda *_: pytest.fail("there is nothing to train"))
    monkeypatch.setattr("sweeper.sweep.champion.load_test", lambda *_: pytest.fail("there is nothing to test"))
    chosen = place.choose("auto", epochs=2)  # as the command chose it, which is not the same on every CPU
    options = SweepOptions("sweep", 6, default_space(), "tpe", "percentile", 0, None, final=True)
    result = optimize(place.environment, chosen, options)
    assert result["added"] == 0
    assert result["test"] == finished_sweep.result["test"]
    assert place.kinds() == kinds
    (champion,) = (run for run in place.runs() if run.data.tags["sweeper.kind"] == "champion")
    assert len(place.client.get_metric_history(champion.info.run_id, "test/accuracy")) == 1


# --- sweeps of a trial or two --------------------------------------------------------------------------

FEW = Space({"batch_size": Choice((512, 1024))})


def in_this_process(images: Sequence[Split], workers: int, threads: int) -> SerialEngine:
    return SerialEngine([Data.from_arrays(split) for split in images], threads)


@pytest.fixture
def sweep(place: Place, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs a sweep in this process, offline."""
    monkeypatch.setattr(engine_choice, "ProcessEngine", in_this_process)

    def run(
        space: Space = FEW, trials: int = 2, workers: int = 1, final: bool = False, timeout: float | None = None,
        **fields: Any,
    ) -> dict[str, Any]:  # fmt: skip
        options = SweepOptions("few", trials, space, "random", "none", 0, timeout, final, EngineChoice(workers=workers))
        return optimize(place.environment, place.choose(**fields), options)

    return run


@pytest.fixture
def without_test_images(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sample with its test files damaged; the names of the files that are read."""
    folder = tmp_path_factory.mktemp("sample")
    for file in SAMPLE.train + SAMPLE.test:
        shutil.copy(SAMPLE_DIR / f"{file.name}.gz", folder)
    for file in SAMPLE.test:
        (folder / f"{file.name}.gz").write_bytes(b"nothing to be seen here")
    monkeypatch.setattr(dataset, "SAMPLE_DIR", folder)
    read: list[str] = []
    original = read_idx

    def noted(folder: Path, file: IdxFile) -> Any:
        read.append(file.name)
        return original(folder, file)

    monkeypatch.setattr(splits, "read_idx", noted)
    return read


@pytest.mark.parametrize("split", [{}, {"split": "folds", "folds": 2}], ids=["holdout", "folds"])
def test_a_search_does_not_read_the_test_images(
    sweep: Callable[..., dict[str, Any]], without_test_images: list[str], split: dict[str, Any]
):
    assert sweep(trials=1, **split)["finished"] == 1
    assert set(without_test_images) == {file.name for file in SAMPLE.train}


def test_the_test_images_are_read_once_after_the_search(
    sweep: Callable[..., dict[str, Any]], without_test_images: list[str], place: Place
):
    with pytest.raises(DataError, match="t10k-images"):
        sweep(trials=1, final=True)
    assert [name for name in without_test_images if "t10k" in name] == ["t10k-images-idx3-ubyte"]
    assert [row.state for row in read_study("few", place.environment.storage).rows] == ["complete"]


def test_the_objective_of_folds_is_the_mean_over_them(sweep: Callable[..., dict[str, Any]], place: Place):
    best = sweep(trials=1, split="folds", folds=2)["best"]
    config = RunConfig.model_validate_json((place.home / "journal/few/0000/artifacts/config.json").read_text())
    folds = [finish(train(config, each)) for each in load_tensors(config, SAMPLE_DIR)]
    assert len(folds) == 2
    assert best["val_accuracy"] == pytest.approx(fmean(fold.evaluation.accuracy for fold in folds))
    assert best["val_loss"] == pytest.approx(fmean(fold.evaluation.loss for fold in folds))


def test_the_champion_is_trained_on_everything_and_its_weights_are_in_the_journal(
    sweep: Callable[..., dict[str, Any]], place: Place
):
    result = sweep(trials=1, final=True)
    (folder,) = (place.home / "journal/few").glob("champion-*")
    start, epoch, end = read_events(folder)
    assert start["params"]["split"] == "test"
    assert "retrained on all 7,000 training images" in start["description"]
    assert set(epoch["metrics"]) & {"train/loss", "val/loss"} == {"train/loss"}
    assert end["metrics"] == {name: value for name, value in result["test"].items() if name != "trial"}
    weights = safetensors.torch.load_file(folder / "artifacts/model/state.safetensors")
    build_model(RunConfig.from_params(start["params"])).load_state_dict(weights)


@pytest.mark.filterwarnings("ignore::Warning")  # of MLflow and of torch's export, which a command does not show
def test_a_champion_that_mlflow_refuses_costs_no_sweep_and_is_registered_by_the_same_command(
    sweep: Callable[..., dict[str, Any]], place: Place, empty_store: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_: Any) -> None:
        raise MlflowException("no room for models")

    place.tracking_uri = f"sqlite:///{shutil.copy(empty_store, place.home)}"
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", refuse)
        result = sweep(trials=1, final=True)
    assert Path(result["report"]).is_file()
    assert place.warned == ["the champion is not registered yet (no room for models); the same command tries again"]
    (champion,) = (run for run in place.runs() if run.data.tags["sweeper.kind"] == "champion")
    assert champion.info.status == FINISHED

    assert sweep(trials=1, final=True)["test"] == result["test"]
    version = place.client.get_model_version_by_alias("sweeper-few", "champion")
    assert (int(version.version), version.run_id) == (1, champion.info.run_id)
    assert place.client.get_run(champion.info.run_id).info.end_time == champion.info.end_time
    monkeypatch.setattr(Registry, "register", lambda *_: pytest.fail("it is registered"))
    sweep(trials=1, final=True)
    assert len(place.warned) == 1


@pytest.mark.parametrize("step", ["sweep_pictures", "sweep_report"])
def test_a_signal_at_the_end_of_a_sweep_is_not_noted_only(
    sweep: Callable[..., dict[str, Any]], place: Place, monkeypatch: pytest.MonkeyPatch, step: str
):
    def interrupted(*_: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it goes on")

    monkeypatch.setattr(service, step, interrupted)
    with pytest.raises(Interrupted):
        sweep(trials=1)


def test_a_signal_ends_the_registration_of_a_champion(
    sweep: Callable[..., dict[str, Any]], place: Place, empty_store: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it goes on")

    place.tracking_uri = f"sqlite:///{shutil.copy(empty_store, place.home)}"
    monkeypatch.setattr(Registry, "register", interrupted)
    with pytest.raises(Interrupted):
        sweep(trials=1, final=True)
    assert {run.info.status for run in place.runs()} == {FINISHED}


AT_ONCE = 1e-9  # seconds


def test_a_sweep_whose_time_is_over_is_summarised_and_reported_but_nothing_is_tested(
    sweep: Callable[..., dict[str, Any]], place: Place, monkeypatch: pytest.MonkeyPatch
):
    assert sweep(trials=1)["finished"] == 1
    (place.home / "report/few.html").unlink()
    monkeypatch.setattr("sweeper.sweep.champion.load_test", lambda *_: pytest.fail("there is more to come"))
    result = sweep(trials=3, final=True, timeout=AT_ONCE)
    assert (result["finished"], result["added"]) == (1, 0)
    assert result["best"]["trial"] == 0
    assert "test" not in result
    assert Path(result["report"]).read_bytes().startswith(b"<!doctype html>")
    summary = json.loads((place.home / "journal/few/study/artifacts/study/summary.json").read_text())
    assert summary["finished"] == 1
    assert read_events(place.home / "journal/few/study")[-1]["status"] == FINISHED
    with pytest.raises(OutOfTime, match="1 of 3 trials finished before --timeout"):
        check_finished(result, 3)


def test_a_sweep_whose_time_is_over_before_a_trial_is_finished_has_no_report(
    sweep: Callable[..., dict[str, Any]], place: Place
):
    with pytest.raises(OutOfTime, match="0 of 3 trials finished before --timeout"):
        sweep(trials=3, timeout=AT_ONCE)
    assert not (place.home / "report").exists()


def test_a_sweep_that_is_done_is_late_for_nothing(sweep: Callable[..., dict[str, Any]]):
    check_finished(sweep(trials=1, timeout=3600), 1)
    result = sweep(trials=1, timeout=AT_ONCE, final=True)
    check_finished(result, 1)
    assert result["test"]["trial"] == 0


def test_a_study_made_anew_does_not_take_over_the_records_of_the_one_before(
    sweep: Callable[..., dict[str, Any]], place: Place
):
    sweep(trials=1, final=True, seed=0)
    for file in place.home.glob("sweeper.db*"):
        file.unlink()
    result = sweep(trials=1, final=True, seed=1)
    ends = {folder.name: read_events(folder)[-1] for folder in (place.home / "journal/few").iterdir()}
    epochs = [e for e in read_events(place.home / "journal/few/0000") if e["event"] == "epoch"]
    assert epochs[-1]["metrics"]["val/accuracy"] == result["best"]["val_accuracy"]
    assert ends["champion-0000"]["metrics"]["test/accuracy"] == result["test"]["test/accuracy"]


@pytest.mark.parametrize(
    ("space", "bad"),
    [
        (Space({"batch_size": Choice((512, 6001))}), "6001"),
        (Space({"placement": Choice(("none", "bn")), "batch_size": Choice((1, 64))}), "batch_size=1"),
    ],
    ids=["larger-than-the-training-set", "one-image-with-batch-norm"],
)
def test_a_space_with_a_part_that_cannot_be_trained_is_refused_before_anything_is_created(
    sweep: Callable[..., dict[str, Any]], place: Place, space: Space, bad: str
):
    with pytest.raises(SpaceError, match=bad):
        sweep(space)
    assert list(place.home.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "installed", "code", "says"),
    [
        ("ray://127.0.0.1:10001", True, 2, "ray job submit"),
        ("127.0.0.1:1", True, 4, "Ray cluster 127.0.0.1:1 cannot be joined"),
        (None, False, 2, r"pip install 'sweeper\[ray\]'"),
    ],
    ids=["wrong-address", "no-cluster", "not-installed"],
)
def test_a_ray_that_cannot_be_used_is_told_before_anything_is_created(
    place: Place, monkeypatch: pytest.MonkeyPatch, address: str | None, installed: bool, code: int, says: str
):
    if installed:
        pytest.importorskip("ray")
    else:
        monkeypatch.setitem(sys.modules, "sweeper.engine.ray_cluster", None)
    options = SweepOptions("few", 2, FEW, "random", "none", 0, None, False, EngineChoice("ray", address=address))
    with pytest.raises(SweeperError, match=says) as caught:
        optimize(place.environment, place.choose(), options)
    assert caught.value.exit_code == code
    assert list(place.home.iterdir()) == []


def test_no_more_workers_are_started_than_there_are_trials_to_train(
    sweep: Callable[..., dict[str, Any]], place: Place, monkeypatch: pytest.MonkeyPatch
):
    started: list[int] = []

    def noted(images: Any, workers: int, threads: int) -> SerialEngine:
        started.append(workers)
        return in_this_process(images, workers, threads)

    monkeypatch.setattr(engine_choice, "ProcessEngine", noted)
    place.tracking_uri = NONE
    sweep(trials=1, workers=8)
    assert started == [1]


def test_a_sweep_without_tracking_leaves_its_study_alone(sweep: Callable[..., dict[str, Any]], place: Place):
    place.tracking_uri = NONE
    assert sweep(trials=1)["finished"] == 1
    assert not (place.home / "journal").exists()
    assert (place.home / "sweeper.db").exists()
