"""The champion of a sweep: trained on everything, tested once, registered."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from sweeper.core.config import RunConfig
from sweeper.core.errors import Interrupted
from sweeper.engine.choice import ONE_WORKER
from sweeper.study.space import default_space
from sweeper.tracking.base import FINISHED
from sweeper.tracking.reading import read_events
from sweeper.tracking.registry import Registry
from sweeper.training.network import build_model
from tests.sweep.conftest import Place

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


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
    (champion,) = finished.runs("champion")
    assert (int(version.version), version.run_id) == (1, champion.info.run_id)


def test_the_same_command_again_adds_nothing_and_tests_nothing_again(finished_sweep: Any, tmp_path: Path):
    shutil.copytree(finished_sweep.home, tmp_path, dirs_exist_ok=True)
    place = Place(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
    kinds = place.kinds()
    (folder,) = tmp_path.glob("journal/sweep/champion-*")
    events = read_events(folder)
    result = place.optimize(
        default_space(), 6, study="sweep", sampler="auto", pruner="auto", final=True, precision="auto",
        engine=ONE_WORKER, epochs=2,
    )  # fmt: skip
    assert result["added"] == 0
    assert result["test"] == finished_sweep.result["test"]
    assert place.kinds() == kinds
    assert read_events(folder) == events
    (champion,) = place.runs("champion")
    assert len(place.client.get_metric_history(champion.info.run_id, "test/accuracy")) == 1


def test_the_champion_is_trained_on_everything_and_its_weights_are_in_the_journal(place: Place):
    result = place.optimize(trials=1, final=True)
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
    assert place.warned == ["the champion is not registered yet (no room for models); the same command tries again"]
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
def test_weights_that_are_not_those_of_the_run_are_not_registered(
    place: Place, empty_store: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlflow.exceptions import MlflowException

    place.use_mlflow(empty_store)
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "register", lambda *_: (_ for _ in ()).throw(OSError("not yet")))
        place.optimize(trials=1, final=True)
    (champion,) = place.runs("champion")
    file = place.artifacts(champion)["model/state.safetensors"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    place.optimize(trials=1, final=True)
    assert "not the weights that the run recorded" in place.warned[-1]
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
