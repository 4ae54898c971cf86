"""The champion of a sweep: trained on everything, tested once, registered."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from sweeper import __version__
from sweeper.core.config import RunConfig
from sweeper.core.errors import Interrupted
from sweeper.core.intervals import accuracy_interval
from sweeper.core.text import counted
from sweeper.data.fashion import SAMPLE
from sweeper.engine.choice import ONE_WORKER
from sweeper.study.space import default_space
from sweeper.sweep.records import upload
from sweeper.tracking.base import FINISHED
from sweeper.tracking.reading import read_events
from sweeper.tracking.registry import Registry
from sweeper.training.networks import build_model
from tests.sweep.conftest import Place

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


def test_only_the_champion_has_test_metrics_and_it_has_no_validation(finished: Place, finished_sweep: Any):
    for run in finished.runs():
        tested = {name for name in run.data.metrics if name.startswith("test/")}
        if run.data.tags["sweeper.kind"] == "champion":
            assert tested == {"test/accuracy", "test/accuracy_low", "test/accuracy_high", "test/loss", "test/ece"}
            assert not [name for name in run.data.metrics if name.startswith(("val/", "gap/"))]
            assert {name: run.data.metrics[name] for name in tested} == {
                name: value for name, value in finished_sweep.result["test"].items() if name != "trial"
            }
            wilson = accuracy_interval(run.data.metrics["test/accuracy"], 1_000)
            assert (run.data.metrics["test/accuracy_low"], run.data.metrics["test/accuracy_high"]) == wilson
            assert run.data.tags["sweeper.trial"] == str(finished_sweep.result["best"]["trial"])
        else:
            assert tested == set()


def test_the_champion_is_a_registered_model(finished: Place):
    version = finished.client.get_model_version_by_alias("sweeper-sweep", "champion")
    (champion,) = finished.runs("champion")
    assert (int(version.version), version.run_id) == (1, champion.info.run_id)
    metrics = champion.data.metrics
    interval = f"[{metrics['test/accuracy_low']:.4f}, {metrics['test/accuracy_high']:.4f}]"
    assert f"evaluated once: {metrics['test/accuracy']:.4f}, 95 % interval {interval}." in version.description


def test_the_registered_model_and_its_version_are_described(finished: Place, finished_sweep: Any):
    model = finished.client.get_registered_model("sweeper-sweep")
    version = finished.client.get_model_version("sweeper-sweep", "1")
    (run,) = finished.runs("champion")
    params, best = run.data.params, finished_sweep.result["best"]
    same = {"sweeper.study": "sweep", "sweeper.version": __version__, "sweeper.dataset": "sample",
            "sweeper.dataset_sha256": run.data.tags["sweeper.dataset_sha256"]}  # fmt: skip
    assert model.tags == same | {"sweeper.metric": "val/accuracy", "sweeper.project": "bn-dropout-sweeper"}
    assert version.tags == same | {
        "sweeper.trial": run.data.tags["sweeper.trial"], "sweeper.model": params["model"],
        "sweeper.placement": params["placement"], "sweeper.conv_dropout": f"{float(params['conv_dropout']):.3g}",
        "sweeper.head_dropout": f"{float(params['head_dropout']):.3g}",
        **{name: f"{value:.4f}" for name, value in run.data.metrics.items() if name.startswith("test/")},
    }  # fmt: skip
    for words in (model.description, version.description):
        assert "Data set **sample**: 10 classes, uint8 images `(N, 28, 28)`." in words
    assert 'mlflow.pyfunc.load_model("models:/sweeper-sweep@champion")' in model.description
    assert 'mlflow.pyfunc.load_model("models:/sweeper-sweep/1")' in version.description
    assert f"over {counted(best['seeds'], 'seed')}: accuracy {best['val_accuracy']:.4f}, loss" in version.description
    assert f"**{params['model']}** network, placement **{params['placement']}**" in version.description


def test_the_model_of_the_champion_has_its_test_metrics_and_data_set(finished: Place):
    """So that models are sorted by them, and filtered by the data set, in MLflow's Models tab."""
    (run,) = finished.runs("champion")
    (dataset,) = run.inputs.dataset_inputs
    found = finished.client.search_logged_models(
        [run.info.experiment_id],
        "metrics.`test/accuracy` > 0",
        datasets=[{"dataset_name": dataset.dataset.name, "dataset_digest": dataset.dataset.digest}],
        order_by=[{"field_name": "metrics.test/accuracy", "ascending": False}],
    )
    assert [model.source_run_id for model in found] == [run.info.run_id]
    tested = {metric.key: metric.value for metric in found[0].metrics if metric.dataset_name == "sample"}
    assert tested == {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}
    assert found[0].params["placement"] == run.data.params["placement"]
    for name in tested:
        assert len(finished.client.get_metric_history(run.info.run_id, name)) == 1


