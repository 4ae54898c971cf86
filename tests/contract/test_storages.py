"""What a study promises, on each kind of database that can hold one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.core.config import RunConfig
from sweeper.core.errors import ServiceUnreachable, StudyConflict
from sweeper.core.urls import database_url
from sweeper.data.fashion import SAMPLE
from sweeper.study.opening import open_study
from sweeper.study.reading import read_study
from sweeper.study.space import default_space
from sweeper.study.study import Study, StudySettings
from tests.support.scored import scored

pytest_plugins = ["tests.support.postgres"]
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

SETTINGS = StudySettings(RunConfig(dataset="sample", epochs=4), default_space(), SAMPLE.digest)


@pytest.fixture(params=["sqlite", "postgresql", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; PostgreSQL's in both of its spellings."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sweeper.db'}"
    new: Callable[[], str] = request.getfixturevalue("new_database")
    return new().replace("postgresql://", f"{request.param}://")


@pytest.fixture
def study(url: str) -> Iterator[Study]:
    with closing(open_study("demo", SETTINGS, url)) as opened:
        yield opened


def finish(study: Study, trials: int) -> list[Any]:
    """Ask for trials and complete them, the first of each three pruned; their parameters."""
    asked = []
    for _ in range(trials):
        trial = study.ask()
        asked.append(trial.config)
        study.report(trial.number, 1, 0.5)
        if trial.number % 3 == 0:
            study.prune(trial.number, "worst")
        else:
            study.complete(trial.number, scored(0.8 + trial.number / 1000, 0.4))
    return asked


def test_a_study_is_continued_where_it_stopped(url: str):
    with closing(open_study("demo", SETTINGS, url)) as first:
        asked = finish(first, 2)
        left = first.ask()
    with closing(open_study("demo", SETTINGS, url)) as second:
        assert second.continued
        assert second.finished() == 2
        assert list(second.unfinished()) == [left]
        second.complete(left.number, scored(0.9, 0.3))
        asked += [left.config, *finish(second, 2)]
    with closing(open_study("other", SETTINGS, url)) as unbroken:
        again = []
        for number in range(5):
            trial = unbroken.ask()
            again.append(trial.config)
            unbroken.report(number, 1, 0.5)
            if number == 2:
                unbroken.complete(number, scored(0.9, 0.3))
            elif number % 3 == 0:
                unbroken.prune(number, "worst")
            else:
                unbroken.complete(number, scored(0.8 + number / 1000, 0.4))
    assert asked == again


def test_whoever_watches_sees_each_trial(study: Study, url: str):
    finish(study, 3)
    study.ask()
    view = read_study("demo", url)
    assert [row.state for row in view.rows] == ["pruned", "complete", "complete", "running"]
    assert [row.number for row in view.rows] == [0, 1, 2, 3]
    leader = study.leader()
    assert leader is not None
    assert leader.key == "2"


def test_other_settings_are_refused_and_nothing_is_mixed(url: str):
    open_study("demo", SETTINGS, url).close()
    with pytest.raises(StudyConflict, match="search_seed was 0, is 1"):
        open_study("demo", replace(SETTINGS, seed=1), url)
    open_study("demo", SETTINGS, url).close()  # and the lock was let go


def test_a_second_driver_is_refused(study: Study, url: str):
    with pytest.raises(StudyConflict, match="is in use by process"):
        open_study("demo", SETTINGS, url)


def test_a_database_that_goes_away_is_one_line(new_database: Callable[[], str], postgres_server: Any):
    url = new_database()
    with closing(open_study("demo", SETTINGS, url)) as study:
        trial = study.ask()
        name = database_url(url).database
        postgres_server.psql(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        postgres_server.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        with pytest.raises(ServiceUnreachable, match="lost the connection that locks study 'demo'"):
            study.ask()
        with pytest.raises(ServiceUnreachable, match="lost the database of study 'demo'"), study.answering():
            study.complete(trial.number, scored(0.9, 0.3))
