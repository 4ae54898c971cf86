"""Uploading by `sync`: again, and to free the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.sweep import tracker
from sweeper.sweep.records import upload
from sweeper.sweep.replay import replay
from tests.sweep.conftest import Place

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


def files(place: Place) -> set[str]:
    """The files of the one run in the journal, by name."""
    return {path.name for path in place.home.glob("journal/runs/*/artifacts/**/*.*")}


def test_a_freed_run_is_whole_in_mlflow_and_replayed_as_before(place: Place, empty_store: Path) -> None:
    place.use_mlflow(empty_store)
    run_id = place.train(batch_size=512)["run_id"]
    assert files(place) > {"state.safetensors", "config.json", "confusion.csv"}
    freed = upload(place.environment, None, free=True)
    assert freed["carried"] == 0
    assert freed["freed"] > 100_000
    assert f"freed {freed['freed'] / 1e6:.1f} MB: deleted " in place.said[-1]
    assert files(place) == {"confusion.csv"}
    (run,) = place.runs()
    assert place.artifacts(run).keys() > {"model/state.safetensors", "config.json", "evaluation/confusion.csv"}
    (folder,) = place.home.glob("journal/runs/*")
    for named in (str(folder), run_id):
        assert replay(place.environment, named)["identical"]
    assert upload(place.environment, None, again=True)["carried"] == 1
    assert place.artifacts(run).keys() > {"model/state.safetensors", "config.json"}


def test_a_file_that_mlflow_lost_stays_and_the_way_out_is_said(place: Place, empty_store: Path) -> None:
    place.use_mlflow(empty_store)
    place.train(batch_size=512)
    (run,) = place.runs()
    place.artifacts(run)["model/state.safetensors"].unlink()
    upload(place.environment, None, free=True)
    assert files(place) == {"confusion.csv", "state.safetensors"}
    assert place.warned == ["kept 1 file that it does not list. To upload again, run: sweeper sync --all"]
    upload(place.environment, None, again=True, free=True)
    assert files(place) == {"confusion.csv"}
    assert len(place.warned) == 1


def test_a_large_journal_is_said_with_what_frees_the_disk(
    place: Place, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.use_mlflow(empty_store)
    place.train(batch_size=512)
    assert not [line for line in place.said if "--free" in line]
    monkeypatch.setattr(tracker, "LARGE", 100_000)
    place.train(batch_size=512)
    (said,) = [line for line in place.said if "--free" in line]
    assert said.startswith(
        "the journal holds 0.0 GB of files. To delete those that MLflow holds as well, run: sweeper sync "
    )
