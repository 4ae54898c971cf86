"""Which run of a store belongs to a folder of a journal: that of a copy, of an older store, of a deleted run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.environment import EXPERIMENT
from sweeper.tracking.base import FINISHED, KILLED
from sweeper.tracking.fetching import run_id_of
from sweeper.tracking.journal import JournalTracker
from tests.support.tracked import LONG, Home, info, write

pytest_plugins = ["tests.support.mlflow_store", "tests.support.tracked"]

# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")


def epoch(value: float) -> dict[str, float]:
    return {"train/loss": value, "train/accuracy": 0.5, "val/loss": value, "val/accuracy": 0.5}


def train(home: Home, value: float, *steps: int, status: str | None = FINISHED) -> None:
    """Train, or continue, the run `k`: each of its losses has the value by which a training is known."""
    log = JournalTracker(home.journal).start(info())
    for step in steps:
        log.epoch(step, epoch(value))
    if status:
        log.end(status, {"final/val_loss": value} if status == FINISHED else {}, {"sweeper.state": status.lower()})


def copied(home: Home) -> Home:
    """A copy of the home's journal, with the same store."""
    folder = home.folder / "copy"
    shutil.copytree(home.journal, folder / "journal")
    return replace(home, folder=folder)


def runs(home: Home) -> list[Any]:
    """All runs of the store, the oldest first."""
    client = home.client()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], run_view_type=3)
    return sorted(found, key=lambda run: run.info.start_time)


