"""The places that options, arguments and variables choose."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.core.environment import OFFLINE, OURS, MlflowExperiment
from sweeper.core.errors import SweeperError
from sweeper.sweep.api import environment, load_study
from sweeper.sweep.environment import chosen_experiment
from sweeper.tracking.registry import _use_store

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


def test_python_takes_the_variables_of_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("MLFLOW_TRACKING_URI", "SWEEPER_STORAGE", "SWEEPER_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    ours = environment(tmp_path, check_tracking=False)
    assert (ours.tracking_uri, ours.storage) == (f"sqlite:///{tmp_path}/mlflow.db", f"sqlite:///{tmp_path}/sweeper.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", OFFLINE)
    monkeypatch.setenv("SWEEPER_STORAGE", "sqlite:////elsewhere.db")
    theirs = environment(tmp_path)
    assert (theirs.tracking_uri, theirs.storage) == (OFFLINE, "sqlite:////elsewhere.db")
    with pytest.raises(SweeperError, match="elsewhere"):
        load_study("none", home=tmp_path)
    given = environment(tmp_path, "none", storage="sqlite:////given.db")
    assert (given.tracking_uri, given.storage) == ("none", "sqlite:////given.db")
    for name in ("MLFLOW_TRACKING_URI", "SWEEPER_STORAGE"):
        monkeypatch.setenv(name, "")
    assert environment(tmp_path, check_tracking=False).tracking_uri == ours.tracking_uri


def test_mlflows_own_variable_is_not_set_for_the_next_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    _use_store(f"sqlite:///{tmp_path}/one.db")
    assert environment(tmp_path, check_tracking=False).tracking_uri.endswith("mlflow.db")
