"""Files leave the journal once the store is seen to hold them, and no sooner."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.environment import tracking_url
from sweeper.core.errors import ServiceUnreachable
from sweeper.tracking.base import FINISHED
from sweeper.tracking.fetching import run_id_of
from sweeper.tracking.freeing import Freed, size_of
from sweeper.tracking.journal import JournalTracker
from sweeper.tracking.mlflow import free_disk
from sweeper.tracking.reading import ARTIFACTS
from tests.support.refusals import refusal
from tests.support.tracked import Home, info, write

pytest_plugins = ["tests.support.mlflow_store", "tests.support.tracked"]

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
WEIGHTS = b"weights" * 1000
NAMES = ["config.json", "curves/history.csv", "curves/loss_accuracy.png", "model/state.safetensors"]


def record(home: Home) -> None:
    log = JournalTracker(home.journal).start(info())
    log.artifact("evaluation/confusion.csv", b"a,b")
    log.artifact("model/state.safetensors", WEIGHTS)
    write(log)


def kept(home: Home) -> list[str]:
    """The files of the run in the journal, without those that a report needs."""
    root = home.journal / "demo/k" / ARTIFACTS
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.*"))
    assert names.count("evaluation/confusion.csv") == 1
    return [name for name in names if not name.startswith("evaluation")]


def free(home: Home) -> Freed:
    return free_disk(home.journal, home.uri, home.folder, home.warned.append)


def in_store(home: Home) -> Path:
    """The folder of the run's files in MLflow."""
    run = home.client().get_run(run_id_of(home.journal, "demo/k", home.uri))
    return Path(run.info.artifact_uri.removeprefix("file://"))


def test_files_stay_until_the_disk_is_freed_and_then_mlflow_has_them_all(home: Home) -> None:
    record(home)
    assert home.sync() == 1
    assert kept(home) == NAMES
    before = size_of(home.journal)
    freed = free(home)
    assert (freed.files, freed.kept) == (4, 0)
    assert freed.bytes == before - size_of(home.journal) > len(WEIGHTS)
    assert kept(home) == []
    assert {str(path.relative_to(in_store(home))) for path in in_store(home).rglob("*.*")} >= set(NAMES)
    assert free(home) == Freed()


def test_a_folder_with_spaces_and_a_percent_is_freed_too(tmp_path: Path, empty_store: Path) -> None:
    folder = tmp_path / "my data" / "100 % of it"
    folder.mkdir(parents=True)
    shutil.copy(empty_store, folder)
    home = Home(folder, tracking_url(folder), [])
    record(home)
    home.sync()
    assert (free(home).files, kept(home)) == (4, [])


@pytest.mark.parametrize(
    "lose",
    [
        lambda home: shutil.rmtree(in_store(home)),
        lambda home: home.client().delete_run(run_id_of(home.journal, "demo/k", home.uri)),
    ],
    ids=["its files are lost", "the run was deleted"],
)
def test_nothing_is_freed_that_mlflow_does_not_hold(home: Home, lose: Callable[[Home], Any]) -> None:
    record(home)
    home.sync()
    lose(home)
    assert free(home) == Freed(0, 0, 4)
    assert kept(home) == NAMES


def test_a_run_whose_files_cannot_be_listed_keeps_them_and_is_named(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(home)
    home.sync()
    monkeypatch.setattr("mlflow.artifacts.list_artifacts", refuse)
    assert free(home) == Freed(0, 0, 4)
    assert "cannot be listed (you may not list)" in home.warned[-1]


def refuse(*_: Any, **__: Any) -> None:
    raise PermissionError("you may not list")


def test_a_file_of_another_size_stays(home: Home) -> None:
    record(home)
    home.sync()
    (in_store(home) / "model/state.safetensors").write_bytes(WEIGHTS[1:])
    assert free(home)[::2] == (3, 1)
    assert kept(home) == ["model/state.safetensors"]


def test_runs_that_are_not_uploaded_or_are_being_written_keep_their_files(home: Home) -> None:
    record(home)
    home.connection().connect()
    assert free(home) == Freed()
    home.sync()
    again = JournalTracker(home.journal).start(info())
    assert free(home) == Freed()
    again.end(FINISHED, {}, {})
    assert kept(home) == NAMES


def test_a_store_that_was_lost_is_made_again_with_its_files(home: Home, empty_store: Path) -> None:
    record(home)
    home.sync()
    shutil.copy(empty_store, home.folder / "mlflow.db")
    shutil.rmtree(home.folder / "mlartifacts")
    assert home.sync() == 1
    assert {str(path.relative_to(in_store(home))) for path in in_store(home).rglob("*.*")} >= set(NAMES)
    assert (in_store(home) / "model/state.safetensors").read_bytes() == WEIGHTS


def test_no_link_is_followed(home: Home, tmp_path: Path) -> None:
    record(home)
    home.sync()
    model = home.journal / "demo/k" / ARTIFACTS / "model"
    shutil.move(model, tmp_path / "outside")
    model.symlink_to(tmp_path / "outside")
    assert free(home) == Freed()
    assert (tmp_path / "outside/state.safetensors").read_bytes() == WEIGHTS


def test_a_server_that_goes_away_frees_nothing(
    home: Home, tmp_path: Path, mlflow_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = replace(home, uri=mlflow_server.uri)
    record(served)
    served.sync()

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr("mlflow.artifacts.list_artifacts", away)
    assert "stopped answering" in refusal(lambda: free(served), ServiceUnreachable)
    assert kept(served) == NAMES
    monkeypatch.undo()
    assert free(served).files == 4