def points(home: Home, run: Any) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) of every point of a run."""
    client = home.client()
    return {n: [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, n)] for n in run.data.metrics}


def trainings(home: Home) -> dict[float, list[int]]:
    """The steps of each training in the store; no run has points of two after they part, and none has a point twice."""
    found = {}
    for run in runs(home):
        losses = points(home, run)["val/loss"]
        assert points(home, run)["train/loss"] == losses
        assert len({step for step, _ in losses}) == len(losses), "a point is there twice"
        assert len(points(home, run).get("final/val_loss", [()])) == 1
        found[losses[-1][1]] = [step for step, _ in losses]
    return found


def between(home: Home) -> Home:
    train(home, 0.0, 1, 2, status=KILLED)
    return copied(home)


def before_a_start(home: Home) -> Home:
    home.journal.mkdir()
    return copied(home)


def while_it_is_written(home: Home) -> Home:
    train(home, 0.0, 1, 2, status=None)
    return copied(home)


def uploaded(home: Home) -> Home:
    train(home, 0.0, 1, 2, status=KILLED)
    home.sync()
    return copied(home)


@pytest.mark.parametrize("copy", [between, before_a_start, while_it_is_written, uploaded])
def test_a_copied_journal_whose_runs_went_on_elsewhere_has_runs_of_its_own(
    home: Home, copy: Callable[[Home], Home]
) -> None:
    other = copy(home)
    train(home, 1.0, 1, 2, 3, 4)
    train(other, 2.0, 1, 2, 3)
    assert (home.sync(), other.sync()) == (1, 1)
    assert trainings(home) == {1.0: [1, 2, 3, 4], 2.0: [1, 2, 3]}
    (said,) = home.warned
    assert "perhaps from a copy of this journal" in said
    assert "--study" in said
    one, two = runs(home)
    named = [run.data.tags.get("sweeper.other_training") for run in (one, two)]
    assert named in ([None, one.info.run_id], [two.info.run_id, None])
    for _ in range(2):  # also where nothing is noted
        for each in (home, other):
            (each.journal / "demo/k/upload.json").unlink()
            assert (each.sync(), each.sync()) == (1, 0)
        assert trainings(home) == {1.0: [1, 2, 3, 4], 2.0: [1, 2, 3]}
    assert home.warned == [said]


def test_a_copy_that_ends_the_same_epochs_at_another_time_has_a_run_of_its_own(home: Home) -> None:
    train(home, 0.0, 1, 2, status=None)
    other = copied(home)
    train(home, 0.0)
    train(other, 0.0)
    assert (home.sync(), other.sync()) == (1, 1)
    assert [len(points(home, run)["final/val_loss"]) for run in runs(home)] == [1, 1]


def test_copies_that_are_written_at_once_part_where_their_trainings_do(home: Home) -> None:
    train(home, 0.0, 1, 2, status=None)
    other = copied(home)
    with home.tracker() as one, other.tracker() as two:
        logs = {1.0: (one, one.start(info())), 2.0: (two, two.start(info()))}
        for step in (3, 4, 5):
            for value, (tracker, log) in logs.items():
                log.epoch(step, epoch(value))
                assert tracker.flush(LONG)
        for value, (_, log) in logs.items():
            log.end(FINISHED, {"final/val_loss": value}, {})
    assert trainings(home) == {1.0: [1, 2, 3, 4, 5], 2.0: [1, 2, 3, 4, 5]}


def test_a_restored_journal_that_goes_on_otherwise_leaves_what_is_there(home: Home, tmp_path: Path) -> None:
    train(home, 0.0, 1, 2, status=KILLED)
    home.sync()
    shutil.copytree(home.journal, tmp_path / "backup")
    train(home, 1.0, 3, 4)
    home.sync()
    shutil.rmtree(home.journal)
    shutil.copytree(tmp_path / "backup", home.journal)
    train(home, 2.0, 3)
    assert home.sync() == 1
    assert trainings(home) == {1.0: [1, 2, 3, 4], 2.0: [1, 2, 3]}


def test_a_restored_journal_does_not_end_a_run_that_finished_meanwhile(home: Home) -> None:
    train(home, 1.0, 1, 2, status=None)
    older = copied(home)
    train(home, 1.0, 3, 4)
    home.sync()
    before = runs(home)[0].to_dictionary()
    older.sync()  # which ends its run as killed
    assert [run.to_dictionary() for run in runs(home)] == [before]
    assert home.warned == []


@pytest.mark.parametrize("lost", ["all", "the last points"])
def test_a_run_that_was_half_uploaded_survives_the_loss_of_the_store(home: Home, empty_store: Path, lost: str) -> None:
    store = home.folder / "mlflow.db"
    with home.tracker() as tracker:
        log = tracker.start(info())
        write(log, (1,), end=False)
        assert tracker.flush(LONG)
        shutil.copy(store, home.folder / "older.db")
        write(log, (2,), end=False)
    shutil.copy(empty_store if lost == "all" else home.folder / "older.db", store)
    write(log, (3, 4))
    assert home.sync() == 1
    assert home.steps() == {"k": [1, 2, 3, 4]}
    assert home.warned == []


def test_a_run_that_was_deleted_in_mlflow_is_named_once_and_stays_deleted(home: Home) -> None:
    train(home, 1.0, 1, status=KILLED)
    assert home.sync() == 1
    run_id = run_id_of(home.journal, "demo/k", home.uri) or ""
    home.client().delete_run(run_id)
    train(home, 1.0, 2, 3)
    assert (home.sync(), home.sync()) == (0, 0)
    (said,) = home.warned
    assert f"mlflow runs restore --run-id {run_id}; then upload it with: sweeper sync --all" in said
    with home.tracker() as tracker:
        tracker.catch_up("demo")
        assert tracker.flush(LONG)
    assert home.warned == [said]
    (home.journal / "demo/k/upload.json").unlink()  # nor is another made where nothing is noted
    assert home.sync() == 0
    assert home.warned == [said, said]
    assert len(runs(home)) == 1

    home.client().restore_run(run_id)
    assert home.sync() == 0
    assert home.sync(again=True) == 1
    assert trainings(home) == {1.0: [1, 2, 3]}
    assert len(home.warned) == 2


def test_sync_all_adds_nothing_to_what_is_there_and_names_what_is_deleted_still(home: Home) -> None:
    train(home, 1.0, 1, 2)
    write(JournalTracker(home.journal).start(info("gone")))
    assert home.sync() == 2
    home.client().delete_run(run_id_of(home.journal, "demo/gone", home.uri))
    before = [(run.to_dictionary(), points(home, run)) for run in runs(home)]
    assert home.sync(again=True) == 1
    assert [(run.to_dictionary(), points(home, run)) for run in runs(home)] == before
    (said,) = home.warned
    assert "demo/gone: its run was deleted in MLflow" in said
