"""sweeper from Python, by the blocks of docs/tutorials/python.md, in a script without a guard."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient

import sweeper
from sweeper.core.config import RunConfig
from sweeper.core.errors import ConfigError, SpaceError, UsageError
from tests.support.own_images import write_folder

ROOT = Path(__file__).parents[2]
PAGE, EXAMPLES = ROOT / "docs" / "tutorials" / "python.md", ROOT / "examples"
HEAVY = ("torch", "mlflow", "optuna", "pandas", "matplotlib", "sqlalchemy", "click")
LATER = """
import json
print(json.dumps({
    "trials": study.trials_dataframe().to_dict("list"), "best": study.best_value, "params": study.best_params,
    "run": dict(run.metrics), "history": run.history["val_accuracy"].tolist(), "test": dict(champion.metrics),
    "modes": [model.training, network.training], "registered": champion.run_id is not None,
    "again": sweeper.replay(champion).identical, "columns": run.history.columns.tolist(),
}))
"""


def python(code: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(code)
    return subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, alone: dict[str, str]) -> dict[str, Any]:
    """The output of the page's code blocks, run as one script."""
    folder = tmp_path_factory.mktemp("python")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    done = python("\n".join(blocks) + LATER, folder, alone)
    assert done.returncode == 0, done.stderr
    *lines, found = done.stdout.splitlines()
    return {**json.loads(found), "folder": folder, "lines": lines}


def test_a_script_without_a_guard_finishes_exactly_the_trials_it_asked_for(followed: dict[str, Any]):
    trials = pd.DataFrame(followed["trials"])
    assert trials["number"].tolist() == [0, 1, 2, 3]
    assert set(trials["state"]) == {"COMPLETE"}
    assert {"params_placement", "params_lr", "value", "loss", "duration", "epochs"} <= set(trials.columns)
    assert trials["params_lr"].between(1e-4, 1e-2).all()
    assert followed["best"] == pytest.approx(trials["value"].max(), abs=0.05)
    assert followed["params"].keys() == {"placement", "lr"}


def test_a_run_has_its_metrics_its_history_and_its_network(followed: dict[str, Any]):
    assert followed["history"][-1] == followed["run"]["final/val_accuracy"]
    assert len(followed["history"]) == 2
    assert {"train_loss", "val_loss", "val_ece", "lr", "epoch_s"} <= set(followed["columns"])
    assert followed["modes"] == [False, False]


def test_the_champion_has_its_test_accuracy_and_can_be_replayed(followed: dict[str, Any]):
    assert 0.1 < followed["test"]["test/accuracy"] <= 1
    assert followed["registered"]
    assert followed["again"]
    assert followed["lines"][-1] == "True"


def test_the_state_lies_in_the_current_folder(followed: dict[str, Any]):
    names = {path.name for path in followed["folder"].iterdir()}
    assert {"mlflow.db", "sweeper.db", "journal", "report", "first.html"} <= names


def test_importing_sweeper_imports_nothing_large(tmp_path: Path, alone: dict[str, str]):
    code = f"import sweeper, sys\nprint([name for name in {HEAVY} if name in sys.modules], sorted(dir(sweeper))[-5:])\n"
    done = python(code + "sweeper.experiment(6)\nprint('torch' in sys.modules)", tmp_path, alone)
    assert done.stdout.splitlines() == ["[] ['load_study', 'optimize', 'replay', 'train', 'xray']", "False"]


def test_the_readme_shows_lines_of_the_tutorial_that_the_other_tests_ran():
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    tutorial = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)).splitlines()
    assert [line for line in shown.splitlines() if line not in tutorial] == []


def test_a_name_that_sweeper_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'tune'"):
        sweeper.tune  # noqa: B018


def test_progress_can_be_turned_off(tmp_path: Path, tiny_run: RunConfig, capsys: pytest.CaptureFixture[str]):
    run = sweeper.train(tiny_run, home=tmp_path, tracking_uri="none", progress=False)
    assert (run.run_id, run.folder) == (None, None)
    assert capsys.readouterr() == ("", "")
    sweeper.train(tiny_run, home=tmp_path, tracking_uri="none")
    assert "epoch 1/1" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_run() -> RunConfig:
    return sweeper.experiment(1, epochs=1, dataset="sample", train_images=200)


def test_the_pictures_of_a_folder_are_resized_to_the_size_of_the_configuration(tmp_path: Path):
    write_folder(tmp_path / "pictures")
    base = sweeper.experiment(1, epochs=1, batch_size=16, dataset=f"folder:{tmp_path}/pictures", image_size=16)
    run = sweeper.train(base, home=tmp_path, tracking_uri="none", progress=False)
    assert run.config.image_size == 16
    assert next(run.batches(4))[0].shape == (4, 3, 16, 16)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"placment": ["bn"]}, "unknown field 'placment'"),
        ({"lr": (1e-2, 1e-4)}, "low is above high"),
        ({"lr": (0.0, 1e-4, "log")}, "low must be above 0"),
        ({"placement": ["bm"]}, "placement='bm'"),
        ({}, "not a mapping of fields"),
    ],
)
def test_a_wrong_space_is_refused_in_one_line_and_nothing_is_created(
    tmp_path: Path, tiny_run: RunConfig, space: dict[str, Any], said: str
):
    with pytest.raises(SpaceError, match=re.escape(said)) as caught:
        sweeper.optimize(tiny_run, space, home=tmp_path, tracking_uri="none")
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_exist_is_refused(tmp_path: Path, tiny_run: RunConfig):
    with pytest.raises(UsageError, match=r"sweeper\.db does not exist"):
        sweeper.load_study("none", home=tmp_path)
    with pytest.raises(ConfigError, match="experiment 9 does not exist"):
        sweeper.experiment(9)
    with pytest.raises(UsageError, match="was not recorded"):
        sweeper.replay(sweeper.train(tiny_run, home=tmp_path, tracking_uri="none", progress=False), home=tmp_path)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")  # MLflow's own
def test_each_home_has_its_own_run_though_both_name_their_database_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_run: RunConfig
):
    for name in ("one", "other"):
        home = tmp_path / name
        home.mkdir()
        monkeypatch.chdir(home)
        sweeper.train(tiny_run, tracking_uri="sqlite:///mlflow.db", progress=False)
        client = MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db")
        experiment = client.get_experiment_by_name("bn-dropout")
        assert experiment is not None, name
        assert len(client.search_runs([experiment.experiment_id])) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_images.py", "own_network.py"])
def test_an_example_runs_to_its_end(name: str, tmp_path: Path, alone: dict[str, str]):
    code = (EXAMPLES / name).read_text()
    assert len(code.splitlines()) < 60
    done = python(code, tmp_path, alone)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
