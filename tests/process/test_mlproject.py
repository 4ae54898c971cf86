"""`mlflow run .`: what MLproject declares, and that it works where there is neither conda nor pyenv."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from sweeper.cli.main import cli
from sweeper.core.experiments import experiment
from tests.support.own_images import write_folder

pytest_plugins = ["tests.support.mlflow_store"]

FILE = Path(__file__).parents[2] / "MLproject"
PROJECT: dict[str, Any] = yaml.safe_load(FILE.read_text())
ENTRY_POINTS: dict[str, dict[str, Any]] = PROJECT["entry_points"]
COMMANDS = {"main": "train", "optimize": "optimize", "advise": "advise"}  # of sweeper
PARAMETERS = [(entry, name) for entry, point in ENTRY_POINTS.items() for name in point["parameters"]]


def options(command: str) -> dict[str, click.Option]:
    return {p.name: p for p in cli.commands[command].params if isinstance(p, click.Option) and p.name}


def test_each_entry_point_is_a_command():
    assert set(ENTRY_POINTS) == set(COMMANDS)
    for entry, command in COMMANDS.items():
        assert f" sweeper {command} " in ENTRY_POINTS[entry]["command"]


@pytest.mark.parametrize(("entry", "name"), PARAMETERS)
def test_a_parameter_goes_to_the_option_of_its_name_and_has_its_default(entry: str, name: str):
    option = options(COMMANDS[entry])[name]
    assert f"{option.opts[0]} {{{name}}}" in ENTRY_POINTS[entry]["command"]
    assert str(ENTRY_POINTS[entry]["parameters"][name]["default"]) == str(option.default)


@pytest.mark.parametrize("entry", COMMANDS)
def test_a_command_uses_no_parameter_that_is_not_declared(entry: str):
    used = re.findall(r"{(\w+)}", ENTRY_POINTS[entry]["command"])
    assert sorted(used) == sorted(ENTRY_POINTS[entry]["parameters"])


def test_there_is_no_environment_to_build():
    assert PROJECT["databricks_spark_job"] == {}
    assert not {"conda_env", "python_env", "docker_env"} & set(PROJECT)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")  # MLflow's own
def test_mlflow_run_works_with_neither_conda_nor_pyenv(tmp_path: Path, empty_store: Path, alone: dict[str, str]):
    from mlflow import MlflowClient

    shutil.copy(FILE, tmp_path)
    shutil.copy(empty_store, tmp_path)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    assert not [tool for tool in ("conda", "pyenv") if shutil.which(tool, path=path)]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    pictures = f"folder:{write_folder(tmp_path / 'pictures')}"
    given = {"exp": "1", "epochs": "1", "dataset": pictures, "batch_size": "16", "placement": "bn-dropout",
             "conv_dropout": "0.2"}  # fmt: skip
    command = ["mlflow", "run", ".", *(word for item in given.items() for word in ("-P", "=".join(item)))]
    done = subprocess.run(
        command, cwd=tmp_path, env=alone | {"PATH": path, "MLFLOW_TRACKING_URI": uri}, capture_output=True, text=True,
        timeout=300, check=False, executable=os.fspath(Path(sys.executable).parent / "mlflow"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()], run_view_type=3)
    (run,) = runs
    assert run.info.status == "FINISHED"
    used = experiment(1, epochs=1, dataset=pictures, batch_size=16, placement="bn-dropout", conv_dropout=0.2)
    machine = {name: run.data.params[name] for name in ("device", "precision", "dataset_sha256")}
    assert run.data.params == used.to_params() | machine | {"exp": "1"}
    (inputs,) = run.inputs.dataset_inputs
    assert (inputs.dataset.name, inputs.dataset.digest[:8]) == (pictures, machine["dataset_sha256"][:8])
    assert json.loads(inputs.dataset.profile)["shape"] == [32, 32, 3]
    assert "--experiment-name bn-dropout" in done.stdout
    assert [p.step for p in client.get_metric_history(run.info.run_id, "val/accuracy")] == [1]
    assert {f.path for f in client.list_artifacts(run.info.run_id, "curves")} == {
        "curves/history.csv",
        "curves/loss_accuracy.png",
    }
