"""Real sweeps for the loss and the calibration error, from their trials to the champion."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest

from sweeper.core.errors import StudyConflict
from sweeper.study.reading import read_study
from sweeper.study.space import Choice, Space
from sweeper.sweep.records import show_status, write_sweep_report
from sweeper.tracking.reading import read_events
from tests.support.refusals import refusal
from tests.sweep.conftest import Place

pytest_plugins = ["tests.support.mlflow_store"]
# MLflow's own use of SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")
# A network that has learned nothing is as unsure as it is wrong; one that begins to learn is more right than sure.
RATES = Space({"lr": Choice((1e-6, 1e-3))})
SEARCH = {"space": RATES, "trials": 2, "sampler": "grid", "finalists": 2, "finalist_seeds": 1, "final": True}


def final(place: Place, folder: str) -> dict[str, float]:
    """The metrics of a run's end, in the journal."""
    metrics: dict[str, float] = read_events(place.home / "journal/few" / folder)[-1]["metrics"]
    return metrics


@pytest.mark.filterwarnings("ignore::Warning")  # of MLflow and of torch's export, which a command does not show
def test_a_sweep_for_the_calibration_error_has_another_champion_than_one_for_the_accuracy(
    place: Place, empty_store: Path
) -> None:
    place.use_mlflow(empty_store)
    result = place.optimize(**SEARCH, metric="val/ece")

    ends = {number: final(place, f"{number:04d}") for number in (0, 1)}
    best = result["best"]
    other = 1 - best["trial"]
    assert result["metric"] == "val/ece"
    assert best["params"] == {"lr": 1e-6}
    assert ends[best["trial"]]["final/val_ece"] < ends[other]["final/val_ece"]
    assert ends[best["trial"]]["final/val_accuracy"] < ends[other]["final/val_accuracy"]
    (finalist,) = (place.home / "journal/few").glob(f"finalist-{best['trial']:04d}-*")
    fresh = final(place, finalist.name)
    assert (best["val_ece"], best["val_accuracy"], best["val_loss"]) == tuple(
        fresh[f"final/{name}"] for name in ("val_ece", "val_accuracy", "val_loss")
    )
    assert result["test"]["trial"] == best["trial"]

    stored = optuna.load_study(study_name="few", storage=place.environment.storage)
    assert (stored.direction.name, stored.best_trial.number) == ("MINIMIZE", best["trial"])
    assert [t.value for t in stored.trials] == [ends[n]["final/val_ece"] for n in (0, 1)]
    (summary,) = place.runs("study")
    assert summary.data.params["direction"] == "minimize val/ece"
    assert summary.data.metrics["best/val_ece"] == best["val_ece"]
    assert summary.data.metrics["best/val_accuracy"] == best["val_accuracy"]
    assert json.loads(place.artifacts(summary)["study/summary.json"].read_text())["metric"] == "val/ece"
    for run in place.runs("trial"):
        assert run.data.metrics["final/val_ece"] == ends[int(run.data.tags["sweeper.trial"])]["final/val_ece"]
    version = place.client.get_model_version_by_alias("sweeper-few", "champion")
    assert "by validation ECE" in version.description
    assert f"; ECE {result['test']['test/ece']:.4f}." in version.description
    assert "best validation ECE" in (place.home / "report/few.html").read_text()


def test_a_sweep_for_the_loss_is_continued_for_the_loss_alone(place: Place) -> None:
    place.optimize(RATES, metric="val/loss", sampler="grid")
    message = refusal(lambda: place.optimize(RATES, 3, metric="val/accuracy", sampler="grid"), StudyConflict)
    assert "direction was 'minimize val/loss', is 'maximize val/accuracy'" in message
    result = place.optimize(RATES, 3, sampler="grid")  # which is auto
    assert (result["metric"], result["finished"]) == ("val/loss", 3)
    rows = read_study("few", place.environment.storage).rows
    for row in rows:
        end = final(place, f"{row.number:04d}")
        assert (row.value, row.loss, row.accuracy) == (
            end["final/val_loss"], end["final/val_loss"], end["final/val_accuracy"],
        )  # fmt: skip
    assert result["best"]["params"] == {"lr": 1e-3}
    status = show_status(place.environment, "few")
    assert (status["metric"], status["trials"][0]["accuracy"]) == ("val/loss", rows[0].accuracy)
    assert any(line.startswith("  val loss ") and ", accuracy " in line for line in place.said)
    write_sweep_report(place.environment, "few", None)
    assert "best validation loss" in (place.home / "report/few.html").read_text()
