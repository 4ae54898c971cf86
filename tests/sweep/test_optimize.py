"""Sweeps: their runs and files, what they read, and what they refuse."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from sweeper.core.config import RunConfig
from sweeper.core.environment import NONE
from sweeper.core.errors import DataError, Interrupted, OutOfTime, SpaceError, StudyConflict, SweeperError
from sweeper.data.sources import find
from sweeper.engine import choice
from sweeper.engine.choice import EngineChoice
from sweeper.engine.serial import SerialEngine
from sweeper.study.known import Known
from sweeper.study.reading import read_study
from sweeper.study.space import Choice, Range, Space
from sweeper.sweep.optimize import check_finished
from sweeper.sweep.options import known_configurations
from sweeper.tracking.base import FINISHED
from sweeper.tracking.reading import read_events
from sweeper.training.folds import finish
from sweeper.training.images import Data, load
from sweeper.training.loop import train
from tests.sweep.conftest import FEW, Place

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

# --- a finished sweep ----------------------------------------------------------------------------------


def test_a_sweep_is_a_run_for_each_trial_a_summary_run_and_one_for_the_champion(finished: Place):
    assert finished.kinds() == {"trial": 6, "study": 1, "champion": 1}
    assert {run.info.status for run in finished.runs()} == {"FINISHED"}
    trials = finished.runs("trial")
    assert sorted(run.data.tags["sweeper.trial"] for run in trials) == list("012345")
    assert {run.data.tags["sweeper.study"] for run in finished.runs()} == {"sweep"}
    for run in trials:
        assert {"config.json", "curves/loss_accuracy.png", "curves/history.csv"} <= set(finished.artifacts(run))


def test_the_summary_run_holds_its_table_figures_and_best_trial(finished: Place, finished_sweep: Any):
    (study,) = finished.runs("study")
    files = finished.artifacts(study)
    assert {"study/trials.csv", "study/pareto.csv", "study/summary.json", "study/history.png"} <= set(files)
    summary = json.loads(files["study/summary.json"].read_text())
    assert (summary["best"], summary["remarks"]) == tuple(finished_sweep.result[name] for name in ("best", "remarks"))
    rows = list(csv.DictReader(files["study/trials.csv"].read_text().splitlines()))
    assert [row["trial"] for row in rows] == list("012345")
    assert max(float(row["val_accuracy"]) for row in rows) == summary["best"]["val_accuracy"]
    assert study.data.metrics["study/complete"] == 6
    assert study.data.metrics["best/val_accuracy"] == summary["best"]["val_accuracy"]


# --- sweeps of a trial or two --------------------------------------------------------------------------


@pytest.mark.parametrize("split", [{}, {"split": "folds", "folds": 2}], ids=["holdout", "folds"])
@pytest.mark.usefixtures("without_test_images")
def test_a_search_does_not_read_the_test_images(place: Place, split: dict[str, Any]):
    assert place.optimize(trials=1, **split)["finished"] == 1


@pytest.mark.usefixtures("without_test_images")
def test_the_test_images_are_read_after_the_search(place: Place):
    with pytest.raises(DataError, match="t10k-images"):
        place.optimize(trials=1, final=True)
    assert [row.state for row in read_study("few", place.environment.storage).rows] == ["complete"]


def test_the_objective_of_folds_is_the_mean_over_them(place: Place):
    best = place.optimize(trials=1, split="folds", folds=2)["best"]
    config = RunConfig.model_validate_json((place.home / "journal/few/0000/artifacts/config.json").read_text())
    folds = [finish(train(config, each)) for each in load(config, find("sample"))]
    assert len(folds) == 2
    assert best["val_accuracy"] == pytest.approx(fmean(fold.evaluation.accuracy for fold in folds))
    assert best["val_loss"] == pytest.approx(fmean(fold.evaluation.loss for fold in folds))


@pytest.mark.parametrize("step", ["sweep_files", "sweep_report"])
def test_a_signal_at_the_end_of_a_sweep_ends_it_at_once(place: Place, monkeypatch: pytest.MonkeyPatch, step: str):
    def interrupted(*_: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it goes on")

    monkeypatch.setattr(f"sweeper.sweep.optimize.{step}", interrupted)
    with pytest.raises(Interrupted):
        place.optimize(trials=1)


AT_ONCE = 1e-9  # seconds


def test_a_sweep_whose_time_is_over_is_summarised_and_reported_but_nothing_is_tested(place: Place):
    assert place.optimize(trials=1)["finished"] == 1
    (place.home / "report/few.html").unlink()
    result = place.optimize(trials=3, final=True, timeout=AT_ONCE)
    assert (result["finished"], result["added"]) == (1, 0)
    assert result["best"]["trial"] == 0
    assert "test" not in result
    assert list(place.home.glob("journal/few/champion-*")) == []
    assert Path(result["report"]).read_bytes().startswith(b"<!doctype html>")
    summary = json.loads((place.home / "journal/few/study/artifacts/study/summary.json").read_text())
    assert summary["finished"] == 1
    assert read_events(place.home / "journal/few/study")[-1]["status"] == FINISHED
    with pytest.raises(OutOfTime, match="1 of 3 trials finished before --timeout"):
        check_finished(result, 3)


def test_a_sweep_whose_time_is_over_before_a_trial_is_finished_has_no_report(place: Place):
    with pytest.raises(OutOfTime, match="0 of 3 trials finished before --timeout"):
        place.optimize(trials=3, timeout=AT_ONCE)
    assert not (place.home / "report").exists()


def test_a_sweep_that_is_done_is_late_for_nothing(place: Place):
    check_finished(place.optimize(trials=1, timeout=3600), 1)
    result = place.optimize(trials=1, timeout=AT_ONCE, final=True)
    check_finished(result, 1)
    assert result["test"]["trial"] == 0


def test_a_study_made_anew_is_refused_while_the_journal_has_the_runs_of_the_one_before(place: Place):
    place.optimize(trials=1, seed=0)
    for file in place.home.glob("sweeper.db*"):
        file.unlink()
    with pytest.raises(StudyConflict, match=r"runs of another study 'few'.* choose another name with --study"):
        place.optimize(trials=1, seed=1)
    assert not (place.home / "sweeper.db").exists()
    shutil.rmtree(place.home / "journal/few")
    assert place.optimize(trials=1, seed=1)["finished"] == 1


def test_no_more_workers_are_started_than_there_are_trials_to_train(place: Place, monkeypatch: pytest.MonkeyPatch):
    """In a sweep without tracking, which leaves its study and no journal."""
    started: list[int] = []

    def noted(images: Any, workers: int, threads: int) -> SerialEngine:
        started.append(workers)
        return SerialEngine([Data.from_arrays(split) for split in images], threads)

    monkeypatch.setattr(choice, "ProcessEngine", noted)
    place.tracking_uri = NONE
    assert place.optimize(trials=1, engine=EngineChoice("processes", 8))["finished"] == 1
    assert started == [1]
    assert not (place.home / "journal").exists()
    assert (place.home / "sweeper.db").exists()


@pytest.mark.parametrize("asked", [True, False])
def test_a_sweep_records_the_load_of_the_machine_if_it_is_asked_to(place: Place, *, asked: bool):
    place.optimize(trials=1, system_metrics=asked)
    (epoch,) = [event for event in read_events(place.home / "journal/few/0000") if event["event"] == "epoch"]
    assert ("system/cpu_utilization_percentage" in epoch["metrics"]) == asked


# --- known configurations ------------------------------------------------------------------------------


def test_known_configurations_count_among_the_trials_which_are_exactly_as_many(place: Place):
    space = Space({"batch_size": Choice((256, 512, 1024))})
    known = [Known("a", {"batch_size": 512}), Known("b", {"batch_size": 1024}), Known("c", {"batch_size": 256})]

    def sizes() -> list[tuple[str, Any]]:
        return [(row.state, row.params.get("batch_size")) for row in read_study("few", place.environment.storage).rows]

    assert place.optimize(space, 2, known)["finished"] == 2
    assert place.said[:2] == [
        "2 known configurations to train first",
        "1 known configuration left in the queue: --trials 2 is too small",
    ]
    assert sizes() == [("complete", 512), ("complete", 1024), ("waiting", None)]
    result = place.optimize(space, 4, known)
    assert (result["finished"], result["added"]) == (4, 2)
    assert place.said.count("1 known configuration to train first") == 1
    assert sizes()[:3] == [("complete", 512), ("complete", 1024), ("complete", 256)]
    assert len(sizes()) == 4


def test_the_best_of_another_study_and_the_experiments_are_known_configurations(place: Place):
    best = place.optimize(FEW, 2)["best"]["params"]
    asked = place.options(Space({"batch_size": Choice((128, 512, 1024))}), study="again")
    url = place.environment.storage
    elsewhere = replace(place.environment, storage="sqlite:///nowhere.db")
    for env, study in [(place.environment, "few"), (elsewhere, f"few@{url}")]:
        (known,) = known_configurations(env, asked, file=None, study=study, top=1, experiments=False)
        assert known.params == best
    found = known_configurations(place.environment, asked, file=None, study="few", top=1, experiments=True)
    assert [known.params["batch_size"] for known in found] == [best["batch_size"], *[128] * 7]
    assert place.said[-1].startswith("experiments left out: 8 with 'batch_size=256', which is not in the search space")


def test_the_best_of_another_study_that_lies_outside_is_refused_by_name(place: Place):
    trial = place.optimize(FEW, 1)["best"]["trial"]
    for space, says in [
        (Space({"batch_size": Choice((128,))}), "not in the search space; use one of 128"),
        (Space({"lr": Range(0.001, 0.1)}), "'batch_size=[0-9]+', which is not in the search space"),
    ]:
        with pytest.raises(SpaceError, match=f"--from few, trial {trial}: .*{says}"):
            known_configurations(
                place.environment, place.options(space), file=None, study="few", top=5, experiments=False
            )


# --- refused before anything is created ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "bad"),
    [
        (Space({"batch_size": Choice((512, 6001))}), "6001"),
        (Space({"placement": Choice(("none", "bn")), "batch_size": Choice((1, 64))}), "batch_size=1"),
    ],
    ids=["larger-than-the-training-set", "one-image-with-batch-norm"],
)
def test_a_space_with_a_part_that_cannot_be_trained_is_refused(place: Place, space: Space, bad: str):
    with pytest.raises(SpaceError, match=bad):
        place.optimize(space)
    assert list(place.home.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "installed", "code", "says"),
    [
        ("ray://127.0.0.1:10001", True, 2, "ray job submit"),
        ("127.0.0.1:1", True, 4, "Ray cluster 127.0.0.1:1 cannot be joined"),
        (None, False, 2, r"pip install 'ray\[default\]>=2\.40'"),
    ],
    ids=["wrong-address", "no-cluster", "not-installed"],
)
def test_a_ray_that_cannot_be_used_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch, address: str | None, installed: bool, code: int, says: str
):
    if installed:
        pytest.importorskip("ray")
    else:
        monkeypatch.setitem(sys.modules, "sweeper.engine.ray_cluster", None)
    with pytest.raises(SweeperError, match=says) as caught:
        place.optimize(engine=EngineChoice("ray", address=address))
    assert caught.value.exit_code == code
    assert list(place.home.iterdir()) == []