def test_the_same_command_again_adds_nothing_and_tests_nothing_again(finished_sweep: Any, tmp_path: Path):
    shutil.copytree(finished_sweep.home, tmp_path, dirs_exist_ok=True)
    place = Place(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    kinds = place.kinds()
    (folder,) = tmp_path.glob("journal/sweep/champion-*")
    events = read_events(folder)
    result = place.optimize(
        default_space(), 6, study="sweep", sampler="auto", pruner="auto", final=True, precision="auto",
        engine=ONE_WORKER, epochs=2, train_images=600,
    )  # fmt: skip
    assert result["added"] == 0
    assert result["test"] == finished_sweep.result["test"]
    assert place.kinds() == kinds
    assert read_events(folder) == events
    (champion,) = place.runs("champion")
    assert len(place.client.get_metric_history(champion.info.run_id, "test/accuracy")) == 1


def test_mlflow_shows_how_many_images_each_run_was_trained_on(finished: Place):
    """The champion trains on all of them, those of validation included."""
    for kind, expected in (("trial", (600, 1_000, "holdout")), ("champion", (7_000, 1_000, "test"))):
        run = finished.runs(kind)[0]
        (found,) = run.inputs.dataset_inputs
        profile = json.loads(found.dataset.profile)
        assert tuple(profile[name] for name in ("train_images", "val_images", "split")) == expected
        assert found.dataset.digest.startswith(run.data.tags["sweeper.dataset_sha256"][:8])


def test_the_champion_is_trained_on_everything_and_its_weights_are_in_the_journal(place: Place):
    result = place.optimize(trials=1, final=True)
    (folder,) = (place.home / "journal/few").glob("champion-*")
    start, epoch, end = read_events(folder)
    assert start["params"]["split"] == "test"
    assert "retrained on all 7,000 training images" in start["description"]
    assert set(epoch["metrics"]) & {"train/loss", "val/loss"} == {"train/loss"}
    assert end["metrics"] == {name: value for name, value in result["test"].items() if name != "trial"}
    weights = safetensors.torch.load_file(folder / "artifacts/model/state.safetensors")
    build_model(RunConfig.from_params(start["params"]), SAMPLE.spec).load_state_dict(weights)


@pytest.mark.filterwarnings("ignore::Warning")  # of MLflow and of torch's export, which a command does not show
def test_a_champion_that_mlflow_refuses_costs_no_sweep_and_is_registered_by_the_same_command(
    place: Place, empty_store: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_: Any) -> None:
        raise MlflowException("no room for models")

    place.use_mlflow(empty_store)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", refuse)
        result = place.optimize(trials=1, final=True)
    assert Path(result["report"]).is_file()
    assert place.warned == [
        "the champion is not registered yet (no room for models). Run the same command again to retry."
    ]
    (champion,) = place.runs("champion")
    assert champion.info.status == FINISHED

    assert place.optimize(trials=1, final=True)["test"] == result["test"]
    version = place.client.get_model_version_by_alias("sweeper-few", "champion")
    assert (int(version.version), version.run_id) == (1, champion.info.run_id)
    assert place.client.get_run(champion.info.run_id).info.end_time == champion.info.end_time
    monkeypatch.setattr(Registry, "register", lambda *_: pytest.fail("it is registered"))
    place.optimize(trials=1, final=True)
    assert len(place.warned) == 1


@pytest.mark.filterwarnings("ignore::Warning")  # of MLflow and of torch's export, which a command does not show
def test_a_champion_that_was_uploaded_again_is_not_registered_again_and_its_alias_stays_where_it_was_moved(
    place: Place, empty_store: Path
):
    place.use_mlflow(empty_store)
    place.optimize(trials=1, final=True)
    name = "sweeper-few"
    place.client.create_model_version(name, (place.home / "better").as_uri())
    place.client.set_registered_model_alias(name, "champion", "2")
    upload(place.environment, None, again=True)
    place.said.clear()
    place.optimize(trials=1, final=True)
    assert (place.warned, [line for line in place.said if "registered" in line]) == ([], [])
    assert int(place.client.get_model_version_by_alias(name, "champion").version) == 2
    assert len(place.client.search_model_versions(f"name = '{name}'")) == 2


@pytest.mark.filterwarnings("ignore::Warning")  # of MLflow and of torch's export, which a command does not show
def test_a_server_before_mlflow_3_registers_the_champion_from_the_files_of_its_run(
    place: Place, empty_store: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND
    from mlflow.pyfunc import load_model

    def lacking(*_: Any, **__: Any) -> None:
        raise MlflowException("failed with error code 404 != 200", error_code=ENDPOINT_NOT_FOUND)

    place.use_mlflow(empty_store)
    monkeypatch.setattr(MlflowClient, "create_logged_model", lacking)
    place.optimize(trials=1, final=True)
    assert place.warned == []
    version = place.client.get_model_version_by_alias("sweeper-few", "champion")
    (champion,) = place.runs("champion")
    assert (version.run_id, version.source) == (champion.info.run_id, f"{champion.info.artifact_uri}/registered")
    assert load_model(version.source).predict(np.zeros((2, 28, 28), np.uint8)).shape == (2, 10)
    place.optimize(trials=1, final=True)
    assert [v.version for v in place.client.search_model_versions("name = 'sweeper-few'")] == [version.version]


@pytest.mark.filterwarnings("ignore::Warning")  # of MLflow and of torch's export, which a command does not show
@pytest.mark.parametrize("freed", [False, True], ids=["in the journal", "in MLflow alone"])
def test_weights_that_are_not_those_of_the_run_are_not_registered(
    place: Place, empty_store: Path, monkeypatch: pytest.MonkeyPatch, freed: bool
):
    from mlflow.exceptions import MlflowException

    place.use_mlflow(empty_store)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "register", lambda *_: (_ for _ in ()).throw(OSError("not yet")))
        place.optimize(trials=1, final=True)
    (champion,) = place.runs("champion")
    (file,) = place.home.glob("journal/few/champion-*/artifacts/model/state.safetensors")
    if freed:
        file.unlink()
        file = place.artifacts(champion)["model/state.safetensors"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    place.optimize(trials=1, final=True)
    assert "does not match the run's sweeper.weights_sha256" in place.warned[-1]
    with pytest.raises(MlflowException):
        place.client.get_model_version_by_alias("sweeper-few", "champion")


def test_a_signal_ends_the_registration_of_a_champion(place: Place, empty_store: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it goes on")

    place.use_mlflow(empty_store)
    monkeypatch.setattr(Registry, "register", interrupted)
    with pytest.raises(Interrupted):
        place.optimize(trials=1, final=True)
    assert {run.info.status for run in place.runs()} == {FINISHED}
