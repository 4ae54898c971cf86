"""A study in memory and the database behind it hold the same, at every moment at which the process may die."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from sweeper.core.config import RunConfig
from sweeper.core.errors import StudyConflict
from sweeper.study.opening import open_study
from sweeper.study.reading import read_record
from sweeper.study.space import default_space
from sweeper.study.study import Study, StudySettings
from tests.support.optuna_store import stored

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SETTINGS = StudySettings(RunConfig(dataset="sample", epochs=4), default_space(), "0" * 64, seed=3)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'sweeper.db'}"


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A time zone in which the day is another one for most of the day; Optuna stores times in UTC."""
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def in_memory(study: Study) -> list[optuna.trial.FrozenTrial]:
    return study._mirror.study.get_trials(deepcopy=True)


def without_ids(trials: list[optuna.trial.FrozenTrial]) -> list[dict[str, object]]:
    return [{k: v for k, v in vars(trial).items() if k != "_trial_id"} for trial in trials]


def test_a_trial_and_the_counter_of_its_sampler_are_written_in_one_transaction(url: str):
    """Else a driver that dies between the two gives the next trial the same place in the sequence."""
    commits: list[object] = []
    with closing(open_study("demo", replace(SETTINGS, sampler="qmc"), url)) as study:
        sqlalchemy.event.listen(study._mirror._storage.engine, "commit", commits.append)
        for number in range(3):
            commits.clear()
            study.ask()
            assert len(commits) == 1, number


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_optuna_reads_from_the_database_what_the_memory_holds(url: str, far_away: None, sampler: str):
    with closing(open_study("demo", replace(SETTINGS, sampler=sampler), url)) as study:
        for number in range(4):
            study.ask()
            assert without_ids(stored(url)) == without_ids(in_memory(study))
            study.report(number, 1, 0.5)
            study.settle()
        study.report(2, 2, 0.6)  # not settled: its end writes it
        study.complete(2, 0.6, 0.4)
        study.prune(1, "worst")
        study.fail(0, "no", "a traceback")
        assert without_ids(stored(url)) == without_ids(in_memory(study))
        assert read_record("demo", url).rows[:3] == study.record().rows[:3]  # the fourth still runs
        before = without_ids(in_memory(study))
        counters = study._mirror.study._storage.get_study_system_attrs(0)
    with closing(open_study("demo", replace(SETTINGS, sampler=sampler), url)) as again:
        assert without_ids(in_memory(again)) == before
        assert again._mirror.study._storage.get_study_system_attrs(0) == counters
        assert [trial.number for trial in again.unfinished()] == [3]
        again.report(3, 1, 0.9)  # the first report stands
        again.report(3, 2, 0.7)
        again.complete(3, 0.7, 0.3)
        assert stored(url)[3].intermediate_values == {1: 0.5, 2: 0.7}
        assert without_ids(stored(url)) == without_ids(in_memory(again))


def test_what_is_not_settled_is_written_when_the_study_is_closed(url: str):
    with closing(open_study("demo", SETTINGS, url)) as study:
        study.ask()
        study.report(0, 1, 0.5)
        assert stored(url)[0].intermediate_values == {}
    assert stored(url)[0].intermediate_values == {1: 0.5}


def test_trials_of_another_writer_stop_the_sweep(url: str):
    with closing(open_study("demo", SETTINGS, url)) as study:
        study.ask()
        storage = optuna.storages.RDBStorage(url)
        optuna.load_study(study_name="demo", storage=storage).ask()
        storage.engine.dispose()
        with pytest.raises(StudyConflict, match="2 trials where there should be 1"):
            study.ask()
    assert len(stored(url)) == 2


def test_trials_that_begin_and_end_together_are_written_as_one_by_one(url: str):
    with closing(open_study("demo", SETTINGS, url)) as study:
        commits: list[object] = []
        sqlalchemy.event.listen(study._mirror._storage.engine, "commit", commits.append)
        with study.together():
            numbers = [study.ask().number for _ in range(4)]
            study.complete(3, 0.9, 0.2)  # a copy of another trial's result, before it is written at all
            assert stored(url) == []
            study.begin()
            assert [trial.state.name for trial in stored(url)] == ["RUNNING"] * 4
            assert "val_loss" not in stored(url)[3].user_attrs  # which a training of it might contradict
            for number in numbers[:3]:
                study.report(number, 1, 0.5)
            study.complete(2, 0.6, 0.4)
            study.prune(1, "worst")
            study.fail(0, "no", "a traceback")
            study.settle()
            assert without_ids(stored(url)) == without_ids(in_memory(study))
        assert len(commits) == 2


def test_what_is_not_written_when_an_error_ends_the_block_is_dropped(url: str):
    with closing(open_study("demo", SETTINGS, url)) as study:
        with contextlib.suppress(KeyError), study.together():
            study.ask()
            study.begin()
            study.complete(0, 0.5, 0.1)
            study.ask()
            raise KeyError
        study.close()
        assert [trial.state.name for trial in stored(url)] == ["RUNNING"]


def test_a_conflict_is_found_before_anything_is_written(url: str):
    with closing(open_study("demo", SETTINGS, url)) as study, study.together():
        storage = optuna.storages.RDBStorage(url)
        optuna.load_study(study_name="demo", storage=storage).ask()
        storage.engine.dispose()
        study.ask()
        study.ask()
        with pytest.raises(StudyConflict):
            study.begin()
    assert len(stored(url)) == 1


@pytest.mark.parametrize("how", ["deleted", "ended"])
def test_trials_that_another_process_ends_or_deletes_stop_the_sweep(url: str, how: str):
    with closing(open_study("demo", SETTINGS, url)) as study:
        study.ask()
        study.report(0, 1, 0.5)
        storage = optuna.storages.RDBStorage(url)
        if how == "deleted":
            optuna.delete_study(study_name="demo", storage=storage)
        else:
            optuna.load_study(study_name="demo", storage=storage).tell(0, state=optuna.trial.TrialState.FAIL)
        storage.engine.dispose()
        with pytest.raises(StudyConflict, match="ended or deleted 1 of the trials that run"):
            study.complete(0, 0.5, 0.1)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        assert database.execute("SELECT * FROM trial_intermediate_values").fetchall() == []
