"""Uploading by `sync`: again, and to free the disk. The status of a sweep from another terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.core.metric import ECE
from sweeper.study.reading import StudyView
from sweeper.study.rows import TrialRow
from sweeper.sweep import tracker
from sweeper.sweep.records import status_lines, upload
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
    assert place.warned == ["kept 1 file that MLflow does not list. To upload again, run: sweeper sync --all"]
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


# --- status --------------------------------------------------------------------------------------------


def row(number: int, state: str, value: float | None, seconds: float | None = 10.0, **changes: Any) -> TrialRow:
    made = TrialRow(number, state, value, 0.5, {"placement": "bn", "lr": 0.00123456}, 2, seconds, "")
    return made._replace(**changes)


def status(*rows: TrialRow, workers: int = 1) -> list[str]:
    return status_lines(StudyView("demo", 10, workers, list(rows)))


def test_the_status_of_a_study_counts_its_trials_and_shows_the_running_ones():
    lines = status(
        row(0, "complete", 0.7), row(1, "pruned", 0.2), row(2, "failed", None), row(3, "running", 0.4),
        row(4, "running", None, None, epochs=0),
    )  # fmt: skip
    assert lines[0] == "study demo: 2/10 trials finished, 1 complete, 1 pruned, 1 failed, 2 running"
    assert lines[1] == "  trial 3: epoch 2, val accuracy 0.4000, placement bn, lr 0.00123, 10s"
    assert lines[2].startswith("  trial 4: epoch 0, no epoch yet, placement bn")
    assert lines[3:5] == ["best so far:", "  val accuracy 0.7000 (trial 0): placement bn, lr 0.00123"]


def test_the_status_of_a_study_tells_enqueued_trials_from_running_ones():
    lines = status(row(0, "complete", 0.7), row(1, "waiting", None, None, params={}, epochs=0))
    assert lines[0].endswith("0 failed, 0 running, 1 enqueued")
    assert [line for line in lines if "trial 1" in line or "left" in line] == []


def test_the_status_of_a_stopped_study_names_the_command_that_continues_it():
    rows = [row(0, "complete", 0.7), row(1, "running", 0.4)]
    lines = status_lines(StudyView("demo", 10, 1, rows, driven=False, command="sweeper optimize --trials 10"))
    assert lines[0] == "study demo: stopped, 1/10 trials finished, 1 complete, 0 pruned, 0 failed, 1 interrupted"
    assert lines[-1] == "to continue it: sweeper optimize --trials 10"
    assert not [line for line in lines if "left" in line]


def test_the_status_names_who_drives_the_study():
    rows = [row(0, "complete", 0.7), row(1, "running", 0.4)]
    lines = status_lines(StudyView("demo", 10, 1, rows, driver="process 7 on box since 2026-11-30T20:00:00+00:00"))
    assert lines[1] == "  driver: process 7 on box since 2026-11-30T20:00:00+00:00"


def test_the_status_ranks_the_five_best():
    lines = status(*(row(n, "complete", n / 10, params={"batch_size": n}) for n in range(7)))
    assert [line.split(":")[1].strip() for line in lines[2:]] == [f"batch_size {n}" for n in (6, 5, 4, 3, 2)]


def test_the_status_of_a_search_for_another_metric_names_it_and_shows_the_accuracy_beside_it():
    rows = [
        row(0, "complete", 0.5, accuracy=0.9), row(1, "complete", 0.25, accuracy=0.8, params={}),
        row(2, "running", 0.4),
    ]  # fmt: skip
    lines = status_lines(StudyView("demo", 10, 1, rows, metric=ECE))
    assert lines[1].startswith("  trial 2: epoch 2, val ECE 0.4000, ")
    assert lines[3:5] == [
        "  val ECE 0.2500 (trial 1), accuracy 0.8000: ",
        "  val ECE 0.5000 (trial 0), accuracy 0.9000: placement bn, lr 0.00123",
    ]


def test_the_status_counts_the_duplicates_of_an_earlier_version_as_finished():
    lines = status(row(0, "complete", 0.7), row(1, "complete", 0.7, copy_of=0))
    assert lines[0].startswith("study demo: 2/10 trials finished, 1 complete, 0 pruned, 1 duplicate, 0 failed")


@pytest.mark.parametrize(("workers", "left"), [(1, "1m20s"), (2, "40s")])
def test_the_status_forecasts_from_the_trials_that_ended(workers: int, left: str):
    rows = [row(0, "complete", 0.5, 5.0), row(1, "pruned", 0.5, 15.0), row(2, "running", 0.5)]
    assert status(*rows, workers=workers)[-1] == f"about {left} left"


@pytest.mark.parametrize(
    "rows",
    [
        [row(0, "complete", 0.5)],  # nobody drives it
        [row(0, "running", None)],  # nothing has ended
        [row(n, "complete", 0.5) for n in range(10)] + [row(10, "running", None)],
    ],
    ids=["nobody", "first", "done"],
)
def test_the_status_forecasts_nothing_it_cannot_know(rows: list[TrialRow]):
    assert not [line for line in status(*rows) if "left" in line]
