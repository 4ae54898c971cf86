"""Finalists: the best configurations, trained again with fresh seeds, choose the champion."""

from __future__ import annotations

import json
import math
from statistics import fmean
from typing import Any

import pytest

from sweeper.core.config import RunConfig
from sweeper.core.errors import OutOfTime, UsageError
from sweeper.core.metric import ACCURACY, LOSS, Metric
from sweeper.engine.choice import EngineChoice
from sweeper.study.evidence import Standing
from sweeper.study.reading import read_study
from sweeper.study.rows import Ranked
from sweeper.sweep.confirm import Confirmation, confirm
from sweeper.sweep.finalists import Best, FinalistRun, Plan, means
from sweeper.sweep.optimize import check_finished
from sweeper.tracking.reading import finished_of
from tests.support.scored import scored
from tests.sweep.conftest import Place

pytest_plugins = ["tests.support.mlflow_store"]
FINAL = {"trials": 4, "finalists": 2, "finalist_seeds": 2}  # of a space of two configurations


def fresh(place: Place) -> dict[str, float]:
    """The accuracy of each finalist's run in the journal, by folder."""
    (study,) = {read_study("few", place.environment.storage).uid}
    runs = finished_of(place.home / "journal/few", study, "finalist")
    return {run.folder.name: run.metrics["final/val_accuracy"] for run in runs}


def test_the_best_is_the_highest_mean_of_fresh_seeds(place: Place) -> None:
    result = place.optimize(**FINAL, final=True)
    found = fresh(place)
    assert len(found) == 4
    means = {name[9:13]: fmean(v for n, v in found.items() if n[:13] == name[:13]) for name in found}
    best = result["best"]
    assert min(means.values()) <= best["val_accuracy"] <= max(means.values())  # it is shrunken
    assert means[f"{best['trial']:04d}"] == max(means.values())
    assert (best["seeds"], best["low"] < best["val_accuracy"] < best["high"]) == (2, True)
    assert result["test"]["trial"] == best["trial"]
    assert "mean of 2 fresh seeds" in (place.home / "report/few.html").read_text()


def test_the_seeds_of_finalists_are_none_of_the_search(place: Place) -> None:
    place.optimize(**FINAL)
    files = place.home.glob("journal/few/*/artifacts/config.json")
    seeds = {file.parts[-3]: json.loads(file.read_text())["seed"] for file in files}
    finalists = {name: seed for name, seed in seeds.items() if name.startswith("finalist")}
    assert {name[-1]: seed for name, seed in finalists.items()} == {"1": 1_000_001, "2": 1_000_002}
    assert not {*finalists.values()} & {seed for name, seed in seeds.items() if name not in finalists}


def test_finalists_that_are_recorded_are_not_trained_again(place: Place) -> None:
    first = place.optimize(**FINAL)
    times = {path: path.stat().st_mtime_ns for path in place.home.glob("journal/few/finalist-*/events.jsonl")}
    again = place.optimize(**FINAL)
    assert again["best"] == first["best"]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    more = place.optimize(**FINAL | {"finalist_seeds": 3})
    assert (more["best"]["seeds"], len(fresh(place))) == (3, 6)


def test_without_finalists_the_best_is_of_the_search(place: Place) -> None:
    result = place.optimize(trials=2)
    values = [row.value for row in read_study("few", place.environment.storage).rows]
    assert fresh(place) == {}
    assert min(values) <= result["best"]["val_accuracy"] <= max(values)


def test_a_deadline_before_the_finalists_leaves_them_to_the_next_command(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: Any, **__: Any) -> Any:
        raise OutOfTime("1 of 4 trials finished before --timeout")

    with monkeypatch.context() as patched:
        patched.setattr("sweeper.sweep.optimize.train_finalists", late)
        result = place.optimize(**FINAL, final=True)
    assert "test" not in result
    with pytest.raises(OutOfTime, match="before all finalists were trained"):
        check_finished(result, 4)
    result = place.optimize(**FINAL, final=True)
    check_finished(result, 4)
    assert result["test"]["trial"] == result["best"]["trial"]


