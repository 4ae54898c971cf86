"""The MLflow experiment that options and MLflow's variables choose."""

from __future__ import annotations

import pytest

from sweeper.core.environment import OURS, MlflowExperiment
from sweeper.sweep.environment import chosen_experiment

NAME, NUMBER, RUN = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"


@pytest.mark.parametrize(
    ("option", "variables", "chosen"),
    [
        (None, {}, OURS),
        ("a", {NAME: "b", NUMBER: "7"}, MlflowExperiment("a")),
        (None, {NAME: "b", NUMBER: "7"}, MlflowExperiment("b")),
        (None, {NUMBER: "7"}, MlflowExperiment(id="7")),
        (None, {NUMBER: "7", RUN: "r"}, MlflowExperiment(id="7")),
        (None, {NUMBER: "0"}, MlflowExperiment(id="0")),
        (None, {NUMBER: "0", RUN: "r"}, OURS),  # of `mlflow run` without --experiment-name
        (None, {NAME: "", NUMBER: ""}, OURS),
    ],
)
def test_the_option_goes_before_the_variables_and_a_name_before_an_id(
    monkeypatch: pytest.MonkeyPatch, option: str | None, variables: dict[str, str], chosen: MlflowExperiment
):
    for name in (NAME, NUMBER, RUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert chosen_experiment(option) == chosen
