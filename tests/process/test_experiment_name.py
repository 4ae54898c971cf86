"""Commands and calls from Python find their runs in the MLflow experiment that was chosen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

import sweeper as api
from sweeper.core.errors import UsageError
from tests.process.conftest import Answer

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
TRAIN = ("train", "--exp", "1", "--epochs", "1", "--dataset", "sample", "--train-images", "200")


def test_a_run_is_recorded_uploaded_and_replayed_in_the_chosen_experiment(
    sweeper: Callable[..., Answer], tmp_path: Path, empty_store: Path
):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    named = ("--experiment-name", "mine")
    answer = sweeper(tmp_path, *TRAIN, *named)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[-1].endswith(" ui --experiment-name mine")
    assert client.get_experiment_by_name("bn-dropout") is None
    mine = client.get_experiment_by_name("mine").experiment_id
    (run,) = client.search_runs([mine])
    assert sweeper(tmp_path, "replay", run.info.run_id, *named).code == 0
    for variables in ({"MLFLOW_EXPERIMENT_NAME": "mine"}, {"MLFLOW_EXPERIMENT_ID": mine}):
        assert sweeper(tmp_path, *TRAIN, "--tracking-uri", "offline").code == 0
        assert "uploaded 1 run " in sweeper(tmp_path, "sync", env=variables).out
    assert len(client.search_runs([mine])) == 3

    client.delete_experiment(mine)
    answer = sweeper(tmp_path, "sync", *named)
    assert (answer.code, "MLflow experiment 'mine' was deleted" in answer.err) == (1, True)


BASE = api.experiment(1, epochs=1, dataset="sample", train_images=200)


def test_a_run_from_python_is_recorded_and_replayed_in_the_chosen_experiment(tmp_path: Path, empty_store: Path):
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = api.train(BASE, home=tmp_path, experiment_name="mine", progress=False)
    assert client.get_experiment_by_name("bn-dropout") is None
    (recorded,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert recorded.info.run_id == run.run_id
    assert api.replay(run.run_id, home=tmp_path, experiment_name="mine", progress=False).identical


@pytest.mark.parametrize("call", [api.train, api.optimize, api.advise, api.replay])
def test_each_function_takes_the_name_of_the_experiment(call: Callable[..., object], tmp_path: Path):
    with pytest.raises(UsageError, match="--experiment-name is empty"):
        call("run" if call is api.replay else BASE, home=tmp_path, tracking_uri="none", experiment_name=" ")
