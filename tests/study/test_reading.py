"""Read a study that is driven, as rows and as a record."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from sweeper.core.errors import StudyConflict, UsageError
from sweeper.core.metric import ACCURACY, LOSS
from sweeper.study.opening import open_study
from sweeper.study.reading import best_configurations, read_record, read_study
from sweeper.study.rows import TrialRow, ranking
from tests.study.sweeps import MEMORY, SETTINGS, train
from tests.support.refusals import refusal
from tests.support.scored import scored


def row(number: int, value: float | None, loss: float | None = 0.3, state: str = "complete") -> TrialRow:
    return TrialRow(number, state, value, loss, {}, 1, 1.0, "")


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row(0, 0.8), row(1, 0.9), row(2, 0.7)], 1),
        ([row(0, 0.9, 0.3), row(1, 0.9, 0.2), row(2, 0.9, 0.25)], 1),
        ([row(0, 0.9, 0.2), row(1, 0.9, 0.2)], 0),
        ([row(0, 0.95, state="pruned"), row(1, 0.96, state="running"), row(2, 0.9)], 2),
        ([row(0, 0.95, state="pruned"), row(1, None, state="failed")], None),
        ([], None),
    ],
    ids=["highest accuracy", "ties by loss", "then by number", "complete ones only", "none complete", "none"],
)
def test_the_best_trial(rows: list[TrialRow], best: int | None) -> None:
    apart = [row._replace(params={"batch_size": row.number}) for row in rows]
    assert next((found.trials[0] for found in ranking(apart, ACCURACY)), None) == best


def test_a_held_study_can_be_read(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        study.set_target(8, workers=2)
        train(study, study.ask())
        study.ask()
        view = read_study("demo", url)
        assert view.driven
        assert (view.name, view.target, view.workers) == ("demo", 8, 2)
        assert [r.state for r in view.rows] == ["complete", "running"]
        assert view.rows[0]._replace(seconds=None) == study.rows()[0]._replace(seconds=None)
    with closing(open_study("demo", SETTINGS, url)):
        pass  # whoever reads does not hold it


def test_reading_a_study_leaves_no_lock(tmp_path: Path, url: str) -> None:
    optuna.create_study(storage=url, study_name="demo", direction="maximize")
    read_study("demo", url)
    assert [path.name for path in tmp_path.iterdir()] == ["sweeper.db"]


def test_the_best_configurations_are_read_whole(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        trials = [train(study, study.ask()) for _ in range(4)]
        ranked = ranking(study.rows(), ACCURACY)
    found = best_configurations("demo", url, 2)
    assert [each.trial for each in found] == [each.trials[0] for each in ranked[:2]]
    assert [each.config for each in found] == [trials[each.trial].config for each in found]
    assert len(best_configurations("demo", url, 100)) == len(ranked)


def test_a_study_without_a_complete_trial_has_no_best_configuration(url: str) -> None:
    open_study("demo", SETTINGS, url).close()
    assert "no trial is complete" in refusal(lambda: best_configurations("demo", url, 2), UsageError)
    optuna.create_study(storage=url, study_name="foreign", direction="maximize")
    assert "not created by sweeper" in refusal(lambda: best_configurations("foreign", url, 2), StudyConflict)


def test_a_study_that_is_not_there_is_refused_with_those_that_are(url: str) -> None:
    open_study("demo", SETTINGS, url).close()
    assert "holds: demo" in refusal(lambda: read_study("other", url), UsageError)


def test_reading_a_file_that_is_not_there_creates_none(tmp_path: Path, url: str) -> None:
    assert "does not exist" in refusal(lambda: read_study(None, url), UsageError)
    assert list(tmp_path.iterdir()) == []


def test_a_record_holds_all_of_a_study(url: str) -> None:
    with closing(open_study("demo", SETTINGS, url)) as study:
        train(study, study.ask())
        study.ask()
        record = read_record(None, url)
        assert (record.name, record.uid) == ("demo", study.uid)
        assert record.rows[0]._replace(seconds=None) == study.rows()[0]._replace(seconds=None)
        assert record.settings["space.batch_size"] == SETTINGS.describe()["space.batch_size"]
        assert record.curves[0] == study.record().curves[0]
        assert record.began is not None
        assert record.ended is not None
        assert record.began <= record.ended


def test_a_study_without_trials_has_a_record() -> None:
    with closing(open_study("demo", SETTINGS, MEMORY)) as study:
        record = study.record()
    assert (record.rows, record.importances, record.began, record.ended) == ([], [], None, None)


def test_a_study_is_read_with_its_metric_and_the_accuracies_beside_it(url: str) -> None:
    with closing(open_study("demo", replace(SETTINGS, metric="val/loss"), url)) as study:
        for scores in (scored(0.9, 0.5), scored(0.8, 0.3), scored(0.85, 0.4)):
            study.complete(study.ask().number, scores)
    view = read_study("demo", url)
    assert view.metric == LOSS
    assert [(row.value, row.loss, row.accuracy) for row in view.rows] == [
        (0.5, 0.5, 0.9), (0.3, 0.3, 0.8), (0.4, 0.4, 0.85),
    ]  # fmt: skip
    ranked = ranking(view.rows, view.metric)
    assert [each.trials for each in ranked] == [(1,), (2,), (0,)]
    assert ranked[0].scores == {"val_accuracy": 0.8, "val_loss": 0.3}
    assert [each.trial for each in best_configurations("demo", url, 2)] == [1, 2]