def test_a_look_at_the_test_images_without_finalists_stays_the_only_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.sweep.finalists.FEWEST_TRIALS", 2)
    first = place.optimize(trials=2, finalists=0, final=True)
    confirmed(place, seeds=1)
    again = place.optimize(trials=2, final=True)
    assert {name[-1] for name in fresh(place)} == {"1"}
    assert again["test"] == first["test"]
    assert len(list(place.home.glob("journal/few/champion-*"))) == 1


def test_a_sweep_of_many_trials_has_finalists_by_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.sweep.finalists.FEWEST_TRIALS", 2)
    result = place.optimize(trials=2, final=True)
    assert len(fresh(place)) == 3 * len({json.dumps(row.params) for row in
                                         read_study("few", place.environment.storage).rows})  # fmt: skip
    assert place.optimize(trials=2, final=True)["test"] == result["test"]


# --- confirm -------------------------------------------------------------------------------------------


def confirmed(place: Place, *trials: int, top: int = 5, seeds: int = 2) -> list[dict[str, Any]]:
    asked = Confirmation("few", top, trials, seeds, "cpu", EngineChoice("serial"))
    found: list[dict[str, Any]] = confirm(place.environment, asked)["confirmed"]
    return found


def test_any_configuration_of_a_study_is_confirmed_later(place: Place) -> None:
    place.optimize(trials=4)
    assert len(confirmed(place, top=1)) == 1
    both = confirmed(place)
    assert [best["seeds"] for best in both] == [2, 2]
    assert len(fresh(place)) == 4
    (last,) = confirmed(place, both[1]["trial"])
    assert last["params"] == both[1]["params"]
    assert [row.state for row in read_study("few", place.environment.storage).rows] == ["complete"] * 4
    with pytest.raises(UsageError, match="trial 9 of study 'few' is not complete"):
        confirmed(place, 9)


def test_the_champion_is_of_the_confirmed_runs(place: Place) -> None:
    place.optimize(trials=4)
    best = confirmed(place)[0]
    files = {path: path.stat().st_mtime_ns for path in place.home.glob("journal/few/finalist-*/events.jsonl")}
    result = place.optimize(**FINAL)
    assert result["best"] == best
    assert {path: path.stat().st_mtime_ns for path in files} == files


# --- another metric ------------------------------------------------------------------------------------


def ranked(metric: Metric) -> list[Best]:
    """The finalists of two configurations, of which the second is more accurate and has the higher loss."""
    standing = Standing("", 1, 0.5, 0.5, math.nan, math.nan)
    configurations = [Ranked({"batch_size": n}, (n,), standing, {}) for n in (0, 1)]
    runs = [FinalistRun(of, seed, RunConfig(), f"{of}/{seed}") for of in (0, 1) for seed in (1, 2)]
    results = {
        "0/1": scored(0.80, 0.30), "0/2": scored(0.82, 0.32), "1/1": scored(0.90, 0.50), "1/2": scored(0.92, 0.54),
    }  # fmt: skip
    return means(Plan(configurations, runs), results, metric)


def test_finalists_are_ranked_by_the_mean_of_the_metric_and_keep_the_accuracy() -> None:
    assert [best.trial for best in ranked(ACCURACY)] == [1, 0]
    first, second = ranked(LOSS)
    assert (first.trial, second.trial) == (0, 1)
    assert first.scores["val_accuracy"] == pytest.approx(0.81)
    assert 0.31 < first.scores["val_loss"] < 0.32  # drawn towards the mean of all
    assert first.low < first.scores["val_loss"] < first.high
    assert first.plain().keys() == {"trial", "val_accuracy", "val_loss", "seeds", "low", "high", "params"}
